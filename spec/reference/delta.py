"""A model as the difference to another (numerics.md section 12)."""

import json

from coder import Decoder
from errors import require

MAGIC = b"s3adelta"
TOTAL = 1 << 16


class Bit:
    """A context: its two averages."""

    def __init__(self, start):
        self.fast = self.slow = start


class Reader:
    def __init__(self, payload):
        self.decoder = Decoder(payload)

    def bit(self, context):
        one = min(max((context.fast + context.slow) // 2, 16), TOTAL - 16)
        bit = self.decoder.symbol((TOTAL - one, one))
        if bit:
            context.fast += (65535 - context.fast) >> 4
            context.slow += (65535 - context.slow) >> 7
        else:
            context.fast -= context.fast >> 4
            context.slow -= context.slow >> 7
        return bit

    def raw(self, bits):
        value = 0
        for _ in range(bits):
            value = value << 1 | self.bit(Bit(1 << 15))
        return value

    def magnitude(self, contexts):
        for below, context in enumerate(contexts, 1):
            if not self.bit(context):
                return below
        width = self.raw(5)
        value = 14 + (1 << width | self.raw(width))
        require(value < 1 << 31, "delta: a difference is too large")
        return value


def differences(reader, kind, rows, columns):
    """The differences of all rows; None for a row that does not change."""
    row_start = {"ngram": 1 << 11, "table": 1 << 14}.get(kind, 3 << 14)
    start = 1 << 14 if kind in ("ngram", "table") else 1 << 13
    row_bits = [Bit(row_start) for _ in range(4)]
    element_bits = [[Bit(start) for _ in range(4)] for _ in range(5)]
    falls = [Bit(1 << 15) for _ in range(3)]
    sizes = [[Bit(1 << 14) for _ in range(14)] for _ in range(2)]
    activity, last = [0] * columns, [0] * columns
    found, before = [], 0
    for _ in range(rows):
        changes = reader.bit(row_bits[before])
        before = (before << 1 | changes) & 3
        if not changes:
            found.append(None)
            continue
        row, near = [], 0
        for i in range(columns):
            crowd = min(bin(near).count("1").bit_length(), 4)
            active = sum(activity[i] >= bound for bound in (64, 256, 512))
            changes = reader.bit(element_bits[crowd][active])
            near = (near << 1 | changes) & 0xFFFF
            activity[i] += 128 * changes - (activity[i] >> 3)
            value = 0
            if changes:
                below = reader.bit(falls[1 + (last[i] > 0) - (last[i] < 0)])
                value = reader.magnitude(sizes[abs(last[i]) > 1])
                last[i] = value = -value if below else value
            row.append(value)
        found.append(row)
    return found


def parts(model, c):
    """Names, kinds and sizes of all matrices, for the header `c` of the base."""
    d, inner, kv = c["width"], c["heads"] * c["head_size"], c["kv_heads"] * c["head_size"]
    slots = len(c["orders"]) + len(c["seconds"])
    yield "embed.token", "table", c["vocab"] + 1, d
    for k in range(slots):
        yield "embed.match.%d" % k, "table", c["vocab"], d
        yield "embed.class.%d" % k, "table", 17, d
    for n, (_, r) in enumerate(c["ngrams"]):
        yield "embed.ngram.%d" % n, "ngram", 1 << r, d
    latent = c["latent"]
    sets = ["expert.%d." % e if e else "" for e in range(latent.get("experts", 1) if latent else 1)]
    up = 2 * c["ff"] if c["activation"] == "gated-gelu" else c["ff"]
    for prefix in sets:
        for layer in range(c["layers"]):
            name = "%sdecoder.%d." % (prefix, layer)
            yield name + "qkv", "product", inner + 2 * kv, d
            yield name + "out", "product", d, inner
            yield name + "up", "product", up, d
            yield name + "down", "product", d, c["ff"]
            if latent and latent["layers"]:
                yield name + "cross_q", "product", inner, d
                yield name + "cross_kv", "product", 2 * inner, d
                yield name + "cross_out", "product", d, inner
    for prefix in sets:
        yield prefix + "head", "product", c["vocab"], d
        if c["copy"]:
            yield prefix + "copy", "product", slots, d
    if c["copy"]:
        for prefix in sets:
            yield prefix + "copy.bias", "bias", slots, 17


class Delta:
    """Reads a delta to the base whose header is `c`, and applies its changes to the header."""

    def __init__(self, data, c):
        require(data[:9] == MAGIC + b"\x01", "delta: not a delta, or of another version")
        name, training = data[41], int.from_bytes(data[42:44], "little")
        require(len(data) >= 44 + name + training, "delta: it is cut short")
        c["name"] = data[44:44 + name].decode("utf-8")
        c["training"] = json.loads(data[44 + name:44 + name + training].decode("utf-8"))
        reader = Reader(data[44 + name + training:])
        self.first = reader.raw(8)
        experts = c["latent"].get("experts", 1) if c["latent"] else 1
        require(self.first < experts, "delta: it names a set of weights that the base has not")
        self.changes, context = {}, Bit(1 << 13)
        for part, kind, rows, columns in parts(self, c):
            if reader.bit(context):
                step = reader.raw(24)
                require(step > 0, "delta: a step of zero")
                self.changes[part] = step, differences(reader, kind, rows, columns)
        if self.first:
            prefix = "expert.%d." % self.first
            c["shifts"].update({key[len(prefix):]: shift for key, shift in c["shifts"].items()
                                if key.startswith(prefix)})
            if c.get("adapt"):
                c["adapt"][0] = c["adapt"][self.first]

    def source(self, name):
        """The name in the base of the tensor that becomes `name`."""
        own = self.first and name.split(".")[0] in ("decoder", "head", "copy")
        return "expert.%d.%s" % (self.first, name) if own else name

    def weights(self, name, weight, scale, pre):
        """The changed rows and scales; `pre` is the shift of a product."""
        step, rows = self.changes.get(name, (0, []))
        weight, scale = list(weight), list(scale)
        for at, row in enumerate(rows):
            if row is None or not any(row):
                continue
            values = [w * scale[at] + change * step for w, change in zip(weight[at], row)]
            new = max(1, -(-max(map(abs, values)) // 127))
            while True:
                require(new <= 65535, "delta: a row of %s changes beyond its bounds" % name)
                weight[at] = [(2 * value + new) // (2 * new) for value in values]
                if pre is None or 127 * sum(map(abs, weight[at])) < (1 << (14 + pre)) - (1 << pre):
                    break
                new += new // 32 + 1
            scale[at] = new
        return weight, scale

    def biases(self, name, bias):
        step, rows = self.changes.get(name, (0, []))
        changed = [list(row) for row in bias]
        for old, row in zip(changed, rows):
            for i, change in enumerate(row or []):
                old[i] = min(max(old[i] + change * step, -(1 << 20)), 1 << 20)
        return changed
