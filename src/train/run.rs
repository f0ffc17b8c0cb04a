//! One training run: vocabulary, steps, measurements, checkpoints, export.

use std::f64::consts::LN_2;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Device;

use super::actor_critic::{At, Pair, Told};
use super::clusters::Clusters;
use super::corpus::{Batches, Corpus, Featuriser, held_out, texts};
use super::error::failed;
use super::net::{Batch, Net};
use super::optimizer::{Optimizer, OptimizerConfig};
use super::pair_config::PairConfig;
use super::random::Random;
use super::sizes::{NetConfig, Steering};
use super::{checkpoint, export, init, vocabulary};
use crate::error::{Error, Result};
use crate::model::tokens::Vocabulary;

/// Windows that the compressor reads in a step in which it is told what to write.
const MIXED: usize = 8;
/// Windows in which kinds of text are found.
const KIND_TEXTS: usize = 2048;

/// What to train, on what data, for how long.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Files and directories to train on.
    pub data: Vec<PathBuf>,
    /// Path of the model file to write.
    pub output: PathBuf,
    /// A file with the megabytes that kinds of files count as (`corpus::Weights`).
    pub weights: Option<PathBuf>,
    /// The model's name in its header.
    pub name: String,
    /// Sizes of the network.
    pub net: NetConfig,
    /// Rates of the optimizer.
    pub optimizer: OptimizerConfig,
    /// Steps of the whole run, those before it was resumed included.
    pub steps: usize,
    /// Steps until the full learning rate.
    pub warm_up: usize,
    /// Share of the steps, at the end, over which the rate falls to zero.
    pub decay: f64,
    /// Windows of a step.
    pub sequences: usize,
    /// Positions of a window.
    pub len: usize,
    /// Seed of all random choices.
    pub seed: u64,
    /// Share of the positions of a step at which the last token is left out of the input.
    pub token_dropout: f64,
    /// Path of the checkpoint.
    pub checkpoint: PathBuf,
    /// Whether to continue from the checkpoint.
    pub resume: bool,
    /// A checkpoint or model file whose weights, sizes and vocabulary the network starts with.
    pub init: Option<PathBuf>,
    /// Gives the network the sizes of `net`, and the weights of `init` as far as they fit.
    pub grow: bool,
    /// A compressor to train beside the network, so that chunks have a learned sequence.
    pub pair: Option<PairConfig>,
    /// Steps between checkpoints and measurements.
    pub every: usize,
    /// A CSV file to which measurements are appended.
    pub log: Option<PathBuf>,
    /// The device to train on: `cpu` or `cuda[:N]`.
    pub device: String,
    /// Whether operands of large products are rounded to bfloat16, where the CPU multiplies those
    /// faster.
    pub bfloat16: bool,
}

/// What a run reports after each step.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Steps done so far.
    pub step: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// Smoothed bits per byte of the training windows.
    pub train_bpb: f64,
    /// Bits per byte of the held-out windows, in steps in which they were measured.
    pub held_out_bpb: Option<f64>,
    /// Tokens trained on per second since the run began or was resumed.
    pub tokens_per_second: f64,
}

/// The share of the full rate at a step: it rises over `warm_up`, stays level, and falls to zero
/// over the last part.
fn rate_factor(options: &TrainOptions, step: usize) -> f64 {
    let up = (step + 1) as f64 / options.warm_up.max(1) as f64;
    let left = options.steps.saturating_sub(step) as f64;
    let down = left / (options.steps as f64 * options.decay).max(1.0);
    up.min(down).min(1.0)
}

fn device(name: &str) -> Result<Device> {
    let wrong = || Error::Usage(format!("no such device: {name}; cpu or cuda[:N]"));
    match name.split_once(':') {
        None if name == "cpu" || name == "auto" => Ok(Device::Cpu),
        None if name == "cuda" => Device::new_cuda(0).map_err(failed),
        Some(("cuda", n)) => Device::new_cuda(n.parse().map_err(|_| wrong())?).map_err(failed),
        _ => Err(wrong()),
    }
}

/// Bits per byte of batches, with c empty.
pub fn measure(net: &Net, batches: &[Batch]) -> Result<f64> {
    let (mut nats, mut bytes) = (0.0, 0usize);
    for batch in batches {
        nats += net.nats(batch, &[]).map_err(failed)?.iter().sum::<f64>();
        bytes += batch.bytes;
    }
    Ok(nats / LN_2 / bytes.max(1) as f64)
}

