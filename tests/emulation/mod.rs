//! A driver and an NVRTC whose device is the host (`driver.cpp`, `nvrtc.cpp`, `prelude.h`), for tests of the GPU
//! backend without a GPU. They are built by the host's C++ compiler where there is one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Flags of the compiler and variables of the process with which reads and writes out of bounds, and overflows,
/// end a test; `None` where the compiler has no sanitizers.
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

/// The folder with both libraries, for `S3A_CUDA_PATH`; `None` without a C++ compiler.
///
/// Built once in a process: another test may be loading them.
pub fn libraries() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> Option<PathBuf> {
    let has = Command::new("c++").arg("--version").output().is_ok_and(|output| output.status.success());
    if !has {
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulation");
    // Test programs may run beside each other, so each process has its own.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("emulation-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (file, library) in [("driver.cpp", "libcuda.so.1"), ("nvrtc.cpp", "libnvrtc.so")] {
        let made = Command::new("c++")
            .args(["-std=c++20", "-O2", "-shared", "-fPIC"])
            .arg(format!("-DS3A_PRELUDE=\"{}\"", source.join("prelude.h").display()))
            .arg(source.join(file))
            .arg("-o")
            .arg(folder.join(library))
            .arg("-ldl")
            .status();
        assert!(made.unwrap().success(), "{file} does not compile");
    }
    Some(folder)
}
