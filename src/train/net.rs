//! The decompressor as a network of floats: parameters, initial values and the loss of a batch.
//!
//! The weights of each sublayer stand in one packed tensor (see `ops`); `Segment`s name the
//! matrices in it, for the optimizer, checkpoints and the export. Normalization has no gains: the
//! products that follow absorb them.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use super::encoder;
use super::encoder::{Extents, Memory};
use super::ops::attention::SelfAttention;
use super::ops::compose;
use super::ops::embed::{EmbedSum, NONE};
use super::ops::feed_forward::FeedForward;
use super::ops::loss::{CLASSES, HeadLoss, Targets};
use super::params::{Init, Packer, Param, Role, Segment};
use super::random::Random;
pub use super::sizes::{NetConfig, Steering};

/// One batch: whole sequences of equal length, one after the other.
#[derive(Clone)]
pub struct Batch {
    /// Positions of a sequence.
    pub len: usize,
    /// Numbers of embedding rows, `rows_per_position` for each position.
    pub rows: Arc<Vec<u32>>,
    /// The tokens to predict, and the match candidates of each position.
    pub targets: Arc<Targets>,
    /// Raw bytes that the targets stand for.
    pub bytes: usize,
    /// For each sequence all tokens of the chunk that it is a part of.
    pub chunks: Vec<Arc<Vec<u32>>>,
    /// For each sequence the kind of text that its chunk is.
    pub kinds: Vec<u16>,
}

impl Batch {
    /// Leaves the last token and its n-grams out of the input at a share of the positions, where
    /// the network then has only the match slots and attention to earlier positions.
    pub fn without_tokens(mut self, share: f64, config: &NetConfig, random: &mut Random) -> Self {
        let hashed = config.rows_per_position() - config.ngrams.len();
        for rows in Arc::make_mut(&mut self.rows).chunks_exact_mut(config.rows_per_position()) {
            if f64::from(random.uniform()) < share {
                rows[0] = NONE;
                rows[hashed..].fill(NONE);
            }
        }
        self
    }

    /// A batch of some of the sequences.
    pub fn select(&self, places: &[usize]) -> Self {
        fn rows<T: Copy>(from: &[T], sequences: usize, places: &[usize]) -> Vec<T> {
            let each = from.len() / sequences.max(1);
            places.iter().flat_map(|place| &from[place * each..(place + 1) * each]).copied().collect()
        }
        let sequences = self.targets.tokens.len() / self.len;
        let targets = Targets {
            tokens: rows(&self.targets.tokens, sequences, places),
            candidates: rows(&self.targets.candidates, sequences, places),
            classes: rows(&self.targets.classes, sequences, places),
        };
        Self {
            len: self.len,
            rows: Arc::new(rows(&self.rows, sequences, places)),
            targets: Arc::new(targets),
            bytes: self.bytes * places.len() / sequences.max(1),
            chunks: places.iter().filter_map(|&place| self.chunks.get(place).cloned()).collect(),
            kinds: places.iter().filter_map(|&place| self.kinds.get(place).copied()).collect(),
        }
    }
}

/// What c adds, for each sequence.
pub struct Steered {
    /// Added to the input, `[sequences][width]`.
    pub input: Tensor,
    /// Added to the gains of the hidden values, by layer.
    pub gains: Vec<Tensor>,
    /// Added to logits and copy gates.
    pub biases: Tensor,
}

/// The network of the decompressor.
pub struct Net {
    /// Its sizes.
    pub config: NetConfig,
    /// All parameter tensors, in the order of `layout`.
    pub params: Vec<Param>,
    /// The device that the tensors are on.
    pub device: Device,
    /// Whether the fused operations are used (CPU only). The composed ones leave out the bias that
    /// learns within a chunk.
    pub fused: bool,
}

impl Net {
    /// A network with initial values from `seed`.
    pub fn new(config: NetConfig, seed: u64, device: &Device) -> Result<Self> {
        let mut random = Random::new(seed);
        let mut params = Vec::new();
        for (name, shape, segments) in layout(&config) {
            let mut values = Vec::with_capacity(shape.iter().product());
            for segment in &segments {
                for _ in 0..segment.rows * segment.cols {
                    values.push(match segment.init {
                        Init::Normal(deviation) => random.normal() * deviation,
                        Init::Constant(value) => value,
                    });
                }
            }
            let var = Var::from_tensor(&Tensor::from_vec(values, shape, device)?)?;
            params.push(Param { name, var, segments });
        }
        Ok(Self { config, params, device: device.clone(), fused: device.is_cpu() })
    }

