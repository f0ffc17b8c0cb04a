//! Imported T5 models: directories that `transformers` wrote (`tests/data/make_t5.py`), and its
//! logits.
#![cfg(feature = "train")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use s3a::codec::job::DecodeJob;
use s3a::codec::neural::chunk_model::Neural;
use s3a::codec::{ChunkModel, Codec};
use s3a::kernels::Backend;
use s3a::model::Model;
use s3a::model::tokens::Vocabulary;
use s3a::train::import::check::{agreement, correlation, integer_logits};
use s3a::train::import::convert::import;
use s3a::train::import::folder::Folder;

const FOLDERS: [&str; 2] = ["t5-relu", "t5-gated-gelu"];
const TEXT: &str = include_str!("../LICENSE-MIT");

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Whether the folders are here; the packed crate has none, since they are large.
fn are_here() -> bool {
    FOLDERS.iter().all(|name| common::data(name).is_some())
}

fn load(name: &str) -> (Folder, Model) {
    let folder = Folder::open(&path(name)).unwrap();
    let model = Model::from_bytes(&import(&folder, name).unwrap()).unwrap();
    (folder, model)
}

/// What `transformers` computed: ids of source and target, and logits of every ninth position, with
/// the source and without it.
struct Expected {
    source: Vec<u32>,
    target: Vec<u32>,
    logits: Vec<Vec<f64>>,
    alone: Vec<Vec<f64>>,
}

fn expected(name: &str) -> Expected {
    let file = path(name).join("expected.safetensors");
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let ids = |name: &str| tensors[name].to_dtype(DType::U32).unwrap().to_vec1().unwrap();
    let rows = |name: &str| tensors[name].to_dtype(DType::F64).unwrap().to_vec2().unwrap();
    Expected { source: ids("source"), target: ids("target"), logits: rows("logits"), alone: rows("alone") }
}

fn every_ninth(rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    rows.into_iter().step_by(9).collect()
}

#[test]
fn float_logits_are_those_of_transformers() {
    if !are_here() {
        return;
    }
    for name in FOLDERS {
        let (folder, expected) = (Folder::open(&path(name)).unwrap(), expected(name));
        let t5 = &folder.t5;
        let row = |ids: &[u32]| Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu).unwrap();
        for (source, wanted) in [(&expected.source[..], &expected.logits), (&[], &expected.alone)] {
            let memory = t5.encode(&row(source)).unwrap();
            let logits = t5.logits(&t5.decode(&row(&expected.target), &memory).unwrap()).unwrap();
            let logits = logits.squeeze(0).unwrap().to_dtype(DType::F64).unwrap().to_vec2().unwrap();
            for (ours, theirs) in every_ninth(logits).iter().zip(wanted) {
                for (ours, theirs) in ours.iter().zip(theirs) {
                    assert!((ours - theirs).abs() < 1e-4, "{name}: {ours} and {theirs}");
                }
            }
        }
    }
}

#[test]
fn integer_logits_follow_those_of_transformers() {
    if !are_here() {
        return;
    }
    for name in FOLDERS {
        let ((folder, model), expected) = (load(name), expected(name));
        let ids = &folder.pieces.ids;
        let token = |id: &u32| ids.iter().position(|known| known == id).unwrap() as u16;
        // The engine puts the start token before the first token itself; its last prediction is not
        // used.
        let mut tokens: Vec<u16> = expected.target[1..].iter().map(token).collect();
        tokens.push(0);
        let c: Vec<u16> = expected.source.iter().map(|&id| id as u16).collect();
        for (c, wanted) in [(&c[..], &expected.logits), (&[], &expected.alone)] {
            let (integer, _) = integer_logits(&model, &tokens, c).unwrap();
            let integer = every_ninth(integer);
            let float: Vec<Vec<f64>> =
                wanted.iter().map(|row| ids.iter().map(|&id| row[id as usize]).collect()).collect();
            assert_eq!(integer.len(), float.len());
            let correlation = correlation(&integer, &float);
            // The engine's unit is 1/1024 of a bit.
            let unit = std::f64::consts::LN_2 / 1024.0;
            let pairs = || integer.iter().flatten().zip(float.iter().flatten());
            let worst = pairs().map(|(i, f)| (i * unit - f).abs()).fold(0.0, f64::max);
            println!("{name}, c of {}: correlation {correlation:.6}, worst {worst:.3} nats", c.len());
            assert!(correlation > 0.999, "{name}: {correlation}");
            assert!(worst < 0.5, "{name}: {worst}");
        }
    }
}

#[test]
fn bits_per_token_of_text_are_those_of_the_float_model() {
    if !are_here() {
        return;
    }
    for name in FOLDERS {
        let (folder, model) = load(name);
        let tokens = model.vocabulary().tokenize(TEXT.as_bytes());
        let c: Vec<u16> = tokens[..30].iter().map(|&t| folder.pieces.ids[usize::from(t)] as u16).collect();
        for c in [&[][..], &c] {
            let a = agreement(&folder, &model, &tokens, c).unwrap();
            println!("{name}, c of {}: {a:?}", c.len());
            assert!((a.integer_bits / a.float_bits - 1.0).abs() < 0.01, "{name}: {a:?}");
            assert!(a.correlation > 0.999, "{name}: {a:?}");
        }
    }
}

