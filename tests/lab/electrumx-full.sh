#!/usr/bin/env bash
# One unmodified ElectrumX that knows N good peers (200): for measuring how fast it says so.
#
#   enter.sh bash -c 'tests/lab/electrumx-full.sh up DIR [N] && ...'
#
# It is ex1.example.com, 5.9.0.1, 51001 TCP and 51002 TLS; its peers are p1.example.org to pN.example.org, all of them peers.py.
# When it returns, server.peers.subscribe lists at least 95 of 100 of them (and ElectrumX itself); the last line says how many and
# how long that took. Once in a namespace: the peers' addresses and names stay in it. Its limits are off, as far as it has
# settings for them, so what is measured is its speed. Left in DIR:
#   address            5.9.0.1:51001
#   ex/                see electrumx.sh: ex/ex1.log, ex/ex1.pid; electrumx.sh down DIR/ex stops it
#   peers.log          the requests of each peer: a line "NUMBER METHOD" for each call; peers.pid is the peers'
# From the environment: LIST_SECONDS (120) the list may take; LAB_VENV as for electrumx.sh, by default target/lab-venv of this
# repository. On failure it says what failed, with the end of that one's log, and leaves what runs to the namespace's end.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
here=$(dirname "$(realpath "$0")")
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ $# -ge 2 ] && [ $# -le 3 ] && [ "$1" = up ] || usage
dir=$(realpath -m "$2") count=${3:-200}
[[ $count =~ ^[1-9][0-9]{0,3}$ ]] && [ "$count" -le 1000 ] || usage   # 8 s; 6000 keep ElectrumX busy for minutes
export LAB_VENV=${LAB_VENV:-$here/../../target/lab-venv}
python=$LAB_VENV/bin/python
[ -x "$python" ] || {
  echo "electrumx-full.sh: no ElectrumX in $LAB_VENV: LAB_VENV=$LAB_VENV $here/electrumx.sh install ." >&2; exit 1; }
grep -qsw ex1.example.com /etc/hosts || { echo "electrumx-full.sh: run me inside enter.sh" >&2; exit 1; }
mkdir -p "$dir"

began=$(date +%s%N)
say() { local ms=$((($(date +%s%N) - began) / 1000000)); printf '%3d.%d s  %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$1"; }
fail() { echo "electrumx-full.sh: $1; the end of $2:" >&2; tail -n 15 "$2" >&2; exit 1; }
within() { # SECONDS COMMAND...: until it succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}

"$python" "$here/peers.py" routes "$count" | ip -batch -
"$python" "$here/peers.py" hosts "$count" >>/etc/hosts   # enter.sh's text, which only this namespace sees
"$python" "$here/peers.py" serve "$count" >"$dir/peers.log" 2>&1 & echo $! >"$dir/peers.pid"
within 10 grep listening "$dir/peers.log" || fail "peers.py doesn't listen" "$dir/peers.log"
say "$count peers"

# No cost, so no sleep and no end of a session; no bound on sessions but that of open files. A client with many requests waits for
# the processor alone, and isn't told that it took too long.
"$here/electrumx.sh" up "$dir/ex" ex1 5.9.0.1 tcp://ex1.example.com:51001,ssl://ex1.example.com:51002 \
  COST_SOFT_LIMIT=0 COST_HARD_LIMIT=0 REQUEST_SLEEP=0 BANDWIDTH_UNIT_COST=1000000000 INITIAL_CONCURRENT=10000 \
  MAX_SESSIONS=100000 REQUEST_TIMEOUT=600 SESSION_TIMEOUT=86400 LOG_SESSIONS=0
say "ElectrumX"

first=$(sed -n 's/ p1\.example\.org$//p' /etc/hosts)
"$python" "$here/add-peer.py" 5.9.0.1 51001 "$first" "$first:51001" >/dev/null \
  || fail "ElectrumX refused the first peer" "$dir/ex/ex1.log"
listed=0
enough() {
  listed=$("$python" "$here/call.py" --seconds 10 5.9.0.1:51001 server.peers.subscribe \
    | grep -o '"p[0-9]*\.example\.org"' | sort -u | wc -l)
  [ "$listed" -ge $((count * 95 / 100)) ]
}
within "${LIST_SECONDS:-120}" enough || fail "ElectrumX lists $listed of $count" "$dir/ex/ex1.log"
# Those on their way; whatever isn't there then failed, and is tried again only after ten minutes.
within 5 eval 'enough; [ "$listed" = "$count" ]' || true
echo 5.9.0.1:51001 >"$dir/address"
say "it lists $listed of $count"
