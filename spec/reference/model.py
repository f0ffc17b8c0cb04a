"""The model file (numerics.md sections 2 and 11): reading it, with all checks.

A delta is applied on the way.
"""

import json
import struct

from blake3 import hash_bytes
from delta import Delta
from errors import Refused, require
from numerics import Linear

WIDTHS = {"I8": (1, "b"), "U8": (1, "B"), "U16": (2, "H"), "I32": (4, "i"), "U32": (4, "I")}
KEYS = {"format", "numerics", "name", "width", "layers", "heads", "kv_heads", "head_size", "ff", "window",
        "activation", "vocab", "orders", "seconds", "ngrams", "copy", "latent", "shifts", "training"}
NAME = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
CLASSES = 17


def _unique(pairs):
    require(len({key for key, _ in pairs}) == len(pairs), "model: a JSON key stands twice")
    return dict(pairs)


def _count(value, low, high, what):
    require(type(value) is int and low <= value <= high, "model: %s is out of range" % what)
    return value


class Table:
    """Rows of an embedding, times their scales."""

    def __init__(self, rows, scale):
        self.rows, self.scale, self.cache = rows, scale, {}

    def __getitem__(self, row):
        if row not in self.cache:
            scale = self.scale[row]
            self.cache[row] = [w * scale for w in self.rows[row]]
        return self.cache[row]


class Layer:
    """The products of one layer, of the decoder or of the encoder of c."""


class Set:
    """The decoder's layers, head, copy gates, and the rate of the bias that learns."""


