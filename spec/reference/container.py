"""The container (format.md): an archive read from front to back, with every check.

`Archive(data)` parses all records; `load_models`, `decode` and `check_files` then do the rest, in
this order.
"""

import struct
import zlib

import neural
import lz
import zstd
from blake3 import hash_bytes
from errors import Refused, require
from delta import MAGIC as DELTA
from model import Model

MAGIC = bytes.fromhex("895333410D0A1A0A")
FRAME = bytes.fromhex("F5533346")
TRAILER = bytes.fromhex("F5533354")
END = bytes.fromhex("5333410A")
HEADER_LEN, TRAILER_LEN = 40, 32
MODELS, MODEL, GROUP, ENTRIES, TABLE, INDEX, DICTIONARY = range(1, 8)
RECORDS = {MODELS: "MODELS", MODEL: "MODEL", GROUP: "GROUP", ENTRIES: "ENTRIES", TABLE: "TABLE", INDEX: "INDEX",
           DICTIONARY: "DICTIONARY"}
FOLDER, FILE, SYMLINK, HARDLINK, FIFO, SOCKET, CHARACTER, BLOCK = range(8)
STORED, ZSTD, NEURAL, LZ = range(4)
MIB = 1 << 20


class Cursor:
    """Primitive values (section 2.1) from a byte string."""

    def __init__(self, data, what, at=0, end=None):
        self.data, self.what, self.at = data, what, at
        self.end = len(data) if end is None else end

    def take(self, count):
        require(count <= self.end - self.at, "%s ends early, at byte %d" % (self.what, self.at))
        self.at += count
        return self.data[self.at - count:self.at]

    def u8(self):
        return self.take(1)[0]

    def u16(self):
        return int.from_bytes(self.take(2), "little")

    def u32(self):
        return int.from_bytes(self.take(4), "little")

    def u64(self):
        return int.from_bytes(self.take(8), "little")

    def varint(self, most=2**64 - 1):
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            require(shift < 70, "%s: a varint is too long" % self.what)
        require(shift == 7 or byte != 0, "%s: a varint has more bytes than it needs" % self.what)
        require(value < 2**64, "%s: a varint is too large" % self.what)
        require(value <= most, "%s: a value exceeds its limit, before byte %d" % (self.what, self.at))
        return value

    def zigzag(self):
        value = self.varint()
        return -(value + 1) // 2 if value % 2 else value // 2

    def finish(self):
        require(self.at == self.end, "%s holds more than it should" % self.what)


def signed(value):
    """Wraps a sum at 64 bits (section 2.1)."""
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value


def check_crc(data, stored, what):
    require(zlib.crc32(data) == stored, "%s is damaged: its CRC-32 differs" % what)


class Header:
    """The header (section 3)."""

    def __init__(self, data):
        require(data[:8] == MAGIC, "not an s3a archive")
        c = Cursor(data, "the header", 8)
        major, _minor, length = c.u16(), c.u16(), c.u16()
        depth, reserved, required, _optional = c.u8(), c.u8(), c.u32(), c.u32()
        self.depth, self.chunk_size, self.window, self.group_len = depth, c.u32(), c.u32(), c.u32()
        crc = c.u32()
        if major != 1 and (length != HEADER_LEN or zlib.crc32(data[:36]) == crc):
            raise Refused("format version %d is unknown; this reader knows version 1" % major)
        check_crc(data[:36], crc, "the header")
        require(length == HEADER_LEN, "the header's length is not 40")
        require(depth <= 8, "the header's reference depth exceeds 8")
        require(reserved == 0, "a reserved byte of the header is not 0")
        require(required == 0, "the archive needs features that are unknown: %#x" % required)
        require(4096 <= self.chunk_size <= MIB, "the chunk size is out of range")
        require(self.window * self.chunk_size <= 64 * MIB, "the reference window is too large")
        require(self.chunk_size <= self.group_len <= 64 * MIB, "the group length is out of range")


