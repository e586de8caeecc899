#!/usr/bin/env bash
# Starts and stops an IRC server, Debian's ngircd.
#
#   irc.sh up DIR IP [KEY=VALUE...]    returns when it listens on IP, ports 6667 (plain) and 6697 (TLS); KEY=VALUE are further
#                                      lines of its [Global] section. The log is DIR/ngircd.log.
#   irc.sh down DIR
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
export PATH="$PATH:/usr/sbin:/sbin"
command -v ngircd >/dev/null || { echo "irc.sh: ngircd is missing: apt-get install ngircd" >&2; exit 1; }
command=$1 dir=$(realpath -m "$2"); shift 2; mkdir -p "$dir"

listens() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }   # IP PORT
up() {
  local ip=$1 user=1000; shift
  # ngircd refuses to run as root, and a user namespace may have no other user, so it gets a user namespace with one.
  local as=(unshare --user --map-user=$user --map-group=$user)
  "${as[@]}" true 2>/dev/null || as=()
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" \
    -days 3650 -subj /CN=irc.example.com 2>/dev/null
  # Without this file, ngircd generates parameters for half a minute.
  openssl genpkey -genparam -algorithm DH -pkeyopt dh_param:ffdhe2048 -out "$dir/dh.pem" 2>/dev/null
  # No DNS and ident lookups, and no limit per address, since all clients share one.
  cat >"$dir/ngircd.conf" <<CONF
[Global]
  Name = irc.example.com
  Info = an IRC server of the test lab
  AdminInfo1 = lab
  Listen = $ip
  Ports = 6667
  ServerUID = $user
  ServerGID = $user
$(printf '  %s\n' "$@")
[Limits]
  MaxConnectionsIP = 0
[Options]
  DNS = no
  Ident = no
  PAM = no
[SSL]
  CertFile = $dir/cert.pem
  KeyFile = $dir/key.pem
  DHFile = $dir/dh.pem
  Ports = 6697
CONF
  "${as[@]}" ngircd -n -f "$dir/ngircd.conf" >"$dir/ngircd.log" 2>&1 & echo $! >"$dir/ngircd.pid"
  for _ in $(seq 100); do
    if listens "$ip" 6667 && listens "$ip" 6697; then return; fi
    kill -0 "$(cat "$dir/ngircd.pid")" 2>/dev/null || break
    sleep 0.1
  done
  echo "irc.sh: ngircd does not listen:" >&2; tail -n 15 "$dir/ngircd.log" >&2; exit 1
}

case $command in
  up) [ $# -ge 1 ] || { echo "irc.sh: up DIR IP" >&2; exit 2; }; up "$@" ;;
  down) kill "$(cat "$dir/ngircd.pid")" ;;
  *) echo "irc.sh: unknown command: up or down" >&2; exit 2 ;;
esac
