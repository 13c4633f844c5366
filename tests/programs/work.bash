# Arrays, expansions, functions, pipes and subshells.
declare -A count
declare -a list
part=${WORK_PART:-1}
seed=5
number() { seed=$(((seed * 1103515245 + 12345) % 2147483648)); n=$((seed >> 8)); }
for ((i = 0; i < 6000 / part; i++)); do
  number
  key="k$((n % 700))-${n:0:2}"
  count[$key]=$((${count[$key]:-0} + i))
  list[i % 900]+="${key//-/_},"
  word="${key^^}${word:0:40}"
done
for key in "${!count[@]}"; do echo "$key ${count[$key]}"; done | LC_ALL=C sort > bash.out
wc -l < bash.out
joined="${list[*]}"
echo "${#joined} ${joined:1000:60} ${word}"
text=""
while read -r key value; do text+="${key#k}:${value%0} "; done < bash.out
echo "${#text} ${text:0:100}"
fib() { if (($1 < 2)); then echo "$1"; else echo $(($(fib $(($1 - 1))) + $(fib $(($1 - 2))))); fi; }
fib $((part > 1 ? 4 : 8))
for ((i = 1; i <= 20 / part; i++)); do (list=("${list[@]}" "$i"); echo "${#list[@]} $i" | tr 1 2); done
printf '%s\n' {a..z}{0..9} | { mapfile -t all; echo "${#all[@]} ${all[-1]}"; }
[[ "${text}" =~ ([0-9]+)-([0-9]+):([0-9]+) ]] && echo "${BASH_REMATCH[*]}"
echo "bash said so on stderr" >&2
exit 8
