#!/usr/bin/env bash
# Runs a Tor network on loopback with Debian's `tor`: a directory authority, relays, a client and onion services.
#
#   tor-network.sh up DIR ONION_TARGET...    start; each ONION_TARGET (IP:PORT) gets a v3 onion service on virtual port 50001
#   tor-network.sh down DIR                  stop what `up` started
#   tor-network.sh client-stop DIR           stop the client; returns when it has ended
#   tor-network.sh client-start DIR          start it with its previous state; returns when it has bootstrapped
#   tor-network.sh services-again DIR        restart the tor of the services with its previous state
#   tor-network.sh relays-stop DIR           stop the authority and all relays: connections to them are refused
#   tor-network.sh relays-kill DIR           kill the authority and all relays
#   tor-network.sh relays-freeze DIR         suspend them: connections stay open without responses
#   tor-network.sh relays-start DIR          start or resume them with their previous state; returns when the tor of the
#                                            services has restarted, and the client, if it ran
#
# The onion services run in a separate tor process ("services"). Its SOCKS port is for processes that must keep their Tor while the
# client is stopped. When `up` returns, both have bootstrapped, and DIR contains
#   socks, control     the client's SOCKS5 address (extended onion errors on) and its control port (cookie: client/control_auth_cookie)
#   services-socks     the SOCKS5 address of the services' tor
#   onion-1, onion-2   the onion names, in the order of the targets (descriptors follow within seconds)
#   arti.toml          configuration of an Arti client in this network
#   NAME/notice.log    log of each tor
# Environment: RELAYS (6, the minimum for full vanguards), BASE_PORT (5000), EXIT_ADDRESS (source address of exits), LEAD.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1 dir=$(realpath -m "$2"); shift 2
relays=${RELAYS:-6} base=${BASE_PORT:-5000}
# C tor's onion time period in a test network is 24 voting intervals. Arti reads it from hsdir_interval, so both must agree
# (24 * 300 / 60 = 120 minutes). The interval is long, since onion services are unreachable for a while after each period.
voting=300
# Validity of a consensus in voting intervals. It must not expire during an outage of ten minutes.
valid_intervals=12

