//! Lists an archive that arrives through a pipe, with the length of each entry's own data.
//!
//!     cat ARCHIVE | cargo run --release --example stream

use std::error::Error;

use s3a::{Event, OpenOptions, StreamReader};

fn main() -> Result<(), Box<dyn Error>> {
    let mut stream = StreamReader::open(std::io::stdin().lock(), &OpenOptions::default())?;
    let models =
        s3a::models_for(stream.models(), |number| stream.embedded_model(number).map(<[u8]>::to_vec))?;
    stream.set_models(models);
    let mut data = 0;
    while let Some(event) = stream.next_event()? {
        match event {
            Event::Entry(_, entry) => println!("{}", String::from_utf8_lossy(&entry.path)),
            Event::Data { bytes, .. } => data += bytes.len(),
            // A later generation may name more models.
            Event::FileEnd { .. } | Event::Models => {}
        }
    }
    println!("{data} bytes");
    Ok(())
}
