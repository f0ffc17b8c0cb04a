//! The compressor C: a T5 that reads an excerpt of a chunk and writes c, with a critic beside its
//! language-model head.
//!
//! Its vocabulary is the decompressor's tokens, then the symbols of c, then the end. The actor is
//! the part of the head for symbols and end; the part for tokens is used while C learns to
//! reproduce what it reads. C computes in floats: only the packing side runs it, and what it writes
//! is stored.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::pair_config::CompressorConfig;
use super::random::Random;
use super::t5::network::T5;
use crate::error::{Error, Result as CrateResult};

/// Runs of consecutive tokens in an excerpt.
const RUNS: usize = 4;
/// The entry of a compressor file's metadata that holds the configuration.
const KEY: &str = "s3a-compressor";

/// The compressor.
pub struct Compressor {
    /// Sizes of the compressor.
    pub config: CompressorConfig,
    t5: T5,
    /// The critic's weights `[1, d]` and bias `[1]`.
    value: Var,
    value_bias: Var,
}

/// Some tokens of a chunk: runs spread evenly over it. An excerpt of a short chunk is filled up
/// with `pad`.
pub fn excerpt(tokens: impl ExactSizeIterator<Item = u32> + Clone, len: usize, pad: u32) -> Vec<u32> {
    let n = tokens.len();
    let mut out: Vec<u32> = if n <= len {
        tokens.collect()
    } else {
        let run = len / RUNS;
        let starts = (0..RUNS).map(|r| r * (n - run) / (RUNS - 1));
        starts.flat_map(|start| tokens.clone().skip(start).take(run)).collect()
    };
    out.resize(len, pad);
    out
}

impl Compressor {
    /// An untrained compressor; `seed` decides its values.
    pub fn new(config: CompressorConfig, seed: u64, device: &Device) -> Result<Self> {
        let t5 = T5::new(config.t5.clone(), seed, device)?;
        let value = Var::zeros((1, config.t5.d_model), DType::F32, device)?;
        Ok(Self { value, value_bias: Var::zeros(1, DType::F32, device)?, t5, config })
    }

    /// All parameters by name.
    pub fn vars(&self) -> Vec<(String, Var)> {
        let mut all = self.t5.vars();
        all.push(("value_head.weight".into(), self.value.clone()));
        all.push(("value_head.bias".into(), self.value_bias.clone()));
        all
    }

    fn pad(&self) -> u32 {
        self.config.t5.pad_token_id
    }

    /// An excerpt of a chunk's tokens, in the form that `read` needs.
    pub fn excerpt(&self, tokens: impl ExactSizeIterator<Item = u32> + Clone) -> Vec<u32> {
        excerpt(tokens, self.config.excerpt, self.pad())
    }

    /// The encoder's output for excerpts, `[B, S, d]`.
    pub fn read(&self, excerpts: &[Vec<u32>]) -> Result<Tensor> {
        let flat: Vec<u32> = excerpts.concat();
        self.t5.encode(&Tensor::from_vec(flat, (excerpts.len(), self.config.excerpt), &self.t5.device)?)
    }

    /// Logarithms of the actor's probabilities `[B, T, C + 1]`, with the end last, and the critic's
    /// values `[B, T]`, both before each action. `inputs` are the symbols before, `T - 1` in each
    /// row.
    pub fn act(&self, memory: &Tensor, inputs: &[Vec<u16>]) -> Result<(Tensor, Tensor)> {
        let steps = 1 + inputs.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(inputs.len() * steps);
        for row in inputs {
            ids.push(self.pad());
            ids.extend(row.iter().map(|&symbol| self.config.vocab as u32 + u32::from(symbol)));
            ids.resize(ids.len().next_multiple_of(steps), self.pad());
        }
        let ids = Tensor::from_vec(ids, (inputs.len(), steps), &self.t5.device)?;
        let hidden = self.t5.decode(&ids, memory)?;
        let logits = self.t5.logits(&hidden)?.narrow(2, self.config.vocab, self.config.symbols + 1)?;
        let values = hidden.broadcast_mul(&self.value.reshape((1, 1, ()))?)?.sum(2)?;
        Ok((log_softmax(&logits.contiguous()?)?, values.broadcast_add(&self.value_bias)?))
    }