    fn embed_table(&self) -> &Tensor {
        self.params[0].var.as_tensor()
    }

    /// Parameters of the set of weights `expert`: two tensors of each layer, and the head.
    pub fn set(&self, expert: usize) -> &[Param] {
        let len = 2 * self.config.layers + 1;
        &self.params[1 + expert * len..][..len]
    }

    /// Number of the set of weights that a sequence with this c uses.
    pub fn expert(&self, c: &[u16]) -> usize {
        let experts = self.config.steering.map_or(1, |steering| steering.experts);
        crate::model::weights::expert(experts, c)
    }

    /// The parameters after all sets: rows that steer, then those of the encoder.
    fn after_sets(&self) -> &[Param] {
        &self.params[1 + self.config.sets().len() * (2 * self.config.layers + 1)..]
    }

    /// The parameters of the encoder and of cross-attention to it, if there are any.
    fn encoder(&self) -> &[Param] {
        let all = self.after_sets();
        let first = all.iter().position(|param| param.name == "latent.embed").unwrap_or(all.len());
        &all[first..]
    }

    /// The encoder's output for the c of each sequence; `None` if all are empty.
    pub fn read(&self, cs: &[Vec<u16>], extents: Option<&mut Extents>) -> Result<Option<Memory>> {
        let Some(steering) = &self.config.steering else { return Ok(None) };
        encoder::encode(&self.config, steering, self.encoder(), cs, &self.device, extents)
    }

    /// Attention of a layer of one set of weights to c.
    pub fn attend_to(
        &self,
        memory: &Memory,
        x: &Tensor,
        (set, layer): (usize, usize),
        extents: Option<&mut Extents>,
    ) -> Result<Tensor> {
        let c = &self.config;
        let param = &self.encoder()[1 + 2 * c.encoder_layers() + set * c.layers + layer];
        encoder::attend(x, memory, param.var.as_tensor(), c, &format!("decoder.{layer}"), extents)
    }

    /// What the c of each sequence adds; `None` if all are empty.
    pub fn steer(&self, cs: &[Vec<u16>]) -> Result<Option<Steered>> {
        let Some(Steering { symbols, rows, .. }) = self.config.steering else { return Ok(None) };
        if !rows || cs.iter().all(Vec::is_empty) {
            return Ok(None);
        }
        let mut counts = vec![0.0f32; cs.len() * symbols];
        for (counts, c) in counts.chunks_exact_mut(symbols).zip(cs) {
            c.iter().for_each(|&symbol| counts[usize::from(symbol)] += 1.0);
        }
        let counts = Tensor::from_vec(counts, (cs.len(), symbols), &self.device)?;
        let rows = self.after_sets();
        let sum = |k: usize| counts.matmul(rows[k].var.as_tensor());
        let layers = self.config.layers;
        let gains = (0..layers).map(|l| (sum(1 + l)? + 1.0)?.relu()).collect::<Result<_>>()?;
        let head = sum(1 + layers)?;
        let biases = if self.config.copy { Tensor::cat(&[head, sum(2 + layers)?], 1)? } else { head };
        Ok(Some(Steered { input: sum(0)?, gains, biases }))
    }

