//! Training data: files become chunks as an archive would cut them, and chunks become batches of
//! windows.
//!
//! Files are concatenated in the order of their paths and cut into blocks of 64 KiB. Each time a
//! block is used, it is cut anew into chunks of 4, 16 or 64 KiB, and a chunk may have earlier
//! chunks of its block as references. The match features come from the product's own matcher over
//! the whole chunk; the network sees windows of it. Some blocks are held out for measurements. If
//! weights are given, blocks are drawn in proportion to the weights of their kinds of files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::clusters::Clusters;
use super::net::{Batch, table_row};
use super::ops::embed::NONE;
use super::ops::loss::Targets;
use super::random::Random;
use super::sizes::NetConfig;
use crate::error::{Error, Result};
use crate::model::matcher::Matcher;
use crate::model::tokens::Vocabulary;

const BLOCK: usize = 64 << 10;
/// One block in this many is held out; more of a small corpus.
const HELD_OUT: usize = 256;
/// Windows that are mixed with one another.
const POOL: usize = 4096;
/// Each time a block is used, one of this many of its windows is, so that a pool mixes many files.
const USED: usize = 4;
/// One window in this many is treated as a whole chunk, so that short chunks are learned, too.
const SHORT: usize = 6;

/// Weights of kinds of files: a path, and the megabytes that all files below it count as.
pub type Weights = BTreeMap<String, f64>;

/// Reads weights: lines of a path, relative to the directories that are trained on, and a number of
/// megabytes.
///
/// # Errors
/// `Io`, or `Usage` if a line does not have that form.
pub fn read_weights(path: &Path) -> Result<Weights> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let wrong = |line: &str| Error::Usage(format!("{}: no path and weight: {line}", path.display()));
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (kind, weight) = line.trim().rsplit_once(char::is_whitespace).ok_or_else(|| wrong(line))?;
            let weight: f64 = weight.parse().map_err(|_| wrong(line))?;
            if !weight.is_finite() || weight < 0.0 {
                return Err(wrong(line));
            }
            Ok((kind.trim().to_owned(), weight))
        })
        .collect()
}

/// Text to train on.
pub struct Corpus {
    bytes: Vec<u8>,
    /// How many files there are.
    pub files: usize,
    /// The weights that were given.
    pub weights: Weights,
    /// For each kind the megabytes that it counts as, and its blocks; a single kind without
    /// weights.
    kinds: Vec<(f64, Vec<usize>)>,
}

impl Corpus {
    /// Reads all files below the given files and directories.
    ///
    /// # Errors
    /// `Io`, or `Usage` for wrong weights or too little to train on.
    pub fn read(sources: &[PathBuf], weights: Option<&Path>) -> Result<Self> {
        let weights = weights.map(read_weights).transpose()?.unwrap_or_default();
        let mut paths = Vec::new();
        for source in sources {
            walk(source, Path::new(""), &mut paths)?;
        }
        paths.sort();
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for (relative, path) in &paths {
            starts.push((bytes.len(), kind(&weights, relative)));
            let mut file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
            std::io::Read::read_to_end(&mut file, &mut bytes).map_err(|e| Error::io(path, e))?;
        }
        if bytes.len() < 2 * BLOCK {
            return Err(Error::Usage("training needs at least 128 KiB of files".to_owned()));
        }
        let kinds = kinds(&starts, &weights, bytes.len());
        Ok(Self { bytes, files: paths.len(), weights, kinds })
    }

    /// Bytes of all files.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn blocks(&self) -> usize {
        self.bytes.len().div_ceil(BLOCK)
    }

    /// Whether a block is held out; at least one is, and at least one is not.
    fn is_held_out(&self, block: usize) -> bool {
        let every = HELD_OUT.min(self.blocks() / 4).max(2);
        block % every == every / 2
    }

    fn block(&self, i: usize) -> &[u8] {
        &self.bytes[i * BLOCK..((i + 1) * BLOCK).min(self.bytes.len())]
    }

    /// Blocks of one round in a random order, none of them held out, in proportion to the weights
    /// of their kinds. Without weights every block comes once.
    fn draw(&self, random: &mut Random) -> Vec<usize> {
        let all: f64 = self.kinds.iter().map(|(weight, _)| weight).sum();
        let mut order = Vec::with_capacity(self.blocks());
        for (weight, blocks) in &self.kinds {
            let mut blocks: Vec<usize> =
                blocks.iter().copied().filter(|&block| !self.is_held_out(block)).collect();
            let share = weight / all.max(f64::MIN_POSITIVE) * self.blocks() as f64;
            let count = if self.weights.is_empty() { blocks.len() } else { share.round() as usize };
            random.shuffle(&mut blocks);
            order.extend(blocks.iter().cycle().take(count));
        }
        random.shuffle(&mut order);
        order
    }

    /// About `total` bytes, spread evenly over the corpus, to learn a vocabulary from.
    pub fn sample(&self, total: usize) -> Vec<&[u8]> {
        let step = (self.len() / total.max(1)).max(1);
        (0..self.blocks()).step_by(step).map(|i| self.block(i)).collect()
    }
}

