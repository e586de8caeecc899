#!/usr/bin/env bash
# Executes COMMAND, inside `enter.sh`, with a hosts file whose addresses differ from those of DNS.
#
#   split-horizon.sh "ADDRESS NAME..." COMMAND [ARGS...]
#
# Only COMMAND reads the file with that line; Tor's exits look names up as before.
set -euo pipefail
[ $# -gt 1 ] || { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
if [ "$1" != --in-namespace ]; then exec unshare --mount bash "$(realpath "$0")" --in-namespace "$@"; fi
line=$2; shift 2
hosts=$(realpath /etc/hosts)
umount "$hosts" 2>/dev/null || true   # mounted by enter.sh; a mount over an unnamed file is not possible
text=$(mktemp); printf '127.0.0.1 localhost\n%s\n' "$line" >"$text"; chmod 644 "$text"
mount --bind "$text" "$hosts"; rm "$text"
exec "$@"
