//! Small archives for tests, with every kind of record.
#![allow(dead_code)]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use s3a::archive::{
    Archive, Content, ContentWarning, Earlier, Entry, EntryId, Kind, OpenOptions, References, Stats,
    Timestamp, Writer, WriterOptions,
};
use s3a::codec::job::{DecodeError, DecodeJob, Decoded, EncodeJob};
use s3a::codec::{ChunkModel, Models};
use s3a::error::Result;

/// A model that codes bytes that count upward as the first of them.
struct Counting;

impl ChunkModel for Counting {
    fn fingerprint(&self) -> [u8; 32] {
        [0xc0; 32]
    }

    fn name(&self) -> &str {
        "counting"
    }

    fn encode(&self, jobs: &[EncodeJob<'_>]) -> Vec<Option<Vec<u8>>> {
        let counts = |raw: &[u8]| raw.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1));
        jobs.iter().map(|job| counts(job.raw).then(|| job.raw[..1].to_vec())).collect()
    }

    fn decode(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded> {
        jobs.iter()
            .map(|job| match job.payload {
                &[first] => Ok((0..job.raw_len).map(|i| first.wrapping_add(i as u8)).collect()),
                _ => Err(DecodeError::Damaged("its payload has another length")),
            })
            .collect()
    }
}

pub fn models() -> Models {
    Models::one(Arc::new(Counting))
}

/// Lets every chunk refer to the chunk before, if the bounds allow it.
struct Before;

impl References for Before {
    fn plan(&self, _: &[Earlier], new: &[Arc<[u8]>]) -> Vec<Vec<u32>> {
        new.iter().map(|_| vec![1, 2]).collect()
    }
}

/// A reader that always fails.
pub struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("no"))
    }
}

/// Bytes like text: words drawn from a short list.
pub fn text(len: usize, seed: u64) -> Vec<u8> {
    let words = ["archive", "of", "the", "chunk", "reads", "a", "model", "is", "bytes", "and", "small", "\n"];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::new();
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend(words[(state >> 33) as usize % words.len()].bytes());
        out.push(b' ');
    }
    out.truncate(len);
    out
}

/// Bytes without a pattern.
pub fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

pub fn counting(len: usize) -> Vec<u8> {
    (0..len).map(|i| i as u8).collect()
}

pub struct Sample {
    pub bytes: Vec<u8>,
    /// The entries that were added, with the content of files, whose holes are filled with zeros.
    pub files: Vec<(Entry, Option<Vec<u8>>)>,
    pub stats: Stats,
}

pub struct SampleWriter {
    writer: Writer<Vec<u8>>,
    files: Vec<(Entry, Option<Vec<u8>>)>,
}

impl SampleWriter {
    pub fn new(adapt: impl FnOnce(&mut WriterOptions)) -> Self {
        let mut options = WriterOptions {
            chunk_size: 4096,
            group_len: 3 * 4096,
            models: models(),
            ..WriterOptions::default()
        };
        adapt(&mut options);
        Self { writer: Writer::create(Vec::new(), options).unwrap(), files: Vec::new() }
    }

    pub fn entry(path: &str, kind: Kind) -> Entry {
        let mtime = Timestamp { secs: 1_700_000_000 + path.len() as i64, nanos: 999 };
        Entry { path: path.into(), kind, mode: 0o640, uid: 1000, gid: 100, mtime, xattrs: vec![] }
    }

    fn add(&mut self, entry: Entry, content: Content<'_>, plain: Option<Vec<u8>>) -> EntryId {
        let added = self.writer.add(entry.clone(), content).unwrap();
        assert!(added.warning.is_none());
        self.files.push((entry, plain));
        added.id
    }

    pub fn other(&mut self, path: &str, kind: Kind) -> EntryId {
        self.add(Self::entry(path, kind), Content::None, None)
    }

    fn kind(size: usize) -> Kind {
        Kind::File { size: size as u64, extents: vec![], hash: [0; 16] }
    }

    pub fn file(&mut self, path: &str, content: &[u8]) -> EntryId {
        let entry = Self::entry(path, Self::kind(content.len()));
        self.add(entry, Content::Data(&mut &content[..]), Some(content.to_vec()))
    }

    pub fn declared(&mut self, path: &str, size: usize, data: &mut dyn Read) -> Option<ContentWarning> {
        self.writer.add(Self::entry(path, Self::kind(size)), Content::Data(data)).unwrap().warning
    }

