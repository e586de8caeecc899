#!/usr/bin/env bash
# A crowd: N onion services (200), all of them one scripted Electrum server, on a Tor network of their own.
#
#   enter.sh bash -c 'tests/lab/peer_swarm.sh up DIR [N] && ...'
#
# When it returns, each of them has been called through the client's SOCKS port and has answered with its own name; the last
# line says how many and how long that took. Left in DIR:
#   seeds.txt          a line for each: ONION v1.4 t50001
#   tor/               see tor-network.sh: tor/socks, tor/control, tor/arti.toml, tor/onion-1 to tor/onion-N, ...;
#                      tor-network.sh down DIR/tor stops the services' tors too
#   crowd.log          the requests of each peer: a line "NUMBER METHOD" for each call, NUMBER as in onion-NUMBER, from our own
#                      calls before it returned too; crowd.pid is the server's
# The client knows all the descriptors now; who wants it to ask again tells its control port SIGNAL NEWNYM.
# From the environment: PER_TOR (10) services in one tor process, FIND_SECONDS (300), RELAYS (6), PYTHON (python3).
# On failure it says what failed, with the end of that one's log, and leaves what runs to the namespace's end.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
here=$(dirname "$(realpath "$0")")
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ $# -ge 2 ] && [ $# -le 3 ] && [ "$1" = up ] || usage
dir=$(realpath -m "$2") count=${3:-200} each=${PER_TOR:-10} python=${PYTHON:-python3} tor=$dir/tor
grep -qsw ex1.example.com /etc/hosts || { echo "peer_swarm.sh: run me inside enter.sh" >&2; exit 1; }
mkdir -p "$dir"

began=$(date +%s%N)
say() { local ms=$((($(date +%s%N) - began) / 1000000)); printf '%3d.%d s  %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$1"; }
fail() { echo "peer_swarm.sh: $1; the end of $2:" >&2; tail -n 15 "$2" >&2; exit 1; }
within() { # SECONDS COMMAND...: until it succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}

"$python" "$here/peer_swarm.py" serve "$tor" "$count" >"$dir/crowd.log" 2>&1 & echo $! >"$dir/crowd.pid"
within 10 grep listening "$dir/crowd.log" || fail "peer_swarm.py doesn't listen" "$dir/crowd.log"

RELAYS=${RELAYS:-6} "$here/tor-network.sh" up "$tor" >"$dir/tor.log" 2>&1 || fail "no Tor network" "$dir/tor.log"
say "Tor, client at $(cat "$tor/socks")"

# A few services to a tor: ten take it 1 s of processor time to publish, twenty 4 s, and fifty weren't published after 100 s. It
# seems to try all its waiting uploads (14 a service here) on all its circuits whenever one opens, and gives them up meanwhile.
mapfile -t targets < <("$python" "$here/peer_swarm.py" addresses "$count")
for ((first = 1, k = 1; first <= count; first += each, k++)); do
  home=$tor/crowd$k; mkdir -p "$home"; chmod 700 "$home"
  { sed "s|$tor/services|$home|g; s/^Nickname .*/Nickname crowd$k/; s/^SocksPort .*/SocksPort 0/" "$tor/services/torrc"
    for ((i = first; i < first + each && i <= count; i++)); do
      echo "HiddenServiceDir $home/onion-$i"; echo "HiddenServicePort 50001 ${targets[i - 1]}"
    done
  } >"$home/torrc"
  tor -f "$home/torrc" >"$home/start.log" 2>&1 || fail "a tor doesn't start" "$home/start.log"
done
for ((i = 1; i <= count; i++)); do   # a tor that has gone to the background may still be making its keys
  name=$tor/crowd$(((i - 1) / each + 1))/onion-$i/hostname
  within 30 test -s "$name" || fail "onion service $i has no name" "${name%/onion-*}/notice.log"
  cp "$name" "$tor/onion-$i"
  echo "$(cat "$name") v1.4 t50001"
done >"$dir/seeds.txt"
say "$count onion services started"

"$python" "$here/peer_swarm.py" find "$tor" "$count" "${FIND_SECONDS:-300}" >"$dir/find.log" 2>&1 \
  || fail "some can't be reached" "$dir/find.log"
say "$(cat "$dir/find.log")"
