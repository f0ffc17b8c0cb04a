//! The paper's setting: short, independent chunks of tokens. Bits per byte, latency and throughput
//! against the length of a chunk, which are the paper's Table 1 and Figures 4 to 6, on any bytes.

mod measure;
mod measured;
mod peers;
mod report;
mod sample;

use std::path::Path;

use measured::Measured;
use sample::{Length, Sample};

use crate::archive::observer::Observer;
use crate::archive::path::escape;
use crate::cli::bench::tree::Scratch;
use crate::cli::console::Console;
use crate::cli::outcome::Outcome;
use crate::codec::neural::chunk_model::Neural;
use crate::error::{Error, Result};
use crate::model::registry;
use crate::setup::models;

/// How c is found: what it is called, and the candidates beside the empty one.
const WAYS: [(&str, usize); 3] = [("c empty", 0), ("greedy c", 1), ("best c of 8", 8)];
/// The way whose chunks are read back: what `s3a pack` does if not told otherwise.
const USUAL: usize = 1;

pub(crate) fn run(path: &Path, args: &crate::cli::bench::args::Args, console: &Console) -> Result<Outcome> {
    crate::cli::bench::peers::check(&args.peers)?;
    let sample = Sample::read(path, args.setting.sample, console)?;
    if sample.bytes.is_empty() {
        return Err(Error::Usage(format!("{} holds no bytes to measure", path.display())));
    }
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let scratch = Scratch::new(args.scratch.as_deref())?;
    let default = ["default".to_owned()];
    let names = if args.models.is_empty() { &default[..] } else { &args.models };
    let mut result = Measured::default();
    let mut vocabularies: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for name in names {
        let model = measure_model(name, &sample, console, &mut result)?;
        // Chunks of another vocabulary are other bytes.
        let vocabulary = model.model().vocabulary();
        let parts = (vocabulary.concatenated().to_vec(), vocabulary.lengths());
        if !vocabularies.contains(&parts) {
            let whose = if vocabularies.is_empty() { None } else { Some(shown(&model)) };
            for length in Length::ALL {
                crate::cli::bench::args::stop_if(console)?;
                console.phase(&format!("other programs on chunks of {length}"), None);
                let pieces = sample.cut(vocabulary, length);
                let rows = peers::chunks(&args.peers, length, &pieces, whose.as_deref(), &scratch)?;
                result.sizes.extend(rows);
            }
            vocabularies.push(parts);
        }
    }
    console.phase("other programs on everything", None);
    result.sizes.extend(peers::solid(&args.peers, &sample.bytes, &scratch)?);
    console.finish();
    report::print(path, &sample, &result)?;
    if let Some(folder) = &args.output {
        report::write(folder, &result)?;
    }
    Ok(Outcome::Done)
}

/// A model on chunks of every length, with c found in every way.
fn measure_model(name: &str, sample: &Sample, console: &Console, result: &mut Measured) -> Result<Neural> {
    let found = registry::by_name(name)?;
    let plain = Neural::new(found.model.clone());
    let learns = found.model.config().latent.is_some();
    let compressor = if learns { models::compressor(&found)? } else { None };
    let shown = shown(&plain);
    if learns && compressor.is_none() {
        console.say(&format!("{shown} has no compressor beside it: c is what its prior holds likely"));
    }
    let ways = if learns { &WAYS[..] } else { &WAYS[..1] };
    for length in Length::ALL {
        let pieces = sample.cut(found.model.vocabulary(), length);
        let mut usual = None;
        for &(way, effort) in ways {
            crate::cli::bench::args::stop_if(console)?;
            console.phase(&format!("{shown}, {way}, chunks of {length}"), None);
            let program = if learns { format!("{shown}, {way}") } else { shown.clone() };
            let coder = plain.clone().searching(compressor.clone(), effort);
            let Some((row, payloads)) = measure::pack(program, &coder, length, &pieces) else {
                console.say(&format!("{shown} takes no chunks of {length}"));
                break;
            };
            if effort <= USUAL {
                usual = Some((row.pack, payloads));
            }
            result.sizes.push(row);
        }
        if let Some((pack, payloads)) = usual {
            crate::cli::bench::args::stop_if(console)?;
            console.phase(&format!("{shown}, reading chunks of {length}"), None);
            result.speeds.push(measure::unpack(&shown, &plain, length, &pieces, &payloads, pack)?);
        }
    }
    Ok(plain)
}

fn shown(model: &Neural) -> String {
    escape(model.model().config().name.as_bytes())
}
