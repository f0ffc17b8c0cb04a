//! Archives as a whole: what goes in comes out, both at random and in order, and damage never
//! passes.

mod sample;

use std::io::Cursor;
use std::path::Path;

use s3a::archive::check::verify::verify;
use s3a::archive::{
    Archive, ChunkId, EntryId, Event, Kind, NoCache, OpenOptions, RecentChunks, StreamReader,
};
use s3a::error::{Error, Result};
use sample::{Sample, open};

#[test]
fn everything_comes_back_at_random() {
    let sample = Sample::rich();
    let archive = open(&sample.bytes).unwrap();
    assert_eq!(archive.entries().len(), sample.files.len());
    for (i, (entry, content)) in sample.files.iter().enumerate() {
        let id = archive.lookup(&entry.path).unwrap();
        assert_eq!(id, EntryId(i as u32));
        let found = archive.entry(id).unwrap();
        assert_eq!(
            (found.mode, found.uid, found.gid, found.mtime),
            (entry.mode, entry.uid, entry.gid, entry.mtime)
        );
        assert_eq!(found.xattrs, entry.xattrs);
        if let Some(content) = content {
            for (offset, len) in [
                (0, content.len() + 5),
                (content.len() / 2, 1),
                (content.len() / 3, 5000),
                (content.len(), 9),
            ] {
                let mut buf = vec![1; len];
                let got = archive.read_at(id, offset as u64, &mut buf, &NoCache).unwrap();
                assert_eq!(buf[..got], content[offset..content.len().min(offset + len)], "{:?}", entry.path);
            }
        }
    }
    assert!(archive.lookup(b"not there").is_none());
    let report = verify(&archive, true, &()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.chunks_decoded, u64::from(archive.chunk_count()));
    assert!(verify(&archive, false, &()).unwrap().is_clean());
}

#[test]
fn references_are_used_and_followed() {
    let sample = Sample::rich();
    let archive = open(&sample.bytes).unwrap();
    let ids: Vec<ChunkId> = (0..archive.chunk_count()).map(ChunkId).collect();
    let with_refs: Vec<ChunkId> =
        ids.iter().copied().filter(|&id| !archive.chunk_head(id).unwrap().refs.is_empty()).collect();
    assert!(!with_refs.is_empty());
    let cache = RecentChunks::new(1 << 20);
    let alone: Vec<_> =
        ids.iter().map(|&id| archive.read_chunks(&[id], &NoCache).pop().unwrap().unwrap()).collect();
    let together: Vec<_> = archive.read_chunks(&ids, &cache).into_iter().map(Result::unwrap).collect();
    assert_eq!(alone, together);
}

/// The raw stream, and the entries that the events report.
fn stream(bytes: &[u8]) -> Result<(Vec<u8>, Vec<s3a::archive::Entry>)> {
    let mut reader = StreamReader::open(bytes, &OpenOptions::default())?;
    reader.set_models(sample::models());
    let (mut raw, mut entries) = (Vec::new(), Vec::new());
    while let Some(event) = reader.next_event()? {
        match event {
            Event::Entry(id, entry) => {
                assert_eq!(id.0 as usize, entries.len());
                entries.push(entry);
            }
            Event::Models => reader.set_models(sample::models()),
            Event::FileEnd { id, hash: found } => {
                if let Kind::File { hash, .. } = &mut entries[id.0 as usize].kind {
                    *hash = found;
                }
            }
            Event::Data { raw_offset, bytes, .. } => {
                assert_eq!(raw_offset, raw.len() as u64);
                raw.extend_from_slice(&bytes);
            }
        }
    }
    Ok((raw, entries))
}

#[test]
fn a_pipe_gives_the_same_entries_and_bytes() {
    let sample = Sample::rich();
    let archive = open(&sample.bytes).unwrap();
    let (raw, entries) = stream(&sample.bytes).unwrap();
    assert_eq!(entries, archive.entries());
    assert_eq!(raw.len() as u64, archive.raw_len());
    for (entry, (_, content)) in entries.iter().zip(&sample.files) {
        let (Kind::File { extents, .. }, Some(content)) = (&entry.kind, content) else { continue };
        for extent in extents {
            let (at, from, len) =
                (extent.raw_offset as usize, extent.file_offset as usize, extent.len as usize);
            assert_eq!(raw[at..at + len], content[from..from + len]);
        }
    }
}

