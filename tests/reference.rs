//! This crate agrees with the independent decoder in `spec/reference/`, which was written from the
//! specification.
//!
//! Without `python3` these tests say that they are skipped.

mod common;
mod sample;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use common::{assert_same, expect, noise, prose, put, s3a as run_s3a, snapshot};
use s3a::archive::Kind;
use s3a::codec::Models;
use s3a::codec::neural::chunk_model::Neural;
use s3a::model::config::{Activation, Config, Latent};
use s3a::model::sample::{Draw, model_file};
use s3a::model::{Model, config};
use s3a::wire::limits;
use sample::Sample;

const FORMAT: &str = include_str!("../spec/format.md");
const NUMERICS: &str = include_str!("../spec/numerics.md");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether there is no Python to run; prints a message in that case.
fn python_is_missing() -> bool {
    let missing =
        !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if missing {
        eprintln!("skipped: there is no python3");
    }
    missing
}

fn python(script: &str, args: &[&Path]) -> Output {
    let script = root().join("spec/reference").join(script);
    Command::new("python3").env("PYTHONDONTWRITEBYTECODE", "1").arg(script).args(args).output().unwrap()
}

/// Unpacks with the independent decoder, which gets all models of this repository.
fn unpack_independently(archive: &Path, out: &Path) {
    let mut args = vec![archive.to_owned(), out.to_owned()];
    for folder in ["models", "tests/golden"] {
        for model in files(&root().join(folder), "safetensors") {
            args.extend([PathBuf::from("--model"), model]);
        }
    }
    let args: Vec<&Path> = args.iter().map(PathBuf::as_path).collect();
    expect(&python("s3a_decode.py", &args), 0);
}

/// The files of a directory with this extension; none if there is no such directory.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(found) = std::fs::read_dir(folder) else { return vec![] };
    let mut found: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == extension));
    found.sort();
    found
}

#[test]
fn the_independent_decoder_unpacks_what_was_packed() {
    if python_is_missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    put(&tree, b"prose", &prose(1, 9000));
    put(&tree, b"sub/noise", &noise(2, 5000));
    put(&tree, b"sub/copy", &prose(1, 9000));
    put(&tree, b"sub/longer", &[prose(1, 9000), noise(3, 10)].concat());
    put(&tree, b"zeros", &[0; 5000]);
    put(&tree, b"empty", b"");
    put(&tree, b"\xff not utf-8", b"x");
    std::fs::create_dir(tree.join("none")).unwrap();
    std::fs::hard_link(tree.join("prose"), tree.join("linked")).unwrap();
    std::os::unix::fs::symlink("sub/noise", tree.join("symlink")).unwrap();
    let hole = std::fs::File::create(tree.join("hole")).unwrap();
    hole.set_len(1 << 20).unwrap();
    let model = root().join("models/default.safetensors");
    for more in [&["--embed-model"][..], &[]] {
        let args = [
            &[
                "pack",
                "tree",
                "-f",
                "-o",
                "tree.s3a",
                "--chunk-size",
                "4k",
                "--model",
                model.to_str().unwrap(),
            ],
            more,
        ]
        .concat();
        expect(&run_s3a(folder.path(), &args), 0);
        let out = tempfile::tempdir().unwrap();
        unpack_independently(&folder.path().join("tree.s3a"), &out.path().join("out"));
        assert_same(&snapshot(&tree), &snapshot(&out.path().join("out")));
    }
}

#[test]
fn the_independent_decoder_follows_files_through_groups() {
    if python_is_missing() {
        return;
    }
    let sample = Sample::with_options(
        |writer| {
            let small = writer.file("a", &sample::text(3000, 1));
            let big = writer.file("big", &[sample::text(30_000, 7), sample::noise(5000, 3)].concat());
            writer.file("after", &sample::text(100, 4));
            writer.same("big.again", big);
            writer.same("a.again", small);
            writer.sparse("sparse", 1 << 20, &[(0, 10), (70_000, 14_000)], &sample::text(14_010, 6));
            writer.sparse("hole", 1 << 20, &[], b"");
        },
        |options| options.models = Models::none(),
    );
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), b"sample.s3a", &sample.bytes);
    unpack_independently(&folder.path().join("sample.s3a"), &folder.path().join("out"));
    for (entry, plain) in sample.files {
        assert!(matches!(entry.kind, Kind::File { .. }));
        let found = std::fs::read(common::path(&folder.path().join("out"), &entry.path)).unwrap();
        assert!(Some(found) == plain, "{:?}", entry.path);
    }
}

