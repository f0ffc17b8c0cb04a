"""A zstd decoder (RFC 8878) for the frames of format.md section 2.3: without a magic number, with
Frame_Header_Descriptor 0. Section numbers below are those of the RFC.
"""

from errors import Refused, require

WINDOW_MAX = 8 << 20
BLOCK_MAX = 128 << 10


# Bit streams (4.1): bits are read from little-endian integers.

class Forward:
    """Reads bits from the first on, as table descriptions need."""

    def __init__(self, data):
        self.value = int.from_bytes(data, "little")
        self.bits = 8 * len(data)
        self.at = 0

    def peek(self, count):
        return self.value >> self.at & ((1 << count) - 1)

    def skip(self, count):
        self.at += count
        require(self.at <= self.bits, "zstd: a table description ends early")

    def read(self, count):
        value = self.peek(count)
        self.skip(count)
        return value

    def bytes_used(self):
        return (self.at + 7) // 8


class Backward:
    """Reads bits from the last on; the highest bit set of the last byte marks the end."""

    def __init__(self, data):
        require(len(data) > 0 and data[-1] != 0, "zstd: a bit stream has no end mark")
        self.value = int.from_bytes(data, "little")
        self.left = self.value.bit_length() - 1

    def read(self, count):
        """The next bits; before the first bit, zeros are read, and `left` is below zero."""
        self.left -= count
        if self.left >= 0:
            return self.value >> self.left & ((1 << count) - 1)
        return self.value << -self.left & ((1 << count) - 1)

    def finish(self):
        require(self.left == 0, "zstd: a bit stream is not used up")


# Finite state entropy (4.1.1).

def fse_table(probabilities, log):
    """For each state: symbol, number of bits, base of the next state."""
    size = 1 << log
    symbols = [0] * size
    high = size - 1
    following = []
    for symbol, p in enumerate(probabilities):
        if p == -1:
            symbols[high] = symbol
            high -= 1
            following.append(1)
        else:
            following.append(p)
    at, step = 0, (size >> 1) + (size >> 3) + 3
    for symbol, p in enumerate(probabilities):
        for _ in range(max(p, 0)):
            symbols[at] = symbol
            at = (at + step) % size
            while at > high:
                at = (at + step) % size
    require(at == 0, "zstd: probabilities do not fill their table")
    table = []
    for symbol in symbols:
        state = following[symbol]
        following[symbol] += 1
        bits = log - (state.bit_length() - 1)
        table.append((symbol, bits, (state << bits) - size))
    return table


def read_fse(data, log_max, symbols_max):
    """A table description: the table, its log, and the bytes it took."""
    bits = Forward(data)
    log = bits.read(4) + 5
    require(log <= log_max, "zstd: an accuracy log is too large")
    left = 1 << log
    probabilities = []
    while left > 0:
        # A value from 0 to left + 1; the lower ones take one bit less.
        width = (left + 1).bit_length()
        value = bits.peek(width)
        threshold = (1 << width) - 1 - (left + 1)
        half = 1 << (width - 1)
        if value & (half - 1) < threshold:
            value &= half - 1
            bits.skip(width - 1)
        else:
            if value >= half:
                value -= threshold
            bits.skip(width)
        p = value - 1
        probabilities.append(p)
        left -= abs(p)
        if p == 0:
            while True:
                repeat = bits.read(2)
                probabilities += [0] * repeat
                if repeat < 3:
                    break
        require(len(probabilities) <= symbols_max, "zstd: a table has too many symbols")
    require(left == 0, "zstd: probabilities do not add up")
    return fse_table(probabilities, log), log, bits.bytes_used()


# Huffman coding of literals (4.2).