    /// The residual stream before the output head, `[n][width]`, under the weights of one set.
    fn hidden(
        &self,
        batch: &Batch,
        expert: usize,
        steered: Option<&Steered>,
        memory: Option<&Memory>,
    ) -> Result<Tensor> {
        let c = &self.config;
        let set = self.set(expert);
        let per = c.rows_per_position();
        let table = self.embed_table();
        let mut x = if self.fused {
            table.apply_op1(EmbedSum { d: c.width, per, rows: batch.rows.clone() })?
        } else {
            compose::embed(table, &batch.rows, per)?
        };
        if let Some(steered) = steered {
            x = (&x + compose::spread(&steered.input, x.dim(0)?)?)?;
        }
        let dims = c.dims(batch.len);
        for layer in 0..c.layers {
            let attention = set[2 * layer].var.as_tensor();
            let feed_forward = set[2 * layer + 1].var.as_tensor();
            let gains = steered.map(|steered| &steered.gains[layer]);
            x = if self.fused {
                x.apply_op2(attention, SelfAttention::new(dims))?
            } else {
                compose::attention(&x, attention, dims)?
            };
            if let Some(memory) = memory {
                x = self.attend_to(memory, &x, (expert, layer), None)?;
            }
            x = if self.fused {
                let op = FeedForward::new(c.width, c.ff, batch.len);
                match gains {
                    Some(gains) => x.apply_op3(feed_forward, gains, op)?,
                    None => x.apply_op2(feed_forward, op)?,
                }
            } else {
                compose::feed_forward(&x, feed_forward, c.width, c.ff, gains)?
            };
        }
        Ok(x)
    }

    /// Mean cross-entropy of a batch in nats a token, `[1]`, with c empty.
    pub fn loss(&self, batch: &Batch) -> Result<Tensor> {
        Ok(self.loss_with(batch, &[])?.0)
    }

    /// Mean cross-entropy of a batch in nats a token with a c for each sequence, and the nats of
    /// each sequence.
    pub fn loss_with(&self, batch: &Batch, cs: &[Vec<u16>]) -> Result<(Tensor, Vec<f64>)> {
        self.losses(batch, cs, true)
    }

    /// Nats of each sequence, without gradients.
    pub fn nats(&self, batch: &Batch, cs: &[Vec<u16>]) -> Result<Vec<f64>> {
        Ok(self.losses(batch, cs, false)?.1)
    }

    /// Mean loss of a batch whose sequences may have different experts. Only gradients of the most
    /// frequent expert are used: those of an expert that few sequences have are noise, and the
    /// optimizer would take full steps along them.
    fn losses(&self, batch: &Batch, cs: &[Vec<u16>], learns: bool) -> Result<(Tensor, Vec<f64>)> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, c) in cs.iter().enumerate() {
            groups.entry(self.expert(c)).or_default().push(place);
        }
        if groups.len() < 2 {
            let expert = groups.into_keys().next().unwrap_or(0);
            return self.losses_of(expert, batch, cs, learns);
        }
        let most = groups.iter().max_by_key(|(_, places)| places.len()).map_or(0, |(&expert, _)| expert);
        let mut nats = vec![0.0; cs.len()];
        let mut loss = None;
        for (expert, places) in groups {
            let cs: Vec<Vec<u16>> = places.iter().map(|&place| cs[place].clone()).collect();
            let (of_group, each) =
                self.losses_of(expert, &batch.select(&places), &cs, learns && expert == most)?;
            places.iter().zip(each).for_each(|(&place, each)| nats[place] = each);
            if expert == most {
                loss = Some(of_group);
            }
        }
        let Some(loss) = loss else { candle_core::bail!("a batch of no sequences") };
        Ok((loss, nats))
    }

    fn losses_of(
        &self,
        expert: usize,
        batch: &Batch,
        cs: &[Vec<u16>],
        learns: bool,
    ) -> Result<(Tensor, Vec<f64>)> {
        let set = self.set(expert);
        let head = set[2 * self.config.layers].var.as_tensor();
        let steered = self.steer(cs)?;
        let memory = self.read(cs, None)?;
        let x = self.hidden(batch, expert, steered.as_ref(), memory.as_ref())?;
        let (width, vocab, gates) = (self.config.width, self.config.vocab, self.config.gates());
        let biases = steered.as_ref().map(|steered| &steered.biases);
        if self.fused {
            let mut op = HeadLoss::new(width, vocab, gates, batch.len, batch.targets.clone())
                .adapting(self.config.adapt);
            if !learns {
                op = op.without_gradients();
            }
            let nats = op.nats.clone();
            let loss = match biases {
                Some(biases) => x.apply_op3(head, biases, op)?,
                None => x.apply_op2(head, op)?,
            };
            let nats = nats.lock().map(|nats| nats.clone()).unwrap_or_default();
            Ok((loss, nats))
        } else {
            let nats = compose::nats(&x, head, vocab, gates, &batch.targets, biases)?;
            let n = nats.dim(0)?;
            let each = nats.reshape((n / batch.len, batch.len))?.sum(1)?.to_vec1::<f32>()?;
            let loss = (nats.sum_all()? / n as f64)?.reshape(1)?;
            Ok((loss, each.into_iter().map(f64::from).collect()))
        }
    }

    /// The values of a named segment, row-major.
    pub fn segment(&self, name: &str) -> Result<Vec<f32>> {
        for param in &self.params {
            if let Some(s) = param.segments.iter().find(|s| s.name == name) {
                return param.var.flatten_all()?.narrow(0, s.offset, s.rows * s.cols)?.to_vec1();
            }
        }
        candle_core::bail!("the network has no part {name}")
    }
}

