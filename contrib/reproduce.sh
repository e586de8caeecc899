#!/usr/bin/env bash
# Builds the last commit twice, in directories with different names, and compares the programs.
#
#   contrib/reproduce.sh [OPTION OF CARGO BUILD...]
#
# Prints the SHA-256 of the program. The status is 1 if the two differ; both are then kept for a comparison. A release
# build takes several minutes, and runs twice. With the same compilers and commit, other machines get the same hash as
# contrib/package.sh.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
. contrib/build-env.sh

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct); export SOURCE_DATE_EPOCH
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
hashes=()
for name in a a-much-longer-name; do
  mkdir -p "$root/$name"
  git archive HEAD | tar -x -C "$root/$name"
  printf '\n== build in %s\n' "$root/$name"
  # A subshell, as each build adds its own flags.
  (
    cd "$root/$name"
    reproducible_env
    # Nothing is left of the build before.
    rm -rf "${BUILD_DIR:?}"/*
    CARGO_TARGET_DIR=$root/$name/target cargo build --release --locked --bin waypost "$@"
  )
  program=$(find "$root/$name/target" -path '*/release/waypost' -type f)
  hashes+=("$(sha256sum "$program" | cut -d ' ' -f 1)")
  echo "${hashes[-1]}"
done
if [ "${hashes[0]}" != "${hashes[1]}" ]; then
  trap - EXIT
  echo "reproduce.sh: the programs below $root differ" >&2
  exit 1
fi
printf '\nBoth programs have the SHA-256 %s, with %s.\n' "${hashes[0]}" "$(rustc --version)"