def read_huffman(data):
    """A tree description: the table, its log, and the bytes it took."""
    require(len(data) > 0, "zstd: a tree description is missing")
    head = data[0]
    if head >= 128:
        count = head - 127
        used = 1 + (count + 1) // 2
        require(len(data) >= used, "zstd: a tree description ends early")
        weights = [data[1 + i // 2] >> (0 if i % 2 else 4) & 15 for i in range(count)]
    else:
        used = 1 + head
        require(len(data) >= used, "zstd: a tree description ends early")
        weights = read_weights(data[1:used])
    require(len(weights) <= 255 and all(w <= 11 for w in weights), "zstd: a Huffman weight is too large")
    total = sum(1 << w >> 1 for w in weights)
    require(total > 0, "zstd: a Huffman tree is empty")
    log = total.bit_length()
    require(log <= 11, "zstd: a Huffman tree is too deep")
    rest = (1 << log) - total
    require(rest & (rest - 1) == 0, "zstd: a Huffman tree is not complete")
    weights.append(rest.bit_length())
    table = []
    for weight in range(1, log + 1):
        for symbol, w in enumerate(weights):
            if w == weight:
                table += [(symbol, log + 1 - weight)] * (1 << (weight - 1))
    require(len(table) == 1 << log, "zstd: a Huffman tree is not complete")
    return table, log, used


def read_weights(data):
    """Huffman weights, by two states in turn, until the bits run out (4.2.1.2)."""
    table, log, used = read_fse(data, 6, 256)
    bits = Backward(data[used:])
    states = [bits.read(log), bits.read(log)]
    require(bits.left >= 0, "zstd: Huffman weights end early")
    weights = []
    turn = 0
    while True:
        symbol, count, base = table[states[turn]]
        weights.append(symbol)
        require(len(weights) <= 254, "zstd: too many Huffman weights")
        states[turn] = base + bits.read(count)
        turn ^= 1
        if bits.left < 0:
            weights.append(table[states[turn]][0])
            return weights


def huffman_stream(data, table, log, count):
    """`count` literals of one stream."""
    bits = Backward(data)
    value, left = bits.value << log, bits.left + log  # `log` zeros below, so that a look never ends early
    mask = (1 << log) - 1
    out = bytearray()
    for _ in range(count):
        symbol, length = table[value >> (left - log) & mask]
        left -= length
        require(left >= log, "zstd: literals end early")
        out.append(symbol)
    require(left == log, "zstd: a bit stream is not used up")
    return out


# Sequences (3.1.1.3.2): codes to base values and extra bits.

def _codes(direct, first, bits):
    """`direct` codes without extra bits from `first` on, then one per entry of `bits`."""
    table, base = [(first + i, 0) for i in range(direct)], first + direct
    for count in bits:
        table.append((base, count))
        base += 1 << count
    return table


LENGTH_CODES = _codes(16, 0, (1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16))
MATCH_CODES = _codes(32, 3, (1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16))

# Literals lengths, offsets, match lengths, in this order: the predefined table, the greatest
# accuracy log, and the number of symbols.
KINDS = (
    ((fse_table([4, 3] + [2] * 11 + [1] * 3 + [2] * 9 + [3, 2] + [1] * 5 + [-1] * 4, 6), 6), 9, 36),
    ((fse_table([1] * 6 + [2] * 3 + [1] * 15 + [-1] * 5, 5), 5), 8, 32),
    ((fse_table([1, 4, 3] + [2] * 6 + [1] * 37 + [-1] * 7, 6), 6), 9, 53),
)


class Frame:
    """The state that blocks share: output, offsets, tables."""

    def __init__(self, prefix, limit):
        self.out = bytearray(prefix)
        self.end_max = len(prefix) + limit
        self.block_max = 0
        self.offsets = [1, 4, 8]
        self.huffman = None
        self.tables = [None, None, None]

    def room(self, count):
        require(len(self.out) + count <= self.end_max, "zstd: more plain bytes than announced")

    def literals(self, data):
        """The literals section (3.1.1.3.1): the literals and the bytes it took."""
        require(len(data) > 0, "zstd: a block is empty")
        kind, form = data[0] & 3, data[0] >> 2 & 3
        if kind < 2:
            used, shift = ((1, 3), (2, 4), (1, 3), (3, 4))[form]
            require(len(data) >= used, "zstd: a literals header ends early")
            count = int.from_bytes(data[:used], "little") >> shift
            length = 1 if kind == 1 else count
            require(count <= self.block_max, "zstd: too many literals")
            require(len(data) >= used + length, "zstd: literals end early")
            body = data[used:used + length]
            return (body * count if kind == 1 else body), used + length
        used, width = ((3, 10), (3, 10), (4, 14), (5, 18))[form]
        require(len(data) >= used, "zstd: a literals header ends early")
        head = int.from_bytes(data[:used], "little")
        count, length = head >> 4 & ((1 << width) - 1), head >> (4 + width)
        require(count <= self.block_max, "zstd: too many literals")
        require(len(data) >= used + length, "zstd: literals end early")
        body = data[used:used + length]
        if kind == 2:
            table, log, tree = read_huffman(body)
            self.huffman = table, log
            body = body[tree:]
        require(self.huffman is not None, "zstd: a block repeats a tree that was never given")
        table, log = self.huffman
        if form == 0:
            return bytes(huffman_stream(body, table, log, count)), used + length
        require(len(body) >= 6 and count >= 6, "zstd: a jump table is missing")
        part, at, out = (count + 3) // 4, 6, bytearray()
        for stream in range(4):
            size = int.from_bytes(body[2 * stream:2 * stream + 2], "little") if stream < 3 else len(body) - at
            require(0 < size and at + size <= len(body), "zstd: a jump table leads beyond its literals")
            out += huffman_stream(body[at:at + size], table, log, part if stream < 3 else count - 3 * part)
            at += size
        return bytes(out), used + length

    def table(self, which, mode, data):
        """The table of one kind of codes; returns the bytes it took."""
        predefined, log_max, symbols = KINDS[which]
        used = 0
        if mode == 0:
            self.tables[which] = predefined
        elif mode == 1:
            require(len(data) > 0 and data[0] < symbols, "zstd: a repeated code is out of range")
            self.tables[which], used = ([(data[0], 0, 0)], 0), 1
        elif mode == 2:
            table, log, used = read_fse(data, log_max, symbols)
            self.tables[which] = table, log
        require(self.tables[which] is not None, "zstd: a block repeats a table that was never given")
        return used

    def offset(self, value, length):
        """The distance that an offset value means, after `length` literals (3.1.1.5)."""
        recent = self.offsets
        if value > 3:
            distance, place = value - 3, 2
        else:
            place = value - 1 + (length == 0)
            distance = recent[place] if place < 3 else recent[0] - 1
            place = min(place, 2)
        require(distance > 0, "zstd: an offset is zero")
        del recent[place]
        recent.insert(0, distance)
        return distance

    def compressed(self, data):
        """A compressed block (3.1.1.3)."""
        literals, at = self.literals(data)
        require(at < len(data), "zstd: a block has no sequences section")
        head = data[at]
        width = 1 if head < 128 else 2 if head < 255 else 3
        require(at + width <= len(data), "zstd: a sequences header ends early")
        count = head
        if width == 2:
            count = (head - 128 << 8) + data[at + 1]
        elif width == 3:
            count = data[at + 1] + (data[at + 2] << 8) + 0x7F00
        at += width
        taken = 0
        before = len(self.out)
        if count:
            require(at < len(data) and data[at] & 3 == 0, "zstd: a reserved mode is set")
            modes = data[at]
            at += 1
            for which in range(3):
                at += self.table(which, modes >> (6 - 2 * which) & 3, data[at:])
            taken = self.sequences(Backward(data[at:]), count, literals)
        else:
            require(at == len(data), "zstd: a block is longer than its parts")
        self.room(len(literals) - taken)
        self.out += literals[taken:]
        require(len(self.out) - before <= self.block_max, "zstd: a block is too large")

    def sequences(self, bits, count, literals):
        """Runs the sequences; returns the number of literals taken."""
        tables = [table for table, _ in self.tables]
        states = [bits.read(log) for _, log in self.tables]
        out, taken = self.out, 0
        for left in range(count - 1, -1, -1):
            now = [table[state] for table, state in zip(tables, states)]
            code = now[1][0]
            value = (1 << code) + bits.read(code)
            base, extra = MATCH_CODES[now[2][0]]
            match = base + bits.read(extra)
            base, extra = LENGTH_CODES[now[0][0]]
            length = base + bits.read(extra)
            require(bits.left >= 0, "zstd: sequences end early")
            if left:
                for which in (0, 2, 1):
                    _, width, base = now[which]
                    states[which] = base + bits.read(width)
            require(taken + length <= len(literals), "zstd: sequences need more literals than there are")
            self.room(length + match)
            out += literals[taken:taken + length]
            taken += length
            distance = self.offset(value, length)
            require(distance <= len(out), "zstd: a match reaches beyond the start")
            start = len(out) - distance
            piece = out[start:start + match]
            out += (piece * (match // len(piece) + 1))[:match]
        bits.finish()
        return taken


DICTIONARY_MAGIC = bytes.fromhex("37A430EC")
DICTIONARY_MAX = 1 << 20


class Dictionary:
    """The state with which a dictionary lets a frame begin (5)."""

    def __init__(self, data):
        require(len(data) <= DICTIONARY_MAX, "zstd: a dictionary is too long")
        require(len(data) >= 8 and data[:4] == DICTIONARY_MAGIC, "zstd: a dictionary has another magic number")
        table, log, used = read_huffman(data[8:])
        self.huffman, at = (table, log), 8 + used
        self.tables = [None, None, None]
        for which in (1, 2, 0):  # Offsets, match lengths, literals lengths.
            _, log_max, symbols = KINDS[which]
            table, log, used = read_fse(data[at:], log_max, symbols)
            self.tables[which] = table, log
            at += used
        require(len(data) >= at + 12, "zstd: a dictionary ends early")
        self.offsets = [int.from_bytes(data[i:i + 4], "little") for i in (at, at + 4, at + 8)]
        self.content = data[at + 12:]
        require(all(0 < offset <= len(self.content) for offset in self.offsets),
                "zstd: an offset of a dictionary leads beyond it")


def decompress(data, limit, prefix=b"", dictionary=None):
    """The unpacked bytes of one frame, at most `limit`; matches may reach into `prefix`, or else
    into the content of `dictionary`."""
    require(len(data) >= 2, "zstd: the frame ends early")
    require(data[0] == 0, "zstd: Frame_Header_Descriptor is not 0")
    base = 1 << (10 + (data[1] >> 3))
    window = base + (base >> 3) * (data[1] & 7)
    require(window <= WINDOW_MAX, "zstd: the window exceeds 8 MiB")
    frame = Frame(dictionary.content if dictionary else prefix, limit)
    start = len(frame.out)
    if dictionary:
        frame.huffman, frame.tables = dictionary.huffman, list(dictionary.tables)
        frame.offsets = list(dictionary.offsets)
    frame.block_max = min(window, BLOCK_MAX)
    at, last = 2, False
    while not last:
        require(at + 3 <= len(data), "zstd: the frame ends early")
        head = int.from_bytes(data[at:at + 3], "little")
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        at += 3
        require(size <= frame.block_max, "zstd: a block is too large")
        length = 1 if kind == 1 else size
        require(at + length <= len(data), "zstd: the frame ends early")
        body = data[at:at + length]
        at += length
        if kind == 2:
            frame.compressed(body)
        elif kind < 2:
            frame.room(size)
            frame.out += body * size if kind == 1 else body
        else:
            raise Refused("zstd: a block has the reserved type")
    require(at == len(data), "zstd: bytes follow the frame")
    return bytes(frame.out[start:])
