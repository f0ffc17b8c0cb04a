#!/usr/bin/env python3
"""Unpacks or lists an s3a archive: the independent decoder of spec/format.md and spec/numerics.md.

    s3a_decode.py ARCHIVE OUTDIR [--model FILE]...
    s3a_decode.py ARCHIVE --list

OUTDIR must not exist or be empty. Exit codes: 0 done; 1 the archive is refused; 2 wrong usage, or
the system said no.
"""

import argparse
import os
import sys

from container import BLOCK, CHARACTER, FIFO, FILE, FOLDER, HARDLINK, SOCKET, SYMLINK, Archive
from errors import Refused, require

LETTERS = "d-lhpscb"


def list_entries(archive):
    for entry in archive.entries:
        size = entry.target.size if entry.kind == HARDLINK else entry.size
        line = "%s%04o %12d %s" % (LETTERS[entry.kind], entry.mode, size, os.fsdecode(entry.path) or ".")
        if entry.kind == SYMLINK:
            line += " -> " + os.fsdecode(entry.target)
        elif entry.kind == HARDLINK:
            line += " = " + os.fsdecode(entry.target.path)
        print(line.encode("utf-8", "backslashreplace").decode("utf-8"))


def check_parents(archive):
    """Every path above an entry is a directory, so nothing is written through a link."""
    kinds = {entry.path: entry.kind for entry in archive.entries}
    for path in kinds:
        while path:
            path = path.rpartition(b"/")[0]
            require(kinds.get(path, FOLDER) == FOLDER, "%r is no folder, but has entries" % path)


def set_properties(entry, path):
    """Sets owner, mode, attributes and time, as far as the system permits."""
    follow = entry.kind != SYMLINK
    if os.geteuid() == 0:
        os.chown(path, entry.user, entry.group, follow_symlinks=False)
    if follow:
        os.chmod(path, entry.mode)
    for name, value in entry.attributes:
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except (OSError, AttributeError) as error:
            print("warning: attribute %r of %r: %s" % (name, entry.path, error), file=sys.stderr)
    moment = entry.seconds * 10**9 + entry.nanoseconds
    try:
        os.utime(path, ns=(moment, moment), follow_symlinks=False)
    except (OSError, OverflowError) as error:
        print("warning: time of %r: %s" % (entry.path, error), file=sys.stderr)


def extract(archive, raw, out):
    os.makedirs(out, exist_ok=True)
    require(not os.listdir(out), "%s is not empty" % os.fsdecode(out))
    check_parents(archive)
    made = {}
    for entry in archive.entries:
        path = os.path.join(out, entry.path) if entry.path else out
        if entry.path:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        if entry.kind == FOLDER:
            os.makedirs(path, exist_ok=True)
        elif entry.kind == FILE:
            with open(path, "xb") as file:
                for place, start, length in entry.extents:
                    file.seek(place)
                    file.write(raw[start:start + length])
                file.truncate(entry.size)
        elif entry.kind == SYMLINK:
            os.symlink(entry.target, path)
        elif entry.kind == HARDLINK:
            os.link(made[id(entry.target)], path)
        elif entry.kind == FIFO:
            os.mkfifo(path)
        else:
            assert entry.kind in (SOCKET, CHARACTER, BLOCK)
            print("warning: %r is a socket or device and was left out" % entry.path, file=sys.stderr)
            continue
        made[id(entry)] = path
    # Directories come last and from below, so that their times and modes stay as set.
    for entry in sorted(archive.entries, key=lambda e: (e.kind == FOLDER, -e.path.count(b"/"), e.path == b"")):
        if id(entry) in made and entry.kind != HARDLINK:
            set_properties(entry, made[id(entry)])


def main():
    parser = argparse.ArgumentParser(description="Unpacks or lists an s3a archive.")
    parser.add_argument("archive")
    parser.add_argument("outdir", nargs="?")
    parser.add_argument("--list", action="store_true", help="list the entries instead")
    parser.add_argument("--model", action="append", default=[], help="a model file that the archive does not carry")
    args = parser.parse_args()
    if args.list == (args.outdir is not None):
        parser.error("name either OUTDIR or --list")
    try:
        with open(args.archive, "rb") as file:
            archive = Archive(file.read())
        if args.list:
            list_entries(archive)
            return 0
        given = []
        for name in args.model:
            with open(name, "rb") as file:
                given.append(file.read())
        raw = archive.decode(archive.load_models(given))
        archive.check_files(raw)
        extract(archive, raw, os.fsencode(args.outdir))
    except Refused as refused:
        print("error: %s" % refused, file=sys.stderr)
        return 1
    except OSError as error:
        print("error: %s" % error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
