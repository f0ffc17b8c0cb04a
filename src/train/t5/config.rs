//! Sizes of a T5, in the form of the `config.json` of a Hugging Face model directory.

use serde::{Deserialize, Serialize};

/// The keys of `config.json` that shape the computation; others are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct T5Config {
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual streams.
    pub d_model: usize,
    /// Elements of a head.
    pub d_kv: usize,
    /// Width of the feed-forward layers.
    pub d_ff: usize,
    /// Layers of the encoder, and of the decoder unless `num_decoder_layers` says otherwise.
    pub num_layers: usize,
    /// Layers of the decoder, if not those of the encoder.
    #[serde(default)]
    pub num_decoder_layers: Option<usize>,
    /// Heads of every attention.
    pub num_heads: usize,
    /// Buckets of distances in the relative bias.
    #[serde(default = "buckets")]
    pub relative_attention_num_buckets: usize,
    /// Distances from this on are in the last bucket.
    #[serde(default = "max_distance")]
    pub relative_attention_max_distance: usize,
    /// What is added to the mean square in normalization.
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f64,
    /// Factor of all initial values.
    #[serde(default = "one")]
    pub initializer_factor: f64,
    /// The nonlinearity of the feed-forward layers.
    #[serde(default)]
    pub feed_forward_proj: FeedForward,
    /// Whether the output head is the table of embeddings.
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    /// Whether the head is applied to hidden states times `d_model^-0.5`; by default, if the head
    /// is tied.
    #[serde(default)]
    pub scale_decoder_outputs: Option<bool>,
    /// Id of the token that fills up sequences.
    #[serde(default)]
    pub pad_token_id: u32,
    /// Id of the token that ends a sequence.
    #[serde(default = "eos")]
    pub eos_token_id: u32,
    /// Id of the token before the first one; `pad_token_id` if absent.
    #[serde(default)]
    pub decoder_start_token_id: Option<u32>,
}

/// The nonlinearity of a feed-forward layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeedForward {
    /// ReLU.
    #[default]
    #[serde(rename = "relu")]
    Relu,
    /// The tanh form of GELU of one product, times another product.
    #[serde(rename = "gated-gelu")]
    GatedGelu,
}

fn buckets() -> usize {
    32
}

fn max_distance() -> usize {
    128
}

fn epsilon() -> f64 {
    1e-6
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

fn eos() -> u32 {
    1
}

impl T5Config {
    /// Layers of the decoder.
    pub fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// Id of the token that the decoder reads before the first one.
    pub fn start(&self) -> u32 {
        self.decoder_start_token_id.unwrap_or(self.pad_token_id)
    }

    /// Whether the head is applied to hidden states times `d_model^-0.5`.
    pub fn scaled(&self) -> bool {
        self.scale_decoder_outputs.unwrap_or(self.tie_word_embeddings)
    }

    /// Heads times head size.
    pub fn inner(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// Checks the sizes; an error says what is wrong with them.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_heads", self.num_heads),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| !(1..=1 << 20).contains(size)) {
            return Err(format!("{name} must be 1 to 2^20"));
        }
        if self.num_layers > 1 << 10 || self.decoder_layers() > 1 << 10 {
            return Err("there may be at most 1,024 layers".into());
        }
        let (buckets, far) = (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        if !(4..=1 << 16).contains(&buckets) || far <= buckets / 2 {
            let rule =
                "relative_attention_num_buckets must be 4 to twice the relative_attention_max_distance";
            return Err(rule.into());
        }
        if self.layer_norm_epsilon.is_nan() || self.layer_norm_epsilon < 0.0 {
            return Err("layer_norm_epsilon must not be negative".into());
        }
        let ids = [self.pad_token_id, self.eos_token_id, self.start()];
        if ids.iter().any(|&id| id as usize >= self.vocab_size) {
            return Err("pad, eos and start must be below vocab_size".into());
        }
        Ok(())
    }

    /// The relative-bias bucket of a key at `distance = key - query`, in the bidirectional form of
    /// the encoder or the causal one of the decoder.
    pub fn bucket(&self, distance: isize, bidirectional: bool) -> u32 {
        let mut count = self.relative_attention_num_buckets;
        let (mut base, back) = (0, distance.min(0).unsigned_abs());
        let mut far = back;
        if bidirectional {
            count /= 2;
            base = if distance > 0 { count } else { 0 };
            far = distance.unsigned_abs();
        }
        let exact = count / 2;
        if far < exact {
            return (base + far) as u32;
        }
        // Single precision and this order of operations are those of the original: the floor
        // depends on them.
        let span = (self.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
        let log = (far as f32 / exact as f32).ln() / span * (count - exact) as f32;
        (base + (exact + log as usize).min(count - 1)) as u32
    }
}
