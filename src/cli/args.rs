//! Flags that several commands share, and values that need reading.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::archive::byte_size;
use crate::archive::gitignore::slip;
use crate::archive::selection::Selection;
use crate::codec::choice::Choice;
use crate::error::{Error, Result};
use crate::setup::budget::Budget;

/// More threads than any machine has use for.
const MOST_THREADS: usize = 512;

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Threads to work with; 0 takes all cores
    #[arg(
        short = 'j',
        long,
        global = true,
        value_name = "N",
        default_value_t = 0,
        env = "S3A_THREADS",
        hide_env_values = true
    )]
    pub threads: usize,
    /// Where models run
    #[arg(
        long,
        global = true,
        value_name = "auto|cpu|cuda[:N]",
        default_value = "auto",
        env = "S3A_DEVICE",
        hide_env_values = true
    )]
    pub device: String,
    /// How progress is shown: a bar on a terminal, never, or as lines
    #[arg(long, global = true, value_enum, default_value_t, env = "S3A_PROGRESS", hide_env_values = true)]
    pub progress: ProgressMode,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print each entry
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    #[default]
    Auto,
    None,
    Plain,
}

impl Global {
    /// Checks what models are to run on, without asking for it.
    pub fn check_device(&self) -> Result<Choice> {
        Choice::parse(&self.device)
    }

    /// Sets the number of workers.
    pub fn start_threads(&self) -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.min(MOST_THREADS)).build_global();
        pool.map_err(|e| Error::Usage(format!("{} threads: {e}", self.threads)))
    }
}

/// A budget of learning: `default`, tokens with a suffix as of sizes in powers of ten, seconds or minutes.
pub(crate) fn budget(text: &str) -> std::result::Result<Budget, String> {
    let wrong = || format!("{text:?} is neither tokens (20m), nor seconds (90s), nor minutes (5min)");
    if text == "default" {
        return Ok(Budget::Default);
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let times = |unit: u64| number.checked_mul(unit).filter(|&all| all > 0).ok_or_else(wrong);
    match &text[digits.len()..].to_ascii_lowercase()[..] {
        "s" => times(1).map(Budget::Seconds),
        "min" => times(60).map(Budget::Seconds),
        "" => times(1).map(Budget::Tokens),
        "k" => times(1000).map(Budget::Tokens),
        "m" => times(1_000_000).map(Budget::Tokens),
        "g" => times(1_000_000_000).map(Budget::Tokens),
        _ => Err(wrong()),
    }
}

/// Which entries take part.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Patterns {
    /// Take only what matches, in the style of gitignore; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave out what matches, in the style of gitignore; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Leave out what matches a line of this file; may be repeated
    #[arg(long, value_name = "FILE")]
    pub exclude_from: Vec<PathBuf>,
}

impl Patterns {
    /// Reads all patterns.
    pub fn selection(&self) -> Result<Selection> {
        // In a file git's reading of them holds.
        for pattern in self.include.iter().chain(&self.exclude) {
            if let Some(why) = slip(pattern) {
                return Err(Error::Usage(format!("pattern {pattern:?} {why}")));
            }
        }
        let mut exclude = self.exclude.clone();
        for file in &self.exclude_from {
            let lines = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
            // Some editors begin a file with a mark of its encoding, which is no part of the first pattern.
            let lines = lines.strip_prefix('\u{feff}').unwrap_or(&lines);
            exclude.extend(lines.lines().map(str::to_owned));
        }
        Selection::new(&self.include, &exclude)
    }
}

/// A number of bytes with an optional suffix k, m, g or t, in powers of 1,024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    byte_size::parse(text).ok_or_else(|| format!("{text:?} is no size such as 16k, 64KiB or 1m"))
}

/// Size of chunks: a multiple of 4 KiB is best, anything from 4 KiB to 1 MiB is possible.
pub(crate) fn chunk_size(text: &str) -> Result<u32, String> {
    let bytes = size(text)?;
    let fits = u32::try_from(bytes).ok().filter(|bytes| (4 << 10..=1 << 20).contains(bytes));
    fits.ok_or_else(|| format!("chunks have 4k to 1m bytes, not {text}"))
}

/// Raw bytes of a group: a chunk at least, 64 MiB at most.
pub(crate) fn group_size(text: &str) -> Result<u32, String> {
    let bytes = size(text)?;
    let fits = u32::try_from(bytes).ok().filter(|bytes| (4 << 10..=64 << 20).contains(bytes));
    fits.ok_or_else(|| format!("groups have 4k to 64m bytes, not {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_suffix() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("16k", 16 << 10),
            ("16KiB", 16 << 10),
            ("64KB", 64 << 10),
            ("1M", 1 << 20),
            ("2t", 2 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "k", "1.5m", "-1", "1x", "99999999999t"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(chunk_size("1k").is_err());
        assert!(chunk_size("2m").is_err());
        assert_eq!(chunk_size("1m"), Ok(1 << 20));
    }
}
