# Integers of many lengths: each result is a new object.
import sys

scale = int(sys.argv[1])
total = 0
for round in range(scale * 50):
    a, b = 3**(40 + round % 60), 7**(25 + round % 70) + round
    fractions = []
    while b:
        quotient, rest = divmod(a, b)
        fractions.append(quotient)
        a, b = b, rest
    top, bottom = 1, 0
    for quotient in reversed(fractions):
        top, bottom = quotient * top + bottom, top
    squares = [(top + step) * (bottom - step) for step in range(120)]
    total = (total + sum(squares) + a) % (10**40)
print(total)
