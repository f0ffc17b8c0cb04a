//! Other programs on the same bytes: what a user would pick instead.
//!
//! Compressors of streams get a tar of the tree, archivers the tree itself. Unpacking goes to
//! nowhere where the program can, else to a folder. A program that is not installed is named so.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::own::speed;
use super::report;
use super::row::Row;
use super::tree::{Scratch, Tree};
use crate::error::{Error, Result};
use crate::wire::zstd_raw::{Dictionary, PackDictionary, Packer, train, unpack};

/// Zstd's library on blocks, with a dictionary trained on them; always there.
const BLOCKS: &str = "zstd-blocks";
/// Bytes of its dictionary, and of the blocks that it is trained on at most.
const DICTIONARY: usize = 112_640;
const SAMPLES: usize = 16 << 20;
/// Bytes that are unpacked again to measure how fast that is.
const UNPACKED: usize = 64 << 20;

/// A program, and how it packs and unpacks. In the arguments, `TAR` stands for the tar of the tree,
/// `TREE` for the tree, `OUT` for what is packed and `DIR` for a new folder.
pub(crate) struct Peer {
    pub name: &'static str,
    access: Option<u64>,
    pack: &'static [&'static str],
    unpack: &'static [&'static str],
}

const PEERS: [Peer; 9] = [
    Peer {
        name: "gzip -9",
        access: None,
        pack: &["gzip", "-9", "-c", "TAR"],
        unpack: &["gzip", "-dc", "OUT"],
    },
    Peer { name: "xz -9e", access: None, pack: &["xz", "-9e", "-c", "TAR"], unpack: &["xz", "-dc", "OUT"] },
    Peer {
        name: "zstd -19",
        access: None,
        pack: &["zstd", "-q", "-19", "-c", "TAR"],
        unpack: &["zstd", "-q", "-dc", "OUT"],
    },
    Peer {
        name: "zstd -22 long",
        access: None,
        pack: &["zstd", "-q", "-22", "--ultra", "--long=27", "-c", "TAR"],
        unpack: &["zstd", "-q", "--long=27", "-dc", "OUT"],
    },
    Peer {
        name: "7z ppmd",
        access: None,
        pack: &["7z", "a", "-t7z", "-m0=PPMd:o=16:mem=512m", "-ms=on", "OUT", "TREE"],
        unpack: &["7z", "e", "-so", "OUT"],
    },
    Peer {
        name: "bzip3",
        access: None,
        pack: &["bzip3", "-b", "64", "-c", "TAR"],
        unpack: &["bzip3", "-d", "-c", "OUT"],
    },
    Peer {
        name: "zpaq -m5",
        access: None,
        pack: &["zpaq", "a", "OUT", "TREE", "-m5"],
        unpack: &["zpaq", "x", "OUT", "-to", "DIR"],
    },
    Peer {
        name: "SquashFS xz, 128 KiB",
        access: Some(128 << 10),
        pack: &["mksquashfs", "TREE", "OUT", "-comp", "xz", "-b", "131072", "-quiet", "-no-progress"],
        unpack: &["unsquashfs", "-q", "-n", "-d", "DIR", "OUT"],
    },
    Peer {
        name: "SquashFS xz, 1 MiB",
        access: Some(1 << 20),
        pack: &["mksquashfs", "TREE", "OUT", "-comp", "xz", "-b", "1048576", "-quiet", "-no-progress"],
        unpack: &["unsquashfs", "-q", "-n", "-d", "DIR", "OUT"],
    },
];

impl Peer {
    fn program(&self) -> &'static str {
        self.pack.first().copied().unwrap_or_default()
    }
}

/// Refuses names that are no program's.
pub(crate) fn check(names: &[String]) -> Result<()> {
    let known = |name: &str| {
        ["all", "none", BLOCKS].contains(&name) || PEERS.iter().any(|peer| peer.program() == name)
    };
    match names.iter().find(|name| !known(name)) {
        Some(name) => {
            let mut all: Vec<&str> = PEERS.iter().map(Peer::program).collect();
            all.dedup();
            Err(Error::Usage(format!("{name:?} is none of all, none, {BLOCKS}, {}", all.join(", "))))
        }
        None => Ok(()),
    }
}

fn wants(names: &[String], program: &str) -> bool {
    names.iter().any(|name| name == "all" || name == program)
}

pub(crate) fn wants_blocks(names: &[String]) -> bool {
    wants(names, BLOCKS)
}

pub(crate) fn chosen(names: &[String]) -> impl Iterator<Item = Peer> {
    let names = names.to_vec();
    PEERS.into_iter().filter(move |peer| wants(&names, peer.program()))
}

