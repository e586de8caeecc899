#!/usr/bin/env bash
# Starts an unmodified ElectrumX with N (200) scripted peers, for benchmarks.
#
#   enter.sh bash -c 'tests/lab/electrumx-full.sh up DIR [N] && ...'
#
# ElectrumX is ex1.example.com, 5.9.0.1, ports 51001 (TCP) and 51002 (TLS). Its peers are p1.example.org to pN.example.org, served
# by peers.py. When the script returns, server.peers.subscribe lists at least 95 % of them and ElectrumX; the last line has the
# number and the time. It runs once per namespace, since addresses and names stay. Limits of ElectrumX are off where it has
# settings for them. Files in DIR:
#   address            5.9.0.1:51001
#   ex/                see electrumx.sh: ex/ex1.log, ex/ex1.pid; electrumx.sh down DIR/ex stops it
#   peers.log          a line "NUMBER METHOD" for each request to a peer; peers.pid belongs to peers.py
# Environment: LIST_SECONDS (120), the timeout for the list; LAB_VENV as for electrumx.sh, by default target/lab-venv of this
# repository. On failure the script prints the step and the end of its log. Processes end with the namespace.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
here=$(dirname "$(realpath "$0")")
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ $# -ge 2 ] && [ $# -le 3 ] && [ "$1" = up ] || usage
dir=$(realpath -m "$2") count=${3:-200}
[[ $count =~ ^[1-9][0-9]{0,3}$ ]] && [ "$count" -le 1000 ] || usage   # 1000 peers take 8 s, 6000 several minutes
export LAB_VENV=${LAB_VENV:-$here/../../target/lab-venv}
python=$LAB_VENV/bin/python
[ -x "$python" ] || {
  echo "electrumx-full.sh: no ElectrumX in $LAB_VENV: LAB_VENV=$LAB_VENV $here/electrumx.sh install ." >&2; exit 1; }
grep -qsw ex1.example.com /etc/hosts || { echo "electrumx-full.sh: run inside enter.sh" >&2; exit 1; }
mkdir -p "$dir"

began=$(date +%s%N)
say() { local ms=$((($(date +%s%N) - began) / 1000000)); printf '%3d.%d s  %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$1"; }
fail() { echo "electrumx-full.sh: $1; the end of $2:" >&2; tail -n 15 "$2" >&2; exit 1; }
within() { # SECONDS COMMAND...: until it succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}

"$python" "$here/peers.py" routes "$count" | ip -batch -
"$python" "$here/peers.py" hosts "$count" >>/etc/hosts   # only in this namespace, as enter.sh mounted it
"$python" "$here/peers.py" serve "$count" >"$dir/peers.log" 2>&1 & echo $! >"$dir/peers.pid"
within 10 grep listening "$dir/peers.log" || fail "peers.py doesn't listen" "$dir/peers.log"
say "$count peers"

# Without costs, ElectrumX neither throttles nor ends sessions. Only the number of open files limits sessions, and requests do
# not time out.
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
# Waits for pending verifications. ElectrumX retries a failed peer only after ten minutes.
within 5 eval 'enough; [ "$listed" = "$count" ]' || true
echo 5.9.0.1:51001 >"$dir/address"
say "ElectrumX lists $listed of $count"
