//! Archives that are damaged at random, and archives that are changed at random with every checksum
//! made right again, so that the change gets past the checksums. Each case ends in one of seven
//! classes, of which the last five must stay empty:
//!
//! - same: the change gave the same bytes, or an archive that is correct in itself;
//! - detected: the archive is refused, or verify reports the change;
//! - wrong: wrong bytes come out, or readers disagree about an archive that passes all checks;
//! - panic; signal, which ends the test; hang: more than 20 times the time of an undamaged archive
//!   and
//!   more than two seconds of CPU time; memory: more than 64 MiB.
//!
//! A share of the cases runs with the other tests. `S3A_MUTATIONS=100000 cargo test --release
//! --test mutations -- --nocapture` runs that many cases with checksums made right and a fifth as
//! many damaged ones, and prints rows for docs/results/mutations.csv; `S3A_FUZZ_SEED` chooses other
//! cases.

mod guard;
mod sample;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use guard::{MEMORY, peak, reset_peak, worked};
use s3a::archive::check::verify::verify;
use s3a::archive::salvage::recover::salvage;
use s3a::archive::{Archive, EntryId, Event, Kind, NoCache, OpenOptions, StreamReader};
use s3a::codec::Models;
use s3a::error::Error;
use s3a::wire::cursor::Cursor;
use s3a::wire::frame::{Frame, FrameKind, write_frame};
use s3a::wire::group::{Group, Table};
use s3a::wire::header::HEADER_LEN;
use s3a::wire::index::{Index, TRAILER_LEN, Trailer};
use sample::Sample;

/// CPU time that a case may take, beyond that of an undamaged archive.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of files larger than this only a part is read, since a mutation may claim any size.
const READ: u64 = 1 << 20;

/// The tests run one at a time, because they measure the memory of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

struct Draw(u64);

impl Draw {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 24) as usize % below.max(1)
    }

    /// Changes bytes in one to three places; if `in_place`, the number of bytes stays the same.
    fn change(&mut self, data: &mut Vec<u8>, in_place: bool) {
        for _ in 0..=self.below(3) {
            if data.is_empty() {
                return;
            }
            let (at, len) = (self.below(data.len()), 1 + self.below(if in_place { 8 } else { 600 }));
            let end = data.len().min(at + len);
            match self.below(if in_place { 5 } else { 9 }) {
                0 | 1 => data[at] ^= 1 << self.below(8),
                2 => data[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                3 => data[at..end].fill([0, 0xff][self.below(2)]),
                4 => data[at] = data[at].wrapping_add([1, 0xff][self.below(2)]),
                5 => data[at..end].iter_mut().for_each(|byte| *byte = self.below(256) as u8),
                6 => drop(data.drain(at..end)),
                7 => data.truncate(at),
                _ => {
                    let from = self.below(data.len());
                    let part = data[from..data.len().min(from + len)].to_vec();
                    data.splice(at..at, part);
                }
            }
        }
    }
}

/// An archive that is to be changed.
struct Base {
    bytes: Vec<u8>,
    models: fn() -> Models,
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    clean: Duration,
}

impl Base {
    fn new(bytes: Vec<u8>, models: fn() -> Models) -> Self {
        let mut base = Self { bytes, models, files: BTreeMap::new(), clean: Duration::ZERO };
        let archive = base.open(&base.bytes).unwrap();
        for (id, entry) in (0..).map(EntryId).zip(archive.entries()) {
            if let Kind::File { size, .. } = entry.kind {
                let mut content = vec![0; size.min(READ) as usize];
                archive.read_at(id, 0, &mut content, &NoCache).unwrap();
                base.files.insert(entry.path.clone(), content);
            }
        }
        assert!(!base.files.is_empty());
        let start = worked();
        assert_eq!(base.damaged(&base.bytes), Ok(false), "an archive that nothing has changed");
        assert_eq!(base.mended(&base.bytes), Ok(false), "an archive that nothing has changed");
        base.clean = worked().saturating_sub(start);
        base
    }

    fn open(&self, bytes: &[u8]) -> Result<Archive, Error> {
        let mut archive = Archive::from_file(on_disk(bytes), Path::new("changed"), &OpenOptions::default())?;
        archive.set_models((self.models)());
        Ok(archive)
    }

