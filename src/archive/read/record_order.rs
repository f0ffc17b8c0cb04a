//! What records may follow each other, and what they must say of those before them (spec/format.md, section 6).
//!
//! One state machine, for whoever reads a stream and for whoever verifies a file. It knows no bytes: its callers read
//! records, and name the offset of the one that breaks a rule.

use std::collections::VecDeque;

use crate::wire::entries::Entries;
use crate::wire::frame::FrameKind;
use crate::wire::index::{GroupRecord, Index, Trailer};
use crate::wire::models::ModelRef;

/// The rule that a record breaks, if it breaks one.
type Kept = Result<(), &'static str>;

/// The records so far.
#[derive(Default)]
pub(crate) struct RecordOrder {
    /// What an index must say if it comes next.
    index: Index,
    /// Numbers of the models whose files must come next.
    due: VecDeque<u8>,
    /// Length of the index frame that a trailer must follow.
    index_len: Option<u64>,
    /// Length of the raw stream of the groups so far.
    raw: u64,
}

impl RecordOrder {
    /// Models, their files, groups and the generation so far.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Whether a frame of this kind may come next.
    pub fn frame(&self, kind: FrameKind) -> Kept {
        if self.index_len.is_some() {
            return Err("no trailer follows the index");
        }
        if !self.due.is_empty() && kind != FrameKind::Model {
            return Err("a model that the archive carries is missing");
        }
        match kind {
            FrameKind::Entries | FrameKind::Table | FrameKind::Dictionary => {
                Err("a frame stands outside its group")
            }
            _ => Ok(()),
        }
    }

    /// A list of models, which goes on from the list before it.
    pub fn models(&mut self, models: Vec<ModelRef>) -> Kept {
        if !models.starts_with(&self.index.models) {
            return Err("a later list of models does not go on from the earlier");
        }
        let new = (0..=u8::MAX).zip(&models).skip(self.index.models.len());
        self.due = new.filter(|(_, model)| model.embedded).map(|(number, _)| number).collect();
        self.index.models = models;
        Ok(())
    }

    /// The file of model `number`, in a frame at `offset`.
    pub fn model(&mut self, number: u8, offset: u64) -> Kept {
        if self.due.pop_front() != Some(number) {
            return Err("an embedded model is not the one that is named");
        }
        self.index.embedded.push(offset);
        Ok(())
    }

    /// A group as a whole.
    pub fn group(&mut self, record: GroupRecord) {
        self.raw += u64::from(record.raw_len);
        self.index.groups.push(record);
    }

    /// An index in a frame of `len` bytes.
    pub fn index_frame(&mut self, index: &Index, len: u64) -> Kept {
        if index.groups != self.index.groups {
            return Err("an index does not name the groups before it");
        }
        if index.models != self.index.models || index.embedded != self.index.embedded {
            return Err("an index does not name the models before it");
        }
        if index.generation != self.index.generation {
            return Err("an index has another generation than it is");
        }
        self.index_len = Some(len);
        Ok(())
    }

    /// A trailer. `is_open`: the last group leaves a file open; `named` is how far into the raw stream the data of
    /// the entries so far reach.
    pub fn trailer(&mut self, trailer: &Trailer, is_open: bool, named: u64) -> Kept {
        if self.index_len.take() != Some(trailer.index_len) || trailer.generation != self.index.generation {
            return Err("no index of this trailer stands before it");
        }
        if is_open {
            return Err("a file is left open by the last group of a generation");
        }
        if named > self.raw {
            return Err("a file's data lies beyond the last group of a generation");
        }
        self.index.generation = self.index.generation.saturating_add(1);
        Ok(())
    }

    /// The archive ends here, after the trailer of generation `last`.
    pub fn end(&self, last: u32) -> Kept {
        if self.index_len.is_some() || self.index.generation != last.saturating_add(1) {
            return Err("the last trailer does not stand for itself");
        }
        Ok(())
    }
}

/// The file that a group leaves open and a later group ends, by its number among the entries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OpenFile(Option<u32>);

impl OpenFile {
    /// Whether a file is open.
    pub fn is_open(self) -> bool {
        self.0.is_some()
    }

    /// The entries of the next group. Gives the file that ends in it.
    pub fn enter(&mut self, entries: &Entries) -> Result<Option<u32>, &'static str> {
        let ended = match entries.ended {
            Some(_) => Some(self.0.take().ok_or("a file ends that no earlier group left open")?),
            None => None,
        };
        if self.0.is_some() && !entries.entries.is_empty() {
            return Err("a group has entries before the open file ends");
        }
        Ok(ended)
    }

    /// The same where groups may be lost: what does not fit belongs to a lost one.
    pub fn enter_after_loss(&mut self, entries: &Entries) -> Option<u32> {
        let ended = entries.ended.and_then(|_| self.0.take());
        self.0 = self.0.filter(|_| entries.entries.is_empty());
        ended
    }

    /// The group is over; `last` is the last entry so far, which `open` says is left open.
    pub fn leave(&mut self, open: bool, last: Option<u32>) {
        if open {
            self.0 = last;
        }
    }
}
