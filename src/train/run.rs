//! One training run: vocabulary, steps, measurements, checkpoints, export.

use super::corpus::{Batches, Corpus, Featuriser, held_out};
use super::export;
use super::net::{Batch, Net, NetConfig};
use super::optimiser::{Optimiser, OptimiserConfig};
use super::{checkpoint, failed, init, vocabulary};
use crate::error::{Error, Result};
use crate::model::tokens::Vocabulary;
use candle_core::Device;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What to train, on what, for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files and folders to train on.
    pub data: Vec<PathBuf>,
    /// Where the model file goes.
    pub output: PathBuf,
    /// The model's name in its header.
    pub name: String,
    pub net: NetConfig,
    pub optimiser: OptimiserConfig,
    /// All steps of the run; a resumed run counts from its first beginning.
    pub steps: usize,
    /// Steps until the full rate.
    pub warm_up: usize,
    /// Last part of the steps over which the rate falls to zero.
    pub decay: f64,
    /// Windows of a step, and positions of a window.
    pub sequences: usize,
    pub len: usize,
    pub seed: u64,
    /// Checkpoint to write, and to resume from if `resume`.
    pub checkpoint: PathBuf,
    pub resume: bool,
    /// A checkpoint or model file whose weights, sizes and vocabulary the network starts with.
    pub init: Option<PathBuf>,
    /// Steps between checkpoints and measurements.
    pub every: usize,
    /// A CSV to append measurements to.
    pub log: Option<PathBuf>,
    /// `cpu` or `cuda[:N]`.
    pub device: String,
}

/// What a run tells its caller after each step.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub step: usize,
    pub steps: usize,
    /// Smoothed bits per byte of the training windows.
    pub train_bpb: f64,
    /// Bits per byte of the held-out windows, when last measured.
    pub held_out_bpb: Option<f64>,
    pub tokens_per_second: f64,
}