#[test]
fn vocabularies_hold_the_tokenizers_pieces() {
    if !are_here() {
        return;
    }
    let (folder, _) = load("t5-relu");
    let vocabulary = Vocabulary::new(&folder.pieces.tokens).unwrap();
    let id = |text: &str| {
        let tokens = vocabulary.tokenize(text.as_bytes());
        assert_eq!(tokens.len(), 1, "{text:?}");
        folder.pieces.ids[usize::from(tokens[0])]
    };
    // `<unk>` is 2, byte pieces are 3 to 6, U+2581 is 7.
    assert_eq!((id("\n"), id("\t"), id(" "), id("\u{1}")), (3, 4, 7, 2));
    assert!(id("A") > 7);
    let (folder, _) = load("t5-gated-gelu");
    assert_eq!(folder.pieces.added, 0);
    assert!(folder.pieces.ids.iter().all(|&id| (3..340).contains(&id)));
}

#[test]
fn chunks_under_an_imported_model_survive_with_any_c() {
    if !are_here() {
        return;
    }
    for name in FOLDERS {
        let (_, model) = load(name);
        let model = Arc::new(model);
        let raw = &TEXT.as_bytes()[..700];
        for c in [&[][..], &[0, 334, 17, 17], &[5; 512]] {
            let mut payloads = vec![];
            for backend in Backend::available() {
                let neural = Neural::with_backend(model.clone(), backend);
                let payload = neural.encode_with(raw, &[], c).unwrap().payload;
                let job = DecodeJob {
                    codec: Codec::Neural,
                    model: 0,
                    payload: &payload,
                    raw_len: raw.len(),
                    dictionary: None,
                    history: vec![],
                };
                assert_eq!(neural.decode(&[&job]).remove(0).unwrap(), raw);
                payloads.push(payload);
            }
            assert!(payloads.windows(2).all(|pair| pair[0] == pair[1]));
        }
        let neural = Neural::new(model);
        let bits = |c: &[u16]| neural.encode_with(raw, &[], c).unwrap();
        assert!(bits(&[]).latent_bits <= 1, "an empty c is cheap");
        assert!(neural.encode_with(raw, &[], &[345]).is_err());
    }
}

fn s3a(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_s3a")).current_dir(folder).args(args).output().unwrap()
}

#[test]
fn the_command_imports_checks_packs_and_unpacks() {
    if !are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("text"), TEXT).unwrap();
    for name in FOLDERS {
        let dir = path(name).display().to_string();
        let output = s3a(at, &["model", "import", &dir, "--check", "text"]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for what in ["c empty", "with c", "oracle", "correlation of logits 0.99"] {
            assert!(said.contains(what), "{said}");
        }
        let model = format!("{name}.safetensors");
        let again = s3a(at, &["model", "import", &dir]);
        assert_eq!(again.status.code(), Some(11), "the file exists");
        let first = std::fs::read(at.join(&model)).unwrap();
        assert!(s3a(at, &["model", "import", &dir, "--force"]).status.success());
        assert_eq!(std::fs::read(at.join(&model)).unwrap(), first, "the same folder gives the same file");
        let archive = format!("{name}.s3a");
        let packed = s3a(at, &["pack", "--chunk-size", "4k", "--model", &model, "-o", &archive, "text"]);
        assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
        let unpacked = s3a(at, &["unpack", &archive, "-C", name]);
        assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
        assert_eq!(std::fs::read_to_string(at.join(name).join("text")).unwrap(), TEXT);
    }
}

#[test]
fn folders_that_cannot_be_imported_are_refused_with_the_reason() {
    if !are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let copy = || {
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::copy(path("t5-relu").join(file), at.join(file)).unwrap();
        }
    };
    let refused = |code: i32, reason: &str| {
        let output = s3a(at, &["model", "import", ".", "-o", "out.safetensors"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(reason), "{said}");
        assert!(!at.join("out.safetensors").exists());
    };
    refused(7, "config.json");
    for (from, to, reason) in [
        ("\"d_ff\": 64", "\"d_ff\": 3072", "d_ff is 3072, and the engine takes at most 2,048"),
        ("\"relu\",", "\"gated-silu\",", "gated-silu"),
        ("\"d_ff\": 64", "\"d_ff\": 72", "has the shape [64, 64], not [72, 64]"),
        ("\"d_kv\": 16", "\"d_kv\": 20", "has the shape"),
    ] {
        copy();
        let config = std::fs::read_to_string(at.join("config.json")).unwrap();
        assert!(config.contains(from), "{from}");
        std::fs::write(at.join("config.json"), config.replace(from, to)).unwrap();
        refused(4, reason);
    }
    copy();
    let mut weights = std::fs::read(at.join("model.safetensors")).unwrap();
    let end = weights.len();
    weights[end - 2..].copy_from_slice(&0x7e00u16.to_le_bytes());
    std::fs::write(at.join("model.safetensors"), weights).unwrap();
    refused(4, "it holds values that are no numbers");
    std::fs::write(at.join("model.safetensors"), [0; 40]).unwrap();
    refused(4, "model.safetensors");
    copy();
    std::fs::write(at.join("tokenizer.json"), "{}").unwrap();
    refused(4, "it has no model");
}
