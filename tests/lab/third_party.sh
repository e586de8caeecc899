#!/usr/bin/env bash
# Becomes COMMAND, inside `enter.sh --watched`, as one who knows nobody here: /etc/hosts names nothing but localhost, and the
# name server is an address out in the world. A process that resolves a name this way is seen by leak_capture.py; Tor's exits, who don't run by
# this, know the lab's names as ever.
#
#   third_party.sh COMMAND [ARGS...]
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
if [ "$1" != --inside ]; then exec unshare --mount bash "$(realpath "$0")" --inside "$@"; fi
shift
over() { # FILE, text on stdin
  [ -f "$1" ] || return 0
  umount "$(realpath "$1")" 2>/dev/null || true   # enter.sh's text: nothing can be laid over a file without a name
  local text; text=$(mktemp); cat >"$text"; chmod 644 "$text"
  mount --bind "$text" "$(realpath "$1")"; rm "$text"
}
over /etc/hosts <<<'127.0.0.1 localhost'
over /etc/nsswitch.conf <<<$'passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files'
over /etc/resolv.conf <<<$'nameserver 198.51.100.53\noptions attempts:1 timeout:1'
exec "$@"
