//! Extended attributes of objects in an open folder, symlinks included.
//!
//! The system has no call that takes a folder and a name, so they are reached through
//! `/proc/self/fd`. Where `/proc` is missing there are no attributes, which is no error.

use std::os::fd::{AsFd, AsRawFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{self, XattrFlags};
use rustix::io::{Errno, Result};

/// Names and values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Attributes that describe the machine rather than the file, or that another part of an entry holds.
const LEFT_OUT: [&[u8]; 4] = [b"security.selinux", b"security.ima", b"security.evm", b"system.nfs4_acl"];

/// Attributes that grant privileges; they are treated as suid and sgid are.
pub fn is_privilege(name: &[u8]) -> bool {
    name.starts_with(b"security.") || name.starts_with(b"trusted.")
}

/// A path that leads to an open object, for calls that take no descriptor.
pub(crate) fn proc_path(object: impl AsFd) -> Vec<u8> {
    format!("/proc/self/fd/{}", object.as_fd().as_raw_fd()).into_bytes()
}

fn name_path(at: impl AsFd, name: &[u8]) -> Vec<u8> {
    [&proc_path(at)[..], b"/", name].concat()
}

/// Reads the attributes of `name` in the folder `at`, without following a symlink.
pub fn read(at: impl AsFd, name: &[u8]) -> Result<Xattrs> {
    let path = name_path(at, name);
    read_with(&|list| fs::llistxattr(&path[..], spare_capacity(list)), &|key, value| {
        fs::lgetxattr(&path[..], key, spare_capacity(value))
    })
}

/// Reads the attributes of an open file.
pub fn read_open(file: impl AsFd) -> Result<Xattrs> {
    read_with(&|list| fs::flistxattr(&file, spare_capacity(list)), &|key, value| {
        fs::fgetxattr(&file, key, spare_capacity(value))
    })
}

type List<'a> = dyn Fn(&mut Vec<u8>) -> Result<usize> + 'a;
type Get<'a> = dyn Fn(&[u8], &mut Vec<u8>) -> Result<usize> + 'a;

fn read_with(names: &List<'_>, get: &Get<'_>) -> Result<Xattrs> {
    let mut list = Vec::with_capacity(1024);
    loop {
        match names(&mut list) {
            Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOENT | Errno::NOTDIR | Errno::NOSYS) => {
                return Ok(Vec::new());
            }
            Ok(_) => break,
            Err(Errno::RANGE) if list.capacity() < 1 << 20 => list.reserve(list.capacity() * 2),
            Err(e) => return Err(e),
        }
    }
    let mut found = Vec::new();
    for key in list.split(|&b| b == 0).filter(|key| !key.is_empty() && !LEFT_OUT.contains(key)) {
        let mut value = Vec::with_capacity(256);
        loop {
            match get(key, &mut value) {
                Ok(_) => {
                    found.push((key.to_vec(), value));
                    break;
                }
                Err(Errno::RANGE) if value.capacity() < 1 << 20 => value.reserve(value.capacity() * 2),
                // Removed since, or not ours to read.
                Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS | Errno::PERM) => break,
                Err(e) => return Err(e),
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Sets one attribute of what was opened without being used (`O_PATH`), a symlink for one.
pub fn write_path(object: impl AsFd, key: &[u8], value: &[u8]) -> Result<()> {
    fs::setxattr(&proc_path(object)[..], key, value, XattrFlags::empty())
}
