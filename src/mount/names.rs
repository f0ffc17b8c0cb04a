//! Finds each entry's folder and lets names be looked up.
//!
//! `Names` is an open hash table of node numbers, keyed by (parent, name); the keys stay with the
//! entries. Its hash is seeded, so that no archive can be made to collide.
//!
//! Invariant: at most three quarters of the slots are taken, so that every probe ends.

use std::hash::{BuildHasher, RandomState};

use super::nodes::{entry_at, folder, last};
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, Kind, Timestamp};

/// A slot that holds no node.
const FREE: u32 = u32::MAX;

/// Nodes by parent and name.
pub struct Names {
    slots: Vec<u32>,
    taken: usize,
    seed: RandomState,
}

impl Names {
    fn new() -> Self {
        Self { slots: vec![FREE; 16], taken: 0, seed: RandomState::new() }
    }

    /// The node of `name` in `parent`; `key` tells parent and name of a node.
    pub fn find<'a>(&self, parent: u32, name: &[u8], key: impl Fn(u32) -> (u32, &'a [u8])) -> Option<u32> {
        let mut at = self.slot(parent, name);
        loop {
            match self.slots[at] {
                FREE => return None,
                node if key(node) == (parent, name) => return Some(node),
                _ => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }

    /// Adds a node whose key is not in the table.
    fn add<'a>(&mut self, node: u32, key: impl Fn(u32) -> (u32, &'a [u8])) {
        if (self.taken + 1) * 4 > self.slots.len() * 3 {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![FREE; old.len() * 2];
            for node in old.into_iter().filter(|&node| node != FREE) {
                self.place(node, key(node));
            }
        }
        self.place(node, key(node));
        self.taken += 1;
    }

    fn place(&mut self, node: u32, (parent, name): (u32, &[u8])) {
        let mut at = self.slot(parent, name);
        while self.slots[at] != FREE {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = node;
    }

    fn slot(&self, parent: u32, name: &[u8]) -> usize {
        // The length is a power of two.
        self.seed.hash_one((parent, name)) as usize & (self.slots.len() - 1)
    }
}

/// A tree on its way from entries.
pub struct Builder<'a> {
    entries: &'a [Entry],
    pub implied: Vec<Entry>,
    pub root: u32,
    /// `FREE` until the node is placed.
    pub parents: Vec<u32>,
    pub names: Names,
}

impl<'a> Builder<'a> {
    /// Places all entries. Those of a folder that comes later, or never, are placed last.
    pub fn build(entries: &'a [Entry]) -> Result<Self> {
        if entries.len() >= FREE as usize / 2 {
            return Err(Error::Limit {
                what: "number of entries",
                got: entries.len() as u64,
                max: u64::from(FREE / 2),
            });
        }
        let mut tree = Self {
            entries,
            implied: Vec::new(),
            root: FREE,
            parents: vec![FREE; entries.len()],
            names: Names::new(),
        };
        tree.root = match entries.iter().position(|entry| entry.path.is_empty()) {
            Some(at) => at as u32,
            None => tree.imply(b""),
        };
        if tree.entry(tree.root).kind != Kind::Directory {
            return Err(Error::Inconsistent { rule: "the root is not a directory" });
        }
        tree.parents[tree.root as usize] = tree.root;
        let mut late = Vec::new();
        let mut recent: (&[u8], u32) = (b"", tree.root);
        for (node, entry) in entries.iter().enumerate() {
            if node as u32 == tree.root {
                continue;
            }
            let folder = folder(&entry.path);
            if recent.0 != folder {
                match tree.resolve(folder)? {
                    Some(parent) => recent = (folder, parent),
                    None => {
                        late.push(node as u32);
                        continue;
                    }
                }
            }
            tree.place(node as u32, recent.1)?;
        }
        // Shorter paths first: a folder is placed before what lies in it.
        late.sort_by_key(|&node| entries[node as usize].path.len());
        for node in late {
            let parent = tree.resolve_or_imply(folder(&entries[node as usize].path))?;
            tree.place(node, parent)?;
        }
        tree.parents.shrink_to_fit();
        Ok(tree)
    }

    fn entry(&self, node: u32) -> &Entry {
        entry_at(self.entries, &self.implied, node)
    }

    /// The node of a folder, if all folders on the way are placed.
    fn resolve(&self, path: &[u8]) -> Result<Option<u32>> {
        let mut node = self.root;
        for name in path.split(|&b| b == b'/').filter(|_| !path.is_empty()) {
            match self.names.find(node, name, |node| self.key(node)) {
                Some(next) => node = next,
                None => return Ok(None),
            }
            if self.entry(node).kind != Kind::Directory {
                return Err(Error::Inconsistent {
                    rule: "an entry lies in something that is not a directory",
                });
            }
        }
        Ok(Some(node))
    }

    /// The node of a folder; missing ones are made up.
    fn resolve_or_imply(&mut self, path: &[u8]) -> Result<u32> {
        let ends = path.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(at, _)| at);
        let mut node = self.root;
        for end in ends.chain([path.len()]).filter(|_| !path.is_empty()) {
            node = match self.names.find(node, last(&path[..end]), |node| self.key(node)) {
                Some(next) => next,
                None => {
                    let next = self.imply(&path[..end]);
                    self.place(next, node)?;
                    next
                }
            };
            if self.entry(node).kind != Kind::Directory {
                return Err(Error::Inconsistent {
                    rule: "an entry lies in something that is not a directory",
                });
            }
        }
        Ok(node)
    }

    fn imply(&mut self, path: &[u8]) -> u32 {
        let entry = Entry {
            path: path.to_vec(),
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        self.implied.push(entry);
        self.parents.push(FREE);
        self.parents.len() as u32 - 1
    }

    fn place(&mut self, node: u32, parent: u32) -> Result<()> {
        let name = last(&self.entry(node).path);
        if name.is_empty() || name.len() > 255 || name == b"." || name == b".." {
            return Err(Error::Inconsistent { rule: "an entry has an impossible name" });
        }
        if self.names.find(parent, name, |node| self.key(node)).is_some() {
            return Err(Error::Inconsistent { rule: "two entries have the same path" });
        }
        self.parents[node as usize] = parent;
        let (entries, implied, parents) = (self.entries, &self.implied, &self.parents);
        self.names.add(node, |node| (parents[node as usize], last(&entry_at(entries, implied, node).path)));
        Ok(())
    }

    fn key(&self, node: u32) -> (u32, &[u8]) {
        (self.parents[node as usize], last(&self.entry(node).path))
    }
}