#[test]
fn the_independent_decoder_refuses_each_flipped_byte() {
    if python_is_missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), b"tree/prose", &prose(1, 5000));
    expect(&run_s3a(folder.path(), &["pack", "tree", "-o", "tree.s3a", "--chunk-size", "4k"]), 0);
    let packed = std::fs::read(folder.path().join("tree.s3a")).unwrap();
    for at in (0..packed.len()).step_by(packed.len() / 12) {
        let mut bytes = packed.clone();
        bytes[at] ^= 0x10;
        put(folder.path(), b"damaged.s3a", &bytes);
        let said = expect(
            &python("s3a_decode.py", &[&folder.path().join("damaged.s3a"), &folder.path().join("out")]),
            1,
        );
        assert!(said.starts_with("error: "), "byte {at}: {said}");
    }
}

#[test]
fn the_independent_decoder_reads_the_golden_archives() {
    if python_is_missing() {
        return;
    }
    for archive in files(&root().join("tests/golden"), "s3a") {
        let folder = tempfile::tempdir().unwrap();
        let [theirs, ours] = ["theirs", "ours"].map(|name| folder.path().join(name));
        unpack_independently(&archive, &theirs);
        expect(
            &run_s3a(
                folder.path(),
                &["unpack".as_ref(), archive.as_os_str(), "-C".as_ref(), ours.as_os_str()],
            ),
            0,
        );
        assert_same(&snapshot(&ours), &snapshot(&theirs));
    }
}

/// An architecture with all parts: several orders and seconds, n-grams, grouped heads, copy gates.
fn rich() -> Config {
    let mut config = Config::new("rich", 40, 2, 300);
    config.heads = 4;
    config.kv_heads = 2;
    config.head_size = 16;
    config.ff = 72;
    config.window = 19;
    config.orders = vec![1, 2, 4];
    config.seconds = vec![2, 4];
    config.ngrams = vec![(2, 8), (3, 6)];
    config.copy = true;
    config.set_adapt(vec![60_000]);
    config
}

fn with_latent() -> Config {
    let mut config = rich();
    config.kv_heads = 4;
    config.activation = Activation::Relu;
    config.window = 0;
    config.latent = Some(Latent { symbols: 20, max: 9, layers: 2, ff: 50, steer: false, experts: 1 });
    config
}

/// A model that c steers, without an encoder or with one.
fn steered(layers: usize) -> Config {
    let mut config = rich();
    config.latent =
        Some(Latent { symbols: 20, max: 9, layers, ff: 50 * layers.min(1), steer: true, experts: 1 });
    config
}

/// A model like an imported T5: with gates, and one row of the prior for all symbols.
fn with_gates() -> Config {
    let mut config = with_latent();
    config.activation = Activation::GatedGelu;
    config.latent = Some(Latent { symbols: 300, max: 6, layers: 1, ff: 44, steer: false, experts: 1 });
    config
}

/// A model with several sets of weights; with `steer` also steered.
fn expert(steer: bool) -> Config {
    let mut config = rich();
    config.latent = Some(Latent { symbols: 20, max: 9, layers: 0, ff: 0, steer, experts: 3 });
    config.set_adapt(vec![60_000, 0, (1 << 18) - 1]);
    config
}

#[test]
fn the_independent_decoder_computes_the_same_slots_for_every_kind_of_model() {
    if python_is_missing() {
        return;
    }
    let plain = Config::new("plain", 32, 1, 256);
    let long: Vec<u8> = [prose(4, 120), prose(5, 120)].concat();
    let history: Vec<Arc<[u8]>> = vec![prose(4, 500).into(), noise(6, 40).into(), prose(5, 200).into()];
    for (config, c) in [
        (plain, &[][..]),
        (rich(), &[]),
        (with_latent(), &[]),
        (with_latent(), &[7]),
        (with_latent(), &[0, 19, 3, 3, 8, 11, 0, 1, 2]),
        (with_gates(), &[]),
        (with_gates(), &[299, 0, 7]),
        (steered(0), &[]),
        (steered(0), &[4, 4, 17]),
        (expert(false), &[7]),
        (expert(true), &[5, 19]),
        (steered(1), &[0, 19, 3, 3, 8, 11, 0, 1, 2]),
    ] {
        for draw in [Draw::Even, Draw::Extreme] {
            let file = model_file(config.clone(), draw, 11).unwrap();
            let neural = Neural::new(Arc::new(Model::from_bytes(&file).unwrap()));
            for history in [&[][..], &history] {
                let payload = neural.encode_with(&long, history, c).unwrap().payload;
                let folder = tempfile::tempdir().unwrap();
                put(folder.path(), b"model", &file);
                put(folder.path(), b"payload", &payload);
                let raw_len = PathBuf::from(long.len().to_string());
                let mut args = vec![folder.path().join("model"), folder.path().join("payload"), raw_len];
                for (i, plain) in history.iter().enumerate() {
                    put(folder.path(), format!("{i}").as_bytes(), plain);
                    args.push(folder.path().join(i.to_string()));
                }
                let args: Vec<&Path> = args.iter().map(PathBuf::as_path).collect();
                let output = python("decode_payload.py", &args);
                expect(&output, 0);
                assert!(
                    output.stdout == long,
                    "{} {draw:?} c {c:?}, {} chunks of history",
                    config.name,
                    history.len()
                );
            }
        }
    }
}

