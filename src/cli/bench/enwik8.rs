//! The paper's Table 1 for whoever has enwik8: the file is checked, packed, read again and compared.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha1::{Digest, Sha1};

use super::own;
use super::own::Setup;
use super::report::{quoted, save};
use super::tree::{Scratch, Tree};
use crate::archive::observer::Observer;
use crate::cli::args::Global;
use crate::cli::console::Console;
use crate::cli::outcome::Outcome;
use crate::cli::output::{Out, hex};
use crate::error::{Error, Result};
use crate::model::registry;
use crate::setup::{level, models};

/// A file that is known by its length and hash.
struct Known {
    len: u64,
    sha1: &'static str,
}

const ENWIK8: Known = Known { len: 100_000_000, sha1: "57b8363b814821dc9d47aa4d41f58733519076b2" };

/// What the paper reports: bytes of the compressed file, models not among them.
const PAPER: [(&str, u64); 4] =
    [("NNCP", 14_915_298), ("Seq2Seq2Seq (the paper)", 24_141_013), ("XZ", 24_865_244), ("GZIP", 36_445_248)];

pub(crate) fn run(
    path: &Path,
    args: &super::args::Args,
    global: &Global,
    console: &Console,
) -> Result<Outcome> {
    console.phase("checking the file", Some(ENWIK8.len));
    check(path, console, &ENWIK8)?;
    table(path, args, global, console)
}

/// Packs the file with each model, reads it again, and puts its size beside those that the paper reports.
fn table(path: &Path, args: &super::args::Args, global: &Global, console: &Console) -> Result<Outcome> {
    let tree = Tree::scan(path, console)?;
    let len = tree.bytes as f64;
    let scratch = Scratch::new(args.scratch.as_deref())?;
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let level = level::level(level::DEFAULT);
    let named: Vec<Vec<&str>> = if args.models.is_empty() {
        vec![level.models.to_vec()]
    } else {
        args.models.iter().map(|name| vec![name.as_str()]).collect()
    };
    let mut rows: Vec<(String, u64)> = PAPER.map(|(name, bytes)| (name.into(), bytes)).to_vec();
    for names in named {
        super::args::stop_if(console)?;
        let chosen = models::for_packing(&names, false, usize::from(level.effort).into())?;
        let setup = Setup::new(level::DEFAULT, level, &chosen, level.chunk_size, global.threads);
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
        let (ratio, bits) = (len / *bytes as f64, *bytes as f64 * 8.0 / len);
        out.line(format_args!("{name:<44} {bytes:>12} {ratio:>7.3} {bits:>10.4}"))?;
        csv += &format!("{},{bytes},{ratio:.3},{bits:.4}\n", quoted(name));
    }
    out.finish()?;
    if let Some(folder) = &args.output {
        save(folder, "enwik8.csv", &csv)?;
    }
    Ok(Outcome::Done)
}

/// Refuses every other file.
fn check(path: &Path, console: &Console, known: &Known) -> Result<()> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let other = |what: String| Error::Usage(format!("{} is not enwik8: {what}", path.display()));
    if len != known.len {
        return Err(other(format!("it has {len} bytes, not {}", known.len)));
    }
    let mut hash = Sha1::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let got = file.read(&mut block).map_err(|e| Error::io(path, e))?;
        let Some(part) = block.get(..got).filter(|part| !part.is_empty()) else { break };
        super::args::stop_if(console)?;
        console.advanced(got as u64);
        hash.update(part);
    }
    let hash = hex(&hash.finalize());
    if hash == known.sha1 { Ok(()) } else { Err(other(format!("its SHA-1 is {hash}, not {}", known.sha1))) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: super::super::Args,
        #[command(flatten)]
        global: Global,
    }

    /// All of it but the length and the hash of enwik8 itself, which no one can keep in a repository.
    #[test]
    fn a_file_that_is_the_right_one_is_packed_and_put_in_the_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        let text = include_bytes!("enwik8.rs");
        std::fs::write(&path, text).unwrap();
        let sha1 = hex(&Sha1::digest(text)).leak();
        let line = Line::parse_from([
            "bench".as_ref(),
            "--enwik8".as_ref(),
            path.as_os_str(),
            "--models".as_ref(),
            "nano".as_ref(),
            "--output".as_ref(),
            dir.path().join("out").as_os_str(),
            "--quiet".as_ref(),
        ]);
        let console = Console::new(&line.global);
        check(&path, &console, &Known { len: text.len() as u64, sha1 }).unwrap();
        check(&path, &console, &Known { len: text.len() as u64, sha1: ENWIK8.sha1 }).unwrap_err();
        table(&path, &line.args, &line.global, &console).unwrap();
        let csv = std::fs::read_to_string(dir.path().join("out/enwik8.csv")).unwrap();
        let bytes = |program: &str| {
            let row = csv.lines().find(|row| row.starts_with(program)).expect(program);
            row.split(',').nth(1).unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(csv.lines().count(), 1 + PAPER.len() + 2, "{csv}");
        assert!(bytes("s3a") > 500 && bytes("s3a") < text.len() as u64 / 2, "{csv}");
        assert_eq!(bytes("XZ"), 24_865_244);
    }
}
