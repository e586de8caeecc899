#!/usr/bin/env bash
# A real Electrum wallet without a screen, on regtest, that uses one server alone.
#
#   wallet.sh DIR HOST:PORT:t|s [PROXY]     e.g. wp.example.com:50002:s, or <onion>:50001:t socks5:127.0.0.1:5060::
#
# Prints, as one JSON dictionary, what the wallet says of its connection ("info") and the servers that it knows ("servers"), once
# it is connected and was told of a peer; fails (status 1) when that doesn't happen within 60 s. DIR is the wallet's own, and its HOME.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
command -v electrum >/dev/null || { echo "wallet.sh: electrum is missing: apt-get install electrum" >&2; exit 1; }
mkdir -p "$1"; HOME=$(realpath "$1"); export HOME
electrum() { command electrum --regtest -D "$HOME/electrum" "$@"; }
set_to() { electrum --offline setconfig "$1" "$2" >/dev/null; }

set_to oneserver true; set_to auto_connect false; set_to server "$2"
[ $# -lt 3 ] || set_to proxy "$3"
electrum daemon -d >/dev/null
trap 'electrum stop >/dev/null 2>&1 || true' EXIT
for _ in $(seq 120); do
  info=$(electrum getinfo) servers=$(electrum getservers)
  # It knows one by itself, a regtest server on this machine.
  if grep -q '"connected": true' <<<"$info" && [ "$(grep -c '"version"' <<<"$servers")" -gt 1 ]; then
    printf '{"info": %s, "servers": %s}\n' "$info" "$servers"; exit 0
  fi
  sleep 0.5
done
echo "wallet.sh: not connected to $2: $info" >&2; exit 1
