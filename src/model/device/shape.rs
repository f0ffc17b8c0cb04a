//! Sizes of the kernel for a model and a tile: the macros that the compiler gets, and where a block
//! keeps its rows.

use crate::model::config::{Activation, Config, MAX_WINDOW};

/// Bytes that each lane has in a block besides its rows.
const FIXED_BYTES: usize = 656;
/// Shared memory of each block that the device keeps for itself.
const RESERVED: usize = 1 << 10;
/// Threads on a multiprocessor at which each thread has 64 registers.
const THREADS: usize = 1024;

/// The kernel for one model and one size of tiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Chunks of a block: 8, 16 or 32; each has a warp.
    pub tile: usize,
    /// Bytes of shared memory of a block.
    pub shared: usize,
    /// Bytes of device memory of a block, for what does not fit into shared memory.
    pub workspace: usize,
    macros: Vec<(String, String)>,
}

impl Shape {
    /// The shape for blocks of `tile` chunks on a device that gives a block up to `limit` bytes of
    /// shared memory.
    pub fn new(config: &Config, tile: usize, limit: usize) -> Self {
        let (width, inner) = (config.width, config.heads * config.head_size);
        let qkv = inner + 2 * config.kv_heads * config.head_size;
        let reach = reach(config);
        let group = group(config, reach);
        // Eight rows are this far apart, so that threads of a warp that read the same place of them
        // use eight different memory banks.
        let q_stride = width.max(config.ff).max(inner).next_multiple_of(32) + 16;
        let h_stride = width.next_multiple_of(16) + 4;
        let attention = qkv.next_multiple_of(4) + inner + group * reach;
        let widest = config.vocab.max(attention).max(config.activation.up_rows(config.ff));
        let y_stride = widest.next_multiple_of(16) + 4;

        let (h_bytes, y_bytes) = (tile * h_stride * 4, tile * y_stride * 4);
        let limit = limit.saturating_sub(RESERVED);
        let mut shared = tile * (FIXED_BYTES + q_stride);
        let mut workspace = 0;
        let mut place = |bytes: usize| {
            let fits = shared + bytes <= limit;
            let from = if fits { &mut shared } else { &mut workspace };
            let at = *from;
            *from += bytes;
            (fits, at)
        };
        let (h_shared, h_at) = place(h_bytes);
        let (y_shared, y_at) = place(y_bytes);

        let list = |numbers: &mut dyn Iterator<Item = usize>| {
            // One more, since there are no empty arrays.
            let all: Vec<_> = numbers.chain(std::iter::once(0)).map(|number| number.to_string()).collect();
            format!("{{{}}}", all.join(","))
        };
        let orders = |all: &[u8]| list(&mut all.iter().map(|&order| order.into()));
        let seconds = config.seconds.iter().filter_map(|s| config.orders.iter().position(|order| order == s));
        let flag = |holds: bool| usize::from(holds);
        let latent = config.latent.as_ref();
        let numbers = [
            ("WIDTH", width),
            ("LAYERS", config.layers),
            ("HEADS", config.heads),
            ("KV_HEADS", config.kv_heads),
            ("HEAD_SIZE", config.head_size),
            ("FF", config.ff),
            ("WINDOW", config.window),
            ("VOCAB", config.vocab),
            ("ORDERS", config.orders.len()),
            ("SECONDS", config.seconds.len()),
            ("NGRAMS", config.ngrams.len()),
            ("GATED", flag(config.activation == Activation::GatedGelu)),
            ("SQUARED", flag(config.activation == Activation::Relu2)),
            ("COPY", flag(config.copy)),
            ("CROSS", flag(config.crosses())),
            ("ADAPT", flag(!config.adapt.is_empty())),
            ("STEER", flag(latent.is_some_and(|latent| latent.steer))),
            ("TILE", tile),
            ("BLOCKS", (THREADS / (32 * tile)).max(1)),
            ("GROUP", group),
            ("REACH", reach),
            ("FIXED_BYTES", tile * FIXED_BYTES),
            ("Q_STRIDE", q_stride),
            ("H_STRIDE", h_stride),
            ("Y_STRIDE", y_stride),
            ("H_SHARED", flag(h_shared)),
            ("Y_SHARED", flag(y_shared)),
            ("H_AT", h_at),
            ("Y_AT", y_at),
            ("WORKSPACE", workspace),
        ];
        let numbers = numbers.into_iter().map(|(name, number)| (name, number.to_string()));
        let lists = [
            ("ORDER_LIST", orders(&config.orders)),
            ("SECOND_LIST", list(&mut seconds.into_iter())),
            ("NGRAM_ORDERS", list(&mut config.ngrams.iter().map(|ngram| ngram.0.into()))),
            ("NGRAM_BITS", list(&mut config.ngrams.iter().map(|ngram| ngram.1.into()))),
        ];
        let macros = numbers.chain(lists).map(|(name, value)| (format!("S3A_{name}"), value)).collect();
        Self { tile, shared, workspace, macros }
    }

    /// The macros of the kernel's source.
    pub fn macros(&self) -> &[(String, String)] {
        &self.macros
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        32 * self.tile
    }
}

