//! Reads a range of one file of an archive, and decodes only the chunks that the range needs.
//!
//!     cargo run --release --example random_read -- ARCHIVE PATH START LENGTH

use std::error::Error;
use std::io::Write;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [archive, path, start, len] = &args[..] else {
        return Err("usage: random_read ARCHIVE PATH START LENGTH".into());
    };
    let start: u64 = start.parse()?;
    let bytes = s3a::open(archive)?.read_range(path, start..start + len.parse::<u64>()?)?;
    std::io::stdout().write_all(&bytes)?;
    Ok(())
}
