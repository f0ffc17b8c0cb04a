//! The file system that an archive's entries make, without FUSE.
//!
//! A node is an entry, or a folder that entries lie in and that has no entry of its own. Nodes are
//! numbered as entries are, the folders without entry after them. Names and metadata stay with the
//! entries; this adds about 20 bytes a node: its parent, its place among its siblings, and a hash
//! table by (parent, name).
//!
//! Invariants: every chain of parents ends at the root; a name occurs once in a folder; hardlinks
//! point at files.

use std::collections::HashMap;
use std::sync::Arc;

use super::fault::Fault;
use super::names;
use super::names::Names;
use super::nodes::{Node, entry_at};
use super::source::Source;
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, Extent, Kind, Timestamp};

/// Inode number. The root is 1; others are stable for an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ino(pub u64);

impl Ino {
    pub const ROOT: Self = Self(1);
}

/// Name and value of an extended attribute.
type Xattr = (Vec<u8>, Vec<u8>);

/// What kind of object an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Directory,
    File,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// What `stat` shows of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: Ino,
    pub kind: FileKind,
    /// Length in bytes: of the content, of a symlink's target, else 0.
    pub size: u64,
    /// Units of 512 bytes that are not holes.
    pub blocks: u64,
    /// The lower twelve bits of `st_mode`.
    pub mode: u16,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

/// One line of a directory listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    pub ino: Ino,
    pub kind: FileKind,
    pub name: &'a [u8],
    /// Where a listing that had this entry goes on.
    pub next: u64,
}

/// Sums over the archive, for `statfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Inodes.
    pub nodes: u64,
    /// Bytes of all files, hardlinked ones once, holes left out.
    pub bytes: u64,
}

/// The tree of an archive.
pub struct View {
    source: Arc<dyn Source>,
    /// Folders without entry, and the root if it has none.
    implied: Vec<Entry>,
    root: Node,
    /// The root is its own parent.
    parents: Vec<Node>,
    /// Children of node `n` are `children[starts[n]..starts[n + 1]]`, in the archive's order, so
    /// that who reads a listing from first to last reads the archive so.
    starts: Vec<u32>,
    children: Vec<Node>,
    names: Names,
    /// Link counts other than 1.
    links: HashMap<Node, u32>,
    totals: Totals,
    acls: bool,
}

impl View {
    /// Builds the tree. Fails on entries that contradict each other.
    pub fn new(source: Arc<dyn Source>) -> Result<Self> {
        let names::Builder { implied, root, parents, names, .. } = names::Builder::build(source.entries())?;
        let (starts, children) = group(&parents, root);
        let mut view = Self {
            source,
            implied,
            root,
            parents,
            starts,
            children,
            names,
            links: HashMap::new(),
            totals: Totals::default(),
            acls: false,
        };
        view.count()?;
        Ok(view)
    }

    /// Counts links and bytes, and checks the targets of hardlinks.
    fn count(&mut self) -> Result<()> {
        let mut links = HashMap::new();
        let mut acls = false;
        let mut totals = Totals { nodes: self.parents.len() as u64, bytes: 0 };
        for node in 0..self.parents.len() as Node {
            let entry = self.entry(node);
            acls |= entry.xattrs.iter().any(|(name, _)| name.starts_with(b"system.posix_acl_"));
            match &entry.kind {
                Kind::Directory => {
                    *links.entry(node).or_insert(1) += 1;
                    *links.entry(self.parents[node as usize]).or_insert(1) += u32::from(node != self.root);
                }
                Kind::Hardlink { target } => {
                    let file = self.source.entries().get(target.0 as usize);
                    if !matches!(file, Some(Entry { kind: Kind::File { .. }, .. })) {
                        return Err(Error::Inconsistent { rule: "a hardlink's target is not a file" });
                    }
                    *links.entry(target.0).or_insert(1) += 1;
                    totals.nodes -= 1;
                }
                Kind::File { extents, .. } => {
                    totals.bytes = totals.bytes.saturating_add(stored_len(extents));
                }
                Kind::Symlink { .. }
                | Kind::Fifo
                | Kind::Socket
                | Kind::CharDevice { .. }
                | Kind::BlockDevice { .. } => {}
            }
        }
        self.links = links;
        self.totals = totals;
        self.acls = acls;
        Ok(())
    }

    /// The archive behind it.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Sums over the archive.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether any entry has a POSIX access control list.
    pub fn has_acls(&self) -> bool {
        self.acls
    }

    /// The inode of `name` in a folder.
    pub fn lookup(&self, folder: Ino, name: &[u8]) -> Result<Ino, Fault> {
        if name == b"." {
            // Also asked of files, by a kernel that exports the tree over NFS.
            return self.node(folder).map(|_| folder);
        }
        let folder = self.folder(folder)?;
        let node = match name {
            b".." => self.parents[folder as usize],
            _ => self
                .names
                .find(folder, name, |node| (self.parents[node as usize], self.name(node)))
                .ok_or(Fault::NoEntry)?,
        };
        Ok(self.ino(node))
    }