/// Names, shapes and segments of all parameter tensors, in the order of `Net::params`.
pub(crate) fn layout(c: &NetConfig) -> Vec<(String, Vec<usize>, Vec<Segment>)> {
    let tables = c.tables();
    let (d, inner) = (c.width, c.heads * c.head_size);
    let qkv = (c.heads + 2 * c.kv_heads) * c.head_size;
    let mut out = Vec::new();
    let mut embed = Packer::default();
    embed.add("embed.token", c.vocab + 1, d, Role::Embedding, Init::Normal(0.1));
    for k in 0..c.slots() {
        embed.add(&format!("embed.match.{k}"), c.vocab, d, Role::Embedding, Init::Normal(0.1));
    }
    for k in 0..c.slots() {
        embed.add(&format!("embed.class.{k}"), CLASSES, d, Role::Embedding, Init::Normal(0.1));
    }
    for (n, &(_, bits)) in c.ngrams.iter().enumerate() {
        embed.add(&format!("embed.ngram.{n}"), 1 << bits, d, Role::Embedding, Init::Constant(0.0));
    }
    out.push(("embed".to_owned(), vec![tables.rows, d], embed.segments));
    let fan = |n: usize| Init::Normal(1.0 / (n as f32).sqrt());
    let zero = Init::Constant(0.0);
    for set in c.sets() {
        for l in 0..c.layers {
            let mut a = Packer::default();
            a.add(&format!("{set}decoder.{l}.qkv"), qkv, d, Role::Matrix, fan(d));
            a.add(&format!("{set}decoder.{l}.out"), d, inner, Role::Matrix, zero);
            a.add(&format!("{set}decoder.{l}.bias"), c.heads, c.window, Role::Bias, zero);
            out.push((format!("{set}decoder.{l}.attention"), vec![a.len], a.segments));
            let mut f = Packer::default();
            f.add(&format!("{set}decoder.{l}.up"), c.ff, d, Role::Matrix, fan(d));
            f.add(&format!("{set}decoder.{l}.down"), d, c.ff, Role::Matrix, zero);
            out.push((format!("{set}decoder.{l}.feed_forward"), vec![f.len], f.segments));
        }
        let mut head = Packer::default();
        head.add(&format!("{set}head"), c.vocab, d, Role::Head, zero);
        if c.copy {
            head.add(&format!("{set}copy"), c.gates(), d, Role::Bias, zero);
            // Match candidates are likely from the start.
            head.add(&format!("{set}copy.bias"), c.gates(), CLASSES, Role::Bias, Init::Constant(1.0));
        }
        out.push((format!("{set}head"), vec![head.len], head.segments));
    }
    if let Some(Steering { symbols, rows: true, .. }) = c.steering {
        let small = Init::Normal(0.02);
        let mut part = |name: String, cols: usize| {
            let mut table = Packer::default();
            table.add(&name, symbols, cols, Role::Steer, small);
            out.push((name, vec![symbols, cols], table.segments));
        };
        part("steer.input".to_owned(), d);
        (0..c.layers).for_each(|l| part(format!("steer.{l}.gain"), c.ff));
        part("steer.head".to_owned(), c.vocab);
        if c.copy {
            part("steer.copy".to_owned(), c.slots() * CLASSES);
        }
    }
    if let Some(steering) = c.steering.filter(|steering| steering.layers > 0) {
        encoder::layout(c, &steering, &mut out);
    }
    out
}

/// The number of a row of a table that begins at row `first` of the embedding tensor; `NONE` for no
/// row.
pub fn table_row(first: usize, row: Option<usize>) -> u32 {
    row.map_or(NONE, |r| (first + r) as u32)
}