/// The weighted path that a file lies below; the longest one if there are several.
fn kind<'w>(weights: &'w Weights, file: &Path) -> Option<&'w str> {
    let below = weights.keys().filter(|kind| file.starts_with(kind));
    below.max_by_key(|kind| kind.len()).map(String::as_str)
}

/// Blocks by the kind of the file in which each begins. Files of no kind count as their own size.
fn kinds(starts: &[(usize, Option<&str>)], weights: &Weights, len: usize) -> Vec<(f64, Vec<usize>)> {
    let mut blocks: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
    for block in 0..len.div_ceil(BLOCK) {
        let next = starts.partition_point(|&(start, _)| start <= block * BLOCK);
        blocks.entry(starts[next.max(1) - 1].1).or_default().push(block);
    }
    let weigh = |(kind, blocks): (Option<&str>, Vec<usize>)| {
        let size = (blocks.len() * BLOCK) as f64 / 1e6;
        (kind.and_then(|kind| weights.get(kind)).copied().unwrap_or(size), blocks)
    };
    blocks.into_iter().map(weigh).collect()
}

fn walk(path: &Path, relative: &Path, out: &mut Vec<(PathBuf, PathBuf)>) -> Result<()> {
    let meta = std::fs::symlink_metadata(path).map_err(|e| Error::io(path, e))?;
    if meta.is_file() {
        out.push((relative.to_owned(), path.to_owned()));
    } else if meta.is_dir() {
        for entry in std::fs::read_dir(path).map_err(|e| Error::io(path, e))? {
            let entry = entry.map_err(|e| Error::io(path, e))?;
            walk(&entry.path(), &relative.join(entry.file_name()), out)?;
        }
    }
    Ok(())
}

/// A part of a chunk, with its features.
pub(crate) struct Window {
    kind: usize,
    /// All tokens of the chunk, for which c is written.
    chunk: Arc<Vec<u32>>,
    rows: Vec<u32>,
    targets: Targets,
    bytes: usize,
}

/// What turns chunks into windows.
pub struct Featuriser<'a> {
    /// Sizes of the network.
    pub config: &'a NetConfig,
    /// The vocabulary by which chunks become tokens.
    pub vocabulary: &'a Vocabulary,
    /// Positions of a window.
    pub len: usize,
}

