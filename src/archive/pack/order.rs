//! The order in which files are packed: those that are alike become neighbors.
//!
//! Chunks are small and each looks back on a few others nearby at most, so what counts is what
//! stands within some hundred KiB. Files of one kind (extension) stand together; among them those
//! whose very name is frequent, such as `Cargo.toml`, stand together by that name, and the rest by
//! path, since files of one folder share their subject. What is already compressed comes last.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::found::Found;
use crate::archive::path::{extension, split};
use crate::wire::entry::Kind;

/// How many files of one name make the name a kind of its own.
const FREQUENT: u32 = 4;

/// Extensions of formats that are compressed in themselves.
const COMPRESSED: [&[u8]; 41] = [
    b"7z", b"aac", b"apk", b"avif", b"br", b"bz2", b"cab", b"crate", b"deb", b"docx", b"epub", b"flac",
    b"gif", b"gz", b"heic", b"jar", b"jpeg", b"jpg", b"lz4", b"lzma", b"m4a", b"mkv", b"mov", b"mp3", b"mp4",
    b"odt", b"ogg", b"opus", b"png", b"pptx", b"rar", b"rpm", b"s3a", b"tgz", b"webm", b"webp", b"whl",
    b"woff2", b"xlsx", b"xz", b"zst",
];

/// What a file is sorted by; the path last, which makes the order total.
struct Key<'a> {
    compressed: bool,
    extension: &'a [u8],
    frequent_name: &'a [u8],
    path: &'a [u8],
}

impl Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compressed
            .cmp(&other.compressed)
            .then_with(|| cmp_caseless(self.extension, other.extension))
            .then_with(|| cmp_caseless(self.frequent_name, other.frequent_name))
            .then_with(|| crate::archive::path::cmp_paths(self.path, other.path))
    }
}

/// Positions of the entries in the order in which they are to be packed: everything without
/// content as it comes, then files with content, alike ones together.
pub fn packing_order(entries: &[Found]) -> Vec<u32> {
    let mut names: HashMap<&[u8], u32> = HashMap::new();
    let has_content = |found: &Found| matches!(found.entry.kind, Kind::File { size: 1.., .. });
    for found in entries.iter().filter(|found| has_content(found)) {
        *names.entry(split(&found.entry.path).1).or_default() += 1;
    }
    let (mut order, mut files) = (Vec::with_capacity(entries.len()), Vec::new());
    for (at, found) in (0u32..).zip(entries) {
        if !has_content(found) {
            order.push(at);
            continue;
        }
        let path = found.entry.path.as_slice();
        let name = split(path).1;
        let extension = extension(name);
        let frequent = names.get(name).is_some_and(|&count| count >= FREQUENT);
        let frequent_name = if frequent { name } else { b"" };
        let compressed = is_compressed(name);
        files.push((Key { compressed, extension, frequent_name, path }, at));
    }
    files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    order.extend(files.into_iter().map(|(_, at)| at));
    order
}

/// Whether a file of this name is of a kind that is compressed in itself.
pub(crate) fn is_compressed(name: &[u8]) -> bool {
    let extension = extension(name);
    COMPRESSED.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

fn cmp_caseless(a: &[u8], b: &[u8]) -> Ordering {
    let lower = |byte: &u8| byte.to_ascii_lowercase();
    a.iter().map(lower).cmp(b.iter().map(lower))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::entry::{Entry, Timestamp};

    fn file(path: &str, size: u64) -> Found {
        let kind = Kind::File { size, extents: Vec::new(), hash: [0; 16] };
        let entry = Entry {
            path: path.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        Found { entry, root: 0, object: (0, 0) }
    }

    #[test]
    fn files_of_a_kind_and_of_a_frequent_name_are_neighbors() {
        let paths = [
            "a/empty",
            "a/Cargo.toml",
            "a/x.rs",
            "a/z.png",
            "b/Cargo.toml",
            "b/y.RS",
            "c/Cargo.toml",
            "c/other.toml",
            "d/Cargo.toml",
            "d/log.1",
            "d/x.log",
            "e/noext",
        ];
        let entries: Vec<_> = paths.iter().map(|p| file(p, u64::from(*p != "a/empty"))).collect();
        let order: Vec<_> = packing_order(&entries).into_iter().map(|at| paths[at as usize]).collect();
        assert_eq!(
            order,
            [
                "a/empty",
                "d/log.1",
                "e/noext",
                "d/x.log",
                "a/x.rs",
                "b/y.RS",
                "c/other.toml",
                "a/Cargo.toml",
                "b/Cargo.toml",
                "c/Cargo.toml",
                "d/Cargo.toml",
                "a/z.png"
            ]
        );
    }

    #[test]
    fn extensions_are_what_follows_the_last_dot_that_is_no_number() {
        for (name, kind) in [
            ("a.rs", "rs"),
            ("a.log.12", "log"),
            (".profile", ""),
            ("a.", ""),
            ("lib.so.1.2", "so"),
            ("x", ""),
        ] {
            assert_eq!(extension(name.as_bytes()), kind.as_bytes(), "{name}");
        }
    }
}
