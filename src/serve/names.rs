//! What the path of a URL names in an archive.

use std::collections::BTreeMap;

use crate::archive::read::archive::Archive;
use crate::wire::entry::{EntryId, Kind};

/// Symlinks on the way to one object.
const LINKS: usize = 40;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    File(EntryId),
    /// By its path, since it need not have an entry.
    Directory(Vec<u8>),
}

/// A line of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub is_directory: bool,
    /// Not of a directory that has no entry.
    pub entry: Option<EntryId>,
}

/// The bytes that a path of a URL stands for; `None` if an escape is broken.
pub(super) fn unescape(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        bytes.push((digit(0)? * 16 + digit(1)?) as u8);
        rest = &after[2..];
    }
    Some(bytes)
}

/// A name as a part of a URL: all but letters, digits and `-._~` is escaped, so that no name reads as a scheme,
/// a query or another directory.
pub(super) fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text
}

/// Follows a path through directories and symlinks. Links that leave the archive lead nowhere.
pub(super) fn resolve(archive: &Archive, path: &[u8]) -> Option<Named> {
    let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
    let mut here: Vec<u8> = Vec::new();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == b".." {
            let parent = here.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
            if here.is_empty() {
                return None;
            }
            here.truncate(parent);
            continue;
        }
        let below = join(&here, &name);
        match archive.lookup(&below).and_then(|id| Some((id, &archive.entry(id)?.kind))) {
            Some((_, Kind::Directory)) => here = below,
            Some((_, Kind::Symlink { target })) => {
                links += 1;
                if links > LINKS || target.starts_with(b"/") {
                    return None;
                }
                rest.extend(components(target).rev().map(<[u8]>::to_vec));
            }
            Some((id, Kind::File { .. } | Kind::Hardlink { .. })) => {
                return rest.is_empty().then_some(Named::File(id));
            }
            Some(_) => return None,
            None if below_of(archive, &below).is_some() => here = below,
            None => return None,
        }
    }
    Some(Named::Directory(here))
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, name].join(&b'/') }
}

/// Where in `by_path` the entries below a directory begin, if there are any.
fn below_of(archive: &Archive, directory: &[u8]) -> Option<usize> {
    let prefix = prefix(directory);
    let at = first_from(archive, 0, &prefix);
    path_at(archive, at)?.starts_with(&prefix).then_some(at)
}

/// What the paths below a directory begin with.
fn prefix(directory: &[u8]) -> Vec<u8> {
    if directory.is_empty() { Vec::new() } else { [directory, b"/"].concat() }
}

/// The first place in `by_path` from `from` on whose path is not before `path`.
fn first_from(archive: &Archive, from: usize, path: &[u8]) -> usize {
    let rest = archive.by_path().get(from..).unwrap_or_default();
    from + rest.partition_point(|id| archive.entry(*id).is_some_and(|entry| entry.path[..] < *path))
}

fn path_at(archive: &Archive, at: usize) -> Option<&[u8]> {
    Some(&archive.entry(*archive.by_path().get(at)?)?.path)
}

/// What a directory holds, by name: files, directories, and symlinks that lead to either.
pub(super) fn children(archive: &Archive, directory: &[u8]) -> BTreeMap<Vec<u8>, Child> {
    let mut children = BTreeMap::new();
    let prefix = prefix(directory);
    let Some(mut at) = below_of(archive, directory) else { return children };
    while let Some(&id) = archive.by_path().get(at) {
        let Some(entry) = archive.entry(id) else { break };
        let Some(below) = entry.path.strip_prefix(&prefix[..]) else { break };
        at += 1;
        if let Some(end) = below.iter().position(|&byte| byte == b'/') {
            // A directory, of which all that is below is passed over.
            let name = below[..end].to_vec();
            let after = [&prefix[..], &name, b"0"].concat();
            children.entry(name).or_insert(Child { is_directory: true, entry: None });
            at = first_from(archive, at, &after);
            continue;
        }
        if below.is_empty() {
            // The root.
            continue;
        }
        let is_directory = match &entry.kind {
            Kind::Directory => true,
            Kind::File { .. } | Kind::Hardlink { .. } => false,
            Kind::Symlink { .. } => match resolve(archive, &entry.path) {
                Some(named) => matches!(named, Named::Directory(_)),
                None => continue,
            },
            _ => continue,
        };
        children.insert(below.to_vec(), Child { is_directory, entry: Some(id) });
    }
    children
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_bytes_come_back() {
        let name: Vec<u8> = (1..=255).filter(|&byte| byte != b'/').collect();
        assert_eq!(unescape(&escape(&name)).unwrap(), name);
        assert_eq!(escape(b"a:b c?#\""), "a%3Ab%20c%3F%23%22");
        for broken in ["%", "%4", "%zz", "a%+1"] {
            assert_eq!(unescape(broken), None, "{broken}");
        }
    }
}
