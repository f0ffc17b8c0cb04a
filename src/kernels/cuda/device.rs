//! A device: its memory, and launches of kernels on it.

use std::ffi::{CString, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use super::fault::Fault;
use super::library::{Driver, driver, error_text};

/// Attributes of a device.
const PROCESSORS: c_int = 16;
const MAJOR: c_int = 75;
const MINOR: c_int = 76;
const SHARED: c_int = 97;
/// The attribute of a function that lets it have more shared memory than 48 KiB.
const DYNAMIC_SHARED: c_int = 8;
const OUT_OF_MEMORY: c_int = 2;
/// The oldest instruction set that has tensor cores for bytes.
const LEAST_ARCH: u32 = 75;

/// One device with its context, which all threads share.
#[derive(Debug)]
pub struct Device {
    ordinal: c_int,
    context: *mut c_void,
    name: String,
    arch: u32,
    processors: u32,
    shared: usize,
    memory: usize,
    driver: &'static Driver,
}

// SAFETY: contexts, modules and functions may be used by any thread that has made the context
// current, which every method does; the driver locks what it must.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Driver")
    }
}

/// Turns a code that the driver returned into a result.
fn check(driver: &Driver, code: c_int, what: &str) -> Result<(), Fault> {
    match code {
        0 => Ok(()),
        OUT_OF_MEMORY => Err(Fault::Memory),
        code => Err(Fault::failed(format!("{what} failed: {}", error_text(driver, code)))),
    }
}

impl Device {
    /// How many devices there are, whether they can be used or not.
    ///
    /// # Errors
    /// `Failed` if there is no driver or it finds no device.
    pub fn count() -> Result<u32, Fault> {
        let driver = driver()?;
        let mut count = 0;
        // SAFETY: `count` outlives the call.
        check(driver, unsafe { (driver.count)(&raw mut count) }, "counting devices")?;
        match u32::try_from(count) {
            Ok(0) | Err(_) => Err(Fault::failed("the NVIDIA driver finds no device")),
            Ok(count) => Ok(count),
        }
    }

    /// The version of CUDA that the driver supports, as `major * 1000 + minor * 10`.
    pub fn driver_version() -> Result<u32, Fault> {
        let driver = driver()?;
        let mut version = 0;
        // SAFETY: `version` outlives the call.
        check(driver, unsafe { (driver.version)(&raw mut version) }, "asking for the driver's version")?;
        Ok(version.unsigned_abs())
    }

    /// Opens the device with this number.
    ///
    /// # Errors
    /// `Failed` if there is no such device, or it is too old.
    pub fn open(ordinal: u32) -> Result<Arc<Self>, Fault> {
        let (driver, count) = (driver()?, Self::count()?);
        if ordinal >= count {
            return Err(Fault::failed(format!("there are {count} devices, numbered from 0")));
        }
        let (mut device, mut bytes, mut context) = (0, 0, null_mut());
        let mut name = [0u8; 128];
        // SAFETY: all that is written to outlives the calls; `name` has the length that is told.
        unsafe {
            check(driver, (driver.get)(&raw mut device, ordinal as c_int), "opening the device")?;
            let named = (driver.name)(name.as_mut_ptr().cast(), name.len() as c_int - 1, device);
            check(driver, named, "asking for the device's name")?;
            check(driver, (driver.total_memory)(&raw mut bytes, device), "asking for the device's memory")?;
        }
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: `value` outlives the call.
            let code = unsafe { (driver.attribute)(&raw mut value, which, device) };
            check(driver, code, "asking for a property of the device").map(|()| value.unsigned_abs())
        };
        let arch = attribute(MAJOR)? * 10 + attribute(MINOR)?;
        let name = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
        if arch < LEAST_ARCH {
            return Err(Fault::failed(format!("{name} is too old: it has no tensor cores for bytes")));
        }
        let (processors, shared) = (attribute(PROCESSORS)?, attribute(SHARED)? as usize);
        // SAFETY: `context` outlives the call.
        check(driver, unsafe { (driver.retain)(&raw mut context, device) }, "starting the device")?;
        Ok(Arc::new(Self { ordinal: device, context, name, arch, processors, shared, memory: bytes, driver }))
    }

    /// The device's name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's instruction set, such as 90 for compute capability 9.0.
    pub fn arch(&self) -> u32 {
        self.arch
    }

    /// Number of multiprocessors.
    pub fn processors(&self) -> u32 {
        self.processors
    }

    /// The most bytes of shared memory that a block can have.
    pub fn shared(&self) -> usize {
        self.shared
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Makes this device the one that calls of this thread refer to.
    fn current(&self) -> Result<(), Fault> {
        // SAFETY: the context is retained as long as `self` lives.
        self.check(unsafe { (self.driver.set_current)(self.context) }, "switching to the device")
    }

    fn check(&self, code: c_int, what: &str) -> Result<(), Fault> {
        check(self.driver, code, what)
    }

    /// Bytes of memory that are not allocated.
    pub fn free_memory(&self) -> Result<usize, Fault> {
        self.current()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both outlive the call.
        let code = unsafe { (self.driver.memory_info)(&raw mut free, &raw mut total) };
        self.check(code, "asking for free memory").map(|()| free)
    }

    /// Allocates `len` bytes of memory, whose contents are undefined.
    ///
    /// # Errors
    /// `Memory` if there is not enough.
    pub fn allocate(self: &Arc<Self>, len: usize) -> Result<Memory, Fault> {
        self.current()?;
        let (len, mut place) = (len.max(1), 0);
        // SAFETY: `place` outlives the call.
        self.check(unsafe { (self.driver.allocate)(&raw mut place, len) }, "taking memory")?;
        Ok(Memory { device: self.clone(), place, len })
    }

    /// Loads a compiled image and finds the kernel `name` in it.
    pub fn load(self: &Arc<Self>, image: &[u8], name: &str) -> Result<Kernel, Fault> {
        self.current()?;
        let name = CString::new(name).map_err(|_| Fault::failed("a kernel's name holds a zero byte"))?;
        let (mut module, mut function) = (null_mut(), null_mut());
        // SAFETY: the image is whole (the cache keeps a hash of it) and the driver copies it.
        let code = unsafe { (self.driver.load_module)(&raw mut module, image.as_ptr().cast()) };
        self.check(code, "loading the kernel")?;
        let mut kernel = Kernel { device: self.clone(), module, function };
        // SAFETY: the module was loaded, the name ends in zero, `function` outlives the call.
        let code = unsafe { (self.driver.get_function)(&raw mut function, module, name.as_ptr()) };
        self.check(code, "finding the kernel")?;
        kernel.function = function;
        Ok(kernel)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: it was retained once; nothing that belongs to it lives on, since all hold an
        // `Arc` of it.
        unsafe { (self.driver.release)(self.ordinal) };
    }
}

