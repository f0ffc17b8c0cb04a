//! A loaded model, and the checks of a model file from a stranger (spec/numerics.md section 11).
//!
//! What passes here cannot overflow an intermediate of the arithmetic. Sizes are compared with the
//! tensors that are really there before anything is laid out.

use std::collections::HashMap;

use byteorder::{ByteOrder, LittleEndian};
use safetensors::tensor::{Dtype, SafeTensors};

use super::config::{Activation, Config, Latent, MAX_WINDOW};
use super::matcher::CLASSES;
use super::tokens::Vocabulary;
use crate::error::{Error, Result};
use crate::kernels::cache::Bias;
use crate::kernels::pack::{Product, Table};
use crate::kernels::scalar::rshift;

/// Largest magnitude of a bias.
pub(crate) const BIAS_MAX: i32 = 1 << 20;
/// Most columns of a decoder's bias, and of each side of a latent one's.
const BIAS_COLUMNS: usize = MAX_WINDOW;
/// Most bytes that all biases take, laid out.
const MAX_BIASES: usize = 64 << 20;

/// A model, ready to run. Shared between threads as it is.
#[derive(Debug)]
pub struct Model {
    config: Config,
    vocabulary: Vocabulary,
    fingerprint: [u8; 32],
    pub(crate) token: Table,
    /// Per match order: the table of candidates and that of classes.
    pub(crate) matches: Vec<(Table, Table)>,
    pub(crate) ngrams: Vec<Table>,
    pub(crate) embed_shift: u32,
    /// One set, or one for each expert.
    pub(crate) sets: Vec<Set>,
    pub(crate) latent: Option<LatentWeights>,
}

/// One set of the decoder's weights.
#[derive(Debug)]
pub(crate) struct Set {
    pub layers: Vec<Layer>,
    pub head: Product,
    pub copy: Option<Copy>,
    /// Rate of the bias that learns within a chunk; 0 for none.
    pub adapt: u32,
}

/// One layer of the decoder or of the latent encoder.
#[derive(Debug)]
pub(crate) struct Layer {
    pub qkv: Product,
    pub out: Product,
    pub up: Product,
    pub down: Product,
    pub kv_heads: usize,
    pub score_shift: u32,
    /// The unit of a gate is `2^-gelu`.
    pub gelu: u32,
    pub bias: Bias,
    pub cross: Option<Cross>,
}

/// Attention to c.
#[derive(Debug)]
pub(crate) struct Cross {
    pub q: Product,
    pub kv: Product,
    pub out: Product,
    pub score_shift: u32,
}

/// The copy gates.
#[derive(Debug)]
pub(crate) struct Copy {
    pub gates: Product,
    pub bias: Vec<[i32; CLASSES]>,
}

/// What reads c, and the prior over it.
#[derive(Debug)]
pub(crate) struct LatentWeights {
    pub encoder: Option<LatentEncoder>,
    pub steer: Option<SteerWeights>,
    /// Sums of the slots before each column, and of all at the end; of each row, or of one for all.
    prior: Vec<Vec<u32>>,
}

impl LatentWeights {
    /// Symbols of c.
    pub fn symbols(&self) -> usize {
        // A row has a sum for each symbol, for the end, and for all.
        self.prior.first().map_or(0, |sums| sums.len() - 2)
    }

    /// The prior after symbol `row`.
    pub fn prior_of(&self, row: usize) -> &[u32] {
        &self.prior[row.min(self.prior.len() - 1)]
    }
}

/// The encoder of c.
#[derive(Debug)]
pub(crate) struct LatentEncoder {
    pub table: Table,
    pub shift: u32,
    pub layers: Vec<Layer>,
}

