# Counts words and pairs of words, splits and joins fields.
{
    for (i = 1; i <= NF; i++) {
        count[$i]++
        if (i > 1) pair[$(i - 1) " " $i]++
    }
    n = split($0, letters, /[aeiou]/)
    line = ""
    for (i = n; i > 0; i--) line = line letters[i] "-"
    bytes += length(line)
    if (NR % 5000 == 0) { for (p in pair) if (pair[p] < 2) delete pair[p] }
}
END {
    for (w in count) { words++; if (count[w] > most) most = count[w] }
    for (p in pair) pairs++
    print words, pairs, most, bytes
}
