//! Chunks in order, decoded in batches beside who takes them.
//!
//! A device does one batch at a time. So that it does not wait for what the CPU has to do before and after (reading
//! the archive, cutting history into tokens, turning tokens into bytes, checking), two threads decode every other
//! batch each: while one batch is on the device, the other is got ready or handed over.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use super::archive::Archive;
use super::chunk_cache::ChunkCache;
use crate::error::{Error, Result};
use crate::wire::entry::ChunkId;

impl Archive {
    /// Runs of `ids`: `count` chunks each, or fewer with as many raw bytes where blocks are among them.
    pub(crate) fn batches<'i>(&self, ids: &'i [ChunkId], count: usize) -> Vec<&'i [ChunkId]> {
        let most = (count as u64).saturating_mul(self.header.chunk_size.into());
        let (mut batches, mut start, mut bytes) = (Vec::new(), 0, 0);
        self.expect_tables(ids);
        for (at, &id) in ids.iter().enumerate() {
            let len = self.chunk(id).map_or(0, |chunk| u64::from(chunk.raw_len));
            if at > start && (at - start >= count || bytes + len > most) {
                batches.push(&ids[start..at]);
                (start, bytes) = (at, 0);
            }
            bytes += len;
        }
        batches.push(&ids[start..]);
        batches
    }

    /// Decodes `ids` and hands them to `take` in their order, on the caller's thread, each with its bytes or why
    /// there are none. `usual` chunks are decoded together, or as many as a device wants. Ends when `take` fails.
    pub(crate) fn read_in_order(
        &self,
        ids: &[ChunkId],
        usual: usize,
        cache: &dyn ChunkCache,
        mut take: impl FnMut(ChunkId, Result<Arc<[u8]>>) -> Result<()>,
    ) -> Result<()> {
        let bulk = self.together(ids.len(), 0);
        let batch = bulk.max(usual).max(1);
        let batches = &self.batches(ids, batch);
        if let [ids] = batches[..] {
            // There is nothing to be done beside it.
            return ids.iter().zip(self.read_chunks(ids, cache)).try_for_each(|(&id, chunk)| take(id, chunk));
        }
        // Chunks that refer to others find them in the cache when the batch before is there.
        let lanes = if bulk > 0 && self.header.ref_depth == 0 { 2 } else { 1 };
        std::thread::scope(|scope| {
            // Three batches of bytes at most: two that are being decoded or are, and the one that is taken.
            let ahead = if lanes > 1 { 0 } else { 1 };
            let decoded: Vec<_> = (0..lanes)
                .map(|lane| {
                    let (send, receive) = sync_channel(ahead);
                    scope.spawn(move || {
                        for ids in batches.iter().skip(lane).step_by(lanes) {
                            // The other side hangs up when it fails.
                            if send.send(self.read_chunks(ids, cache)).is_err() {
                                break;
                            }
                        }
                    });
                    receive
                })
                .collect();
            for (ids, receive) in batches.iter().zip(decoded.iter().cycle()) {
                let lost = |_| Error::Internal("a batch of chunks was lost");
                for (&id, chunk) in ids.iter().zip(receive.recv().map_err(lost)?) {
                    take(id, chunk)?;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::archive::check::verify::verify;
    use crate::archive::read::chunk_cache::NoCache;
    use crate::archive::read::options::OpenOptions;
    use crate::archive::write::content::Content;
    use crate::archive::write::options::WriterOptions;
    use crate::archive::write::writer::Writer;
    use crate::codec::job::{DecodeJob, Decoded, EncodeJob};
    use crate::codec::model::{ChunkModel, Models};
    use crate::codec::work::Work;
    use crate::wire::entry::{Entry, Kind, Timestamp};

    /// Codes chunks of one byte repeated. Its device, if it has one, takes batches of four, and with `pairs` does none
    /// before another one is there, too.
    #[derive(Default)]
    struct Repeating {
        device: bool,
        pairs: bool,
        /// Batches that were begun; how many were done beside another one.
        begun: Mutex<usize>,
        more: Condvar,
        met: AtomicUsize,
    }

    impl ChunkModel for Repeating {
        fn fingerprint(&self) -> [u8; 32] {
            [0xeb; 32]
        }

        fn name(&self) -> &str {
            "repeating"
        }

        fn encode(&self, jobs: &[EncodeJob<'_>]) -> Vec<Option<Vec<u8>>> {
            jobs.iter().map(|job| Some(vec![job.raw[0]])).collect()
        }

        fn takes_bulk(&self, _: Work) -> bool {
            self.device
        }

        fn bulk(&self, _: Work) -> usize {
            if self.device { 4 } else { 0 }
        }

        fn decode(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded> {
            jobs.iter().map(|job| Ok(vec![job.payload[0]; job.raw_len])).collect()
        }

        fn decode_bulk(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded> {
            let mut begun = self.begun.lock().unwrap();
            *begun += 1;
            self.more.notify_all();
            let pair = begun.next_multiple_of(2);
            let alone = |begun: &mut usize| self.pairs && *begun < pair;
            let (begun, waited) =
                self.more.wait_timeout_while(begun, Duration::from_secs(20), alone).unwrap();
            drop(begun);
            self.met.fetch_add(usize::from(!waited.timed_out()), Ordering::Relaxed);
            self.decode(jobs)
        }
    }

    fn archive(model: Repeating) -> (Archive, Arc<Repeating>, Vec<u8>) {
        let model = Arc::new(model);
        let raw: Vec<u8> = (0..24u8).flat_map(|i| [i * 7; 4096]).collect();
        let models = Models::one(model.clone());
        let options = WriterOptions { chunk_size: 4096, models, check: false, ..WriterOptions::default() };
        let mut writer = Writer::create(Vec::new(), options).unwrap();
        let kind = Kind::File { size: raw.len() as u64, extents: Vec::new(), hash: [0; 16] };
        let (mode, mtime) = (0o644, Timestamp::default());
        let entry = Entry { path: b"f".into(), kind, mode, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
        writer.add(entry, Content::Data(&mut &raw[..])).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &writer.finish().unwrap().0).unwrap();
        let path = std::path::Path::new("test");
        let mut archive = Archive::from_file(file, path, &OpenOptions::default()).unwrap();
        archive.set_models(Models::one(model.clone()));
        (archive, model, raw)
    }

    #[test]
    fn while_a_device_has_a_batch_the_next_one_is_got_ready() {
        let (archive, model, raw) = archive(Repeating { device: true, pairs: true, ..Repeating::default() });
        let ids: Vec<ChunkId> = (0..24).map(ChunkId).collect();
        let mut read = Vec::new();
        let mut order = Vec::new();
        archive
            .read_in_order(&ids, 1, &NoCache, |id, bytes| {
                order.push(id);
                read.extend_from_slice(&bytes?);
                Ok(())
            })
            .unwrap();
        assert!(read == raw && order == ids);
        assert_eq!(
            model.met.load(Ordering::Relaxed),
            6,
            "no batch waited for the one before to be handed over"
        );
        let (archive, ..) = self::archive(Repeating { device: true, ..Repeating::default() });
        assert!(verify(&archive, true, &()).unwrap().is_clean());
    }

    #[test]
    fn batches_end_when_who_takes_them_has_enough() {
        for device in [false, true] {
            let (archive, ..) = archive(Repeating { device, ..Repeating::default() });
            let ids: Vec<ChunkId> = (0..24).map(ChunkId).collect();
            let mut taken = 0;
            let ended = archive.read_in_order(&ids, 3, &NoCache, |_, _| {
                taken += 1;
                if taken == 7 { Err(Error::Interrupted) } else { Ok(()) }
            });
            assert!(matches!(ended, Err(Error::Interrupted)) && taken == 7);
            archive.read_in_order(&[], 3, &NoCache, |_, _| Err(Error::Interrupted)).unwrap();
        }
    }
}
