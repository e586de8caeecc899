#!/usr/bin/env bash
# Starts the lab inside a namespace of enter.sh: a Tor network, three ElectrumX servers and a server of the first protocol.
#
#   enter.sh bash -c 'tests/lab/up.sh DIR && ...'
#
#   ex1    ex1.example.com 5.9.0.1       51001 TCP, 51002 TLS
#   ex2    ex2.example.com 88.99.0.2     51001 TCP, 51002 TLS
#   ex3    <onion>:50001 only            for a listener at 95.216.0.3:51001
#   first  first.example.com 51.15.0.4   50001 TCP, the first protocol
#   own    <onion>:50001 only            tor/onion-2, for a listener at 127.0.0.1:50011
#   and a name server at 127.0.0.1:53, with which Tor's exits resolve these names
#
# When the script returns, ex1 has verified and lists itself, ex2 and ex3. The servers do not use the client's Tor, so
# `tor-network.sh client-stop` does not affect them. ElectrumX must be installed (electrumx.sh install) in LAB_VENV, by default
# target/lab-venv of this repository. Files in DIR: tor/ (see tor-network.sh: tor/socks, tor/onion-1, ...), ex/ (ex/ex1.log,
# ex/ex1.pid, ...), first_protocol.log and dns.log (requests to these servers), first_protocol.pid.
# On failure the script prints the step and the end of its log. Processes end with the namespace.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
[ $# = 1 ] || { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
dir=$(realpath -m "$1"); mkdir -p "$dir"
export LAB_VENV=${LAB_VENV:-$here/../../target/lab-venv}
python=$LAB_VENV/bin/python
[ -x "$python" ] || { echo "up.sh: no ElectrumX in $LAB_VENV: LAB_VENV=$LAB_VENV $here/electrumx.sh install ." >&2; exit 1; }
grep -qsw ex1.example.com /etc/hosts || { echo "up.sh: run inside enter.sh" >&2; exit 1; }

began=$(date +%s%N)
say() { local ms=$((($(date +%s%N) - began) / 1000000)); printf '%3d.%d s  %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$1"; }
fail() { echo "up.sh: $1; the end of $2:" >&2; tail -n 15 "$2" >&2; exit 1; }
within() { # SECONDS COMMAND...: until it succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}

script() { # NAME ARGS...: one of the Python servers here
  "$python" "$here/$1.py" "${@:2}" >"$dir/$1.log" 2>&1 & echo $! >"$dir/$1.pid"
  within 10 grep listening "$dir/$1.log" || fail "$1.py does not listen" "$dir/$1.log"
}
script dns 127.0.0.1 53
script first_protocol 51.15.0.4 50001
say "name server, first.example.com"

# Sometimes the first circuits of C tor in a new network fail for minutes. Then a restart helps, or a new network. A temporary
# server in place of ex3 tests the onion service before other servers need it.
"$python" "$here/first_protocol.py" 95.216.0.3 51001 >"$dir/ex3_standin.log" 2>&1 & standin=$!
reached() { "$python" "$here/call.py" --socks "$tor" --seconds 10 "$onion:50001" server.banner; }
tor_up() {
  EXIT_ADDRESS=185.220.101.5 "$here/tor-network.sh" up "$dir/tor" 95.216.0.3:51001 127.0.0.1:50011 >>"$dir/tor.log" 2>&1 ||
    fail "no Tor network" "$dir/tor.log"
  onion=$(cat "$dir/tor/onion-1") tor=$(cat "$dir/tor/services-socks")
  within 20 reached || { "$here/tor-network.sh" services-again "$dir/tor" && within 20 reached; }
}
for attempt in 1 2 3; do
  if tor_up; then break; fi
  [ $attempt != 3 ] || fail "the onion service is unreachable" "$dir/tor/services/notice.log"
  say "the onion service is unreachable: starting a new Tor network"
  "$here/tor-network.sh" down "$dir/tor"; rm -rf "${dir:?}/tor"
done
kill $standin
say "Tor, client at $(cat "$dir/tor/socks")"

server() { # NAME BIND_IP REPORT [VAR=VALUE...]
  "$here/electrumx.sh" up "$dir/ex" "$1" "$2" "$3" TOR_PROXY_PORT="${tor#*:}" "${@:4}" || exit 1   # electrumx.sh has printed the error
  # Without a proxy a server rejects onion peers, and it looks for a proxy only every 15 minutes.
  within 60 grep 'detected SOCKS' "$dir/ex/$1.log" || fail "$1 has not found its Tor" "$dir/ex/$1.log"
  say "$1"
}
server ex1 5.9.0.1 tcp://ex1.example.com:51001,ssl://ex1.example.com:51002 & ex1=$!
server ex2 88.99.0.2 tcp://ex2.example.com:51001,ssl://ex2.example.com:51002 & ex2=$!
# While it looks for its proxy, a server rejects its own onion name. Without another name its peer manager then ends, and accepts
# no peer later. A blacklist, even an unreachable one, keeps the peer manager running.
server ex3 95.216.0.3 "tcp://$onion:50001" BLACKLIST_URL=http://127.0.0.1:1/ & ex3=$!
wait $ex1; wait $ex2; wait $ex3

# ex1 retries an unreachable onion service only after ten minutes.
within 30 reached || { "$here/tor-network.sh" services-again "$dir/tor" && within 60 reached; } \
  || fail "the onion service is unreachable" "$dir/tor/services/notice.log"
say "ex3 through its onion service, $onion"

introduce() { "$python" "$here/add-peer.py" 5.9.0.1 51001 "$1" "$1:51001" >/dev/null || fail "ex1 refused $2" "$dir/ex/ex1.log"; }
introduce 88.99.0.2 ex2 & ex2=$!
introduce 95.216.0.3 ex3 & ex3=$!
wait $ex2; wait $ex3
listed() {
  local list name; list=$("$python" "$here/call.py" --seconds 5 5.9.0.1:51001 server.peers.subscribe)
  for name in ex1.example.com ex2.example.com "$onion"; do grep -qF "\"$name\"" <<<"$list" || return 1; done
}
within 40 listed || fail "ex1 does not list ex1, ex2 and the onion" "$dir/ex/ex1.log"
say "ex1 lists ex1, ex2 and ex3"
