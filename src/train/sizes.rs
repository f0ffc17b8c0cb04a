//! Sizes of a decompressor, and quantities that follow from them.

use serde::{Deserialize, Serialize};

use super::ops::attention::Dims;
use super::ops::loss::CLASSES;
use crate::model::config::{Activation, Config};

/// Sizes of a decompressor (spec/numerics.md, section 11).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetConfig {
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Elements of the residual stream.
    pub width: usize,
    /// Layers of the decoder.
    pub layers: usize,
    /// Heads with queries of their own.
    pub heads: usize,
    /// Heads with keys and values of their own.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_size: usize,
    /// Width of the feed-forward layers.
    pub ff: usize,
    /// Positions that attention reaches, its own included.
    pub window: usize,
    /// Match orders; each has a slot.
    pub orders: Vec<u8>,
    /// The orders whose second candidate has a slot, too.
    pub seconds: Vec<u8>,
    /// Hashed n-gram tables: order and binary logarithm of the rows.
    pub ngrams: Vec<(u8, u8)>,
    /// Whether the network has copy gates.
    pub copy: bool,
    /// Rate, in nats, of the bias of the logits that learns within a chunk (spec/numerics.md,
    /// section 7.1); 0 for none.
    #[serde(default)]
    pub adapt: f32,
    /// The learned sequence that steers the network, if it has one.
    #[serde(default)]
    pub steering: Option<Steering>,
}

/// Sizes of the learned sequence c and of what reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steering {
    /// Symbols of the alphabet.
    pub symbols: usize,
    /// Longest c.
    pub max: usize,
    /// Sets of weights: one for an empty c, and others of which the first symbol chooses one.
    #[serde(default = "one")]
    pub experts: usize,
    /// Whether symbols have rows that steer.
    #[serde(default = "yes")]
    pub rows: bool,
    /// Layers of an encoder of c, to which the decoder attends; 0 for none.
    #[serde(default)]
    pub layers: usize,
    /// Feed-forward width of the encoder.
    #[serde(default)]
    pub ff: usize,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl NetConfig {
    /// The sizes of a model. Fails with `Error::BadModel` if the model cannot be trained here.
    pub fn of_model(c: &Config) -> crate::error::Result<Self> {
        c.require(!c.crosses(), "a model with an encoder cannot be trained on")?;
        c.require(c.activation == Activation::Relu2, "a model of another activation cannot be trained on")?;
        c.require(c.window > 0, "a model without window cannot be trained on")?;
        Ok(Self {
            vocab: c.vocab,
            width: c.width,
            layers: c.layers,
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_size: c.head_size,
            ff: c.ff,
            window: c.window,
            orders: c.orders.clone(),
            seconds: c.seconds.clone(),
            ngrams: c.ngrams.clone(),
            copy: c.copy,
            adapt: c
                .adapt
                .first()
                .map_or(0.0, |&rate| rate as f32 / (256.0 * super::quantize::LOGIT_UNIT as f32)),
            steering: c.latent.as_ref().map(|l| Steering {
                symbols: l.symbols,
                max: l.max,
                experts: l.experts,
                rows: l.steer,
                layers: 0,
                ff: 0,
            }),
        })
    }

    /// Layers of the encoder of c.
    pub fn encoder_layers(&self) -> usize {
        self.steering.map_or(0, |steering| steering.layers)
    }

    /// Multiply-adds per token in matrix products and in attention over a full window and c.
    pub fn macs_per_token(&self) -> usize {
        let inner = self.heads * self.head_size;
        let qkv = (self.heads + 2 * self.kv_heads) * self.head_size;
        let cross = match self.steering {
            Some(s) if s.layers > 0 => 2 * inner * (self.width + s.max),
            _ => 0,
        };
        let layer = self.width * (qkv + inner + 2 * self.ff) + 2 * self.window * inner + cross;
        self.layers * layer + self.width * (self.vocab + self.gates())
    }

    /// The beginning of the names of each set of weights, as in the model file.
    pub fn sets(&self) -> Vec<String> {
        let experts = self.steering.map_or(1, |steering| steering.experts);
        (0..experts).map(|e| if e == 0 { String::new() } else { format!("expert.{e}.") }).collect()
    }

    /// Rows that are added up for one position.
    pub fn rows_per_position(&self) -> usize {
        1 + 2 * self.slots() + self.ngrams.len()
    }

    /// Match slots.
    pub fn slots(&self) -> usize {
        self.orders.len() + self.seconds.len()
    }

    /// Copy gates: one per slot, or 0.
    pub fn gates(&self) -> usize {
        if self.copy { self.slots() } else { 0 }
    }

    /// Where each table begins in the embedding tensor.
    pub fn tables(&self) -> Tables {
        let matches = self.vocab + 1;
        let classes = matches + self.slots() * self.vocab;
        let mut end = classes + self.slots() * CLASSES;
        let mut ngrams = Vec::new();
        for &(_, bits) in &self.ngrams {
            ngrams.push(end);
            end += 1 << bits;
        }
        Tables { matches, classes, ngrams, rows: end }
    }

    /// Sizes of the attention over sequences of `len` positions.
    pub fn dims(&self, len: usize) -> Dims {
        Dims {
            len,
            d: self.width,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_size: self.head_size,
            window: self.window,
        }
    }
}

/// Where the embedding tables stand in the embedding tensor, whose first table is that of tokens.
#[derive(Clone, Debug)]
pub struct Tables {
    /// First row of the tables of match candidates.
    pub matches: usize,
    /// First row of the tables of classes.
    pub classes: usize,
    /// First row of each n-gram table.
    pub ngrams: Vec<usize>,
    /// Number of all rows.
    pub rows: usize,
}