    pub fn same(&mut self, path: &str, target: EntryId) -> EntryId {
        let content = self.files[target.0 as usize].1.clone().unwrap();
        let entry = Self::entry(path, Self::kind(content.len()));
        self.add(entry, Content::SameAs(target), Some(content))
    }

    pub fn sparse(&mut self, path: &str, size: usize, segments: &[(u64, u64)], data: &[u8]) -> EntryId {
        let mut plain = vec![0; size];
        let mut rest = data;
        for &(offset, len) in segments {
            let (now, later) = rest.split_at(len as usize);
            plain[offset as usize..][..now.len()].copy_from_slice(now);
            rest = later;
        }
        let entry = Self::entry(path, Self::kind(size));
        self.add(entry, Content::Sparse { segments: segments.to_vec(), data: &mut &data[..] }, Some(plain))
    }

    pub fn finish(self) -> Sample {
        let (bytes, stats) = self.writer.finish().unwrap();
        assert_eq!(bytes.len() as u64, stats.archive_len);
        Sample { bytes, files: self.files, stats }
    }
}

impl Sample {
    pub fn new(fill: impl FnOnce(&mut SampleWriter)) -> Self {
        Self::with_options(fill, |_| {})
    }

    pub fn with_options(
        fill: impl FnOnce(&mut SampleWriter),
        adapt: impl FnOnce(&mut WriterOptions),
    ) -> Self {
        let mut writer = SampleWriter::new(adapt);
        fill(&mut writer);
        writer.finish()
    }

    /// A sample with every kind of entry, chunk and group.
    pub fn rich() -> Self {
        Self::rich_with(2)
    }

    pub fn rich_with(threads: usize) -> Self {
        Self::with_options(rich, |options| {
            options.threads = threads;
            options.references = Some(Arc::new(Before));
        })
    }

    /// A sample with the same kinds of records in few bytes.
    pub fn tiny() -> Self {
        Self::tiny_with(Some(Arc::new(Before)))
    }

    pub fn tiny_with(references: Option<Arc<dyn References>>) -> Self {
        let fill = |w: &mut SampleWriter| {
            w.other("", Kind::Directory);
            let text = text(5000, 1);
            w.file("t", &text);
            w.file("n", &noise(60, 1));
            w.other("l", Kind::Symlink { target: b"t".to_vec() });
            w.file("c", &counting(9000));
            w.sparse("s", 1 << 20, &[(5, 20), (9000, 10)], &noise(30, 2));
            w.same("u", EntryId(1));
        };
        Self::with_options(fill, |options| {
            options.group_len = 2 * 4096;
            options.references = references;
        })
    }
}

fn rich(w: &mut SampleWriter) {
    w.other("", Kind::Directory);
    w.other("docs", Kind::Directory);
    let a = w.file("docs/a.txt", &text(3000, 1));
    w.file("docs/b.txt", &text(2500, 2));
    w.file("docs/copy.txt", &text(3000, 1));
    w.file("docs/empty", b"");
    w.file("noise", &noise(6000, 9));
    w.file("counting", &counting(10_000));
    let big = w.file("big", &[text(30_000, 7), noise(5000, 3), text(9000, 8)].concat());
    w.file("after", &text(100, 4));
    w.same("big.again", big);
    w.other("docs/hard", Kind::Hardlink { target: a });
    w.other("link", Kind::Symlink { target: b"docs/../\xff".to_vec() });
    w.sparse("sparse", 1 << 20, &[(0, 10), (70_000, 5000)], &text(5010, 6));
    w.sparse("hole", 1 << 20, &[], b"");
    w.other("fifo", Kind::Fifo);
    w.other("socket", Kind::Socket);
    w.other("tty", Kind::CharDevice { major: 5, minor: 0 });
    w.other("disk", Kind::BlockDevice { major: 8, minor: 1 });
    let mut entry = SampleWriter::entry("attributed", SampleWriter::kind(5));
    entry.xattrs = vec![(b"user.a".to_vec(), b"x".to_vec()), (b"user.b".to_vec(), vec![0; 50])];
    w.add(entry, Content::Data(&mut &b"bytes"[..]), Some(b"bytes".to_vec()));
}

pub fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

pub fn open(bytes: &[u8]) -> Result<Archive> {
    open_file(file(bytes))
}

pub fn open_file(file: File) -> Result<Archive> {
    let mut archive = Archive::from_file(file, Path::new("sample.s3a"), &OpenOptions::default())?;
    archive.set_models(models());
    Ok(archive)
}
