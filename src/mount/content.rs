//! What reads of a mounted file return, and what its attributes say about how it is stored.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use super::cache::Plain;
use super::fault::Fault;
use super::source::Source;
use super::view::{Ino, View};
use crate::archive::read::archive::ChunkInfo;
use crate::archive::read::pieces::{ChunkMap, Piece, extents_from, plan};
use crate::error::Error;
use crate::wire::chunk::Codec;
use crate::wire::entry::ChunkId;

/// What a read returns.
#[derive(Debug)]
pub enum Bytes {
    /// Lies in one chunk and is not copied.
    Shared(Plain, Range<usize>),
    Joined(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Shared(plain, range) => &plain[range.clone()],
            Self::Joined(bytes) => bytes,
        }
    }
}

/// The pieces of `len` bytes of a file from `offset` on; fewer only where the file ends.
pub fn pieces(view: &View, ino: Ino, offset: u64, len: usize) -> Result<Vec<Piece>, Fault> {
    let (size, extents) = view.content(ino)?;
    Ok(plan(&Map(&**view.source()), size, extents, offset, len)?)
}

/// The chunks of a source, as a plan of a read asks for them.
struct Map<'a>(&'a dyn Source);

impl ChunkMap for Map<'_> {
    fn chunk(&self, id: ChunkId) -> crate::error::Result<ChunkInfo> {
        self.0.chunk(id)
    }

    fn chunks_of(&self, raw_offset: u64, len: u64) -> Range<u32> {
        self.0.chunks_of(raw_offset, len)
    }
}

/// Puts pieces together. `chunks` are those of the pieces that lie in one, in the same order.
pub fn join(pieces: &[Piece], chunks: &[Plain]) -> Result<Bytes, Fault> {
    let short = || Fault::from(Error::Internal("a chunk is shorter than the index says"));
    if let ([Piece::Chunk { range, .. }], [plain]) = (pieces, chunks) {
        return if range.end <= plain.len() {
            Ok(Bytes::Shared(plain.clone(), range.clone()))
        } else {
            Err(short())
        };
    }
    let mut bytes = Vec::new();
    let mut chunks = chunks.iter();
    for piece in pieces {
        match piece {
            Piece::Hole(len) => bytes.resize(bytes.len() + len, 0),
            Piece::Chunk { range, .. } => {
                let plain = chunks.next().and_then(|plain| plain.get(range.clone()));
                bytes.extend_from_slice(plain.ok_or_else(short)?);
            }
        }
    }
    Ok(Bytes::Joined(bytes))
}

/// What `lseek` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

/// The first position of data, or of a hole, from `offset` on. The end of a file counts as a hole.
pub fn seek(view: &View, ino: Ino, offset: u64, what: Seek) -> Result<u64, Fault> {
    let (size, extents) = view.content(ino)?;
    if offset >= size {
        return Err(Fault::BeyondData);
    }
    let mut at = offset;
    for extent in extents_from(extents, offset).iter().filter(|extent| extent.len > 0) {
        match what {
            Seek::Data => return Ok(extent.file_offset.max(offset)),
            Seek::Hole if extent.file_offset > at => return Ok(at),
            Seek::Hole => at = extent.file_offset.saturating_add(extent.len),
        }
    }
    match what {
        Seek::Data => Err(Fault::BeyondData),
        Seek::Hole => Ok(at.min(size)),
    }
}

/// Start of the names of attributes that tell how a file is stored. They can be asked for but are
/// not listed, so that tools which copy all attributes do not copy these.
pub const STORAGE: &[u8] = b"user.s3a.";

