#!/usr/bin/env bash
# Runs an Electrum wallet without a user interface on regtest, with one server or a list of servers.
#
#   wallet.sh up DIR HOST:PORT:t|s [PROXY]  e.g. wp.example.com:50002:s, or <onion>:50001:t socks5:127.0.0.1:5060::
#   wallet.sh list DIR SERVERS.json         with that list as its built-in servers, of which it chooses one
#   wallet.sh query DIR
#   wallet.sh down DIR
#
# `up` and `list` start the wallet; `list` mounts the file over its built-in list, in the namespace only. They and `query` print a
# JSON object with the state of the connection ("info") and the known servers ("servers"), once the wallet is connected and has
# received a peer. They fail (status 1) when that takes more than 60 s. DIR is the HOME of the wallet.
set -euo pipefail
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
command -v electrum >/dev/null || { echo "wallet.sh: electrum is missing: apt-get install electrum" >&2; exit 1; }
command=$1; mkdir -p "$2"; HOME=$(realpath "$2"); export HOME; shift 2
electrum() { command electrum --regtest -D "$HOME/electrum" "$@"; }
set_to() { electrum --offline setconfig "$1" "$2" >/dev/null; }

up() {
  set_to oneserver true; set_to auto_connect false; set_to server "$1"
  [ $# -lt 2 ] || set_to proxy "$2"
  electrum daemon -d >/dev/null
}

list() {
  local package own
  package=$(/usr/bin/python3 -c 'import importlib.util; print(importlib.util.find_spec("electrum").submodule_search_locations[0])')
  for own in servers_regtest.json chains/regtest/servers.json; do
    [ -e "$package/$own" ] && break
  done
  # The mount must be in a namespace.
  grep -qsw ex1.example.com /etc/hosts || { echo "wallet.sh: run inside enter.sh" >&2; exit 1; }
  mount --bind "$1" "$package/$own"
  set_to oneserver false; set_to auto_connect true
  electrum daemon -d >/dev/null
}

query() {
  local info servers
  for _ in $(seq 120); do
    info=$(electrum getinfo) servers=$(electrum getservers)
    # The wallet has one built-in server, on this machine.
    if grep -q '"connected": true' <<<"$info" && [ "$(grep -c '"version"' <<<"$servers")" -gt 1 ]; then
      printf '{"info": %s, "servers": %s}\n' "$info" "$servers"; return
    fi
    sleep 0.5
  done
  echo "wallet.sh: not connected: $info" >&2; exit 1
}

case $command in
  up) [ $# -ge 1 ] || usage; up "$@"; query ;;
  list) [ $# = 1 ] || usage; list "$1"; query ;;
  query) query ;;
  down) electrum stop >/dev/null ;;
  *) usage ;;
esac
