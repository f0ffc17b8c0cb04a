//! Runs the bodies of the fuzz targets on their seeds, on the corpora that libFuzzer has left, on
//! inputs that once failed, and on random and mutated inputs. The same seed gives the same inputs.
//! `fuzz/run.sh` does more, guided by coverage, where there is a nightly toolchain.
//!
//! `S3A_FUZZ_RUNS=1000000 S3A_FUZZ_SEED=7 cargo test --release --test fuzz -- --nocapture` does
//! more here.

mod bodies;

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bodies::{TARGETS, Target};

/// The longest time that one input may take on a busy machine.
const HANG: Duration = Duration::from_secs(20);

struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 20
    }

    fn below(&mut self, below: usize) -> usize {
        self.next() as usize % below.max(1)
    }

    /// A seed that is changed in some places, or random bytes.
    fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if seeds.is_empty() || self.below(10) == 0 {
            let len = self.below(200);
            return (0..len).map(|_| self.next() as u8).collect();
        }
        let mut data = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            if data.is_empty() {
                break;
            }
            let (at, len) = (self.below(data.len()), 1 + self.below(20));
            let end = data.len().min(at + len);
            match self.below(8) {
                0 | 1 => data[at] ^= 1 << self.below(8),
                2 => data[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                3 => data[at..end].fill([0, 0xff][self.below(2)]),
                4 => drop(data.drain(at..end)),
                5 => {
                    let part = data[at..end].to_vec();
                    let to = self.below(data.len());
                    data.splice(to..to, part);
                }
                6 => data.truncate(at),
                _ => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len());
                    let part = other[from..other.len().min(from + len)].to_vec();
                    data.splice(at..end, part);
                }
            }
        }
        data
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Runs one input. An input that fails is written to a file, which is named.
fn run(target: &Target, input: &[u8]) {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.body)(input)));
    let took = start.elapsed();
    if result.is_err() || took > HANG {
        let name = format!("{}-{}", target.name, &blake3::hash(input).to_hex()[..12]);
        let path = std::env::temp_dir().join(&name);
        std::fs::write(&path, input).unwrap();
        panic!("{} fails on {} after {took:?}; keep it in fuzz/regressions/", target.name, path.display());
    }
}

fn fuzz(name: &str, runs: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let (start, mut seeds) = (Instant::now(), (target.seeds)());
    seeds.extend(corpus(name));
    for seed in &seeds {
        run(target, seed);
    }
    let regressions = regressions(name);
    regressions.iter().for_each(|input| run(target, input));
    let mut draw = Draw(number("S3A_FUZZ_SEED", 1));
    let runs = number("S3A_FUZZ_RUNS", runs);
    for _ in 0..runs {
        run(target, &draw.input(&seeds));
    }
    let (seeds, regressions) = (seeds.len(), regressions.len());
    println!("{name}: {runs} inputs, {seeds} seeds, {regressions} regressions, {:?}", start.elapsed());
}

fn fuzz_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Inputs that libFuzzer found to lead far, in the order of their names: a tar archive that
/// `fuzz/run.sh` packs.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let path = fuzz_directory().join(format!("corpus/{name}.tar.xz"));
    let Ok(packed) = std::fs::read(&path) else {
        println!("skipped: the corpus of {name} ({} is not here)", path.display());
        return Vec::new();
    };
    let mut tar = Vec::new();
    liblzma::read::XzDecoder::new(&packed[..]).read_to_end(&mut tar).unwrap();
    let (mut inputs, mut rest) = (Vec::new(), &tar[..]);
    while let Some((head, data)) = rest.split_first_chunk::<512>().filter(|(head, _)| head[0] != 0) {
        assert!(head[156] == b'0' && &head[257..262] == b"ustar", "{name}: not a plain file of ustar");
        let size = std::str::from_utf8(&head[124..135]).unwrap();
        let size = usize::from_str_radix(size, 8).unwrap();
        inputs.push(data[..size].to_vec());
        rest = &data[size.next_multiple_of(512)..];
    }
    assert!(!inputs.is_empty(), "the corpus of {name} holds nothing");
    inputs
}

/// Inputs that once failed, in the order of their names.
fn regressions(name: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(fuzz_directory().join("regressions").join(name)).into_iter().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Writes the seeds of every target out, for libFuzzer to begin with: `fuzz/run.sh` calls it.
#[test]
#[ignore = "writes files to the directory in S3A_FUZZ_SEEDS"]
fn seeds_are_written_out() {
    let folder = PathBuf::from(std::env::var_os("S3A_FUZZ_SEEDS").unwrap());
    for target in &TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        for seed in (target.seeds)() {
            std::fs::write(folder.join(&blake3::hash(&seed).to_hex()[..16]), seed).unwrap();
        }
    }
}

macro_rules! targets {
    ($($name:ident $runs:literal)*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name), $runs);
        })*

        #[test]
        fn every_target_is_run() {
            let names = [$(stringify!($name)),*];
            assert_eq!(names.to_vec(), TARGETS.iter().map(|target| target.name).collect::<Vec<_>>());
            let folder = fuzz_directory().join("fuzz_targets");
            for name in names {
                assert!(folder.join(format!("{name}.rs")).exists() || !folder.exists(), "{name}");
            }
        }
    };
}

targets! {
    header 100_000
    index 50_000
    chunk 3_000
    coder 50_000
    model_file 3_000
    open_then_read_all 1_500
    path 50_000
    roundtrip 300
    tar 50_000
}
