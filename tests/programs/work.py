"""Object churn, big buffers, threads and child processes; prints digests."""
import collections
import hashlib
import json
import os
import queue
import re
import subprocess
import sys
import threading
import zlib

SCALE = int(sys.argv[1]) if len(sys.argv) > 1 else 1
PART = int(os.environ.get("WORK_PART", "1"))


class Node:
    def __init__(self, key, left=None, right=None):
        self.key, self.left, self.right = key, left, right


def insert(root, key):
    while True:
        side = "left" if key < root.key else "right"
        child = getattr(root, side)
        if child is None:
            setattr(root, side, Node(key))
            return
        root = child


def walk(root, out):
    stack, node = [], root
    while stack or node:
        while node:
            stack.append(node)
            node = node.left
        node = stack.pop()
        out.append(node.key)
        node = node.right


def numbers(seed, count):
    for _ in range(count):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        yield seed >> 33


def churn(seed):
    digest = hashlib.sha256()
    root = Node(2**30)
    for key in numbers(seed, 3000 * SCALE // PART):
        insert(root, key)
    keys = []
    walk(root, keys)
    digest.update(repr(keys).encode())
    words = collections.Counter()
    for key in keys:
        words[re.sub(r"[02468]+", "-", str(key))] += 1
    digest.update(json.dumps(words, sort_keys=True).encode())
    document = [{"id": k, "name": "n" * (k % 50), "tags": [str(k), k / 3]} for k in keys]
    text = json.dumps(document)
    assert json.loads(text) == document
    digest.update(zlib.compress(text.encode()))
    blob = bytearray()
    for key in keys:
        blob += key.to_bytes(8, "little") * (key % 16)
    digest.update(blob)
    del document, blob
    slots = [None] * 500
    for i, key in enumerate(numbers(seed + 1, 8000 * SCALE // PART)):
        slots[key % 500] = bytes([i % 256]) * (key % 2000)
    digest.update(b"".join(s or b"" for s in slots))
    return digest.hexdigest()


# One thread alone, then four at once whose objects die in another thread.
print("alone", churn(1))
results = {}
hand_over = queue.Queue(64)


def worker(seed):
    results[seed] = churn(seed)
    for key in numbers(seed, 2000 * SCALE // PART):
        hand_over.put([key, "x" * (key % 700)])
    hand_over.put(None)


threads = [threading.Thread(target=worker, args=(seed,)) for seed in range(2, 6)]
for thread in threads:
    thread.start()
finished = total = 0
while finished < len(threads):
    item = hand_over.get()
    if item is None:
        finished += 1
    else:
        total += item[0] + len(item[1])
for thread in threads:
    thread.join()
print("threads", sorted(results.items()), total)

# Buffers above the mmap threshold, grown in place and shrunk.
buffer = bytearray()
for step in range(40 * SCALE):
    buffer += bytes([step]) * 150_000
print("grown", len(buffer), hashlib.md5(buffer).hexdigest())
while len(buffer) > 100:
    del buffer[len(buffer) // 2 :]
print("shrunk", len(buffer))

# Children: a plain fork while other threads allocate, and a spawned program.
stop = threading.Event()


def noise():
    while not stop.is_set():
        [str(i) * 10 for i in range(200)]


noisy = [threading.Thread(target=noise) for _ in range(2)]
for thread in noisy:
    thread.start()
for round in range(10 // min(PART, 5)):
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, hashlib.md5(repr([i * round for i in range(5000)]).encode()).digest())
        os._exit(round)
    os.close(write_end)
    digest = b""
    while part := os.read(read_end, 100):
        digest += part
    os.close(read_end)
    print("child", round, digest.hex(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for thread in noisy:
    thread.join()
code = "print(sum(len(str(i)) for i in range(20000)))"
print("spawned", subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True).stdout)
with open("python.out", "w") as out:
    json.dump(results, out, sort_keys=True)
print("python said so on stderr", file=sys.stderr)
sys.exit(3)