class Frame:
    """A frame (section 4): kind, unpacked content, place, length, CRC."""

    def __init__(self, data, at):
        c = Cursor(data, "a frame", at)
        require(c.take(4) == FRAME, "no frame at byte %d" % at)
        self.start, self.kind, flags = at, c.u8(), c.u8()
        packed, self.skippable = flags & 1, flags & 2
        self.name = "%s frame at byte %d" % (RECORDS.get(self.kind, "unknown"), at)
        require(flags < 4, "%s: an unknown flag is set" % self.name)
        stored = c.u32()
        plain = c.u32() if packed else stored
        limit = {MODEL: 512, DICTIONARY: 1}.get(self.kind, 64) * MIB
        require(stored <= limit and plain <= limit, "%s: too long" % self.name)
        require(plain <= 4 * MIB + 64 * stored, "%s: unpacks to too much" % self.name)
        content = c.take(stored)
        covered = data[at:c.at]
        self.crc = c.u32()
        check_crc(covered, self.crc, self.name)
        self.end = c.at
        self.known = self.kind in RECORDS
        require(self.known or self.skippable, "%s: its kind %d is unknown" % (self.name, self.kind))
        require(not (self.known and self.skippable), "%s: marked as skippable" % self.name)
        if packed:
            content = zstd.decompress(content, plain)
            require(len(content) == plain, "%s: unpacks to another length" % self.name)
        self.content = content

    def cursor(self):
        return Cursor(self.content, self.name)


class ModelEntry:
    def __init__(self, c):
        self.fingerprint, flags = c.take(32), c.u8()
        require(flags < 2, "%s: an unknown model flag is set" % c.what)
        self.embedded = flags == 1
        self.name = c.take(c.varint(255)).decode("utf-8", "strict")

    def key(self):
        return self.fingerprint, self.embedded, self.name


def read_models(c):
    """Content of MODELS (section 5)."""
    try:
        return [ModelEntry(c) for _ in range(c.varint(255))]
    except UnicodeDecodeError as error:
        raise Refused("%s: a model's name is not UTF-8" % c.what) from error


class Entry:
    """One file, directory, link or device."""

    def __init__(self):
        self.size, self.extents, self.hash = 0, [], None
        self.target, self.device, self.attributes = None, None, []


def data_len(entry):
    return sum(length for _, _, length in entry.extents)


class Group:
    """Content of GROUP (section 6)."""

    def __init__(self, c, header, model_count):
        self.salt = c.u32()
        self.raw_len = c.varint(header.group_len)
        self.chunk_size = c.varint(header.chunk_size)
        require(self.chunk_size >= 4096, "%s: the chunk size is too small" % c.what)
        self.chunk_count = c.varint(65536)
        self.most_named = header.chunk_size
        require(self.chunk_count <= self.raw_len <= self.chunk_count * MIB,
                "%s: raw length and chunk count disagree" % c.what)
        self.entry_count = c.varint(65536)
        self.dictionary_len, self.body_len = c.varint(), c.varint()
        require(10 * self.chunk_count <= self.body_len - self.dictionary_len <= self.raw_len + 72 * self.chunk_count,
                "%s: the body length is out of range" % c.what)
        self.dictionary = None
        self.models = [c.u8() for _ in range(c.varint(255))]
        require(all(m < model_count for m in self.models), "%s: names a model that is not listed" % c.what)


