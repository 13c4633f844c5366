# Dictionaries of strings, sets and tuples that grow, shrink and are rebuilt.
import sys

scale = int(sys.argv[1])
total = 0
for round in range(max(1, scale // 16)):
    table = {}
    state = round + 7
    for index in range(40000):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        key = "key-%d" % (state % 15000)
        table.setdefault(key, []).append((index, str(state)))
    for key in list(table)[::2]:
        del table[key]
    words = {word for values in table.values() for _, word in values}
    text = " ".join(sorted(words))
    total += len(text) + len(text.replace("1", "one").split())
print(total)
