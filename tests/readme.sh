#!/usr/bin/env bash
# Runs every command block of the README that is marked with <!-- run -->, each in a shell of its
# own, and fails with the first that fails.
set -euo pipefail
cd "$(dirname "$0")/.."
count=0
while IFS= read -r -d $'\f' commands; do
  printf '$ %s' "$commands"
  bash -euo pipefail -c "$commands"
  count=$((count + 1))
done < <(awk '
  $0 == "<!-- run -->" { marked = 1; next }
  marked && /^```sh$/ { inside = 1; next }
  inside && /^```$/ { printf "\f"; inside = marked = 0; next }
  inside { print }
' README.md)
[ "$count" -ge 4 ] || { echo "only $count commands found" >&2; exit 1; }
echo "$count commands ran"
