//! `s3a model`: the models at hand, and models from elsewhere.

use std::path::PathBuf;

use serde::Serialize;

use super::models;
use super::outcome::Outcome;
use super::output::{Out, human_bytes};
use crate::archive::path::escape;
use crate::error::Result;
use crate::model::config::Config;

/// Show the models at hand, or import one
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the models at hand and where they come from
    #[command(visible_alias = "list")]
    Ls {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show one model
    Info {
        /// Its file, name or the first digits of its fingerprint
        #[arg(value_name = "NAME")]
        name: String,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make a model file of a Hugging Face T5
    Import(Import),
}

/// `s3a model import`.
#[derive(Debug, clap::Args)]
#[cfg_attr(not(feature = "train"), allow(dead_code))]
struct Import {
    /// Folder with config.json, model.safetensors and tokenizer.json
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The model file to write [default: the name with .safetensors]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The model's name [default: the folder's]
    #[arg(long)]
    name: Option<String>,
    /// Compare the integer model with the T5 on this text
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let mut out = Out::new();
    match &args.command {
        Command::Import(args) => import(args, &mut out)?,
        Command::Ls { json: true } => out.json(&models::list()?)?,
        Command::Ls { json: false } => {
            for model in models::list()? {
                let name = escape(model.name.as_bytes());
                out.line(format_args!("{}  {name}  {}", model.fingerprint, model.origin))?;
            }
        }
        Command::Info { name, json } => {
            let (model, config, changes) = models::by_name(name)?;
            if *json {
                out.json(&Whole { macs_per_token: config.macs_per_token(), model, config, changes })?;
            } else {
                out.line(format_args!("name        {}", escape(model.name.as_bytes())))?;
                out.line(format_args!("fingerprint {}", model.fingerprint))?;
                out.line(format_args!("size        {}", human_bytes(model.bytes)))?;
                out.line(format_args!("origin      {}", model.origin))?;
                describe(&config, &mut out)?;
                if let Some(base) = &model.base {
                    out.line(format_args!("base        {base}"))?;
                }
                for models::Changed { name, rows, elements } in changes {
                    out.line(format_args!("changes     {name}: {elements} elements of {rows} rows"))?;
                }
            }
        }
    }
    out.finish()?;
    Ok(Outcome::Done)
}

/// A model with its architecture and how it was trained.
#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    model: models::Shown,
    macs_per_token: usize,
    config: Config,
    /// What a difference changes in its base; empty for a model of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<models::Changed>,
}

fn describe(c: &Config, out: &mut Out) -> Result<()> {
    let list = |orders: &[u8]| orders.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
    let window = if c.window == 0 { "no window".to_owned() } else { format!("window {}", c.window) };
    out.line(format_args!(
        "network     layers {}, width {}, heads {} of {}, of keys and values {}, feed-forward {}, {window}",
        c.layers, c.width, c.heads, c.head_size, c.kv_heads, c.ff
    ))?;
    out.line(format_args!(
        "input       tokens {}, match orders {}, second followers of {}, n-gram tables of {}",
        c.vocab,
        list(&c.orders),
        list(&c.seconds),
        list(&c.ngrams.iter().map(|table| table.0).collect::<Vec<_>>())
    ))?;
    match &c.latent {
        None => out.line(format_args!("c           none"))?,
        Some(l) => out.line(format_args!(
            "c           {} symbols, at most {} of them; sets of weights {}, rows that steer {}, layers of an encoder {}",
            l.symbols, l.max, l.experts, if l.steer { "yes" } else { "no" }, l.layers
        ))?,
    }
    out.line(format_args!("work        {} multiply-adds a token", c.macs_per_token()))?;
    out.line(format_args!("training    {}", escape(c.training.to_string().as_bytes())))
}

#[cfg(feature = "train")]
fn import(args: &Import, out: &mut Out) -> Result<()> {
    use crate::error::Error;
    use crate::train::import::check;
    use crate::train::import::convert::import;
    use crate::train::import::folder::Folder;

    let name = args.name.clone().unwrap_or_else(|| {
        let folder = args.folder.canonicalize().unwrap_or_else(|_| args.folder.clone());
        folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    });
    let output = args.output.clone().unwrap_or_else(|| format!("{name}.safetensors").into());
    if output.exists() && !args.force {
        return Err(Error::Exists(output));
    }
    let text = match &args.check {
        Some(path) => Some(std::fs::read(path).map_err(|e| Error::io(path, e))?),
        None => None,
    };
    let folder = Folder::open(&args.folder)?;
    let bytes = import(&folder, &name)?;
    let partial = output.with_extension("partial");
    std::fs::write(&partial, &bytes).map_err(|e| Error::io(&partial, e))?;
    std::fs::rename(&partial, &output).map_err(|e| Error::io(&output, e))?;
    let (tokens, added) = (folder.pieces.tokens.len(), folder.pieces.added);
    out.line(format_args!(
        "{}: {}",
        escape(output.as_os_str().as_encoded_bytes()),
        human_bytes(bytes.len() as u64)
    ))?;
    out.line(format_args!("tokens      {tokens}, {added} of them bytes that the tokenizer lacks"))?;
    let Some(text) = text else { return Ok(()) };
    let report = check::check(&folder, &crate::model::weights::Model::from_bytes(&bytes)?, &text)?;
    for (what, a) in [("c empty", report.alone), ("with c", report.with_c)] {
        let more = 100.0 * (a.integer_bits / a.float_bits - 1.0);
        out.line(format_args!(
            "{what:<11} {} tokens: correlation of logits {:.5}, bits per token {:.3} float, {:.3} integer ({more:+.2} %)",
            a.tokens, a.correlation, a.float_bits, a.integer_bits
        ))?;
    }
    out.line(format_args!("oracle      logits within {:.1e} of candle-transformers' T5", report.oracle))
}

#[cfg(not(feature = "train"))]
fn import(_: &Import, _: &mut Out) -> Result<()> {
    Err(super::outcome::built_without("train"))
}