common() { # data-dir
  cat <<C
TestingTorNetwork 1
PathsNeededToBuildCircuits 0.67
TestingDirAuthVoteExit *
TestingDirAuthVoteHSDir *
TestingDirAuthVoteGuard *
V3AuthNIntervalsValid $valid_intervals
TestingMinExitFlagThreshold 0
DataDirectory $1
Nickname ${1##*/}
ShutdownWaitLength 0
PidFile $1/pid
Log notice file $1/notice.log
RunAsDaemon 1
Address 127.0.0.1
ServerDNSDetectHijacking 0
ServerDNSTestAddresses
C
}
relay() { # or-port dir-port
  cat <<C
OrPort 127.0.0.1:$1
DirPort 127.0.0.1:$2
SocksPort 0
ExitRelay 1
ExitPolicyRejectPrivate 0
ExitPolicy accept *:*
AssumeReachable 1
ContactInfo test@example.com
${EXIT_ADDRESS:+OutboundBindAddressExit $EXIT_ADDRESS}
C
}
client() { # socks-port; the control port is the next one
  # On loopback tor would learn a timeout of tens of milliseconds, and fail later circuits.
  cat <<C
SocksPort 127.0.0.1:$1 ExtendedErrors
ControlPort 127.0.0.1:$(($1 + 1))
CookieAuthentication 1
FetchDirInfoEarly 1
FetchDirInfoExtraEarly 1
LearnCircuitBuildTimeout 0
CircuitBuildTimeout 10
C
}
home() { mkdir -p "$1/keys"; chmod 700 "$1" "$1/keys"; }
start() { tor -f "$1/torrc" >"$1/start.log" 2>&1 || { tail -3 "$1/start.log" >&2; return 1; }; }
together() { # COMMAND ITEM...: runs COMMAND for all items concurrently; fails if one fails
  local run=$1 pids=() item pid; shift
  for item; do "$run" "$item" & pids+=($!); done
  for pid in "${pids[@]}"; do wait "$pid" || return 1; done
}
running() { # PID data-dir: the process is this tor, and no zombie
  grep -qszxF -- "$2/torrc" "/proc/$1/cmdline" && ! grep -qs '^State:.Z' "/proc/$1/status"
}
stop() { # data-dir
  local pid; pid=$(cat "$1/pid" 2>/dev/null) || return 0
  if running "$pid" "$1"; then kill "$pid" || true; fi
  for _ in $(seq 100); do running "$pid" "$1" || break; sleep 0.1; done
  if running "$pid" "$1"; then kill -KILL "$pid" || true; sleep 0.2; fi
  rm -f "$1/pid"
}
bootstrapped() { # data-dir; polls the control port, since log messages may change
  for _ in $(seq 450); do ready "$1" 2>/dev/null && return; sleep 0.2; done
  echo "${1##*/} did not bootstrap:" >&2; tail -5 "$1/notice.log" >&2; return 1
}
ready() ( # data-dir
  port=$(awk '/^ControlPort/ { sub(/.*:/, ""); print }' "$1/torrc")
  cookie=$(od -An -v -tx1 "$1/control_auth_cookie" | tr -d ' \n')
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  printf 'AUTHENTICATE %s\r\nGETINFO status/bootstrap-phase\r\nQUIT\r\n' "$cookie" >&3
  timeout 5 grep -q 'PROGRESS=100 ' <&3
)
stop_all() { local homes=() p; for p in "$dir"/*/pid; do [ -f "$p" ] && homes+=("${p%/pid}"); done; together stop "${homes[@]}"; }

relays_up() { # lead: seconds until the first vote, by when all relays must have uploaded their descriptors
  local a=$dir/auth orport=$((base + 1)) dirport=$((base + 101)) i d offset
  home "$a"
  echo pass | tor-gencert --create-identity-key -m 12 -a 127.0.0.1:$dirport -i "$a/keys/authority_identity_key" \
    -s "$a/keys/authority_signing_key" -c "$a/keys/authority_certificate" --passphrase-fd 0 >/dev/null 2>&1
  { common "$a"; relay $orport $dirport; } >"$a/torrc"
  rsa=$(tor -f "$a/torrc" --list-fingerprint --dirserver "x 127.0.0.1:1 ffffffffffffffffffffffffffffffffffffffff" 2>/dev/null \
    | awk 'END { for (i = 2; i <= NF; i++) printf "%s", $i }')
  ed=$(awk '{ print $2 }' "$a/fingerprint-ed25519")
  ident=$(awk '/^fingerprint/ { print $2 }' "$a/keys/authority_certificate")
  authority="DirAuthority auth orport=$orport no-v2 v3ident=$ident 127.0.0.1:$dirport $rsa"
  for i in $(seq "$relays"); do
    d=$dir/relay$i; home "$d"
    { common "$d"; relay $((base + 20 + i)) $((base + 120 + i)); echo "$authority"; } >"$d/torrc"
  done
  offset=$((($(date +%s) + $1) % voting))   # the first vote in `lead` seconds, not at the next multiple of the interval
  cat >>"$a/torrc" <<C
$authority
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
TestingV3AuthInitialVotingInterval $voting
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval $voting
V3AuthVoteDelay 2
V3AuthDistDelay 2
TestingV3AuthVotingStartOffset $offset
C
  together start "$a" "$dir"/relay* || return 1
  for _ in $(seq $((($1 + 10) * 5))); do
    [ "$(grep -cs '^r ' "$a/cached-microdesc-consensus")" = $((1 + relays)) ] && return
    sleep 0.2
  done
  return 1
}

relays_end() { # SIGNAL
  local home pid
  for home in "$dir"/auth "$dir"/relay*; do
    pid=$(cat "$home/pid" 2>/dev/null) || continue
    if running "$pid" "$home"; then kill "-$1" "$pid" || true; fi
  done
}
relays_start() {
  relays_end CONT   # resumes suspended relays
  local home pid missing=()
  for home in "$dir"/auth "$dir"/relay*; do
    pid=$(cat "$home/pid" 2>/dev/null) || pid=
    if [ -z "$pid" ] || ! running "$pid" "$home"; then rm -f "$home/pid"; missing+=("$home"); fi
  done
  [ ${#missing[@]} = 0 ] || together start "${missing[@]}"
  # Restarted relays have lost the descriptors of onion services, which C tor uploads again only after a while. After an outage,
  # a C tor client may reach no onion service for many minutes.
  together restart "$dir/services" "$dir/client"
}
restart() { # data-dir
  [ -f "$1/pid" ] || return 0   # stopped before
  stop "$1"; start "$1"; bootstrapped "$1"
}

up() {
  mkdir -p "$dir"; chmod 700 "$dir"
  # On a busy machine relays may miss the first consensus. Then a new network gets more time.
  local lead done= n=0 target
  for lead in "${LEAD:-9}" 15 30; do
    if relays_up "$lead"; then done=yes; break; fi
    echo "first consensus incomplete after $lead s: retrying" >&2
    stop_all; rm -rf "$dir"/auth "$dir"/relay*
  done
  [ "$done" ] || { echo "no complete consensus" >&2; exit 1; }

  # Clients start with a complete consensus, since one that starts with a partial consensus may never recover.
  home "$dir/client"; home "$dir/services"
  { common "$dir/client"; echo "$authority"; client $((base + 50)); } >"$dir/client/torrc"
  { common "$dir/services"; echo "$authority"; client $((base + 60))
    for target; do n=$((n + 1)); echo "HiddenServiceDir $dir/services/onion-$n"; echo "HiddenServicePort 50001 $target"; done
  } >"$dir/services/torrc"
  together start "$dir/services" "$dir/client"
  cat >"$dir/arti.toml" <<C
[address_filter]
allow_local_addrs = true
allow_onion_addrs = true
[path_rules]
ipv4_subnet_family_prefix = 33
ipv6_subnet_family_prefix = 129
[override_net_params]
hsdir_interval = $((24 * voting / 60))
# Arti too learns a circuit timeout of about 50 ms on loopback, and then fails all circuits
cbtdisabled = 1
cbtinitialtimeout = 10000
[tor_network]
fallback_caches = [
  { rsa_identity = "$rsa", ed_identity = "$ed", orports = ["127.0.0.1:$((base + 1))"] },
]
[tor_network.authorities]
v3idents = ["$ident"]
C
  echo "127.0.0.1:$((base + 50))" >"$dir/socks"; echo "127.0.0.1:$((base + 51))" >"$dir/control"
  echo "127.0.0.1:$((base + 60))" >"$dir/services-socks"
  bootstrapped "$dir/services"; bootstrapped "$dir/client"
  # A bootstrapped tor has created the keys of its services.
  n=0; for target; do n=$((n + 1)); cp "$dir/services/onion-$n/hostname" "$dir/onion-$n"; done
}

case $command in
  up) up "$@" ;;
  down) stop_all ;;
  client-stop) stop "$dir/client" ;;
  client-start)
    if [ -f "$dir/client/pid" ] && running "$(cat "$dir/client/pid")" "$dir/client"; then exit 0; fi
    start "$dir/client"; bootstrapped "$dir/client" ;;
  services-again) restart "$dir/services" ;;
  relays-stop) together stop "$dir"/auth "$dir"/relay* ;;
  relays-kill) relays_end KILL ;;
  relays-freeze) relays_end STOP ;;
  relays-start) relays_start ;;
  *) usage ;;
esac
