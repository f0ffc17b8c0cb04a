//! `s3a bench`: sizes, speeds and cold reads of levels and chunk sizes beside other programs, in one run.

mod enwik8;
mod own;
mod paper;
mod peers;
mod plot;
mod report;
mod tree;

use std::path::PathBuf;

use super::args::{Global, chunk_size};
use super::console::Console;
use super::{Outcome, levels, models};
use crate::archive::events::Observer;
use crate::error::{Error, Result};
use own::Setup;
use tree::{Scratch, Tree};

/// Measure sizes, speeds and cold reads on a folder or file, beside other programs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to pack
    #[arg(value_name = "PATH", required_unless_present_any = ["paper", "enwik8"])]
    path: Option<PathBuf>,
    #[command(flatten)]
    setting: paper::Setting,
    /// Write CSV files and SVG plots to this folder
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Levels to measure, separated by commas
    #[arg(short, long, value_name = "1..9", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=9), default_value = "1,3,5,7")]
    levels: Vec<u8>,
    /// Models to pack with in place of those of the levels
    #[arg(long, value_name = "NAME|FILE", value_delimiter = ',')]
    models: Vec<String>,
    /// Chunk sizes to measure in place of those of the levels
    #[arg(long, value_name = "SIZE", value_delimiter = ',', value_parser = chunk_size, default_value = "4k,16k,64k")]
    chunk_sizes: Vec<u32>,
    /// Other programs to run, `all` that are installed or `none`
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "all")]
    peers: Vec<String>,
    /// Random reads of 4 KiB from each archive, with nothing in the cache
    #[arg(long, value_name = "N", default_value_t = 200)]
    reads: usize,
    /// Folder for archives while they are measured [default: the system's]
    #[arg(long, value_name = "FOLDER")]
    scratch: Option<PathBuf>,
}

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

fn stop_if(console: &Console) -> Result<()> {
    if console.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Every level, with every model, at every chunk size; what comes to the same once.
fn setups(args: &Args, global: &Global, console: &Console) -> Result<Vec<Setup>> {
    let mut setups: Vec<Setup> = Vec::new();
    for &number in &args.levels {
        let level = levels::level(number);
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

/// One line of the result.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub program: String,
    /// Bytes that a read of one byte decodes at least; all without.
    pub access: Option<u64>,
    pub bytes: u64,
    pub bits_per_byte: f64,
    /// Megabytes a second.
    pub pack: f64,
    pub unpack: f64,
    /// It is this program's.
    pub own: bool,
}

/// Cold reads from one archive.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    pub program: String,
    pub chunk_size: u32,
    /// Microseconds, ascending.
    pub micros: Vec<u64>,
    /// Mean number of chunks decoded for a read.
    pub decoded: f64,
}
