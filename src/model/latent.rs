//! The learned sequence c: its prior, and the encoder that turns it into keys and values for the
//! decoder's cross-attention (spec/numerics.md, section 8). Steering by c is in `steer`.

use super::stack::{RowAt, Scratch};
use super::weights::Model;
use crate::coder::decode::{Damaged, Decoder};
use crate::coder::encode::Encoder;
use crate::coder::share::Share;
use crate::error::{Error, Result};
use crate::kernels::backend::Backend;
use crate::kernels::buffer::{Buffer, padded};
use crate::kernels::cache::{KeyValues, Reach};

/// Writes c, if the model has one.
///
/// # Errors
/// `Usage` if the model cannot have this c: it is too long or has an unknown symbol.
pub fn encode(model: &Model, latent: &[u16], encoder: &mut Encoder) -> Result<()> {
    let Some(weights) = &model.latent else {
        return if latent.is_empty() { Ok(()) } else { Err(unknown()) };
    };
    let (symbols, max) = (weights.symbols(), max_len(model));
    if latent.len() > max || latent.iter().any(|&symbol| usize::from(symbol) >= symbols) {
        return Err(unknown());
    }
    let end = (latent.len() < max).then_some(symbols);
    let mut row = symbols;
    for symbol in latent.iter().map(|&symbol| usize::from(symbol)).chain(end) {
        let sums = weights.prior_of(row);
        encoder.encode(share(sums, symbol), total(sums));
        row = symbol;
    }
    Ok(())
}

/// The `count` sequences of one symbol that the prior gives the highest frequencies, the most
/// likely first.
pub fn likely(model: &Model, count: usize) -> Vec<Vec<u16>> {
    let Some(weights) = &model.latent else { return vec![] };
    let symbols = weights.symbols();
    let sums = weights.prior_of(symbols);
    let mut all: Vec<usize> = (0..symbols).collect();
    all.sort_by_key(|&symbol| std::cmp::Reverse(share(sums, symbol).slot));
    // Symbols are below 65,535.
    all.into_iter().take(count).map(|symbol| vec![symbol as u16]).collect()
}

/// Reads c; empty if the model has none. Fails where no encoder can have written the payload.
pub fn decode(model: &Model, decoder: &mut Decoder<'_>) -> Result<Vec<u16>, Damaged> {
    let mut latent = vec![];
    let Some(weights) = &model.latent else { return Ok(latent) };
    let end = weights.symbols();
    let mut row = end;
    while latent.len() < max_len(model) {
        let sums = weights.prior_of(row);
        let target = decoder.target(total(sums))?;
        // The first sum is 0, so at least one is not above the target.
        let symbol = sums.partition_point(|&sum| u64::from(sum) <= target) - 1;
        decoder.consume(share(sums, symbol), total(sums));
        if symbol == end {
            break;
        }
        latent.push(symbol as u16);
        row = symbol;
    }
    Ok(latent)
}

/// Computes keys and values of a lane's c for each layer of the decoder. c must not be empty. A
/// model without an encoder has none.
pub(crate) fn fill(
    model: &Model,
    backend: Backend,
    latent: &[u16],
    lane: usize,
    caches: &mut [Vec<KeyValues>],
) {
    let Some(weights) = model.latent.as_ref().and_then(|latent| latent.encoder.as_ref()) else { return };
    let config = model.config();
    let (heads, size, len) = (config.heads, config.head_size, latent.len());
    let ff = config.latent.as_ref().map_or(config.ff, |latent| latent.ff);
    let mut scratch = Scratch::new(model, backend, len, ff);
    for (row, &symbol) in latent.iter().enumerate() {
        scratch.embed(row, &[weights.table.row(symbol.into())], weights.shift);
    }
    let at = |t| RowAt { cache: 0, reach: Reach { t, first: 0, last: len - 1 } };
    let rows: Vec<RowAt> = (0..len).map(at).collect();
    for layer in &weights.layers {
        let mut cache = [KeyValues::new(layer.kv_heads, size, len)];
        scratch.self_attention(layer, &mut cache, &rows);
        scratch.feed_forward(layer, len, config.activation, |_| None);
    }
    let inner = heads * size;
    let mut out = Buffer::zeroed(len * padded(2 * inner));
    for (layer, caches) in model.sets[model.expert(latent)].layers.iter().zip(caches) {
        let Some(cross) = &layer.cross else { continue };
        scratch.product(&cross.kv, len, &mut out);
        caches[lane].reserve(heads, size, len);
        for (t, y) in out.chunks_exact(padded(2 * inner)).enumerate() {
            caches[lane].store(t, &y[..inner], &y[inner..2 * inner]);
        }
    }
}

fn max_len(model: &Model) -> usize {
    model.config().latent.as_ref().map_or(0, |latent| latent.max)
}

fn share(sums: &[u32], symbol: usize) -> Share {
    Share { cum: sums[symbol].into(), slot: (sums[symbol + 1] - sums[symbol]).into() }
}

fn total(sums: &[u32]) -> u64 {
    sums.last().copied().unwrap_or(0).into()
}

fn unknown() -> Error {
    Error::Usage("the learned sequence is too long for the model or holds an unknown symbol".into())
}