/// Whether the kernel can run models of this architecture: it can, unless the weights exceed the 4
/// GiB that places can address.
///
/// # Errors
/// Why it cannot.
pub fn supports(config: &Config) -> Result<(), &'static str> {
    let products =
        config.products().into_iter().map(|p| (p.rows.next_multiple_of(16), p.cols.next_multiple_of(32)));
    let tables = config.tables().into_iter().map(|(_, rows)| (rows, config.width.next_multiple_of(16)));
    // Scales take two bytes a row, and what is between the parts 16 at most; biases of all heads
    // come on top.
    let biases = (config.sets().len() * config.layers, 4 * config.heads * reach(config) + 4096);
    let parts = products.chain(tables).chain(std::iter::once(biases));
    let bytes: u64 = parts.map(|(rows, cols)| rows as u64 * (cols as u64 + 2) + 32).sum();
    if bytes < u64::from(u32::MAX) { Ok(()) } else { Err("its weights take more than 4 GiB on a device") }
}

/// Positions of a ring of keys and values that reaches `positions`, rounded up to whole blocks of
/// the tensor cores.
pub(crate) fn ring(positions: usize) -> usize {
    positions.max(1).next_multiple_of(32)
}

/// Bytes of a head's keys and of its values in such a ring: two bytes for each number, elements
/// padded to whole blocks.
pub(crate) fn key_values(ring: usize, head_size: usize) -> (usize, usize) {
    (2 * ring * head_size.next_multiple_of(32), 2 * ring * head_size.next_multiple_of(16))
}

/// Most positions that attention reaches, in the chunk or in c, as positions of a ring.
pub(crate) fn reach(config: &Config) -> usize {
    let own = if config.window == 0 { MAX_WINDOW } else { config.window };
    ring(own.max(config.latent.as_ref().filter(|_| config.crosses()).map_or(0, |latent| latent.max)))
}

/// Heads of a shared key that are computed together: their scores lie side by side.
fn group(config: &Config, reach: usize) -> usize {
    let share = config.heads / config.kv_heads;
    let most = if reach <= 512 { 4 } else { 1 };
    (1..=most).rev().find(|&group| share.is_multiple_of(group)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(shape: &Shape, name: &str) -> usize {
        let found = shape.macros().iter().find(|(known, _)| *known == format!("S3A_{name}"));
        found.and_then(|(_, value)| value.parse().ok()).unwrap()
    }

    #[test]
    fn rows_lie_apart_in_shared_memory_or_the_workspace() {
        let mut config = Config::new("m", 128, 2, 1024);
        (config.heads, config.kv_heads) = (4, 1);
        for (tile, limit) in [(8, 48 << 10), (16, 48 << 10), (16, 99 << 10), (32, 227 << 10), (16, 24 << 10)]
        {
            let shape = Shape::new(&config, tile, limit);
            assert!(shape.shared <= limit, "{tile} chunks in {limit}");
            let (h, y) = (tile * value(&shape, "H_STRIDE") * 4, tile * value(&shape, "Y_STRIDE") * 4);
            let fixed = value(&shape, "FIXED_BYTES") + tile * value(&shape, "Q_STRIDE");
            let all = shape.shared + shape.workspace;
            assert_eq!(all, fixed + h + y);
            assert_eq!(value(&shape, "WORKSPACE"), shape.workspace);
            assert!(value(&shape, "Y_AT").is_multiple_of(16) && value(&shape, "H_AT").is_multiple_of(16));
            assert_eq!(shape.threads(), 32 * tile);
        }
        assert_eq!(Shape::new(&config, 16, 227 << 10).workspace, 0);
        // Two blocks share a multiprocessor of 227 KiB.
        assert!(Shape::new(&config, 16, 227 << 10).shared < 113 << 10);
    }

    #[test]
    fn banks_do_not_meet_and_groups_divide() {
        for (width, heads, kv_heads, window) in
            [(96, 6, 2, 64), (64, 2, 1, 128), (160, 5, 1, 0), (32, 8, 1, 7)]
        {
            let mut config = Config::new("m", width, 1, 300);
            (config.heads, config.kv_heads, config.window) = (heads, kv_heads, window);
            let shape = Shape::new(&config, 8, 99 << 10);
            let stride = value(&shape, "Q_STRIDE") / 4;
            let banks: std::collections::HashSet<_> =
                (0..32).map(|t| (t / 4 * stride + t % 4) % 32).collect();
            assert_eq!(banks.len(), 32);
            assert!((heads / kv_heads).is_multiple_of(value(&shape, "GROUP")));
            assert_eq!(value(&shape, "REACH"), if window == 0 { 4096 } else { window.next_multiple_of(32) });
        }
    }

    #[test]
    fn what_is_beyond_the_reach_of_places_is_refused() {
        assert_eq!(supports(&Config::new("m", 128, 2, 1024)), Ok(()));
        let mut huge = Config::new("m", 2048, 64, 65_535);
        huge.ff = 2048;
        assert_eq!(supports(&huge), Ok(()));
        huge.ngrams = vec![(2, 21)];
        assert!(supports(&huge).is_err());
    }
}
