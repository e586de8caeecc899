#!/usr/bin/env bash
# Runs the fuzz targets, with stable Rust and a C++ compiler.
#
#   contrib/fuzz.sh [SECONDS] [TARGET...]     each target (all of them) for so many seconds (10)
#
# What is found goes to fuzz/artifacts, what was learnt to fuzz/corpus, from where the next run goes on. One line for each
# target tells how many inputs it was given, how many places in the code they reached, and how many of them are kept.
# From the environment: JOBS (1) targets at once; ARGS, more of libFuzzer's own options.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../fuzz"
seconds=${1:-10}; shift || true
targets=("$@"); [ $# -gt 0 ] || for file in fuzz_targets/*.rs; do file=${file##*/}; targets+=("${file%.rs}"); done
host=$(rustc -vV | sed -n 's/^host: //p')

# What cargo-fuzz sets, without the address sanitizer, which wants a nightly compiler and looks for what code without `unsafe`
# can't do. With --target these flags are for the targets alone, not for build scripts.
flags=(--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares)
RUSTFLAGS="${flags[*]}" cargo build --locked --release --target "$host"

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
    END { printf "%-16s %10d inputs, %7d a second, %5d places, %s kept\n", target, units, rate, cov, corp }' "$log"
}

failed=0 running=0
for target in "${targets[@]}"; do
  if [ $running -ge "${JOBS:-1}" ]; then wait -n || failed=1; running=$((running - 1)); fi
  run "$target" & running=$((running + 1))
done
while [ $running -gt 0 ]; do wait -n || failed=1; running=$((running - 1)); done
exit $failed