impl Featuriser<'_> {
    /// Appends the windows of one chunk to `out`, given the raw bytes of its references.
    pub(crate) fn windows(&self, raw: &[u8], references: &[&[u8]], out: &mut Vec<Window>) -> Result<()> {
        let c = self.config;
        let tables = c.tables();
        let capacity = raw.len() + references.iter().map(|r| r.len()).sum::<usize>();
        let separator = self.vocabulary.separator();
        let mut matcher = Matcher::new(&c.orders, &c.seconds, capacity, separator)?;
        for reference in references {
            matcher.extend(&self.vocabulary.tokenize(reference));
        }
        matcher.update(separator);
        let tokens = self.vocabulary.tokenize(raw);
        let mut rows = Vec::with_capacity(tokens.len() * c.rows_per_position());
        let mut targets = Targets::default();
        let mut before = separator;
        for &token in &tokens {
            rows.push(u32::from(before));
            let slots = matcher.look_up();
            for (k, slot) in slots.iter().enumerate() {
                let candidate = (slot.class > 0).then_some(usize::from(slot.candidate));
                rows.push(table_row(tables.matches + k * c.vocab, candidate));
                rows.push(table_row(tables.classes + k * 17, Some(usize::from(slot.class))));
                if c.copy {
                    targets.candidates.push(candidate.map_or(NONE, |v| v as u32));
                    targets.classes.push(slot.class);
                }
            }
            for (&(order, bits), &first) in c.ngrams.iter().zip(&tables.ngrams) {
                let hash = matcher.hash(usize::from(order)) >> (32 - u32::from(bits));
                rows.push(table_row(first, Some(hash as usize)));
            }
            targets.tokens.push(u32::from(token));
            matcher.update(token);
            before = token;
        }
        let chunk = Arc::new(targets.tokens.clone());
        let mut start = 0;
        while start < tokens.len() {
            // The last window starts earlier so that it is whole; it is left out if it would mostly
            // repeat the one before.
            let mut from = start;
            if from + self.len > tokens.len() {
                if tokens.len() < self.len || tokens.len() - start < self.len / 4 {
                    break;
                }
                from = tokens.len() - self.len;
            }
            out.push(Window { chunk: chunk.clone(), ..self.window(&tokens, &rows, &targets, from) });
            start += self.len;
        }
        Ok(())
    }

    /// A whole chunk, without references, as a batch of one sequence.
    pub fn whole(config: &NetConfig, vocabulary: &Vocabulary, raw: &[u8]) -> Result<Batch> {
        let len = vocabulary.tokenize(raw).len();
        let mut windows = Vec::new();
        Featuriser { config, vocabulary, len }.windows(raw, &[], &mut windows)?;
        Ok(join(len, windows))
    }

    fn window(&self, tokens: &[u16], rows: &[u32], targets: &Targets, from: usize) -> Window {
        let (per, gates) = (self.config.rows_per_position(), self.config.gates());
        let range = from..from + self.len;
        Window {
            kind: 0,
            chunk: Arc::default(),
            rows: rows[range.start * per..range.end * per].to_vec(),
            bytes: tokens[range.clone()].iter().map(|&t| self.vocabulary.token(t).len()).sum(),
            targets: Targets {
                tokens: targets.tokens[range.clone()].to_vec(),
                candidates: targets.candidates[range.start * gates..range.end * gates].to_vec(),
                classes: targets.classes[range.start * gates..range.end * gates].to_vec(),
            },
        }
    }

    fn block(&self, block: &[u8], random: &mut Random, out: &mut Vec<Window>) -> Result<()> {
        let size = match random.below(16) {
            0 => 4 << 10,
            1..=12 => 16 << 10,
            _ => 64 << 10,
        };
        let chunks: Vec<&[u8]> = block.chunks(size).collect();
        for (i, chunk) in chunks.iter().enumerate() {
            let mut references = Vec::new();
            if i > 0 && random.below(2) == 0 {
                references.push(chunks[random.below(i)]);
                if i > 1 && random.below(2) == 0 {
                    references.push(chunks[random.below(i)]);
                }
            }
            self.windows(chunk, &references, out)?;
        }
        Ok(())
    }
}

/// Joins windows into a batch.
pub(crate) fn join(len: usize, windows: Vec<Window>) -> Batch {
    let mut rows = Vec::new();
    let mut targets = Targets::default();
    let mut bytes = 0;
    let (mut chunks, mut kinds) = (Vec::new(), Vec::new());
    for window in windows {
        chunks.push(window.chunk);
        kinds.push(window.kind as u16);
        rows.extend(window.rows);
        targets.tokens.extend(window.targets.tokens);
        targets.candidates.extend(window.targets.candidates);
        targets.classes.extend(window.targets.classes);
        bytes += window.bytes;
    }
    Batch { len, rows: Arc::new(rows), targets: Arc::new(targets), bytes, chunks, kinds }
}

/// The tokens of the chunks of `count` windows, in which kinds of text are found.
pub fn texts(
    corpus: &Corpus,
    featuriser: Featuriser<'_>,
    count: usize,
    seed: u64,
) -> Result<Vec<Arc<Vec<u32>>>> {
    let mut batches = Batches::new(corpus, featuriser, seed);
    (0..count).map(|_| Ok(batches.next(1)?.chunks.swap_remove(0))).collect()
}

/// An endless stream of batches in a random order, which depends on the seed only.
pub struct Batches<'a> {
    corpus: &'a Corpus,
    featuriser: Featuriser<'a>,
    random: Random,
    order: Vec<usize>,
    pool: Vec<Window>,
    /// If there are kinds, all windows of a batch are of one kind.
    kinds: Option<Clusters>,
}

impl<'a> Batches<'a> {
    /// Batches of a corpus; the same seed gives the same batches.
    pub fn new(corpus: &'a Corpus, featuriser: Featuriser<'a>, seed: u64) -> Self {
        Self {
            corpus,
            featuriser,
            random: Random::new(seed),
            order: Vec::new(),
            pool: Vec::new(),
            kinds: None,
        }
    }

    /// Makes batches whose windows are all of one kind; a kind comes as often as its windows do.
    pub fn by_kind(mut self, kinds: Clusters) -> Self {
        self.kinds = Some(kinds);
        self
    }

    fn fill(&mut self, sequences: usize) -> Result<()> {
        while self.pool.len() < POOL.max(sequences) {
            if self.order.is_empty() {
                self.order = self.corpus.draw(&mut self.random);
            }
            if let Some(block) = self.order.pop() {
                let mut windows = Vec::new();
                self.featuriser.block(self.corpus.block(block), &mut self.random, &mut windows)?;
                for mut window in windows {
                    // All windows of a small corpus are used.
                    if self.corpus.blocks() > POOL / 8 && self.random.below(USED) > 0 {
                        continue;
                    }
                    if let Some(kinds) = &self.kinds {
                        if self.random.below(SHORT) == 0 {
                            window.chunk = Arc::new(window.targets.tokens.clone());
                        }
                        window.kind = kinds.kind(&window.chunk);
                    }
                    self.pool.push(window);
                }
            }
        }
        Ok(())
    }

