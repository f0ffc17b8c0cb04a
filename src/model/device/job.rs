//! One chunk on the device: what the host knows of it, where its parts lie in memory, and the
//! record with which the kernel works on it.

use byteorder::{ByteOrder, LittleEndian};

use super::shape::{key_values, ring};
use crate::kernels::backend::Backend;
use crate::kernels::cache::KeyValues;
use crate::model::config::{Config, MAX_WINDOW};
use crate::model::matcher;
use crate::model::matcher::CLASSES;
use crate::model::steer::Steering;
use crate::model::weights::Model;

/// Stands for the number of known tokens where the tokens have to be decoded.
pub const UNKNOWN: u32 = u32::MAX;
/// Parts of a chunk's memory begin at multiples of this.
const ALIGN: usize = 16;

/// A chunk to be decoded, or to be encoded if its tokens are known.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// The learned sequence.
    pub c: Vec<u16>,
    /// State of the range decoder after c: `code`.
    pub code: u64,
    /// State of the range decoder after c: `range`.
    pub range: u64,
    /// The bytes that the range decoder has not read yet.
    pub payload: &'a [u8],
    /// Raw bytes of the chunk.
    pub raw_len: usize,
    /// Raw bytes of the chunk and of the chunks that it refers to.
    pub capacity: usize,
    /// The history array up to and with the separator before the chunk's own tokens.
    pub history: Vec<u16>,
    /// The tokens, if they are known.
    pub known: Option<Vec<u16>>,
}

/// How far a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Tokens are missing yet.
    Running,
    /// All tokens are coded.
    Done,
    /// The payload is not one that an encoder writes.
    Damaged,
}

/// Bytes that a chunk takes in each region of a batch's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Written by the host: payload, history, known tokens, what c changes.
    pub input: usize,
    /// Match tables, and the complement of what a bias has learned. All bits are ones at first.
    pub tables: usize,
    /// Second followers, the history array, keys and values. The contents are arbitrary at first.
    pub scratch: usize,
    /// Read by the host: tokens, or the intervals of known ones.
    pub output: usize,
}

/// Sizes in bytes of the parts, in the order of the regions.
struct Parts {
    payload: usize,
    history: usize,
    known: usize,
    steer: usize,
    cross: usize,
    tables: usize,
    learned: usize,
    followers: usize,
    elements: usize,
    keys: usize,
    ring: usize,
    bits: u32,
}

impl Memory {
    /// Bytes of all regions together.
    pub fn total(&self) -> usize {
        self.input + self.tables + self.scratch + self.output
    }

    /// Adds the memory of another chunk.
    pub fn add(&mut self, other: Self) {
        self.input += other.input;
        self.tables += other.tables;
        self.scratch += other.scratch;
        self.output += other.output;
    }
}

impl Request<'_> {
    /// Most tokens that the chunk may have.
    fn tokens(&self) -> usize {
        self.known.as_ref().map_or(self.raw_len, Vec::len)
    }

    fn parts(&self, config: &Config) -> Parts {
        let up = |bytes: usize| bytes.next_multiple_of(ALIGN);
        let bits = matcher::table_bits(self.capacity);
        let entries = config.orders.len() << bits;
        let window = if config.window == 0 { MAX_WINDOW } else { config.window };
        let own = ring(window.min(self.tokens()));
        let kv = |heads: usize, ring: usize| {
            let (keys, values) = key_values(ring, config.head_size);
            config.layers * heads * (keys + values)
        };
        let steers = config.latent.as_ref().is_some_and(|latent| latent.steer) && !self.c.is_empty();
        Parts {
            payload: up(self.payload.len()),
            history: up(2 * self.history.len()),
            known: up(2 * self.known.as_ref().map_or(0, Vec::len)),
            steer: if steers { up(4 * steer_len(config)) } else { 0 },
            cross: if config.crosses() && !self.c.is_empty() {
                up(kv(config.heads, ring(self.c.len())))
            } else {
                0
            },
            tables: up(4 * entries),
            learned: if config.adapt.is_empty() { 0 } else { up(4 * config.vocab) },
            followers: if config.seconds.is_empty() { 0 } else { up(2 * entries) },
            elements: up(2 * (self.history.len() + self.tokens() + 1)),
            keys: up(kv(config.kv_heads, own)),
            ring: own,
            bits,
        }
    }

    /// The memory that the chunk takes.
    pub fn memory(&self, config: &Config) -> Memory {
        let parts = self.parts(config);
        let output = if self.known.is_some() { 16 * self.tokens() } else { 2 * self.raw_len };
        Memory {
            input: parts.payload + parts.history + parts.known + parts.steer + parts.cross,
            tables: parts.tables + parts.learned,
            scratch: parts.followers + parts.elements + parts.keys,
            output: output.next_multiple_of(ALIGN),
        }
    }
}

/// How many numbers c changes: input, gains, scores, biases of copy gates.
fn steer_len(config: &Config) -> usize {
    let copy = if config.copy { CLASSES * config.slots() } else { 0 };
    config.width + config.layers * config.ff + config.vocab + copy
}

/// The record of a chunk, as the kernel reads and writes it.
#[derive(Clone, Debug)]
pub struct Job([u8; Self::LEN]);

impl Job {
    /// Bytes of a record.
    pub const LEN: usize = 160;

