"""Integer arithmetic of the model (numerics.md sections 1 and 5).

Products of matrices run on large integers: a column of a matrix is one integer with a field of 32
bits for each row, so one multiplication by `q_i` does the work of all rows. Every result fits 32
bits (section 5), so no field runs into the next once 2^31 is added to each.
"""

import struct
from math import isqrt
from operator import mul

FIELD = 32
HALF = 1 << (FIELD - 1)


def rshift(a, n):
    return (a + (1 << n >> 1)) >> n


def clamp(a, low, high):
    return low if a < low else high if a > high else a


def halves(count):
    """2^31 in each of `count` fields."""
    return int.from_bytes(struct.pack("<I", HALF) * count, "little")


def pack(values):
    """One integer of `values`, each a signed field."""
    return int.from_bytes(struct.pack("<%dI" % len(values), *[v + HALF for v in values]), "little") - halves(len(values))


def unpack(packed, count, offset):
    """The signed fields; `offset` is `halves(count)`."""
    fields = struct.unpack("<%dI" % count, (packed + offset).to_bytes(4 * count, "little"))
    return [field - HALF for field in fields]


def quantise(x):
    """q, m, e of a vector."""
    largest = max(max(x), -min(x))
    if largest == 0:
        return [0] * len(x), 0, 0
    e = largest.bit_length() - 15
    if e > 0:
        half = 1 << (e - 1)
        m = (largest + half) >> e
        inv = (127 << 23) // m
        return [(((v + half) >> e) * inv + (1 << 22)) >> 23 for v in x], m, e
    m = largest << -e
    inv = ((127 << 23) // m) << -e
    return [(v * inv + (1 << 22)) >> 23 for v in x], m, e


def normalise(q):
    """Another m, e for a quantised vector."""
    total = sum(map(mul, q, q))
    if total == 0:
        return 0, 0
    v = (len(q) << 32) // total
    k = 0
    while v << (2 * k) < 1 << 28:
        k += 1
    return isqrt(v << (2 * k)), -k


class Linear:
    """A product with its row scales."""

    def __init__(self, rows, scale, pre, shift):
        self.columns = [pack(column) for column in zip(*rows)]
        self.scale, self.pre, self.shift = scale, pre, shift
        self.halves = halves(len(rows))

    def __call__(self, q, m, e):
        acc = unpack(sum(map(mul, q, self.columns)), len(self.scale), self.halves)
        s = clamp(self.shift - e, 1, 31)
        half, pre, before = 1 << (s - 1), self.pre, 1 << self.pre >> 1
        return [(((a + before) >> pre) * (scale * m >> 15) + half) >> s for a, scale in zip(acc, self.scale)]


def _exp2neg(d, up):
    i = min(d >> 10, 31)
    f = (d % 1024) * 32
    u = 22012 - ((5628 * f) >> 15)
    return (32768 - ((f * u) >> 15) << up) >> i


# From d = 32,767 on both are 0: M * 2^up is below 2^23, and i is 31.
ATTENTION_EXP = [_exp2neg(d, 0) for d in range(32768)]
SLOT_EXP = [_exp2neg(d, 7) for d in range(32768)]


def exp2neg(differences, table):
    return [table[d] if d < 32768 else 0 for d in differences]


def attend(scores, values):
    """Section 6, points 3 and 4: the packed output of one head over packed `values`."""
    top = max(scores)
    weights = exp2neg([top - z for z in scores], ATTENTION_EXP)
    total = sum(weights)
    g = total.bit_length() - 15
    # A single position of weight 2^15 makes g = 1: the total is never below 2^15.
    reciprocal = (1 << 29) // (total >> g)
    return sum(map(mul, [(w * reciprocal) >> (15 + g) for w in weights], values))
