//! `s3a bench` in the paper's setting, with a random model that reads c. The tests check the
//! structure of its output only, since sizes and times of such a model mean nothing.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::{expect, noise, prose, put, s3a};
use s3a::model::config::{Config, Latent};
use s3a::model::sample::{Draw, model_file};

fn model(path: &Path) {
    let mut config = Config::new("tiny", 32, 1, 300);
    config.window = 16;
    config.orders = vec![1, 2];
    config.copy = true;
    config.latent = Some(Latent { symbols: 12, max: 3, layers: 0, ff: 0, steer: true, experts: 1 });
    fs::write(path, model_file(config, Draw::Even, 5).unwrap()).unwrap();
}

/// The fields of a CSV file that has no quoted fields.
fn rows(path: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(path).unwrap();
    let rows: Vec<Vec<String>> =
        text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect();
    assert!(rows.iter().all(|row| row.len() >= rows[0].len()), "{text}");
    rows
}

#[test]
fn bench_in_the_papers_setting_gives_tables_and_figures() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"tree/a.txt", &prose(1, 600));
    put(dir.path(), b"tree/sub/b", &noise(2, 100));
    put(dir.path(), b"tree/sub/c.txt", &prose(3, 800));
    model(&dir.path().join("tiny.safetensors"));
    let args = ["bench", "--paper", "tree", "--models", "tiny.safetensors", "--sample", "16k"];
    let output = s3a(dir.path(), &[&args[..], &["-o", "results", "--peers", "zstd"]].concat());
    expect(&output, 0);
    let shown = String::from_utf8(output.stdout).unwrap();
    for text in
        ["1500 bytes of 1500", "tiny, c empty", "tiny, greedy c", "tiny, best c of 8", "zstd -19", "511"]
    {
        assert!(shown.contains(text), "{text}: {shown}");
    }

    let results = dir.path().join("results");
    let lengths = ["32", "64", "128", "256", "512", "1024", "2048", "16 KiB"];
    let mut sizes = rows(&results.join("paper_sizes.csv"));
    sizes.remove(0);
    // Three methods and zstd for every length, and zstd on the whole.
    assert_eq!(sizes.len(), 4 * lengths.len() + 1);
    // A name with a comma is quoted, so fields are counted from the end.
    let field = |row: &[String], name: usize| row[row.len() - 10 + name].clone();
    let number = |row: &[String], name: usize| field(row, name).parse::<f64>().unwrap();
    for length in lengths {
        let mine: Vec<&Vec<String>> = sizes.iter().filter(|row| field(row, 0) == length).collect();
        assert_eq!(mine.len(), 4, "{length}");
        for row in &mine {
            assert_eq!(field(row, 3), "1500");
            let (raw, bytes) = (number(row, 3), number(row, 4));
            assert!((number(row, 5) - bytes * 8.0 / raw).abs() < 1e-3, "{row:?}");
            assert!(number(row, 4) > 2.0 * number(row, 1), "lengths are counted: {row:?}");
        }
        // More candidates never cost bytes.
        let bytes: Vec<f64> = mine.iter().map(|row| number(row, 4)).collect();
        assert!(bytes[0] >= bytes[1] && bytes[1] >= bytes[2], "{length}: {bytes:?}");
        assert!(number(mine[2], 8) > 0.0, "an empty c costs its end");
    }
    assert_eq!(sizes.iter().filter(|row| field(row, 0) == "solid").count(), 1);

    let speeds = rows(&results.join("paper_speeds.csv"));
    let column = |name: &str| speeds[0].iter().position(|head| head == name).unwrap();
    let measured: Vec<&str> = speeds[1..].iter().map(|row| row[column("chunk")].as_str()).collect();
    assert_eq!(measured, lengths);
    for name in ["latency_us", "alone_tokens_per_s", "batched_tokens_per_s", "pack_tokens_per_s", "threads"] {
        assert!(speeds[1..].iter().all(|row| row[column(name)].parse::<f64>().unwrap() > 0.0), "{name}");
    }

    let names: BTreeSet<String> =
        fs::read_dir(&results).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let figures = ["paper_figure4.svg", "paper_figure5.svg", "paper_figure6.svg"];
    let tables = ["paper_sizes.csv", "paper_speeds.csv"];
    assert_eq!(names, figures.into_iter().chain(tables).map(str::to_owned).collect());
    for figure in figures {
        let svg = fs::read_to_string(results.join(figure)).unwrap();
        assert!(
            svg.starts_with("<svg") && svg.contains("tiny") && !svg.contains("NaN") && !svg.contains("inf")
        );
    }
}

#[test]
fn bench_takes_no_other_file_for_enwik8() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"short", b"This is not enwik8.");
    let said = expect(&s3a(dir.path(), &["bench", "--enwik8", "short"]), 2);
    assert!(said.contains("short is not enwik8: it has 19 bytes, not 100000000"), "{said}");
    // A file of the right length with other content is refused.
    fs::File::create(dir.path().join("holes")).unwrap().set_len(100_000_000).unwrap();
    let said = expect(&s3a(dir.path(), &["bench", "--enwik8", "holes"]), 2);
    assert!(said.contains("SHA-1"), "{said}");
    expect(&s3a(dir.path(), &["bench", "--enwik8", "missing"]), 7);
}

#[test]
fn bench_wants_exactly_one_thing_to_measure() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"tree/a", b"a");
    fs::create_dir(dir.path().join("void")).unwrap();
    expect(&s3a(dir.path(), &["bench"]), 2);
    expect(&s3a(dir.path(), &["bench", "tree", "--paper", "tree"]), 2);
    expect(&s3a(dir.path(), &["bench", "--enwik8", "tree/a", "--paper", "tree"]), 2);
    assert!(expect(&s3a(dir.path(), &["bench", "--paper", "void"]), 2).contains("no bytes"));
    assert!(
        expect(&s3a(dir.path(), &["bench", "--paper", "tree", "--peers", "abacus"]), 2).contains("abacus")
    );
}