    /// One c for each row, drawn from the actor, or without `random` its most likely symbols.
    pub fn write(&self, memory: &Tensor, mut random: Option<&mut Random>) -> Result<Vec<Vec<u16>>> {
        let rows = memory.dim(0)?;
        let memory = memory.detach();
        let mut cs = vec![Vec::new(); rows];
        let mut open: Vec<bool> = vec![true; rows];
        let end = self.config.symbols;
        for step in 0..self.config.max {
            let (log, _) = self.act(&memory, &padded(&cs, step))?;
            let log: Vec<Vec<f32>> = log.narrow(1, step, 1)?.squeeze(1)?.to_vec2()?;
            for ((log, c), open) in log.iter().zip(&mut cs).zip(&mut open) {
                let action = match &mut random {
                    Some(random) => draw(log, random),
                    None => (0..log.len()).max_by(|&a, &b| log[a].total_cmp(&log[b])).unwrap_or(end),
                };
                *open &= action != end;
                if *open {
                    c.push(action as u16);
                }
            }
        }
        Ok(cs)
    }

    /// Mean cross-entropy of reproducing excerpts token by token, in nats.
    pub fn reproduce(&self, memory: &Tensor, excerpts: &[Vec<u32>]) -> Result<Tensor> {
        let (rows, len) = (excerpts.len(), self.config.excerpt);
        let before =
            excerpts.iter().flat_map(|e| std::iter::once(self.pad()).chain(e[..len - 1].iter().copied()));
        let ids = Tensor::from_vec(before.collect::<Vec<_>>(), (rows, len), &self.t5.device)?;
        let logits = self.t5.logits(&self.t5.decode(&ids, memory)?)?;
        let targets = Tensor::from_vec(excerpts.concat(), (rows, len, 1), &self.t5.device)?;
        log_softmax(&logits)?.gather(&targets, 2)?.mean_all()?.neg()
    }

    /// Writes the file of a compressor for the model with this fingerprint.
    pub fn save(&self, path: &Path, model: &str) -> CrateResult<()> {
        let bad =
            |e: &dyn ToString| Error::BadModel { name: path.display().to_string(), rule: e.to_string() };
        // Half precision halves the size, and hardly changes what the compressor writes.
        let half = |(name, var): (String, Var)| Ok((name, var.as_tensor().to_dtype(DType::F16)?));
        let tensors: Result<HashMap<String, Tensor>> = self.vars().into_iter().map(half).collect();
        let tensors = tensors.map_err(|e| bad(&e))?;
        let config = CompressorConfig { model: Some(model.to_owned()), ..self.config.clone() };
        let json = serde_json::to_string(&config).map_err(|e| bad(&e))?;
        let meta = HashMap::from([(KEY.to_owned(), json)]);
        let data = safetensors::serialize(&tensors, Some(meta)).map_err(|e| bad(&e))?;
        super::replace::replace(path, &data)
    }

    /// Reads the file of a compressor.
    ///
    /// # Errors
    /// `BadModel` if the bytes are no compressor.
    pub fn load(bytes: &[u8], name: &str, device: &Device) -> CrateResult<Self> {
        let bad = |rule: String| Error::BadModel { name: name.to_owned(), rule };
        let (_, meta) = safetensors::SafeTensors::read_metadata(bytes).map_err(|e| bad(e.to_string()))?;
        let json = meta.metadata().as_ref().and_then(|m| m.get(KEY));
        let json = json.ok_or_else(|| bad("not a compressor".into()))?;
        let config: CompressorConfig = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
        let sizes = config.t5.vocab_size == config.vocab + config.symbols + 2 && config.excerpt >= RUNS;
        if !sizes || config.max == 0 || config.symbols == 0 || config.symbols > 4096 || config.max > 64 {
            return Err(bad("its sizes do not agree".into()));
        }
        let tensors = candle_core::safetensors::load_buffer(bytes, device).map_err(|e| bad(e.to_string()))?;
        let single = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_dtype(DType::F32)?));
        let tensors: Result<HashMap<String, Tensor>> = tensors.into_iter().map(single).collect();
        let tensors = tensors.map_err(|e| bad(e.to_string()))?;
        let t5 = T5::load(config.t5.clone(), &tensors).map_err(|e| bad(e.to_string()))?;
        let var = |name: &str, shape: &[usize]| -> CrateResult<Var> {
            let tensor = tensors.get(name).filter(|t| t.dims() == shape && t.dtype() == DType::F32);
            let tensor = tensor.ok_or_else(|| bad(format!("{name} is missing or of another shape")))?;
            Var::from_tensor(tensor).map_err(|e| bad(e.to_string()))
        };
        Ok(Self {
            value: var("value_head.weight", &[1, config.t5.d_model])?,
            value_bias: var("value_head.bias", &[1])?,
            t5,
            config,
        })
    }
}