impl Model {
    /// Checks and lays out a model file.
    ///
    /// # Errors
    /// `BadModel`, with the rule that the file breaks.
    pub fn from_bytes(file: &[u8]) -> Result<Self> {
        let unreadable = |error: safetensors::SafeTensorError| Error::BadModel {
            name: "of unknown name".into(),
            rule: format!("not a safetensors file: {error}"),
        };
        let (_, metadata) = SafeTensors::read_metadata(file).map_err(unreadable)?;
        let header = metadata.metadata().as_ref().and_then(|entries| entries.get(HEADER_KEY));
        let Some(header) = header else {
            let rule = "not an s3a model: its metadata has no entry `s3a`".into();
            return Err(Error::BadModel { name: "of unknown name".into(), rule });
        };
        let config = Config::parse(header)?;
        let tensors = SafeTensors::deserialize(file).map_err(unreadable)?;
        // A file names few values of a bias, but each is laid out for all distances.
        let reach = if config.window == 0 { MAX_WINDOW } else { config.window };
        let latent = config.latent.as_ref().map_or(0, |latent| latent.layers * 2 * latent.max);
        let distances = config.sets().len() * config.layers * reach + latent;
        let biases = distances * config.heads * size_of::<i32>();
        config.require(biases <= MAX_BIASES, "its biases would take more than 64 MiB")?;
        let products = config.products().into_iter().map(|p| (p.name, (p.rows, p.cols))).collect();
        let mut reader = Reader { config: &config, tensors, products, used: 0 };
        let mut model = reader.model()?;
        model.fingerprint = *blake3::hash(file).as_bytes();
        Ok(model)
    }

    /// The same model under the fingerprint of the file that it was made of.
    pub(crate) fn with_fingerprint(mut self, fingerprint: [u8; 32]) -> Self {
        self.fingerprint = fingerprint;
        self
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// BLAKE3 of the model file.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Which set of weights decodes chunks with this c: the first if it is empty.
    pub fn expert(&self, c: &[u16]) -> usize {
        expert(self.sets.len(), c)
    }
}

/// The elements of a tensor, all at once.
pub fn numbers<T: Clone + Default>(bytes: &[u8], read_into: fn(&[u8], &mut [T])) -> Vec<T> {
    let mut all = vec![T::default(); bytes.len() / size_of::<T>()];
    read_into(bytes, &mut all);
    all
}

/// Values of a table that is stored in halves of bytes (spec section 11).
pub fn nibbles(bytes: &[u8]) -> Vec<i8> {
    bytes.iter().flat_map(|&byte| [byte & 15, byte >> 4]).map(|half| half as i8 - 8).collect()
}

/// The tensor of the first set of weights to which a tensor of another set is stored as the difference
/// (spec section 11).
pub(crate) fn first_set(name: &str) -> Option<&str> {
    Some(name.strip_prefix("expert.")?.split_once('.')?.1)
}

/// Turns the differences of weights to those of the first set, modulo 256, into weights.
pub(crate) fn add(differences: &mut [u8], first: &[u8]) {
    differences.iter_mut().zip(first).for_each(|(byte, &first)| *byte = byte.wrapping_add(first));
}

/// The number of the set, among `sets`, that a chunk with this c takes (spec section 8.3).
pub fn expert(sets: usize, c: &[u16]) -> usize {
    match c.first() {
        Some(&symbol) if sets > 1 => 1 + usize::from(symbol) % (sets - 1),
        _ => 0,
    }
}

struct Reader<'a> {
    config: &'a Config,
    tensors: SafeTensors<'a>,
    /// Rows and columns of all products, by name.
    products: HashMap<String, (usize, usize)>,
    /// Tensors read so far; in the end it must be all.
    used: usize,
}

