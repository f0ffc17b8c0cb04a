"""LZMA2 blocks with filters (format.md section 8.1).

LZMA2 itself and the filter for x86 come from Python's standard library.
"""

import lzma

from errors import Refused, require

WORD = 0xFFFFFFFF


def arm64(data):
    """Undoes the filter for ARM64: branches and page addresses become relative again."""
    out = bytearray(data)
    for at in range(0, len(out) - 3, 4):
        code = int.from_bytes(out[at:at + 4], "little")
        if code >> 26 == 0x25:
            code = 0x94000000 | (code - (at >> 2) & 0x03FFFFFF)
        elif code & 0x9F000000 == 0x90000000:
            page = code >> 29 & 3 | code >> 3 & 0x001FFFFC
            if page + 0x00020000 & 0x001C0000:
                continue
            page = page - (at >> 12) & WORD
            code = code & 0x9000001F | (page & 3) << 29 | (page & 0x0003FFFC) << 3
            code |= 0x00E00000 if page & 0x00020000 else 0
        else:
            continue
        out[at:at + 4] = code.to_bytes(4, "little")
    return bytes(out)


def delta(data, distance):
    out = bytearray(data)
    for at in range(distance, len(out)):
        out[at] = out[at] + out[at - distance] & 255
    return bytes(out)


def words(data, size):
    """Turns planes of bytes back into words."""
    count = len(data) // size
    out = bytearray(data)
    for place in range(size):
        out[place:count * size:size] = data[place * count:(place + 1) * count]
    return bytes(out)


def sums(data, size):
    """Turns differences of words back into words."""
    out, total = bytearray(data), 0
    for at in range(0, len(out) - size + 1, size):
        total = total + int.from_bytes(out[at:at + size], "little") & (1 << 8 * size) - 1
        out[at:at + size] = total.to_bytes(size, "little")
    return bytes(out)


def decompress(payload, raw_len):
    require(len(payload) > 0, "lz: no filter")
    number, low = payload[0], payload[0] & 15
    known = number <= 2 or number >> 4 == 1 and low < 8
    known = known or number >> 4 == 2 and low in (2, 4, 8) or number >> 4 == 3 and low in (2, 4)
    require(known, "lz: an unknown filter")
    chain = [{"id": lzma.FILTER_X86}] if number == 1 else []
    chain.append({"id": lzma.FILTER_LZMA2, "dict_size": max(raw_len, 4096)})
    coder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain)
    try:
        data = coder.decompress(payload[1:], raw_len + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise Refused("lz: %s" % error) from error
    require(coder.eof and not coder.unused_data, "lz: it does not end with its payload")
    require(len(data) == raw_len, "lz: unpacks to another length")
    if number == 2:
        return arm64(data)
    kind = number >> 4
    if kind == 1:
        return delta(data, low + 1)
    if kind == 2:
        return words(data, low)
    return sums(words(data, low), low) if kind == 3 else data
