//! An archive that claims anything, with all its checksums right, is refused in less than a second
//! and with less than 64 MiB by everything that opens, checks, lists, unpacks or joins it.
//!
//! The tests run one at a time, in a process of their own, because the memory of the whole process
//! is measured.

mod forge;
mod guard;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use forge::{Forged, ForgedGroup, entry, file, stored};
use guard::guarded;
use s3a::archive::check::verify::verify;
use s3a::archive::extract::from_file::extract;
use s3a::archive::extract::metadata::Restore;
use s3a::archive::extract::plan::ExtractOptions;
use s3a::archive::merge::{OnClash, merge};
use s3a::archive::salvage::recover::salvage;
use s3a::archive::selection::Selection;
use s3a::archive::{Archive, EntryId, Kind, OpenOptions, StreamReader};
use s3a::codec::Codec;
use s3a::error::Error;
use s3a::wire::chunk::ChunkHead;
use s3a::wire::cursor::put_varint;
use s3a::wire::models::ModelRef;

/// How far an archive gets before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// It cannot be opened, nor read from a pipe.
    Open,
    /// It can be opened; the fault is found in the data.
    Verify,
    /// It is correct in itself, but would unpack to more than a user allows.
    Unpack,
}

/// A group with one file in one chunk, which the cases change.
fn group() -> ForgedGroup {
    ForgedGroup::new(vec![file("f", 4096, &[(0, 0, 4096)])], vec![stored(4096)])
}

fn with_files(files: Vec<s3a::archive::Entry>) -> Forged {
    Forged::new(vec![ForgedGroup::new(files, vec![stored(4096), stored(4096)])])
}

/// Replaces the bytes of the ENTRIES frame, from its `count` on.
fn entries_bytes(change: impl Fn(&mut Vec<u8>) + 'static) -> Forged {
    let mut group = group();
    group.entries_bytes = Some(Box::new(change));
    Forged::new(vec![group])
}

fn group_with(change: impl FnOnce(&mut ForgedGroup)) -> Forged {
    let mut group = group();
    change(&mut group);
    Forged::new(vec![group])
}

fn index_with(change: impl Fn(&mut s3a::wire::index::Index) + 'static) -> Forged {
    let mut forged = Forged::new(vec![group()]);
    forged.index = Some(Box::new(change));
    forged
}

fn index_bytes(change: impl Fn(&mut Vec<u8>) + 'static) -> Forged {
    let mut forged = Forged::new(vec![group()]);
    forged.index_bytes = Some(Box::new(change));
    forged
}

fn trailer(change: impl Fn(&mut (u32, u64, u64)) + 'static) -> Forged {
    let mut forged = Forged::new(vec![group()]);
    forged.trailer = Some(Box::new(change));
    forged
}

fn header(change: impl Fn(&mut Vec<u8>) + 'static) -> Forged {
    let mut forged = Forged::new(vec![group()]);
    forged.header_bytes = Some(Box::new(change));
    forged
}

/// Sets a u32 of the header.
fn header_u32(at: usize, value: u32) -> Forged {
    header(move |bytes| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()))
}

/// The salt, flags and varints at the beginning of an ENTRIES frame.
fn entries_start(flags: u8, numbers: &[u64]) -> Vec<u8> {
    let mut bytes = vec![5, 0, 0, 0, flags];
    numbers.iter().for_each(|&number| put_varint(&mut bytes, number));
    bytes
}

/// Chunks that refer to others.
fn referring(distances: &[&[u32]]) -> Forged {
    let mut chunks = vec![stored(4096)];
    for refs in distances {
        let payload = s3a::wire::zstd_raw::compress(&[0; 4096], &vec![0; 4096 * refs.len()]).unwrap();
        let coded_len = payload.len() as u32;
        let head = ChunkHead { codec: Codec::Zstd, model: 0, raw_len: 4096, coded_len, refs: refs.to_vec() };
        chunks.push((head, payload));
    }
    let size = 4096 * chunks.len() as u64;
    Forged::new(vec![ForgedGroup::new(vec![file("f", size, &[(0, 0, size)])], chunks)])
}