    /// What `stat` shows.
    pub fn attr(&self, ino: Ino) -> Result<Attr, Fault> {
        let node = self.node(ino)?;
        let entry = self.entry(node);
        let (size, blocks) = match &entry.kind {
            Kind::File { size, extents, .. } => (*size, stored_len(extents).div_ceil(512)),
            Kind::Symlink { target } => (target.len() as u64, 0),
            Kind::Directory | Kind::Hardlink { .. } | Kind::Fifo | Kind::Socket => (0, 0),
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } => (0, 0),
        };
        let device = match entry.kind {
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => (major, minor),
            _ => (0, 0),
        };
        let links = self.links.get(&node).copied().unwrap_or(1);
        let Entry { mode, uid, gid, mtime, .. } = *entry;
        Ok(Attr { ino, kind: self.kind(node), size, blocks, mode, links, uid, gid, mtime, device })
    }

    /// The target of a symlink.
    pub fn readlink(&self, ino: Ino) -> Result<&[u8], Fault> {
        match &self.entry(self.node(ino)?).kind {
            Kind::Symlink { target } => Ok(target),
            _ => Err(Fault::WrongKind),
        }
    }

    /// A folder's listing from position `from` on; 0 is the start, `.` and `..` come first.
    pub fn list(&self, folder: Ino, from: u64) -> Result<impl Iterator<Item = DirEntry<'_>>, Fault> {
        let node = self.folder(folder)?;
        let dots = [(node, &b"."[..]), (self.parents[node as usize], b"..")];
        let children = self.children_of(node).iter().map(|&child| (child, self.name(child)));
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        // `skip` on each part is a step of pointers, not of entries.
        let dots = dots.into_iter().skip(from);
        let children = children.skip(from.saturating_sub(2));
        let first = from as u64;
        Ok(dots.chain(children).zip(first..).map(|((node, name), at)| DirEntry {
            ino: self.ino(node),
            kind: self.kind(node),
            name,
            next: at + 1,
        }))
    }

    /// The extended attributes that were packed.
    pub fn xattrs(&self, ino: Ino) -> Result<&[Xattr], Fault> {
        Ok(&self.entry(self.node(ino)?).xattrs)
    }

    /// Length and extents of a file.
    pub fn content(&self, ino: Ino) -> Result<(u64, &[Extent]), Fault> {
        match &self.entry(self.node(ino)?).kind {
            Kind::File { size, extents, .. } => Ok((*size, extents)),
            Kind::Directory => Err(Fault::IsDirectory),
            _ => Err(Fault::WrongKind),
        }
    }

    fn folder(&self, ino: Ino) -> Result<Node, Fault> {
        let node = self.node(ino)?;
        if self.kind(node) == FileKind::Directory { Ok(node) } else { Err(Fault::NotDirectory) }
    }

    fn children_of(&self, node: Node) -> &[Node] {
        let node = node as usize;
        &self.children[self.starts[node] as usize..self.starts[node + 1] as usize]
    }

    /// The inode of a node; that of its target for a hardlink.
    fn ino(&self, node: Node) -> Ino {
        if node == self.root {
            return Ino::ROOT;
        }
        match self.entry(node).kind {
            Kind::Hardlink { target } => Ino(u64::from(target.0) + 2),
            _ => Ino(u64::from(node) + 2),
        }
    }

    fn node(&self, ino: Ino) -> Result<Node, Fault> {
        if ino == Ino::ROOT {
            return Ok(self.root);
        }
        let node = ino.0.checked_sub(2).and_then(|node| Node::try_from(node).ok());
        node.filter(|&node| (node as usize) < self.parents.len()).ok_or(Fault::NoEntry)
    }

    fn entry(&self, node: Node) -> &Entry {
        entry_at(self.source.entries(), &self.implied, node)
    }

    fn name(&self, node: Node) -> &[u8] {
        crate::mount::nodes::last(&self.entry(node).path)
    }

    fn kind(&self, node: Node) -> FileKind {
        match self.entry(node).kind {
            Kind::Directory => FileKind::Directory,
            Kind::File { .. } | Kind::Hardlink { .. } => FileKind::File,
            Kind::Symlink { .. } => FileKind::Symlink,
            Kind::Fifo => FileKind::Fifo,
            Kind::Socket => FileKind::Socket,
            Kind::CharDevice { .. } => FileKind::CharDevice,
            Kind::BlockDevice { .. } => FileKind::BlockDevice,
        }
    }
}

/// Bytes of a file that are not holes.
fn stored_len(extents: &[Extent]) -> u64 {
    extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.len))
}

/// Groups nodes by parent, in their own order: a counting sort.
fn group(parents: &[Node], root: Node) -> (Vec<u32>, Vec<Node>) {
    let mut starts = vec![0u32; parents.len() + 1];
    let children = || (0..parents.len() as Node).filter(|&node| node != root);
    for node in children() {
        starts[parents[node as usize] as usize + 1] += 1;
    }
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let mut next = starts.clone();
    let mut grouped = vec![0; parents.len() - 1];
    for node in children() {
        let slot = &mut next[parents[node as usize] as usize];
        grouped[*slot as usize] = node;
        *slot += 1;
    }
    (starts, grouped)
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
