//! The checks of a model file, which may come from anywhere, and the way from its tensors to
//! weights (spec/numerics.md, section 11).
//!
//! No intermediate value of the arithmetic can overflow in a model that passes. Sizes are compared
//! with the tensors that the file really has before anything is laid out. A delta is applied on the
//! way.

use std::collections::HashMap;

use byteorder::{ByteOrder, LittleEndian};
use safetensors::tensor::{Dtype, SafeTensors};

use super::config::{Activation, Config, Latent, MAX_WINDOW};
use super::delta::Delta;
use super::file::{BIAS_MAX, HEADER_KEY, add, first_set, nibbles, numbers, row_bound_holds};
use super::matcher::CLASSES;
use super::tokens::Vocabulary;
use super::weights::{Copy, Cross, LatentEncoder, LatentWeights, Layer, Model, Part, Set, SteerWeights};
use crate::error::{Error, Result};
use crate::kernels::cache::Bias;
use crate::kernels::pack::{Product, Table};

/// Most columns of a bias of the decoder, and of each side of one of the encoder of c.
const BIAS_COLUMNS: usize = MAX_WINDOW;
/// Most bytes that all biases take in memory.
const MAX_BIASES: usize = 64 << 20;

impl Model {
    /// Checks a model file and lays it out.
    ///
    /// # Errors
    /// `BadModel`, with the rule that the file breaks.
    pub fn from_bytes(file: &[u8]) -> Result<Self> {
        let mut model = read(file, None)?;
        model.fingerprint = *blake3::hash(file).as_bytes();
        Ok(model)
    }

    /// The model that `delta` makes of `base`, the file of a model (spec/numerics.md, section 12).
    /// Its fingerprint is that of the delta.
    ///
    /// # Errors
    /// `BadModel`, with the rule that `base` or `delta` breaks.
    pub fn from_delta(base: &[u8], delta: &[u8]) -> Result<Self> {
        let mut model = read(base, Some(delta))?;
        model.fingerprint = *blake3::hash(delta).as_bytes();
        Ok(model)
    }
}

/// The header of a model file.
#[cfg(test)]
pub(super) fn read_header(file: &[u8]) -> Result<Config> {
    Ok(Model::from_bytes(file)?.config)
}

/// The model of a file, changed by a delta if there is one. Its fingerprint is set by the caller.
fn read(file: &[u8], delta: Option<&[u8]>) -> Result<Model> {
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
    let mut config = Config::parse(header)?;
    let delta = delta.map(|delta| Delta::read(delta, &config)).transpose()?;
    if let Some(delta) = &delta {
        delta.change_header(&mut config)?;
    }
    let tensors = SafeTensors::deserialize(file).map_err(unreadable)?;
    // A file has few values of a bias, but each is laid out for all distances.
    let reach = if config.window == 0 { MAX_WINDOW } else { config.window };
    let latent = config.latent.as_ref().map_or(0, |latent| latent.layers * 2 * latent.max);
    let distances = config.sets().len() * config.layers * reach + latent;
    let biases = distances * config.heads * size_of::<i32>();
    config.require(biases <= MAX_BIASES, "its biases would take more than 64 MiB")?;
    let products = config.products().into_iter().map(|p| (p.name, (p.rows, p.cols))).collect();
    Reader { config: &config, delta: delta.as_ref(), tensors, products, used: 0 }.model()
}

struct Reader<'a> {
    /// The header, as the delta has changed it.
    config: &'a Config,
    delta: Option<&'a Delta>,
    tensors: SafeTensors<'a>,
    /// Rows and columns of all products, by name.
    products: HashMap<String, (usize, usize)>,
    /// Tensors read so far; at the end it must be all of them.
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

    /// The name in the file of the tensor that becomes `name`.
    fn source(&self, name: &str) -> String {
        self.delta.map_or_else(|| name.to_owned(), |delta| delta.source(name))
    }

    /// Applies the delta to a matrix; `pre` is the shift of a product.
    fn change(
        &self,
        name: &str,
        cols: usize,
        pre: Option<u32>,
        matrix: (&mut [i8], &mut [u16]),
    ) -> Result<()> {
        match self.delta.and_then(|delta| delta.change(name)) {
            Some(change) if !change.rows(matrix, cols, pre) => {
                Err(self.config.bad(format!("a row of `{name}` changes beyond its bounds")))
            }
            _ => Ok(()),
        }
    }

    /// Weights and scales of `rows` rows.
    fn weights(&mut self, name: &str, rows: usize, cols: usize) -> Result<(Vec<i8>, Vec<u16>)> {
        let full = format!("{}.weight", self.source(name));
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
        let source = format!("{}.scale", self.source(name));
        let (_, scale) = self.tensor(&source, Dtype::U16, &[Some(rows)])?;
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
            let (mut weights, mut scale) = self.weights(name, rows, cols)?;
            self.change(name, cols, None, (&mut weights, &mut scale))?;
            return Ok(Table::new(&weights, &scale));
        }
        let (_, bytes) = self.tensor(&format!("{name}.weight"), Dtype::U8, &[Some(rows), Some(cols / 2)])?;
        let (mut weights, mut scale) = (nibbles(&bytes), self.scales(name, rows)?);
        self.change(name, cols, None, (&mut weights, &mut scale))?;
        Ok(Table::new(&weights, &scale))
    }

    fn product(&mut self, name: &str) -> Result<Product> {
        let Some(&(rows, cols)) = self.products.get(name) else {
            return Err(self.config.bad(format!("`{name}` is unknown")));
        };
        let (mut weights, mut scale) = self.weights(name, rows, cols)?;
        let (pre, shift) = self.config.product_shift(name)?;
        self.change(name, cols, Some(pre), (&mut weights, &mut scale))?;
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
        let (shape, bytes) = self.tensor(&self.source(name), Dtype::I32, &[Some(rows), cols])?;
        let mut values = numbers(&bytes, LittleEndian::read_i32_into);
        if let Some(change) = self.delta.and_then(|delta| delta.change(name)) {
            change.biases(&mut values);
        }
        let fits = values.iter().all(|value| (-BIAS_MAX..=BIAS_MAX).contains(value));
        self.config.require(fits, &format!("a value of `{name}` is beyond 2^20"))?;
        Ok((values, shape[1]))
    }

    /// The set of weights with this number, whose names begin with `set`.
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
