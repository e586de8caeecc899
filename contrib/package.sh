#!/usr/bin/env bash
# Builds a Debian package of this checkout, and prints how to install it. Next to the package it writes waypost.cdx.json, a
# software bill of materials (CycloneDX) with the crates that are linked into the program.
#
#   contrib/package.sh [--fast] [--binary PATH] [--deb-version VERSION] [--out FILE]
#
# Builds the program with --release, or uses an existing one (--binary), which also prints the manual pages and
# completions. --fast compresses less, and omits the bill of materials. Missing build requirements are installed: gcc, make,
# dpkg-dev and xz-utils with apt-get, and cargo-deb and cargo-cyclonedx with cargo in target/tools.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
binary='' bill=yes options=(--output target/package/waypost.deb)
while [ $# -gt 0 ]; do
  if [ "$1" = --fast ]; then options+=(--fast -Z gz); bill=; shift; continue; fi
  [ $# -ge 2 ] || usage
  case $1 in
    --binary) binary=$2 ;;
    --deb-version) options+=(--deb-version "$2") ;;
    --out) options[1]=$2 ;;
    *) usage ;;
  esac
  shift 2
done
. contrib/install-test-deps.sh
. contrib/build-env.sh

install_package_deps
if [ -z "$binary" ]; then
  heading "cargo build --release"
  reproducible_env
  cargo build --release --locked
  binary=${CARGO_TARGET_DIR:-target}/release/waypost
fi

heading "manual pages and completions"
stage=target/package
rm -rf $stage/man $stage/completions
mkdir -p $stage/man $stage/completions
cp "$binary" $stage/waypost
! command -v strip >/dev/null || strip --strip-unneeded $stage/waypost
$stage/waypost man --out $stage/man
for shell in bash zsh fish; do $stage/waypost completions $shell >$stage/completions/$shell; done

if [ -n "$bill" ]; then
  install_cargo_cyclonedx
  heading "cargo cyclonedx"
  # It writes to the directory of Cargo.toml. The path of this checkout is replaced, so that all checkouts have one text.
  cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --no-build-deps
  sed "s|path+file://$PWD|path+file:///waypost|g" waypost_bin.cdx.json >"$(dirname "${options[1]}")/waypost.cdx.json"
  rm waypost_bin.cdx.json
fi

heading "cargo deb"
# cargo finds cargo-deb on PATH.
package=$(cargo deb --no-build --no-strip --compress-system "${options[@]}" | tail -n 1)
# apt accepts a path only if it begins with / or ./.
case $package in /*) ;; *) package=./$package ;; esac
printf '\n%s\nInstall it with:  sudo apt install %s\n' "$package" "$package"