class Model:
    def __init__(self, data, delta=None):
        """Reads a model from its file, or from the file of its base and a delta."""
        self.fingerprint = hash_bytes(data if delta is None else delta)
        try:
            config, self.tensors = read_safetensors(data)
            self.left = set(self.tensors)
            self.delta = None if delta is None else Delta(delta, config)
            self.read(config)
        except (KeyError, TypeError, ValueError, struct.error, UnicodeDecodeError) as error:
            raise Refused("model: not a model file (%r)" % error) from error
        require(not self.left or self.delta, "model: unknown tensors: %s" % ", ".join(self.left))
        require(not self.shifts, "model: unknown shifts: %s" % ", ".join(self.shifts))

    def read(self, c):
        require(c["format"] == "s3a-model", "model: not an s3a model")
        require(type(c["numerics"]) is int and 1 <= c["numerics"] <= 2, "model: unknown numerics version")
        adapts = c["numerics"] == 2
        require(set(c) - {"adapt"} == KEYS, "model: missing or unknown keys")
        self.name = c["name"]
        require(0 < len(self.name) <= 64 and set(self.name) <= NAME, "model: its name is not allowed")
        d = self.width = _count(c["width"], 1, 2048, "width")
        self.heads = _count(c["heads"], 1, 2048, "heads")
        self.kv_heads = _count(c["kv_heads"], 1, self.heads, "kv_heads")
        size = self.head_size = _count(c["head_size"], 8, 128, "head_size")
        require(size % 8 == 0 and self.heads * size <= 2048, "model: heads are too large")
        require(self.heads % self.kv_heads == 0, "model: heads are no multiple of kv_heads")
        self.window = _count(c["window"], 0, 4096, "window")
        self.activation = c["activation"]
        require(self.activation in ("relu2", "relu", "gated-gelu"), "model: unknown activation")
        self.vocab = _count(c["vocab"], 256, 65535, "vocab")
        self.orders, self.seconds = c["orders"], c["seconds"]
        for order in self.orders:
            _count(order, 1, 32, "order")
        require(self.orders == sorted(set(self.orders)), "model: orders do not ascend")
        require(self.seconds == sorted(set(self.seconds)) and set(self.seconds) <= set(self.orders),
                "model: seconds are no selection of the orders")
        self.slots = len(self.orders) + len(self.seconds)
        require(self.slots <= 8, "model: too many slots")
        require(len(c["ngrams"]) <= 15, "model: too many n-gram tables")
        self.ngrams = [(_count(n, 1, 32, "order"), _count(r, 1, 22, "ngram size")) for n, r in c["ngrams"]]
        require(type(c["copy"]) is bool, "model: copy is no truth value")
        require(self.slots > 0 or not c["copy"], "model: copy gates without match orders")
        self.shifts = dict(c["shifts"])
        latent = c["latent"]
        crosses = latent is not None and latent["layers"] != 0

        self.read_vocab()
        self.embed_shift = self.number("embed", 31)
        self.token = self.table("embed.token", self.vocab + 1)
        self.match = [self.table("embed.match.%d" % k, self.vocab) for k in range(self.slots)]
        self.classes = [self.table("embed.class.%d" % k, CLASSES) for k in range(self.slots)]
        self.ngram = [self.table("embed.ngram.%d" % n, 1 << r) for n, (_, r) in enumerate(self.ngrams)]
        ff = _count(c["ff"], 1, 2048, "ff")
        count = _count(c["layers"], 1, 64, "layers")
        experts = _count(latent.get("experts", 1), 1, min(256, latent["symbols"] + 1), "experts") if latent else 1
        rates = c.get("adapt", [])
        require(len(rates) == (experts if adapts else 0), "model: adapt has no rate for each set of weights")
        rates = [_count(rate, 0, (1 << 18) - 1, "adapt") for rate in rates] or [0] * experts
        self.sets = [self.weight_set("expert.%d." % e if e else "", count, ff, crosses, c["copy"])
                     for e in range(experts)]
        for found, rate in zip(self.sets, rates):
            found.adapt = rate
        self.copy = c["copy"]
        self.latent, self.steer_input = None, None
        if latent is not None:
            require(set(latent) | {"steer", "experts"} == {"symbols", "max", "layers", "ff", "steer", "experts"},
                    "model: missing or unknown latent keys")
            self.latent = _count(latent["symbols"], 1, 65534, "latent symbols")
            self.latent_max = _count(latent["max"], 1, 4096, "latent max")
            self.prior = self.tensor("latent.prior", "U32", (-1, self.latent + 1))
            require(len(self.prior) in (1, self.latent + 1), "model: latent.prior has another shape")
            require(all(1 <= slot <= 1 << 16 for row in self.prior for slot in row),
                    "model: a prior slot is out of range")
            self.latent_layers = []
            if crosses:
                self.read_encoder(latent)
            else:
                _count(latent["ff"], 0, 0, "latent ff")
            steer = latent.get("steer", False)
            require(type(steer) is bool, "model: steer is no truth value")
            require(crosses or steer or experts > 1, "model: nothing reads the learned sequence")
            if steer:
                require(self.activation == "relu2" and self.latent_max <= 64, "model: cannot be steered")
                self.read_steering(ff, count)

    def weight_set(self, prefix, layers, ff, crosses, copy):
        """One set of the decoder's weights; c chooses one if there are several."""
        found = Set()
        found.layers = [self.layer("%sdecoder.%d" % (prefix, i), self.kv_heads, ff, crosses)
                        for i in range(layers)]
        found.head = self.linear(prefix + "head", self.vocab, self.width)
        if copy:
            found.copy = self.linear(prefix + "copy", self.slots, self.width)
            found.copy_bias = self.bounded(prefix + "copy.bias", (self.slots, CLASSES))
        return found

    def set_of(self, c):
        """The weights for a chunk with this c (section 8.3)."""
        if not c or len(self.sets) == 1:
            return self.sets[0]
        return self.sets[1 + c[0] % (len(self.sets) - 1)]

    def read_steering(self, ff, layers):
        """Reads the tables that steer, and their shifts (section 8.2)."""
        self.steer_input = self.steer_table("steer.input", self.width)
        self.steer_gains = [self.steer_table("steer.%d.gain" % i, ff) for i in range(layers)]
        self.steer_head = self.steer_table("steer.head", self.vocab)
        if self.copy:
            self.steer_copy = self.steer_table("steer.copy", self.slots * CLASSES)

    def steer_table(self, name, columns):
        return Table(*self.weights(name, self.latent, columns)), self.number(name, 31)

    def read_encoder(self, latent):
        self.latent_shift = self.number("latent_embed", 31)
        self.latent_embed = self.table("latent.embed", self.latent)
        ff = _count(latent["ff"], 1, 2048, "latent ff")
        self.latent_layers = [self.layer("latent.%d" % i, self.heads, ff, False)
                              for i in range(_count(latent["layers"], 1, 64, "latent layers"))]
        for layer in self.latent_layers:
            require(len(layer.bias[0]) % 2 == 1, "model: a latent bias has an even number of columns")

    def read_vocab(self):
        """Reads the vocabulary (section 2)."""
        lengths = self.tensor("vocab.lengths", "U8", (self.vocab,))
        joined = bytes(self.tensor("vocab.bytes", "U8", (sum(lengths),)))
        self.strings, at = [], 0
        for length in lengths:
            require(1 <= length <= 32, "model: a token's length is out of range")
            self.strings.append(joined[at:at + length])
            at += length
        self.ids = {string: i for i, string in enumerate(self.strings)}
        require(len(self.ids) == self.vocab, "model: a token stands twice")
        require(all(bytes([b]) in self.ids for b in range(256)), "model: a single byte is no token")
        self.longest = max(lengths)

    def tokens(self, data):
        """Greedy tokenization."""
        out, at = [], 0
        while at < len(data):
            for length in range(self.longest, 0, -1):
                token = self.ids.get(data[at:at + length])
                if token is not None and at + length <= len(data):
                    break
            out.append(token)
            at += length
        return out

    # Tensors and shifts, each taken out as it is read, so that what is left over is unknown.

    def number(self, name, high):
        return _count(self.shifts.pop(name), 0, high, "shift %s" % name)

    def tensor(self, name, kind, shape):
        """The values of a tensor: a list, or a list of rows; -1 in a shape stands for any size."""
        require(name in self.tensors, "model: tensor %s is missing" % name)
        found, sizes, data = self.tensors[name]
        self.left.discard(name)
        require(found == kind, "model: tensor %s has another type" % name)
        require(len(sizes) == len(shape) and all(want in (-1, size) for want, size in zip(shape, sizes)),
                "model: tensor %s has another shape" % name)
        values = struct.unpack("<%d%s" % (len(data) // WIDTHS[kind][0], WIDTHS[kind][1]), data)
        if len(sizes) == 1:
            return list(values)
        return [values[r * sizes[1]:(r + 1) * sizes[1]] for r in range(sizes[0])]

    def source(self, name):
        return self.delta.source(name) if self.delta else name

    def bounded(self, name, shape):
        bias = self.tensor(self.source(name), "I32", shape)
        if self.delta:
            bias = self.delta.biases(name, bias)
        require(all(abs(v) <= 1 << 20 for row in bias for v in row), "model: %s is out of range" % name)
        return bias

    def weights(self, name, rows, columns, pre=None):
        """Weights and scales of a matrix; `pre` is the shift of a product."""
        full = self.source(name) + ".weight"
        if self.tensors[full][0] == "U8":
            require(full.startswith("expert."), "model: %s is a difference to no tensor" % name)
            first = self.tensor(full.split(".", 2)[2], "I8", (rows, columns))
            weight = [[(own + base + 128) % 256 - 128 for own, base in zip(*pair)]
                      for pair in zip(self.tensor(full, "U8", (rows, columns)), first)]
        else:
            weight = self.tensor(full, "I8", (rows, columns))
        require(all(v != -128 for row in weight for v in row), "model: a weight of %s is -128" % name)
        return self.changed(name, weight, self.scales(name, rows), pre)

    def changed(self, name, weight, scale, pre=None):
        return self.delta.weights(name, weight, scale, pre) if self.delta else (weight, scale)

    def scales(self, name, rows):
        scale = self.tensor(self.source(name) + ".scale", "U16", (rows,))
        require(all(scale), "model: a scale of %s is 0" % name)
        return scale

    def table(self, name, rows):
        if self.tensors[name + ".weight"][0] == "U8" and self.width % 2 == 0:
            halves = self.tensor(name + ".weight", "U8", (rows, self.width // 2))
            weight = [[v for byte in row for v in ((byte & 15) - 8, (byte >> 4) - 8)] for row in halves]
            return Table(*self.changed(name, weight, self.scales(name, rows)))
        return Table(*self.weights(name, rows, self.width))

    def linear(self, name, rows, columns):
        both = self.shifts.pop(name)
        require(set(both) == {"pre", "shift"}, "model: shift %s has other keys" % name)
        pre, shift = _count(both["pre"], 0, 31, "pre"), _count(both["shift"], 0, 31, "shift")
        weight, scale = self.weights(name, rows, columns, pre)
        for row in weight:
            require(127 * sum(map(abs, row)) < (1 << (14 + pre)) - (1 << pre), "model: a row of %s is too large" % name)
        return Linear(weight, scale, pre, shift)

    def layer(self, name, kv_heads, ff, cross):
        d, inner, kv = self.width, self.heads * self.head_size, kv_heads * self.head_size
        layer = Layer()
        layer.kv_heads = kv_heads
        layer.qkv = self.linear(name + ".qkv", inner + 2 * kv, d)
        layer.score = self.number(name + ".score", 30)
        layer.bias = self.bounded(name + ".bias", (self.heads, -1))
        high = 2 * 4096 + 1 if name.startswith("latent") else 4096
        require(1 <= len(layer.bias[0]) <= high, "model: a bias has too many columns")
        layer.out = self.linear(name + ".out", d, inner)
        gated = self.activation == "gated-gelu"
        layer.up = self.linear(name + ".up", 2 * ff if gated else ff, d)
        layer.gelu = self.number(name + ".gelu", 14) if gated else None
        layer.down = self.linear(name + ".down", d, ff)
        if cross:
            layer.cross_q = self.linear(name + ".cross_q", inner, d)
            layer.cross_kv = self.linear(name + ".cross_kv", 2 * inner, d)
            layer.cross_out = self.linear(name + ".cross_out", d, inner)
            layer.cross_score = self.number(name + ".cross_score", 30)
        return layer


def read_safetensors(data):
    """The `s3a` configuration, and the tensors by name: type, shape, bytes."""
    length = struct.unpack("<Q", data[:8])[0]
    require(8 + length <= len(data), "model: its header ends early")
    header = json.loads(data[8:8 + length].decode("utf-8"), object_pairs_hook=_unique)
    body = data[8 + length:]
    config = json.loads(header.pop("__metadata__")["s3a"], object_pairs_hook=_unique)
    tensors, spans = {}, []
    for name, info in header.items():
        start, end = info["data_offsets"]
        size = WIDTHS.get(info["dtype"], (0, ""))[0]
        require(size > 0, "model: tensor %s has an unknown type" % name)
        for n in info["shape"]:
            size *= _count(n, 0, 1 << 32, "a shape")
        require(0 <= start and end <= len(body) and end - start == size, "model: tensor %s lies outside" % name)
        tensors[name] = info["dtype"], info["shape"], body[start:end]
        spans.append((start, end))
    at = 0
    for start, end in sorted(spans):
        require(start == at, "model: tensors overlap or leave gaps")
        at = end
    require(at == len(body), "model: bytes follow the tensors")
    return config, tensors
