# Reads generated lines: id, word, number, free text.
function walk(node, depth) { return depth == 0 ? node : walk(node * 2 % 9973, depth - 1) + 1 }
{
    count[$2]++
    sum[$2] += $3
    text[NR] = gensub(/([a-z])([0-9]+)/, "\\2\\1", "g", $0)
    split($0, parts, /[ ,;]+/)
    for (i in parts) seen[parts[i]] = NR
    cells[NR % 50][$2] = toupper($4)
}
END {
    PROCINFO["sorted_in"] = "@ind_str_asc"
    for (word in count) if (++shown <= 40) printf "%s %d %.2f\n", word, count[word], sum[word] / count[word]
    print length(seen), length(text), walk(3, 500)
    n = asorti(seen, order)
    for (i = 1; i <= n; i += 97) line = line " " order[i] ":" seen[order[i]]
    print length(line), substr(line, 1, 200)
    for (i = 0; i < 50; i++) total += length(cells[i])
    print total
    for (i = 1; i <= NR; i++) print text[i] > "gawk.out"
    close("gawk.out")
    "echo from a child" | getline reply
    print reply
    print "gawk said so on stderr" > "/dev/stderr"
    exit 7
}