/// The share of the full rate at a step: up over `warm_up`, level, down to zero over the last part.
fn rate_factor(options: &Options, step: usize) -> f64 {
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

/// Bits per byte of batches.
pub fn measure(net: &Net, batches: &[Batch]) -> Result<f64> {
    let (mut nats, mut bytes) = (0.0, 0usize);
    for batch in batches {
        nats += net.nats(batch, &[]).map_err(failed)?.iter().sum::<f64>();
        bytes += batch.bytes;
    }
    Ok(nats / std::f64::consts::LN_2 / bytes.max(1) as f64)
}

/// Trains and writes the model file. `interrupt` ends the run after the step at hand with a checkpoint.
pub fn run(options: &Options, interrupt: &AtomicBool, mut report: impl FnMut(Progress)) -> Result<()> {
    let device = device(&options.device)?;
    let corpus = Corpus::read(&options.data)?;
    let initial = options.init.as_deref().filter(|_| !options.resume).map(init::read).transpose()?;
    let mut head = if options.resume {
        checkpoint::head(&options.checkpoint)?
    } else {
        let (net, tokens) = match &initial {
            Some(initial) => (initial.config.clone(), initial.vocabulary.clone()),
            None => (options.net.clone(), vocabulary::learn(&corpus.sample(16 << 20), options.net.vocab)?),
        };
        checkpoint::Head {
            net: NetConfig { vocab: tokens.len(), ..net },
            optimiser: options.optimiser.clone(),
            step: 0,
            tokens: 0,
            seed: options.seed,
            seconds: 0.0,
            data: format!("{} files", corpus.files),
            data_bytes: corpus.len() as u64,
            vocabulary: tokens,
            from: initial.as_ref().map(|initial| initial.record.clone()),
        }
    };
    let vocabulary = Vocabulary::new(&head.vocabulary)?;
    let net = Net::new(head.net.clone(), head.seed, &device).map_err(failed)?;
    if let Some(initial) = initial {
        initial.apply(&net).map_err(failed)?;
    }
    let mut optimiser = Optimiser::new(&net, head.optimiser.clone()).map_err(failed)?;
    if options.resume {
        checkpoint::load(&options.checkpoint, &net, Some(&mut optimiser), head.step)?;
    }
    let config = head.net.clone();
    let featuriser = || Featuriser { config: &config, vocabulary: &vocabulary, len: options.len };
    let held = held_out(&corpus, &featuriser(), options.sequences, 128)?;
    let mut batches = Batches::new(&corpus, featuriser(), head.seed ^ (head.step as u64) << 32);
    let mut log = Log::open(options)?;
    let mut smooth = Smooth::default();
    let mut held_out_bpb = None;
    let start = Instant::now();
    let (first, seconds_before) = (head.step, head.seconds);
    while head.step < options.steps && !interrupt.load(Ordering::Relaxed) {
        let batch = batches.next(options.sequences)?;
        let bpb = step(&net, &mut optimiser, &batch, rate_factor(options, head.step))?;
        head.step += 1;
        head.tokens += batch.targets.tokens.len() as u64;
        head.seconds = seconds_before + start.elapsed().as_secs_f64();
        let train_bpb = smooth.add(bpb);
        if head.step % options.every == 0 || head.step == options.steps {
            let measured = measure(&net, &held)?;
            held_out_bpb = Some(measured);
            log.add(&head, train_bpb, measured)?;
            checkpoint::save(&options.checkpoint, &head, &net, &optimiser)?;
        }
        let tokens = (head.step - first) * options.sequences * options.len;
        let tokens_per_second = tokens as f64 / start.elapsed().as_secs_f64();
        report(Progress {
            step: head.step,
            steps: options.steps,
            train_bpb,
            held_out_bpb,
            tokens_per_second,
        });
    }
    checkpoint::save(&options.checkpoint, &head, &net, &optimiser)?;
    if head.step < options.steps {
        return Err(Error::Interrupted);
    }
    export::write(&options.output, &options.name, &head, &net, &vocabulary, &held)
}

/// One step; gives the batch's bits per byte before it.
fn step(net: &Net, optimiser: &mut Optimiser, batch: &Batch, factor: f64) -> Result<f64> {
    let inner = || -> candle_core::Result<(f32, candle_core::backprop::GradStore)> {
        let loss = net.loss(batch)?;
        let value = loss.to_vec1::<f32>()?[0];
        Ok((value, loss.backward()?))
    };
    let (value, grads) = inner().map_err(failed)?;
    if !value.is_finite() {
        return Err(Error::Usage(
            "training diverged (the loss is no number): resume from the checkpoint with a lower rate"
                .to_owned(),
        ));
    }
    optimiser.step(net, &grads, factor).map_err(failed)?;
    Ok(f64::from(value) / std::f64::consts::LN_2 * batch.targets.tokens.len() as f64 / batch.bytes as f64)
}

#[derive(Default)]
struct Smooth {
    sum: f64,
    weight: f64,
}

impl Smooth {
    fn add(&mut self, value: f64) -> f64 {
        self.sum = self.sum * 0.98 + value;
        self.weight = self.weight * 0.98 + 1.0;
        self.sum / self.weight
    }
}

struct Log(Option<(PathBuf, std::fs::File)>);

impl Log {
    fn open(options: &Options) -> Result<Self> {
        let Some(path) = &options.log else { return Ok(Self(None)) };
        let fresh = !path.exists();
        let io = |e| Error::io(path, e);
        let mut file = std::fs::File::options().append(true).create(true).open(path).map_err(io)?;
        if fresh {
            writeln!(file, "step,tokens,seconds,train_bpb,held_out_bpb").map_err(io)?;
        }
        Ok(Self(Some((path.clone(), file))))
    }

    fn add(&mut self, head: &checkpoint::Head, train: f64, held_out: f64) -> Result<()> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        writeln!(file, "{},{},{:.0},{train:.4},{held_out:.4}", head.step, head.tokens, head.seconds)
            .map_err(|e| Error::io(path.clone(), e))
    }
}
