#!/usr/bin/env bash
# Takes the pictures in contrib/screenshots with Chromium, of a Waypost in a small network on this machine: the status
# page empty, filled, and without Tor, the page of a peer, and the public page. The last three are light, dark and
# narrow. With ten thousand peers, the status page, a peer and the public page come from a prepared database. The tests
# in tests/it/status_page.rs and tests/it/peer_pages.rs render the pages.
#
#   contrib/screenshots.sh [DIR]        DIR: contrib/screenshots
#
# Installs missing dependencies first (see install-test-deps.sh).
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
. contrib/install-test-deps.sh

install_test_deps
SCREENSHOTS=$(realpath -m "${1:-contrib/screenshots}") cargo test --test it -- status_page:: peer_pages:: --nocapture