impl crate::codec::neural::search::Compressor for Compressor {
    /// The most likely c, then some drawn with a seed that depends on the tokens; fewer if the
    /// network fails.
    fn candidates(&self, tokens: &[u16], count: usize) -> Vec<Vec<u16>> {
        let excerpt = self.excerpt(tokens.iter().map(|&token| u32::from(token)));
        let seed = excerpt.iter().fold(0x5eed, |seed: u64, &token| {
            (seed ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
        });
        let mut all = Vec::new();
        let mut random = Random::new(seed);
        let Ok(memory) = self.read(&[excerpt]) else { return all };
        // A sequence that is drawn again is no new candidate, so there are a few more draws.
        for draw in 0..(count + count / 2).max(1) {
            let drawn = self.write(&memory, if draw == 0 { None } else { Some(&mut random) });
            let Some(c) = drawn.ok().and_then(|mut cs| cs.pop()) else { break };
            if !all.contains(&c) && all.len() < count {
                all.push(c);
            }
        }
        all
    }
}

/// Rows of equal length: longer ones are cut, shorter ones are filled up with zeros. What follows
/// an end has no effect.
pub fn padded(cs: &[Vec<u16>], len: usize) -> Vec<Vec<u16>> {
    let row = |c: &Vec<u16>| {
        let mut row = c.clone();
        row.resize(len, 0);
        row
    };
    cs.iter().map(row).collect()
}

fn draw(log: &[f32], random: &mut Random) -> usize {
    let mut left = random.uniform();
    for (action, log) in log.iter().enumerate() {
        left -= log.exp();
        if left < 0.0 {
            return action;
        }
    }
    log.len() - 1
}

fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// Adam (Kingma and Ba 2014) for the compressor's parameters, with gradients clipped to norm 1.
pub struct Adam {
    vars: Vec<(String, Var)>,
    first: Vec<Var>,
    second: Vec<Var>,
    /// Steps done so far.
    pub step: usize,
    rate: f64,
}

impl Adam {
    /// An optimizer of these parameters with this learning rate.
    pub fn new(vars: Vec<(String, Var)>, rate: f64) -> Result<Self> {
        let zeros =
            || vars.iter().map(|(_, var)| Var::zeros(var.shape(), DType::F32, var.device())).collect();
        let (first, second): (Result<_>, Result<_>) = (zeros(), zeros());
        Ok(Self { first: first?, second: second?, vars, step: 0, rate })
    }

    /// The tensors that a checkpoint holds, by name.
    pub fn tensors(&self) -> Vec<(String, Var)> {
        let moments = self.vars.iter().zip(self.first.iter().zip(&self.second));
        moments
            .flat_map(|((name, _), (first, second))| {
                [(format!("first.{name}"), first.clone()), (format!("second.{name}"), second.clone())]
            })
            .collect()
    }

    /// One step down the gradients of `loss`, with the rate times `factor`.
    pub fn minimize(&mut self, loss: &Tensor, factor: f64) -> Result<()> {
        const BETAS: (f64, f64) = (0.9, 0.98);
        let grads = loss.backward()?;
        let mut squares = 0.0;
        for (_, var) in &self.vars {
            if let Some(grad) = grads.get(var.as_tensor()) {
                squares += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
        }
        let clip = 1.0 / squares.sqrt().max(1.0);
        if !clip.is_finite() || clip == 0.0 {
            candle_core::bail!("the compressor's gradient is no number");
        }
        self.step += 1;
        let t = self.step as i32;
        let (c1, c2) = (1.0 - BETAS.0.powi(t), 1.0 - BETAS.1.powi(t));
        for ((_, var), (first, second)) in self.vars.iter().zip(self.first.iter().zip(&self.second)) {
            let Some(grad) = grads.get(var.as_tensor()) else { continue };
            let grad = (grad * clip)?;
            let m = ((first.as_tensor() * BETAS.0)? + (&grad * (1.0 - BETAS.0))?)?;
            let v = ((second.as_tensor() * BETAS.1)? + (grad.sqr()? * (1.0 - BETAS.1))?)?;
            let update = ((&m / c1)? / ((&v / c2)?.sqrt()? + 1e-8)?)?;
            var.set(&(var.as_tensor() - (update * (self.rate * factor))?)?)?;
            first.set(&m)?;
            second.set(&v)?;
        }
        Ok(())
    }
}
