//! Compiles the kernel for a device and the sizes of a model, once: what NVRTC makes is cached in
//! the directory `s3a` of the user's cache directory (`$XDG_CACHE_HOME`, or `~/.cache`).
//!
//! A cached file is named by the hash of everything that determines it and begins with the hash of
//! its contents, so that a broken or truncated file is noticed and made anew. Nothing depends on
//! the cache.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fault::Fault;
use super::library::{Nvrtc, nvrtc};

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Image {
    /// The binary, as the driver loads it.
    pub bytes: Vec<u8>,
    /// Whether it came out of the cache.
    pub kept: bool,
}

/// The version of the compiler that was found: major and minor.
///
/// # Errors
/// `Failed` if there is none.
pub fn compiler() -> Result<(u32, u32), Fault> {
    let (nvrtc, mut major, mut minor) = (nvrtc()?, 0, 0);
    // SAFETY: both outlive the call.
    match unsafe { (nvrtc.version)(&raw mut major, &raw mut minor) } {
        0 => Ok((major.unsigned_abs(), minor.unsigned_abs())),
        error => Err(Fault::failed(format!("NVRTC does not start: error {error}"))),
    }
}

/// The kernel compiled for instruction set `arch` (such as 90), with macros such as
/// `("S3A_WIDTH", "128")`. With `fresh`, a cached kernel is ignored.
///
/// # Errors
/// `Failed` if there is no compiler; also, with the compiler's message, if the source is wrong.
pub fn compile(arch: u32, macros: &[(String, String)], fresh: bool) -> Result<Image, Fault> {
    let mut options = vec![format!("--gpu-architecture=sm_{arch}"), "--std=c++17".into()];
    options.extend(macros.iter().map(|(name, value)| format!("-D{name}={value}")));
    let source = SOURCE.concat();
    let kept = cache_file(&source, &options);
    if let (Some(bytes), false) = (kept.as_deref().and_then(read), fresh) {
        return Ok(Image { bytes, kept: true });
    }
    let bytes = Program::new(nvrtc()?, &source)?.compile(&options)?;
    if let Some(path) = kept {
        keep(&path, &bytes);
    }
    Ok(Image { bytes, kept: false })
}

/// The path at which the result of this compilation is cached.
fn cache_file(source: &str, options: &[String]) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(source).chain(options.iter().map(String::as_str)) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    Some(folder.join("s3a").join(format!("{}.cubin", &hasher.finalize().to_hex()[..32])))
}

/// The contents of a cached file, if it is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    let file = std::fs::read(path).ok()?;
    let (hash, bytes) = file.split_at_checked(blake3::OUT_LEN)?;
    (blake3::hash(bytes).as_bytes() == hash).then(|| bytes.to_vec())
}

/// Caches what was compiled, if that is possible.
fn keep(path: &Path, bytes: &[u8]) {
    let Some(folder) = path.parent() else { return };
    // Other threads of this process may do the same.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let new = path.with_extension(format!("{}.{number}.new", std::process::id()));
    let write = || {
        std::fs::create_dir_all(folder)?;
        std::fs::write(&new, [blake3::hash(bytes).as_bytes(), bytes].concat())?;
        std::fs::rename(&new, path)
    };
    if write().is_err() {
        // A cache that cannot be written is simply not used.
        let _ = std::fs::remove_file(&new);
    }
}

/// A program of the compiler.
struct Program {
    nvrtc: &'static Nvrtc,
    handle: *mut c_void,
}

impl Program {
    fn new(nvrtc: &'static Nvrtc, source: &str) -> Result<Self, Fault> {
        let source =
            CString::new(source).map_err(|_| Fault::failed("the kernel's source holds a zero byte"))?;
        let mut handle = null_mut();
        let (none, headers) = (std::ptr::null(), 0);
        // SAFETY: the strings end in zero and are copied; `handle` outlives the call.
        let code = unsafe {
            (nvrtc.create)(&raw mut handle, source.as_ptr(), c"s3a.cu".as_ptr(), headers, none, none)
        };
        if code == 0 {
            Ok(Self { nvrtc, handle })
        } else {
            Err(Fault::failed(format!("NVRTC: error {code}")))
        }
    }

    fn compile(&self, options: &[String]) -> Result<Vec<u8>, Fault> {
        let options: Vec<CString> =
            options.iter().filter_map(|option| CString::new(option.as_str()).ok()).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program was made; there are as many options as it is told.
        let code = unsafe { (self.nvrtc.compile)(self.handle, pointers.len() as c_int, pointers.as_ptr()) };
        if code != 0 {
            let log = self.bytes(self.nvrtc.log_len, self.nvrtc.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned();
            return Err(Fault::failed(format!("NVRTC does not compile the kernel (error {code}): {log}")));
        }
        let image = self.bytes(self.nvrtc.image_len, self.nvrtc.image).filter(|image| !image.is_empty());
        image.ok_or_else(|| Fault::failed("NVRTC gives no result"))
    }

    fn bytes(
        &self,
        len: unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int,
        get: unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int,
    ) -> Option<Vec<u8>> {
        let mut size = 0;
        // SAFETY: `size` outlives the call.
        if unsafe { len(self.handle, &raw mut size) } != 0 {
            return None;
        }
        let mut bytes = vec![0u8; size];
        // SAFETY: there is room for `size` bytes, as the compiler has just said.
        let code = unsafe { get(self.handle, bytes.as_mut_ptr().cast()) };
        (code == 0).then_some(bytes)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was made and is destroyed once.
        unsafe { (self.nvrtc.destroy)(&raw mut self.handle) };
    }
}

/// The kernel's source, in the order in which its parts need each other.
pub(crate) const SOURCE: &[&str] = &[
    include_str!("source/device.cuh"),
    include_str!("source/arith.cuh"),
    include_str!("source/layout.cuh"),
    include_str!("source/rows.cuh"),
    include_str!("source/attention.cuh"),
    include_str!("source/matcher.cuh"),
    include_str!("source/coder.cuh"),
    include_str!("source/decode.cu"),
];