/// Memory of a device, freed on drop.
#[derive(Debug)]
pub struct Memory {
    device: Arc<Device>,
    place: u64,
    len: usize,
}

impl Memory {
    /// The address of the memory on the device.
    pub fn place(&self) -> u64 {
        self.place
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes `bytes` to the device, at offset `at`.
    pub fn write(&self, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        self.bounds(at, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.device.current()?;
        let driver = self.device.driver;
        // SAFETY: the range lies within this memory; the call returns when `bytes` are no longer
        // needed.
        let code = unsafe { (driver.write)(self.place + at as u64, bytes.as_ptr().cast(), bytes.len()) };
        self.device.check(code, "writing to the device")
    }

    /// Reads from the device, from offset `at` on, into all of `bytes`.
    pub fn read(&self, at: usize, bytes: &mut [u8]) -> Result<(), Fault> {
        self.bounds(at, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.device.current()?;
        let driver = self.device.driver;
        // SAFETY: the range lies within this memory, and the call returns when `bytes` are written.
        let code = unsafe {
            (driver.read)(bytes.as_mut_ptr().cast::<c_void>(), self.place + at as u64, bytes.len())
        };
        self.device.check(code, "reading from the device")
    }

    /// Sets `len` bytes from offset `at` on to `value`.
    pub fn fill(&self, at: usize, len: usize, value: u8) -> Result<(), Fault> {
        self.bounds(at, len)?;
        if len == 0 {
            return Ok(());
        }
        self.device.current()?;
        // SAFETY: the range lies within this memory.
        let code = unsafe { (self.device.driver.fill)(self.place + at as u64, value, len) };
        self.device.check(code, "clearing memory")
    }

    fn bounds(&self, at: usize, len: usize) -> Result<(), Fault> {
        let fits = at.checked_add(len).is_some_and(|end| end <= self.len);
        if fits { Ok(()) } else { Err(Fault::failed("a place beyond the end of the device's memory")) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // If the device is lost, its memory is lost with it.
        if self.device.current().is_ok() {
            // SAFETY: it was taken and is given back once.
            unsafe { (self.device.driver.free)(self.place) };
        }
    }
}

/// A kernel that can be launched.
#[derive(Debug)]
pub struct Kernel {
    device: Arc<Device>,
    module: *mut c_void,
    function: *mut c_void,
}

// SAFETY: as for `Device`.
unsafe impl Send for Kernel {}
// SAFETY: as for `Device`.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Runs `grid` blocks of `threads` threads with `shared` bytes of shared memory each, and waits
    /// for their end. The arguments are addresses and numbers; the kernel can reach the device's
    /// memory only.
    pub fn run(&self, grid: u32, threads: u32, shared: usize, arguments: [u64; 5]) -> Result<(), Fault> {
        let (device, driver) = (&self.device, self.device.driver);
        device.current()?;
        let too_much = |_| Fault::failed("the kernel wants too much shared memory");
        let bytes = c_int::try_from(shared).map_err(too_much)?;
        let mut arguments = arguments;
        let mut places = arguments.each_mut().map(|argument| std::ptr::from_mut(argument).cast::<c_void>());
        // SAFETY: the function belongs to the module, which lives as long as `self`; it takes five
        // arguments of eight bytes, which the driver copies before the call returns.
        unsafe {
            device.check(
                (driver.set_attribute)(self.function, DYNAMIC_SHARED, bytes),
                "preparing the kernel",
            )?;
            let code = (driver.launch)(
                self.function,
                grid,
                1,
                1,
                threads,
                1,
                1,
                bytes.unsigned_abs(),
                null_mut(),
                places.as_mut_ptr(),
                null_mut(),
            );
            device.check(code, "starting the kernel")?;
            device.check((driver.synchronise)(), "running the kernel")
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.device.current().is_ok() {
            // SAFETY: it was loaded and is unloaded once.
            unsafe { (self.device.driver.unload_module)(self.module) };
        }
    }
}
