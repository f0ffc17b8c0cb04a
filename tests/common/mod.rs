//! What the tests share: the comparison of trees, running the command, and test data.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags};

/// All properties of one object that an archive must preserve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u64),
    pub nlink: u64,
    pub size: u64,
    /// The content of a file or target of a symlink, hashed.
    pub content: [u8; 32],
    /// For files, the first path with the same inode.
    pub same_as: Vec<u8>,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// All objects of a tree by path; the root's path is empty.
pub fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, Object> {
    let mut objects = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let top = fs::openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    objects.insert(Vec::new(), object(&top, b".", b"", &mut inodes));
    walk(top, &[], &mut objects, &mut inodes);
    objects
}

fn walk(
    folder: OwnedFd,
    path: &[u8],
    objects: &mut BTreeMap<Vec<u8>, Object>,
    inodes: &mut BTreeMap<(u64, u64), Vec<u8>>,
) {
    let mut names: Vec<Vec<u8>> =
        Dir::read_from(&folder).unwrap().map(|e| e.unwrap().file_name().to_bytes().to_vec()).collect();
    names.retain(|name| name != b"." && name != b"..");
    names.sort();
    for name in names {
        let below = if path.is_empty() { name.clone() } else { [path, &name].join(&b'/') };
        let found = object(&folder, &name, &below, inodes);
        let is_dir = FileType::from_raw_mode(found.mode) == FileType::Directory;
        objects.insert(below.clone(), found);
        if is_dir {
            walk(
                fs::openat(
                    &folder,
                    &name,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
                    Mode::empty(),
                )
                .unwrap(),
                &below,
                objects,
                inodes,
            );
        }
    }
}

fn object(folder: &OwnedFd, name: &[u8], path: &[u8], inodes: &mut BTreeMap<(u64, u64), Vec<u8>>) -> Object {
    let stat = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let kind = FileType::from_raw_mode(stat.st_mode);
    let content = match kind {
        FileType::RegularFile => {
            let file = fs::openat(folder, name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty()).unwrap();
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(std::fs::File::from(file)).unwrap();
            *hasher.finalize().as_bytes()
        }
        FileType::Symlink => {
            *blake3::hash(fs::readlinkat(folder, name, Vec::new()).unwrap().as_bytes()).as_bytes()
        }
        _ => [0; 32],
    };
    let is_file = kind == FileType::RegularFile;
    let same_as = if is_file {
        inodes.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.to_vec()).clone()
    } else {
        Vec::new()
    };
    Object {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        nlink: if is_file { stat.st_nlink } else { 0 },
        size: if is_file { stat.st_size as u64 } else { 0 },
        content,
        same_as,
        xattrs: xattrs(folder, name),
    }
}

fn xattrs(folder: &OwnedFd, name: &[u8]) -> Vec<(String, Vec<u8>)> {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let mut list = vec![0; 4096];
    let len = fs::llistxattr(&path[..], &mut list[..]).unwrap_or(0);
    let mut found = Vec::new();
    for key in
        list[..len].split(|&b| b == 0).filter(|key| !key.is_empty() && !key.starts_with(b"security.selinux"))
    {
        let mut value = vec![0; 4096];
        let len = fs::lgetxattr(&path[..], key, &mut value[..]).unwrap();
        found.push((String::from_utf8(key.to_vec()).unwrap(), value[..len].to_vec()));
    }
    found.sort();
    found
}

/// Fails with the paths that differ.
pub fn assert_same(a: &BTreeMap<Vec<u8>, Object>, b: &BTreeMap<Vec<u8>, Object>) {
    for path in a.keys().chain(b.keys()) {
        assert_eq!(a.get(path), b.get(path), "{:?}", String::from_utf8_lossy(path));
    }
}

/// Runs the command in a directory, without the caller's environment.
pub fn s3a<S: AsRef<OsStr>>(folder: &Path, args: &[S]) -> Output {
    command(folder).args(args).output().unwrap()
}

/// The command, ready for arguments and pipes. It packs without a model unless told otherwise.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_s3a"));
    command.current_dir(folder).env_remove("SOURCE_DATE_EPOCH").env("NO_COLOR", "1").env("S3A_MODEL", "none");
    command
}

/// Fails unless the command ended with `code`, and then shows what it printed. Returns its
/// messages.
pub fn expect(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}{}", String::from_utf8_lossy(&output.stdout));
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Bytes that no codec can shorten; the same for each seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Text with repetitions; the same for each seed.
pub fn prose(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 12] = [
        "the ", "archive ", "of ", "a ", "chunk ", "is ", "read ", "at ", "random ", "and\n", "written ",
        "once. ",
    ];
    let mut text = Vec::with_capacity(len + 16);
    for byte in noise(seed, len) {
        text.extend_from_slice(WORDS[usize::from(byte) % WORDS.len()].as_bytes());
        if text.len() >= len {
            break;
        }
    }
    text.truncate(len);
    text
}

/// A path below a directory from the bytes of a name.
pub fn path(folder: &Path, name: &[u8]) -> PathBuf {
    folder.join(OsStr::from_bytes(name))
}

/// Writes a file and makes the directories above it.
pub fn put(folder: &Path, name: &[u8], bytes: &[u8]) {
    let path = path(folder, name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A directory of `tests/data`; `None`, and says so, where the crate was packed without it.
pub fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    if !path.exists() {
        let thread = std::thread::current();
        println!(
            "skipped: {} (tests/data/{name} is not in the packed crate)",
            thread.name().unwrap_or_default()
        );
        return None;
    }
    Some(path)
}