/// Bits per byte of batches with the compressor's most likely c; the share of the bits of c that a
/// sequence pays is included.
fn measure_pair(net: &Net, pair: &Pair, batches: &[Batch]) -> Result<f64> {
    let (mut nats, mut bits, mut bytes) = (0.0, 0.0, 0usize);
    let cost = pair.prior.bits();
    for batch in batches {
        let cs = pair.greedy(batch).map_err(failed)?;
        nats += net.nats(batch, &cs).map_err(failed)?.iter().sum::<f64>();
        bits += cs.iter().flat_map(|c| cost(c)).sum::<f64>() * pair.config.cost;
        bytes += batch.bytes;
    }
    Ok((nats / LN_2 + bits) / bytes.max(1) as f64)
}

/// What is trained, and how far the run is.
struct Run {
    head: checkpoint::Head,
    net: Net,
    optimizer: Optimizer,
    pair: Option<Pair>,
}

impl Run {
    fn start(options: &TrainOptions, corpus: &Corpus, device: &Device) -> Result<Self> {
        let mut initial = options.init.as_deref().map(init::read).transpose()?;
        if let (Some(initial), Some(_)) = (&mut initial, &options.pair) {
            initial.forget_kinds();
        }
        let (net, tokens) = match &initial {
            Some(initial) if options.grow => (initial.grown(&options.net)?, initial.vocabulary.clone()),
            Some(initial) => (initial.config.clone(), initial.vocabulary.clone()),
            None => (options.net.clone(), vocabulary::learn(&corpus.sample(16 << 20), options.net.vocab)?),
        };
        let mut pair = options.pair.clone();
        let mut net = NetConfig { vocab: tokens.len(), steering: None, adapt: options.net.adapt, ..net };
        if let Some(pair) = &mut pair {
            pair.compressor.set_vocab(tokens.len());
            super::pair_config::check(pair, options.len)?;
            let (symbols, max) = (pair.compressor.symbols, pair.compressor.max);
            let (layers, ff) = (pair.encoder_layers, 2 * net.width * pair.encoder_layers.min(1));
            let (experts, rows) = (pair.experts, pair.rows);
            net.steering = Some(Steering { symbols, max, experts, rows, layers, ff });
        }
        let head = checkpoint::Head {
            net,
            optimizer: options.optimizer.clone(),
            step: 0,
            tokens: 0,
            seed: options.seed,
            seconds: 0.0,
            data: format!("{} files", corpus.files),
            data_bytes: corpus.len() as u64,
            weights: corpus.weights.clone(),
            vocabulary: tokens,
            from: initial.as_ref().map(|initial| initial.record.clone()),
            pair: pair.clone(),
        };
        let net = Net::new(head.net.clone(), head.seed, device).map_err(failed)?;
        if let Some(initial) = initial {
            initial.apply(&net).map_err(failed)?;
        }
        let optimizer = Optimizer::new(&net, head.optimizer.clone()).map_err(failed)?;
        let pair = match pair {
            Some(config) => {
                let vocabulary = Vocabulary::new(&head.vocabulary)?;
                let featuriser = Featuriser { config: &head.net, vocabulary: &vocabulary, len: options.len };
                let texts = texts(corpus, featuriser, KIND_TEXTS, head.seed)?;
                let texts: Vec<&[u32]> = texts.iter().map(|text| text.as_slice()).collect();
                let mut random = Random::new(head.seed);
                let clusters = Clusters::find(&texts, head.net.vocab, config.kinds(), &mut random);
                Some(Pair::new(config, clusters, head.seed, device).map_err(failed)?)
            }
            None => None,
        };
        Ok(Self { head, net, optimizer, pair })
    }

    fn resume(options: &TrainOptions, device: &Device) -> Result<Self> {
        let head = checkpoint::head(&options.checkpoint)?;
        let net = Net::new(head.net.clone(), head.seed, device).map_err(failed)?;
        let mut optimizer = Optimizer::new(&net, head.optimizer.clone()).map_err(failed)?;
        checkpoint::load(&options.checkpoint, &net, Some(&mut optimizer), head.step)?;
        let pair = match head.pair.clone() {
            Some(config) => {
                let tensors = checkpoint::tensors(&options.checkpoint)?;
                let seed = (head.seed, head.step);
                Some(Pair::restore(config, &tensors, seed, device).map_err(failed)?)
            }
            None => None,
        };
        Ok(Self { head, net, optimizer, pair })
    }

