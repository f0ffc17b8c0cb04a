//! Lists of models and the models that an archive carries. Both verifying an archive and reading it
//! from a pipe require them in the same order, and salvage keeps each model in its place when
//! others are lost.

mod forge;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use forge::{Forged, ForgedGroup, file, stored};
use s3a::archive::check::verify::verify;
use s3a::archive::salvage::recover::salvage;
use s3a::archive::{Archive, OpenOptions, StreamReader};
use s3a::error::Result;
use s3a::wire::frame::{FrameKind, write_frame};
use s3a::wire::models::{ModelRef, write_model, write_models};

/// The bytes that stand for a model file; no chunk here is coded with it.
fn plain(number: u8) -> Vec<u8> {
    vec![number; 300]
}

fn named(number: u8, embedded: bool) -> ModelRef {
    ModelRef { fingerprint: *blake3::hash(&plain(number)).as_bytes(), name: format!("m{number}"), embedded }
}

/// A MODELS frame.
fn list(models: &[ModelRef]) -> Vec<u8> {
    let (mut content, mut out) = (Vec::new(), Vec::new());
    write_models(models, &mut content);
    write_frame(FrameKind::Models, &content, &mut out).unwrap();
    out
}

fn model(number: u8, of: u8) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(FrameKind::Model, &write_model(number, &plain(of)), &mut out).unwrap();
    out
}

/// An archive whose MODELS and MODEL frames stand behind its only group, which names model 0 if
/// `used`. The index names `listed`, and the places of the models.
fn archive(listed: &[ModelRef], frames: &[Vec<u8>], used: bool) -> Vec<u8> {
    let group = || {
        let mut group = ForgedGroup::new(vec![file("f", 4096, &[(0, 0, 4096)])], vec![stored(4096)]);
        group.group.models = if used { vec![0] } else { vec![] };
        let content = blake3::hash(&[0; 4096]);
        if let s3a::archive::Kind::File { hash, .. } = &mut group.entries.entries[0].kind {
            hash.copy_from_slice(&content.as_bytes()[..16]);
        }
        group
    };
    let bare = Forged::new(vec![group()]).bytes();
    // The frames begin behind the group, so before the index and the trailer.
    let marker = [&s3a::wire::frame::MARKER[..], &[6]].concat();
    let start = bare.windows(5).rposition(|five| five == marker).unwrap() as u64;
    let ends: Vec<u64> = frames
        .iter()
        .scan(start, |at, frame| Some(std::mem::replace(at, *at + frame.len() as u64)))
        .collect();
    let embedded =
        frames.iter().zip(ends).filter(|(frame, _)| frame[4] == 2).map(|(_, at)| at).collect::<Vec<_>>();
    let mut forged = Forged::new(vec![group()]);
    forged.before_index = frames.concat();
    let listed = listed.to_vec();
    forged.index = Some(Box::new(move |index| {
        index.models.clone_from(&listed);
        index.embedded.clone_from(&embedded);
    }));
    forged.bytes()
}

fn on_disk(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Whether verifying accepts the archive, and whether a reader of a pipe does.
fn taken(bytes: &[u8]) -> (bool, bool) {
    let opened = Archive::from_file(on_disk(bytes), Path::new("forged"), &OpenOptions::default());
    let checked =
        opened.and_then(|archive| verify(&archive, true, &())).is_ok_and(|report| report.is_clean());
    let piped = || -> Result<()> {
        let mut reader = StreamReader::open(bytes, &OpenOptions::default())?;
        while reader.next_event()?.is_some() {}
        Ok(())
    };
    (checked, piped().is_ok())
}

#[test]
fn a_check_and_a_pipe_want_the_same_order() {
    let (a, b, plain) = (named(1, true), named(2, true), named(3, false));
    let both = [a.clone(), b.clone()];
    for (name, bytes, good) in [
        (
            "one list",
            archive(std::slice::from_ref(&plain), &[list(std::slice::from_ref(&plain))], false),
            true,
        ),
        ("no models", archive(&[], &[], false), true),
        ("two that are carried", archive(&both, &[list(&both), model(0, 1), model(1, 2)], false), true),
        (
            "a list that grows",
            archive(&both, &[list(&both[..1]), model(0, 1), list(&both), model(1, 2)], false),
            true,
        ),
        (
            "a list behind the group that names of it",
            archive(std::slice::from_ref(&plain), &[list(std::slice::from_ref(&plain))], true),
            false,
        ),
        ("a list that only the index has", archive(std::slice::from_ref(&plain), &[], false), false),
        ("a list that the index lacks", archive(&[], &[list(std::slice::from_ref(&plain))], false), false),
        (
            "carried ones in another order",
            archive(&both, &[list(&both), model(1, 2), model(0, 1)], false),
            false,
        ),
        ("one that is missing", archive(&both, &[list(&both), model(0, 1)], false), false),
        (
            "one that comes twice",
            archive(&both, &[list(&both), model(0, 1), model(1, 2), model(1, 2)], false),
            false,
        ),
        ("one before the list", archive(&both[..1], &[model(0, 1), list(&both[..1])], false), false),
        ("another one", archive(&both[..1], &[list(&both[..1]), model(0, 2)], false), false),
    ] {
        assert_eq!(taken(&bytes), (good, good), "{name}");
    }
}

#[test]
fn a_trailer_inside_a_frame_is_none() {
    // The last frame, which is skippable, ends with the bytes of an index and a trailer.
    let bytes =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/trailer-in-a-frame.s3a"));
    assert_eq!(taken(&bytes.unwrap()), (false, false));
}

#[test]
fn salvage_keeps_a_model_in_its_place_where_the_one_before_is_lost() {
    let both = [named(1, true), named(2, true)];
    let frames = [list(&both), model(0, 1), model(1, 2)];
    let mut bytes = archive(&both, &frames, false);
    // The first model, and the whole index.
    let first = bytes.windows(frames[1].len()).position(|part| part == frames[1]).unwrap();
    bytes[first + 20] ^= 1;
    bytes.truncate(first + frames[1].len() + frames[2].len());
    let (archive, damages) = salvage(on_disk(&bytes), Path::new("forged"), &OpenOptions::default()).unwrap();
    assert!(!damages.is_empty());
    assert_eq!(archive.models(), both);
    assert!(archive.embedded_model(0).is_err());
    assert_eq!(archive.embedded_model(1).unwrap().unwrap(), plain(2));
}
