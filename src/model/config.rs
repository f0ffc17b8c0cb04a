//! The JSON header of a model file: architecture, shifts, training record (spec/numerics.md,
//! section 11).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::matcher::{MAX_ORDER, MAX_SLOTS};
use super::tokens::MAX_TOKENS;
use crate::error::{Error, Result};
use crate::kernels::slots::RATE_END;

/// The newest version of the arithmetic that this build computes: the one with a bias that learns
/// within a chunk. Models without such a bias are of version 1.
pub const NUMERICS: u32 = 2;
/// The arithmetic of models without a bias that learns.
const NUMERICS_PLAIN: u32 = 1;
/// Largest width, feed-forward width, and product of heads and head size.
pub const MAX_SIZE: usize = 2048;
/// Most layers of the decoder, and of the encoder of c.
pub const MAX_LAYERS: usize = 64;
/// Most positions that attention may reach, and the most tokens of a chunk without a window.
pub const MAX_WINDOW: usize = 4096;
/// Most symbols of a learned sequence c.
pub const MAX_LATENT: usize = 4096;
/// Largest alphabet of c: with the end, slots of 2^16 add up to less than 2^32.
pub const MAX_SYMBOLS: usize = 65_534;
/// Largest shift `gelu` of a layer, which gives the unit of a gate.
pub const MAX_GELU: u8 = 14;
/// Most sets of the decoder's weights.
pub const MAX_EXPERTS: usize = 256;
/// Most symbols of c in a model that c steers.
pub const MAX_STEERING: usize = 64;
/// Most n-gram tables: with eight candidates, eight classes and the token, 32 rows add up at the
/// input.
pub const MAX_NGRAMS: usize = 15;

const FORMAT: &str = "s3a-model";

/// Architecture of a model, and the shifts of its integer products.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The text `s3a-model`.
    pub format: String,
    /// Version of the arithmetic that the model was made for: 1 or 2.
    pub numerics: u32,
    /// The model's name, for people: letters, digits, `-`, `_`, `.`; at most 64.
    pub name: String,
    /// Elements of the residual stream.
    pub width: usize,
    /// Layers of the decoder.
    pub layers: usize,
    /// Heads of attention, each with queries of its own.
    pub heads: usize,
    /// Heads of self-attention with keys and values of their own; a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements of a head: a multiple of 8, at most 128.
    pub head_size: usize,
    /// Width of the feed-forward layers.
    pub ff: usize,
    /// How many positions attention reaches, the position that attends included; 0 for all.
    pub window: usize,
    /// The nonlinearity of the feed-forward layers.
    pub activation: Activation,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Match orders, increasing: lengths of the contexts that the match input looks up, in
    /// elements.
    pub orders: Vec<u8>,
    /// The orders that also offer a second match candidate, increasing.
    pub seconds: Vec<u8>,
    /// The n-gram tables: for each its order and the binary logarithm of its rows.
    pub ngrams: Vec<(u8, u8)>,
    /// Whether the model has copy gates, which raise the scores of match candidates.
    pub copy: bool,
    /// The rate of the bias that learns within a chunk, for each set of weights, in 256ths of the
    /// unit of scores; 0 for none. Empty in models of numerics version 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapt: Vec<u32>,
    /// The learned sequence c and what reads it; `None` if the model has no c.
    pub latent: Option<Latent>,
    /// The shifts by base name of a tensor, such as `decoder.0.qkv`, `head`, `embed`,
    /// `decoder.0.score`.
    pub shifts: BTreeMap<String, Shift>,
    /// How the model was trained, in any form: data, steps, seed, figures.
    #[serde(default)]
    pub training: serde_json::Value,
}

/// The nonlinearity of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// ReLU.
    Relu,
    /// Squared ReLU.
    Relu2,
    /// GELU of one product times another product; `up` has twice the rows.
    #[serde(rename = "gated-gelu")]
    GatedGelu,
}

impl Activation {
    /// Rows of `up` for a feed-forward of width `ff`.
    pub fn up_rows(self, ff: usize) -> usize {
        if self == Self::GatedGelu { 2 * ff } else { ff }
    }
}

