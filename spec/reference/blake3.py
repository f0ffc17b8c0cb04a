"""BLAKE3, unkeyed, 32 bytes of output (format.md section 2.2).

Written from the BLAKE3 paper: chunks of 1,024 bytes in blocks of 64 are the leaves of a binary
tree whose left subtrees are the largest possible powers of two.
"""

import struct

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
MASK = 0xFFFFFFFF
LANES = 256  # chunks hashed side by side

# Columns, then diagonals.
QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def _schedule():
    """The 56 quarter rounds of a block: four state places and two message places each."""
    order, steps = list(range(16)), []
    for _ in range(7):
        for i, quarter in enumerate(QUARTERS):
            steps.append(quarter + (order[2 * i], order[2 * i + 1]))
        order = [order[p] for p in PERMUTATION]
    return tuple(steps)


SCHEDULE = _schedule()


def _compress(cv, words, counter, length, flags, mask=MASK, ones=1):
    """The new chaining value, eight words, of one block or of many side by side.

    For many, each word is an integer with a lane of 64 bits for each block; `mask` has the lower
    half of every lane set, `ones` the lowest bit. Sums and rotations stay within a lane.
    """
    v = list(cv) + [word * ones for word in IV[:4]] + [counter & mask, counter >> 32 & mask, length * ones, flags * ones]
    for a, b, c, d, x, y in SCHEDULE:
        va, vb, vc, vd = v[a], v[b], v[c], v[d]
        va = (va + vb + words[x]) & mask
        vd ^= va
        vd = (vd >> 16 | vd << 16) & mask
        vc = (vc + vd) & mask
        vb ^= vc
        vb = (vb >> 12 | vb << 20) & mask
        va = (va + vb + words[y]) & mask
        vd ^= va
        vd = (vd >> 8 | vd << 24) & mask
        vc = (vc + vd) & mask
        vb ^= vc
        v[a], v[b], v[c], v[d] = va, (vb >> 7 | vb << 25) & mask, vc, vd
    return [v[i] ^ v[i + 8] for i in range(8)]


def _chunk(data, counter, root):
    """The chaining value of one chunk of at most 1,024 bytes; it may be empty."""
    cv = IV
    for at in range(0, max(len(data), 1), 64):
        block = data[at:at + 64]
        flags = CHUNK_START if at == 0 else 0
        if at + 64 >= len(data):
            flags |= CHUNK_END | root
        cv = _compress(cv, struct.unpack("<16I", block.ljust(64, b"\0")), counter, len(block), flags)
    return cv


def _full_chunks(data, counter):
    """The chaining values of chunks that are all full, side by side."""
    count = len(data) // 1024
    ones = int.from_bytes(struct.pack("<Q", 1) * count, "little")
    numbers = int.from_bytes(struct.pack("<%dQ" % count, *range(counter, counter + count)), "little")
    words = struct.unpack("<%dI" % (256 * count), data)
    cv = [word * ones for word in IV]
    for block in range(16):
        lanes = [int.from_bytes(struct.pack("<%dQ" % count, *words[16 * block + i::256]), "little") for i in range(16)]
        flags = (CHUNK_START if block == 0 else 0) | (CHUNK_END if block == 15 else 0)
        cv = _compress(cv, lanes, numbers, 64, flags, MASK * ones, ones)
    columns = [struct.unpack("<%dQ" % count, word.to_bytes(8 * count, "little")) for word in cv]
    return [list(column) for column in zip(*columns)]


def hash_bytes(data):
    """The 32-byte hash of `data`."""
    if len(data) <= 1024:
        return struct.pack("<8I", *_chunk(data, 0, ROOT))
    # All chunks but the last, which may be short; then complete subtrees that wait for a right
    # sibling: as many as the number of chunks has bits set.
    count = (len(data) - 1) // 1024 + 1
    leaves = []
    for first in range(0, count - 1, LANES):
        leaves += _full_chunks(data[1024 * first:1024 * min(first + LANES, count - 1)], first)
    leaves.append(_chunk(data[1024 * (count - 1):], count - 1, 0))
    stack = []
    for done, cv in enumerate(leaves, 1):
        while done % 2 == 0 and done != count:
            cv = _compress(IV, stack.pop() + cv, 0, 64, PARENT)
            done //= 2
        stack.append(cv)
    cv = stack.pop()
    while stack:
        cv = _compress(IV, stack.pop() + cv, 0, 64, PARENT | (ROOT if not stack else 0))
    return struct.pack("<8I", *cv)
