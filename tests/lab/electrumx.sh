#!/usr/bin/env bash
# Starts unmodified ElectrumX servers (PyPI e-x) on regtest, with a replacement for bitcoind.
#
#   electrumx.sh install DIR      create the virtual environment LAB_VENV (DIR/venv), unless it exists
#   electrumx.sh up DIR NAME BIND_IP REPORT [VAR=VALUE...]
#       start one server named NAME on BIND_IP ports 51001 (TCP) and 51002 (TLS), reporting REPORT, e.g.
#       tcp://ex1.example.com:51001,ssl://ex1.example.com:51002 or tcp://<56 chars>.onion:50001; returns when it listens.
#       VAR=VALUE are further ElectrumX settings, such as TOR_PROXY_PORT=9050. The log is DIR/NAME.log. Concurrent starts work.
#   electrumx.sh down DIR         stop all servers and the replacement for bitcoind
#
# ElectrumX accepts only peers with public names, so BIND_IP needs a name in /etc/hosts (enter.sh writes it). A server verifies
# itself within seconds of its start. Two servers find each other after add-peer.py announces one to the other.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1 dir=$(realpath -m "$2"); shift 2; mkdir -p "$dir"
venv=${LAB_VENV:-$dir/venv}
packages=(e-x==2.0.0 plyvel==1.5.1)

install() {
  local python stamp
  if [ "$(cat "$venv/lab-stamp" 2>/dev/null)" = "${packages[*]}" ] && "$venv/bin/python" -c 'import electrumx, plyvel' 2>/dev/null
  then return; fi
  # The system's Python first, since one from a version manager on PATH often lacks modules.
  for python in ${LAB_PYTHON:-} /usr/bin/python3 python3 ''; do
    [ -z "$python" ] || ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || break
  done
  [ -n "$python" ] || { echo "electrumx.sh: Python 3.10 or later with venv is missing: apt-get install python3-venv" >&2; exit 1; }
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check --no-input "${packages[@]}" || {
    echo "electrumx.sh: installation of ${packages[*]} failed; compiling plyvel needs g++ python3-dev libleveldb-dev" >&2; exit 1; }
  "$venv/bin/python" -m compileall -q "$venv" >/dev/null || true   # so that concurrent starts do not compile it
  echo "${packages[*]}" >"$venv/lab-stamp"
}

once() { # starts what all servers share; descriptor 9 is the lock, which bitcoind.py must not inherit
  flock 9
  if ! [ -f "$dir/bitcoind.pid" ] || ! kill -0 "$(cat "$dir/bitcoind.pid")" 2>/dev/null; then
    "$venv/bin/python" "$here/bitcoind.py" 18443 9>&- >"$dir/bitcoind.log" 2>&1 & echo $! >"$dir/bitcoind.pid"
    for _ in $(seq 50); do grep -qs listening "$dir/bitcoind.log" && break; sleep 0.1; done
    grep -qs listening "$dir/bitcoind.log" || { tail -5 "$dir/bitcoind.log" >&2; return 1; }
  fi
}

up() {
  local name=$1 ip=$2 report=$3 pid; shift 3
  [ -x "$venv/bin/electrumx_server" ] || { echo "electrumx.sh: no ElectrumX in $venv: run 'electrumx.sh install' first" >&2; exit 1; }
  once 9>"$dir/lock"
  rm -rf "${dir:?}/$name"; mkdir "$dir/$name"
  # Each server has a key of its own, as servers with the same key count as one.
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/$name.key" -out "$dir/$name.pem" \
    -days 3650 -subj "/CN=$name" 2>/dev/null
  # The cost limits are off, since they would throttle and disconnect tests.
  env ALLOW_ROOT=1 COIN=Bitcoin NET=regtest DB_ENGINE=leveldb DB_DIRECTORY="$dir/$name" \
    DAEMON_URL=http://u:p@127.0.0.1:18443 SSL_CERTFILE="$dir/$name.pem" SSL_KEYFILE="$dir/$name.key" \
    SERVICES="tcp://$ip:51001,ssl://$ip:51002" REPORT_SERVICES="$report" \
    COST_SOFT_LIMIT=0 COST_HARD_LIMIT=0 PEER_DISCOVERY=on PEER_ANNOUNCE=on TOR_PROXY_HOST=127.0.0.1 \
    "$@" "$venv/bin/electrumx_server" >"$dir/$name.log" 2>&1 & pid=$!
  echo $pid >"$dir/$name.pid"
  for _ in $(seq 300); do
    if grep -q 'TCP server listening' "$dir/$name.log" && grep -q 'SSL server listening' "$dir/$name.log"; then return; fi
    kill -0 $pid 2>/dev/null || break
    sleep 0.1
  done
  echo "electrumx.sh: $name does not listen:" >&2; tail -n 15 "$dir/$name.log" >&2; exit 1
}

down() {
  local file
  for file in "$dir"/*.pid; do
    if [ -f "$file" ]; then kill "$(cat "$file")" 2>/dev/null || true; rm -f "$file"; fi
  done
}

case $command in
  install) install ;;
  up) [ $# -ge 3 ] || usage; up "$@" ;;
  down) down ;;
  *) usage ;;
esac
