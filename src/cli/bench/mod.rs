//! `s3a bench`: sizes, speeds and cold reads of levels and chunk sizes beside other programs, in one run.

pub(crate) mod args;
mod enwik8;
mod own;
mod paper;
mod peers;
mod plot;
mod report;
mod row;
mod tree;

use args::{Args, stop_if};
use own::Setup;
use tree::{Scratch, Tree};

use crate::archive::observer::Observer;
use crate::cli::args::Global;
use crate::cli::console::Console;
use crate::cli::outcome::Outcome;
use crate::error::{Error, Result};
use crate::setup::{level, models};

pub(crate) fn run(args: &Args, global: &Global, console: &Console) -> Result<Outcome> {
    let path = match (&args.setting.paper, &args.setting.enwik8, &args.path) {
        (Some(path), _, _) => return paper::run(path, args, console),
        (_, Some(path), _) => return enwik8::run(path, args, global, console),
        (_, _, Some(path)) => path,
        _ => return Err(Error::Usage("nothing to measure was named".into())),
    };
    let tree = Tree::scan(path, console)?;
    if tree.bytes == 0 {
        return Err(Error::Usage(format!("{} holds no bytes to measure", path.display())));
    }
    peers::check(&args.peers)?;
    let scratch = Scratch::new(args.scratch.as_deref())?;
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let mut rows = Vec::new();
    let mut reads = Vec::new();
    for setup in setups(args, global, console)? {
        stop_if(console)?;
        console
            .phase(&format!("packing with {}, {}", setup.name, report::size(setup.chunk_size.into())), None);
        let (row, cold) = own::measure(&setup, &tree, &scratch, args.reads)?;
        rows.push(row);
        reads.extend(cold);
    }
    let mut absent = Vec::new();
    for peer in peers::chosen(&args.peers) {
        stop_if(console)?;
        console.phase(&format!("running {}", peer.name), None);
        match peers::measure(&peer, &tree, &scratch)? {
            Some(row) => rows.push(row),
            None => absent.push(peer.name),
        }
    }
    if peers::wants_blocks(&args.peers) {
        for &size in &args.chunk_sizes {
            stop_if(console)?;
            rows.extend(peers::zstd_blocks(&tree, size as usize)?);
        }
    }
    console.finish();
    report::print(&tree, &rows, &reads, &absent)?;
    if let Some(folder) = &args.output {
        report::write(folder, &rows, &reads)?;
        plot::write(folder, &rows, &reads)?;
    }
    Ok(Outcome::Done)
}

/// Every level, with every model, at every chunk size; what comes to the same once.
fn setups(args: &Args, global: &Global, console: &Console) -> Result<Vec<Setup>> {
    let mut setups: Vec<Setup> = Vec::new();
    for &number in &args.levels {
        let level = level::level(number);
        let named: Vec<Vec<&str>> = if args.models.is_empty() {
            vec![level.models.to_vec()]
        } else {
            args.models.iter().map(|name| vec![name.as_str()]).collect()
        };
        for names in named {
            let chosen = models::for_packing(&names, false, usize::from(level.effort).into())?;
            if let Some(missing) = &chosen.missing {
                console.say(missing);
            }
            for &chunk_size in &args.chunk_sizes {
                setups.push(Setup::new(number, level, &chosen, chunk_size, global.threads));
            }
        }
    }
    Ok(setups)
}