#[cfg(feature = "train")]
#[test]
fn the_independent_decoder_computes_the_same_slots_for_imported_models() {
    use s3a::train::import::convert::import;
    use s3a::train::import::folder::Folder;

    if python_is_missing() {
        return;
    }
    let plain = prose(3, 60);
    for name in ["t5-relu", "t5-gated-gelu"] {
        let Some(folder) = common::data(name) else { continue };
        let folder = Folder::open(&folder).unwrap();
        let file = import(&folder, name).unwrap();
        let neural = Neural::new(Arc::new(Model::from_bytes(&file).unwrap()));
        for c in [&[][..], &[334, 0, 9, 150]] {
            let payload = neural.encode_with(&plain, &[], c).unwrap().payload;
            let folder = tempfile::tempdir().unwrap();
            put(folder.path(), b"model", &file);
            put(folder.path(), b"payload", &payload);
            let raw_len = PathBuf::from(plain.len().to_string());
            let (model, payload) = (folder.path().join("model"), folder.path().join("payload"));
            let output = python("decode_payload.py", &[&model, &payload, &raw_len]);
            expect(&output, 0);
            assert!(output.stdout == plain, "{name}, c {c:?}");
        }
    }
}

#[test]
fn the_spec_states_the_limits_that_the_code_has() {
    let grouped = |n: u64| {
        let digits = n.to_string();
        let groups: Vec<&str> =
            digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap()).collect();
        groups.join(",")
    };
    let chunk_sizes = format!(
        "| chunk size | {} to {} |",
        grouped(limits::CHUNK_SIZE_MIN.into()),
        grouped(limits::CHUNK_SIZE_MAX.into())
    );
    for (spec, text) in [
        (FORMAT, chunk_sizes),
        (FORMAT, format!("| reference depth | at most {} |", limits::REF_DEPTH)),
        (FORMAT, format!("window x chunk size at most {} MiB", limits::REF_BYTES >> 20)),
        (FORMAT, format!("chunk size to {} MiB", limits::GROUP_LEN >> 20)),
        (FORMAT, format!("| chunk count | varint | at most {};", grouped(limits::GROUP_CHUNKS.into()))),
        (FORMAT, format!("| entry count | varint | at most {} |", grouped(limits::GROUP_ENTRIES.into()))),
        (
            FORMAT,
            format!(
                "length are at most {} MiB, of a MODEL frame {} MiB",
                limits::FRAME_LEN >> 20,
                limits::MODEL_LEN >> 20
            ),
        ),
        (FORMAT, format!("Its window MUST NOT exceed {} MiB", (1u32 << limits::ZSTD_WINDOW_LOG) >> 20)),
        (FORMAT, format!("A path has at most {} bytes", grouped(limits::PATH_LEN as u64))),
        (FORMAT, format!("number of references (at most {})", limits::REFS)),
        (FORMAT, format!("at or below {};", limits::CLOSURE)),
        (FORMAT, format!("| count | varint, at most {} |", limits::MODELS)),
        (NUMERICS, format!("Numerics version: **{}**", config::NUMERICS)),
        (NUMERICS, format!("`d, ff, HD <= {}`", config::MAX_SIZE)),
        (
            NUMERICS,
            format!("`layers <= {}`, `window <= {}`", config::MAX_LAYERS, grouped(config::MAX_WINDOW as u64)),
        ),
        (
            NUMERICS,
            format!(
                "`C <= {}`, `max_latent <= {}`, {} n-gram tables",
                grouped(config::MAX_SYMBOLS as u64),
                grouped(config::MAX_LATENT as u64),
                config::MAX_NGRAMS
            ),
        ),
    ] {
        let spec = spec.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(spec.contains(&text), "the spec does not say {text:?}");
    }
}
