[.[] | {id, label: (.name | ascii_upcase), tags: (.tags | map(. + "!") | unique), sum: ([.values[] | . * 2] | add)}]
| group_by(.sum % 50)
| map({key: (.[0].sum % 50 | tostring), value: (map(.label) | sort | join(","))})
| from_entries
| [paths, (to_entries | map(.value | length))]
