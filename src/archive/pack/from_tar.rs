//! From a tar stream to an archive.
//!
//! Members are packed in the order in which they come. What comes of them is what GNU tar extracts from the
//! stream (`tar_tree`): where a path comes again, the last member counts, and a hardlink keeps the content that its
//! target had. A look through the stream beforehand tells what is left in the end. In a stream that can be read once only,
//! no member may take the place of another.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

use super::packer::describe;
use super::tar_tree::{Remains, Step, TarTree};
use crate::archive::observer::{Observer, Remedy, Warning};
use crate::archive::path::{check, escape};
use crate::archive::selection::Selection;
use crate::archive::tar::read::{End, Member, MemberKind, TarReader};
use crate::archive::write::content::Content;
use crate::archive::write::options::{Stats, WriterOptions};
use crate::archive::write::writer::Writer;
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, EntryId, Kind, Timestamp};
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
    /// Go on behind the end of a stream: several follow each other.
    pub ignore_zeros: bool,
}

/// Whether a member counts.
enum Admission {
    Taken,
    NotSelected,
    /// It cannot be, for a reason.
    Refused(String),
}

/// What is known of a stream that was looked through.
#[derive(Debug, Default)]
pub struct TarPlan {
    remains: Remains,
    /// Folders that come again, by the number of the member that is packed, with the last that came.
    folders: HashMap<u64, Member>,
}

impl TarPlan {
    /// Looks through a stream, to its end.
    pub fn look<R: Read>(input: R, name: &Path, tar: &TarOptions, observer: &dyn Observer) -> Result<Self> {
        let mut reader = TarReader::new(input).ignoring_zeros(tar.ignore_zeros);
        let (mut tree, mut folders) = (TarTree::new(true), HashMap::new());
        let mut number = 0;
        while let Some(member) = reader.next_member().map_err(|e| Error::io(name, e))? {
            if observer.interrupted() {
                return Err(Error::Interrupted);
            }
            if let Admission::Taken = tar.admit(&member)
                && let Step::Again { member: first } = tree.put(&member, number)
            {
                folders.insert(first, member);
            }
            number += 1;
        }
        Ok(Self { remains: tree.remains(), folders })
    }
}

impl TarOptions {
    fn admit(&self, member: &Member) -> Admission {
        let refused = |why: &str| Admission::Refused(format!("left out: {why}"));
        if !self.selection.takes(&member.path, member.kind == MemberKind::Folder) {
            return Admission::NotSelected;
        }
        if let Some(odd) = member.odd {
            return refused(&format!("{odd} of it cannot be understood"));
        }
        if let Err(rule) = check(&member.path) {
            return refused(rule);
        }
        match &member.kind {
            MemberKind::Symlink { target } if target.is_empty() || target.contains(&0) => {
                refused("a symlink that leads nowhere")
            }
            MemberKind::Symlink { target } if target.len() > limits::TARGET_LEN => {
                refused("a symlink that leads too far")
            }
            MemberKind::Unknown(b'V') => refused("the label of a volume"),
            MemberKind::Unknown(b'M') => refused("the rest of a file that began on another volume"),
            MemberKind::Unknown(letter) => {
                let letter = char::from(*letter).escape_default();
                refused(&format!("a member of the unknown kind '{letter}'"))
            }
            _ => Admission::Taken,
        }
    }
}

