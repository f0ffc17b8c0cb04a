//! `s3a train`: a decompressor from data.

use std::path::PathBuf;

use super::args::{Global, size};
use super::console::Console;
use super::outcome::Outcome;
use crate::error::Result;

/// Train a model on files and folders
#[derive(Debug, clap::Args)]
#[cfg_attr(not(feature = "train"), allow(dead_code))]
pub(crate) struct Args {
    /// Files and folders to train on
    #[arg(required = true, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// File that weights kinds: lines of a path below the data and the megabytes that its files count as
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// The model file to write
    #[arg(short, long, value_name = "FILE", default_value = "model.safetensors")]
    output: PathBuf,
    /// The model's name
    #[arg(long, default_value = "custom")]
    name: String,
    /// Steps to train
    #[arg(long, default_value_t = 20_000)]
    steps: usize,
    /// Steps until the full learning rate
    #[arg(long, default_value_t = 200)]
    warm_up: usize,
    /// Share of the steps over which the rate falls to zero, in percent
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u8).range(0..=100))]
    decay: u8,
    /// Sequences of a step
    #[arg(long, default_value_t = 16)]
    sequences: usize,
    /// Tokens of a sequence
    #[arg(long, value_parser = size, default_value = "512")]
    len: u64,
    /// Entries of the vocabulary
    #[arg(long, default_value_t = 1024)]
    vocab: usize,
    /// Width of the decoder
    #[arg(long, default_value_t = 128)]
    width: usize,
    /// Layers of the decoder
    #[arg(long, default_value_t = 2)]
    layers: usize,
    /// Attention heads of a layer
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Heads of keys and values that they share
    #[arg(long, default_value_t = 1)]
    kv_heads: usize,
    /// Width of the feed-forward
    #[arg(long, default_value_t = 384)]
    ff: usize,
    /// Tokens that attention looks back on
    #[arg(long, default_value_t = 128)]
    window: usize,
    /// Rate of the bias that learns within a chunk, in nats; 0 for none
    #[arg(long, default_value_t = 0.1, value_name = "X")]
    adapt: f32,
    /// Seed of everything random
    #[arg(long, default_value_t = 1, env = "S3A_SEED", hide_env_values = true)]
    seed: u64,
    /// Checkpoint to write [default: the output with .checkpoint]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Go on from the checkpoint
    #[arg(long)]
    resume: bool,
    /// Symbols of a learned sequence: trains a compressor that writes one for each chunk, too
    #[arg(long, default_value_t = 0, value_name = "N")]
    symbols: usize,
    /// Most symbols in a learned sequence
    #[arg(long, default_value_t = 4, value_name = "N")]
    max_symbols: usize,
    /// Sets of the decompressor's weights: one for an empty sequence, the others for its first symbol
    #[arg(long, default_value_t = 1, value_name = "N")]
    experts: usize,
    /// Layers of an encoder of learned sequences, to which the decompressor attends
    #[arg(long, default_value_t = 0, value_name = "N")]
    encoder_layers: usize,
    /// Symbols have no rows that steer the decompressor
    #[arg(long)]
    experts_only: bool,
    /// Tokens of a chunk that the compressor reads
    #[arg(long, default_value_t = 128, value_name = "N")]
    excerpt: usize,
    /// Width of the compressor
    #[arg(long, default_value_t = 96, value_name = "N")]
    compressor_width: usize,
    /// Layers of the compressor's encoder
    #[arg(long, default_value_t = 2, value_name = "N")]
    compressor_layers: usize,
    /// Steps in which the compressor learns to reproduce what it reads
    #[arg(long, default_value_t = 200, value_name = "N")]
    reproduce: usize,
    /// Steps in which the compressor learns to tell kinds of text apart
    #[arg(long, default_value_t = 300, value_name = "N")]
    imitate: usize,
    /// Share of a symbol's bits that a sequence pays
    #[arg(long, default_value_t = 0.125, value_name = "X")]
    cost: f64,
    /// Share of steps in which the decompressor learns without a learned sequence
    #[arg(long, default_value_t = 0.15, value_name = "X")]
    empty: f64,
    /// Learning rate of the compressor
    #[arg(long, default_value_t = 5e-4, value_name = "X")]
    compressor_rate: f64,
    /// How much the value of what follows counts
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    gamma: f64,
    /// What of the steps after a symbol counts in its advantage: 0 is the one-step advantage
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    lambda: f64,
    /// Learned sequences drawn for a chunk; the decompressor learns with the best of them
    #[arg(long, default_value_t = 1, value_name = "N")]
    draws: usize,
    /// Weight of the actor's entropy
    #[arg(long, default_value_t = 0.02, value_name = "X")]
    entropy: f64,
    /// Start from the weights, sizes and vocabulary of this model file or checkpoint
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// With --init: keep width, layers, feed-forward and window of the options, and take what fits into them
    #[arg(long, requires = "init")]
    grow: bool,
    /// With --init: learn a difference to that model, and write it instead of a model
    #[arg(long, requires = "init")]
    delta: bool,
    /// With --delta: bytes of the data that the difference is for [default: those of the data]
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "delta")]
    size: Option<u64>,
    /// Learning rates of the decompressor times this, but for those of steering
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Learning rate of what the learned sequence changes in the decompressor
    #[arg(long, default_value_t = 3e-3, value_name = "X")]
    steer_rate: f64,
    /// Share of the positions whose last token is left out of the input while training
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    token_dropout: f64,
    /// Keep single precision in products that the CPU computes faster with operands in bfloat16
    #[arg(long)]
    single_precision: bool,
    /// Steps between checkpoints and measurements
    #[arg(long, default_value_t = 500)]
    every: usize,
    /// CSV file to append measurements to; in the end they are drawn beside it, as SVG
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[cfg(feature = "train")]
pub(crate) fn run(args: &Args, global: &Global, console: &Console) -> Result<Outcome> {
    use crate::train::optimizer::OptimizerConfig;
    use crate::train::pair_config::{CompressorConfig, PairConfig};
    use crate::train::run::TrainOptions;
    use crate::train::sizes::NetConfig;

    let checkpoint = args.checkpoint.clone().unwrap_or_else(|| {
        let mut name = args.output.clone().into_os_string();
        name.push(".checkpoint");
        name.into()
    });
    let net = NetConfig {
        vocab: args.vocab,
        width: args.width,
        layers: args.layers,
        heads: args.heads,
        kv_heads: args.kv_heads,
        head_size: 32,
        ff: args.ff,
        window: args.window,
        orders: vec![1, 2, 3, 4, 6],
        seconds: vec![2, 3],
        ngrams: vec![(2, 14), (3, 15)],
        copy: true,
        adapt: args.adapt,
        steering: None,
    };
    let options = TrainOptions {
        data: args.data.clone(),
        weights: args.weights.clone(),
        output: args.output.clone(),
        name: args.name.clone(),
        net,
        optimizer: OptimizerConfig { steer_rate: args.steer_rate, ..OptimizerConfig::default() }
            .times(args.rate),
        init: args.init.clone(),
        grow: args.grow,
        pair: (args.symbols > 0).then(|| PairConfig {
            compressor: CompressorConfig::new(
                args.vocab,
                args.symbols,
                args.max_symbols,
                args.excerpt,
                args.compressor_width,
                args.compressor_layers,
            ),
            experts: args.experts,
            rows: !args.experts_only,
            encoder_layers: args.encoder_layers,
            reproduce: args.reproduce,
            imitate: args.imitate,
            cost: args.cost,
            empty: args.empty,
            rate: args.compressor_rate,
            gamma: args.gamma,
            lambda: args.lambda,
            draws: args.draws,
            entropy: args.entropy,
        }),
        steps: args.steps,
        warm_up: args.warm_up,
        decay: f64::from(args.decay) / 100.0,
        sequences: args.sequences,
        len: usize::try_from(args.len).unwrap_or(usize::MAX),
        seed: args.seed,
        token_dropout: args.token_dropout,
        checkpoint,
        resume: args.resume,
        every: args.every,
        log: args.log.clone(),
        device: global.device.clone(),
        bfloat16: !args.single_precision,
    };
    let steps = console.steps("training", args.steps as u64);
    if args.delta {
        return learn(args, console);
    }
    crate::train::run(&options, &console.interrupt(), |p| {
        let held_out = p.held_out_bpb.map(|bpb| format!(", held out {bpb:.4}")).unwrap_or_default();
        steps.at(
            p.step as u64,
            &format!("{:.4} bits per byte{held_out}, {:.0} tokens/s", p.train_bpb, p.tokens_per_second),
        );
    })?;
    if let Some(log) = &args.log {
        super::curves::draw(log)?;
    }
    Ok(Outcome::Done)
}

