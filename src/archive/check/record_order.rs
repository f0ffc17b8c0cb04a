//! Checks what stands between the groups of an archive, in the order in which a reader of a pipe meets it: lists of
//! models and their files, indexes, trailers.

use std::ops::Range;

use crate::archive::read::archive::Archive;
use crate::archive::read::file::Unreadable;
use crate::archive::read::layout::GroupAt;
use crate::archive::read::record_order::RecordOrder;
use crate::archive::read::records::check_group;
use crate::error::{Error, Result};
use crate::wire::entry::Kind;
use crate::wire::frame::FrameKind;
use crate::wire::header::HEADER_LEN;
use crate::wire::index::{Index, TRAILER_LEN, TRAILER_MARKER, Trailer};
use crate::wire::models::{read_model, read_models};

/// Everything that is neither header nor group must be a frame or a trailer in its place. Gives the damaged places.
pub(crate) fn check_between(archive: &Archive) -> Vec<(Range<u64>, Error)> {
    let mut between = Between::new(archive);
    let mut damages = Vec::new();
    let mut at = HEADER_LEN as u64;
    for number in 0..=archive.layout.groups.len() {
        let next = archive.layout.groups.get(number);
        let end = next.map_or(archive.file.len(), |group| group.record.offset);
        while at < end {
            let checked = between.check(at).and_then(|len| match at + len <= end {
                true => Ok(len),
                false => Err(Error::Corrupt { offset: at, rule: "a frame runs into a group" }),
            });
            match checked {
                Ok(len) => at += len,
                Err(error) => {
                    between.is_sound = false;
                    damages.push((at..end, error));
                    at = end;
                }
            }
        }
        if let Some(group) = next {
            if let Err(error) = between.group(group) {
                between.is_sound = false;
                damages.push((group.record.offset..group.record.body(), error));
            }
            at = group.record.end();
        }
    }
    if let Err(error) = between.finish() {
        damages.push((at..at, error));
    }
    damages
}

struct Between<'a> {
    archive: &'a Archive,
    order: RecordOrder,
    /// Nothing was damaged so far. What follows damage is checked by itself only, or else one would be told often.
    is_sound: bool,
    /// Groups so far, their entries, and how far into the raw stream the data of those reach.
    groups: usize,
    entries: usize,
    named: u64,
}

impl<'a> Between<'a> {
    fn new(archive: &'a Archive) -> Self {
        let order = RecordOrder::default();
        Self { archive, order, is_sound: true, groups: 0, entries: 0, named: 0 }
    }

    /// The next group begins here.
    fn group(&mut self, group: &GroupAt) -> Result<()> {
        let count = group.group.entry_count as usize;
        let entries = self.archive.entries.get(self.entries..self.entries + count).unwrap_or_default();
        let ends = entries.iter().filter_map(|entry| match &entry.kind {
            Kind::File { extents, .. } => {
                extents.iter().map(|extent| extent.raw_offset.saturating_add(extent.len)).max()
            }
            _ => None,
        });
        self.named = ends.fold(self.named, u64::max);
        self.entries += count;
        self.groups += 1;
        let models = self.order.index().models.len();
        let offset = group.record.offset;
        let order = self.order.frame(FrameKind::Group);
        self.order.group(group.record.clone());
        if !self.is_sound {
            return Ok(());
        }
        order.map_err(|rule| Error::Corrupt { offset, rule })?;
        check_group(&group.group, self.archive.header(), models, offset)
    }

    /// The archive ends.
    fn finish(&self) -> Result<()> {
        let order = self.order.end(self.archive.index.generation);
        let offset = self.archive.file.len();
        if self.is_sound { order.map_err(|rule| Error::Corrupt { offset, rule }) } else { Ok(()) }
    }

    /// Checks what begins at `at`; tells its length.
    fn check(&mut self, at: u64) -> Result<u64> {
        let file = &self.archive.file;
        // What begins here may be shorter than a trailer, and what follows unreadable.
        let ahead = (TRAILER_LEN as u64).min(file.len() - at);
        let start = file.read_around(at, ahead, &mut Unreadable::default())?;
        let (len, order) = if start.starts_with(&TRAILER_MARKER) {
            let trailer = Trailer::read(&file.read(at, ahead)?, at)?;
            let group = self.groups.checked_sub(1).and_then(|at| self.archive.layout.groups.get(at));
            let is_open = group.is_some_and(|group| group.leaves_open);
            (TRAILER_LEN, self.order.trailer(&trailer, is_open, self.named))
        } else {
            let frame = file.frame_at(at)?;
            let mut order = self.order.frame(frame.kind);
            let mut input = frame.expect(frame.kind, at)?;
            match frame.kind {
                FrameKind::Models => {
                    let models = read_models(&mut input)?;
                    order = order.and_then(|()| self.order.models(models));
                    input.finish()?;
                }
                FrameKind::Index => {
                    let index = Index::read(&mut input, at)?;
                    order = order.and_then(|()| self.order.index_frame(&index, frame.len as u64));
                    input.finish()?;
                }
                // Whether it is the one that is named is checked with all others.
                FrameKind::Model => {
                    let (number, _) = read_model(&mut input)?;
                    order = order.and_then(|()| self.order.model(number, at));
                }
                FrameKind::Group => order = order.and(Err("a group stands where the index names none")),
                _ => {}
            }
            (frame.len, order)
        };
        if self.is_sound {
            order.map_err(|rule| Error::Corrupt { offset: at, rule })?;
        }
        Ok(len as u64)
    }
}
