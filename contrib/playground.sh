#!/usr/bin/env bash
# Demonstrates Waypost in a small network of Electrum servers with its own Tor network, on this machine and without
# access to the Internet. Waypost discovers the servers.
#
#   contrib/playground.sh         until Ctrl-C, or for PLAYGROUND_SECONDS if that is set
#
# ex1.example.com and first.example.com are seeds; ex1 reports ex2.example.com and an onion service.
# WAYPOST=PROGRAM runs that program instead of building this repository.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."

in_namespace() { # DIR
  local dir=$1 config=$1/waypost.toml waypost end=
  tests/lab/up.sh "$dir"
  cat >"$config" <<CONFIG
network = "regtest"
data_dir = "$dir/data"

[listen]
tcp = ["127.0.0.1:50001"]

[tor]
mode = "embedded"
arti_config = "$dir/tor/arti.toml"

[discovery]
seeds = ["ex1.example.com t51001", "first.example.com t50001"]
CONFIG
  heading "waypost run --config FILE, with this FILE:"
  cat "$config"
  "$WAYPOST" run --config "$config" >"$dir/waypost.log" 2>&1 & waypost=$!
  if [ "${PLAYGROUND_SECONDS:-}" ]; then end=$((SECONDS + PLAYGROUND_SECONDS)); fi
  while [ -z "$end" ] || [ $SECONDS -lt "$end" ]; do
    sleep 3
    kill -0 $waypost 2>/dev/null || { echo "waypost stopped; the end of its log:" >&2; tail -n 20 "$dir/waypost.log" >&2; exit 1; }
    heading "waypost peers, $(date +%T)"
    "$WAYPOST" peers --config "$config" || true   # the control socket may not exist yet
  done
  kill $waypost; wait $waypost || true
  heading "the end of Waypost's log"
  tail -n 10 "$dir/waypost.log"
}

. contrib/install-test-deps.sh
if [ "${1:-}" = --inside ]; then in_namespace "$2"; exit; fi

install_test_deps
if [ -z "${WAYPOST:-}" ]; then
  heading "cargo build --release"
  cargo build --release
  WAYPOST=${CARGO_TARGET_DIR:-target}/release/waypost
fi
WAYPOST=$(realpath "$WAYPOST"); export WAYPOST

dir=$(mktemp -d) lab=
clean_up() { # killing enter.sh ends every process in its namespace
  trap '' INT TERM
  if [ "$lab" ]; then kill -KILL "$lab" 2>/dev/null || true; wait "$lab" 2>/dev/null || true; fi
  rm -rf "$dir" 2>/dev/null || { sleep 1; rm -rf "$dir"; }   # the end of the namespace may take a moment
}
trap clean_up EXIT
trap 'exit 130' INT TERM
heading "the lab, in its own namespace (about 20 seconds)"
tests/lab/enter.sh contrib/playground.sh --inside "$dir" & lab=$!
status=0; wait $lab || status=$?
lab=; exit $status
