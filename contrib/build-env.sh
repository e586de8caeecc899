# Environment in which a build does not depend on its directory. Bash scripts source this file in the root of the
# repository.
#
#   reproducible_env   sets RUSTFLAGS, CFLAGS, SOURCE_DATE_EPOCH and the directory of intermediate files
#
# The compilers write paths of sources into the program. Here the paths get names that are the same everywhere. A macro
# of the embedded Tor (derive-deftly) contains the path of its intermediate files, which no option can rename: they are
# in one directory on all machines.

# Directory of intermediate files. Two builds at a time wait for each other.
BUILD_DIR=/tmp/waypost-build

reproducible_env() {
  local cargo_home from to
  # Other users of the machine can't prepare the directory, nor change it.
  if ! mkdir -m 700 "$BUILD_DIR" 2>/dev/null && ! { [ -O "$BUILD_DIR" ] && [ ! -L "$BUILD_DIR" ] && [ -d "$BUILD_DIR" ]; }; then
    echo "$BUILD_DIR belongs to another user; remove it" >&2
    return 1
  fi
  chmod 700 "$BUILD_DIR"
  cargo_home=$(realpath -m "${CARGO_HOME:-$HOME/.cargo}")
  for from in "$cargo_home:/cargo" "$PWD:/waypost" "$BUILD_DIR:/target"; do
    to=${from##*:} from=${from%:*}
    RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$from=$to"
    CFLAGS="${CFLAGS:-} -ffile-prefix-map=$from=$to"
  done
  SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1793491200)}
  export RUSTFLAGS CFLAGS SOURCE_DATE_EPOCH CARGO_INCREMENTAL=0 CARGO_BUILD_BUILD_DIR=$BUILD_DIR
}