    /// What a reader of a pipe gets: paths, and a hash of all data.
    fn drain(&self, bytes: &[u8]) -> Result<(Vec<Vec<u8>>, blake3::Hash), Error> {
        let mut reader = StreamReader::open(bytes, &OpenOptions::default())?;
        reader.set_models((self.models)());
        let (mut paths, mut data) = (Vec::new(), blake3::Hasher::new());
        while let Some(event) = reader.next_event()? {
            match event {
                Event::Entry(_, entry) => paths.push(entry.path),
                Event::Data { bytes, .. } => _ = data.update(&bytes),
                Event::FileEnd { .. } | Event::Models => {}
            }
        }
        Ok((paths, data.finalize()))
    }

    /// Whether damage to these bytes is noticed. An error if wrong bytes come out, or if no reader
    /// notices.
    fn damaged(&self, bytes: &[u8]) -> Result<bool, String> {
        let same = bytes == self.bytes;
        if self.drain(bytes).is_ok() != same {
            return Err("a pipe does not tell".into());
        }
        let opened = self.open(bytes);
        if let Ok(archive) = &opened {
            for full in [false, true] {
                if verify(archive, full, &()).is_ok_and(|report| report.is_clean()) != same {
                    return Err(format!("verify does not tell, full {full}"));
                }
            }
            self.compare(archive, |_| false)?;
        } else if same {
            return Err("an archive that is right is refused".into());
        }
        if let Ok((mut archive, _)) = salvage(on_disk(bytes), Path::new("changed"), &OpenOptions::default()) {
            archive.set_models((self.models)());
            let report = verify(&archive, true, &()).map_err(|e| format!("what was salvaged: {e}"))?;
            self.compare(&archive, |id| report.files.iter().any(|file| file.id == id))?;
        }
        Ok(!same)
    }

    /// Every file that can be read and is not known to be hit must be unchanged.
    fn compare(&self, archive: &Archive, hit: impl Fn(EntryId) -> bool) -> Result<(), String> {
        for (id, entry) in (0..).map(EntryId).zip(archive.entries()) {
            let Kind::File { size, .. } = entry.kind else { continue };
            let copied = entry.path.windows(10).rposition(|part| part == b".salvaged-");
            let path = &entry.path[..copied.unwrap_or(entry.path.len())];
            let mut content = vec![0; size.min(READ) as usize];
            if hit(id) || archive.read_at(id, 0, &mut content, &NoCache).is_err() {
                continue;
            }
            if self.files.get(path) != Some(&content) {
                return Err(format!("{:?} has other bytes", String::from_utf8_lossy(path)));
            }
        }
        Ok(())
    }

    /// Whether a change that no checksum reveals is noticed. An error if readers disagree about an
    /// archive that passes.
    fn mended(&self, bytes: &[u8]) -> Result<bool, String> {
        let options = OpenOptions { max_entries: Some(100_000), max_metadata: Some(32 << 20) };
        if let Ok((mut archive, _)) = salvage(on_disk(bytes), Path::new("changed"), &options) {
            archive.set_models((self.models)());
            let _ = verify(&archive, true, &());
        }
        let drained = self.drain(bytes);
        let Ok(archive) = self.open(bytes) else { return Ok(true) };
        if !verify(&archive, true, &()).is_ok_and(|report| report.is_clean()) {
            return Ok(true);
        }
        // From here on all readers must agree.
        let (paths, data) = drained.map_err(|e| format!("verify passes, but a pipe says: {e}"))?;
        if !archive.entries().iter().map(|entry| &entry.path).eq(&paths) {
            return Err("a pipe brings other entries".into());
        }
        let mut all = blake3::Hasher::new();
        for id in (0..archive.chunk_count()).map(s3a::archive::ChunkId) {
            let read = archive.read_chunks(&[id], &NoCache).remove(0);
            all.update(&read.map_err(|e| format!("verify passes, but a chunk says: {e}"))?);
        }
        if all.finalize() != data {
            return Err("a pipe brings other data".into());
        }
        for (id, entry) in (0..).map(EntryId).zip(archive.entries()) {
            let Kind::File { size, extents, hash } = &entry.kind else { continue };
            if *size > READ {
                continue;
            }
            let mut content = vec![0; *size as usize];
            archive
                .read_at(id, 0, &mut content, &NoCache)
                .map_err(|e| format!("verify passes, but a file says: {e}"))?;
            let mut hasher = blake3::Hasher::new();
            for extent in extents {
                hasher.update(
                    &content[extent.file_offset as usize..(extent.file_offset + extent.len) as usize],
                );
            }
            if s3a::wire::entry::content_hash(hasher.finalize().as_bytes(), hasher.count()) != *hash {
                return Err("verify passes a file with another hash".into());
            }
        }
        Ok(false)
    }
}

