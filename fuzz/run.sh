#!/usr/bin/env bash
# Fuzzes each target for so many seconds: fuzz/run.sh SECONDS [TARGET...]
# FENCEPOST_FUZZ_ARGS goes to the fuzzer (libFuzzer's options).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET...]}
shift
[ $# -gt 0 ] || set -- allocator mmu c_entry parsers

# No sanitizer, so that the stable compiler will do; comparisons are not traced, for the targets
# take numbers apart themselves and tracing makes them several times slower.
build=(-s none --no-trace-compares)
cargo fuzz build "${build[@]}"
for target; do
  mkdir -p "fuzz/corpus/$target"
  printf '\n== %s for %s s\n' "$target" "$seconds"
  # shellcheck disable=SC2086
  cargo fuzz run "${build[@]}" "$target" "fuzz/corpus/$target" "fuzz/corpus-seeds/$target" -- \
    -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2500 -print_final_stats=1 -verbosity=1 \
    $([ "$target" = parsers ] && echo -dict=fuzz/parsers.dict) ${FENCEPOST_FUZZ_ARGS:-} \
    2> >(grep -av -e NEW_FUNC -e '# Uses' -e $'\tNEW ' -e $'\tREDUCE' >&2)
done
