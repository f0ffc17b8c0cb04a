//! Packs a directory at a chosen level, and prints what was packed.
//!
//!     cargo run --release --example pack -- DIRECTORY ARCHIVE [LEVEL]

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(directory), Some(archive)) = (args.next(), args.next()) else {
        return Err("usage: pack DIRECTORY ARCHIVE [LEVEL]".into());
    };
    let level = args.next().map_or(Ok(5), |level| level.parse())?;
    let stats = s3a::pack_with(directory, archive, s3a::WriterOptions::level(level)?)?;
    println!("{} entries, {} bytes to {}", stats.entries, stats.file_bytes, stats.archive_len);
    Ok(())
}