    fn save(&self, path: &Path) -> Result<()> {
        let more = self.pair.as_ref().map(Pair::tensors).transpose().map_err(failed)?.unwrap_or_default();
        checkpoint::save(path, &self.head, &self.net, &self.optimizer, more)
    }

    /// One step; returns the bits per byte of the batch before it, and the figures of the pair.
    fn step(&mut self, batch: &Batch, at: At<'_>, factor: f64) -> Result<(f64, Option<Told>)> {
        let Self { net, optimizer, pair, .. } = self;
        let mut value = f64::NAN;
        let mut learn = |loss: &candle_core::Tensor| {
            value = f64::from(loss.to_vec1::<f32>()?[0]);
            if value.is_finite() {
                optimizer.step(net, &loss.backward()?, factor)?;
            }
            Ok(())
        };
        let told = match pair {
            Some(pair) => Some(pair.step(net, batch, at, factor, learn).map_err(failed)?),
            None => {
                net.loss(batch).and_then(|loss| learn(&loss)).map_err(failed)?;
                None
            }
        };
        if !value.is_finite() {
            return Err(Error::Usage(
                "training diverged (the loss is no number): resume from the checkpoint with a lower rate"
                    .to_owned(),
            ));
        }
        Ok((value / LN_2 * batch.targets.tokens.len() as f64 / batch.bytes as f64, told))
    }

    /// Writes the model file, and the compressor's beside it.
    fn export(&self, options: &TrainOptions, vocabulary: &Vocabulary, held: &[Batch]) -> Result<()> {
        let mut samples: Vec<export::Sample> = held.iter().take(8).map(|b| (b.clone(), vec![])).collect();
        if let Some(pair) = &self.pair {
            for batch in held.iter().take(8) {
                samples.push((batch.clone(), pair.greedy(batch).map_err(failed)?));
            }
        }
        let prior = self.pair.as_ref().map(|pair| pair.prior.slots());
        let model = export::export(&options.name, &self.head, &self.net, vocabulary, &samples, prior)?;
        super::replace::replace(&options.output, &model)?;
        if let Some(pair) = &self.pair {
            let fingerprint = blake3::hash(&model).to_hex().to_string();
            pair.compressor.save(&compressor_path(&options.output), &fingerprint)?;
        }
        Ok(())
    }
}

/// The path of a model file's compressor: `NAME.compressor` beside it.
pub fn compressor_path(model: &Path) -> PathBuf {
    model.with_extension("compressor")
}

