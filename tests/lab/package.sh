#!/usr/bin/env bash
# A Debian package's life in a small Debian of its own, inside a namespace that enter.sh made: installed, started, upgraded with a
# configuration that its administrator changed, removed and purged.
#
#   enter.sh tests/lab/package.sh DIR OLD.deb NEW.deb
#
# DIR/root gets the few packages of this machine that the package and its scripts need, as copies, and a dpkg database that knows them.
# One line says what was seen at each step. On failure it says what isn't as it should be (status 1).
set -euo pipefail
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ $# = 3 ] || usage
root=$1/root old=$2 new=$3
for tool in dpkg:dpkg systemd-analyze:systemd deb-systemd-helper:init-system-helpers; do
  command -v "${tool%:*}" >/dev/null || { echo "package.sh: ${tool%:*} is missing: apt-get install ${tool#*:}" >&2; exit 1; }
done
fail() { echo "package.sh: $*" >&2; exit 1; }
is() { test "$@" || fail "not so: $*"; }
dpkg() { command dpkg --root="$root" --log=/dev/null "$@" 2>&1; }
in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin "$@"; }
within() { # SECONDS COMMAND...: until it succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}

# A small Debian.
mkdir -p "$root"/{usr/bin,usr/sbin,usr/lib,usr/lib64,etc,proc,dev,tmp,run,var/lib/dpkg/{info,updates,triggers}}
for merged in bin sbin lib lib64; do ln -s usr/$merged "$root/$merged"; done
echo root:x:0:0:root:/root:/bin/sh >"$root/etc/passwd"; echo root:x:0: >"$root/etc/group"
touch "$root/dev/null"; mount --bind /dev/null "$root/dev/null"
packages=(libc6 libgcc-s1 libcrypt1 dash coreutils libacl1 libattr1 libselinux1 libpcre2-8-0 libgmp10 libssl3 perl-base init-system-helpers)
for package in "${packages[@]}"; do
  # Some of them have other names, or are no need, in other releases.
  files=$(dpkg-query --listfiles "$package" 2>/dev/null) || continue
  { dpkg-query --status "$package"; echo; } >>"$root/var/lib/dpkg/status"
  # Root's, who is somebody else outside of a user namespace.
  tar -C / --no-recursion --ignore-failed-read --numeric-owner --owner=0 --group=0 -cf - -T <(grep -vE '^/\.$|^/usr/share/(doc|man|locale|info)' <<<"$files") 2>/dev/null |
    tar -C "$root" --keep-directory-symlink -xf -
done
[ -e "$root/bin/sh" ] || ln -s dash "$root/bin/sh"
# For systemd-analyze: what a unit may refer to.
cp "$(type -P kill)" "$root/usr/bin/kill"
mkdir -p "$root/usr/lib/systemd/system"; cp /lib/systemd/system/*.target "$root/usr/lib/systemd/system/"
seen() { find "$root" -xdev \( -path "$root/var/lib/dpkg" -o -path "$root/proc" \) -prune -o -print | sort; }
before=$(seen)

# Installed. It depends on what its program is linked with; dpkg holds it to that.
dpkg-deb --field "$old" Depends | grep -qw libc6 || fail "it doesn't depend on libc6: $(dpkg-deb --field "$old" Depends)"
dpkg --install "$old" >"$1/install.log" || fail "it isn't installed: $(tail -n 5 "$1/install.log")"
unit=$root/usr/lib/systemd/system/waypost.service
for file in usr/bin/waypost usr/share/man/man1/waypost.1.gz usr/share/bash-completion/completions/waypost \
  usr/share/zsh/vendor-completions/_waypost usr/share/fish/vendor_completions.d/waypost.fish usr/share/doc/waypost/contrib/examples/electrs.toml \
  usr/share/doc/waypost/docs/configuration.md usr/share/doc/waypost/contrib/JSON.md; do
  is -s "$root/$file"
done
is "$(stat -c %a "$root/usr/bin/waypost")" = 755
is -f "$unit"
is -L "$root/etc/systemd/system/multi-user.target.wants/waypost.service"
in_root waypost check-config >"$1/config"
grep -q 'data_dir = "/var/lib/waypost"' "$1/config" || fail "the configuration isn't that of the package"
# A key that systemd doesn't know is a warning to it, no failure.
systemd-analyze --root="$root" verify --man=no "$unit" >"$1/verify" 2>&1 || fail "systemd doesn't take the unit: $(cat "$1/verify")"
if grep -F waypost.service "$1/verify" >&2; then fail "systemd doesn't take all of the unit"; fi
systemd-analyze --offline=true --threshold=15 --no-pager security "$unit" >"$1/security" || fail "the unit isn't hardened enough: $(tail -n 1 "$1/security")"
echo "installed and enabled; exposure $(grep -oE '[0-9.]+ [A-Z]+' "$1/security" | tail -n 1)"

# Started as the unit does.
said() { sed -n "s/^$1=//p" "$unit"; }
install -d -m 0700 "$root/var/lib/waypost"
read -ra command <<<"$(said ExecStart)"
# exec, so that it is the daemon that is told to stop.
(exec chroot "$root" /usr/bin/env -i PATH=/usr/bin "$(said Environment)" "${command[@]}" 2>"$1/daemon.log") & daemon=$!
# Without --config, as every command reads the package's file by default.
status() { in_root waypost status; }
within 20 status || fail "it doesn't answer: $(tail -n 5 "$1/daemon.log")"
status | grep -q 'on bitcoin' || fail "not what was expected: $(status)"
is "$(stat -c %a "$root/var/lib/waypost/control.sock")" = 600
# A reload looks at the configuration first.
looks() { eval "in_root $(said ExecReload | head -n 1)"; }
looks || fail "a reload would refuse the package's own configuration"
cp "$root/etc/waypost/waypost.toml" "$1/waypost.toml"; echo "nonsense = 1" >>"$root/etc/waypost/waypost.toml"
if looks 2>/dev/null; then fail "a reload would take a configuration that is wrong"; fi
cp "$1/waypost.toml" "$root/etc/waypost/waypost.toml"
kill -TERM $daemon; wait $daemon || fail "it doesn't end as it should: $(tail -n 5 "$1/daemon.log")"
echo "started, asked, stopped"

# Upgraded.
echo "# mine" >>"$root/etc/waypost/waypost.toml"
dpkg --install "$new" >"$1/upgrade.log" || fail "it isn't upgraded: $(tail -n 5 "$1/upgrade.log")"
grep -q '^# mine' "$root/etc/waypost/waypost.toml" || fail "the administrator's configuration is gone"
is -e "$root/var/lib/waypost/peers.redb"
echo "upgraded to $(dpkg-query --admindir="$root/var/lib/dpkg" --show --showformat='${Version}' waypost), with its configuration and book kept"

# Removed, and purged. systemd keeps a service's state where only it may look.
dpkg --remove waypost >"$1/remove.log" || fail "it isn't removed: $(tail -n 5 "$1/remove.log")"
is ! -e "$root/usr/bin/waypost"; is -e "$root/etc/waypost/waypost.toml"; is -e "$root/var/lib/waypost/peers.redb"
mkdir -p "$root/var/lib/private"; mv "$root/var/lib/waypost" "$root/var/lib/private/"; ln -s private/waypost "$root/var/lib/waypost"
dpkg --purge waypost >"$1/purge.log" || fail "it isn't purged: $(tail -n 5 "$1/purge.log")"
rmdir "$root/var/lib/private"
left=$(diff <(echo "$before") <(seen) | grep '^>' | grep -v '/var/lib/systemd' || true)
[ -z "$left" ] || fail "this is left: $left"
echo "removed, and purged without a trace"
