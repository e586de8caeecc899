#!/usr/bin/env bash
# Unmodified ElectrumX servers (PyPI e-x), regtest, against a stand-in for bitcoind.
#
#   electrumx.sh install DIR      virtual environment in DIR/venv, or wherever LAB_VENV says; nothing to do when it is there
#   electrumx.sh up DIR NAME BIND_IP REPORT [VAR=VALUE...]
#       start one server named NAME on BIND_IP ports 51001 (TCP) and 51002 (TLS), reporting REPORT, e.g.
#       tcp://ex1.example.com:51001,ssl://ex1.example.com:51002 or tcp://<56 chars>.onion:50001; returns when it listens.
#       VAR=VALUE are further ElectrumX settings, TOR_PROXY_PORT=9050 say. It logs to DIR/NAME.log. Several may be started at once.
#   electrumx.sh down DIR         stop them all, and bitcoind's stand-in
#
# ElectrumX only peers with public-looking names, so BIND_IP needs one in /etc/hosts (enter.sh sees to that). A server verifies
# itself within seconds of its start; two of them find each other once one is advertised the other by add-peer.py.
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
  # The system's python first: one from a version manager, which may come first on PATH, often lacks parts.
  for python in ${LAB_PYTHON:-} /usr/bin/python3 python3 ''; do
    [ -z "$python" ] || ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || break
  done
  [ -n "$python" ] || { echo "electrumx.sh: needs Python 3.10 or later that can make a venv: apt-get install python3-venv" >&2; exit 1; }
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check --no-input "${packages[@]}" || {
    echo "electrumx.sh: could not install ${packages[*]}; if plyvel had to be compiled, it needs: g++ python3-dev libleveldb-dev" >&2; exit 1; }
  "$venv/bin/python" -m compileall -q "$venv" >/dev/null || true   # so that servers started at once don't all compile it
  echo "${packages[*]}" >"$venv/lab-stamp"
}

once() { # what all servers share, made by whichever comes first; 9 is the lock, which the stand-in must not inherit
  flock 9
  if ! [ -f "$dir/bitcoind.pid" ] || ! kill -0 "$(cat "$dir/bitcoind.pid")" 2>/dev/null; then
    "$venv/bin/python" "$here/bitcoind.py" 18443 9>&- >"$dir/bitcoind.log" 2>&1 & echo $! >"$dir/bitcoind.pid"
    for _ in $(seq 50); do grep -qs listening "$dir/bitcoind.log" && break; sleep 0.1; done
    grep -qs listening "$dir/bitcoind.log" || { tail -5 "$dir/bitcoind.log" >&2; return 1; }
  fi
  [ -f "$dir/cert.pem" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/key.pem" \
    -out "$dir/cert.pem" -days 3650 -subj /CN=localhost 2>/dev/null
}

up() {
  local name=$1 ip=$2 report=$3 pid; shift 3
  [ -x "$venv/bin/electrumx_server" ] || { echo "electrumx.sh: no ElectrumX in $venv: run 'electrumx.sh install' first" >&2; exit 1; }
  once 9>"$dir/lock"
  rm -rf "${dir:?}/$name"; mkdir "$dir/$name"
  # The cost limits are off, or a test that asks often would be slowed down and thrown out.
  env ALLOW_ROOT=1 COIN=Bitcoin NET=regtest DB_ENGINE=leveldb DB_DIRECTORY="$dir/$name" \
    DAEMON_URL=http://u:p@127.0.0.1:18443 SSL_CERTFILE="$dir/cert.pem" SSL_KEYFILE="$dir/key.pem" \
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
