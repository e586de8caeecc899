#!/usr/bin/env bash
# Builds a program that needs no libraries of the system, for any Linux of an architecture.
#
#   contrib/static.sh TARGET [OPTION OF CARGO BUILD...]
#
# TARGET is x86_64-unknown-linux-musl or aarch64-unknown-linux-musl. rustup installs Rust's standard library for it. The
# C code of SQLite, Zstandard, XZ and ring is compiled with Zig, which contains musl for both: pip installs ziglang and
# cargo-zigbuild in target/zig. The last line names the program.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
case ${1:-} in x86_64-unknown-linux-musl | aarch64-unknown-linux-musl) target=$1; shift ;; *) usage ;; esac
. contrib/install-test-deps.sh
. contrib/build-env.sh

find_cargo
rustup target list --installed | grep -qx "$target" || rustup target add "$target"
zig=$PWD/target/zig
[ -x "$zig/bin/cargo-zigbuild" ] || {
  heading "Zig in target/zig"
  python3 -m venv "$zig"
  "$zig/bin/pip" install -q --disable-pip-version-check --no-input cargo-zigbuild==0.24.1 ziglang==0.17.1
}
export PATH="$zig/bin:$PATH"
reproducible_env
heading "cargo zigbuild --release --target $target"
cargo zigbuild --release --locked --bin waypost --target "$target" "$@"
program=${CARGO_TARGET_DIR:-target}/$target/release/waypost
# A static program has no interpreter.
! readelf --program-headers "$program" | grep -q INTERP || { echo "static.sh: $program is not static" >&2; exit 1; }
echo "$program"
