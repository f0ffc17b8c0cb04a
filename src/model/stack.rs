//! Layers over rows: what the decoder and the encoder of c have in common (spec/numerics.md,
//! section 6).

use super::config::Activation;
use super::weights::{Cross, Layer, Model};
use crate::kernels::backend::Backend;
use crate::kernels::buffer::{Buffer, padded};
use crate::kernels::cache::{KeyValues, Next, Reach, Scores};
use crate::kernels::pack::{Activations, Product};

/// Where a row's keys and values are cached, and what the row attends to.
#[derive(Clone, Copy, Debug)]
pub struct RowAt {
    /// Number of the cache.
    pub cache: usize,
    /// The positions that the row attends to.
    pub reach: Reach,
}

/// The residual streams of some rows, and room for what the layers compute.
#[derive(Debug)]
pub struct Scratch {
    /// The kernels that compute.
    pub backend: Backend,
    width: usize,
    /// Heads times head size.
    inner: usize,
    h: Buffer<i32>,
    act: Activations,
    /// Results of a product.
    y: Buffer<i32>,
    /// Results of attention.
    o: Buffer<i32>,
    /// Results of gates.
    f: Buffer<i32>,
    query: Buffer<i16>,
    scores: Scores,
}

impl Scratch {
    /// Room for `rows` rows, with a feed-forward width of `ff`.
    pub fn new(model: &Model, backend: Backend, rows: usize, ff: usize) -> Self {
        let config = model.config();
        let inner = config.heads * config.head_size;
        let widest = config.width.max(ff).max(inner);
        let up = config.activation.up_rows(ff);
        let gated = if config.activation == Activation::GatedGelu { ff } else { 0 };
        let reach = [config.window, rows, config.latent.as_ref().map_or(0, |latent| latent.max)];
        let reach =
            if config.window == 0 { super::config::MAX_WINDOW } else { reach.into_iter().max().unwrap_or(0) };
        Self {
            backend,
            width: config.width,
            inner,
            h: Buffer::zeroed(rows * padded(config.width)),
            act: Activations::new(rows, widest),
            y: Buffer::zeroed(rows * padded(widest.max(up).max(3 * inner))),
            o: Buffer::zeroed(rows * padded(inner)),
            f: Buffer::zeroed(rows * padded(gated)),
            query: Buffer::zeroed(inner),
            scores: Scores::new(config.heads.min(4), reach),
        }
    }

    /// Sets the residual stream of a row to the sum of embedding rows.
    pub fn embed(&mut self, row: usize, rows: &[(&[i8], u16)], shift: u32) {
        let stride = padded(self.width);
        self.backend.embed(rows, shift, &mut self.h[row * stride..(row + 1) * stride]);
    }

    /// Adds `y` to the residual stream of a row.
    pub fn add_to(&mut self, row: usize, y: &[i32]) {
        let stride = padded(self.width);
        self.backend.add_residual(&mut self.h[row * stride..(row + 1) * stride], y);
    }

    /// A product of the normalized residual streams.
    pub fn product(&mut self, product: &Product, rows: usize, out: &mut [i32]) {
        self.normalize(rows);
        self.product_again(product, rows, out);
    }

    /// A product of what was quantized last.
    pub fn product_again(&self, product: &Product, rows: usize, out: &mut [i32]) {
        self.backend.linear(product, &self.act, rows, out);
    }

    fn normalize(&mut self, rows: usize) {
        self.act.set_len(self.width);
        self.backend.quantize(&self.h, rows, true, &mut self.act);
    }

    /// Quantizes `o` and adds its product to the residual streams of the rows for which `with` is
    /// true.
    fn project(&mut self, product: &Product, rows: usize, with: impl Fn(usize) -> bool) {
        self.act.set_len(self.inner);
        self.backend.quantize(&self.o, rows, false, &mut self.act);
        self.backend.linear(product, &self.act, rows, &mut self.y);
        self.add(rows, with);
    }

