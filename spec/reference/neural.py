"""Neural chunks (numerics.md sections 3, 6 to 8 and 10)."""

from operator import mul

from coder import Decoder
from errors import require
from numerics import (FIELD, SLOT_EXP, attend, clamp, exp2neg, gelu, halves, normalize,
                      pack, quantize, rshift, unpack)

STREAM = 1 << 29
KEY = 2047
BIAS = 1 << 20
LEARNED = 1 << 28
HASH = 2654435769
MASK = 0xFFFFFFFF


class History:
    """The history array and its match tables (section 3)."""

    def __init__(self, model, references, raw_len):
        self.model = model
        self.separator = model.vocab
        capacity = sum(map(len, references)) + raw_len
        self.bits = clamp((capacity - 1).bit_length(), 10, 20)
        self.tables = [{} for _ in model.orders]
        self.deepest = max(model.orders + [n for n, _ in model.ngrams] + [0])
        self.a = []
        self.look_up()
        for plain in references:
            for token in [self.separator] + model.tokens(plain):
                self.push(token)
        self.push(self.separator)

    def look_up(self):
        """Hashes, verified entries and slots for the next position."""
        a, i = self.a, len(self.a)
        h, self.hashes = 0, [0]
        for j in range(1, self.deepest + 1):
            h = (h ^ ((a[i - j] if j <= i else self.separator) + 1)) * HASH & MASK
            self.hashes.append(h)
        self.found = []  # for each order: the table's index and the entry if it is verified
        firsts, seconds = [], []
        for n, table in zip(self.model.orders, self.tables):
            first, second = (None, 0), (None, 0)
            if i < n:
                self.found.append((None, None))
            else:
                index = self.hashes[n] >> (32 - self.bits)
                entry = table.get(index)
                if entry is not None and a[entry[0] - n:entry[0]] != a[i - n:i]:
                    entry = None
                self.found.append((index, entry))
                if entry is not None:
                    pos, hits, other = entry
                    if a[pos] != self.separator:
                        longer = self.longer(pos, n) if n == self.model.orders[-1] else 0
                        first = a[pos], 1 + min(hits, 3) + 4 * longer
                    if other != self.separator:
                        second = other, 1 + min(hits, 3)
            firsts.append(first)
            if n in self.model.seconds:
                seconds.append(second)
        self.slots = firsts + seconds

    def longer(self, pos, n):
        """How far the elements before the context agree, as a class."""
        a, i, length = self.a, len(self.a), 0
        while length < 32 and n + length + 1 <= pos and a[pos - n - length - 1] == a[i - n - length - 1]:
            length += 1
        return 0 if length < 4 else 1 if length < 16 else 2 if length < 32 else 3

    def push(self, token):
        """Appends a known element, updates the tables and looks up what follows."""
        i = len(self.a)
        for table, (index, entry) in zip(self.tables, self.found):
            if index is None:
                continue
            if entry is None:
                table[index] = i, 0, self.separator
            elif self.a[entry[0]] == token:
                table[index] = i, min(entry[1] + 1, 255), entry[2]
            else:
                table[index] = i, 0, self.a[entry[0]]
        self.a.append(token)
        self.look_up()


