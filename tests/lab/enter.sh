#!/usr/bin/env bash
# A machine of its own for the test lab: runs COMMAND in new user, network, mount and PID namespaces.
#
#   enter.sh [--watched] COMMAND [ARGS...]
#
# Inside, `lo` has the public-looking addresses below and /etc/hosts names them, so peers have real names and addresses and
# the rules about private addresses stay on. There is no other interface: nothing can leave, ports never clash, and nothing of
# the real machine is changed. With --watched there is a way out, which ends where leak_capture.py writes down what takes it.
# Everything started inside ends with COMMAND, or when this process is killed (SIGKILL; unshare holds SIGTERM and SIGINT
# back, which reach COMMAND only when sent to the process group, as Ctrl-C and `timeout` do).
#
#   5.9.0.1 ex1.example.com      88.99.0.2 ex2.example.com     95.216.0.3 (a server known by its onion name only)
#   51.15.0.4 first.example.com  5.9.0.9 wp.example.com, wp.example.org
#   185.220.101.5 (what Tor's exits call from)                 2a01:4f8::1 (no name)
#
# A program that dials one of the servers without binding an address first calls from 5.9.0.9, as a program that lives at
# wp.example.com would; the kernel's own choice on `lo` would be the very address that is dialled.
#
# Exit status: that of COMMAND; 3 when this machine doesn't allow what is needed.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"   # where `ip` and `tor` are, for users whose PATH leaves these out

watched=
if [ "${1:-}" = --watched ]; then watched=--watched; shift; fi
if [ "${1:-}" != --inside ]; then
  [ $# -gt 0 ] || { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
  for tool in unshare:util-linux mount:mount ip:iproute2; do
    command -v "${tool%:*}" >/dev/null || { echo "enter.sh: ${tool%:*} is missing: apt-get install ${tool#*:}" >&2; exit 3; }
  done
  spaces=(--net --mount --pid --fork --kill-child --mount-proc) user=(--user --map-root-user)
  if ! why=$(unshare "${user[@]}" "${spaces[@]}" true 2>&1); then
    # Root may do all of it without a user namespace, where only those are forbidden.
    if [ "$(id -u)" = 0 ] && unshare "${spaces[@]}" true 2>/dev/null; then user=(); else
      cat >&2 <<MESSAGE
enter.sh: cannot make namespaces here ($why).
On Ubuntu:     sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
On Debian:     sudo sysctl -w kernel.unprivileged_userns_clone=1
Elsewhere:     sudo sysctl -w user.max_user_namespaces=10000
In a container: start it with --privileged (or --cap-add SYS_ADMIN with seccomp, AppArmor and masked /proc paths off).
MESSAGE
      exit 3
    fi
  fi
  # exec, so that killing this process kills unshare itself, and the namespace with it
  exec unshare "${user[@]}" "${spaces[@]}" bash "$(realpath "$0")" $watched --inside "$@"
fi
shift

servers="5.9.0.1 88.99.0.2 95.216.0.3 51.15.0.4" home=5.9.0.9 tor_exit=185.220.101.5
ip link set lo up
for address in $servers $home $tor_exit; do ip address add "$address/32" dev lo; done
for address in $servers; do ip route replace local "$address" dev lo table local src $home; done
ip -6 address add 2a01:4f8::1/128 dev lo nodad 2>/dev/null || true   # a kernel without IPv6 has the rest of the lab still

if [ "$watched" ]; then
  # A cable with the world at its other end: the gateway's hardware address is known beforehand, so that what leaves does so at
  # once, and it isn't that of the far end, so that nothing there takes it for its own and answers. The gateway alone is on the
  # cable: for any other neighbour the kernel would ask first, and leak_capture.py leaves such questions out.
  gateway=02:00:00:00:00:01
  ip link add out type veth peer name watch
  echo 1 >/proc/sys/net/ipv6/conf/watch/disable_ipv6 2>/dev/null || true
  ip link set watch arp off up; ip link set out up
  ip address add 192.0.2.2/32 dev out
  ip neighbour add 192.0.2.1 lladdr $gateway dev out nud permanent
  ip route add default via 192.0.2.1 dev out onlink
  # What Tor's exits call is called for somebody else, and there is nobody for them but the lab: ElectrumX finds its Tor by having
  # it call a name server of the world's.
  ip rule add pref 100 from $tor_exit unreachable
  if ip -6 address add 2001:db8::2/128 dev out nodad 2>/dev/null; then
    ip -6 neighbour add 2001:db8::1 lladdr $gateway dev out nud permanent
    ip -6 route add default via 2001:db8::1 dev out onlink
  fi
fi

over() { # FILE, text on stdin: only in here, FILE reads as that text. The mount keeps the text when its own name is gone.
  [ -f "$1" ] || return 0
  local text; text=$(mktemp); cat >"$text"; chmod 644 "$text"
  mount --bind "$text" "$(realpath "$1")"; rm "$text"
}
over /etc/hosts <<HOSTS
127.0.0.1 localhost
::1 localhost
5.9.0.1 ex1.example.com
88.99.0.2 ex2.example.com
51.15.0.4 first.example.com
5.9.0.9 wp.example.com wp.example.org
HOSTS
# Any other name fails at once: the C library reads files alone, and who asks DNS by itself finds dns.py or a closed port.
over /etc/nsswitch.conf <<<$'passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files'
over /etc/resolv.conf <<<$'nameserver 127.0.0.1\noptions attempts:1 timeout:1'
if [ -d /run/nscd ]; then mount -t tmpfs none /run/nscd; fi   # its cache would answer with the real machine's names

# Not exec: this shell is process 1 in here, which has to reap what COMMAND leaves behind.
status=0; "$@" || status=$?
exit $status
