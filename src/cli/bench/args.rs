//! The flags of `s3a bench`.

use std::path::PathBuf;

use crate::archive::observer::Observer;
use crate::cli::args::{chunk_size, size};
use crate::cli::console::Console;
use crate::error::{Error, Result};

/// Measure sizes, speeds and cold reads on a folder or file, beside other programs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to pack
    #[arg(value_name = "PATH", required_unless_present_any = ["paper", "enwik8"])]
    pub path: Option<PathBuf>,
    #[command(flatten)]
    pub setting: Setting,
    /// Write CSV files and SVG plots to this folder
    #[arg(short, long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// Levels to measure, separated by commas
    #[arg(short, long, value_name = "1..9", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=9), default_value = "1,3,5,7")]
    pub levels: Vec<u8>,
    /// Models to pack with in place of those of the levels
    #[arg(long, value_name = "NAME|FILE", value_delimiter = ',')]
    pub models: Vec<String>,
    /// Chunk sizes to measure in place of those of the levels
    #[arg(long, value_name = "SIZE", value_delimiter = ',', value_parser = chunk_size, default_value = "4k,16k,64k")]
    pub chunk_sizes: Vec<u32>,
    /// Other programs to run, `all` that are installed or `none`
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "all")]
    pub peers: Vec<String>,
    /// Random reads of 4 KiB from each archive, with nothing in the cache
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub reads: usize,
    /// Folder for archives while they are measured [default: the system's]
    #[arg(long, value_name = "FOLDER")]
    pub scratch: Option<PathBuf>,
}

/// What the paper measures.
#[derive(Debug, clap::Args)]
pub(crate) struct Setting {
    /// Measure short independent chunks, as the paper does, on a folder or file
    #[arg(long, value_name = "PATH", conflicts_with = "path")]
    pub paper: Option<PathBuf>,
    /// Most bytes to measure them on, in stretches of 16 KiB spread evenly
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1m")]
    pub sample: u64,
    /// Pack the file enwik8, after a check that it is, and compare with the paper's table
    #[arg(long, value_name = "FILE", conflicts_with_all = ["path", "paper"])]
    pub enwik8: Option<PathBuf>,
}

/// The error of an interrupt, if there was one.
pub(crate) fn stop_if(console: &Console) -> Result<()> {
    if console.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}
