//! `s3a model`: the models at hand.

use super::output::Out;
use super::{Outcome, models};
use crate::error::{Error, Result};

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
        /// Its name or the first digits of its fingerprint
        #[arg(value_name = "NAME")]
        name: String,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let known = models::list()?;
    let mut out = Out::new();
    match &args.command {
        Command::Ls { json: true } => out.json(&known)?,
        Command::Ls { json: false } => {
            for model in &known {
                out.line(format_args!("{}  {}  {}", model.fingerprint, model.name, model.origin))?;
            }
        }
        Command::Info { name, json } => {
            let found = known.iter().find(|model| model.name == *name || model.fingerprint.starts_with(name.as_str()));
            let model = found.ok_or_else(|| Error::ModelMissing { fingerprint: name.clone(), name: "as named".into() })?;
            if *json {
                out.json(model)?;
            } else {
                out.line(format_args!("name        {}", model.name))?;
                out.line(format_args!("fingerprint {}", model.fingerprint))?;
                out.line(format_args!("origin      {}", model.origin))?;
            }
        }
    }
    out.finish()?;
    Ok(Outcome::Done)
}
