#!/usr/bin/env bash
# Becomes COMMAND, inside `enter.sh`, on a machine whose own hosts file names other addresses than DNS does.
#
#   split-horizon.sh "ADDRESS NAME..." COMMAND [ARGS...]
#
# Only COMMAND reads the file with that line; Tor's exits look names up as before.
set -euo pipefail
[ $# -gt 1 ] || { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
if [ "$1" != --inside ]; then exec unshare --mount bash "$(realpath "$0")" --inside "$@"; fi
line=$2; shift 2
hosts=$(realpath /etc/hosts)
umount "$hosts" 2>/dev/null || true   # enter.sh's text: nothing can be mounted over a file without a name
text=$(mktemp); printf '127.0.0.1 localhost\n%s\n' "$line" >"$text"; chmod 644 "$text"
mount --bind "$text" "$hosts"; rm "$text"
exec "$@"