/// Trains a network and writes the model file, and the compressor's if there is one. Once
/// `interrupt` is set, the run ends after the current step with a checkpoint.
pub fn run(options: &TrainOptions, interrupt: &AtomicBool, mut report: impl FnMut(Progress)) -> Result<()> {
    let device = device(&options.device)?;
    crate::kernels::sgemm::allow_bfloat16(options.bfloat16);
    let corpus = Corpus::read(&options.data, options.weights.as_deref())?;
    let mut run =
        if options.resume { Run::resume(options, &device)? } else { Run::start(options, &corpus, &device)? };
    let vocabulary = Vocabulary::new(&run.head.vocabulary)?;
    let config = run.head.net.clone();
    let featuriser = || Featuriser { config: &config, vocabulary: &vocabulary, len: options.len };
    let held = held_out(&corpus, &featuriser(), options.sequences, 128)?;
    let mut batches = Batches::new(&corpus, featuriser(), run.head.seed ^ (run.head.step as u64) << 32);
    if let Some(pair) = &run.pair {
        batches = batches.by_kind(pair.clusters.clone());
    }
    let mut dropout = Random::new(run.head.seed ^ !(run.head.step as u64));
    let mut log = Log::open(options)?;
    let mut smooth = Smooth::default();
    let mut told = TOLD.map(|_| Smooth::default());
    let mut held_out_bpb = None;
    let start = Instant::now();
    let (first, seconds_before) = (run.head.step, run.head.seconds);
    while run.head.step < options.steps && !interrupt.load(Ordering::Relaxed) {
        let empty = run.pair.as_mut().is_some_and(Pair::draw_empty);
        let batch = if empty { batches.any(options.sequences)? } else { batches.next(options.sequences)? };
        let told_what = run.pair.as_ref().is_some_and(|pair| pair.config.is_told(run.head.step));
        let mixed = if told_what { batches.mixed(MIXED)? } else { vec![] };
        let batch = if options.token_dropout > 0.0 {
            batch.without_tokens(options.token_dropout, &config, &mut dropout)
        } else {
            batch
        };
        let at = At { step: run.head.step, steps: options.steps, mixed: &mixed, empty };
        let (bpb, of_pair) = run.step(&batch, at, rate_factor(options, run.head.step))?;
        run.head.step += 1;
        run.head.tokens += batch.targets.tokens.len() as u64;
        run.head.seconds = seconds_before + start.elapsed().as_secs_f64();
        let train_bpb = smooth.add(bpb);
        if let Some(of_pair) = of_pair {
            told.iter_mut().zip(of_pair.values()).for_each(|(smooth, value)| _ = smooth.add(value));
        }
        if run.head.step % options.every == 0 || run.head.step == options.steps {
            let empty = measure(&run.net, &held)?;
            let with_c = match &run.pair {
                Some(pair) => measure_pair(&run.net, pair, &held)?,
                None => empty,
            };
            held_out_bpb = Some(with_c);
            let told = run.pair.as_ref().map(|_| told.each_ref().map(Smooth::value));
            log.add(&run.head, train_bpb, empty, with_c, told)?;
            run.save(&options.checkpoint)?;
        }
        let tokens = (run.head.step - first) * options.sequences * options.len;
        let tokens_per_second = tokens as f64 / start.elapsed().as_secs_f64();
        report(Progress {
            step: run.head.step,
            steps: options.steps,
            train_bpb,
            held_out_bpb,
            tokens_per_second,
        });
    }
    run.save(&options.checkpoint)?;
    if run.head.step < options.steps {
        return Err(Error::Interrupted);
    }
    run.export(options, &vocabulary, &held)
}

#[derive(Default)]
struct Smooth {
    sum: f64,
    weight: f64,
}

impl Smooth {
    /// Adds a value, unless it is NaN.
    fn add(&mut self, value: f64) -> f64 {
        if !value.is_finite() {
            return self.value();
        }
        self.sum = self.sum * 0.98 + value;
        self.weight = self.weight * 0.98 + 1.0;
        self.value()
    }

    fn value(&self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { f64::NAN }
    }
}

/// Columns of the log that only a pair has.
const TOLD: [&str; 7] =
    ["c_bits", "c_len", "residual_bits", "empty_bits", "reward", "value_error", "entropy"];

struct Log(Option<(PathBuf, std::fs::File)>);

impl Log {
    fn open(options: &TrainOptions) -> Result<Self> {
        let Some(path) = &options.log else { return Ok(Self(None)) };
        let fresh = !path.exists();
        let io = |e| Error::io(path, e);
        let mut file = std::fs::File::options().append(true).create(true).open(path).map_err(io)?;
        if fresh {
            let more = if options.pair.is_some() {
                format!(",held_out_with_c_bpb,{}", TOLD.join(","))
            } else {
                String::new()
            };
            writeln!(file, "step,tokens,seconds,train_bpb,held_out_bpb{more}").map_err(io)?;
        }
        Ok(Self(Some((path.clone(), file))))
    }

    fn add(
        &mut self,
        head: &checkpoint::Head,
        train: f64,
        empty: f64,
        with_c: f64,
        told: Option<[f64; 7]>,
    ) -> Result<()> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        // What no stage has reported yet stays empty.
        let cell = |value: f64| if value.is_finite() { format!(",{value:.4}") } else { ",".to_owned() };
        let more = told.map(|told| told.map(cell).concat());
        let more = more.map(|more| format!(",{with_c:.4}{more}")).unwrap_or_default();
        writeln!(file, "{},{},{:.0},{train:.4},{empty:.4}{more}", head.step, head.tokens, head.seconds)
            .map_err(|e| Error::io(path.clone(), e))
    }
}
