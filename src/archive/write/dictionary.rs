//! zstd dictionaries, trained on some chunks of a group where they pay.
//!
//! A dictionary depends on its group's bytes alone, so groups stay independent of each other. Whether it pays is
//! measured on other chunks of the group.

use std::sync::Arc;

use rayon::prelude::*;

use crate::wire::frame::{FrameKind, write_frame_at};
use crate::wire::zstd_raw::{PackDictionary, Packer, train};

/// Bytes that a dictionary is trained on, for each of its own.
pub(crate) const SAMPLES: usize = 16;

/// Chunks that are packed with and without, to see whether it pays.
pub(crate) const PROBES: usize = 32;

/// A group's dictionary, for the one who packs.
pub(crate) struct Trained {
    /// Its DICTIONARY frame.
    pub frame: Vec<u8>,
    pub pack: PackDictionary,
}

impl Trained {
    /// For the chunks of a group; none if they gain no more than it takes.
    pub fn new(chunks: &[Arc<[u8]>], most: usize, level: i32) -> Option<Self> {
        let total: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let most = most.min(total / 16);
        if most < 1 << 10 {
            return None;
        }
        let step = (total / (SAMPLES * most)).max(2);
        let samples: Vec<&[u8]> = chunks.iter().step_by(step).map(|chunk| &chunk[..]).collect();
        let lens: Vec<usize> = samples.iter().map(|sample| sample.len()).collect();
        let plain = train(&samples.concat(), &lens, most)?;
        let mut frame = Vec::new();
        write_frame_at(FrameKind::Dictionary, &plain, level, &mut frame).ok()?;
        let pack = PackDictionary::new(&plain, level)?;
        // Half way between the samples, for in those it is at home.
        let between: Vec<&Arc<[u8]>> = chunks.iter().skip(step / 2).step_by(step).collect();
        let probes: Vec<&Arc<[u8]>> =
            between.iter().step_by(between.len().div_ceil(PROBES).max(1)).copied().collect();
        let gain = |chunk: &&Arc<[u8]>| {
            let packed = |dictionary| {
                let packed = Packer::new(level, dictionary).and_then(|mut packer| packer.pack(chunk));
                packed.map_or(chunk.len(), |packed| packed.len().min(chunk.len())) as i64
            };
            packed(None) - packed(Some(&pack))
        };
        let gains: i64 = probes.par_iter().map(gain).sum();
        let pays = gains.saturating_mul(chunks.len() as i64) > frame.len() as i64 * probes.len() as i64;
        pays.then_some(Self { frame, pack })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::check::verify::verify;
    use crate::archive::read::archive::Archive;
    use crate::archive::read::chunk_cache::NoCache;
    use crate::archive::read::options::OpenOptions;
    use crate::archive::read::stream::{Event, StreamReader};
    use crate::archive::salvage::recover::salvage;
    use crate::archive::write::content::Content;
    use crate::archive::write::options::WriterOptions;
    use crate::archive::write::writer::Writer;
    use crate::error::{Error, Result};
    use crate::wire::entry::{ChunkId, Entry, Kind, Timestamp};

    fn chunk(seed: u32) -> Arc<[u8]> {
        let line = |i: u32| format!("{seed}-{i} GET /item/{} took {} ms\n", i * seed % 97, i * 31 % 997);
        let text: Vec<u8> = (0..200).flat_map(|i| line(i).into_bytes()).collect();
        text[..4096].into()
    }

    fn noise(seed: u32) -> Arc<[u8]> {
        let mut bytes = vec![0; 4096];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes.into()
    }

    #[test]
    fn a_dictionary_is_trained_where_it_pays() {
        let text: Vec<_> = (0..200).map(chunk).collect();
        let trained = Trained::new(&text, 16 << 10, 3).unwrap();
        let again = Trained::new(&text, 16 << 10, 3).unwrap();
        assert!(trained.frame == again.frame && trained.frame.len() < 17 << 10);
        assert!(Trained::new(&(0..200).map(noise).collect::<Vec<_>>(), 16 << 10, 3).is_none());
        assert!(Trained::new(&text[..2], 16 << 10, 3).is_none());
        assert!(Trained::new(&[], 16 << 10, 3).is_none());
    }

    /// An archive of one file with such a dictionary.
    fn archive() -> (Vec<u8>, Vec<u8>) {
        let raw: Vec<u8> = (0..200).flat_map(|i| chunk(i).to_vec()).collect();
        let options = WriterOptions {
            chunk_size: 4096,
            zstd_level: 3,
            dictionary: 16 << 10,
            ..WriterOptions::default()
        };
        let mut writer = Writer::create(Vec::new(), options).unwrap();
        let kind = Kind::File { size: raw.len() as u64, extents: Vec::new(), hash: [0; 16] };
        let entry = Entry {
            path: b"log".into(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        writer.add(entry, Content::Data(&mut &raw[..])).unwrap();
        (writer.finish().unwrap().0, raw)
    }

    fn open(bytes: &[u8]) -> Result<Archive> {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        Archive::from_file(file, std::path::Path::new("test"), &OpenOptions::default())
    }

    #[test]
    fn chunks_with_a_dictionary_are_read_at_random_and_in_order() {
        let (bytes, raw) = archive();
        let archive = open(&bytes).unwrap();
        assert!(archive.layout.groups[0].group.dictionary_len > 1000);
        for id in [7, 0, 199] {
            let read = archive.read_chunks(&[ChunkId(id)], &NoCache).pop().unwrap().unwrap();
            assert!(read[..] == raw[id as usize * 4096..][..4096]);
        }
        assert!(verify(&archive, true, &()).unwrap().is_clean());
        let mut reader = StreamReader::open(&bytes[..], &OpenOptions::default()).unwrap();
        let mut streamed = Vec::new();
        while let Some(event) = reader.next_event().unwrap() {
            if let Event::Data { bytes, .. } = event {
                streamed.extend_from_slice(&bytes);
            }
        }
        assert!(streamed == raw);
    }

    #[test]
    fn a_damaged_dictionary_is_found_and_costs_the_chunks_that_need_it() {
        let (mut bytes, _) = archive();
        let body = open(&bytes).unwrap().layout.groups[0].record.body() as usize;
        let len = open(&bytes).unwrap().layout.groups[0].group.dictionary_len as usize;
        for at in (body..body + len).step_by(61) {
            bytes[at] ^= 4;
            let damaged = open(&bytes).unwrap();
            for full in [false, true] {
                let report = verify(&damaged, full, &()).unwrap();
                assert!(report.damages.iter().any(|d| d.offset == body as u64 && d.len == len as u64));
                assert_eq!(report.files.len(), 1);
            }
            let read = damaged.read_chunks(&[ChunkId(3)], &NoCache).pop().unwrap();
            assert!(matches!(read, Err(Error::BadChunk { chunk: 3, .. })));
            let mut reader = StreamReader::open(&bytes[..], &OpenOptions::default()).unwrap();
            assert!(std::iter::from_fn(|| reader.next_event().transpose()).any(|event| event.is_err()));
            bytes[at] ^= 4;
        }
    }

    #[test]
    fn salvage_reads_chunks_with_their_dictionary() {
        let (mut bytes, raw) = archive();
        let record = open(&bytes).unwrap().layout.groups[0].record.clone();
        let salvaged = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, bytes).unwrap();
            salvage(file, std::path::Path::new("test"), &OpenOptions::default()).unwrap().0
        };
        // Without index, without GROUP frame, and without TABLE frame.
        for at in [bytes.len() - 1, record.offset as usize + 12, record.table() as usize + 12] {
            bytes[at] ^= 1;
            let archive = salvaged(&bytes);
            assert_eq!(archive.entries().len(), 1, "{at}");
            let read = archive.read_chunks(&[ChunkId(150)], &NoCache).pop().unwrap().unwrap();
            assert!(read[..] == raw[150 * 4096..][..4096]);
            bytes[at] ^= 1;
        }
        bytes[record.body() as usize + 30] ^= 1;
        assert!(salvaged(&bytes).read_chunks(&[ChunkId(150)], &NoCache)[0].is_err());
    }
}