/// Runs a program; nothing if it, or the tar that it needs, is not installed.
pub(crate) fn measure(peer: &Peer, tree: &Tree, scratch: &Scratch) -> Result<Option<Row>> {
    let (tar, out, dir) = (scratch.path("tree.tar"), scratch.path("peer.out"), scratch.path("peer.dir"));
    if peer.pack.contains(&"TAR") && !tar.exists() && !make_tar(&tree.path, &tar)? {
        return Ok(None);
    }
    remove(&out);
    let place = |arg: &&str| match *arg {
        "TAR" => tar.clone().into_os_string(),
        "TREE" => tree.path.clone().into_os_string(),
        "OUT" => out.clone().into_os_string(),
        "DIR" => dir.clone().into_os_string(),
        other => other.into(),
    };
    let pack: Vec<OsString> = peer.pack.iter().map(place).collect();
    // What is told to name its output writes it there; the others to standard output.
    let to = if peer.pack.contains(&"OUT") { None } else { Some(out.as_path()) };
    let Some(packed) = run(&pack, to)? else { return Ok(None) };
    let unpack: Vec<OsString> = peer.unpack.iter().map(place).collect();
    let unpacked = run(&unpack, None)?;
    let bytes = std::fs::metadata(&out).map_err(|e| Error::io(&out, e))?.len();
    remove(&out);
    remove(&dir);
    Ok(unpacked.map(|unpacked| Row {
        program: peer.name.into(),
        access: peer.access,
        bytes,
        bits_per_byte: bytes as f64 * 8.0 / tree.bytes as f64,
        pack: speed(tree.bytes, packed),
        unpack: speed(tree.bytes, unpacked),
        own: false,
    }))
}

fn remove(path: &Path) {
    let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}

fn make_tar(path: &Path, tar: &Path) -> Result<bool> {
    let (folder, name) = if path.is_dir() {
        (path, ".".into())
    } else {
        (path.parent().unwrap_or(path), path.file_name().unwrap_or_default().to_owned())
    };
    let mut args: Vec<OsString> =
        ["tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-cf"]
            .map(OsString::from)
            .to_vec();
    args.extend([tar.into(), "-C".into(), folder.into(), name]);
    Ok(run(&args, None)?.is_some())
}

/// How long a program took; nothing if it is not installed.
fn run(args: &[OsString], to: Option<&Path>) -> Result<Option<Duration>> {
    let Some((program, args)) = args.split_first() else { return Ok(None) };
    let output = match to {
        Some(path) => File::create(path).map_err(|e| Error::io(path, e))?.into(),
        None => Stdio::null(),
    };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(output).stderr(Stdio::null());
    let start = Instant::now();
    match command.status() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(Path::new(program), e)),
        Ok(status) if status.success() => Ok(Some(start.elapsed())),
        Ok(status) => {
            let failed = std::io::Error::other(format!("it ended with {status}"));
            Err(Error::io(Path::new(program), failed))
        }
    }
}

/// zstd -19 on blocks with their own dictionary, as the library does it.
pub(crate) fn zstd_blocks(tree: &Tree, len: usize) -> Result<Option<Row>> {
    let start = Instant::now();
    let step = (tree.bytes / SAMPLES as u64 + 1) as usize;
    let (mut samples, mut lens, mut nth) = (Vec::new(), Vec::new(), 0);
    tree.blocks(len, |block| {
        if nth % step == 0 {
            samples.extend_from_slice(block);
            lens.push(block.len());
        }
        nth += 1;
    })?;
    let Some(plain) = train(&samples, &lens, DICTIONARY) else { return Ok(None) };
    drop(samples);
    let (Some(to_pack), Some(to_unpack)) = (PackDictionary::new(&plain, 19), Dictionary::new(&plain)) else {
        return Ok(None);
    };
    let mut packer = Packer::new(19, Some(&to_pack))?;
    let (mut bytes, mut kept, mut raw) = (plain.len() as u64, Vec::new(), 0);
    tree.blocks(len, |block| {
        let Ok(packed) = packer.pack(block) else { return };
        bytes += packed.len().min(block.len()) as u64;
        if raw < UNPACKED {
            raw += block.len();
            kept.push((packed, block.len()));
        }
    })?;
    let packed = start.elapsed();
    let start = Instant::now();
    for (packed, len) in &kept {
        if unpack(packed, Some(&to_unpack), *len).is_none() {
            return Err(Error::Internal("zstd does not unpack what it packed"));
        }
    }
    let unpacked = start.elapsed();
    Ok(Some(Row {
        program: format!("zstd -19 with a dictionary, {}", report::size(len as u64)),
        access: Some(len as u64),
        bytes,
        bits_per_byte: bytes as f64 * 8.0 / tree.bytes as f64,
        pack: speed(tree.bytes, packed),
        unpack: speed(raw as u64, unpacked),
        own: false,
    }))
}
