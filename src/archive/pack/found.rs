//! What a scan found, and how it looks.

use crate::archive::os::beneath::Beneath;
use crate::archive::selection::Selection;
use crate::wire::entry::Entry;

/// What takes part in a scan.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    pub selection: Selection,
    /// Do not enter folders that lie on another file system than their source.
    pub one_file_system: bool,
    /// Take FIFOs, sockets and devices; otherwise each is a warning.
    pub special: bool,
    /// Take extended attributes.
    pub xattrs: bool,
    /// Latest mtime, in seconds; later ones are set back to it (SOURCE_DATE_EPOCH).
    pub latest_mtime: Option<i64>,
    /// Objects to leave out silently, by device and inode: the archive that is being written.
    pub skip: Vec<(u64, u64)>,
    /// A single source keeps the path it was given by, as several do.
    pub as_given: bool,
    /// Take what is below folders that are named as sources.
    pub recurse: bool,
    /// A source that is missing is a warning and no error.
    pub lenient: bool,
    /// Take owners; otherwise all entries belong to user and group 0.
    pub owners: bool,
    /// Files are opened later: their attributes are not asked for before.
    pub(crate) files_later: bool,
}

impl Default for ScanOptions {
    fn default() -> Self {
        let selection = Selection::default();
        Self {
            selection,
            one_file_system: false,
            special: false,
            xattrs: true,
            latest_mtime: None,
            skip: Vec::new(),
            as_given: false,
            recurse: true,
            lenient: false,
            owners: true,
            files_later: false,
        }
    }
}

/// One object that was found.
#[derive(Clone, Debug)]
pub struct Found {
    pub entry: Entry,
    /// Which of the tree's roots it lies under.
    pub(crate) root: u32,
    /// Device and inode.
    pub(crate) object: (u64, u64),
}

/// An open folder that entries were found in.
#[derive(Debug)]
pub(crate) struct Root {
    pub folder: Beneath,
    /// What the entries' paths have before their path in `folder`.
    pub prefix: Vec<u8>,
}

impl Root {
    /// The part of an entry's path that is to be resolved in `folder`.
    pub fn below<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        let rest = path.get(self.prefix.len()..).unwrap_or_default();
        rest.strip_prefix(b"/").unwrap_or(rest)
    }
}
