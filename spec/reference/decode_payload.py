#!/usr/bin/env python3
"""Decodes one neural payload (numerics.md section 10), for tests of the arithmetic on its own.

    decode_payload.py MODEL PAYLOAD RAW_LEN [HISTORY]...

The plain bytes go to standard output. Each HISTORY is a file with a referenced chunk's plain bytes.
"""

import sys

import neural
from errors import Refused
from model import Model


def read(name):
    with open(name, "rb") as file:
        return file.read()


def main():
    model, payload, raw_len, *history = sys.argv[1:]
    try:
        raw = neural.decode(Model(read(model)), read(payload), [read(name) for name in history], int(raw_len))
    except Refused as refused:
        print("error: %s" % refused, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(raw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
