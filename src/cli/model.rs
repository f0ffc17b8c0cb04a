//! `s3a model`: the models at hand.

use super::output::{Out, human_bytes};
use super::{Outcome, models};
use crate::archive::paths::escape;
use crate::error::Result;

/// Show the models at hand
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
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let mut out = Out::new();
    match &args.command {
        Command::Ls { json: true } => out.json(&models::list()?)?,
        Command::Ls { json: false } => {
            for model in models::list()? {
                let name = escape(model.name.as_bytes());
                out.line(format_args!("{}  {name}  {}", model.fingerprint, model.origin))?;
            }
        }
        Command::Info { name, json } => {
            let model = models::by_name(name)?;
            if *json {
                out.json(&model)?;
            } else {
                out.line(format_args!("name        {}", escape(model.name.as_bytes())))?;
                out.line(format_args!("fingerprint {}", model.fingerprint))?;
                out.line(format_args!("size        {}", human_bytes(model.bytes)))?;
                out.line(format_args!("origin      {}", model.origin))?;
            }
        }
    }
    out.finish()?;
    Ok(Outcome::Done)
}