/// Group `number` of several groups of 256 chunks of zeros; each chunk of the range `chained`
/// refers to the chunk before.
fn long_group(number: u64, chained: std::ops::Range<u64>) -> ForgedGroup {
    let chunks = (number * 256..number * 256 + 256).map(|id| {
        let refs = if chained.contains(&id) { vec![1] } else { vec![] };
        let payload = s3a::wire::zstd_raw::compress_at(&[0; 4096], &vec![0; 4096 * refs.len()], 1).unwrap();
        (
            ChunkHead { codec: Codec::Zstd, model: 0, raw_len: 4096, coded_len: payload.len() as u32, refs },
            payload,
        )
    });
    let file = file(&format!("f{number}"), 1 << 20, &[(0, number << 20, 1 << 20)]);
    ForgedGroup::new(vec![file], chunks.collect())
}

fn cases() -> Vec<(String, Until, Vec<u8>)> {
    use Until::{Open, Unpack, Verify};
    let mut cases: Vec<(String, Until, Forged)> = Vec::new();
    let mut add = |name: &str, until, forged| cases.push((name.to_owned(), until, forged));

    // Extents.
    for (name, extents) in [
        ("extents overlap", vec![(0, 0, 4096), (100, 4096, 96)]),
        ("an extent begins beyond its file", vec![(9000, 0, 1)]),
        ("an extent ends beyond its file", vec![(8000, 0, 4096)]),
        ("an extent lies beyond the raw stream", vec![(0, 4096, 4097)]),
        ("an extent lies far beyond the raw stream", vec![(0, 1 << 40, 10)]),
        ("an extent is empty", vec![(0, 0, 0)]),
        ("extents are unsorted", vec![(4096, 0, 10), (0, 100, 10)]),
        ("an extent comes twice", vec![(0, 0, 4096), (0, 0, 4096)]),
        ("a raw offset near 2^63", vec![(0, (1 << 63) - 5, 4)]),
        ("a raw offset near 2^64", vec![(0, u64::MAX - 5, 4)]),
    ] {
        add(name, Open, with_files(vec![hostile_file("f", 8192, &extents)]));
    }
    for (name, size) in [("2^31", 1 << 31), ("2^32", 1 << 32), ("2^63", 1u64 << 63), ("2^64", u64::MAX)] {
        add(
            &format!("a file of {name} bytes in one chunk"),
            Open,
            with_files(vec![hostile_file("f", size, &[(0, 0, size)])]),
        );
    }
    add("a file whose bytes are not its hash", Verify, with_files(vec![file("f", 8192, &[(0, 0, 8192)])]));
    add("many files of the same bytes", Unpack, {
        let files = (0..60_000).map(|i| zeros(&format!("{i}"), 8192)).collect();
        with_files(files)
    });
    add("many extents of the same bytes", Unpack, {
        let extents: Vec<_> = (0..30_000).map(|i| (i * 4096, 0, 4096)).collect();
        let mut file = file("f", 4096 * 30_000, &extents);
        set_hash(&mut file, std::iter::repeat_n(&[0; 4096][..], 30_000));
        with_files(vec![file])
    });
    add("extents by the million", Open, {
        entries_bytes(|bytes| {
            let count = 6_000_000;
            *bytes = one_file(1 << 30, count as u64 + 1, &[]);
            bytes.extend([0, 1, 0].repeat(count));
            // With noise, the frame is not packed below the length that would be refused earlier.
            let mut noise = vec![0; 1 << 20];
            blake3::Hasher::new().finalize_xof().fill(&mut noise);
            bytes.extend(noise);
        })
    });
    add("an extent count of 2^60", Open, entries_bytes(|bytes| *bytes = one_file(4096, 1 << 60, &[])));

    // Entries.
    for (name, count) in
        [("2^16 + 1", (1 << 16) + 1), ("ten million", 10_000_000), ("2^32", 1 << 32), ("2^64", u64::MAX)]
    {
        add(
            &format!("{name} entries claimed"),
            Open,
            entries_bytes(move |bytes| *bytes = entries_start(0, &[0, count])),
        );
        add(
            &format!("{name} empty entries"),
            Open,
            entries_bytes(move |bytes| {
                *bytes = entries_start(0, &[0, count]);
                bytes.resize(bytes.len() + 10_000_000.min(count as usize), 0);
            }),
        );
    }
    add(
        "ten million entries in the index",
        Open,
        index_with(|index| index.groups[0].entry_count = 10_000_000),
    );
    add("a group says more entries than it has", Open, group_with(|g| g.group.entry_count = 9));
    add("an entry of an unknown kind", Open, entries_bytes(|bytes| patch(bytes, kind_at(), 99)));
    // Kind, a mode of two bytes, user and group.
    add("times of an unknown form", Open, entries_bytes(|bytes| patch(bytes, kind_at() + 5, 2)));
    add("a path of 2^40 bytes", Open, entries_bytes(|bytes| *bytes = entries_start(0, &[0, 1, 0, 1 << 40])));
    add(
        "a path that shares more than there is",
        Open,
        entries_bytes(|bytes| *bytes = entries_start(0, &[0, 1, 7, 1])),
    );
    add("paths that grow to 16 MiB", Open, {
        let mut path = String::new();
        let mut entries = Vec::new();
        for _ in 0..3000 {
            path += "abc/";
            entries.push(entry(path.trim_end_matches('/'), Kind::Directory));
        }
        with_files(entries)
    });
    add("folders 100,000 deep", Open, {
        let deep = vec!["d"; 100_000].join("/");
        with_files(vec![entry(&deep, Kind::Directory)])
    });
    add("a path twice", Open, with_files(vec![zeros("a", 10), zeros("a", 10)]));
    add("a path twice in two groups", Open, Forged::new(vec![group(), group()]));
    for path in ["", "/", "a//b", "..", "a/../b", "a\0b"] {
        let kind = Kind::Symlink { target: b"x".to_vec() };
        // The empty path is the root, which cannot be a link.
        let until = if path.is_empty() { Unpack } else { Open };
        add(&format!("the path {path:?}"), until, with_files(vec![entry(path, kind)]));
    }
    add("a file below a file", Unpack, with_files(vec![zeros("a", 0), zeros("a/b", 0)]));
    add(
        "a file below a symlink",
        Unpack,
        with_files(vec![entry("a", Kind::Symlink { target: b"/".to_vec() }), zeros("a/b", 0)]),
    );
    add("a symlink that leads nowhere", Open, with_files(vec![entry("a", Kind::Symlink { target: vec![] })]));
    add(
        "a symlink with a NUL",
        Open,
        with_files(vec![entry("a", Kind::Symlink { target: b"a\0".to_vec() })]),
    );
    for (name, entries) in [
        (
            "a hardlink to a folder",
            vec![entry("d", Kind::Directory), entry("h", Kind::Hardlink { target: EntryId(0) })],
        ),
        (
            "a hardlink to a hardlink",
            vec![
                zeros("f", 0),
                entry("g", Kind::Hardlink { target: EntryId(0) }),
                entry("h", Kind::Hardlink { target: EntryId(1) }),
            ],
        ),
    ] {
        add(name, Open, with_files(entries));
    }
    add("a hardlink to itself", Open, entries_bytes(|bytes| *bytes = one_link(0)));
    add("a hardlink to what was before the archive", Open, entries_bytes(|bytes| *bytes = one_link(1)));
    add("a hardlink 2^64 back", Open, entries_bytes(|bytes| *bytes = one_link(u64::MAX)));
    add("an open file that never ends", Open, group_with(|g| g.entries.open = true));
    add("a file ends that none opened", Open, group_with(|g| g.entries.ended = Some([1; 16])));
    add(
        "a folder is left open",
        Open,
        group_with(|g| {
            g.entries.entries = vec![entry("d", Kind::Directory)];
            g.entries.open = true;
        }),
    );
    add("entries while a file is open", Open, {
        let mut first = group();
        first.entries.open = true;
        let mut second = group();
        second.entries.entries[0].path = b"g".to_vec();
        Forged::new(vec![first, second])
    });
    add("entries of another group", Open, group_with(|g| g.entries.salt = 6));
    add("unknown flags of entries", Open, entries_bytes(|bytes| bytes[4] |= 0x40));
    add("the first file begins beyond the group", Open, group_with(|g| g.entries.first_raw = 5000));
    add(
        "an attribute of an entry that is not there",
        Open,
        entries_bytes(|bytes| {
            bytes.pop();
            [1, 200, 1, 1, 1, b'a', 0].iter().for_each(|&byte| bytes.push(byte));
        }),
    );
    add(
        "2^60 attributes",
        Open,
        entries_bytes(|bytes| {
            bytes.pop();
            put_varint(bytes, 1 << 60);
        }),
    );
    add("bytes after the entries", Open, entries_bytes(|bytes| bytes.push(0)));

    // Groups and tables.
    for (name, change) in [
        (
            "a group longer than the header allows",
            Box::new(|g: &mut ForgedGroup| g.group.raw_len = 2 << 20) as Box<dyn Fn(&mut ForgedGroup)>,
        ),
        ("a group with more chunks than bytes", Box::new(|g| g.group.chunk_count = 5000)),
        ("a group without chunks but with bytes", Box::new(|g| g.group.chunk_count = 0)),
        ("a body of 4 GiB", Box::new(|g| g.group.body_len = u32::MAX)),
        ("a body shorter than its chunks", Box::new(|g| g.group.body_len = 9)),
        ("chunks larger than the header's", Box::new(|g| g.group.chunk_size = 1 << 20)),
        ("chunks of 1 byte", Box::new(|g| g.group.chunk_size = 1)),
        ("a model that is not listed", Box::new(|g| g.group.models = vec![3])),
    ] {
        add(name, Open, group_with(|g| change(g)));
    }
    add(
        "a table of another group",
        Verify,
        group_with(|g| {
            let mut group = g.group.clone();
            (group.salt, group.body_len) = (9, 4106);
            g.table = Some(s3a::wire::group::Table { group, frame_lens: vec![4106], raw_lens: vec![4096] });
        }),
    );
    add(
        "a table with bits left over",
        Verify,
        group_with(|g| g.table_bytes = Some(Box::new(|bytes| bytes.push(1)))),
    );
    add(
        "a table of 255 bits a chunk",
        Verify,
        group_with(|g| {
            g.table_bytes = Some(Box::new(|bytes| {
                let at = bytes.len() - 2;
                bytes[at] = 255;
            }));
        }),
    );

    // Chunks.
    add("a chunk names one before the archive", Verify, referring(&[&[2]]));
    add("a chunk names one far before the archive", Verify, referring(&[&[4000]]));
    add("a chunk names one beyond the window", Verify, {
        let mut forged = referring(&[&[1], &[2]]);
        forged.header.ref_window = 1;
        forged
    });
    add("references chain deeper than the header says", Verify, {
        let mut forged = referring(&[&[1], &[1], &[1]]);
        forged.header.ref_depth = 2;
        forged
    });
    add("references that chain deeper than the header says, from one batch to the next", Verify, {
        // Readers in order take at most 8 MiB at a time, or one group.
        let mut forged = Forged::new((0..9).map(|group| long_group(group, 2046..2049)).collect());
        forged.header.ref_depth = 2;
        forged
    });
    add("references that fan out to all chunks", Verify, {
        // Each chunk refers to the eight before it, so that for the last one all others have to be
        // decoded.
        let distances: Vec<Vec<u32>> = (1..=200u32).map(|i| (1..=8.min(i)).collect()).collect();
        referring(&distances.iter().map(Vec::as_slice).collect::<Vec<_>>())
    });
    add(
        "a chunk that is no zstd",
        Verify,
        group_with(|g| {
            let head = ChunkHead { codec: Codec::Zstd, model: 0, raw_len: 4096, coded_len: 50, refs: vec![] };
            g.chunks = vec![(head, vec![0xaa; 50])];
        }),
    );
    for (name, payload) in [
        ("an LZMA2 block with an unknown filter", vec![0x7f; 50]),
        ("an LZMA2 block that is none", vec![0xaa; 50].into_iter().chain([0]).rev().collect()),
        ("an LZMA2 block that ends early", vec![0; 2]),
        ("an LZMA2 block that unpacks to more", s3a::codec::lz::encode(&vec![0; 1 << 20]).unwrap().payload),
    ] {
        add(
            name,
            Verify,
            group_with(|g| {
                let coded_len = payload.len() as u32;
                let head = ChunkHead { codec: Codec::Lz, model: 0, raw_len: 4096, coded_len, refs: vec![] };
                g.chunks = vec![(head, payload)];
            }),
        );
    }
    add("a reference to a block", Verify, {
        let payload = s3a::wire::zstd_raw::compress(&[0; 4096], &[0; 8192]).unwrap();
        let coded_len = payload.len() as u32;
        let head = ChunkHead { codec: Codec::Zstd, model: 0, raw_len: 4096, coded_len, refs: vec![1] };
        let file = file("f", 12_288, &[(0, 0, 12_288)]);
        Forged::new(vec![ForgedGroup::new(vec![file], vec![stored(8192), (head, payload)])])
    });
    add(
        "a chunk of zstd that unpacks to more",
        Verify,
        group_with(|g| {
            let payload = s3a::wire::zstd_raw::compress(&vec![0; 100 << 20], &[]).unwrap();
            let coded_len = payload.len() as u32;
            let raw_len = 65_536;
            g.group.chunk_size = raw_len;
            g.group.raw_len = raw_len;
            let head = ChunkHead { codec: Codec::Zstd, model: 0, raw_len, coded_len, refs: vec![] };
            g.chunks = vec![(head, payload)];
        })
        .with_chunk_size(65_536),
    );

    // Index.
    for (name, change) in [
        (
            "a group after the index",
            Box::new(|i: &mut s3a::wire::index::Index| i.groups[0].offset += 1 << 40)
                as Box<dyn Fn(&mut s3a::wire::index::Index)>,
        ),
        ("a group one byte off", Box::new(|i| i.groups[0].offset += 1)),
        ("a head of 64 MiB", Box::new(|i| i.groups[0].head_len = 64 << 20)),
        ("a head of no bytes", Box::new(|i| i.groups[0].head_len = 0)),
        ("another body length", Box::new(|i| i.groups[0].body_len -= 1)),
        ("another raw length", Box::new(|i| i.groups[0].raw_len += 1)),
        ("another number of chunks", Box::new(|i| i.groups[0].chunk_count += 1)),
        ("another number of entries", Box::new(|i| i.groups[0].entry_count += 1)),
        ("the CRC of another group", Box::new(|i| i.groups[0].crc ^= 1)),
        ("a table that is cut", Box::new(|i| i.groups[0].table_len -= 1)),
        ("no groups", Box::new(|i| i.groups.clear())),
        ("another generation", Box::new(|i| i.generation = 1)),
        (
            "a model that nobody has",
            Box::new(|i| {
                i.models.push(ModelRef { fingerprint: [1; 32], name: "m".into(), embedded: true });
                i.embedded.push(3);
            }),
        ),
    ] {
        // Parts that the index does not name are found by searching for them.
        let until = if ["a table that is cut", "no groups", "a model that nobody has"].contains(&name) {
            Verify
        } else {
            Open
        };
        add(&format!("index: {name}"), until, index_with(change));
    }
    add(
        "index: a group twice",
        Open,
        index_bytes(|bytes| {
            // The second group would need a negative gap, which a varint cannot be; so it lies
            // after itself.
            let record = bytes[4..].to_vec();
            bytes[3] = 2;
            bytes.extend(record);
        }),
    );
    for (name, count) in [("2^31", 1u64 << 31), ("2^60", 1 << 60), ("2^64 - 1", u64::MAX)] {
        add(
            &format!("index: {name} groups"),
            Open,
            index_bytes(move |bytes| {
                bytes.truncate(2);
                put_varint(bytes, count);
            }),
        );
        add(
            &format!("index: {name} groups of zeros"),
            Open,
            index_bytes(move |bytes| {
                bytes.truncate(2);
                put_varint(bytes, count);
                bytes.resize(20 << 20, 0);
            }),
        );
    }
    add(
        "index: 255 models claimed",
        Open,
        index_bytes(|bytes| {
            bytes[1] = 0xff;
            bytes.insert(2, 1);
        }),
    );
    add("index: bytes after its end", Open, index_bytes(|bytes| bytes.push(0)));

    // Trailer and header.
    for (name, change) in [
        (
            "an index of no bytes",
            Box::new(|t: &mut (u32, u64, u64)| t.1 = 0) as Box<dyn Fn(&mut (u32, u64, u64))>,
        ),
        ("an index of 2^63 bytes", Box::new(|t| t.1 = 1 << 63)),
        ("an index as long as the file", Box::new(|t| t.1 = t.2 - 32)),
        ("an index one byte longer", Box::new(|t| t.1 += 1)),
        ("another length of the archive", Box::new(|t| t.2 += 1)),
        ("an archive of 2^64 bytes", Box::new(|t| t.2 = u64::MAX)),
        ("another generation", Box::new(|t| t.0 = 7)),
    ] {
        add(&format!("trailer: {name}"), Open, trailer(change));
    }
    for (name, at, value) in [
        ("chunks of 0 bytes", 24, 0),
        ("chunks of 4 GiB", 24, u32::MAX),
        ("a window of 2^32 chunks", 28, u32::MAX),
        ("groups of 0 bytes", 32, 0),
        ("groups of 4 GiB", 32, u32::MAX),
        ("groups shorter than a chunk", 32, 4095),
        ("a feature that nobody knows", 16, 1 << 31),
    ] {
        add(&format!("header: {name}"), Open, header_u32(at, value));
    }
    add(
        "header: groups shorter than those that follow",
        Open,
        Forged::new(vec![with_many_chunks()]).with_group_len(4096),
    );
    add("header: a depth of 255", Open, header(|bytes| bytes[14] = 255));
    add(
        "header: a length of 4096",
        Open,
        header(|bytes| bytes[12..14].copy_from_slice(&4096u16.to_le_bytes())),
    );
    add("a frame that unpacks to 64 MiB", Verify, {
        let mut forged = Forged::new(vec![group()]);
        // Zeros would pack to less than a KiB; the limit is 4 MiB and 64 times that length.
        let packed = s3a::wire::zstd_raw::compress(&vec![0; 64 << 20], &[]).unwrap();
        let mut frame = [&s3a::wire::frame::MARKER[..], &[99, 3]].concat();
        frame.extend((packed.len() as u32).to_le_bytes());
        frame.extend((64u32 << 20).to_le_bytes());
        frame.extend(packed);
        let crc = crc32fast::hash(&frame);
        frame.extend(crc.to_le_bytes());
        forged.before_index = frame;
        forged
    });

    cases.into_iter().map(|(name, until, forged)| (name, until, forged.bytes())).collect()
}