class Cache:
    """Keys and values of attended positions, newest first, for each kv head.

    Keys are kept by dimension: one packed integer whose field is the position, the newest lowest,
    so that a query's score at all positions is one sum of products.
    """

    def __init__(self, heads, size, limit):
        self.size, self.limit = size, limit
        self.columns = [[0] * size for _ in range(heads)]
        self.keys = [[] for _ in range(heads)]
        self.values = [[] for _ in range(heads)]

    def push(self, keys, values):
        for g, columns in enumerate(self.columns):
            at = g * self.size
            key = keys[at:at + self.size]
            self.columns[g] = columns = [(column << FIELD) + k for column, k in zip(columns, key)]
            self.keys[g].insert(0, key)
            self.values[g].insert(0, pack(values[at:at + self.size]))
            if len(self.values[g]) > self.limit:
                self.values[g].pop()
                high = FIELD * self.limit
                self.columns[g] = [column - (k << high) for column, k in zip(columns, self.keys[g].pop())]

    def attention(self, query, score, bias):
        """The output of all heads; `bias` gives each head's list by distance, or None."""
        out = []
        count = len(self.values[0])
        share = len(query) // self.size // len(self.values)
        for g in range(len(query) // self.size):
            kv = g // share
            sums = unpack(sum(map(mul, query[g * self.size:(g + 1) * self.size], self.columns[kv])), count, halves(count))
            half = 1 << score >> 1
            scores = [(z + half) >> score for z in sums]
            if bias is not None:
                scores = [z + b for z, b in zip(scores, bias(g))]
            out += unpack(attend(scores, self.values[kv]), self.size, halves(self.size))
        return out


def add(h, y):
    return [clamp(a + b, -STREAM, STREAM) for a, b in zip(h, y)]


def clamp_keys(y):
    return [clamp(v, -KEY, KEY) for v in y]


def project(linear, h):
    """`linear` of the normalized residual stream."""
    q = quantize(h)[0]
    return linear(q, *normalize(q))


def feed_forward(model, layer, h, gains=None):
    u = project(layer.up, h)
    if gains is not None:
        f = [min(rshift(clamp(v, 0, 32767) * gain, 12), 32767) ** 2 for v, gain in zip(u, gains)]
    elif model.activation == "relu2":
        f = [clamp(v, 0, 32767) ** 2 for v in u]
    elif model.activation == "relu":
        f = [clamp(v, 0, 1 << 30) for v in u]
    else:
        u = [clamp(v, -32767, 32767) for v in u]
        half = len(u) // 2
        f = [gelu(v, layer.gelu) * g for v, g in zip(u[:half], u[half:])]
    return add(h, layer.down(*quantize(f)))


def encode_latent(model, c):
    """The encoder of c (section 8): q, m, e for each symbol."""
    streams = [[rshift(v, model.latent_shift) for v in model.latent_embed[symbol]] for symbol in c]
    inner = model.heads * model.head_size
    for layer in model.latent_layers:
        cache = Cache(model.heads, model.head_size, len(c))
        queries = []
        for h in streams:
            y = clamp_keys(project(layer.qkv, h))
            queries.append(y[:inner])
            cache.push(y[inner:2 * inner], y[2 * inner:])
        reach = len(layer.bias[0]) // 2
        for t, (h, query) in enumerate(zip(streams, queries)):
            # Positions stand newest first: from the last symbol to the first.
            places = [clamp(other - t, -reach, reach) + reach for other in range(len(c) - 1, -1, -1)]
            o = cache.attention(query, layer.score, lambda g: [layer.bias[g][p] for p in places])
            h = add(h, layer.out(*quantize(o)))
            streams[t] = feed_forward(model, layer, h)
    encoded = []
    for h in streams:
        q = quantize(h)[0]
        encoded.append((q,) + normalize(q))
    return encoded


class Steering:
    """What c changes without attention (section 8.2)."""

    def __init__(self, model, c):
        def total(part):
            table, shift = part
            return [rshift(sum(column), shift) for column in zip(*[table[symbol] for symbol in c])]

        self.input = total(model.steer_input)
        self.gains = [[clamp(4096 + v, 0, 16383) for v in total(part)] for part in model.steer_gains]
        self.head = [clamp(v, -BIAS, BIAS) for v in total(model.steer_head)]
        if model.copy:
            sums = total(model.steer_copy)
            biases = model.set_of(c).copy_bias
            width = len(biases[0])
            self.copy = [[clamp(bias + more, -BIAS, BIAS) for bias, more in zip(row, sums[k * width:])]
                         for k, row in enumerate(biases)]


class Predictor:
    """The decoder network over one chunk (sections 6 and 7)."""

    def __init__(self, model, c):
        self.model = model
        self.set = model.set_of(c)
        window = model.window or 4096
        self.caches = [Cache(layer.kv_heads, model.head_size, window) for layer in self.set.layers]
        self.biases = []
        for layer in self.set.layers:
            self.biases.append([list(row) + [row[-1]] * (window - len(row)) for row in layer.bias])
        self.learned = [0] * model.vocab
        self.steering = Steering(model, c) if c and model.steer_input is not None else None
        self.cross = None
        if c and model.latent_layers:
            encoded = encode_latent(model, c)
            inner = model.heads * model.head_size
            self.cross = []
            for layer in self.set.layers:
                cache = Cache(model.heads, model.head_size, len(c))
                for q, m, e in encoded:
                    y = clamp_keys(layer.cross_kv(q, m, e))
                    cache.push(y[:inner], y[inner:])
                self.cross.append(cache)

    def embed(self, history):
        model = self.model
        rows = [model.token[history.a[-1]]]
        for k, (candidate, cls) in enumerate(history.slots):
            if candidate is not None:
                rows.append(model.match[k][candidate])
            rows.append(model.classes[k][cls])
        for table, (n, r) in zip(model.ngram, model.ngrams):
            rows.append(table[history.hashes[n] >> (32 - r)])
        return [rshift(sum(column), model.embed_shift) for column in zip(*rows)]

    def slots(self, history):
        """Coder slots of the next token."""
        model = self.model
        h = self.embed(history)
        steering = self.steering
        if steering is not None:
            h = add(h, steering.input)
        inner = model.heads * model.head_size
        for place, layer in enumerate(self.set.layers):
            y = clamp_keys(project(layer.qkv, h))
            kv = layer.kv_heads * model.head_size
            self.caches[place].push(y[inner:inner + kv], y[inner + kv:])
            o = self.caches[place].attention(y[:inner], layer.score, self.biases[place].__getitem__)
            h = add(h, layer.out(*quantize(o)))
            if self.cross is not None:
                query = clamp_keys(project(layer.cross_q, h))
                o = self.cross[place].attention(query, layer.cross_score, None)
                h = add(h, layer.cross_out(*quantize(o)))
            h = feed_forward(model, layer, h, steering.gains[place] if steering is not None else None)
        q = quantize(h)[0]
        m, e = normalize(q)
        z = self.set.head(q, m, e)
        if steering is not None:
            z = add(z, steering.head)
        if model.copy:
            biases = steering.copy if steering is not None else self.set.copy_bias
            for k, gate in enumerate(self.set.copy(q, m, e)):
                candidate, cls = history.slots[k]
                if candidate is not None:
                    z[candidate] = clamp(z[candidate] + gate + biases[k][cls], -STREAM, STREAM)
        if self.set.adapt:
            z = [v + (b >> 8) for v, b in zip(z, self.learned)]
        top = max(z)
        return [slot + 1 for slot in exp2neg([top - v for v in z], SLOT_EXP)]

    def learn(self, slots, token):
        """Lets the bias learn that this token came under these slots."""
        rate = self.set.adapt
        if not rate:
            return
        total = sum(slots)
        shift = min(31, total.bit_length() + 7 - rate.bit_length())
        factor = (rate << 7 + shift) // total
        self.learned = [max(b - ((slot >> 7) * factor >> shift), -LEARNED) for b, slot in zip(self.learned, slots)]
        self.learned[token] = min(self.learned[token] + rate, LEARNED)


def read_latent(model, coder):
    """Reads the learned sequence c."""
    c = []
    if model.latent is None:
        return c
    while len(c) < model.latent_max:
        row = c[-1] if c else model.latent
        symbol = coder.symbol(model.prior[row if len(model.prior) > 1 else 0])
        if symbol == model.latent:
            break
        c.append(symbol)
    return c


def decode(model, payload, references, raw_len):
    """The raw bytes of a chunk, decoded with those of the chunks that it names (section 10)."""
    require(not payload.endswith(b"\0"), "a neural payload ends in a zero byte")
    coder = Decoder(payload)
    predictor = Predictor(model, read_latent(model, coder))
    history = History(model, references, raw_len)
    out = bytearray()
    most = raw_len if model.window else 4096  # tokens; each has at least one byte
    while len(out) < raw_len:
        require(most > 0, "a neural chunk has too many tokens for a model without window")
        most -= 1
        slots = predictor.slots(history)
        token = coder.symbol(slots)
        predictor.learn(slots, token)
        out += model.strings[token]
        history.push(token)
    require(len(out) == raw_len, "a neural chunk's last token passes its end")
    return bytes(out)
