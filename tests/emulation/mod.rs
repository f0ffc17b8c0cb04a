//! A driver and an NVRTC whose device is the host (`driver.cpp`, `nvrtc.cpp`, `prelude.h`), for
//! tests of the GPU backend without a GPU. The host's C++ compiler builds them, where there is one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use s3a::model::Model;
use s3a::model::config::Config;
use s3a::model::sample::{Draw, Random, model_file};

/// Flags of the compiler and variables of the process with which reads and writes out of bounds,
/// and overflows, end a test; `None` where the compiler has no sanitizers.
#[allow(dead_code)]
pub fn sanitized() -> Option<Vec<(&'static str, String)>> {
    let library = Command::new("c++").arg("-print-file-name=libasan.so").output().ok()?;
    let library = String::from_utf8(library.stdout).ok()?.trim().to_owned();
    if !Path::new(&library).is_absolute() {
        return None;
    }
    let flags = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer";
    Some(vec![
        ("S3A_EMULATED_FLAGS", flags.into()),
        ("LD_PRELOAD", library),
        ("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0".into()),
    ])
}

/// The directory with both libraries, for `S3A_CUDA_PATH`; `None` without a C++ compiler.
///
/// It is built once in a process, and its name depends on the sources, since another test or test
/// program may be loading the libraries. Kernels that were compiled with the same prelude may be
/// cached there.
pub fn libraries() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> Option<PathBuf> {
    let version =
        Command::new("c++").arg("--version").output().ok().filter(|output| output.status.success())?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulation");
    let prelude = source.join("prelude.h");
    let flags = ["-std=c++20", "-O2", "-shared", "-fPIC"].map(str::to_owned);
    let flags = [&flags[..], &[format!("-DS3A_PRELUDE=\"{}\"", prelude.display())]].concat();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&version.stdout).update(flags.join(" ").as_bytes());
    for file in ["driver.cpp", "nvrtc.cpp", "prelude.h"] {
        hasher.update(&std::fs::read(source.join(file)).unwrap());
    }
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = place.join(format!("emulation-{}", &hasher.finalize().to_hex()[..16]));
    if folder.exists() {
        return Some(folder);
    }
    let new = tempfile::tempdir_in(place).unwrap();
    for (file, library) in [("driver.cpp", "libcuda.so.1"), ("nvrtc.cpp", "libnvrtc.so")] {
        let made = Command::new("c++")
            .args(&flags)
            .arg(source.join(file))
            .arg("-o")
            .arg(new.path().join(library))
            .arg("-ldl")
            .status();
        assert!(made.unwrap().success(), "{file} does not compile");
    }
    // The directory appears as a whole. Another program may have been first; what it built is the
    // same.
    if let Err(error) = std::fs::rename(new.path(), &folder) {
        assert!(folder.exists(), "{error}");
    }
    Some(folder)
}

/// The file of a model so small that its emulation is fast.
#[allow(dead_code)]
pub fn tiny() -> Vec<u8> {
    let mut config = Config::new("tiny", 16, 1, 1100);
    (config.head_size, config.ff, config.window) = (8, 16, 8);
    (config.orders, config.copy) = (vec![1, 3], true);
    model_file(config, Draw::Even, 3).unwrap()
}

/// Bytes that even a model that knows nothing codes in fewer bytes than zstd: `count` long tokens
/// of five bytes each.
#[allow(dead_code)]
pub fn words(model: &Model, random: &mut Random, count: usize) -> Vec<u8> {
    let tokens = 0..model.config().vocab as u16;
    let long: Vec<&[u8]> =
        tokens.map(|token| model.vocabulary().token(token)).filter(|t| t.len() == 5).collect();
    (0..count).flat_map(|_| long[random.below(long.len() as u32) as usize]).copied().collect()
}