/// The value of an attribute `user.s3a.NAME` of a file:
/// `stored_size`, its share of the archive in bytes; `chunks`, their numbers as ranges; `codecs`,
/// how many chunks each codec has coded.
pub fn storage(view: &View, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Fault> {
    let (_, extents) = view.content(ino).map_err(|_| Fault::NoAttribute)?;
    let source = &**view.source();
    // Bytes of the file in each chunk.
    let mut shares: BTreeMap<u32, u64> = BTreeMap::new();
    for extent in extents {
        let end = extent.raw_offset.saturating_add(extent.len);
        for id in source.chunks_of(extent.raw_offset, extent.len) {
            let chunk = source.chunk(ChunkId(id))?;
            let chunk_end = chunk.raw_offset + u64::from(chunk.raw_len);
            let part = end.min(chunk_end).saturating_sub(extent.raw_offset.max(chunk.raw_offset));
            *shares.entry(id).or_default() += part;
        }
    }
    let text = match name {
        b"stored_size" => {
            let mut sum = 0u128;
            for (&id, &part) in &shares {
                let chunk = source.chunk(ChunkId(id))?;
                // In 1/256 bytes, so that the shares of small files do not all round to nothing.
                sum +=
                    u128::from(part) * u128::from(chunk.frame_len) * 256 / u128::from(chunk.raw_len.max(1));
            }
            sum.div_ceil(256).to_string()
        }
        b"chunks" => ranges(shares.keys().copied()),
        b"codecs" => {
            let mut counts = [("neural", 0u64), ("lz", 0), ("zstd", 0), ("stored", 0)];
            for &id in shares.keys() {
                let at = match source.codec(ChunkId(id))? {
                    Codec::Neural => 0,
                    Codec::Lz => 1,
                    Codec::Zstd => 2,
                    Codec::Stored => 3,
                };
                counts[at].1 += 1;
            }
            let used = counts.iter().filter(|(_, count)| *count > 0);
            used.map(|(name, count)| format!("{name}:{count}")).collect::<Vec<_>>().join(" ")
        }
        _ => return Err(Fault::NoAttribute),
    };
    Ok(text.into_bytes())
}

/// Ascending numbers as `3,5-9`.
fn ranges(numbers: impl Iterator<Item = u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let mut text = String::new();
    for (first, last) in runs {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = if first == last {
            write!(text, "{comma}{first}")
        } else {
            write!(text, "{comma}{first}-{last}")
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mount::fake::{Fake, file, sparse};
    use crate::wire::entry::Entry;

    fn view(entries: Vec<Entry>) -> (View, Arc<Fake>) {
        let fake = Arc::new(Fake::new(entries, 1000, 64));
        (View::new(fake.clone()).unwrap(), fake)
    }

    fn read(view: &View, fake: &Fake, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let plan = pieces(view, ino, offset, len)?;
        let chunks: Vec<Plain> =
            plan.iter().filter_map(Piece::chunk).map(|id| fake.plain(id.0).into()).collect();
        join(&plan, &chunks).map(|bytes| bytes.to_vec())
    }

    #[test]
    fn every_range_of_a_file_with_holes_reads_as_the_file() {
        let extents = [(10, 100, 50), (60, 0, 64), (124, 64, 1), (200, 900, 100)];
        let (view, fake) = view(vec![sparse("s", 350, &extents)]);
        let mut whole = vec![0u8; 350];
        for (at, raw, len) in extents {
            whole[at as usize..(at + len) as usize]
                .copy_from_slice(&fake.raw()[raw as usize..(raw + len) as usize]);
        }
        for offset in 0..=360usize {
            for len in [0, 1, 3, 40, 64, 65, 130, 400] {
                let end = (offset + len).min(350).max(offset.min(350));
                let got = read(&view, &fake, Ino(2), offset as u64, len).unwrap();
                assert_eq!(got, whole[offset.min(350)..end], "{offset} {len}");
            }
        }
        assert!(read(&view, &fake, Ino(2), u64::MAX, usize::MAX).unwrap().is_empty());
    }

    #[test]
    fn extents_beyond_the_chunks_are_an_error_and_not_a_short_read() {
        let (view, fake) = view(vec![file("f", 900, 200), file("g", u64::MAX - 5, 100), file("h", 5000, 1)]);
        assert_eq!(read(&view, &fake, Ino(2), 0, 100).unwrap(), fake.raw()[900..]);
        assert!(read(&view, &fake, Ino(2), 0, 101).is_err());
        assert!(read(&view, &fake, Ino(2), 150, 10).is_err());
        assert!(read(&view, &fake, Ino(3), 50, 10).is_err());
        assert!(read(&view, &fake, Ino(4), 0, 1).is_err());
    }

    #[test]
    fn a_chunk_shorter_than_the_index_says_is_an_error() {
        let (view, _) = view(vec![file("f", 0, 200)]);
        for len in [10, 200] {
            let plan = pieces(&view, Ino(2), 0, len).unwrap();
            let chunks: Vec<Plain> = plan.iter().map(|_| vec![1; 5].into()).collect();
            assert!(join(&plan, &chunks).is_err());
            assert!(join(&plan, &[]).is_err());
        }
    }

    #[test]
    fn data_and_holes_are_found() {
        let (view, _) = view(vec![
            sparse("s", 300, &[(10, 0, 20), (30, 20, 5), (100, 25, 50)]),
            file("f", 0, 10),
            file("e", 0, 0),
        ]);
        let find = |ino, offset, what| seek(&view, Ino(ino), offset, what).ok();
        for (offset, data, hole) in [(0, 10, 0), (10, 10, 35), (34, 34, 35), (35, 100, 35), (120, 120, 150)] {
            assert_eq!(find(2, offset, Seek::Data), Some(data), "{offset}");
            assert_eq!(find(2, offset, Seek::Hole), Some(hole), "{offset}");
        }
        assert_eq!(find(2, 150, Seek::Data), None);
        assert_eq!(find(2, 150, Seek::Hole), Some(150));
        assert_eq!(find(2, 300, Seek::Hole), None);
        assert_eq!(find(3, 3, Seek::Hole), Some(10));
        assert_eq!(find(4, 0, Seek::Data), None);
    }

    #[test]
    fn storage_attributes_tell_chunks_codecs_and_share() {
        let (view, _) =
            view(vec![file("f", 0, 192), sparse("g", 500, &[(0, 32, 32), (100, 640, 1)]), file("e", 0, 0)]);
        let ask =
            |ino, name: &str| String::from_utf8(storage(&view, Ino(ino), name.as_bytes()).unwrap()).unwrap();
        assert_eq!(ask(2, "chunks"), "0-2");
        assert_eq!(ask(2, "codecs"), "zstd:1 stored:2");
        // Each chunk takes 100 bytes for 64.
        assert_eq!(ask(2, "stored_size"), "300");
        assert_eq!(ask(3, "chunks"), "0,10");
        assert_eq!(ask(3, "stored_size"), "52");
        assert_eq!(ask(4, "chunks"), "");
        assert_eq!(ask(4, "stored_size"), "0");
        assert!(matches!(storage(&view, Ino(2), b"other"), Err(Fault::NoAttribute)));
        assert!(matches!(storage(&view, Ino::ROOT, b"chunks"), Err(Fault::NoAttribute)));
    }
}
