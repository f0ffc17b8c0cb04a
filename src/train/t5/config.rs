//! Sizes of a T5, as the `config.json` of a Hugging Face model folder has them.

use serde::{Deserialize, Serialize};

/// The keys that shape the computation; others are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct T5Config {
    pub vocab_size: usize,
    pub d_model: usize,
    /// Size of a head.
    pub d_kv: usize,
    pub d_ff: usize,
    /// Layers of the encoder, and of the decoder unless `num_decoder_layers` says otherwise.
    pub num_layers: usize,
    #[serde(default)]
    pub num_decoder_layers: Option<usize>,
    pub num_heads: usize,
    #[serde(default = "buckets")]
    pub relative_attention_num_buckets: usize,
    #[serde(default = "max_distance")]
    pub relative_attention_max_distance: usize,
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f64,
    #[serde(default = "one")]
    pub initializer_factor: f64,
    #[serde(default)]
    pub feed_forward_proj: FeedForward,
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    /// Whether the head sees hidden states times `d_model^-0.5`; as `tie_word_embeddings` if
    /// absent.
    #[serde(default)]
    pub scale_decoder_outputs: Option<bool>,
    #[serde(default)]
    pub pad_token_id: u32,
    #[serde(default = "eos")]
    pub eos_token_id: u32,
    /// `pad_token_id` if absent.
    #[serde(default)]
    pub decoder_start_token_id: Option<u32>,
}

/// The feed-forward's nonlinearity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeedForward {
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

    /// The token that the decoder sees before the first.
    pub fn start(&self) -> u32 {
        self.decoder_start_token_id.unwrap_or(self.pad_token_id)
    }

    /// Whether the head sees hidden states times `d_model^-0.5`.
    pub fn scaled(&self) -> bool {
        self.scale_decoder_outputs.unwrap_or(self.tie_word_embeddings)
    }

    /// Heads times head size.
    pub fn inner(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// Says what is wrong with the sizes, if anything.
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
        // In single precision and in this order, as the original computes it: the floor depends on
        // it.
        let span = (self.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
        let log = (far as f32 / exact as f32).ln() / span * (count - exact) as f32;
        (base + (exact + log as usize).min(count - 1)) as u32
    }
}
