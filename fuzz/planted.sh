#!/usr/bin/env bash
# Shows that each target finds a bug: one is planted in the target itself, and must be found from
# the seeds within a minute. fuzz/planted.sh [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- allocator mmu c_entry parsers

build=(-s none --no-trace-compares)
cargo fuzz build "${build[@]}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for target; do
  mkdir "$work/$target"
  start=$SECONDS
  options=(-max_total_time=60 -timeout=20 -rss_limit_mb=2500 "-artifact_prefix=$work/$target-")
  [ "$target" != parsers ] || options+=(-dict=fuzz/parsers.dict)
  # Honest first: the seeds alone are no finding.
  if ! cargo fuzz run "${build[@]}" "$target" "fuzz/corpus-seeds/$target" -- \
    -runs=0 "${options[@]}" >"$work/log" 2>&1; then
    tail -n 40 "$work/log"
    echo "$target: fails without a planted bug"
    exit 1
  fi
  if FENCEPOST_FUZZ_PLANTED=1 cargo fuzz run "${build[@]}" "$target" "$work/$target" \
    "fuzz/corpus-seeds/$target" -- "${options[@]}" >"$work/log" 2>&1; then
    echo "$target: did not find its planted bug"
    exit 1
  fi
  if ! grep -aq -- "---- script of $target ----" "$work/log"; then
    tail -n 40 "$work/log"
    echo "$target: failed for another reason"
    exit 1
  fi
  printf '%s: found in %s s: %s\n' "$target" "$((SECONDS - start))" \
    "$(grep -a -A1 panicked "$work/log" | sed -n 2p | cut -c1-120)"
done