#[test]
fn owners_of_earlier_bytes_are_known() {
    let sample = Sample::rich();
    let mut reader = StreamReader::open(&sample.bytes[..], &OpenOptions::default()).unwrap();
    reader.set_models(sample::models());
    while reader.next_event().unwrap().is_some() {}
    let archive = open(&sample.bytes).unwrap();
    let copy = archive.entry(archive.lookup(b"docs/copy.txt").unwrap()).unwrap();
    let Kind::File { extents, .. } = &copy.kind else { unreachable!() };
    let first = archive.lookup(b"docs/a.txt").unwrap();
    assert!(matches!(reader.owner(extents[0].raw_offset + 3), Some((id, 3, _)) if id == first));
}

#[test]
fn equal_files_are_stored_once() {
    let sample = Sample::rich();
    let archive = open(&sample.bytes).unwrap();
    let extents = |path: &str| match &archive.entry(archive.lookup(path.as_bytes()).unwrap()).unwrap().kind {
        Kind::File { extents, hash, .. } => (extents.clone(), *hash),
        _ => unreachable!(),
    };
    assert_eq!(extents("docs/a.txt"), extents("docs/copy.txt"));
    assert_eq!(extents("big"), extents("big.again"));
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    let one = Sample::rich_with(1).bytes;
    assert_eq!(one, Sample::rich_with(2).bytes);
    assert_eq!(one, Sample::rich_with(5).bytes);
}

#[test]
fn an_empty_archive_is_one() {
    let sample = Sample::new(|_| {});
    let archive = open(&sample.bytes).unwrap();
    assert_eq!((archive.entries().len(), archive.chunk_count(), archive.raw_len()), (0, 0, 0));
    assert!(verify(&archive, true, &()).unwrap().is_clean());
    assert_eq!(stream(&sample.bytes).unwrap(), (vec![], vec![]));
}

#[test]
fn a_missing_model_is_named_when_a_chunk_needs_it() {
    let sample = Sample::rich();
    let archive =
        Archive::from_file(sample::file(&sample.bytes), Path::new("x"), &OpenOptions::default()).unwrap();
    assert_eq!(archive.models()[0].name, "counting");
    let results = archive.read_chunks(&(0..archive.chunk_count()).map(ChunkId).collect::<Vec<_>>(), &NoCache);
    assert!(results.iter().any(|r| matches!(r, Err(Error::ModelMissing { name, .. }) if name == "counting")));
    assert!(results.iter().any(Result::is_ok));
}

#[test]
fn the_common_chunk_costs_at_most_twelve_bytes() {
    let text = sample::text(4 << 20, 3);
    let sample = Sample::with_options(
        |w| {
            w.file("text", &text);
        },
        |options| {
            options.chunk_size = 16 << 10;
            options.group_len = 16 << 20;
        },
    );
    let per_chunk = sample.stats.chunk_overhead as f64 / sample.stats.chunks as f64;
    assert!(sample.stats.chunks == 256 && per_chunk <= 12.0, "{per_chunk}");
}

#[test]
fn bounds_given_by_the_user_are_kept() {
    let sample = Sample::rich();
    for options in [
        OpenOptions { max_entries: Some(3), ..OpenOptions::default() },
        OpenOptions { max_metadata: Some(500), ..OpenOptions::default() },
    ] {
        let opened = Archive::from_file(sample::file(&sample.bytes), Path::new("x"), &options);
        assert!(matches!(opened.err(), Some(Error::Limit { .. })));
    }
}

#[test]
fn a_reader_that_gives_less_or_more_is_told_of() {
    let mut writer = sample::SampleWriter::new(|_| {});
    let warning = |w: Option<s3a::archive::ContentWarning>| format!("{w:?}");
    let short = writer.declared("short", 5000, &mut Cursor::new(vec![7; 3000]));
    assert!(warning(short).contains("Shrunk { missing: 2000 }"));
    let long = writer.declared("long", 10, &mut Cursor::new(vec![7; 3000]));
    assert!(warning(long).contains("Grown"));
    let failing = writer.declared("failing", 10, &mut sample::Failing);
    assert!(warning(failing).contains("Failed { missing: 10"));
    let sample = writer.finish();
    let archive = open(&sample.bytes).unwrap();
    let mut buf = [1; 6000];
    assert_eq!(archive.read_at(EntryId(0), 0, &mut buf, &NoCache).unwrap(), 5000);
    assert_eq!(buf[..5000], [&[7; 3000][..], &[0; 2000]].concat());
    assert!(verify(&archive, true, &()).unwrap().is_clean());
}
