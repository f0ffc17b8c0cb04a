//! What a GPU decodes a second, compared with the CPU in the same run and with the GPU's limits.
//!
//! `cargo bench --bench gpu -- FOLDER [MODEL...]` codes the files of FOLDER in chunks of 16 KiB
//! with each model (the default one, if none is named). It prints: whether archives and payloads
//! are equal in both directions; bulk decoding and encoding for several numbers of chunks, compared
//! with all cores of the CPU; sequential reading through a mount; the time of one token's step;
//! which share of the device's int8 rate and memory bandwidth is reached; and the time from the
//! start of a process to its first chunk. Without a device it says why.
//!
//! `--csv FILE` adds rows to a file, `--most N` limits the chunks of a batch (32,768 by default),
//! `--mount-mib N` is the size of the file that is read through the mount (256 by default; 0 leaves
//! that out), `--chunk-size N` is in bytes. `S3A_GPU_RATE` is the device's int8 rate in
//! multiply-adds a second, for devices whose rate is not listed here.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use s3a::codec::choice::{Found, devices, open};
use s3a::codec::job::{DecodeJob, EncodeJob};
use s3a::codec::neural::chunk_model::Neural;
use s3a::codec::offload::costs::Costs;
use s3a::codec::offload::dispatch::Offload;
use s3a::codec::work::LANES;
use s3a::codec::{ChunkModel, Codec};
use s3a::kernels::Backend;
use s3a::model::Model;
use s3a::model::registry::by_name;

/// Chunks that are coded on the CPU; larger batches repeat these.
const DISTINCT: usize = 512;
const RUNS: usize = 3;
/// Columns of the rows that `--csv` adds.
const HEADER: &str = "device,commit,model,what,chunks,figure,unit";
/// If this variable is set at its start, the process decodes one chunk on the device and prints how
/// long that took.
const FIRST_CHUNK: &str = "S3A_BENCH_FIRST_CHUNK";

/// For each device, by name: dense int8 multiply-adds a second of the tensor cores, and bytes a
/// second of the memory.
const DEVICES: &[(&str, f64, f64)] = &[
    ("H200", 0.99e15, 4.8e12),
    ("H100", 0.99e15, 3.35e12),
    ("A100", 0.312e15, 1.9e12),
    ("L40S", 0.366e15, 0.86e12),
    ("L4", 0.121e15, 0.3e12),
    ("T4", 0.065e15, 0.32e12),
];

type Done<T> = Result<T, Box<dyn Error>>;

/// The arguments.
struct Asked {
    folder: PathBuf,
    models: Vec<String>,
    csv: Option<PathBuf>,
    most: usize,
    mount_bytes: usize,
    chunk_len: usize,
}

impl Asked {
    fn read() -> Done<Self> {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src").into();
        let mut asked = Self {
            folder: source,
            models: vec![],
            csv: None,
            most: 32_768,
            mount_bytes: 256 << 20,
            chunk_len: 16 << 10,
        };
        let mut plain = vec![];
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--csv" => asked.csv = Some(value()?.into()),
                "--most" => asked.most = value()?.parse::<usize>()?.max(1),
                "--mount-mib" => asked.mount_bytes = value()?.parse::<usize>()? << 20,
                "--chunk-size" => asked.chunk_len = value()?.parse::<usize>()?.clamp(4 << 10, 1 << 20),
                // Cargo adds it.
                "--bench" => {}
                _ => plain.push(argument),
            }
        }
        let mut plain = plain.into_iter();
        asked.folder = plain.next().map_or(asked.folder, PathBuf::from);
        asked.models = plain.collect();
        if asked.models.is_empty() {
            asked.models.push("default".into());
        }
        Ok(asked)
    }
}

/// Where figures are written.
struct Report {
    device: String,
    commit: String,
    model: String,
    rows: Vec<String>,
}

impl Report {
    fn row(&mut self, what: &str, chunks: usize, figure: f64, unit: &str) {
        let count = if chunks == 0 { String::new() } else { chunks.to_string() };
        println!("{what:<44} {count:>6} {figure:>10.2} {unit}");
        let Self { device, commit, model, .. } = self;
        self.rows.push(format!("\"{device}\",{commit},{model},\"{what}\",{count},{figure:.3},{unit}"));
    }

