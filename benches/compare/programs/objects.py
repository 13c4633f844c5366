# Object-heavy python: instances, attributes, closures, short-lived containers.
import sys

scale = int(sys.argv[1])


class Node:
    def __init__(self, key, parent):
        self.key = key
        self.parent = parent
        self.children = []
        self.notes = {"depth": 0 if parent is None else parent.notes["depth"] + 1}

    def add(self, key):
        child = Node(key, self)
        self.children.append(child)
        return child


def grow(count, seed):
    root = Node("root", None)
    nodes = [root]
    state = seed
    for index in range(count):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        nodes.append(nodes[state % len(nodes)].add("node-%d" % index))
    return root, nodes


total = 0
for round in range(max(1, scale // 12)):
    root, nodes = grow(12000, round + 1)
    names = sorted((node.key, node.notes["depth"]) for node in nodes)
    paths = []
    for node in nodes[::7]:
        path = []
        while node is not None:
            path.append(node.key)
            node = node.parent
        paths.append("/".join(reversed(path)))
    total += sum(map(len, paths)) + names[len(names) // 2][1]
print(total)