    fn add(&mut self, rows: usize, with: impl Fn(usize) -> bool) {
        let stride = padded(self.width);
        let pairs = self.h.chunks_exact_mut(stride).zip(self.y.chunks_exact(stride));
        for (row, (h, y)) in pairs.take(rows).enumerate() {
            if with(row) {
                self.backend.add_residual(h, y);
            }
        }
    }

    /// Self-attention of rows: all keys and values are stored first, then each row attends.
    pub fn self_attention(&mut self, layer: &Layer, caches: &mut [KeyValues], rows: &[RowAt]) {
        self.normalize(rows.len());
        self.backend.linear(&layer.qkv, &self.act, rows.len(), &mut self.y);
        let (stride, inner) = (padded(layer.qkv.rows()), self.inner);
        let kv = (layer.qkv.rows() - inner) / 2;
        for (at, y) in rows.iter().zip(self.y.chunks_exact(stride)) {
            let (keys, values) = y[inner..inner + 2 * kv].split_at(kv);
            self.backend.store(&mut caches[at.cache], at.reach.t, keys, values);
        }
        let pairs = self.y.chunks_exact(stride).zip(self.o.chunks_exact_mut(padded(inner)));
        for (row, (at, (y, o))) in rows.iter().zip(pairs).enumerate() {
            let next = rows.get(row + 1).filter(|next| next.cache != at.cache);
            let next = next.map(|next| Next { kv: &caches[next.cache], first: next.reach.first });
            self.backend.queries(&y[..inner], &mut self.query);
            let (cache, bias) = (&caches[at.cache], Some(&layer.bias));
            let (scores, o) = (&mut self.scores, &mut o[..inner]);
            self.backend.attend(cache, &self.query, at.reach, bias, layer.score_shift, next, scores, o);
        }
        self.project(&layer.out, rows.len(), |_| true);
    }

    /// Attention to c for the rows that have one; the others stay as they are.
    pub fn cross_attention(&mut self, cross: &Cross, caches: &[KeyValues], rows: &[Option<RowAt>]) {
        self.normalize(rows.len());
        self.backend.linear(&cross.q, &self.act, rows.len(), &mut self.y);
        let stride = padded(self.inner);
        let pairs = self.y.chunks_exact(stride).zip(self.o.chunks_exact_mut(stride));
        for (at, (y, o)) in rows.iter().zip(pairs) {
            let o = &mut o[..self.inner];
            let Some(at) = at else {
                o.fill(0);
                continue;
            };
            self.backend.queries(&y[..self.inner], &mut self.query);
            let (cache, scores) = (&caches[at.cache], &mut self.scores);
            self.backend.attend(cache, &self.query, at.reach, None, cross.score_shift, None, scores, o);
        }
        self.project(&cross.out, rows.len(), |row| rows[row].is_some());
    }

    /// The feed-forward layer of the first `rows` rows; `gains` gives the gains of a row that is
    /// steered.
    pub fn feed_forward<'a>(
        &mut self,
        layer: &Layer,
        rows: usize,
        activation: Activation,
        gains: impl Fn(usize) -> Option<&'a [i32]>,
    ) {
        self.normalize(rows);
        self.backend.linear(&layer.up, &self.act, rows, &mut self.y);
        let ff = layer.down.cols();
        let y = &mut self.y[..rows * padded(layer.up.rows())];
        match activation {
            Activation::GatedGelu => self.backend.gated_gelu(y, rows, ff, layer.gelu, &mut self.f),
            Activation::Relu => self.backend.relu(y),
            Activation::Relu2 => {
                for (row, y) in y.chunks_exact_mut(padded(ff)).enumerate() {
                    if let Some(gains) = gains(row) {
                        self.backend.gain(y, gains);
                    }
                }
                self.backend.relu2(y);
            }
        }
        let f = if activation == Activation::GatedGelu { &self.f } else { &self.y };
        self.act.set_len(ff);
        self.backend.quantize(f, rows, false, &mut self.act);
        self.backend.linear(&layer.down, &self.act, rows, &mut self.y);
        self.add(rows, |_| true);
    }
}
