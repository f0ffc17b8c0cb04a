"""The range decoder (numerics.md section 9)."""

from bisect import bisect_right
from itertools import accumulate

from errors import require


class Decoder:
    """Between symbols `range` is at least 2^56 and `code` is below `range`."""

    def __init__(self, payload):
        self.payload = payload
        self.at = 8
        self.range = 2**64 - 1
        self.code = int.from_bytes(payload[:8].ljust(8, b"\0"), "big")

    def symbol(self, slots):
        """The next symbol, whose probabilities are in proportion to `slots`."""
        require(self.code < self.range, "the coded data of a chunk are damaged")
        ends = list(accumulate(slots))
        total = ends[-1]
        r = self.range // total
        target = min(self.code // r, total - 1)
        symbol = bisect_right(ends, target)
        start = ends[symbol] - slots[symbol]
        self.code -= start * r
        if symbol == len(slots) - 1:
            self.range -= start * r
        else:
            self.range = slots[symbol] * r
        while self.range < 2**56:
            following = self.payload[self.at] if self.at < len(self.payload) else 0
            self.at += 1
            self.range <<= 8
            self.code = self.code << 8 | following
        return symbol
