#!/usr/bin/env bash
# Takes the pictures in contrib/screenshots with Chromium: the status page of a Waypost in a small network on this
# machine, empty, filled, and without Tor. The test tests/it/status_page.rs renders the page.
#
#   contrib/screenshots.sh [DIR]        DIR: contrib/screenshots
#
# Installs missing dependencies first (see install-test-deps.sh).
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
. contrib/install-test-deps.sh

install_test_deps
SCREENSHOTS=$(realpath -m "${1:-contrib/screenshots}") cargo test --test it status_page:: -- --nocapture
