# JSON text to and from python's objects, with python's own small allocator.
import json
import sys

scale = int(sys.argv[1])
records = [
    {
        "id": index,
        "name": "name-%d" % (index * 7919 % 10007),
        "tags": ["tag-%d" % (index * k % 97) for k in range(index % 9)],
        "nested": {"a": index / 7, "b": [None, True, index], "c": "x" * (index % 200)},
    }
    for index in range(6000)
]
total = 0
for round in range(max(1, scale // 7)):
    text = json.dumps(records, indent=1 if round % 2 else None)
    back = json.loads(text)
    total += len(text) + sum(len(record["tags"]) for record in back)
print(total)