    /// The record of `request`, whose parts lie in the regions at `at`. What the host writes is
    /// appended to `input`.
    pub fn new(
        model: &Model,
        backend: Backend,
        request: &Request<'_>,
        at: [u64; 4],
        input: &mut Vec<u8>,
    ) -> Self {
        let config = model.config();
        let parts = request.parts(config);
        let [mut written, tables, mut scratch, output] = at;
        let mut place = |len: usize, write: &mut dyn FnMut(&mut [u8])| {
            let start = input.len();
            input.resize(start + len, 0);
            write(&mut input[start..]);
            let at = written;
            written += len as u64;
            at
        };
        let elements = |tokens: &[u16], to: &mut [u8]| {
            LittleEndian::write_u16_into(tokens, &mut to[..2 * tokens.len()]);
        };
        let known = request.known.as_deref().unwrap_or_default();
        let payload =
            place(parts.payload, &mut |to| to[..request.payload.len()].copy_from_slice(request.payload));
        let history = place(parts.history, &mut |to| elements(&request.history, to));
        let known = place(parts.known, &mut |to| elements(known, to));
        let copy = |from: Vec<u8>, to: &mut [u8]| to[..from.len()].copy_from_slice(&from);
        let steer = place(parts.steer, &mut |to| copy(steer_bytes(model, request, parts.steer > 0), to));
        let cross = place(parts.cross, &mut |to| copy(cross_bytes(model, backend, request), to));
        let mut take = |len: usize| {
            let at = scratch;
            scratch += len as u64;
            at
        };
        let (followers, elements, keys) = (take(parts.followers), take(parts.elements), take(parts.keys));
        let (tokens, shares) = if request.known.is_some() { (known, output) } else { (output, 0) };
        let latent_len = if config.crosses() { request.c.len() } else { 0 };

        let mut job = Self([0; Self::LEN]);
        let places = [
            payload,
            history,
            elements,
            tables,
            followers,
            keys,
            cross,
            steer,
            tokens,
            shares,
            request.code,
            request.range,
            tables + parts.tables as u64,
        ];
        LittleEndian::write_u64_into(&places, &mut job.0[..104]);
        // All lengths are below 2^32: they are parts of a chunk, whose capacity is below 2^24.
        let lengths = [
            request.payload.len() as u32,
            request.history.len() as u32,
            request.raw_len as u32,
            parts.bits,
            parts.ring as u32,
            latent_len as u32,
            u32::from(parts.steer > 0),
            request.known.as_ref().map_or(UNKNOWN, |known| known.len() as u32),
        ];
        LittleEndian::write_u32_into(&lengths, &mut job.0[104..136]);
        job
    }

    /// A record that was read from the device.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the record.
    pub fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Tokens so far.
    pub fn position(&self) -> usize {
        LittleEndian::read_u32(&self.0[148..]) as usize
    }

    /// How far the chunk is; `None` for a value that no kernel writes.
    pub fn status(&self) -> Option<Status> {
        match LittleEndian::read_u32(&self.0[152..]) {
            0 => Some(Status::Running),
            1 => Some(Status::Done),
            2 => Some(Status::Damaged),
            _ => None,
        }
    }
}

fn steer_bytes(model: &Model, request: &Request<'_>, steered: bool) -> Vec<u8> {
    if !steered {
        return vec![];
    }
    let config = model.config();
    let mut steering = Steering::new(config);
    steering.set(model, &request.c);
    let mut all = steering.input[..config.width].to_vec();
    steering.gains.iter().for_each(|gains| all.extend(&gains[..config.ff]));
    all.extend(&steering.head[..config.vocab]);
    if config.copy {
        all.extend(steering.copy.as_flattened());
    }
    all.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Keys and values of c, layer by layer, in the layout that the kernel has for those of a chunk:
/// the keys of all heads, then the values.
fn cross_bytes(model: &Model, backend: Backend, request: &Request<'_>) -> Vec<u8> {
    let config = model.config();
    if !config.crosses() || request.c.is_empty() {
        return vec![];
    }
    let mut caches = vec![vec![KeyValues::default()]; config.layers];
    crate::model::latent::fill(model, backend, &request.c, 0, &mut caches);
    let (size, len) = (config.head_size, request.c.len());
    let (keys, values) = key_values(ring(len), size);
    let (steps, strips) = (size.div_ceil(32), size.div_ceil(16));
    let places = || (0..len).flat_map(|t| (0..size).map(move |i| (t, i)));
    let mut all = vec![];
    for cache in caches.iter().flatten() {
        for head in 0..config.heads {
            let mut own = vec![0; keys];
            places().for_each(|(t, i)| put(&mut own, t / 16 * steps + i / 32, t, i, cache.key(head, t, i)));
            all.extend(own);
        }
        for head in 0..config.heads {
            let mut own = vec![0; values];
            places()
                .for_each(|(t, i)| put(&mut own, t / 32 * strips + i / 16, i, t, cache.value(head, t, i)));
            all.extend(own);
        }
    }
    all
}

/// Sets the two bytes of a number in a block of 16 rows and 32 columns: the high bytes of all
/// numbers stand first, then the low ones.
fn put(bytes: &mut [u8], block: usize, row: usize, col: usize, x: i32) {
    let (thread, word) = (row % 8 * 4 + col % 16 / 4, row / 8 % 2 + col / 16 % 2 * 2);
    let at = block * 1024 + thread * 16 + word * 4 + col % 4;
    bytes[at] = ((x + 64) >> 7) as u8;
    bytes[at + 512] = (((x + 64) & 127) - 64) as u8;
}
