//! Damaged archives: every flipped bit is found, every cut is refused, nothing panics, and content
//! that is intact is still read.

mod sample;

use std::os::unix::fs::FileExt;
use std::path::Path;

use s3a::archive::check::verify::verify;
use s3a::archive::salvage::recover::salvage;
use s3a::archive::{Archive, EntryId, Kind, NoCache, OpenOptions, StreamReader};
use s3a::error::Error;
use sample::{Sample, SampleWriter, file, models, noise, open, open_file, text};

/// Reads a stream to its end.
fn drain(bytes: &[u8]) -> Result<(), Error> {
    let mut reader = StreamReader::open(bytes, &OpenOptions::default())?;
    reader.set_models(models());
    while reader.next_event()?.is_some() {}
    Ok(())
}

/// Whether opening and verifying find nothing wrong.
fn passes(archive: Result<Archive, Error>, full: bool) -> bool {
    archive.and_then(|archive| verify(&archive, full, &())).is_ok_and(|report| report.is_clean())
}

#[test]
fn every_flipped_bit_is_found() {
    let sample = Sample::tiny();
    let (mut bytes, on_disk) = (sample.bytes.clone(), file(&sample.bytes));
    assert!(drain(&bytes).is_ok() && passes(open(&bytes), true));
    for bit in 0..bytes.len() * 8 {
        let at = bit / 8;
        bytes[at] ^= 1 << (bit % 8);
        on_disk.write_all_at(&bytes[at..=at], at as u64).unwrap();
        assert!(!passes(open_file(on_disk.try_clone().unwrap()), true), "full check, bit {bit} of byte {at}");
        assert!(
            !passes(open_file(on_disk.try_clone().unwrap()), false),
            "fast check, bit {bit} of byte {at}"
        );
        assert!(drain(&bytes).is_err(), "stream, bit {bit} of byte {at}");
        bytes[at] ^= 1 << (bit % 8);
        on_disk.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    println!("{} flipped bits", bytes.len() * 8);
}

#[test]
fn every_prefix_is_refused_and_salvage_gives_intact_files_only() {
    let sample = Sample::tiny();
    for cut in 0..sample.bytes.len() {
        let bytes = &sample.bytes[..cut];
        assert!(open(bytes).is_err() && drain(bytes).is_err(), "cut at {cut}");
        if let Ok((archive, _)) = salvage(file(bytes), Path::new("cut"), &OpenOptions::default()) {
            check_salvaged(archive, &sample);
        }
    }
    println!("{} prefixes", sample.bytes.len());
}

#[test]
fn appended_and_joined_bytes_are_refused() {
    let bytes = Sample::tiny().bytes;
    for more in [&b"\0"[..], &[0; 100], &bytes] {
        let longer = [&bytes[..], more].concat();
        assert!(open(&longer).is_err() && drain(&longer).is_err());
    }
}

/// Files whose hash is right must have the bytes that were packed; returns their number.
fn check_salvaged(mut archive: Archive, sample: &Sample) -> usize {
    archive.set_models(models());
    let report = verify(&archive, true, &()).unwrap();
    let mut whole = 0;
    for (i, entry) in archive.entries().iter().enumerate() {
        let id = EntryId(i as u32);
        let Kind::File { size, .. } = entry.kind else { continue };
        // A group that stands twice after the damage gives each of its files a second name.
        let copied = entry.path.windows(10).rposition(|part| part == b".salvaged-");
        let path = &entry.path[..copied.unwrap_or(entry.path.len())];
        let packed = sample.files.iter().find(|(packed, _)| packed.path == path).unwrap();
        let mut buf = vec![0; size as usize];
        if report.files.iter().any(|file| file.id == id) {
            continue;
        }
        if archive.read_at(id, 0, &mut buf, &NoCache).is_ok() {
            assert_eq!(&buf, packed.1.as_ref().unwrap(), "{:?}", String::from_utf8_lossy(&entry.path));
            whole += 1;
        }
    }
    whole
}

#[test]
fn salvage_survives_every_damaged_byte() {
    // Without references, no chunk depends on others.
    let sample = Sample::tiny_with(None);
    let mut bytes = sample.bytes.clone();
    for at in 0..bytes.len() {
        bytes[at] ^= 0xa5;
        let (archive, _) = salvage(file(&bytes), Path::new("bad"), &OpenOptions::default()).unwrap();
        let whole = check_salvaged(archive, &sample);
        // The second chunk holds a part of all files but one; the first entries name all but two.
        assert!(whole >= 1, "byte {at}");
        bytes[at] ^= 0xa5;
    }
}

#[test]
fn salvage_needs_neither_header_nor_index() {
    let sample = Sample::rich();
    let all = sample.files.iter().filter(|(_, content)| content.is_some()).count();
    let mut bytes = sample.bytes.clone();
    bytes[..40].fill(0);
    let keep = bytes.len() - 60;
    bytes.truncate(keep);
    assert!(open(&bytes).is_err());
    let (archive, damages) = salvage(file(&bytes), Path::new("bad"), &OpenOptions::default()).unwrap();
    assert!(damages.len() >= 2);
    assert_eq!(check_salvaged(archive, &sample), all);
}

#[test]
fn a_damaged_chunk_hits_exactly_its_range() {
    let content = noise(4096 * 6, 1);
    let sample = Sample::new(|w| {
        w.file("before", &text(4096, 1));
        w.file("noise", &content);
        w.file("after", &text(4096, 2));
    });
    let mut bytes = sample.bytes.clone();
    let at = bytes.windows(16).position(|w| w == &content[4096 * 2 + 100..][..16]).unwrap();
    bytes[at] ^= 1;
    let archive = open(&bytes).unwrap();
    for full in [false, true] {
        let report = verify(&archive, full, &()).unwrap();
        assert_eq!(report.damages.len(), 1);
        assert_eq!(report.files.len(), 1);
        let hit = 8192..12288;
        assert_eq!(
            (report.files[0].id, &report.files[0].ranges[..]),
            (EntryId(1), std::slice::from_ref(&hit))
        );
    }
    for page in 0..6 {
        let mut buf = [0; 4096];
        let result = archive.read_at(EntryId(1), page * 4096, &mut buf, &NoCache);
        match result {
            Err(Error::BadChunk { .. }) => assert_eq!(page, 2),
            other => assert_eq!((other.unwrap(), &buf[..]), (4096, &content[page as usize * 4096..][..4096])),
        }
    }
}

#[test]
fn a_damaged_table_costs_nothing_but_a_report() {
    let sample = Sample::rich();
    let archive = open(&sample.bytes).unwrap();
    let marker = [&b"\xf5S3F"[..], &[5]].concat();
    let tables: Vec<usize> =
        (0..sample.bytes.len()).filter(|&at| sample.bytes[at..].starts_with(&marker)).collect();
    assert!(tables.len() > 3);
    let chunks = archive.chunk_count();
    for at in tables {
        let mut bytes = sample.bytes.clone();
        bytes[at + 12] ^= 1;
        let report = verify(&open(&bytes).unwrap(), true, &()).unwrap();
        assert_eq!((report.damages.len(), report.files.len()), (1, 0));
        assert_eq!(report.chunks_decoded, u64::from(chunks));
    }
}

#[test]
fn swapped_chunks_do_not_pass() {
    let (one, two) = (noise(4096, 1), noise(4096, 2));
    for gap in [0, 4096 * 4] {
        let sample = Sample::new(|w| {
            w.file("both", &[&one[..], &text(gap, 3), &two].concat());
        });
        let find = |what: &[u8]| sample.bytes.windows(32).position(|w| w == &what[..32]).unwrap();
        let (a, b) = (find(&one), find(&two));
        // Head, payload and checks of a stored chunk.
        let mut bytes = sample.bytes.clone();
        bytes[a - 2..a + 4104].copy_from_slice(&sample.bytes[b - 2..b + 4104]);
        bytes[b - 2..b + 4104].copy_from_slice(&sample.bytes[a - 2..a + 4104]);
        assert!(drain(&bytes).is_err());
        let report = verify(&open(&bytes).unwrap(), false, &()).unwrap();
        assert_eq!(report.damages.len(), 2);
    }
}

#[test]
fn other_files_are_no_archives() {
    for bytes in
        [&b""[..], b"PK\x03\x04 and so on, for long enough to be a header and a trailer of an archive, too"]
    {
        assert!(matches!(open(bytes).err(), Some(Error::NotAnArchive)), "{bytes:?}");
        assert!(matches!(drain(bytes), Err(Error::NotAnArchive)));
        assert!(salvage(file(bytes), Path::new("x"), &OpenOptions::default()).is_err());
    }
}

#[test]
fn random_damage_never_panics() {
    let sample = Sample::rich();
    let mut state = 12345u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    for _ in 0..300 {
        let mut bytes = sample.bytes.clone();
        for _ in 0..=next(3) {
            let (at, len) = (next(bytes.len()), 1 + next(600));
            let end = bytes.len().min(at + len);
            match next(3) {
                0 => bytes[at..end].fill(0),
                1 => bytes[at] ^= 1 + next(255) as u8,
                _ => {
                    let from = next(bytes.len() - (end - at));
                    bytes.copy_within(from..from + (end - at), at);
                }
            }
        }
        if bytes == sample.bytes {
            continue;
        }
        assert!(!passes(open(&bytes), true));
        assert!(drain(&bytes).is_err());
        if let Ok((archive, _)) = salvage(file(&bytes), Path::new("bad"), &OpenOptions::default()) {
            check_salvaged(archive, &sample);
        }
    }
}

#[test]
fn a_writer_refuses_what_no_reader_takes() {
    let mut writer = SampleWriter::new(|_| {});
    writer.file("a", b"x");
    drop(writer.finish());
    let long = "p/".repeat(10_000);
    let result = std::panic::catch_unwind(|| {
        SampleWriter::new(|_| {}).other(&long, Kind::Directory);
    });
    assert!(result.is_err());
}

#[test]
fn a_file_whose_middle_is_lost_reads_up_to_there_and_no_further() {
    let content = noise(4096 * 9, 1);
    let sample = Sample::new(|w| {
        w.file("large", &content);
        w.file("after", &text(4096, 2));
        w.file("again", &text(500, 3));
    });
    // All of the second group, from its GROUP frame to its TABLE.
    let group = [&b"\xf5S3F"[..], &[3]].concat();
    let groups: Vec<usize> =
        (0..sample.bytes.len()).filter(|&at| sample.bytes[at..].starts_with(&group)).collect();
    let mut bytes = sample.bytes.clone();
    bytes.drain(groups[1]..groups[2]);
    let (archive, damages) = salvage(file(&bytes), Path::new("bad"), &OpenOptions::default()).unwrap();
    // The trailer shows that something is missing, and not what; the hash shows which file is hit.
    assert_eq!((damages.len(), archive.chunk_count()), (1, 8));
    assert_eq!(check_salvaged(archive, &sample), 2);
    // If a byte of the group is left, reads notice.
    bytes.splice(groups[1]..groups[1], *b"left over");
    let (archive, damages) = salvage(file(&bytes), Path::new("bad"), &OpenOptions::default()).unwrap();
    assert_eq!(damages.len(), 2);
    let mut buf = [0; 4096];
    for page in 0..9 {
        let result = archive.read_at(EntryId(0), page * 4096, &mut buf, &NoCache);
        assert_eq!(result.is_ok(), page < 3, "page {page}");
    }
    assert_eq!(check_salvaged(archive, &sample), 2);
}
