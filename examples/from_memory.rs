//! Writes an archive of data in the program's memory, entry by entry, to standard output.
//!
//!     cargo run --release --example from_memory > numbers.s3a

use std::error::Error;

use s3a::{Content, Entry, Kind, Timestamp, Writer, WriterOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let mut writer = Writer::create(std::io::stdout().lock(), WriterOptions::level(5)?)?;
    for n in 1..=9u64 {
        let text = format!("{n} times {n} is {}\n", n * n);
        let entry = Entry {
            path: format!("squares/{n}.txt").into_bytes(),
            kind: Kind::File { size: text.len() as u64, extents: Vec::new(), hash: [0; 16] },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp { secs: 1_000_000_000, nanos: 0 },
            xattrs: Vec::new(),
        };
        writer.add(entry, Content::Data(&mut text.as_bytes()))?;
    }
    let _ = writer.finish()?;
    Ok(())
}