/// Takes an archive apart, changes the content of one of its frames or a chunk, and puts it
/// together again with correct lengths, offsets and checksums. `None` where its parts are not
/// found.
fn reseal(bytes: &[u8], draw: &mut Draw) -> Option<Vec<u8>> {
    let trailer =
        Trailer::read(&bytes[bytes.len() - TRAILER_LEN..], (bytes.len() - TRAILER_LEN) as u64).ok()?;
    let index_at = bytes.len() - TRAILER_LEN - trailer.index_len as usize;
    let index_plain = Frame::read(&bytes[index_at..], 0).ok()?.plain;
    let mut index = Index::read(&mut Cursor::inside(&index_plain, 0), index_at as u64).ok()?;
    let chosen = draw.below(index.groups.len());
    let what = draw.below(10);
    let mut out = bytes[..index.groups.first()?.offset as usize].to_vec();
    if what == 0 {
        let mut header = out[..HEADER_LEN].to_vec();
        draw.change(&mut header, true);
        let crc = crc32fast::hash(&header[..HEADER_LEN - 4]);
        header[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        out[..HEADER_LEN].copy_from_slice(&header);
    }
    for (nth, record) in index.groups.iter_mut().enumerate() {
        let part = &bytes[record.offset as usize..record.end() as usize];
        let group = Frame::read(part, 0).ok()?;
        let entries = Frame::read(&part[group.len..], 0).ok()?;
        let mut body = part[record.head_len as usize..][..record.body_len as usize].to_vec();
        let table = Frame::read(&part[(record.head_len + record.body_len) as usize..], 0).ok()?;
        let (mut group_plain, mut entries_plain, mut table_plain) = (group.plain, entries.plain, table.plain);
        if nth == chosen {
            let in_place = draw.below(2) == 0;
            match what {
                1 => {
                    // The table repeats the content of the GROUP frame.
                    let rest = table_plain.split_off(group_plain.len());
                    draw.change(&mut group_plain, true);
                    table_plain = [&group_plain[..], &rest].concat();
                }
                2 => draw.change(&mut table_plain, in_place),
                3 => {
                    let table = Table::read(&mut Cursor::inside(&table_plain, 0)).ok()?;
                    change_chunk(&mut body, &table, draw);
                }
                4..=8 => draw.change(&mut entries_plain, in_place),
                _ => {}
            }
        }
        record.offset = out.len() as u64;
        let start = out.len();
        record.crc = write_frame(FrameKind::Group, &group_plain, &mut out).ok()?;
        write_frame(FrameKind::Entries, &entries_plain, &mut out).ok()?;
        record.head_len = (out.len() - start) as u32;
        out.extend(&body);
        let start = out.len();
        write_frame(FrameKind::Table, &table_plain, &mut out).ok()?;
        record.table_len = (out.len() - start) as u32;
        if let Ok(group) = Group::read(&mut Cursor::inside(&group_plain, 0)) {
            record.raw_len = group.raw_len;
            record.chunk_count = group.chunk_count;
            record.entry_count = group.entry_count;
        }
    }
    let mut plain = Vec::new();
    index.write(&mut plain);
    if what == 9 {
        draw.change(&mut plain, true);
    }
    let start = out.len();
    write_frame(FrameKind::Index, &plain, &mut out).ok()?;
    let (index_len, archive_len) = ((out.len() - start) as u64, (out.len() + TRAILER_LEN) as u64);
    Trailer { generation: index.generation, index_len, archive_len }.write(&mut out);
    Some(out)
}

/// Changes a chunk's frame, and makes its CRC right.
fn change_chunk(body: &mut [u8], table: &Table, draw: &mut Draw) {
    if table.frame_lens.is_empty() {
        return;
    }
    let nth = draw.below(table.frame_lens.len());
    let before: u32 = table.frame_lens[..nth].iter().sum();
    let from = (table.group.dictionary_len + before) as usize;
    let Some(frame) = body.get_mut(from..from + table.frame_lens[nth] as usize) else { return };
    let end = frame.len() - 4;
    let mut changed = frame[..end].to_vec();
    draw.change(&mut changed, true);
    let salt = table.group.salt.to_le_bytes();
    let crc = crc32fast::hash(&[&salt, &(nth as u32).to_le_bytes(), &changed[..]].concat());
    frame[..end].copy_from_slice(&changed);
    frame[end..].copy_from_slice(&crc.to_le_bytes());
}

include!("forge/mend.rs");

fn on_disk(bytes: &[u8]) -> File {
    let fd = rustix::fs::memfd_create(c"changed", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    file
}

#[derive(Default)]
struct Counts {
    cases: u64,
    same: u64,
    detected: u64,
    /// Cases that failed: wrong, panic, hang, memory.
    failed: [u64; 4],
    /// Descriptions of the first failures.
    told: Vec<String>,
}

impl Counts {
    fn take(&mut self, base: &Base, changed: &[u8], study: impl Fn(&Base, &[u8]) -> Result<bool, String>) {
        let watched = reset_peak();
        let (before, start) = (peak(), worked());
        let result = catch_unwind(AssertUnwindSafe(|| study(base, changed)));
        let (took, after) = (worked().saturating_sub(start), peak());
        let grown = after.unwrap_or(0).saturating_sub(before.unwrap_or(0));
        self.cases += 1;
        let failure = match result {
            Err(_) => Some((1, "panic".to_owned())),
            Ok(Err(what)) => Some((0, what)),
            Ok(Ok(_)) if took > PATIENCE.max(20 * base.clean) => Some((2, format!("took {took:?}"))),
            Ok(Ok(_)) if watched && grown > MEMORY => Some((3, format!("took {} MiB", grown >> 20))),
            Ok(Ok(true)) => {
                self.detected += 1;
                None
            }
            Ok(Ok(false)) => {
                self.same += 1;
                None
            }
        };
        if let Some((class, what)) = failure {
            self.failed[class] += 1;
            if self.told.len() < 10 {
                let path =
                    std::env::temp_dir().join(format!("mutation-{}", &blake3::hash(changed).to_hex()[..12]));
                fs::write(&path, changed).unwrap();
                self.told.push(format!("{}: {what}", path.display()));
            }
        }
    }

    fn report(&self, name: &str, start: Instant) {
        let [wrong, panic, hang, memory] = self.failed;
        println!(
            "row {name},{},{},{},{wrong},{panic},0,{hang},{memory},{}",
            self.cases,
            self.same,
            self.detected,
            start.elapsed().as_secs()
        );
    }

    fn assert_none_failed(&self) {
        assert_eq!(self.failed, [0; 4], "{:#?}", self.told);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Small and larger archives, with every kind of record.
fn bases() -> Vec<Base> {
    vec![
        Base::new(Sample::tiny().bytes, sample::models),
        Base::new(Sample::rich().bytes, sample::models),
        Base::new(include_bytes!("golden/v1_0_zstd.s3a").to_vec(), Models::none),
        Base::new(include_bytes!("golden/v1_0_dictionary.s3a").to_vec(), Models::none),
    ]
}

#[test]
fn random_damage_is_detected() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (bases, start) = (bases(), Instant::now());
    let mut draw = Draw(number("S3A_FUZZ_SEED").unwrap_or(1));
    let mut counts = Counts::default();
    for _ in 0..number("S3A_MUTATIONS").map_or(400, |cases| cases / 5) {
        let base = &bases[draw.below(bases.len())];
        let mut changed = base.bytes.clone();
        draw.change(&mut changed, false);
        counts.take(base, &changed, Base::damaged);
    }
    assert!(counts.detected > counts.cases * 9 / 10, "{} of {}", counts.detected, counts.cases);
    counts.report("damaged", start);
    counts.assert_none_failed();
}

#[test]
fn changes_with_mended_checksums_are_detected_or_consistent() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (bases, start) = (bases(), Instant::now());
    let mut draw = Draw(number("S3A_FUZZ_SEED").unwrap_or(2));
    let (mut in_place, mut resealed) = (Counts::default(), Counts::default());
    for case in 0..number("S3A_MUTATIONS").unwrap_or(1200) {
        let base = &bases[draw.below(bases.len())];
        if case.is_multiple_of(3) {
            let mut changed = base.bytes.clone();
            draw.change(&mut changed, true);
            mend(&mut changed);
            in_place.take(base, &changed, Base::mended);
        } else {
            let changed = reseal(&base.bytes, &mut draw).expect("the parts of a good archive");
            resealed.take(base, &changed, Base::mended);
        }
    }
    // Some changes get past the checksums, and some of them give a correct archive.
    assert!(resealed.same * 50 > resealed.cases, "{} of {}", resealed.same, resealed.cases);
    assert!(resealed.detected * 4 > resealed.cases, "{} of {}", resealed.detected, resealed.cases);
    in_place.report("mended in place", start);
    resealed.report("resealed", start);
    in_place.assert_none_failed();
    resealed.assert_none_failed();
}
