# Strings, arrays, functions and substitutions, with no other program.
scale=$1
declare -A seen
total=0
describe() { local name=$1 value=$2; printf -v reply '%s:%05d' "$name" "$value"; }
for ((round = 0; round < scale * 9; round++)); do
    list=()
    for ((index = 0; index < 40; index++)); do
        describe "item${index}" $((round * index % 997))
        list+=("$reply")
        seen[${reply#*:}]=$round
    done
    text=${list[*]}
    text=${text//item/x}
    set -- $text
    total=$((total + ${#text} + $#))
done
echo "$total ${#seen[@]}"
