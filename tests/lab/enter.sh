#!/usr/bin/env bash
# Runs COMMAND in new user, network, mount and PID namespaces for the test lab.
#
#   enter.sh [--watched] COMMAND [ARGS...]
#
# In the namespace, `lo` has the public-looking addresses below, and /etc/hosts has their names. So peers have real names and
# addresses, and the rules about private addresses apply. There is no other interface: no packet leaves, ports do not clash, and
# the machine is not changed. With --watched there is a route out, on which leak_capture.py records packets.
# Every process in the namespace ends with COMMAND, or when this process is killed. unshare blocks SIGTERM and SIGINT; they reach
# COMMAND when sent to the process group, as Ctrl-C and `timeout` do.
#
#   5.9.0.1 ex1.example.com      88.99.0.2 ex2.example.com     95.216.0.3 (a server known by its onion name only)
#   51.15.0.4 first.example.com  5.9.0.9 wp.example.com, wp.example.org
#   185.220.101.5 (source of Tor's exits)                      2a01:4f8::1 (no name)
#
# A program that dials a server without binding a source address uses 5.9.0.9, as a program on wp.example.com would. The kernel's
# default on `lo` would be the dialled address.
#
# Exit status: that of COMMAND; 3 when namespaces are not permitted.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"   # contains `ip` and `tor`

watched=
if [ "${1:-}" = --watched ]; then watched=--watched; shift; fi
if [ "${1:-}" != --in-namespace ]; then
  [ $# -gt 0 ] || { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
  for tool in unshare:util-linux mount:mount ip:iproute2; do
    command -v "${tool%:*}" >/dev/null || { echo "enter.sh: ${tool%:*} is missing: apt-get install ${tool#*:}" >&2; exit 3; }
  done
  spaces=(--net --mount --pid --fork --kill-child --mount-proc) user=(--user --map-root-user)
  if ! reason=$(unshare "${user[@]}" "${spaces[@]}" true 2>&1); then
    # Root needs no user namespace, if only user namespaces are forbidden.
    if [ "$(id -u)" = 0 ] && unshare "${spaces[@]}" true 2>/dev/null; then user=(); else
      cat >&2 <<MESSAGE
enter.sh: namespaces cannot be created ($reason).
On Ubuntu:     sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
On Debian:     sudo sysctl -w kernel.unprivileged_userns_clone=1
Elsewhere:     sudo sysctl -w user.max_user_namespaces=10000
In a container: start it with --privileged (or --cap-add SYS_ADMIN with seccomp, AppArmor and masked /proc paths off).
MESSAGE
      exit 3
    fi
  fi
  # exec, so that killing this process kills unshare and the namespace
  exec unshare "${user[@]}" "${spaces[@]}" bash "$(realpath "$0")" $watched --in-namespace "$@"
fi
shift

servers="5.9.0.1 88.99.0.2 95.216.0.3 51.15.0.4" home=5.9.0.9 tor_exit=185.220.101.5
ip link set lo up
for address in $servers $home $tor_exit; do ip address add "$address/32" dev lo; done
for address in $servers; do ip route replace local "$address" dev lo table local src $home; done
ip -6 address add 2a01:4f8::1/128 dev lo nodad 2>/dev/null || true   # optional, for kernels without IPv6

if [ "$watched" ]; then
  # A veth pair whose gateway has a permanent neighbour entry, so that packets leave without an ARP query. Its hardware address
  # is not that of the far end, so the kernel does not answer there. Only the gateway is on the link: for other neighbours the
  # kernel would first send queries, which leak_capture.py ignores.
  gateway=02:00:00:00:00:01
  ip link add out type veth peer name watch
  echo 1 >/proc/sys/net/ipv6/conf/watch/disable_ipv6 2>/dev/null || true
  ip link set watch arp off up; ip link set out up
  ip address add 192.0.2.2/32 dev out
  ip neighbour add 192.0.2.1 lladdr $gateway dev out nud permanent
  ip route add default via 192.0.2.1 dev out onlink
  # Traffic of Tor's exits is no leak, and exits reach the lab only: ElectrumX tests its Tor by connecting to a public name
  # server through it.
  ip rule add pref 100 from $tor_exit unreachable
  if ip -6 address add 2001:db8::2/128 dev out nodad 2>/dev/null; then
    ip -6 neighbour add 2001:db8::1 lladdr $gateway dev out nud permanent
    ip -6 route add default via 2001:db8::1 dev out onlink
  fi
fi

over() { # FILE: replaces FILE by the text on stdin, in this namespace only; the mount outlives the name of the text
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
# Other names fail at once: the C library reads files only, and DNS queries reach dns.py or a closed port.
over /etc/nsswitch.conf <<<$'passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files'
over /etc/resolv.conf <<<$'nameserver 127.0.0.1\noptions attempts:1 timeout:1'
if [ -d /run/nscd ]; then mount -t tmpfs none /run/nscd; fi   # its cache has the names of the machine

# No exec: this shell is process 1 of the namespace and reaps orphans.
status=0; "$@" || status=$?
exit $status