impl Reader<'_> {
    fn model(&mut self) -> Result<Model> {
        let config = self.config;
        let vocabulary = self.vocabulary()?;
        let matches = (0..config.slots()).map(|k| {
            Ok((self.table(&format!("embed.match.{k}"))?, self.table(&format!("embed.class.{k}"))?))
        });
        let matches = matches.collect::<Result<_>>()?;
        let ngrams = (0..config.ngrams.len()).map(|n| self.table(&format!("embed.ngram.{n}")));
        let ngrams = ngrams.collect::<Result<_>>()?;
        let sets = config
            .sets()
            .iter()
            .enumerate()
            .map(|(number, set)| self.set(number, set))
            .collect::<Result<_>>()?;
        let model = Model {
            vocabulary,
            fingerprint: [0; 32],
            token: self.table("embed.token")?,
            matches,
            ngrams,
            embed_shift: config.plain_shift("embed")?.into(),
            sets,
            latent: config.latent.as_ref().map(|latent| self.latent(latent)).transpose()?,
            config: config.clone(),
        };
        config.require(
            self.used == self.tensors.len(),
            "it holds tensors that its header does not account for",
        )?;
        Ok(model)
    }

    /// The bytes of a tensor of this type and shape; `None` stands for any size of a dimension.
    fn tensor(&mut self, name: &str, dtype: Dtype, shape: &[Option<usize>]) -> Result<(Vec<usize>, Vec<u8>)> {
        let Ok(view) = self.tensors.tensor(name) else {
            return Err(self.config.bad(format!("tensor `{name}` is missing")));
        };
        let same = |(&got, want): (&usize, &Option<usize>)| want.is_none_or(|want| want == got);
        let fits = view.shape().len() == shape.len() && view.shape().iter().zip(shape).all(same);
        self.config
            .require(fits && view.dtype() == dtype, &format!("tensor `{name}` has another type or shape"))?;
        self.used += 1;
        Ok((view.shape().to_vec(), view.data().to_vec()))
    }

    fn vocabulary(&mut self) -> Result<Vocabulary> {
        let (_, bytes) = self.tensor("vocab.bytes", Dtype::U8, &[None])?;
        let (_, lengths) = self.tensor("vocab.lengths", Dtype::U8, &[Some(self.config.vocab)])?;
        Vocabulary::from_parts(&bytes, &lengths).map_err(|error| match error {
            Error::BadModel { rule, .. } => self.config.bad(rule),
            other => other,
        })
    }

    /// Weights and scales of `rows` rows.
    fn weights(&mut self, name: &str, rows: usize, cols: usize) -> Result<(Vec<i8>, Vec<u16>)> {
        let full = format!("{name}.weight");
        let is_difference = self.tensors.tensor(&full).is_ok_and(|tensor| tensor.dtype() == Dtype::U8);
        let dtype = if is_difference { Dtype::U8 } else { Dtype::I8 };
        let (_, mut bytes) = self.tensor(&full, dtype, &[Some(rows), Some(cols)])?;
        if is_difference {
            let first = first_set(&full).and_then(|first| self.tensors.tensor(first).ok());
            let first = first.filter(|first| first.dtype() == Dtype::I8 && first.shape() == [rows, cols]);
            let Some(first) = first else {
                return Err(self.config.bad(format!("`{name}` is a difference to no tensor")));
            };
            add(&mut bytes, first.data());
        }
        let weights: Vec<i8> = bytes.into_iter().map(|byte| byte as i8).collect();
        self.config.require(!weights.contains(&i8::MIN), &format!("`{name}` holds the weight -128"))?;
        Ok((weights, self.scales(name, rows)?))
    }

    fn scales(&mut self, name: &str, rows: usize) -> Result<Vec<u16>> {
        let (_, scale) = self.tensor(&format!("{name}.scale"), Dtype::U16, &[Some(rows)])?;
        let scale = numbers(&scale, LittleEndian::read_u16_into);
        self.config.require(!scale.contains(&0), &format!("`{name}` holds a zero scale"))?;
        Ok(scale)
    }

    fn table(&mut self, name: &str) -> Result<Table> {
        let rows =
            self.config.tables().into_iter().find(|(known, _)| known == name).map_or(0, |(_, rows)| rows);
        let cols = self.config.width;
        let halves = self.tensors.tensor(&format!("{name}.weight")).is_ok_and(|t| t.dtype() == Dtype::U8);
        if !halves || !cols.is_multiple_of(2) {
            let (weights, scale) = self.weights(name, rows, cols)?;
            return Ok(Table::new(&weights, &scale));
        }
        let (_, bytes) = self.tensor(&format!("{name}.weight"), Dtype::U8, &[Some(rows), Some(cols / 2)])?;
        let scale = self.scales(name, rows)?;
        Ok(Table::new(&nibbles(&bytes), &scale))
    }

    fn product(&mut self, name: &str) -> Result<Product> {
        let Some(&(rows, cols)) = self.products.get(name) else {
            return Err(self.config.bad(format!("`{name}` is unknown")));
        };
        let (weights, scale) = self.weights(name, rows, cols)?;
        let (pre, shift) = self.config.product_shift(name)?;
        for row in weights.chunks_exact(cols) {
            let sum = row.iter().map(|&w| u32::from(w.unsigned_abs())).sum();
            self.config.require(
                row_bound_holds(sum, pre),
                &format!("a row of `{name}` breaks the bound of its `pre`"),
            )?;
        }
        Ok(Product::new(&weights, &scale, pre, shift))
    }

    /// A tensor of 32-bit values within `-BIAS_MAX..=BIAS_MAX`, and its columns.
    fn bias(&mut self, name: &str, rows: usize, cols: Option<usize>) -> Result<(Vec<i32>, usize)> {
        let (shape, bytes) = self.tensor(name, Dtype::I32, &[Some(rows), cols])?;
        let values = numbers(&bytes, LittleEndian::read_i32_into);
        let fits = values.iter().all(|value| (-BIAS_MAX..=BIAS_MAX).contains(value));
        self.config.require(fits, &format!("a value of `{name}` is beyond 2^20"))?;
        Ok((values, shape[1]))
    }

    /// The set of weights of this number, whose names begin with `set`.
    fn set(&mut self, number: usize, set: &str) -> Result<Set> {
        let config = self.config;
        let reach = if config.window == 0 { MAX_WINDOW } else { config.window };
        let stack = format!("{set}decoder");
        let layers =
            (0..config.layers).map(|layer| self.layer(&stack, layer, config.kv_heads, (reach - 1, 0)));
        Ok(Set {
            layers: layers.collect::<Result<_>>()?,
            head: self.product(&format!("{set}head"))?,
            copy: if config.copy { Some(self.copy(set)?) } else { None },
            adapt: config.adapt.get(number).copied().unwrap_or(0),
        })
    }

    fn layer(&mut self, stack: &str, layer: usize, kv_heads: usize, reach: (usize, usize)) -> Result<Layer> {
        let name = |part: &str| format!("{stack}.{layer}.{part}");
        let heads = self.config.heads;
        let (values, cols) = self.bias(&name("bias"), heads, None)?;
        let (before, after) = reach;
        let bias = if stack != "latent" {
            self.config
                .require((1..=BIAS_COLUMNS).contains(&cols), "a decoder bias must have 1 to 4,096 columns")?;
            Bias::new(heads, before, after, |head, distance| {
                values[head * cols + distance.unsigned_abs().min(cols - 1)]
            })
        } else {
            let fits = !cols.is_multiple_of(2) && cols <= 2 * BIAS_COLUMNS + 1;
            self.config.require(fits, "a latent bias must have an odd number of columns, at most 8,193")?;
            let side = (cols / 2) as isize;
            Bias::new(heads, before, after, |head, distance| {
                values[head * cols + distance.clamp(-side, side).wrapping_add(side).unsigned_abs()]
            })
        };
        let cross = if stack != "latent" && self.config.crosses() {
            Some(Cross {
                q: self.product(&name("cross_q"))?,
                kv: self.product(&name("cross_kv"))?,
                out: self.product(&name("cross_out"))?,
                score_shift: self.config.plain_shift(&name("cross_score"))?.into(),
            })
        } else {
            None
        };
        Ok(Layer {
            qkv: self.product(&name("qkv"))?,
            out: self.product(&name("out"))?,
            up: self.product(&name("up"))?,
            down: self.product(&name("down"))?,
            kv_heads,
            score_shift: self.config.plain_shift(&name("score"))?.into(),
            gelu: match self.config.activation {
                Activation::GatedGelu => self.config.plain_shift(&name("gelu"))?.into(),
                Activation::Relu | Activation::Relu2 => 0,
            },
            bias,
            cross,
        })
    }

    fn copy(&mut self, set: &str) -> Result<Copy> {
        let (values, _) = self.bias(&format!("{set}copy.bias"), self.config.slots(), Some(CLASSES))?;
        Ok(Copy { gates: self.product(&format!("{set}copy"))?, bias: values.as_chunks().0.to_vec() })
    }

    fn latent(&mut self, latent: &Latent) -> Result<LatentWeights> {
        let side = latent.symbols + 1;
        let (shape, bytes) = self.tensor("latent.prior", Dtype::U32, &[None, Some(side)])?;
        self.config.require(shape[0] == 1 || shape[0] == side, "`latent.prior` must have 1 or C + 1 rows")?;
        let slots = numbers(&bytes, LittleEndian::read_u32_into);
        let fits = slots.iter().all(|slot| (1..=1 << 16).contains(slot));
        self.config.require(fits, "a slot of `latent.prior` is not within 1 to 65,536")?;
        let sums = |row: &[u32]| -> Vec<u32> {
            // At most 65,535 slots of 2^16: the sum fits.
            let total = row.iter().scan(0, |sum, slot| {
                *sum += slot;
                Some(*sum)
            });
            std::iter::once(0).chain(total).collect()
        };
        Ok(LatentWeights {
            encoder: if latent.layers > 0 { Some(self.latent_encoder(latent)?) } else { None },
            steer: if latent.steer { Some(self.steer()?) } else { None },
            prior: slots.chunks_exact(side).map(sums).collect(),
        })
    }

    fn latent_encoder(&mut self, latent: &Latent) -> Result<LatentEncoder> {
        let reach = (latent.max - 1, latent.max - 1);
        let layers = (0..latent.layers).map(|layer| self.layer("latent", layer, self.config.heads, reach));
        Ok(LatentEncoder {
            layers: layers.collect::<Result<_>>()?,
            table: self.table("latent.embed")?,
            shift: self.config.plain_shift("latent_embed")?.into(),
        })
    }

    fn steer(&mut self) -> Result<SteerWeights> {
        let symbols = self.config.latent.as_ref().map_or(0, |latent| latent.symbols);
        let mut parts = Vec::new();
        for (name, cols) in self.config.steer_tables() {
            let (weights, scale) = self.weights(&name, symbols, cols)?;
            let shift = self.config.plain_shift(&name)?.into();
            parts.push(Part { table: Table::new(&weights, &scale), shift });
        }
        let mut parts = parts.into_iter();
        let mut next = || parts.next().ok_or(Error::Internal("a steering table is missing"));
        Ok(SteerWeights {
            input: next()?,
            gains: (0..self.config.layers).map(|_| next()).collect::<Result<_>>()?,
            head: next()?,
            copy: if self.config.copy { Some(next()?) } else { None },
        })
    }
}

/// One table, a row for each symbol, and the shift of its sums.
#[derive(Debug)]
pub(crate) struct Part {
    pub table: Table,
    pub shift: u32,
}

/// The tables of a model that is steered.
#[derive(Debug)]
pub(crate) struct SteerWeights {
    pub input: Part,
    pub gains: Vec<Part>,
    pub head: Part,
    pub copy: Option<Part>,
}

impl Part {
    /// `rshift` of the sum of the symbols' rows. At most 64 symbols: the sum stays below 2^29.
    pub fn sum(&self, c: &[u16], out: &mut [i32]) {
        out.fill(0);
        for &symbol in c {
            let (row, scale) = self.table.row(symbol.into());
            for (to, &weight) in out.iter_mut().zip(row) {
                *to += i32::from(weight) * i32::from(scale);
            }
        }
        out.iter_mut().for_each(|sum| *sum = rshift(*sum, self.shift));
    }
}

/// Metadata entry that holds the header.
pub const HEADER_KEY: &str = "s3a";

/// The bound of `linear` for a row whose weights' magnitudes add up to `sum`.
pub(crate) fn row_bound_holds(sum: u32, pre: u32) -> bool {
    127 * u64::from(sum) < (1 << (14 + pre)) - (1 << pre)
}