trait Adapt {
    fn with_chunk_size(self, len: u32) -> Self;
    fn with_group_len(self, len: u32) -> Self;
}

impl Adapt for Forged {
    fn with_chunk_size(mut self, len: u32) -> Self {
        (self.header.chunk_size, self.header.ref_window) = (len, 0);
        self
    }

    fn with_group_len(mut self, len: u32) -> Self {
        self.header.group_len = len;
        self
    }
}

fn with_many_chunks() -> ForgedGroup {
    ForgedGroup::new(vec![zeros("f", 8192)], vec![stored(4096), stored(4096)])
}

/// A file of zeros with the right hash.
fn zeros(path: &str, size: u64) -> s3a::archive::Entry {
    let mut file = file(path, size, if size > 0 { &[(0, 0, 1)] } else { &[] });
    if let Kind::File { extents, .. } = &mut file.kind
        && let Some(extent) = extents.first_mut()
    {
        extent.len = size;
    }
    set_hash(&mut file, std::iter::once(&vec![0; size as usize][..]));
    file
}

fn set_hash<'a>(file: &mut s3a::archive::Entry, content: impl Iterator<Item = &'a [u8]>) {
    let mut hasher = blake3::Hasher::new();
    content.for_each(|part| _ = hasher.update(part));
    if let Kind::File { hash, .. } = &mut file.kind {
        *hash = s3a::wire::entry::content_hash(hasher.finalize().as_bytes(), hasher.count());
    }
}

