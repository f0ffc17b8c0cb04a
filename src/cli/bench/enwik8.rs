//! The paper's Table 1 for whoever has enwik8: the file is checked, packed, read again and compared.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha1::{Digest, Sha1};

use super::super::args::Global;
use super::super::console::Console;
use super::super::output::{Out, hex};
use super::super::{Outcome, levels, models};
use super::own::{self, Setup};
use super::report::{quoted, save};
use super::tree::{Scratch, Tree};
use crate::archive::events::Observer;
use crate::error::{Error, Result};
use crate::model::registry;

const LEN: u64 = 100_000_000;
const SHA1: &str = "57b8363b814821dc9d47aa4d41f58733519076b2";

/// What the paper reports: bytes of the compressed file, models not among them.
const PAPER: [(&str, u64); 4] =
    [("NNCP", 14_915_298), ("Seq2Seq2Seq (the paper)", 24_141_013), ("XZ", 24_865_244), ("GZIP", 36_445_248)];

pub(super) fn run(path: &Path, args: &super::Args, global: &Global, console: &Console) -> Result<Outcome> {
    console.phase("checking the file", Some(LEN));
    check(path, console)?;
    let tree = Tree::scan(path, console)?;
    let scratch = Scratch::new(args.scratch.as_deref())?;
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let level = levels::level(levels::DEFAULT);
    let named: Vec<Vec<&str>> = if args.models.is_empty() {
        vec![level.models.to_vec()]
    } else {
        args.models.iter().map(|name| vec![name.as_str()]).collect()
    };
    let mut rows: Vec<(String, u64)> = PAPER.map(|(name, bytes)| (name.into(), bytes)).to_vec();
    for names in named {
        super::stop_if(console)?;
        let chosen = models::for_packing(&names, false, level.effort)?;
        let setup = Setup::new(levels::DEFAULT, level, &chosen, level.chunk_size, global.threads);
        console.phase(&format!("packing and reading with {}", setup.name), None);
        let (row, _) = own::measure(&setup, &tree, &scratch, 0)?;
        let found = names.iter().find_map(|name| registry::by_name(name).ok());
        let model = found.filter(|_| !chosen.zstd_alone).map(|found| registry::file_bytes(&found));
        let model = model.transpose()?.map_or(0, |file| file.len() as u64);
        rows.push((format!("{} with its model", row.program), row.bytes + model));
        rows.push((row.program, row.bytes));
    }
    console.finish();
    rows.sort_by_key(|(_, bytes)| *bytes);
    let mut out = Out::new();
    out.line(format_args!("{:<44} {:>12} {:>7} {:>10}", "enwik8", "bytes", "ratio", "bits/byte"))?;
    let mut csv = String::from("program,bytes,ratio,bits_per_byte\n");
    for (name, bytes) in &rows {
        let (ratio, bits) = (LEN as f64 / *bytes as f64, *bytes as f64 * 8.0 / LEN as f64);
        out.line(format_args!("{name:<44} {bytes:>12} {ratio:>7.3} {bits:>10.4}"))?;
        csv += &format!("{},{bytes},{ratio:.3},{bits:.4}\n", quoted(name));
    }
    out.finish()?;
    if let Some(folder) = &args.output {
        save(folder, "enwik8.csv", &csv)?;
    }
    Ok(Outcome::Done)
}

/// Refuses every file but enwik8.
fn check(path: &Path, console: &Console) -> Result<()> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let other = |what: String| Error::Usage(format!("{} is not enwik8: {what}", path.display()));
    if len != LEN {
        return Err(other(format!("it has {len} bytes, not {LEN}")));
    }
    let mut hash = Sha1::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let got = file.read(&mut block).map_err(|e| Error::io(path, e))?;
        let Some(part) = block.get(..got).filter(|part| !part.is_empty()) else { break };
        super::stop_if(console)?;
        console.advanced(got as u64);
        hash.update(part);
    }
    let hash = hex(&hash.finalize());
    if hash == SHA1 { Ok(()) } else { Err(other(format!("its SHA-1 is {hash}, not {SHA1}"))) }
}
