//! What a mount is asked for: the options of `-o`, as fuse file systems and fstab have them.

use std::thread::available_parallelism;

use crate::archive::byte_size;
use crate::error::{Error, Result};

/// How to mount. A mount is always `ro,nosuid,nodev,default_permissions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Let other users in (`allow_other`).
    pub allow_other: bool,
    /// Unmount when the daemon dies (`auto_unmount`); needs fusermount3, and `allow_other` too.
    pub auto_unmount: bool,
    /// Do not run programs from it (`noexec`).
    pub noexec: bool,
    /// Mount over a folder that is not empty (`nonempty`).
    pub nonempty: bool,
    /// Owner shown for everything (`uid=`, `gid=`).
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Most bytes of decoded chunks to keep (`cachesize=`).
    pub cache_size: u64,
    /// Chunks or batches to decode at once (`workers=`); 0 is one for each core.
    pub workers: usize,
    /// Most bytes to decode ahead of a reader (`readahead=`); `None` follows the chunk size.
    pub readahead: Option<u64>,
    /// Source shown in the table of mounts (`fsname=`); `None` is the archive's path.
    pub fsname: Option<String>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            allow_other: false,
            auto_unmount: false,
            noexec: false,
            nonempty: false,
            uid: None,
            gid: None,
            cache_size: 512 << 20,
            workers: 0,
            readahead: None,
            fsname: None,
        }
    }
}

impl MountOptions {
    /// Adds the options of one `-o`, separated by commas.
    pub fn add(&mut self, list: &str) -> Result<()> {
        for option in list.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            match (name, value) {
                ("allow_other", None) => self.allow_other = true,
                ("auto_unmount", None) => self.auto_unmount = true,
                ("exec", None) => self.noexec = false,
                ("noexec", None) => self.noexec = true,
                ("nonempty", None) => self.nonempty = true,
                ("uid", Some(value)) => self.uid = Some(number(option, value)?),
                ("gid", Some(value)) => self.gid = Some(number(option, value)?),
                ("cachesize", Some(value)) => self.cache_size = size(option, value)?,
                ("workers", Some(value)) => self.workers = number(option, value)? as usize,
                ("readahead", Some(value)) => self.readahead = Some(size(option, value)?),
                ("fsname", Some(value)) => self.fsname = Some(value.to_owned()),
                (name, _) if is_implied(name) => {}
                _ => return Err(Error::Usage(format!("mount option {option:?} is not known; {KNOWN}"))),
            }
        }
        Ok(())
    }

    /// Number of workers, at least one.
    pub fn worker_count(&self) -> usize {
        // A count beyond any machine's would only cost threads.
        match self.workers {
            0 => available_parallelism().map_or(1, usize::from),
            count => count.min(256),
        }
    }
}

const KNOWN: &str = "there are allow_other, auto_unmount, exec, noexec, nonempty, uid=, gid=, cachesize=, workers=, readahead=, fsname=";

/// Options that hold anyway, that mount(8) handles itself, or that it passes on from fstab.
fn is_implied(name: &str) -> bool {
    const NAMES: [&str; 29] = [
        "ro",
        "rw",
        "nosuid",
        "nodev",
        "suid",
        "dev",
        "default_permissions",
        "defaults",
        "atime",
        "noatime",
        "relatime",
        "norelatime",
        "strictatime",
        "lazytime",
        "nolazytime",
        "diratime",
        "nodiratime",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "nofail",
        "_netdev",
        "async",
        "sync",
        "subtype",
    ];
    NAMES.contains(&name) || name.starts_with("x-") || name.starts_with("comment")
}

fn number(option: &str, value: &str) -> Result<u32> {
    value.parse().map_err(|_| Error::Usage(format!("mount option {option:?} needs a number")))
}

fn size(option: &str, value: &str) -> Result<u64> {
    let bytes = byte_size::parse(value);
    bytes.ok_or_else(|| Error::Usage(format!("mount option {option:?} needs a size such as 512m")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_fuse_and_of_fstab_are_understood() {
        let mut options = MountOptions::default();
        options.add("rw,noauto,x-systemd.automount,allow_other,uid=1000,gid=0").unwrap();
        options.add("cachesize=64m,workers=3,readahead=1MiB,noexec,,fsname=a=b").unwrap();
        let expected = MountOptions {
            allow_other: true,
            noexec: true,
            uid: Some(1000),
            gid: Some(0),
            cache_size: 64 << 20,
            workers: 3,
            readahead: Some(1 << 20),
            fsname: Some("a=b".into()),
            ..MountOptions::default()
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn options_that_make_no_sense_are_refused_by_name() {
        for bad in [
            "cachesize",
            "cachesize=",
            "cachesize=much",
            "cachesize=99999999999t",
            "uid=root",
            "uid=-1",
            "allow_other=1",
            "bogus",
        ] {
            let error = MountOptions::default().add(bad).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
            assert!(matches!(error, Error::Usage(_)));
        }
    }

    #[test]
    fn there_is_always_a_worker_and_never_an_absurd_number() {
        for workers in [0, 1, 7, usize::MAX] {
            let count = MountOptions { workers, ..MountOptions::default() }.worker_count();
            assert!((1..=1024).contains(&count));
        }
    }
}