/// Writes what the stream brings to `out`, which is given back for syncing. `name` is for messages.
pub fn pack_tar<R: Read, W: Write>(
    input: R,
    name: &Path,
    plan: Option<&TarPlan>,
    tar: &TarOptions,
    out: W,
    options: WriterOptions,
) -> Result<(W, Stats)> {
    let observer = options.observer.clone();
    observer.phase("packing", None);
    let mut reader = TarReader::new(input).ignoring_zeros(tar.ignore_zeros);
    let mut taking = Taking {
        tar,
        plan,
        observer: &*observer,
        writer: Writer::create(out, options)?,
        tree: TarTree::new(false),
        packed: Vec::new(),
        folders: HashMap::new(),
    };
    let mut number = 0;
    while let Some(member) = reader.next_member().map_err(|e| Error::io(name, e))? {
        if observer.interrupted() {
            return Err(Error::Interrupted);
        }
        taking.take(member, number, &mut reader)?;
        number += 1;
    }
    let name = name.as_os_str().as_encoded_bytes();
    match reader.end() {
        Some(End::Followed(at)) => {
            let what =
                format_args!("from byte {at} on more follows the end of the tar stream, and is left out");
            observer.warning(Warning::new(name, what).with(Remedy::IgnoreZeros));
        }
        Some(End::Bare) => {
            let what = "the tar stream ends without the mark of its end: it may be cut short";
            observer.warning(Warning::new(name, what));
        }
        Some(End::Marked) | None => {}
    }
    taking.writer.finish()
}

struct Taking<'a, W: Write> {
    tar: &'a TarOptions,
    plan: Option<&'a TarPlan>,
    observer: &'a dyn Observer,
    writer: Writer<W>,
    tree: TarTree,
    /// What became of each object of the tree.
    packed: Vec<Packed>,
    /// A digest of what is known of each folder, by its member, where folders that come again cannot be known.
    folders: HashMap<u64, [u8; 16]>,
}

/// What a later hardlink to an object becomes.
enum Packed {
    /// A hardlink to the entry.
    File(EntryId),
    /// The same once more: only files can be linked to in an archive.
    Other(Box<Kind>),
    /// Nothing, since the object is left out.
    Nothing,
}

