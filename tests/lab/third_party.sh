#!/usr/bin/env bash
# Executes COMMAND, inside `enter.sh --watched`, without the names of the lab: /etc/hosts contains only localhost, and the name
# server is outside the namespace. leak_capture.py records its DNS queries. Tor's exits still resolve the names of the lab.
#
#   third_party.sh COMMAND [ARGS...]
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
if [ "$1" != --in-namespace ]; then exec unshare --mount bash "$(realpath "$0")" --in-namespace "$@"; fi
shift
over() { # FILE, text on stdin
  [ -f "$1" ] || return 0
  umount "$(realpath "$1")" 2>/dev/null || true   # mounted by enter.sh; a mount over an unnamed file is not possible
  local text; text=$(mktemp); cat >"$text"; chmod 644 "$text"
  mount --bind "$text" "$(realpath "$1")"; rm "$text"
}
over /etc/hosts <<<'127.0.0.1 localhost'
over /etc/nsswitch.conf <<<$'passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files'
over /etc/resolv.conf <<<$'nameserver 198.51.100.53\noptions attempts:1 timeout:1'
exec "$@"