    /// Reports a speed, and returns it in MB/s.
    fn speed(&mut self, what: &str, chunks: usize, bytes: usize, time: Duration) -> f64 {
        let speed = bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9);
        self.row(what, chunks, speed, "MB/s");
        speed
    }

    fn save(&self, path: &Path) -> std::io::Result<()> {
        let new = !path.exists();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        let header = if new { vec![HEADER.to_owned()] } else { vec![] };
        header.iter().chain(&self.rows).try_for_each(|row| writeln!(file, "{row}"))
    }
}

fn main() -> Done<()> {
    if let Ok(name) = std::env::var(FIRST_CHUNK) {
        return first_chunk(&by_name(&name)?.model);
    }
    let asked = Asked::read()?;
    let found = devices().and_then(|all| all.into_iter().next().unwrap_or(Err("there is no device".into())));
    let found = match found {
        Ok(found) => found,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    let Found { name, arch, processors, memory } = &found;
    println!(
        "{name}, sm_{arch}, {processors} multiprocessors, {:.0} GiB",
        *memory as f64 / f64::from(1 << 30)
    );
    println!("CPU: {} threads, {} kernels", rayon::current_num_threads(), Backend::best().name());
    let git = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = git.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).trim().into());
    for model in &asked.models {
        let named = by_name(model)?.model;
        let own = named.config().name.clone();
        let mut report = Report { device: name.clone(), commit: commit.clone(), model: own, rows: vec![] };
        measure(&asked, &found, model, named, &mut report)?;
        if let Some(path) = &asked.csv {
            report.save(path)?;
        }
    }
    Ok(())
}