impl<W: Write> Taking<'_, W> {
    fn warn(&self, path: &[u8], what: impl std::fmt::Display) {
        self.observer.warning(Warning::new(path, what));
    }

    fn take(&mut self, member: Member, number: u64, data: &mut dyn Read) -> Result<()> {
        match self.tar.admit(&member) {
            Admission::Taken => {}
            Admission::NotSelected => return Ok(()),
            Admission::Refused(what) => {
                self.warn(&member.path, what);
                return Ok(());
            }
        }
        let step = self.tree.put(&member, number);
        if self.plan.is_none() && self.tree.has_replaced() {
            return Err(Error::Usage(format!(
                "{} takes the place of an earlier member of the tar stream; \
                 of a path that comes again, the last member is packed if the tar is given as a file",
                escape(&member.path)
            )));
        }
        let gone = self.plan.is_some_and(|plan| plan.remains.gone.contains(&number));
        match step {
            Step::New { path, .. } => {
                let moved = self.plan.and_then(|plan| plan.remains.moved.get(&number));
                let packed = match moved {
                    None if gone => Packed::Nothing,
                    moved => self.add_object(moved.cloned().unwrap_or(path), member, data)?,
                };
                self.packed.push(packed);
                Ok(())
            }
            Step::Name { object, path } if !gone => self.add_name(path, object, member),
            Step::Folder { path } if !gone => {
                let last = self.plan.and_then(|plan| plan.folders.get(&number));
                if self.plan.is_none() {
                    self.folders.insert(number, digest(&member));
                }
                self.add(path, Kind::Directory, last.cloned().unwrap_or(member), Content::None).map(drop)
            }
            Step::Again { member: first } => {
                if self.folders.get(&first).is_some_and(|known| *known != digest(&member)) {
                    let what = "comes again with another mode, owner, time or attributes, which do not count; \
                                those of the last count if the tar is given as a file";
                    self.warn(&member.path, what);
                }
                Ok(())
            }
            Step::LeftOut(why) => {
                self.warn(&member.path, format_args!("left out: {why}"));
                Ok(())
            }
            Step::Name { .. } | Step::Folder { .. } | Step::Nothing => Ok(()),
        }
    }

    /// Adds an object that is no folder.
    fn add_object(&mut self, path: Vec<u8>, mut member: Member, data: &mut dyn Read) -> Result<Packed> {
        let Some(kind) = self.kind(&path, &mut member.kind, member.size) else { return Ok(Packed::Nothing) };
        let content = match member.segments.take() {
            _ if !matches!(kind, Kind::File { size: 1.., .. }) => Content::None,
            Some(segments) => Content::Sparse { segments, data },
            None => Content::Data(data),
        };
        let other = match &kind {
            Kind::File { .. } => None,
            other => Some(Box::new(other.clone())),
        };
        let id = self.add(path, kind, member, content)?;
        Ok(other.map_or(Packed::File(id), Packed::Other))
    }

    /// Adds another name of an object.
    fn add_name(&mut self, path: Vec<u8>, object: u32, member: Member) -> Result<()> {
        let kind = match self.packed.get(object as usize) {
            Some(Packed::File(target)) => Kind::Hardlink { target: *target },
            Some(Packed::Other(kind)) => (**kind).clone(),
            Some(Packed::Nothing) | None => {
                let MemberKind::Hardlink { target } = &member.kind else { return Ok(()) };
                let target = escape(target);
                self.warn(&path, format_args!("left out: it links to {target}, which is left out"));
                return Ok(());
            }
        };
        self.add(path, kind, member, Content::None).map(drop)
    }

    /// Adds an entry with what else a member says.
    fn add(&mut self, path: Vec<u8>, kind: Kind, member: Member, content: Content<'_>) -> Result<EntryId> {
        let Member { mode, uid, gid, mtime, xattrs, has_acl, .. } = member;
        let mtime = match self.tar.latest_mtime {
            Some(latest) if mtime.secs >= latest => Timestamp { secs: latest, nanos: 0 },
            _ => mtime,
        };
        if has_acl && self.tar.xattrs {
            self.warn(&path, "its ACL is left out; tar's --xattrs-include='*' brings it as an attribute");
        }
        let xattrs = if self.tar.xattrs { self.xattrs(&path, xattrs) } else { Vec::new() };
        let (uid, gid) = if self.tar.owners { (uid, gid) } else { (0, 0) };
        let entry = Entry { path: path.clone(), kind, mode, uid, gid, mtime, xattrs };
        let added = self.writer.add(entry, content)?;
        if let Some(what) = describe(added.warning.as_ref(), false) {
            self.warn(&path, what);
        }
        self.observer.entry(&path);
        Ok(added.id)
    }

    /// What archives call an object; `None` with a warning for what is left out.
    fn kind(&self, path: &[u8], kind: &mut MemberKind, size: u64) -> Option<Kind> {
        let special = |kind, what: &str| {
            if !self.tar.special {
                let warning = Warning::new(path, format_args!("left out: {what}"));
                self.observer.warning(warning.with(Remedy::PackSpecial));
            }
            self.tar.special.then_some(kind)
        };
        match std::mem::take(kind) {
            // A hardlink that is an object brings its content.
            MemberKind::File | MemberKind::Hardlink { .. } => {
                Some(Kind::File { size, extents: Vec::new(), hash: [0; 16] })
            }
            MemberKind::Symlink { target } => Some(Kind::Symlink { target }),
            MemberKind::Fifo => special(Kind::Fifo, "a FIFO"),
            MemberKind::CharDevice { major, minor } => {
                special(Kind::CharDevice { major, minor }, "a character device")
            }
            MemberKind::BlockDevice { major, minor } => {
                special(Kind::BlockDevice { major, minor }, "a block device")
            }
            MemberKind::Folder | MemberKind::Unknown(_) => None,
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

/// A digest of what a folder may have another time.
fn digest(folder: &Member) -> [u8; 16] {
    let Member { mode, uid, gid, mtime, xattrs, .. } = folder;
    crate::archive::path_set::key(format!("{:?}", (mode, uid, gid, mtime, xattrs)).as_bytes())
}
