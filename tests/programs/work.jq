def depth: if type == "array" or type == "object" then 1 + ([.[] | depth] | max // 0) else 0 end;
{
  groups: (group_by(.kind) | map({kind: .[0].kind, n: length, sum: (map(.value) | add), names: (map(.name) | unique | length)})),
  words: ([.[].tags[]] | map(ascii_upcase) | sort | unique | join(",") | length),
  depth: depth,
  paths: ([paths(type == "number")] | length),
  text: (map(.name | gsub("[aeiou]+"; "_") | explode | reverse | implode) | sort | .[0:20]),
  reduced: (reduce .[] as $o ({}; .[$o.kind] += [$o.id]) | map_values(length)),
  round: (tojson | fromjson | length),
  entries: (map(to_entries | map(select(.value | type == "string")) | from_entries) | .[0:3])
}