fn measure(asked: &Asked, found: &Found, name: &str, model: Arc<Model>, report: &mut Report) -> Done<()> {
    let mut text = vec![];
    read_files(&asked.folder, DISTINCT.min(asked.most) * asked.chunk_len, &mut text)?;
    let chunks: Vec<&[u8]> = text.chunks(asked.chunk_len).collect();
    let cut: Vec<usize> = chunks.par_iter().map(|chunk| model.vocabulary().tokenize(chunk).len()).collect();
    let per_byte = cut.iter().sum::<usize>() as f64 / text.len() as f64;
    println!(
        "\nmodel {}: {} multiply-adds a token in products",
        report.model,
        model.config().products_per_token()
    );
    println!("{} bytes in {} chunks, {:.2} bytes a token", text.len(), chunks.len(), 1.0 / per_byte);

    // The CPU on all its cores.
    let cpu = Neural::with_backend(model.clone(), Backend::best());
    let jobs: Vec<EncodeJob<'_>> = chunks.iter().map(|&raw| EncodeJob { raw, history: vec![] }).collect();
    let start = Instant::now();
    let payloads: Vec<Vec<u8>> =
        jobs.par_chunks(8).flat_map_iter(|jobs| cpu.encode(jobs)).map(Option::unwrap_or_default).collect();
    report.speed("CPU, encode", chunks.len(), text.len(), start.elapsed());
    let decode: Vec<DecodeJob<'_>> =
        chunks.iter().zip(&payloads).map(|(raw, payload)| job(payload, raw.len())).collect();
    let start = Instant::now();
    let parts = decode.par_chunks(LANES).flat_map_iter(|jobs| cpu.decode(&jobs.iter().collect::<Vec<_>>()));
    let decoded: Vec<_> = parts.collect();
    let of_cpu = report.speed("CPU, decode", chunks.len(), text.len(), start.elapsed());
    check(&decoded, &chunks);

    // The start, in processes of their own: once with nothing cached, and once with the compiled
    // kernel.
    let cache = tempfile::tempdir()?;
    for what in ["start until the first chunk, cold", "start until the first chunk, image kept"] {
        let mut child = Command::new(std::env::current_exe()?);
        let output = child.env(FIRST_CHUNK, name).env("XDG_CACHE_HOME", cache.path()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let millis = said.trim().parse().map_err(|_| {
            format!("the first chunk failed: {said}{}", String::from_utf8_lossy(&output.stderr))
        })?;
        report.row(what, 1, millis, "ms");
    }

    let offload = Arc::new(Offload::to(open(0)?).with_costs(Costs::given()?));
    let gpu = cpu.clone().offloading(Some(offload.clone()));
    // All chunks are the one with the most tokens, so that every lane of a batch takes as many
    // steps.
    let longest = (0..cut.len()).max_by_key(|&i| cut[i]).ok_or("the folder is empty")?;
    check(&gpu.decode(&[&decode[longest]]), &chunks[longest..=longest]);
    let one = best_of(RUNS, || check(&gpu.decode(&[&decode[longest]]), &chunks[longest..=longest]));
    let step = |time: Duration| time.as_secs_f64() * 1e6 / cut[longest] as f64;
    report.row("GPU, decode, latency", 1, one.as_secs_f64() * 1e3, "ms");
    report.row("a token's step, one chunk", 1, step(one), "us");

    // Both directions.
    check(&gpu.decode(&decode.iter().collect::<Vec<_>>()), &chunks);
    let of_gpu: Vec<Vec<u8>> = gpu.encode(&jobs).into_iter().map(Option::unwrap_or_default).collect();
    assert!(of_gpu == payloads, "payloads of GPU and CPU differ");
    archives(asked, name)?;
    report.row("payloads and archives of GPU and CPU are equal", chunks.len(), 1.0, "yes");

    let (mut fastest, mut of_steps) = (0.0f64, 0.0);
    let counts = [256, 1024, 4096, 8192, 16_384, 32_768].into_iter().filter(|&count| count < asked.most);
    for count in counts.chain([asked.most]) {
        let many: Vec<&DecodeJob<'_>> = decode.iter().cycle().take(count).collect();
        let raws: Vec<&[u8]> = chunks.iter().copied().cycle().take(count).collect();
        let time = best_of(RUNS, || check(&gpu.decode(&many), &raws));
        fastest =
            fastest.max(report.speed("GPU, decode", count, raws.iter().map(|raw| raw.len()).sum(), time));
        if count <= 4096 {
            report.row("a token's step, all chunks", count, step(time), "us");
            of_steps = 100.0 * step(one) / step(time);
        }
    }
    let many: Vec<EncodeJob<'_>> = chunks
        .iter()
        .cycle()
        .take(asked.most.min(4096))
        .map(|&raw| EncodeJob { raw, history: vec![] })
        .collect();
    let start = Instant::now();
    let coded = gpu.encode(&many).into_iter().flatten().count();
    report.speed("GPU, encode", coded, many.iter().map(|job| job.raw.len()).sum(), start.elapsed());
    report.row("GPU against all CPU cores, decode", 0, fastest / of_cpu, "times");
    report.row("share of the limit: latency of a step", 0, of_steps, "%");
    limits(found, &model, fastest * 1e6, per_byte, report);
    mounted(asked, name, &gpu, &offload, fastest, report)?;
    println!("costs: {:?}", offload.costs(&model));
    offload.warning().map_or(Ok(()), |why| Err(why.into()))
}

/// Reports which share of the int8 rate and of the memory bandwidth `speed` bytes a second are.
fn limits(found: &Found, model: &Model, speed: f64, per_byte: f64, report: &mut Report) {
    let known = DEVICES.iter().find(|(name, ..)| found.name.contains(name));
    let given = std::env::var("S3A_GPU_RATE").ok().and_then(|rate| rate.parse().ok());
    let products = model.config().products_per_token() as f64 * speed * per_byte;
    if let Some(rate) = given.or(known.map(|known| known.1)) {
        report.row("multiply-adds in products", 0, products / 1e12, "T/s");
        report.row("share of the limit: int8 rate", 0, 100.0 * products / rate, "%");
    }
    if let Some(&(_, _, memory)) = known {
        let config = model.config();
        let cache = config.layers * 4 * config.kv_heads * config.head_size * config.window.max(1);
        let limit = memory / cache as f64 / per_byte;
        report.row("at most, by keys and values from memory", 0, limit / 1e6, "MB/s");
        report.row("share of the limit: memory's speed", 0, 100.0 * speed / limit, "%");
    }
}

/// Packs the directory on the CPU and on the GPU, which must give the same bytes, and verifies each
/// archive on the other device.
fn archives(asked: &Asked, model: &str) -> Done<()> {
    let dir = tempfile::tempdir()?;
    let paths = ["cpu", "cuda"].map(|device| dir.path().join(device).with_extension("s3a"));
    for (path, device) in paths.iter().zip(["cpu", "cuda"]) {
        pack(&asked.folder, path, asked.chunk_len, model, device)?;
    }
    assert!(std::fs::read(&paths[0])? == std::fs::read(&paths[1])?, "archives of GPU and CPU differ");
    for device in ["cpu", "cuda"] {
        run(s3a().args(["verify", "-q", "--device", device]).arg(&paths[0]))?;
    }
    Ok(())
}

/// Reads a large file through a mount from its beginning to its end, beside a device that is
/// started.
#[cfg(feature = "mount")]
fn mounted(
    asked: &Asked,
    model: &str,
    gpu: &Neural,
    offload: &Offload,
    bulk: f64,
    report: &mut Report,
) -> Done<()> {
    use std::io::Read;

    use s3a::archive::{Archive, OpenOptions};
    use s3a::mount::{MountOptions, start};

    if asked.mount_bytes == 0 {
        return Ok(());
    }
    if !Path::new("/dev/fuse").exists() {
        println!("mount skipped: there is no /dev/fuse");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (source, archive, target) =
        (dir.path().join("source"), dir.path().join("packed.s3a"), dir.path().join("mnt"));
    std::fs::create_dir(&source)?;
    std::fs::create_dir(&target)?;
    let mut text = vec![];
    read_files(&asked.folder, asked.mount_bytes, &mut text)?;
    let text: Vec<u8> = text.iter().copied().cycle().take(asked.mount_bytes).collect();
    std::fs::write(source.join("file"), &text)?;
    pack(&source, &archive, asked.chunk_len, model, "cuda")?;
    let mut archive = Archive::open(&archive, &OpenOptions::default())?;
    archive.set_models(s3a::codec::Models::one(Arc::new(gpu.clone())));
    // The mount decides for itself, by the costs that were measured here.
    offload.by_costs();
    let mounted = start(archive, &target, &MountOptions::default())?;
    let mut file = std::fs::File::open(target.join("file"))?;
    let (mut read, mut part) = (Vec::with_capacity(text.len()), vec![0; 1 << 20]);
    let begin = Instant::now();
    loop {
        let len = file.read(&mut part)?;
        if len == 0 {
            break;
        }
        read.extend_from_slice(&part[..len]);
    }
    let time = begin.elapsed();
    assert!(read == text, "the mount gave other bytes");
    drop(file);
    mounted.unmount()?;
    let chunks = text.len().div_ceil(asked.chunk_len);
    let speed = report.speed("sequential read through the mount", chunks, text.len(), time);
    report.row("sequential read, share of bulk decoding", chunks, 100.0 * speed / bulk, "%");
    Ok(())
}

#[cfg(not(feature = "mount"))]
fn mounted(_: &Asked, _: &str, _: &Neural, _: &Offload, _: f64, _: &mut Report) -> Done<()> {
    println!("mount skipped: built without `mount`");
    Ok(())
}

/// The time of this process until its first chunk came from the device, in milliseconds.
fn first_chunk(model: &Arc<Model>) -> Done<()> {
    let raw = b"Four score and seven years ago our fathers brought forth, on this continent, a new nation. ";
    let cpu = Neural::with_backend(model.clone(), Backend::best());
    let payload = cpu.encode_with(raw, &[], &[])?.payload;
    let start = Instant::now();
    let gpu = cpu.offloading(Some(Arc::new(Offload::to(open(0)?))));
    check(&gpu.decode(&[&job(&payload, raw.len())]), &[raw]);
    println!("{:.1}", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

fn best_of(runs: usize, mut work: impl FnMut()) -> Duration {
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed()
    });
    times.min().unwrap_or_default()
}

fn check(decoded: &[s3a::codec::Decoded], raws: &[&[u8]]) {
    let equal = decoded.iter().zip(raws).all(|(got, raw)| got.as_deref().is_ok_and(|got| got == *raw));
    assert!(equal && decoded.len() == raws.len(), "decoded other bytes");
}

fn job(payload: &[u8], raw_len: usize) -> DecodeJob<'_> {
    DecodeJob { codec: Codec::Neural, model: 0, payload, raw_len, history: vec![], dictionary: None }
}

fn s3a() -> Command {
    Command::new(env!("CARGO_BIN_EXE_s3a"))
}

fn pack(folder: &Path, archive: &Path, chunk_len: usize, model: &str, device: &str) -> Done<()> {
    let size = chunk_len.to_string();
    let options = ["pack", "-q", "--no-check", "--embed-model", "--chunk-size", &size, "--model", model];
    run(s3a().args(options).args(["--effort", "0", "--device", device, "-o"]).arg(archive).arg(folder))
}

fn run(command: &mut Command) -> Done<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// The bytes of the files below a directory, by their paths, until there are `want`.
fn read_files(folder: &Path, want: usize, text: &mut Vec<u8>) -> std::io::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if text.len() >= want {
            break;
        }
        if path.is_dir() {
            read_files(&path, want, text)?;
        } else {
            text.extend(std::fs::read(&path)?);
        }
    }
    text.truncate(want);
    Ok(())
}