class Chunk:
    """A chunk's frame (section 8), with its CRC checked and nothing decoded."""

    def __init__(self, c, group, number, place, window):
        self.what, self.group = "chunk %d" % place, group
        start = c.at
        head = c.u16()
        form, length = head >> 13, head & 8191
        if length == 8191:
            length += c.varint(MIB)
        self.raw_len, self.model, model, count = group.chunk_size, None, 0, 0
        if form <= 4:
            self.codec, count = NEURAL, form
        elif form == 5:
            self.codec = ZSTD
        elif form == 6:
            self.codec = STORED
        else:
            extension = c.u8()
            self.codec, given, count = extension & 7, extension & 8, extension >> 4
            require(self.codec <= LZ, "%s: its codec is unknown" % self.what)
            require(count <= 8, "%s: more than 8 references" % self.what)
            if self.codec == NEURAL:
                model = c.u8()
            if given:
                self.raw_len = c.varint(MIB if self.codec in (STORED, LZ) else group.chunk_size)
                require(self.raw_len > 0, "%s: no raw bytes" % self.what)
                require(self.raw_len != group.chunk_size, "%s: gives the chunk size as its raw length" % self.what)
            shorter = count <= 4 and model == 0 if self.codec == NEURAL else count == 0 and self.codec != LZ
            require(self.raw_len != group.chunk_size or not shorter,
                    "%s: in form 7, though another form says the same" % self.what)
        if self.codec == NEURAL:
            require(model < len(group.models), "%s: names a model that is not listed" % self.what)
            self.model = group.models[model]
        self.references = []
        for _ in range(count):
            distance = c.varint()
            require(1 <= distance <= min(window, place), "%s: a reference is out of range" % self.what)
            require(place - distance not in self.references, "%s: a reference stands twice" % self.what)
            self.references.append(place - distance)
        if self.codec == STORED:
            require(length == 0 and count == 0, "%s: a stored chunk with a length or references" % self.what)
            length = self.raw_len
        else:
            require(count == 0 or self.codec != LZ, "%s: a block with references" % self.what)
            require(length < self.raw_len, "%s: its coded length is not below its raw length" % self.what)
        self.payload, self.check = c.take(length), c.take(4)
        covered = struct.pack("<II", group.salt, number) + c.data[start:c.at]
        check_crc(covered, c.u32(), self.what)
        self.length = c.at - start

    def decode(self, models, raws):
        """The chunk's raw bytes, checked; `raws` holds the raw bytes of all chunks before."""
        named = [raws[place] for place in self.references]
        require(all(len(raw) <= self.group.most_named for raw in named), "%s: refers to a block" % self.what)
        if self.codec == STORED:
            raw = self.payload
        elif self.codec == LZ:
            raw = lz.decompress(self.payload, self.raw_len)
        elif self.codec == ZSTD:
            dictionary = None if named else self.group.dictionary
            raw = zstd.decompress(self.payload, self.raw_len, b"".join(named), dictionary)
            require(len(raw) == self.raw_len, "%s: unpacks to another length" % self.what)
        else:
            raw = neural.decode(models[self.model], self.payload, named, self.raw_len)
        require(hash_bytes(raw)[:4] == self.check, "%s: its plain check differs" % self.what)
        return raw


