# Large lists, bytes and strings in ordinary python: blocks above its own pools.
import array
import sys

scale = int(sys.argv[1])
total = 0
for round in range(max(1, scale // 4)):
    numbers = [index * 7919 % 100003 for index in range(60000)]
    numbers.sort()
    rows = [numbers[start : start + 700] for start in range(0, len(numbers), 700)]
    buffers = [array.array("l", row).tobytes() for row in rows]
    joined = b"".join(buffers)
    text = ",".join(map(str, numbers))
    parts = text.split(",")
    grown = bytearray()
    for chunk in buffers:
        grown += chunk
    total += len(joined) + len(parts) + len(grown) + len(text.upper())
print(total)
