//! From a tar stream to an archive.
//!
//! Members are packed in the order in which they come. Where a path comes again, the last member
//! counts, as it does for tar: a look through the stream beforehand tells which that is. A stream
//! that can be read once only must not have a path twice. Of a folder the first counts in any case.

use std::collections::HashMap;
use std::io::{Read, Write};

use super::packer::describe;
use crate::archive::observer::{Observer, Remedy, Warning};
use crate::archive::path::{check, escape};
use crate::archive::path_set::{Clash, Paths, key};
use crate::archive::selection::Selection;
use crate::archive::tar::read::{Member, MemberKind, TarReader};
use crate::archive::write::content::Content;
use crate::archive::write::options::{Stats, WriterOptions};
use crate::archive::write::writer::Writer;
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, EntryId, Kind};
use crate::wire::limits;

/// What of a tar stream takes part.
#[derive(Clone, Debug, Default)]
pub struct TarOptions {
    pub selection: Selection,
    /// Take FIFOs and devices; otherwise each is a warning.
    pub special: bool,
    pub xattrs: bool,
    pub owners: bool,
    /// As `scan::Options` has it.
    pub latest_mtime: Option<i64>,
}

/// Which member of each path is the last, by their numbers in the stream.
#[derive(Debug, Default)]
pub struct LastOfEach(HashMap<[u8; 16], u64>);

impl LastOfEach {
    /// Looks through a stream, to its end.
    pub fn find<R: Read>(input: R, name: &std::path::Path) -> Result<Self> {
        let mut reader = TarReader::new(input);
        let mut last = HashMap::new();
        let mut number = 0;
        while let Some(member) = reader.next_member().map_err(|e| Error::io(name, e))? {
            if member.kind != MemberKind::Folder {
                last.insert(key(&member.path), number);
            }
            number += 1;
        }
        Ok(Self(last))
    }

    fn is_last(&self, path: &[u8], number: u64) -> bool {
        self.0.get(&key(path)).is_none_or(|last| *last == number)
    }
}

/// Writes what the stream brings to `out`, which is given back for syncing. `name` is for messages.
pub fn pack_tar<R: Read, W: Write>(
    input: R,
    name: &std::path::Path,
    last: Option<&LastOfEach>,
    tar: &TarOptions,
    out: W,
    options: WriterOptions,
) -> Result<(W, Stats)> {
    let observer = options.observer.clone();
    observer.phase("packing", None);
    let mut reader = TarReader::new(input);
    let mut taking = Taking {
        tar,
        last,
        observer: &*observer,
        writer: Writer::create(out, options)?,
        paths: Paths::default(),
        files: HashMap::new(),
        others: HashMap::new(),
    };
    let mut number = 0;
    while let Some(member) = reader.next_member().map_err(|e| Error::io(name, e))? {
        if observer.interrupted() {
            return Err(Error::Interrupted);
        }
        taking.take(member, number, &mut reader)?;
        number += 1;
    }
    taking.writer.finish()
}

struct Taking<'a, W: Write> {
    tar: &'a TarOptions,
    last: Option<&'a LastOfEach>,
    observer: &'a dyn Observer,
    writer: Writer<W>,
    paths: Paths,
    /// Files by path, for hardlinks.
    files: HashMap<Vec<u8>, EntryId>,
    /// What else a hardlink may name.
    others: HashMap<Vec<u8>, Kind>,
}

/// What a later hardlink to an entry becomes.
enum Link {
    /// A hardlink to the entry itself, or to what it links to.
    File,
    To(EntryId),
    /// The same once more.
    Copy(Kind),
    None,
}

