#!/usr/bin/env bash
# Runs everything that must pass: formatting, lints, documentation, dependencies, all tests (with real Tor and ElectrumX
# processes), and each fuzz target for a few seconds.
#
#   contrib/test.sh
#
# Installs missing dependencies first (see install-test-deps.sh). Apart from that and the downloads of cargo, all traffic
# stays on this machine. Every step runs even if one fails. The last lines show the result and duration of each step.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
. contrib/install-test-deps.sh

results=() failed=0
step() { # NAME COMMAND...
  local name=$1 began=$SECONDS result=ok; shift
  heading "$name"
  "$@" || { result=FAILED; failed=1; }
  results+=("$(printf '%-6s %5d s  %s' $result $((SECONDS - began)) "$name")")
}
minimum_rust() { # uses an installed compiler of that version; downloads none
  local version; version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  if command -v rustup >/dev/null && rustup toolchain list 2>/dev/null | grep -q "^$version"; then
    cargo "+$version" check --locked
  else
    echo "Rust $version is not installed (rustup toolchain install $version). Instead, clippy's incompatible_msrv and the"
    echo "test dependencies_build_with_the_declared_rust check the minimum version."
  fi
}

# Most tests wait for other programs: they keep half a processor busy.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc) + 1))}

began=$SECONDS
install_test_deps
results+=("$(printf '%-6s %5d s  %s' ok $((SECONDS - began)) "test dependencies")")
step "cargo fmt" cargo fmt --check
step "cargo deny" cargo-deny --locked --log-level error check --hide-inclusion-graph licenses bans sources
step "cargo clippy" cargo clippy --locked --all-targets -- -D warnings
step "cargo clippy, without the embedded Tor" cargo clippy --locked --no-default-features --all-targets -- -D warnings
step "cargo doc" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
step "the minimum Rust version" minimum_rust
step "cargo test" cargo test --locked --no-fail-fast
# In five seconds per target, the time of the build counts more than the speed of the targets.
step "fuzz targets" env QUICK_BUILD=1 contrib/fuzz.sh 5
heading "results"
printf '%s\n' "${results[@]}"
printf '%-6s %5d s  in all\n' "$([ $failed = 0 ] && echo ok || echo FAILED)" $((SECONDS - began))
exit $failed