/// The learned sequence c and what reads it: an encoder, to whose output the decoder attends,
/// steering, or experts. The encoder has as many heads as the decoder, each with keys and values of
/// its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// Size of the alphabet of c.
    pub symbols: usize,
    /// Most symbols of c.
    pub max: usize,
    /// Layers of the encoder; 0 for no encoder and no cross-attention.
    pub layers: usize,
    /// Feed-forward width of the encoder; 0 without one.
    pub ff: usize,
    /// Whether each symbol has rows that steer the decoder (spec/numerics.md, section 8.2).
    #[serde(default)]
    pub steer: bool,
    /// Sets of the decoder's weights. The first is for an empty c; of the others, the first symbol
    /// of c chooses one.
    #[serde(default = "one")]
    pub experts: usize,
}

fn one() -> usize {
    1
}

/// The shifts of a product (spec/numerics.md, section 5, `linear`), or a single shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Shift {
    /// The shifts of a product.
    Linear {
        /// Shift of the sum before it is scaled, 0 to 31.
        pre: u8,
        /// Shift of the scaled sum, 0 to 31.
        shift: u8,
    },
    /// A single shift of a table, of scores or of a gate.
    Plain(u8),
}

/// The name and sizes of one product: `rows` outputs of `cols` inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// Base name of its tensors.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

impl Config {
    /// A decoder of these sizes without match input, copy gates, c and shifts.
    pub fn new(name: &str, width: usize, layers: usize, vocab: usize) -> Self {
        Self {
            format: FORMAT.into(),
            numerics: NUMERICS_PLAIN,
            name: name.into(),
            width,
            layers,
            heads: 1,
            kv_heads: 1,
            head_size: 32,
            ff: 3 * width,
            window: 128,
            activation: Activation::Relu2,
            vocab,
            orders: vec![],
            seconds: vec![],
            ngrams: vec![],
            copy: false,
            adapt: vec![],
            latent: None,
            shifts: BTreeMap::new(),
            training: serde_json::Value::Null,
        }
    }

    /// Gives each set of weights the rate of a bias that learns within a chunk.
    pub fn set_adapt(&mut self, rates: Vec<u32>) {
        self.numerics = if rates.is_empty() { NUMERICS_PLAIN } else { NUMERICS };
        self.adapt = rates;
    }