/// Most bytes of the sample that a difference is learned from, and bytes of its stretches.
#[cfg(feature = "train")]
const SAMPLE: u64 = 256 << 20;
#[cfg(feature = "train")]
const STRETCH: u64 = 256 << 10;

/// Learns a difference to a model.
#[cfg(feature = "train")]
fn learn(args: &Args, console: &Console) -> Result<Outcome> {
    use crate::archive::pack::found::ScanOptions;
    use crate::archive::pack::packer::Packer;
    use crate::archive::write::similar::Similar;
    use crate::model::registry;
    use crate::setup::level;
    use crate::train::learn::{LearnOptions, Sample, learn};

    let name = args.init.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let base = registry::file_bytes(&registry::by_name(&name)?)?;
    let mut packer = Packer::scan(&args.data, None, &ScanOptions::default(), console)?;
    packer.arrange(console)?;
    let stretches = packer.sample(SAMPLE, STRETCH);
    let level = level::level(level::DEFAULT);
    let references = Similar::for_options(level.references, level.depth, level.chunk_size);
    let sample = Sample::new(&stretches, level.chunk_size, references.as_deref().map(|r| r as _));
    let options = LearnOptions {
        steps: args.steps,
        sequences: args.sequences,
        len: usize::try_from(args.len).unwrap_or(usize::MAX),
        seed: args.seed,
        bytes: args.size.unwrap_or(packer.bytes()),
        name: args.name.clone(),
    };
    let steps = console.steps("learning", args.steps as u64);
    let learned = learn(&base, &sample, &options, &console.interrupt(), |p| {
        steps.at(
            p.step as u64,
            &format!("{:.4} bits per byte, {:.0} tokens/s", p.bits_per_byte, p.tokens_per_second),
        );
    })?;
    match learned {
        Some(delta) => crate::train::replace::replace(&args.output, &delta)?,
        None => console.say("no change pays: nothing is written"),
    }
    Ok(Outcome::Done)
}

#[cfg(not(feature = "train"))]
pub(crate) fn run(_: &Args, _: &Global, _: &Console) -> Result<Outcome> {
    Err(super::outcome::built_without("train"))
}
