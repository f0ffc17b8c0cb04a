//! The bytes that are measured, and how they are cut into chunks.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::archive::observer::Observer;
use crate::archive::pack::scan;
use crate::archive::path::cmp_paths;
use crate::cli::bench::report;
use crate::error::{Error, Result};
use crate::model::tokens::Vocabulary;

/// Bytes that stay together.
const STRETCH: usize = 16 << 10;

/// How long a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Tokens(usize),
    Bytes(usize),
}

impl Length {
    pub const ALL: [Self; 8] = [
        Self::Tokens(32),
        Self::Tokens(64),
        Self::Tokens(128),
        Self::Tokens(256),
        Self::Tokens(512),
        Self::Tokens(1024),
        Self::Tokens(2048),
        Self::Bytes(STRETCH),
    ];
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Tokens(tokens) => write!(f, "{tokens} tokens"),
            Self::Bytes(bytes) => write!(f, "{}", report::size(bytes as u64)),
        }
    }
}

/// One chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub raw: &'a [u8],
    pub tokens: usize,
}

/// What is measured on.
pub(crate) struct Sample {
    pub bytes: Vec<u8>,
    /// Bytes of all files that it was taken from.
    pub of: u64,
}

impl Sample {
    /// All files in the order of their paths, or of the whole a part of at most `most` bytes (one
    /// stretch at least), in stretches spread evenly.
    pub fn read(path: &Path, most: u64, observer: &dyn Observer) -> Result<Self> {
        let path = std::fs::canonicalize(path).map_err(|e| Error::io(path, e))?;
        let tree = scan::Tree::scan(
            std::slice::from_ref(&path),
            None,
            &crate::archive::pack::found::ScanOptions::default(),
            observer,
        )?;
        let of = tree.bytes();
        let mut taker = Taker::new(of, most);
        let mut files: Vec<&crate::archive::pack::found::Found> = tree.entries.iter().collect();
        files.sort_by(|a, b| cmp_paths(&a.entry.path, &b.entry.path));
        let mut block = vec![0; 256 << 10];
        for found in files {
            if !matches!(found.entry.kind, crate::wire::entry::Kind::File { .. }) {
                continue;
            }
            // What cannot be read is left out by everyone.
            let Ok(file) = tree.open(found) else { continue };
            let mut file = File::from(file);
            loop {
                let got = file.read(&mut block).map_err(|e| Error::io(&path, e))?;
                if got == 0 {
                    break;
                }
                taker.take(block.get(..got).unwrap_or_default());
            }
        }
        Ok(Self { bytes: taker.bytes, of })
    }

    /// The bytes in chunks of this length; the last may be shorter.
    pub fn cut(&self, vocabulary: &Vocabulary, length: Length) -> Vec<Piece<'_>> {
        match length {
            Length::Bytes(len) => {
                let piece = |raw| Piece { raw, tokens: vocabulary.tokenize(raw).len() };
                self.bytes.chunks(len).map(piece).collect()
            }
            Length::Tokens(count) => {
                let mut rest = &self.bytes[..];
                let cut = |tokens: &[u16]| {
                    let len: usize = tokens.iter().map(|&token| vocabulary.token(token).len()).sum();
                    let (raw, after) = rest.split_at(len.min(rest.len()));
                    rest = after;
                    Piece { raw, tokens: tokens.len() }
                };
                vocabulary.tokenize(&self.bytes).chunks(count).map(cut).collect()
            }
        }
    }
}

/// Takes of a stream those stretches that are wanted.
struct Taker {
    /// Stretches of the stream, and how many of them to take.
    all: u64,
    wanted: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Taker {
    fn new(bytes: u64, most: u64) -> Self {
        let all = bytes.div_ceil(STRETCH as u64).max(1);
        let wanted = if bytes <= most { all } else { (most / STRETCH as u64).clamp(1, all) };
        Self { all, wanted, at: 0, bytes: Vec::new() }
    }

    fn take(&mut self, mut block: &[u8]) {
        while !block.is_empty() {
            let (stretch, within) = (self.at / STRETCH as u64, self.at % STRETCH as u64);
            let len = (STRETCH - within as usize).min(block.len());
            let (now, later) = block.split_at(len);
            // As many up to this stretch as its share is of all; u128 because both may be large.
            let upto = |n: u64| (u128::from(n) * u128::from(self.wanted)).div_ceil(u128::from(self.all));
            // A file may have grown since it was found.
            if stretch < self.all && upto(stretch + 1) > upto(stretch) {
                self.bytes.extend_from_slice(now);
            }
            self.at += len as u64;
            block = later;
        }
    }
}

/// At most `most` numbers below `count`, spread evenly.
pub(crate) fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let chosen = count.min(most);
    (0..chosen).map(move |nth| nth * count / chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_all_bytes_and_as_long_as_asked() {
        let bytes: Vec<u8> = b"one of the chunks ".repeat(2000);
        let sample = Sample { of: bytes.len() as u64, bytes };
        let extra = ["the ", "ch", "chunk", "one of"].map(|text| text.as_bytes().to_vec());
        let vocabulary = Vocabulary::new((0..=255u8).map(|byte| vec![byte]).chain(extra)).unwrap();
        for length in Length::ALL {
            let pieces = sample.cut(&vocabulary, length);
            assert_eq!(pieces.iter().map(|piece| piece.raw).collect::<Vec<_>>().concat(), sample.bytes);
            for (nth, piece) in pieces.iter().enumerate() {
                // What was tokenized together comes apart into the same tokens.
                assert_eq!(vocabulary.tokenize(piece.raw).len(), piece.tokens);
                let full = match length {
                    Length::Tokens(count) => piece.tokens == count,
                    Length::Bytes(count) => piece.raw.len() == count,
                };
                assert!(full || nth + 1 == pieces.len());
            }
        }
    }

    #[test]
    fn a_sample_is_whole_stretches_of_all_parts() {
        let stream: Vec<u8> = (0..100u8).flat_map(|i| [i; STRETCH]).chain([100; 5]).collect();
        for (most, wanted) in [(u64::MAX, 101), (10 * STRETCH as u64 + 3, 10), (0, 1)] {
            let mut taker = Taker::new(stream.len() as u64, most);
            stream.chunks(1000).for_each(|block| taker.take(block));
            let stretches: Vec<u8> = taker.bytes.chunks(STRETCH).map(|stretch| stretch[0]).collect();
            assert_eq!(stretches.len(), wanted);
            assert!(taker.bytes.chunks(STRETCH).all(|stretch| stretch.iter().all(|&b| b == stretch[0])));
            let step = 101 / wanted as u8;
            assert!(stretches.windows(2).all(|pair| (step..=step + 1).contains(&(pair[1] - pair[0]))));
        }
    }

    #[test]
    fn what_is_spread_is_distinct_and_below_the_count() {
        assert_eq!(spread(5, 100).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(spread(1000, 4).collect::<Vec<_>>(), [0, 250, 500, 750]);
        assert_eq!(spread(0, 4).count(), 0);
    }
}