impl<W: Write> Taking<'_, W> {
    fn warn(&self, path: &[u8], what: impl std::fmt::Display) {
        self.observer.warning(Warning::new(path, what));
    }

    fn take(&mut self, member: Member, number: u64, data: &mut dyn Read) -> Result<()> {
        let Member { path, kind, mode, uid, gid, mtime, xattrs, has_acl, size, segments } = member;
        let is_folder = kind == MemberKind::Folder;
        if !self.tar.selection.takes(&path, is_folder) {
            return Ok(());
        }
        if let Err(rule) = check(&path) {
            self.warn(&path, format_args!("left out: {rule}"));
            return Ok(());
        }
        if path.is_empty() && !is_folder {
            self.warn(b".", "left out: it takes the place of the root");
            return Ok(());
        }
        if !is_folder && self.last.is_some_and(|last| !last.is_last(&path, number)) {
            return Ok(());
        }
        match self.paths.clash(&path, is_folder) {
            Clash::None => {}
            Clash::SameFolder => return Ok(()),
            Clash::Taken => {
                return Err(Error::Usage(format!(
                    "{} comes more than once in the tar stream, or contradicts another member; \
                     of a path that comes again, the last member is packed if the tar is given as a file",
                    escape(&path)
                )));
            }
        }
        let Some(kind) = self.kind(&path, kind, size) else { return Ok(()) };
        let mtime = match self.tar.latest_mtime {
            Some(latest) if mtime.secs >= latest => crate::wire::entry::Timestamp { secs: latest, nanos: 0 },
            _ => mtime,
        };
        if has_acl && self.tar.xattrs {
            self.warn(&path, "its ACL is left out; tar's --xattrs-include='*' brings it as an attribute");
        }
        let xattrs = if self.tar.xattrs { self.xattrs(&path, xattrs) } else { Vec::new() };
        let (uid, gid) = if self.tar.owners { (uid, gid) } else { (0, 0) };
        let is_file = matches!(kind, Kind::File { .. });
        let content = match segments {
            _ if !is_file || size == 0 => Content::None,
            Some(segments) => Content::Sparse { segments, data },
            None => Content::Data(data),
        };
        let link = match &kind {
            Kind::File { .. } => Link::File,
            Kind::Hardlink { target } => Link::To(*target),
            Kind::Directory => Link::None,
            other => Link::Copy(other.clone()),
        };
        let entry = Entry { path: path.clone(), kind, mode, uid, gid, mtime, xattrs };
        let added = self.writer.add(entry, content)?;
        if let Some(what) = describe(added.warning.as_ref(), false) {
            self.warn(&path, what);
        }
        self.observer.entry(&path);
        self.paths.take(&path, is_folder);
        match link {
            Link::To(target) => _ = self.files.insert(path, target),
            Link::File => _ = self.files.insert(path, added.id),
            Link::Copy(kind) => _ = self.others.insert(path, kind),
            Link::None => {}
        }
        Ok(())
    }

    /// What archives call it; `None` with a warning for what is left out.
    fn kind(&self, path: &[u8], kind: MemberKind, size: u64) -> Option<Kind> {
        let special = |kind, what: &str| {
            if !self.tar.special {
                let warning = Warning::new(path, format_args!("left out: {what}"));
                self.observer.warning(warning.with(Remedy::PackSpecial));
            }
            self.tar.special.then_some(kind)
        };
        match kind {
            MemberKind::File => Some(Kind::File { size, extents: Vec::new(), hash: [0; 16] }),
            MemberKind::Folder => Some(Kind::Directory),
            MemberKind::Symlink { target } => {
                if target.is_empty() || target.contains(&0) {
                    self.warn(path, "left out: a symlink that leads nowhere");
                    return None;
                }
                Some(Kind::Symlink { target })
            }
            MemberKind::Hardlink { target } => match (self.files.get(&target), self.others.get(&target)) {
                (Some(&target), _) => Some(Kind::Hardlink { target }),
                // Only files can be linked to in an archive: a symlink or a FIFO comes twice.
                (None, Some(kind)) => Some(kind.clone()),
                (None, None) => {
                    let target = escape(&target);
                    self.warn(
                        path,
                        format_args!("left out: it links to {target}, which was not packed before it"),
                    );
                    None
                }
            },
            MemberKind::Fifo => special(Kind::Fifo, "a FIFO"),
            MemberKind::CharDevice { major, minor } => {
                special(Kind::CharDevice { major, minor }, "a character device")
            }
            MemberKind::BlockDevice { major, minor } => {
                special(Kind::BlockDevice { major, minor }, "a block device")
            }
            MemberKind::Unknown(letter) => {
                let letter = char::from(letter).escape_default();
                self.warn(path, format_args!("left out: a member of the unknown kind '{letter}'"));
                None
            }
        }
    }

    /// Attributes that an archive may hold.
    fn xattrs(&self, path: &[u8], xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let fits = |(name, value): &(Vec<u8>, Vec<u8>)| {
            !name.is_empty()
                && !name.contains(&0)
                && name.len() <= limits::XATTR_NAME
                && value.len() <= limits::XATTR_VALUE
        };
        let before = xattrs.len();
        let kept: Vec<_> = xattrs.into_iter().filter(fits).collect();
        if kept.len() < before {
            self.warn(path, "an extended attribute is left out: its name or value is not possible");
        }
        kept
    }
}
