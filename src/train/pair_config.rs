//! How a compressor and a decompressor are trained together.

use serde::{Deserialize, Serialize};

use super::t5::config::{FeedForward, T5Config};
use crate::error::Error;

/// How a pair is trained; C is the compressor, D the decompressor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairConfig {
    /// Sizes of C.
    pub compressor: CompressorConfig,
    /// Sets of D's weights: one for an empty c, and others of which the first symbol chooses one.
    pub experts: usize,
    /// Whether symbols have rows that steer D.
    pub rows: bool,
    /// Layers of D's encoder of c; 0 for none.
    #[serde(default)]
    pub encoder_layers: usize,
    /// Steps of the first stage, in which C learns to reproduce what it reads.
    pub reproduce: usize,
    /// Steps of the second stage, in which the actor learns to name kinds of text.
    pub imitate: usize,
    /// Share of a symbol's bits that a sequence pays at the end of the run: the length of a
    /// sequence over that of a chunk. The share rises from zero over the first half of the third
    /// stage.
    pub cost: f64,
    /// Share of the steps in which D learns with c empty.
    pub empty: f64,
    /// Learning rate of C.
    pub rate: f64,
    /// Discount of rewards per step.
    pub gamma: f64,
    /// How much of the steps after an action counts in its advantage: nothing with 0, as in the
    /// paper, all with 1.
    #[serde(default = "all")]
    pub lambda: f64,
    /// Sequences that are drawn for a chunk in the third stage; D learns with the best one.
    #[serde(default = "one")]
    pub draws: usize,
    /// Weight of the actor's entropy at the start of the third stage; it falls to a tenth.
    pub entropy: f64,
}

pub(crate) fn one() -> usize {
    1
}

pub(crate) fn all() -> f64 {
    1.0
}

impl PairConfig {
    /// How many symbols stand for kinds of text at first, and how many for what the kinds leave. A
    /// model that has neither experts nor rows has no kinds, since the same weights would serve all
    /// of them.
    pub fn kinds(&self) -> (usize, usize) {
        let (symbols, max) = (self.compressor.symbols, self.compressor.max);
        let kinds = if self.experts > 1 { symbols.min(self.experts - 1) } else { symbols };
        (kinds, if max > 1 { symbols - kinds } else { 0 })
    }

    /// Whether C is told what to write in a step.
    pub fn is_told(&self, step: usize) -> bool {
        step < self.reproduce + self.imitate
    }
}

/// Checks a configuration for sequences of `len` positions; an error says what is wrong.
pub fn check(config: &PairConfig, len: usize) -> crate::error::Result<()> {
    let c = &config.compressor;
    let sizes =
        (1..=4096).contains(&c.symbols) && (1..=64).contains(&c.max) && (4..=len).contains(&c.excerpt);
    let experts = (1..=(c.symbols + 1).min(256)).contains(&config.experts)
        && (config.experts > 1 || config.rows || config.encoder_layers > 0)
        && config.encoder_layers <= 64;
    if sizes && experts {
        return Ok(());
    }
    let rule = "a learned sequence has 1 to 4,096 symbols, at most 64 of them, and an excerpt of 4 tokens to a sequence, and 1 to 256 experts, one more than symbols at most";
    Err(Error::Usage(rule.to_owned()))
}

/// Sizes of a compressor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompressorConfig {
    /// Tokens of the decompressor's vocabulary.
    pub vocab: usize,
    /// Symbols of the alphabet of c.
    pub symbols: usize,
    /// Longest c.
    pub max: usize,
    /// Tokens of an excerpt, which is what is read of a chunk.
    pub excerpt: usize,
    /// Sizes of the network.
    pub t5: T5Config,
    /// Fingerprint of the model that reads the c, once that is known.
    #[serde(default)]
    pub model: Option<String>,
}

impl CompressorConfig {
    /// A compressor of this width and these layers.
    pub fn new(
        vocab: usize,
        symbols: usize,
        max: usize,
        excerpt: usize,
        width: usize,
        layers: usize,
    ) -> Self {
        let t5 = T5Config {
            vocab_size: 0,
            d_model: width,
            d_kv: HEAD_SIZE,
            d_ff: 2 * width,
            num_layers: layers,
            num_decoder_layers: Some(1),
            num_heads: (width / HEAD_SIZE).max(1),
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            initializer_factor: 0.3,
            feed_forward_proj: FeedForward::Relu,
            tie_word_embeddings: true,
            scale_decoder_outputs: None,
            pad_token_id: 0,
            eos_token_id: 0,
            decoder_start_token_id: None,
        };
        let mut config = Self { vocab, symbols, max, excerpt, t5, model: None };
        config.set_vocab(vocab);
        config
    }
}

impl CompressorConfig {
    /// Sets the decompressor's vocabulary once it is known.
    pub fn set_vocab(&mut self, vocab: usize) {
        let t5 = &mut self.t5;
        (t5.vocab_size, t5.eos_token_id) = (vocab + self.symbols + 2, (vocab + self.symbols) as u32);
        t5.pad_token_id = t5.eos_token_id + 1;
        self.vocab = vocab;
    }
}

/// Elements of an attention head.
pub(crate) const HEAD_SIZE: usize = 32;
