#!/usr/bin/env bash
# Starts N (200) onion services, served by one scripted Electrum server, on a Tor network.
#
#   enter.sh bash -c 'tests/lab/peer_swarm.sh up DIR [N] && ...'
#
# When the script returns, each service has answered with its own name through the client's SOCKS port. The last line has the
# number and the time. Files in DIR:
#   seeds.txt          a line "ONION v1.4 t50001" for each service
#   tor/               see tor-network.sh: tor/socks, tor/control, tor/arti.toml, tor/onion-1 to tor/onion-N, ...;
#                      tor-network.sh down DIR/tor stops the services' tors too
#   swarm.log          a line "NUMBER METHOD" for each request, including those of this script; NUMBER as in onion-NUMBER.
#                      "NUMBER bytes IN OUT" at the end of each session. swarm.pid belongs to the server
# The client has cached all descriptors. SIGNAL NEWNYM on its control port clears them.
# Environment: PER_TOR (10) services per tor process, FIND_SECONDS (300), RELAYS (6), PYTHON (python3).
# On failure the script prints the step and the end of its log. Processes end with the namespace.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
here=$(dirname "$(realpath "$0")")
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ $# -ge 2 ] && [ $# -le 3 ] && [ "$1" = up ] || usage
dir=$(realpath -m "$2") count=${3:-200} each=${PER_TOR:-10} python=${PYTHON:-python3} tor=$dir/tor
grep -qsw ex1.example.com /etc/hosts || { echo "peer_swarm.sh: run inside enter.sh" >&2; exit 1; }
mkdir -p "$dir"

began=$(date +%s%N)
say() { local ms=$((($(date +%s%N) - began) / 1000000)); printf '%3d.%d s  %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$1"; }
fail() { echo "peer_swarm.sh: $1; the end of $2:" >&2; tail -n 15 "$2" >&2; exit 1; }
within() { # SECONDS COMMAND...: until it succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}

"$python" "$here/peer_swarm.py" serve "$tor" "$count" >"$dir/swarm.log" 2>&1 & echo $! >"$dir/swarm.pid"
within 10 grep listening "$dir/swarm.log" || fail "peer_swarm.py doesn't listen" "$dir/swarm.log"

RELAYS=${RELAYS:-6} "$here/tor-network.sh" up "$tor" >"$dir/tor.log" 2>&1 || fail "no Tor network" "$dir/tor.log"
say "Tor, client at $(cat "$tor/socks")"

# Few services per tor: publishing ten takes 1 s of processor time, twenty 4 s, and fifty more than 100 s. Tor seems to retry all
# pending uploads (14 per service here) on all circuits whenever a circuit opens.
mapfile -t targets < <("$python" "$here/peer_swarm.py" addresses "$count")
for ((first = 1, k = 1; first <= count; first += each, k++)); do
  home=$tor/swarm$k; mkdir -p "$home"; chmod 700 "$home"
  { sed "s|$tor/services|$home|g; s/^Nickname .*/Nickname swarm$k/; s/^SocksPort .*/SocksPort 0/; s/^ControlPort .*/ControlPort 0/" "$tor/services/torrc"
    for ((i = first; i < first + each && i <= count; i++)); do
      echo "HiddenServiceDir $home/onion-$i"; echo "HiddenServicePort 50001 ${targets[i - 1]}"
    done
  } >"$home/torrc"
  tor -f "$home/torrc" >"$home/start.log" 2>&1 || fail "a tor does not start" "$home/start.log"
done
for ((i = 1; i <= count; i++)); do   # a tor in the background may still be creating its keys
  name=$tor/swarm$(((i - 1) / each + 1))/onion-$i/hostname
  within 30 test -s "$name" || fail "onion service $i has no name" "${name%/onion-*}/notice.log"
  cp "$name" "$tor/onion-$i"
  echo "$(cat "$name") v1.4 t50001"
done >"$dir/seeds.txt"
say "$count onion services started"

"$python" "$here/peer_swarm.py" find "$tor" "$count" "${FIND_SECONDS:-300}" >"$dir/find.log" 2>&1 \
  || fail "some services are unreachable" "$dir/find.log"
say "$(cat "$dir/find.log")"
