# Environment in which a build does not depend on its directory. Bash scripts source this file in the root of the
# repository.
#
#   reproducible_env [TARGET_DIR]   sets RUSTFLAGS, CFLAGS and SOURCE_DATE_EPOCH; the default is cargo's target directory
#
# The compilers write paths of sources into the program. Here the paths get names that are the same everywhere.

reproducible_env() {
  local target cargo_home from to
  target=$(realpath -m "${1:-${CARGO_TARGET_DIR:-target}}")
  cargo_home=$(realpath -m "${CARGO_HOME:-$HOME/.cargo}")
  # The last matching prefix applies, so that of the target directory comes after that of the repository.
  for from in "$cargo_home:/cargo" "$PWD:/waypost" "$target:/target"; do
    to=${from##*:} from=${from%:*}
    RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$from=$to"
    CFLAGS="${CFLAGS:-} -ffile-prefix-map=$from=$to"
  done
  SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1793491200)}
  export RUSTFLAGS CFLAGS SOURCE_DATE_EPOCH CARGO_INCREMENTAL=0
}
