//! What the fuzz targets do with their input. `fuzz/` runs these bodies under libFuzzer;
//! `tests/fuzz.rs` runs them on random and mutated inputs, with any toolchain.
//!
//! A body ends for every input, and panics only where a promise is broken.
#![allow(dead_code)]

use std::fs::File;
use std::io::{Cursor as Stream, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use s3a::archive::check::verify::verify;
use s3a::archive::salvage::recover::salvage;
use s3a::archive::tar::TarReader;
use s3a::archive::{
    Archive, ChunkId, Content, Entry, EntryId, Kind, NoCache, OpenOptions, Similar, StreamReader, Timestamp,
    Writer, WriterOptions, path,
};
use s3a::codec::job::DecodeJob;
use s3a::codec::neural::chunk_model::Neural;
use s3a::codec::{Codec, Models};
use s3a::coder::share::Share;
use s3a::coder::{Decoder, Encoder};
use s3a::model::Model;
use s3a::wire::chunk::{ChunkFrame, ChunkHead, Place};
use s3a::wire::cursor::Cursor;
use s3a::wire::entries::{Base, Entries};
use s3a::wire::frame::Frame;
use s3a::wire::group::{Group, Table};
use s3a::wire::header::{HEADER_LEN, Header};
use s3a::wire::index::{Index, Trailer};

/// A fuzz target, with seeds that get far.
pub struct Target {
    pub name: &'static str,
    pub body: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 9] = [
    Target { name: "header", body: header, seeds: header_seeds },
    Target { name: "index", body: index, seeds: index_seeds },
    Target { name: "chunk", body: chunk, seeds: chunk_seeds },
    Target { name: "coder", body: coder, seeds: coder_seeds },
    Target { name: "model_file", body: model_file, seeds: model_seeds },
    Target { name: "open_then_read_all", body: open_then_read_all, seeds: archive_seeds },
    Target { name: "path", body: path, seeds: path_seeds },
    Target { name: "roundtrip", body: roundtrip, seeds: roundtrip_seeds },
    Target { name: "tar", body: tar, seeds: tar_seeds },
];

/// Makes all parallel work run on the calling thread from now on. A process that runs one input
/// after another would otherwise spend most of its time on waking threads.
pub fn on_one_thread() {
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().unwrap();
}

/// A header that can be read is written as the same bytes.
pub fn header(data: &[u8]) {
    if let Ok(header) = Header::read(data) {
        assert_eq!(header.write()[..], data[..HEADER_LEN]);
    }
    // With a correct CRC, more inputs pass.
    if data.len() >= HEADER_LEN {
        let mut data = data.to_vec();
        let crc = crc32fast::hash(&data[..HEADER_LEN - 4]);
        data[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        if let Ok(header) = Header::read(&data) {
            assert_eq!(header.write()[..], data[..HEADER_LEN]);
        }
    }
    let _ = Frame::read(data, 0);
    let _ = Trailer::read(data, 1000);
}

/// The contents of INDEX, GROUP, TABLE and ENTRIES frames.
pub fn index(data: &[u8]) {
    let mut input = Cursor::inside(data, 0);
    if let Ok(index) = Index::read(&mut input, 1 << 40) {
        let mut again = Vec::new();
        index.write(&mut again);
        assert_eq!(again[..], data[..input.position()]);
    }
    let mut input = Cursor::inside(data, 0);
    if let Ok(group) = Group::read(&mut input) {
        let mut again = Vec::new();
        group.write(&mut again);
        assert_eq!(again[..], data[..input.position()]);
    }
    if let Ok(table) = Table::read(&mut Cursor::inside(data, 0)) {
        let mut again = Vec::new();
        table.write(&mut again);
        assert_eq!(Table::read(&mut Cursor::inside(&again, 0)).unwrap(), table);
    }
    for base in [Base::default(), Base { entry: 1 << 31, raw: 1 << 62 }] {
        if let Ok(entries) = Entries::read(&mut Cursor::inside(data, 0), base) {
            let mut again = Vec::new();
            entries.write(base, &mut again);
            let mut read = Entries::read(&mut Cursor::inside(&again, 0), base).unwrap();
            read.salt = entries.salt;
            assert_eq!(read, entries);
        }
    }
}

pub fn chunk(data: &[u8]) {
    for chunk_size in [4096, 1 << 20] {
        let mut input = Cursor::at(data, 0);
        if let Ok(head) = ChunkHead::read(&mut input, chunk_size) {
            let mut again = Vec::new();
            head.write(chunk_size, &mut again);
            assert_eq!(again[..], data[..input.position()]);
        }
        let place = Place { salt: 7, index: 1 };
        let _ = ChunkFrame::read(data, 0, chunk_size, place);
    }
    let model = Models::one(Arc::new(Neural::new(tiny_model())));
    let history: Vec<Arc<[u8]>> = vec![b"some text that came before".to_vec().into()];
    for (codec, raw_len) in
        [(Codec::Stored, data.len()), (Codec::Zstd, 700), (Codec::Neural, 60), (Codec::Lz, 3000)]
    {
        let job =
            DecodeJob { codec, model: 0, payload: data, raw_len, history: history.clone(), dictionary: None };
        if let Ok(raw) = &s3a::codec::decode(&model, &[job])[0] {
            assert_eq!(raw.len(), raw_len);
        }
    }
}

/// Symbols under any slots come back; any payload gives symbols or an error.
pub fn coder(data: &[u8]) {
    let Some((&count, rest)) = data.split_first() else { return };
    let slots: Vec<u64> = (0..=count % 16)
        .map(|i| {
            let byte = u64::from(rest.get(usize::from(i)).copied().unwrap_or(1));
            1 + (byte << (byte % 26))
        })
        .collect();
    let total: u64 = slots.iter().sum();
    let share = |symbol: usize| Share { cum: slots[..symbol].iter().sum(), slot: slots[symbol] };
    let symbols: Vec<usize> = rest.iter().map(|&byte| usize::from(byte) % slots.len()).collect();
    let mut encoder = Encoder::new();
    symbols.iter().for_each(|&symbol| encoder.encode(share(symbol), total));
    let payload = encoder.finish();
    let find = |target: u64| {
        let mut cum = 0;
        slots.iter().position(|slot| {
            cum += slot;
            target < cum
        })
    };
    let mut decoder = Decoder::new(&payload);
    for &symbol in &symbols {
        assert_eq!(decoder.target(total).ok().and_then(find), Some(symbol));
        decoder.consume(share(symbol), total);
    }
    let mut decoder = Decoder::new(data);
    for _ in 0..200 {
        let Some(symbol) = decoder.target(total).ok().and_then(find) else { break };
        decoder.consume(share(symbol), total);
    }
}

pub fn model_file(data: &[u8]) {
    if let Ok(model) = Model::from_bytes(data) {
        // A model that passes the checks can run on any bytes.
        let model = Models::one(Arc::new(Neural::new(Arc::new(model))));
        let job = DecodeJob {
            codec: Codec::Neural,
            model: 0,
            payload: data,
            raw_len: 3,
            history: vec![],
            dictionary: None,
        };
        let _ = s3a::codec::decode(&model, &[job]);
    }
}

/// Opens bytes that may be an archive, as they are and with correct checksums, and does everything
/// that can be done with it.
pub fn open_then_read_all(data: &[u8]) {
    read_all(data);
    let mut mended = data.to_vec();
    mend(&mut mended);
    if mended != data {
        read_all(&mended);
    }
}

fn read_all(data: &[u8]) {
    let options = OpenOptions { max_entries: Some(10_000), max_metadata: Some(8 << 20) };
    let name = Path::new("fuzzed");
    if let Ok(archive) = Archive::from_file(on_disk(data), name, &options) {
        use_archive(&archive);
    }
    if let Ok((archive, _)) = salvage(on_disk(data), name, &options) {
        use_archive(&archive);
    }
    if let Ok(mut reader) = StreamReader::open(data, &options) {
        while let Ok(Some(_)) = reader.next_event() {}
    }
}

fn use_archive(archive: &Archive) {
    let clean = verify(archive, true, &()).is_ok_and(|report| report.is_clean());
    for id in (0..archive.chunk_count().min(64)).map(ChunkId) {
        let (info, read) = (archive.chunk(id), archive.read_chunks(&[id], &NoCache).pop());
        if let (Ok(info), Some(Ok(bytes))) = (info, read) {
            assert_eq!(bytes.len(), info.raw_len as usize);
        }
    }
    let mut buf = vec![0; 10_000];
    for (id, entry) in (0..).map(EntryId).zip(archive.entries()).take(200) {
        assert_eq!(archive.lookup(&entry.path), Some(id));
        assert!(path::check(&entry.path).is_ok());
        if let Kind::File { size, .. } = entry.kind {
            for offset in [0, size / 2, size.saturating_sub(5), u64::MAX] {
                let read = archive.read_at(id, offset, &mut buf, &NoCache);
                let due = size.saturating_sub(offset).min(buf.len() as u64) as usize;
                assert!(read.is_err() || read.as_ref().is_ok_and(|got| *got == due));
                assert!(!clean || read.is_ok() || !archive.models().is_empty());
            }
        }
    }
}

/// Paths are refused or stay below the target; what is printed of them cannot control a terminal.
pub fn path(data: &[u8]) {
    let shown = path::escape(data);
    assert!(!shown.chars().any(char::is_control));
    let (folder, name) = path::split(data);
    assert!(!name.contains(&b'/'));
    if path::check(data).is_ok() && !data.is_empty() {
        assert_eq!(path::join(folder, name), data);
        let path = Path::new(std::ffi::OsStr::from_bytes(data));
        assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
        assert!(data.split(|&b| b == b'/').all(|name| path::check_name(name).is_ok()));
    }
    if let Some((first, rest)) = data.split_first() {
        let cut = usize::from(*first).min(rest.len());
        let (a, b) = rest.split_at(cut);
        assert_eq!(s3a::archive::path::cmp_paths(a, b), s3a::archive::path::cmp_paths(b, a).reverse());
        let pattern = String::from_utf8_lossy(a).into_owned();
        if let Ok(selection) = s3a::archive::selection::Selection::new(&[], &[pattern]) {
            let _ = selection.takes(b, false);
        }
    }
}
use std::os::unix::ffi::OsStrExt;

/// Packs files that the input describes, and compares what comes out of the archive and of a pipe.
pub fn roundtrip(data: &[u8]) {
    let mut input = Stream::new(data);
    let mut byte = || {
        let mut byte = [0];
        input.read_exact(&mut byte).map(|()| byte[0]).unwrap_or(0)
    };
    // The highest level takes a millisecond per chunk.
    let (references, level) = match byte() {
        byte @ 0..252 => ([0, 0, 1, 3][usize::from(byte % 4)], 1),
        byte => (byte % 4, 19),
    };
    let mut options = WriterOptions {
        chunk_size: 4096,
        group_len: 4096 * (1 + u32::from(byte() % 5)),
        threads: 1,
        zstd_level: level,
        references: Similar::for_options(references, 2, 4096),
        ..WriterOptions::default()
    };
    options.check = byte() % 2 == 0;
    let mut writer = Writer::create(Vec::new(), options).unwrap();
    let mut packed: Vec<(Entry, Vec<u8>)> = Vec::new();
    for number in 0..byte() % 8 {
        let path = format!("{}/{number}", "d/".repeat(usize::from(byte() % 4)) + "f").into_bytes();
        let (kind, len, fill) = (byte() % 6, usize::from(byte()) * usize::from(byte()), byte());
        // Files of one kind have several chunks; the others are small, for speed.
        let (len, grain) = if kind == 5 { (len / 16, 10) } else { (len / 64, 2) };
        let mut content: Vec<u8> =
            (0..len).map(|i| if fill > 99 { fill } else { (i / 3) as u8 ^ fill }).collect();
        let mtime = Timestamp { secs: i64::from(byte()) - 9, nanos: u32::from(byte()) };
        let file = |size: usize| Kind::File { size: size as u64, extents: vec![], hash: [0; 16] };
        let earlier = packed.iter().position(|(entry, _)| matches!(entry.kind, Kind::File { .. }));
        let kind = match (kind, earlier) {
            (0, _) => Kind::Directory,
            (1, _) => Kind::Symlink { target: path.clone() },
            (2, Some(target)) => Kind::Hardlink { target: EntryId(target as u32) },
            _ => file(len),
        };
        if let Kind::Hardlink { target } = kind {
            content.clone_from(&packed[target.0 as usize].1);
        }
        let entry = Entry { path, kind, mode: 0o600, uid: fill.into(), gid: 7, mtime, xattrs: vec![] };
        let is_file = matches!(entry.kind, Kind::File { .. });
        let hole = usize::from(fill) * grain;
        let given = if !is_file {
            Content::None
        } else if fill % 5 == 0 && len > hole {
            content[..hole].fill(0);
            Content::Sparse {
                segments: vec![(hole as u64, (len - hole) as u64)],
                data: &mut Stream::new(content[hole..].to_vec()),
            }
        } else {
            Content::Data(&mut &content[..])
        };
        let added = writer.add(entry.clone(), given).unwrap();
        assert_eq!((added.id.0 as usize, added.warning.is_none()), (packed.len(), true));
        packed.push((entry, content));
    }
    let (bytes, stats) = writer.finish().unwrap();
    assert_eq!(stats.archive_len, bytes.len() as u64);
    let archive = Archive::from_file(on_disk(&bytes), Path::new("packed"), &OpenOptions::default()).unwrap();
    assert!(verify(&archive, true, &()).unwrap().is_clean());
    for (id, (entry, content)) in (0..).map(EntryId).zip(&packed) {
        let found = archive.entry(id).unwrap();
        assert_eq!((&found.path, found.mtime, found.uid), (&entry.path, entry.mtime, entry.uid));
        if matches!(entry.kind, Kind::File { .. } | Kind::Hardlink { .. }) {
            let mut buf = vec![1; content.len() + 3];
            let got = archive.read_at(id, 0, &mut buf, &NoCache).unwrap();
            assert!(buf[..got] == *content);
        }
    }
    let mut reader = StreamReader::open(&bytes[..], &OpenOptions::default()).unwrap();
    while reader.next_event().unwrap().is_some() {}
}

pub fn tar(data: &[u8]) {
    let mut reader = TarReader::new(data);
    let mut read = 0;
    while let Ok(Some(member)) = reader.next_member() {
        if let Some(segments) = &member.segments {
            let sum: u64 = segments.iter().map(|(_, len)| len).sum();
            assert!(sum <= member.size && segments.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        }
        read += std::io::copy(&mut reader, &mut std::io::sink()).unwrap_or(0);
        assert!(read <= data.len() as u64);
    }
}

fn on_disk(bytes: &[u8]) -> File {
    let name = c"fuzzed";
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

include!("../forge/mend.rs");

fn tiny_model() -> Arc<Model> {
    static MODEL: std::sync::OnceLock<Arc<Model>> = std::sync::OnceLock::new();
    Arc::clone(
        MODEL.get_or_init(|| {
            Arc::new(Model::from_bytes(include_bytes!("../golden/tiny.safetensors")).unwrap())
        }),
    )
}

fn header_seeds() -> Vec<Vec<u8>> {
    archives().iter().map(|archive| archive[..HEADER_LEN + 40].to_vec()).collect()
}

/// The contents of all frames of the golden archives.
fn index_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for archive in archives() {
        for at in 0..archive.len() {
            if archive[at..].starts_with(&s3a::wire::frame::MARKER)
                && let Ok(frame) = Frame::read(&archive[at..], 0)
                && frame.plain.len() < 4000
            {
                seeds.push(frame.plain);
            }
        }
    }
    seeds
}

fn chunk_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for raw in [b"some text that came before, and then some more of the text".to_vec(), vec![7; 700]] {
        let job = s3a::codec::job::EncodeJob { raw: &raw, history: vec![] };
        let models = Models::one(Arc::new(Neural::new(tiny_model())));
        for models in [Models::none(), models] {
            seeds.extend(
                s3a::codec::encode(&models, s3a::codec::Zstd::default(), std::slice::from_ref(&job))
                    .into_iter()
                    .map(|coded| coded.payload),
            );
        }
    }
    for archive in archives() {
        let from = archive.len() / 3;
        seeds.push(archive[from..from + 300].to_vec());
    }
    seeds
}

fn coder_seeds() -> Vec<Vec<u8>> {
    vec![vec![5, 1, 2, 3, 200, 40, 7, 7, 7, 0, 255], (0..=255).collect(), vec![15; 300]]
}

fn model_seeds() -> Vec<Vec<u8>> {
    vec![include_bytes!("../golden/tiny.safetensors").to_vec()]
}

fn archives() -> [&'static [u8]; 4] {
    [
        include_bytes!("../golden/v1_0_zstd.s3a"),
        include_bytes!("../golden/v1_0_neural.s3a"),
        include_bytes!("../golden/v1_0_large_chunks.s3a"),
        include_bytes!("../golden/v1_0_embedded.s3a"),
    ]
}

fn archive_seeds() -> Vec<Vec<u8>> {
    archives()[..3].iter().map(|archive| archive.to_vec()).collect()
}

fn path_seeds() -> Vec<Vec<u8>> {
    ["a/b/c", "../x", "a\u{1b}[31m\n/\u{202e}x", "\x03*.o/a/keep.o", "\x06!a/[b]/x", "/", ""]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

fn roundtrip_seeds() -> Vec<Vec<u8>> {
    vec![
        (0..120).map(|i| (i * 37) as u8).collect(),
        [&[2, 1, 0, 9][..], &[3, 3, 90, 200, 10, 1, 2].repeat(12)].concat(),
    ]
}

fn tar_seeds() -> Vec<Vec<u8>> {
    use s3a::archive::tar::{Member, TarWriter};
    let mut member = Member { path: vec![b'p'; 200], mode: 0o644, size: 5000, ..Member::default() };
    member.segments = Some(vec![(10, 700), (3000, 5)]);
    member.xattrs = vec![(b"user.a".to_vec(), b"b\n".to_vec())];
    member.mtime = Timestamp { secs: -4, nanos: 5 };
    let mut tar = TarWriter::new(Vec::new());
    tar.member(&member).unwrap();
    tar.data(&[3; 705]).unwrap();
    tar.member(&Member { path: b"x".to_vec(), size: 3, ..Member::default() }).unwrap();
    tar.data(b"abc").unwrap();
    let mut bytes = tar.finish().unwrap();
    bytes.truncate(5120);
    vec![bytes]
}
