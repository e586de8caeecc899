#!/usr/bin/env bash
# Everything that has to pass: formatting, lints, all tests, those against real Tor and ElectrumX processes included, and a
# short run of the fuzz targets.
#
#   contrib/test.sh
#
# Installs what is missing first (see install-test-deps.sh). The tests talk to nothing outside this machine; only
# installing and cargo's downloads do.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
. contrib/install-test-deps.sh

install_test_deps
heading "cargo fmt"
cargo fmt --check
heading "cargo clippy"
cargo clippy --all-targets -- -D warnings
heading "cargo test"
cargo test
heading "cargo clippy, without a Tor of its own"
cargo clippy --no-default-features --all-targets -- -D warnings
heading "a short run of the fuzz targets"
# Which are built without a Tor of their own, and here so that it takes little time rather than that they run fast.
CARGO_PROFILE_RELEASE_OPT_LEVEL=1 contrib/fuzz.sh 5
heading "all passed"
