//! Files made to keep `salvage` busy. It looks for frames anywhere, so frames may lie inside one
//! another, each to be read to the end of the file. `salvage` must give up in less than a second
//! and with less than 64 MiB.

mod forge;
mod guard;

use std::io::Write;
use std::path::Path;

use forge::{Forged, ForgedGroup, file, stored};
use guard::guarded;
use s3a::archive::OpenOptions;
use s3a::archive::salvage::recover::salvage;
use s3a::error::{Error, Result};
use s3a::wire::frame::{FrameKind, MARKER, write_frame};
use s3a::wire::header::HEADER_LEN;

/// Length of each file.
const LEN: usize = 1 << 20;

fn open(bytes: &[u8]) -> Result<usize> {
    let mut on_disk = tempfile::tempfile().unwrap();
    on_disk.write_all(bytes).unwrap();
    let (archive, _) = salvage(on_disk, Path::new("hostile"), &OpenOptions::default())?;
    Ok(archive.entries().len())
}

/// The bytes of an archive of one file, of its header alone, and of its group with damaged entries.
fn good() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let group = || ForgedGroup::new(vec![file("f", 4096, &[(0, 0, 4096)])], vec![stored(4096)]);
    let whole = Forged::new(vec![group()]).bytes();
    let mut broken = group();
    broken.entries_bytes = Some(Box::new(|bytes| bytes.truncate(3)));
    let mut group = Forged::new(vec![broken]).bytes().split_off(HEADER_LEN);
    // The index is left out, and so is the table, whose search is meant to take long.
    let table = group.windows(5).position(|five| five == [&MARKER[..], &[5]].concat()).unwrap();
    group.truncate(table);
    (whole.clone(), whole[..HEADER_LEN].to_vec(), group)
}

/// The head of a frame of this kind that claims content of this length.
fn head(kind: u8, len: usize) -> Vec<u8> {
    [&MARKER[..], &[kind, 0], &(len as u32).to_le_bytes()].concat()
}

fn fill(mut start: Vec<u8>, mut next: impl FnMut(usize) -> Vec<u8>) -> Vec<u8> {
    while start.len() < LEN {
        start.extend(next(LEN - start.len()));
    }
    start
}

#[test]
fn frames_inside_one_another_do_not_keep_it_busy() {
    let (whole, header, group) = good();
    assert_eq!(open(&whole).unwrap(), 1, "what the cases begin with is good");
    assert_eq!(open(&fill(whole.clone(), |_| MARKER.to_vec())).unwrap(), 1, "markers alone cost little");

    // Sound frames of entries, each around all frames before it, so that each frame is read, and
    // then its content.
    let mut nested = vec![0; 64];
    while nested.len() < LEN / 8 {
        let mut around = Vec::new();
        // Incompressible bytes, since in packed frames the frames inside could not be seen.
        let salt = blake3::hash(&nested.len().to_le_bytes());
        write_frame(FrameKind::Entries, &[salt.as_bytes(), &nested[..]].concat(), &mut around).unwrap();
        nested = around;
    }
    let nested = [&header[..], &nested[..]].concat();

    for (name, bytes) in [
        (
            "heads of tables that reach to the end",
            fill(whole.clone(), |left| head(5, left.saturating_sub(14))),
        ),
        ("heads of indexes that reach half as far", fill(whole, |left| head(6, left / 2))),
        ("groups without entries or table", fill(header.clone(), |_| group.clone())),
        ("groups without entries before heads of tables", {
            let start = [&header[..], &group.repeat(LEN / 2 / group.len())].concat();
            fill(start, |left| head(5, left.saturating_sub(14)))
        }),
        ("frames of entries inside one another", nested),
    ] {
        match guarded(name, "salvage", || open(&bytes)) {
            Ok(_) | Err(Error::Limit { .. }) => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }
}
