#!/usr/bin/env bash
# Runs the fuzz targets, with stable Rust and a C++ compiler.
#
#   contrib/fuzz.sh [SECONDS] [TARGET...]     SECONDS per target: 10; TARGET: all
#
# Crashing inputs go to fuzz/artifacts. Useful inputs go to fuzz/corpus, with which the next run starts. Each target prints
# a line with the number of inputs, their rate, the code locations covered, and the inputs kept.
# Environment: JOBS: number of parallel targets (1); ARGS: further options of libFuzzer; QUICK_BUILD=1: little
# optimization, so that the build takes half the time and the targets are slower.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../fuzz"
seconds=${1:-10}; shift || true
targets=("$@"); [ $# -gt 0 ] || for file in fuzz_targets/*.rs; do file=${file##*/}; targets+=("${file%.rs}"); done
host=$(rustc -vV | sed -n 's/^host: //p')

# The flags of cargo-fuzz, without the address sanitizer: it needs a nightly compiler and finds errors that code without
# `unsafe` can't have. With --target, the flags do not apply to build scripts.
flags=(--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares)
build=(cargo build --locked --release --target "$host")
if [ -n "${QUICK_BUILD:-}" ]; then
  build+=(--config 'profile.release.opt-level=1' --config 'profile.release.package."*".opt-level=0')
fi
RUSTFLAGS="${flags[*]}" "${build[@]}"

run() { # TARGET
  local corpus=corpus/$1 artifacts=artifacts/$1/ log=artifacts/$1.log
  mkdir -p "$corpus" "$artifacts"
  # shellcheck disable=SC2086
  if ! "target/$host/release/$1" "$corpus" "seeds/$1" -max_total_time="$seconds" -max_len=70000 -timeout=10 \
    -rss_limit_mb=1024 -artifact_prefix="$artifacts" -print_final_stats=1 ${ARGS:-} >"$log" 2>&1; then
    tail -n 30 "$log" >&2; echo "$1: failed; the input is in fuzz/$artifacts" >&2; return 1
  fi
  awk -v target="$1" '/cov: /{ for (i = 1; i < NF; i++) { if ($i == "cov:") cov = $(i + 1); if ($i == "corp:") corp = $(i + 1) } }
    /stat::number_of_executed_units/ { units = $2 } /stat::average_exec_per_sec/ { rate = $2 }
    END { printf "%-16s %10d inputs, %7d per second, %5d locations, %s kept\n", target, units, rate, cov, corp }' "$log"
}

failed=0 running=0
for target in "${targets[@]}"; do
  if [ $running -ge "${JOBS:-1}" ]; then wait -n || failed=1; running=$((running - 1)); fi
  run "$target" & running=$((running + 1))
done
while [ $running -gt 0 ]; do wait -n || failed=1; running=$((running - 1)); done
exit $failed