class Archive:
    """Everything in an archive except the raw bytes."""

    def __init__(self, data):
        self.data = data
        self.header = Header(data)
        self.models, self.files = [], {}  # MODEL: number to (offset, model file)
        self.groups, self.chunks, self.depths = [], [], []
        self.entries, self.paths, self.open = [], set(), None
        self.raw_len = 0
        at, generation = HEADER_LEN, 0
        while at < len(data) or generation == 0:
            at = self.generation(at, generation)
            generation += 1

    def generation(self, at, number):
        """Reads the records of a generation; returns where its trailer ends."""
        known = len(self.entries)
        while True:
            frame = Frame(self.data, at)
            at = frame.end
            if frame.kind == MODELS:
                at = self.read_models(frame)
            elif frame.kind == GROUP:
                at = self.read_group(frame)
            elif frame.kind == INDEX:
                self.read_index(frame, number)
                end = self.read_trailer(frame, number)
                require(self.open is None, "the last group of a generation leaves a file open")
                for entry in self.entries[known:]:
                    for _, start, length in entry.extents:
                        require(0 <= start and start + length <= self.raw_len,
                                "a file's data lie outside the raw stream")
                return end
            else:
                require(not frame.known, "%s: out of place" % frame.name)

    def read_models(self, frame):
        """Reads a MODELS frame and the MODEL frames that follow (section 5)."""
        c = frame.cursor()
        models = read_models(c)
        c.finish()
        known = len(self.models)
        require([m.key() for m in models[:known]] == [m.key() for m in self.models],
                "%s: does not repeat the list so far" % frame.name)
        self.models = models
        at = frame.end
        for number in range(known, len(models)):
            if models[number].embedded:
                frame = Frame(self.data, at)
                require(frame.kind == MODEL, "%s: a MODEL frame is due" % frame.name)
                require(frame.content[:1] == bytes([number]), "%s: another number is due" % frame.name)
                model_file = frame.content[1:]
                require(hash_bytes(model_file) == models[number].fingerprint, "%s: fingerprint differs" % frame.name)
                self.files[number] = frame.start, model_file
                at = frame.end
        return at

    def read_group(self, frame):
        """Reads a group (section 6), from its GROUP frame on."""
        c = frame.cursor()
        group = Group(c, self.header, len(self.models))
        c.finish()
        group.start, group.crc, group.first_raw = frame.start, frame.crc, self.raw_len
        entries = Frame(self.data, frame.end)
        require(entries.kind == ENTRIES, "%s: an ENTRIES frame is due" % entries.name)
        self.read_entries(entries, group)
        group.head_len = entries.end - frame.start
        c = Cursor(self.data, "a group's body", entries.end, entries.end + group.body_len)
        require(c.end <= len(self.data), "a group's body ends early")
        if group.dictionary_len:
            dictionary = Frame(self.data, c.at)
            require(dictionary.kind == DICTIONARY, "%s: a DICTIONARY frame is due" % dictionary.name)
            require(dictionary.end - c.at == group.dictionary_len, "%s: has another length" % dictionary.name)
            group.dictionary = zstd.Dictionary(dictionary.content)
            c.at = dictionary.end
        chunks = []
        for number in range(group.chunk_count):
            chunk = Chunk(c, group, number, len(self.chunks), self.header.window)
            depth = 1 + max((self.depths[place] for place in chunk.references), default=-1)
            require(depth <= self.header.depth, "%s: too deep" % chunk.what)
            self.depths.append(depth)
            self.chunks.append(chunk)
            chunks.append(chunk)
        c.finish()
        require(sum(chunk.raw_len for chunk in chunks) == group.raw_len, "a group's chunks have another raw length")
        table = Frame(self.data, c.at)
        require(table.kind == TABLE, "%s: a TABLE frame is due" % table.name)
        self.read_table(table, frame, group, chunks)
        group.table_len = table.end - table.start
        self.groups.append(group)
        self.raw_len += group.raw_len
        return table.end

    def read_table(self, table, frame, group, chunks):
        """Checks the TABLE frame (section 9)."""
        c = table.cursor()
        require(c.take(len(frame.content)) == frame.content, "%s: differs from its GROUP frame" % table.name)
        least, width = c.varint(), c.u8()
        require(width <= 24, "%s: a width above 24" % table.name)
        packed = int.from_bytes(c.take((width * len(chunks) + 7) // 8), "little")
        lengths = [least + (packed >> width * i & ((1 << width) - 1)) for i in range(len(chunks))]
        require(packed >> width * len(chunks) == 0, "%s: bits after the lengths are set" % table.name)
        require(lengths == [chunk.length for chunk in chunks], "%s: lengths differ from the chunks'" % table.name)
        require(least == min(lengths, default=0), "%s: `least` is not the least length" % table.name)
        require(width == (max(lengths, default=0) - least).bit_length(), "%s: its width is not the least" % table.name)
        listed = c.u8()
        require(listed < 2, "%s: an unknown form of raw lengths" % table.name)
        full = all(chunk.raw_len == group.chunk_size for chunk in chunks[:-1])
        full = full and all(chunk.raw_len <= group.chunk_size for chunk in chunks[-1:])
        require(listed == (not full), "%s: raw lengths are listed where they need not be, or lack" % table.name)
        if listed:
            lengths = []
            while len(lengths) < len(chunks):
                run, length = c.varint(len(chunks) - len(lengths)), c.varint(MIB)
                require(run > 0 and [length] != lengths[-1:], "%s: raw lengths are not in runs" % table.name)
                lengths += [length] * run
            require(lengths == [chunk.raw_len for chunk in chunks],
                    "%s: raw lengths differ from the chunks'" % table.name)
        c.finish()

    def read_index(self, frame, number):
        """Checks the INDEX frame (section 9)."""
        c = frame.cursor()
        require(c.varint() == number, "%s: another generation is due" % frame.name)
        require([m.key() for m in read_models(c)] == [m.key() for m in self.models],
                "%s: its models differ" % frame.name)
        for place, model in enumerate(self.models):
            if model.embedded:
                require(c.varint() == self.files[place][0], "%s: a MODEL frame is elsewhere" % frame.name)
        require(c.varint() == len(self.groups), "%s: another number of groups" % frame.name)
        end = HEADER_LEN
        for group in self.groups:
            told = [end + c.varint()] + [c.varint() for _ in range(6)] + [c.u32()]
            require(told == [group.start, group.head_len, group.body_len, group.table_len, group.raw_len,
                             group.chunk_count, group.entry_count, group.crc],
                    "%s: figures of a group differ" % frame.name)
            end = group.start + group.head_len + group.body_len + group.table_len
        c.finish()

    def read_trailer(self, index, number):
        """Reads a trailer (section 9); returns where it ends."""
        c = Cursor(self.data, "the trailer", index.end)
        record = c.take(TRAILER_LEN)
        require(record[:4] == TRAILER and record[28:] == END, "no trailer follows the INDEX frame")
        generation, length, total, crc = struct.unpack("<IQQI", record[4:28])
        check_crc(record[:24], crc, "the trailer")
        require(generation == number, "the trailer is of another generation")
        require(length == index.end - index.start, "the trailer tells another length of the INDEX frame")
        require(total == c.at, "the trailer tells another length of the archive")
        return c.at

    def read_entries(self, frame, group):
        """Reads the entries of a group (section 7)."""
        c = frame.cursor()
        require(c.u32() == group.salt, "%s: another salt than its group's" % frame.name)
        flags = c.u8()
        require(flags < 4, "%s: an unknown flag is set" % frame.name)
        ends, goes_on = flags & 1, flags & 2
        if ends:
            require(self.open is not None, "%s: ends a file, but none is open" % frame.name)
            self.open.hash, self.open = c.take(16), None
        first_raw = c.varint(group.raw_len)
        count = c.varint()
        require(count == group.entry_count, "%s: another entry count than its group's" % frame.name)
        require(self.open is None or count == 0, "%s: has entries while a file is open" % frame.name)
        entries = [Entry() for _ in range(count)]
        self.read_paths(c, entries)
        for entry in entries:
            entry.kind = c.u8()
            require(entry.kind <= BLOCK, "%s: an unknown kind" % frame.name)
        for entry in entries:
            entry.mode = c.varint(0o7777)
        for field in ("user", "group"):
            for entry, value in zip(entries, self.differences(c, len(entries))):
                require(0 <= value < 2**32, "%s: a %s is out of range" % (frame.name, field))
                setattr(entry, field, value)
        self.read_times(c, entries)
        files = [entry for entry in entries if entry.kind == FILE]
        self.read_files(c, files, group.first_raw, first_raw)
        for entry in files:
            if entry.extents and not (goes_on and entry is entries[-1]):
                entry.hash = c.take(16) if data_len(entry) >= 4096 else c.take(6) + bytes(10)
        if goes_on:
            require(entries and entries[-1].kind == FILE and entries[-1].extents,
                    "%s: no last file that could go on" % frame.name)
            self.open = entries[-1]
        for place, entry in enumerate(entries, len(self.entries)):
            self.read_link(c, entry, place, entries)
        self.read_attributes(c, entries)
        c.finish()
        self.entries += entries

    def differences(self, c, count):
        """Sums of zigzag differences (section 2.1)."""
        value, values = 0, []
        for _ in range(count):
            value = signed(value + c.zigzag())
            values.append(value)
        return values

    def read_times(self, c, entries):
        form = c.u8()
        require(form < 2, "%s: an unknown form of times" % c.what)
        for entry, value in zip(entries, self.differences(c, len(entries))):
            entry.seconds, entry.nanoseconds = divmod(value, 10**9) if form else (value, 0)
        for entry in entries if form == 0 else ():
            entry.nanoseconds = c.u32()
            require(entry.nanoseconds < 10**9, "%s: nanoseconds are out of range" % c.what)

    def read_paths(self, c, entries):
        """Reads the paths (section 7.1)."""
        shared = [c.varint() for _ in entries]
        own = [c.varint() for _ in entries]
        before, total = b"", 0
        for entry, keep, length in zip(entries, shared, own):
            require(keep <= len(before), "%s: a path shares more than there is" % c.what)
            path = before[:keep] + c.take(length)
            require(len(path) <= 16384, "%s: a path is too long" % c.what)
            total += len(path)
            require(total <= 16 * MIB, "%s: the paths are too long together" % c.what)
            parts = path.split(b"/") if path else []
            require(all(0 < len(p) <= 255 and p not in (b".", b"..") and b"\0" not in p for p in parts),
                    "%s: the path %r is not allowed" % (c.what, path))
            require(path not in self.paths, "%s: the path %r occurs twice" % (c.what, path))
            self.paths.add(path)
            entry.path = before = path

    def read_files(self, c, files, base, first_raw):
        """Reads the files (section 7.2); an extent becomes (offset in the file, raw offset from 0,
        length)."""
        for entry in files:
            entry.size = c.varint(2**63 - 1)
        forms = [c.varint() for _ in files]
        expected = base + first_raw
        for entry, form in zip(files, forms):
            if form == 0:
                entry.extents = [(0, expected, entry.size)] if entry.size else []
                expected += entry.size
                continue
            place, raw = 0, expected
            for _ in range(form - 1):
                place += c.varint()
                length = c.varint()
                require(length > 0, "%s: an extent is empty" % c.what)
                raw = signed(raw - base + c.zigzag()) + base
                require(place + length <= entry.size, "%s: an extent lies outside its file" % c.what)
                entry.extents.append((place, raw, length))
                place, raw = place + length, raw + length
                expected = max(expected, raw)

    def read_link(self, c, entry, place, entries):
        if entry.kind == SYMLINK:
            entry.target = c.take(c.varint(16384))
            require(entry.target and b"\0" not in entry.target, "%s: a symlink's target is not allowed" % c.what)
        elif entry.kind == HARDLINK:
            back = c.varint()
            require(0 < back <= place, "%s: a hardlink's target is out of range" % c.what)
            entry.target = (self.entries + entries)[place - back]
            require(entry.target.kind == FILE, "%s: a hardlink's target is not a file" % c.what)
        elif entry.kind in (CHARACTER, BLOCK):
            entry.device = c.varint(2**32 - 1), c.varint(2**32 - 1)

    def read_attributes(self, c, entries):
        """Reads extended attributes (section 7.3)."""
        place, first = 0, True
        for _ in range(c.varint(len(entries))):
            step = c.varint()
            require(first or step > 0, "%s: attributes of an entry stand twice" % c.what)
            place, first = place + step, False
            require(place < len(entries), "%s: attributes of an entry that is not there" % c.what)
            count = c.varint()
            require(count > 0, "%s: an empty list of attributes" % c.what)
            names = []
            for _ in range(count):
                name = c.take(c.varint(1024))
                require(name and b"\0" not in name, "%s: an attribute's name is not allowed" % c.what)
                require(not names or names[-1] < name, "%s: attributes are out of order" % c.what)
                names.append(name)
                entries[place].attributes.append((name, c.take(c.varint(MIB))))

    def load_models(self, given):
        """Loads the models by number: those in the archive, and those of the files `given`, by
        their fingerprints."""
        used = {chunk.model for chunk in self.chunks if chunk.codec == NEURAL}
        outside = {hash_bytes(data): data for data in given}
        inside = {self.models[number].fingerprint: file[1] for number, file in self.files.items()}
        models = {}
        for number in sorted(used):
            entry = self.models[number]
            if number in self.files:
                data = self.files[number][1]
            else:
                require(entry.fingerprint in outside, "model '%s' is needed, with fingerprint %s"
                        % (entry.name, entry.fingerprint.hex()))
                data = outside[entry.fingerprint]
            if data[:8] == DELTA:
                base = inside.get(data[9:41], outside.get(data[9:41]))
                require(base is not None, "the base of model '%s' is needed, with fingerprint %s"
                        % (entry.name, data[9:41].hex()))
                models[number] = Model(base, data)
            else:
                models[number] = Model(data)
        return models

    def decode(self, models):
        """The raw stream, chunk by chunk, each checked."""
        raws = []
        for chunk in self.chunks:
            raws.append(chunk.decode(models, raws))
        return b"".join(raws)

    def check_files(self, raw):
        """Content hashes (section 7.2)."""
        for entry in self.entries:
            if entry.kind == FILE and entry.extents:
                data = b"".join(raw[start:start + length] for _, start, length in entry.extents)
                found = hash_bytes(data)[:16] if len(data) >= 4096 else hash_bytes(data)[:6] + bytes(10)
                require(found == entry.hash, "the content of %r differs from its hash" % entry.path)
