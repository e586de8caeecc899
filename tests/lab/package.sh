#!/usr/bin/env bash
# Installs, starts, upgrades, removes and purges a Debian package in a minimal Debian, inside a namespace of enter.sh. The upgrade
# keeps a changed configuration.
#
#   enter.sh tests/lab/package.sh DIR OLD.deb NEW.deb
#
# DIR/root gets copies of the packages of this machine that the package and its scripts need, and a dpkg database with them.
# The script prints a line per step. On failure it prints the violated expectation (status 1).
set -euo pipefail
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ $# = 3 ] || usage
root=$1/root old=$2 new=$3
for tool in dpkg:dpkg systemd-analyze:systemd deb-systemd-helper:init-system-helpers; do
  command -v "${tool%:*}" >/dev/null || { echo "package.sh: ${tool%:*} is missing: apt-get install ${tool#*:}" >&2; exit 1; }
done
fail() { echo "package.sh: $*" >&2; exit 1; }
is() { test "$@" || fail "test failed: $*"; }
dpkg() { command dpkg --root="$root" --log=/dev/null "$@" 2>&1; }
in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin "$@"; }
within() { # SECONDS COMMAND...: until it succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}

# Minimal Debian.
mkdir -p "$root"/{usr/bin,usr/sbin,usr/lib,usr/lib64,etc,proc,dev,tmp,run,var/lib/dpkg/{info,updates,triggers}}
for merged in bin sbin lib lib64; do ln -s usr/$merged "$root/$merged"; done
echo root:x:0:0:root:/root:/bin/sh >"$root/etc/passwd"; echo root:x:0: >"$root/etc/group"
touch "$root/dev/null"; mount --bind /dev/null "$root/dev/null"
packages=(libc6 libgcc-s1 libcrypt1 dash coreutils libacl1 libattr1 libselinux1 libpcre2-8-0 libgmp10 libssl3 perl-base init-system-helpers)
for package in "${packages[@]}"; do
  # Some packages have other names, or are absent, in other releases.
  files=$(dpkg-query --listfiles "$package" 2>/dev/null) || continue
  { dpkg-query --status "$package"; echo; } >>"$root/var/lib/dpkg/status"
  # Owned by root, which is another user outside the namespace.
  tar -C / --no-recursion --ignore-failed-read --numeric-owner --owner=0 --group=0 -cf - -T <(grep -vE '^/\.$|^/usr/share/(doc|man|locale|info)' <<<"$files") 2>/dev/null |
    tar -C "$root" --keep-directory-symlink -xf -
done
[ -e "$root/bin/sh" ] || ln -s dash "$root/bin/sh"
# Units and programs that systemd-analyze looks up.
cp "$(type -P kill)" "$root/usr/bin/kill"
mkdir -p "$root/usr/lib/systemd/system"; cp /lib/systemd/system/*.target "$root/usr/lib/systemd/system/"
list_files() { find "$root" -xdev \( -path "$root/var/lib/dpkg" -o -path "$root/proc" \) -prune -o -print | sort; }
before=$(list_files)

# Installation. The package depends on the libraries that its program is linked with.
dpkg-deb --field "$old" Depends | grep -qw libc6 || fail "no dependency on libc6: $(dpkg-deb --field "$old" Depends)"
dpkg --install "$old" >"$1/install.log" || fail "installation failed: $(tail -n 5 "$1/install.log")"
unit=$root/usr/lib/systemd/system/waypost.service
for file in usr/bin/waypost usr/share/man/man1/waypost.1.gz usr/share/bash-completion/completions/waypost \
  usr/share/zsh/vendor-completions/_waypost usr/share/fish/vendor_completions.d/waypost.fish usr/share/doc/waypost/contrib/examples/electrs.toml \
  usr/share/doc/waypost/docs/configuration.md usr/share/doc/waypost/contrib/JSON.md; do
  is -s "$root/$file"
done
is "$(stat -c %a "$root/usr/bin/waypost")" = 755
is -f "$unit"
# The unit for further instances is installed, and none is enabled.
is -f "$root/usr/lib/systemd/system/waypost@.service"
is ! -e "$root/etc/systemd/system/multi-user.target.wants/waypost@.service"
is -L "$root/etc/systemd/system/multi-user.target.wants/waypost.service"
in_root waypost check-config >"$1/config"
grep -q 'data_dir = "/var/lib/waypost"' "$1/config" || fail "the configuration in use is not that of the package"
# For systemd an unknown key is a warning only.
systemd-analyze --root="$root" verify --man=no "$unit" >"$1/verify" 2>&1 || fail "systemd rejects the unit: $(cat "$1/verify")"
if grep -F waypost.service "$1/verify" >&2; then fail "systemd warns about the unit"; fi
systemd-analyze --offline=true --threshold=15 --no-pager security "$unit" >"$1/security" || fail "the exposure of the unit is too high: $(tail -n 1 "$1/security")"
echo "installed and enabled; exposure $(grep -oE '[0-9.]+ [A-Z]+' "$1/security" | tail -n 1)"

# Start, with the command of the unit.
unit_value() { sed -n "s/^$1=//p" "$unit"; }
install -d -m 0700 "$root/var/lib/waypost"
read -ra command <<<"$(unit_value ExecStart)"
mapfile -t environment <<<"$(unit_value Environment)"
# exec, so that the signal reaches the daemon.
(exec chroot "$root" /usr/bin/env -i PATH=/usr/bin "${environment[@]}" "${command[@]}" 2>"$1/daemon.log") & daemon=$!
# Without --config, since commands read the configuration of the package by default.
status() { in_root waypost status; }
within 20 status || fail "the daemon does not answer: $(tail -n 5 "$1/daemon.log")"
status | grep -q 'on bitcoin' || fail "unexpected status: $(status)"
is "$(stat -c %a "$root/var/lib/waypost/control.sock")" = 600
# ExecReload checks the configuration first.
check_reload() { eval "in_root $(unit_value ExecReload | head -n 1)"; }
check_reload || fail "a reload rejects the configuration of the package"
cp "$root/etc/waypost/waypost.toml" "$1/waypost.toml"; echo "nonsense = 1" >>"$root/etc/waypost/waypost.toml"
if check_reload 2>/dev/null; then fail "a reload accepts an invalid configuration"; fi
cp "$1/waypost.toml" "$root/etc/waypost/waypost.toml"
kill -TERM $daemon; wait $daemon || fail "the daemon does not stop: $(tail -n 5 "$1/daemon.log")"
echo "started, queried, stopped"

# Upgrade.
echo "# changed" >>"$root/etc/waypost/waypost.toml"
dpkg --install "$new" >"$1/upgrade.log" || fail "upgrade failed: $(tail -n 5 "$1/upgrade.log")"
grep -q '^# changed' "$root/etc/waypost/waypost.toml" || fail "the upgrade replaced the configuration"
is -e "$root/var/lib/waypost/peers.redb"
echo "upgraded to $(dpkg-query --admindir="$root/var/lib/dpkg" --show --showformat='${Version}' waypost), configuration and book kept"

# Removal and purge. systemd moves the state of a DynamicUser service to /var/lib/private.
dpkg --remove waypost >"$1/remove.log" || fail "removal failed: $(tail -n 5 "$1/remove.log")"
is ! -e "$root/usr/bin/waypost"; is -e "$root/etc/waypost/waypost.toml"; is -e "$root/var/lib/waypost/peers.redb"
mkdir -p "$root/var/lib/private"; mv "$root/var/lib/waypost" "$root/var/lib/private/"; ln -s private/waypost "$root/var/lib/waypost"
dpkg --purge waypost >"$1/purge.log" || fail "purge failed: $(tail -n 5 "$1/purge.log")"
rmdir "$root/var/lib/private"
left=$(diff <(echo "$before") <(list_files) | grep '^>' | grep -v '/var/lib/systemd' || true)
[ -z "$left" ] || fail "files are left: $left"
echo "removed and purged; no files are left"
