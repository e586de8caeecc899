#!/usr/bin/env bash
# Takes the pictures in contrib/screenshots: the status page of a Waypost in a small network on this machine, empty, filled and
# without Tor, in a real Chromium. It is what tests/it/status_page.rs looks at.
#
#   contrib/screenshots.sh [DIR]        DIR: contrib/screenshots
#
# Installs what is missing first (see install-test-deps.sh).
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
. contrib/install-test-deps.sh

install_test_deps
SCREENSHOTS=$(realpath -m "${1:-contrib/screenshots}") cargo test --test it status_page:: -- --nocapture