/// A file with any extents: the writer of entries takes differences without checking them.
fn hostile_file(path: &str, size: u64, extents: &[(u64, u64, u64)]) -> s3a::archive::Entry {
    file(path, size, extents)
}

/// Where the kind of the only entry stands: after salt, flags, first raw, count, and its path.
fn kind_at() -> usize {
    4 + 1 + 1 + 1 + 1 + 1 + 1
}

fn patch(bytes: &mut [u8], at: usize, value: u8) {
    bytes[at] = value;
}

/// Entries with a file of this size and form.
fn one_file(size: u64, form: u64, rest: &[u64]) -> Vec<u8> {
    let mut bytes = entries_start(0, &[0, 1, 0, 1]);
    bytes.extend([b'f', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    [&[size, form], rest].concat().iter().for_each(|&number| put_varint(&mut bytes, number));
    bytes
}

/// Entries with a hardlink that counts so far back.
fn one_link(back: u64) -> Vec<u8> {
    let mut bytes = entries_start(0, &[0, 1, 0, 1]);
    bytes.extend([b'h', 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    put_varint(&mut bytes, back);
    bytes.push(0);
    bytes
}

fn on_disk(bytes: &[u8]) -> fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

/// Does everything that can be done with an archive.
fn attack(name: &str, until: Until, bytes: &[u8], folder: &Path) {
    let open = || Archive::from_file(on_disk(bytes), Path::new("hostile"), &OpenOptions::default());
    let opened = guarded(name, "opening", open);
    let opens = until != Until::Open;
    assert_eq!(opened.is_ok(), opens, "{name}: {:?}", opened.err());
    // A reader of a pipe finds everything but what only unpacking refuses.
    let piped: Result<(), Error> = guarded(name, "reading a pipe", || {
        let mut reader = StreamReader::open(bytes, &OpenOptions::default())?;
        while reader.next_event()?.is_some() {}
        Ok(())
    });
    let only_hash = name.contains("not its hash");
    assert_eq!(piped.is_err(), until != Until::Unpack && !only_hash, "{name}: {piped:?}");
    let salvaged =
        guarded(name, "salvage", || salvage(on_disk(bytes), Path::new("hostile"), &OpenOptions::default()));
    if let Ok((archive, _)) = salvaged {
        let _ = guarded(name, "checking what was salvaged", || verify(&archive, true, &()));
    }
    let Ok(archive) = opened else { return };
    let checked = guarded(name, "verifying", || verify(&archive, true, &())).unwrap();
    assert_eq!(checked.is_clean(), until == Until::Unpack, "{name}: {checked:?}");
    let options = ExtractOptions {
        selection: Selection::default(),
        strip: 0,
        replace: false,
        skip_existing: false,
        restore: Restore { owners: false, privileges: false, xattrs: true },
        devices: false,
        max_bytes: 100 << 20,
    };
    let target = folder.join(blake3::hash(name.as_bytes()).to_hex().as_str());
    let unpacked = guarded(name, "unpacking", || extract(&archive, &target, &options, &()));
    assert!(unpacked.is_err() || !checked.is_clean(), "{name}");
    let joined = guarded(name, "joining", || merge(&[archive], Vec::new(), OnClash::First, &()));
    // Joining decodes nothing, so faults of chunks are found later.
    if let Ok((joined, _)) = joined {
        let again =
            Archive::from_file(on_disk(&joined), Path::new("joined"), &OpenOptions::default()).unwrap();
        let checked = guarded(name, "verifying what was joined", || verify(&again, true, &()));
        assert!(checked.is_ok(), "{name}");
    }
}

#[test]
fn hostile_archives_are_refused_in_no_time_and_with_little_memory() {
    let cases = cases();
    assert!(cases.len() >= 100, "{}", cases.len());
    let folder = tempfile::tempdir().unwrap();
    let failed: Vec<&str> = cases
        .iter()
        .filter(|(name, until, bytes)| {
            std::panic::catch_unwind(|| attack(name, *until, bytes, folder.path())).is_err()
        })
        .map(|(name, ..)| name.as_str())
        .collect();
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), cases.len());
    println!("{} hostile archives", cases.len());
}
