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


def quantize(x):
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


def normalize(q):
    """Another m, e for a quantized vector."""
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


# (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2 at x = i / 64, times 2^15.
GELU = [
    16384, 16588, 16792, 16997, 17200, 17404, 17608, 17811, 18014, 18216, 18418, 18620, 18821, 19021, 19221, 19420,
    19618, 19816, 20013, 20208, 20403, 20597, 20790, 20982, 21173, 21363, 21552, 21739, 21925, 22110, 22294, 22476,
    22657, 22836, 23014, 23191, 23366, 23539, 23711, 23881, 24050, 24217, 24383, 24546, 24708, 24869, 25027, 25184,
    25339, 25492, 25643, 25793, 25940, 26086, 26230, 26372, 26512, 26650, 26787, 26921, 27054, 27184, 27313, 27439,
    27564, 27687, 27808, 27927, 28044, 28159, 28272, 28383, 28493, 28600, 28706, 28810, 28911, 29011, 29110, 29206,
    29300, 29393, 29484, 29573, 29660, 29745, 29829, 29911, 29991, 30070, 30147, 30222, 30296, 30368, 30438, 30507,
    30574, 30640, 30704, 30767, 30828, 30887, 30946, 31002, 31058, 31112, 31165, 31216, 31266, 31315, 31362, 31408,
    31453, 31497, 31540, 31581, 31622, 31661, 31699, 31736, 31772, 31807, 31841, 31874, 31906, 31937, 31967, 31996,
    32024, 32052, 32078, 32104, 32129, 32153, 32176, 32199, 32221, 32242, 32263, 32282, 32302, 32320, 32338, 32355,
    32372, 32388, 32403, 32418, 32433, 32447, 32460, 32473, 32486, 32498, 32509, 32521, 32531, 32542, 32552, 32561,
    32570, 32579, 32588, 32596, 32604, 32611, 32618, 32625, 32632, 32638, 32644, 32650, 32656, 32661, 32666, 32671,
    32676, 32680, 32685, 32689, 32693, 32697, 32700, 32704, 32707, 32710, 32713, 32716, 32719, 32721, 32724, 32726,
    32728, 32730, 32732, 32734, 32736, 32738, 32740, 32741, 32743, 32744, 32745, 32747, 32748, 32749, 32750, 32751,
    32752, 32753, 32754, 32755, 32756, 32756, 32757, 32758, 32758, 32759, 32759, 32760, 32761, 32761, 32761, 32762,
    32762, 32763, 32763, 32763, 32764, 32764, 32764, 32764, 32765, 32765, 32765, 32765, 32765, 32766, 32766, 32766,
    32766, 32766, 32766, 32766, 32767, 32767, 32767, 32767, 32767, 32767, 32767, 32767, 32767, 32767, 32767, 32767,
    32767,
]


def gelu(u, k):
    """GELU of a number in units of 2^-k (section 6)."""
    n = max(0, k - 6)
    w = abs(u) << (6 + n - k)
    i = w >> n
    s = 32768 if i >= 256 else GELU[i] + rshift((GELU[i + 1] - GELU[i]) * (w % (1 << n)), n)
    return rshift(u * (32768 - s if u < 0 else s), 15)


def attend(scores, values):
    """The packed output of one head over packed `values` (section 6, steps 3 and 4)."""
    top = max(scores)
    weights = exp2neg([top - z for z in scores], ATTENTION_EXP)
    total = sum(weights)
    g = total.bit_length() - 15
    # A single position of weight 2^15 makes g = 1: the total is never below 2^15.
    reciprocal = (1 << 29) // (total >> g)
    return sum(map(mul, [(w * reciprocal) >> (15 + g) for w in weights], values))
