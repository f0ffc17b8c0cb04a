//! The libraries of the driver and of NVRTC, looked for when they are first needed.
//!
//! The directories of `S3A_CUDA_PATH` come first, then where the system's loader looks, then where
//! toolkits are usually installed. Only the functions named here are needed; all of them are in
//! every driver since CUDA 11.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;

use libloading::Library;

use super::fault::Fault;

const DRIVER_NAMES: &[&str] = &["libcuda.so.1", "libcuda.so"];
const NVRTC_NAMES: &[&str] = &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2"];
/// Directories that the system's loader does not search: of toolkits, and of the driver under WSL.
const FOLDERS: &[&str] = &["/usr/local/cuda/lib64", "/opt/cuda/lib64", "/usr/lib/wsl/lib"];

/// A table of functions, each loaded by its name.
macro_rules! functions {
    ($(#[$about:meta])* $table:ident { $($name:ident = $symbol:literal ($($argument:ty),*) -> $result:ty;)* }) => {
        $(#[$about])*
        pub struct $table {
            $(
                /// The library's function of this purpose.
                pub $name: unsafe extern "C" fn($($argument),*) -> $result,
            )*
            /// Keeps the library loaded, and so the functions valid.
            _library: Library,
        }

        impl $table {
            fn load(library: Library) -> Result<Self, String> {
                Ok(Self {
                    // SAFETY: the symbol is a function of this type: its name is that of one
                    // version of the interface, which never changes.
                    $($name: unsafe {
                        *library
                            .get::<unsafe extern "C" fn($($argument),*) -> $result>($symbol)
                            .map_err(|error| format!("the library is too old: {error}"))?
                    },)*
                    _library: library,
                })
            }
        }
    };
}

functions! {
    /// The driver. Devices are small numbers; contexts, modules and functions are pointers; memory
    /// is an address.
    Driver {
        init = b"cuInit" (c_uint) -> c_int;
        version = b"cuDriverGetVersion" (*mut c_int) -> c_int;
        count = b"cuDeviceGetCount" (*mut c_int) -> c_int;
        get = b"cuDeviceGet" (*mut c_int, c_int) -> c_int;
        name = b"cuDeviceGetName" (*mut c_char, c_int, c_int) -> c_int;
        total_memory = b"cuDeviceTotalMem_v2" (*mut usize, c_int) -> c_int;
        attribute = b"cuDeviceGetAttribute" (*mut c_int, c_int, c_int) -> c_int;
        retain = b"cuDevicePrimaryCtxRetain" (*mut *mut c_void, c_int) -> c_int;
        release = b"cuDevicePrimaryCtxRelease_v2" (c_int) -> c_int;
        set_current = b"cuCtxSetCurrent" (*mut c_void) -> c_int;
        synchronise = b"cuCtxSynchronize" () -> c_int;
        memory_info = b"cuMemGetInfo_v2" (*mut usize, *mut usize) -> c_int;
        allocate = b"cuMemAlloc_v2" (*mut u64, usize) -> c_int;
        free = b"cuMemFree_v2" (u64) -> c_int;
        write = b"cuMemcpyHtoD_v2" (u64, *const c_void, usize) -> c_int;
        read = b"cuMemcpyDtoH_v2" (*mut c_void, u64, usize) -> c_int;
        fill = b"cuMemsetD8_v2" (u64, u8, usize) -> c_int;
        load_module = b"cuModuleLoadData" (*mut *mut c_void, *const c_void) -> c_int;
        unload_module = b"cuModuleUnload" (*mut c_void) -> c_int;
        get_function = b"cuModuleGetFunction" (*mut *mut c_void, *mut c_void, *const c_char) -> c_int;
        set_attribute = b"cuFuncSetAttribute" (*mut c_void, c_int, c_int) -> c_int;
        launch = b"cuLaunchKernel"
            (*mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void,
             *mut *mut c_void) -> c_int;
        error_text = b"cuGetErrorString" (c_int, *mut *const c_char) -> c_int;
    }
}

functions! {
    /// The compiler.
    Nvrtc {
        version = b"nvrtcVersion" (*mut c_int, *mut c_int) -> c_int;
        create = b"nvrtcCreateProgram"
            (*mut *mut c_void, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int;
        compile = b"nvrtcCompileProgram" (*mut c_void, c_int, *const *const c_char) -> c_int;
        log_len = b"nvrtcGetProgramLogSize" (*mut c_void, *mut usize) -> c_int;
        log = b"nvrtcGetProgramLog" (*mut c_void, *mut c_char) -> c_int;
        image_len = b"nvrtcGetCUBINSize" (*mut c_void, *mut usize) -> c_int;
        image = b"nvrtcGetCUBIN" (*mut c_void, *mut c_char) -> c_int;
        destroy = b"nvrtcDestroyProgram" (*mut *mut c_void) -> c_int;
    }
}

/// The driver, initialized.
///
/// # Errors
/// `Failed` if there is no driver.
pub fn driver() -> Result<&'static Driver, Fault> {
    static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
    let load = || {
        let found = find(DRIVER_NAMES).ok_or("no NVIDIA driver is installed: there is no libcuda.so.1")?;
        let driver = Driver::load(found)?;
        // SAFETY: the call takes no pointers.
        match unsafe { (driver.init)(0) } {
            0 => Ok(driver),
            100 => Err("the NVIDIA driver finds no device".into()),
            error => Err(format!("the NVIDIA driver does not start: {}", error_text(&driver, error))),
        }
    };
    DRIVER.get_or_init(load).as_ref().map_err(|why| Fault::failed(why.clone()))
}

/// The compiler.
///
/// # Errors
/// `Failed` if there is none.
pub fn nvrtc() -> Result<&'static Nvrtc, Fault> {
    static NVRTC: OnceLock<Result<Nvrtc, String>> = OnceLock::new();
    let load = || {
        let found = find(NVRTC_NAMES).ok_or(
            "NVRTC is not installed: there is no libnvrtc.so (it comes with the CUDA toolkit, or as the Python \
             package nvidia-cuda-nvrtc; S3A_CUDA_PATH names its folder)",
        )?;
        Nvrtc::load(found)
    };
    NVRTC.get_or_init(load).as_ref().map_err(|why| Fault::failed(why.clone()))
}

/// The driver's description of an error.
pub fn error_text(driver: &Driver, error: c_int) -> String {
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: the driver sets `text` to a string that it keeps for ever, or leaves it.
    let text = unsafe {
        (driver.error_text)(error, &raw mut text);
        if text.is_null() { None } else { Some(std::ffi::CStr::from_ptr(text)) }
    };
    text.map_or_else(|| format!("error {error}"), |text| text.to_string_lossy().into_owned())
}

/// The first library that can be opened.
fn find(names: &[&str]) -> Option<Library> {
    let listed = std::env::var_os("S3A_CUDA_PATH");
    let first: Vec<PathBuf> = listed.iter().flat_map(std::env::split_paths).collect();
    let in_folders = |folders: &[PathBuf]| -> Vec<PathBuf> {
        folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name))).collect()
    };
    let last: Vec<PathBuf> = FOLDERS.iter().map(PathBuf::from).collect();
    let candidates = in_folders(&first)
        .into_iter()
        .chain(names.iter().map(PathBuf::from))
        .chain(in_folders(&last).into_iter().filter(|path| path.exists()));
    // SAFETY: these libraries may be opened by any program, and what they do on being opened is
    // their responsibility. The directories that come first are the user's own choice.
    candidates.into_iter().find_map(|path| unsafe { Library::new(path) }.ok())
}