    /// Reads the header and checks everything that can be checked without the tensors. Fails with
    /// `Error::BadModel`.
    pub fn parse(json: &str) -> Result<Self> {
        let config: Self = serde_json::from_str(json).map_err(|error| Error::BadModel {
            name: "of unknown name".into(),
            rule: format!("its header cannot be read: {error}"),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks the rules of section 11 that concern sizes and shifts.
    pub fn check(&self) -> Result<()> {
        let name_ok = (1..=64).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !name_ok {
            let rule = "its name must be 1 to 64 letters, digits, `-`, `_`, `.`".into();
            return Err(Error::BadModel { name: "of unusable name".into(), rule });
        }
        self.require(self.format == FORMAT, "its header's format is not \"s3a-model\"")?;
        self.require(
            (NUMERICS_PLAIN..=NUMERICS).contains(&self.numerics),
            "made for another version of the arithmetic; a newer s3a is needed",
        )?;
        self.check_sizes()?;
        self.check_shifts()
    }

    fn check_sizes(&self) -> Result<()> {
        let version = if self.adapt.is_empty() { NUMERICS_PLAIN } else { NUMERICS };
        self.require(self.numerics == version, "a bias that learns and numerics version 2 come together")?;
        let rates = self.adapt.is_empty() || self.adapt.len() == self.sets().len();
        let rates = rates && self.adapt.iter().all(|&rate| rate < RATE_END);
        self.require(rates, "adapt must be a rate below 262,144 for each set of weights")?;
        let size = |value: usize| (1..=MAX_SIZE).contains(&value);
        self.require(size(self.width) && size(self.ff), "width and ff must be 1 to 2,048")?;
        self.require((1..=MAX_LAYERS).contains(&self.layers), "layers must be 1 to 64")?;
        let head = self.head_size.is_multiple_of(8) && (8..=128).contains(&self.head_size);
        self.require(head, "head_size must be a multiple of 8, at most 128")?;
        let heads = (1..=MAX_SIZE).contains(&self.heads) && size(self.heads * self.head_size);
        self.require(heads, "heads times head_size must be 8 to 2,048")?;
        let kv = (1..=self.heads).contains(&self.kv_heads) && self.heads.is_multiple_of(self.kv_heads);
        self.require(kv, "kv_heads must divide heads")?;
        self.require(self.window <= MAX_WINDOW, "window must be at most 4,096")?;
        self.require((256..=MAX_TOKENS).contains(&self.vocab), "vocab must be 256 to 65,535")?;
        let orders = self.slots() <= MAX_SLOTS
            && self.orders.is_sorted_by(|a, b| a < b)
            && self.orders.iter().all(|&order| (1..=MAX_ORDER).contains(&usize::from(order)))
            && self.seconds.is_sorted_by(|a, b| a < b)
            && self.seconds.iter().all(|second| self.orders.contains(second));
        self.require(
            orders,
            "orders must be increasing numbers, 1 to 32, seconds some of them, eight in all",
        )?;
        let ngram = |&(order, bits): &(u8, u8)| (1..=32).contains(&order) && (1..=22).contains(&bits);
        let ngrams = self.ngrams.len() <= MAX_NGRAMS && self.ngrams.iter().all(ngram);
        self.require(ngrams, "ngrams must be at most 15 pairs of order, 1 to 32, and r, 1 to 22")?;
        self.require(!self.copy || !self.orders.is_empty(), "copy gates need match orders")?;
        if let Some(latent) = &self.latent {
            let sizes = (1..=MAX_SYMBOLS).contains(&latent.symbols)
                && (1..=MAX_LATENT).contains(&latent.max)
                && latent.layers <= MAX_LAYERS
                && if latent.layers == 0 { latent.ff == 0 } else { size(latent.ff) };
            self.require(sizes, "a size of its latent encoder is out of bounds")?;
            let read = latent.layers > 0 || latent.steer || latent.experts > 1;
            self.require(read, "nothing in it reads the learned sequence")?;
            let experts = (1..=MAX_EXPERTS.min(latent.symbols + 1)).contains(&latent.experts);
            self.require(experts, "it must have 1 to 256 experts, one more than latent symbols at most")?;
            let short = !latent.steer || latent.max <= MAX_STEERING;
            self.require(short, "a learned sequence that steers has at most 64 symbols")?;
            let squared = !latent.steer || self.activation == Activation::Relu2;
            self.require(squared, "steering needs the activation relu2")?;
        }
        Ok(())
    }

    fn check_shifts(&self) -> Result<()> {
        for product in self.products() {
            self.product_shift(&product.name)?;
        }
        for (name, max) in self.plain_shifts() {
            let fits = self.plain_shift(&name)? <= max;
            self.require(fits, &format!("shift `{name}` is beyond {max}"))?;
        }
        let known = self.products().len() + self.plain_shifts().len();
        self.require(self.shifts.len() == known, "its shifts name something that the model does not have")
    }

    /// All products of the architecture; each has the tensors `NAME.weight` and `NAME.scale`.
    pub fn products(&self) -> Vec<Product> {
        let (d, hd) = (self.width, self.heads * self.head_size);
        let kv = self.kv_heads * self.head_size;
        let mut all = vec![];
        let mut add = |name: String, rows, cols| all.push(Product { name, rows, cols });
        let mut layers = |stack: &str, count: usize, kv: usize, ff: usize, cross: bool| {
            for layer in 0..count {
                let mut part = |part: &str, rows, cols| add(format!("{stack}.{layer}.{part}"), rows, cols);
                part("qkv", hd + 2 * kv, d);
                part("out", d, hd);
                part("up", self.activation.up_rows(ff), d);
                part("down", d, ff);
                if cross {
                    part("cross_q", hd, d);
                    part("cross_kv", 2 * hd, d);
                    part("cross_out", d, hd);
                }
            }
        };
        for set in self.sets() {
            layers(&format!("{set}decoder"), self.layers, kv, self.ff, self.crosses());
        }
        if let Some(latent) = &self.latent {
            layers("latent", latent.layers, hd, latent.ff, false);
        }
        for set in self.sets() {
            add(format!("{set}head"), self.vocab, d);
            if self.copy {
                add(format!("{set}copy"), self.slots(), d);
            }
        }
        all
    }

    /// Multiply-adds of one token in the decoder's products. What is done once per chunk, for c, is
    /// left out.
    pub fn products_per_token(&self) -> usize {
        let of_token = |p: &&Product| {
            !p.name.starts_with("expert") && !p.name.starts_with("latent") && !p.name.ends_with("cross_kv")
        };
        self.products().iter().filter(of_token).map(|p| p.rows * p.cols).sum()
    }

    /// Multiply-adds of one token in the decoder's products and in attention over a full window.
    /// Without a window, attention is left out.
    pub fn macs_per_token(&self) -> usize {
        self.products_per_token() + self.layers * 2 * self.window * self.heads * self.head_size
    }

    /// The beginning of the tensor names of each set of the decoder's weights: empty for the first
    /// set, which decodes chunks with an empty c.
    pub fn sets(&self) -> Vec<String> {
        let experts = self.latent.as_ref().map_or(1, |latent| latent.experts);
        (0..experts).map(|e| if e == 0 { String::new() } else { format!("expert.{e}.") }).collect()
    }

    /// All single shifts of the architecture, each with the largest value that it may have.
    pub fn plain_shifts(&self) -> Vec<(String, u8)> {
        let mut all = vec![("embed".into(), 31)];
        let scores = |stack: &str, count: usize, part: &str| -> Vec<(String, u8)> {
            (0..count).map(|layer| (format!("{stack}.{layer}.{part}"), 30)).collect()
        };
        let gates = |stack: &str, count: usize| -> Vec<(String, u8)> {
            let count = if self.activation == Activation::GatedGelu { count } else { 0 };
            (0..count).map(|layer| (format!("{stack}.{layer}.gelu"), MAX_GELU)).collect()
        };
        for set in self.sets() {
            let decoder = format!("{set}decoder");
            all.extend(scores(&decoder, self.layers, "score"));
            all.extend(gates(&decoder, self.layers));
            if self.crosses() {
                all.extend(scores(&decoder, self.layers, "cross_score"));
            }
        }
        if let Some(latent) = self.latent.as_ref().filter(|_| self.crosses()) {
            all.push(("latent_embed".into(), 31));
            all.extend(scores("latent", latent.layers, "score"));
            all.extend(gates("latent", latent.layers));
        }
        all.extend(self.steer_tables().into_iter().map(|(name, _)| (name, 31)));
        all
    }

    /// Whether the decoder attends to an encoder of c.
    pub fn crosses(&self) -> bool {
        self.latent.as_ref().is_some_and(|latent| latent.layers > 0)
    }

    /// Name and columns of each table that steers; a table has the tensors `NAME.weight`, with a
    /// row for each symbol of c, and `NAME.scale`.
    pub fn steer_tables(&self) -> Vec<(String, usize)> {
        if !self.latent.as_ref().is_some_and(|latent| latent.steer) {
            return vec![];
        }
        let mut all = vec![("steer.input".into(), self.width)];
        all.extend((0..self.layers).map(|layer| (format!("steer.{layer}.gain"), self.ff)));
        all.push(("steer.head".into(), self.vocab));
        if self.copy {
            all.push(("steer.copy".into(), self.slots() * super::matcher::CLASSES));
        }
        all
    }

    /// Match slots: one for each order, then one for each second candidate.
    pub fn slots(&self) -> usize {
        self.orders.len() + self.seconds.len()
    }

    /// Name and rows of each embedding table; a table has the tensors `NAME.weight` and
    /// `NAME.scale`.
    pub fn tables(&self) -> Vec<(String, usize)> {
        let mut all = vec![("embed.token".into(), self.vocab + 1)];
        for k in 0..self.slots() {
            all.push((format!("embed.match.{k}"), self.vocab));
            all.push((format!("embed.class.{k}"), super::matcher::CLASSES));
        }
        for (n, &(_, bits)) in self.ngrams.iter().enumerate() {
            all.push((format!("embed.ngram.{n}"), 1 << bits));
        }
        if let Some(latent) = self.latent.as_ref().filter(|_| self.crosses()) {
            all.push(("latent.embed".into(), latent.symbols));
        }
        all
    }

    /// `pre` and `shift` of a product.
    pub fn product_shift(&self, name: &str) -> Result<(u32, u32)> {
        match self.shifts.get(name) {
            Some(&Shift::Linear { pre, shift }) if pre <= 31 && shift <= 31 => Ok((pre.into(), shift.into())),
            _ => Err(self.bad(format!("shifts of `{name}` are missing or beyond 31"))),
        }
    }

    /// A single shift.
    pub fn plain_shift(&self, name: &str) -> Result<u8> {
        match self.shifts.get(name) {
            Some(&Shift::Plain(shift)) => Ok(shift),
            _ => Err(self.bad(format!("shift `{name}` is missing"))),
        }
    }

    /// An error that names this model.
    pub(crate) fn bad(&self, rule: impl Into<String>) -> Error {
        Error::BadModel { name: self.name.clone(), rule: rule.into() }
    }

    pub(crate) fn require(&self, holds: bool, rule: &str) -> Result<()> {
        if holds { Ok(()) } else { Err(self.bad(rule)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_shifts(mut config: Config) -> Config {
        for product in config.products() {
            config.shifts.insert(product.name, Shift::Linear { pre: 8, shift: 12 });
        }
        for (name, _) in config.plain_shifts() {
            config.shifts.insert(name, Shift::Plain(8));
        }
        config
    }

    #[test]
    fn a_header_survives_json() {
        let mut config = Config::new("test-1.0", 96, 2, 300);
        config.orders = vec![1, 4];
        config.ngrams = vec![(2, 14)];
        config.copy = true;
        config.set_adapt(vec![3000]);
        config.latent = Some(Latent { symbols: 16, max: 4, layers: 1, ff: 64, steer: true, experts: 1 });
        let config = with_shifts(config);
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(Config::parse(&json).unwrap(), config);
        assert!(json.contains(r#""ngrams":[[2,14]]"#));
        assert!(json.contains(r#""embed":8"#));
        assert!(json.contains(r#""head":{"pre":8,"shift":12}"#));
    }

    #[test]
    fn headers_that_break_a_rule_are_refused_by_name() {
        let good = || with_shifts(Config::new("m", 96, 2, 300));
        let breaks: &[fn(&mut Config)] = &[
            |c| c.format = "other".into(),
            |c| c.numerics = 0,
            |c| c.numerics = 2,
            |c| c.numerics = 3,
            |c| c.adapt = vec![1],
            |c| (c.numerics, c.adapt) = (2, vec![1, 1]),
            |c| (c.numerics, c.adapt) = (2, vec![1 << 18]),
            |c| c.name = "a/b".into(),
            |c| c.name = String::new(),
            |c| c.width = 0,
            |c| c.width = 2049,
            |c| c.ff = usize::MAX,
            |c| c.layers = 0,
            |c| c.layers = 65,
            |c| c.head_size = 12,
            |c| c.heads = usize::MAX,
            |c| c.kv_heads = 0,
            |c| c.kv_heads = 2,
            |c| c.window = 4097,
            |c| c.vocab = 255,
            |c| c.vocab = 65_536,
            |c| c.orders = vec![2, 2],
            |c| c.orders = vec![0],
            |c| c.orders = vec![33],
            |c| c.orders = (1..10).collect(),
            |c| c.seconds = vec![1],
            |c| (c.orders, c.seconds) = ((1..8).collect(), vec![1, 2]),
            |c| c.ngrams = vec![(2, 32)],
            |c| c.ngrams = vec![(2, 3); 16],
            |c| c.copy = true,
            |c| c.latent = Some(Latent { symbols: 0, max: 1, layers: 1, ff: 1, steer: false, experts: 1 }),
            |c| {
                c.latent =
                    Some(Latent { symbols: 65_535, max: 1, layers: 1, ff: 1, steer: false, experts: 1 })
            },
            |c| c.latent = Some(Latent { symbols: 1, max: 1, layers: 0, ff: 0, steer: false, experts: 1 }),
            |c| c.latent = Some(Latent { symbols: 3, max: 1, layers: 0, ff: 0, steer: false, experts: 5 }),
            |c| c.latent = Some(Latent { symbols: 1, max: 65, layers: 0, ff: 0, steer: true, experts: 1 }),
            |c| c.activation = Activation::GatedGelu,
            |c| c.shifts.retain(|name, _| name != "head"),
            |c| c.shifts.extend([("head".into(), Shift::Linear { pre: 32, shift: 0 })]),
            |c| c.shifts.extend([("head".into(), Shift::Plain(3))]),
            |c| c.shifts.extend([("embed".into(), Shift::Plain(32))]),
            |c| c.shifts.extend([("more".into(), Shift::Plain(3))]),
        ];
        assert!(good().check().is_ok());
        for (number, change) in breaks.iter().enumerate() {
            let mut config = good();
            change(&mut config);
            assert!(matches!(config.check(), Err(Error::BadModel { .. })), "case {number}");
        }
    }
}
