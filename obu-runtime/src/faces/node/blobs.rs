//! The bytes that the machines name by [`BlobRef`]: held for a while, within bounds, oldest out first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use policies::id::Digest;
use policies::task::BlobRef;
use policies::time::Timestamp;

/// Bytes held at the most: a second of full frames of four cameras, sixteen times over.
const HELD_MAX: usize = 256 << 20;

/// How long bytes are held at the least, unless [`HELD_MAX`] is reached: longer than any task's deadline and
/// lease together.
const HELD_FOR: Duration = Duration::from_secs(60);

/// Content-addressed bytes in memory.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    held: BTreeMap<Digest, Arc<[u8]>>,
    order: VecDeque<(Timestamp, Digest)>,
    bytes: usize,
}

impl Blobs {
    /// Takes bytes in. `None` if they are longer than any message may be.
    pub(super) fn put(&mut self, now: Timestamp, bytes: Vec<u8>) -> Option<BlobRef> {
        let reference = BlobRef::of(&bytes)?;
        self.expire(now);
        self.bytes += bytes.len();
        if let Some(old) = self.held.insert(reference.digest, bytes.into()) {
            self.bytes -= old.len();
        }
        self.order.push_back((now, reference.digest));
        while self.bytes > HELD_MAX && self.drop_oldest() {}
        Some(reference)
    }

    /// The bytes of a reference, if they are still held.
    pub(super) fn get(&self, reference: &BlobRef) -> Option<Arc<[u8]>> {
        self.held.get(&reference.digest).cloned()
    }

    fn expire(&mut self, now: Timestamp) {
        while self.order.front().is_some_and(|(at, _)| now.since(*at) > HELD_FOR) {
            self.drop_oldest();
        }
    }

    /// Drops the oldest entry, unless the same bytes were taken in again later. `false` if there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some((_, digest)) = self.order.pop_front() else { return false };
        let again = self.order.iter().any(|(_, other)| *other == digest);
        if !again && let Some(old) = self.held.remove(&digest) {
            self.bytes -= old.len();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    #[test]
    fn bytes_stay_their_time_and_go_afterwards() {
        let mut blobs = Blobs::default();
        let a = blobs.put(at(0), b"a".to_vec()).unwrap();
        let b = blobs.put(at(50), b"b".to_vec()).unwrap();
        assert_eq!(blobs.get(&a).as_deref(), Some(&b"a"[..]));
        blobs.put(at(61), b"c".to_vec());
        assert_eq!(blobs.get(&a), None);
        assert!(blobs.get(&b).is_some());
    }

    #[test]
    fn the_same_bytes_taken_in_again_stay() {
        let mut blobs = Blobs::default();
        let a = blobs.put(at(0), b"a".to_vec()).unwrap();
        blobs.put(at(40), b"a".to_vec());
        blobs.put(at(70), b"c".to_vec());
        assert!(blobs.get(&a).is_some());
        assert_eq!(blobs.bytes, 2);
    }

    #[test]
    fn memory_is_bounded() {
        let mut blobs = Blobs::default();
        for n in 0..40u8 {
            blobs.put(at(0), vec![n; 16 << 20]);
        }
        assert!(blobs.bytes <= HELD_MAX, "{}", blobs.bytes);
    }
}
