//! Nodes of the tree that a mount shows.

use crate::wire::entry::Entry;

/// Number of a node.
pub(crate) type Node = u32;

/// The entry of a node.
pub(crate) fn entry_at<'a>(entries: &'a [Entry], implied: &'a [Entry], node: Node) -> &'a Entry {
    let node = node as usize;
    entries.get(node).unwrap_or_else(|| &implied[node - entries.len()])
}

/// The last component of a path.
pub fn last(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(path, |at| &path[at + 1..])
}

/// A path without its last component.
pub(crate) fn folder(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(b"", |at| &path[..at])
}