    /// A batch of windows of any kind.
    pub fn any(&mut self, sequences: usize) -> Result<Batch> {
        self.fill(sequences)?;
        let windows = (0..sequences).map(|_| self.pool.swap_remove(self.random.below(self.pool.len())));
        let windows = windows.collect();
        Ok(join(self.featuriser.len, windows))
    }

    /// The next batch of `sequences` windows.
    pub fn next(&mut self, sequences: usize) -> Result<Batch> {
        if self.kinds.is_none() {
            return self.any(sequences);
        }
        self.fill(sequences)?;
        let mut windows = Vec::with_capacity(sequences);
        let kind = self.pool[self.random.below(self.pool.len())].kind;
        let mut same: Vec<usize> = (0..self.pool.len()).filter(|&i| self.pool[i].kind == kind).collect();
        self.random.shuffle(&mut same);
        same.truncate(sequences);
        same.sort_unstable();
        // The last index comes first, because taking a window out moves only those behind it.
        windows.extend(same.into_iter().rev().map(|i| self.pool.swap_remove(i)));
        while windows.len() < sequences {
            let i = self.random.below(self.pool.len());
            windows.push(self.pool.swap_remove(i));
        }
        Ok(join(self.featuriser.len, windows))
    }

    /// Chunks and kinds of some windows that are still to come.
    pub fn mixed(&mut self, count: usize) -> Result<Vec<(Arc<Vec<u32>>, u16)>> {
        self.fill(count)?;
        let pick = |_| {
            let window = &self.pool[self.random.below(self.pool.len())];
            (window.chunk.clone(), window.kind as u16)
        };
        Ok((0..count).map(pick).collect())
    }
}

/// Batches of the blocks that are never trained on: at most `limit` windows of chunks of 16 KiB.
pub fn held_out(
    corpus: &Corpus,
    featuriser: &Featuriser<'_>,
    sequences: usize,
    limit: usize,
) -> Result<Vec<Batch>> {
    let mut windows = Vec::new();
    let blocks: Vec<usize> = (0..corpus.blocks()).filter(|&i| corpus.is_held_out(i)).collect();
    for block in blocks {
        for chunk in corpus.block(block).chunks(16 << 10) {
            featuriser.windows(chunk, &[], &mut windows)?;
        }
    }
    let step = windows.len().div_ceil(limit.max(1)).max(1);
    let mut kept: Vec<Window> = windows.into_iter().step_by(step).collect();
    let mut batches = Vec::new();
    while !kept.is_empty() {
        let rest = kept.split_off(sequences.min(kept.len()));
        batches.push(join(featuriser.len, kept));
        kept = rest;
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_drawn_as_often_as_they_weigh() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, blocks: usize| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![b'x'; blocks * BLOCK]).unwrap();
        };
        put("a/1", 10);
        put("a/b/2", 20);
        put("c/3", 30);
        let weights = folder.path().join("weights");
        std::fs::write(&weights, "# megabytes\na 3\na/b\t1.0\nc 0\n").unwrap();
        let sources = ["a", "c"].map(|name| folder.path().join(name));
        let whole = Corpus::read(&[folder.path().to_owned()], None).unwrap();
        let mut random = Random::new(1);
        let held = (0..whole.blocks()).filter(|&block| whole.is_held_out(block)).count();
        assert_eq!(whole.draw(&mut random).len(), whole.blocks() - held);

        let corpus = Corpus::read(&[folder.path().to_owned()], Some(&weights)).unwrap();
        let drawn = corpus.draw(&mut random);
        let of = |range: std::ops::Range<usize>| drawn.iter().filter(|b| range.contains(b)).count();
        // The file of weights itself is the last block, of a kind without a weight.
        assert!(of(0..10).abs_diff(45) <= 1 && of(10..30).abs_diff(15) <= 1, "{drawn:?}");
        assert_eq!(of(30..60), 0);
        assert!(drawn.iter().all(|&block| !corpus.is_held_out(block)));
        assert_eq!(corpus.weights["a/b"], 1.0);

        for wrong in ["a", "a b", "a -1", "a nan"] {
            std::fs::write(&weights, wrong).unwrap();
            assert!(matches!(Corpus::read(&sources, Some(&weights)), Err(Error::Usage(_))), "{wrong}");
        }
    }
}
