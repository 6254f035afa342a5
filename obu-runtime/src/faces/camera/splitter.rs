//! Splits a stream of concatenated JPEGs (MJPEG) into frames, and steps over what is damaged.
//!
//! A frame is followed segment by segment, so that a picture inside a picture (a thumbnail in the EXIF
//! segment) or a marker-like byte in a comment does not end it:
//!
//! ```text
//!   FFD8 | FFE0 len ... | FFDB len ... | FFDA len ... entropy-coded data ... | FFD9
//!          segments, skipped by length   scan; FF00 and FFD0-7 belong to it
//! ```

/// Largest frame. A frame travels in one message of at most 4 MiB; the rest is room for its names.
pub const FRAME_LEN_MAX: usize = (4 << 20) - (64 << 10);

/// Something is wrong between here and the next frame; it is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// Where in a frame we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Looking for a start-of-image marker.
    Between,
    /// A marker must come next.
    Marker,
    /// In entropy-coded data.
    Scan,
}

/// Takes bytes as they come, gives frames as they are complete. Holds at most one frame and one push.
#[derive(Debug)]
pub struct Splitter {
    buffer: Vec<u8>,
    /// First byte of the frame that is being followed.
    start: usize,
    /// First byte not looked at yet.
    next: usize,
    at: At,
    /// Whether the frame has had a scan: without one it shows nothing.
    scanned: bool,
}

impl Default for Splitter {
    fn default() -> Self {
        Self { buffer: Vec::new(), start: 0, next: 0, at: At::Between, scanned: false }
    }
}

/// What one step led to.
enum Step {
    /// Go on.
    More,
    /// The bytes at hand do not tell.
    Starved,
    /// The frame ends before `next`.
    Frame,
    /// The frame is damaged.
    Damaged,
}

impl Splitter {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.next -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or news of a damaged one; `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Option<Result<Vec<u8>, Damaged>> {
        loop {
            let step = match self.at {
                At::Between => self.seek(),
                At::Marker => self.marker(),
                At::Scan => self.scan(),
            };
            match step {
                Step::More if self.next - self.start <= FRAME_LEN_MAX => {}
                Step::Starved if self.buffer.len() - self.start <= FRAME_LEN_MAX => return None,
                Step::Frame => return Some(Ok(self.cut())),
                Step::More | Step::Starved | Step::Damaged => {
                    self.step_over();
                    return Some(Err(Damaged));
                }
            }
        }
    }

    /// The stream has ended (or begins again): forgets what is incomplete.
    pub fn finish(&mut self) {
        *self = Self::default();
    }

    /// Looks for a start of image; bytes before it are padding, and dropped.
    fn seek(&mut self) -> Step {
        let rest = &self.buffer[self.next..];
        let found = rest.windows(2).position(|pair| pair == [0xff, 0xd8]);
        // A lone FF at the end may be the first half of the marker.
        let keep = usize::from(rest.last() == Some(&0xff));
        self.next += found.unwrap_or(rest.len() - keep);
        self.start = self.next;
        if found.is_none() {
            return Step::Starved;
        }
        self.next += 2;
        self.at = At::Marker;
        self.scanned = false;
        Step::More
    }

    fn marker(&mut self) -> Step {
        let rest = &self.buffer[self.next..];
        match *rest {
            [] | [0xff] => Step::Starved,
            // Any number of FF may stand before a marker.
            [0xff, 0xff, ..] => self.skip(1),
            [0xff, 0xd9, ..] if self.scanned => {
                self.next += 2;
                Step::Frame
            }
            // TEM has no length; an end without a scan, another start or a restart has no place here.
            [0xff, 0x01, ..] => self.skip(2),
            [0xff, 0x00 | 0xd0..=0xd9, ..] => Step::Damaged,
            [0xff, _] | [0xff, _, _] => Step::Starved,
            [0xff, kind, high, low, ..] => {
                let len = usize::from(u16::from_be_bytes([high, low]));
                if len < 2 {
                    return Step::Damaged;
                }
                if rest.len() < 2 + len {
                    return Step::Starved;
                }
                if kind == 0xda {
                    self.at = At::Scan;
                    self.scanned = true;
                }
                self.skip(2 + len)
            }
            _ => Step::Damaged,
        }
    }

    fn scan(&mut self) -> Step {
        let rest = &self.buffer[self.next..];
        let Some(mark) = rest.iter().position(|byte| *byte == 0xff) else {
            self.next = self.buffer.len();
            return Step::Starved;
        };
        match rest.get(mark + 1) {
            None => {
                self.next += mark;
                Step::Starved
            }
            Some(0x00 | 0xd0..=0xd7) => self.skip(mark + 2),
            Some(_) => {
                self.at = At::Marker;
                self.skip(mark)
            }
        }
    }

    fn skip(&mut self, bytes: usize) -> Step {
        self.next += bytes;
        Step::More
    }

    fn cut(&mut self) -> Vec<u8> {
        let frame = self.buffer[self.start..self.next].to_vec();
        self.start = self.next;
        self.at = At::Between;
        frame
    }

    /// Gives the frame up. The search goes on behind its start marker: what damaged it may have been the
    /// start of the next one.
    fn step_over(&mut self) {
        self.next = self.start + 2;
        self.start = self.next;
        self.at = At::Between;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame as cameras make it: two segments, a scan with stuffed and restart bytes.
    fn frame(mark: u8) -> Vec<u8> {
        let mut jpeg = vec![0xff, 0xd8];
        jpeg.extend([0xff, 0xe0, 0, 6, b'J', b'F', 0xff, 0xd9]); // a segment that looks like an end
        jpeg.extend([0xff, 0xff, 0xdb, 0, 3, mark]); // a fill byte before the marker
        jpeg.extend([0xff, 0xda, 0, 2, mark, 0xff, 0x00, 7, 0xff, 0xd3, 9, 0xff, 0xd9]);
        jpeg
    }

    fn split(stream: &[u8], chunk: usize) -> (Vec<Vec<u8>>, usize) {
        let (mut splitter, mut frames, mut damaged) = (Splitter::default(), Vec::new(), 0);
        for bytes in stream.chunks(chunk.max(1)) {
            splitter.push(bytes);
            while let Some(next) = splitter.next_frame() {
                match next {
                    Ok(frame) => frames.push(frame),
                    Err(Damaged) => damaged += 1,
                }
            }
        }
        (frames, damaged)
    }

    fn cat(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    #[rustfmt::skip]
    fn stream_table() {
        let (a, b) = (frame(1), frame(2));
        let thumbnail = cat(&[&[0xff, 0xd8, 0xff, 0xe1, 0, 40], &[&a[..], &[0; 40]].concat()[..38], &a[2..]]);
        let no_scan = [0xff, 0xd8, 0xff, 0xe0, 0, 2, 0xff, 0xd9];
        let zero_len = [0xff, 0xd8, 0xff, 0xe0, 0, 0];
        check("nothing",              &[],                               &[],                 0);
        check("two frames",           &cat(&[&a, &b]),                   &[&a, &b],           0);
        check("padding between",      &cat(&[&a, &[0; 9], &b]),          &[&a, &b],           0);
        check("noise before",         &cat(&[b"junk\xff", &a]),          &[&a],               0);
        check("no JPEG at all",       b"GIF89a and more of it",          &[],                 0);
        check("cut at the end",       &cat(&[&a, &b[..20]]),             &[&a],               0);
        check("cut in the middle",    &cat(&[&a[..22], &b]),             &[&b],               1);
        check("picture in picture",   &cat(&[&thumbnail, &b]),           &[&thumbnail, &b],   0);
        check("no scan",              &cat(&[&no_scan, &b]),             &[&b],               1);
        check("segment of length 0",  &cat(&[&zero_len, &b]),            &[&b],               1);
        check("no marker",            &cat(&[&[0xff, 0xd8, 7, 7], &b]),  &[&b],               1);
        check("two starts",           &cat(&[&[0xff, 0xd8], &b]),        &[&b],               1);
    }

    #[track_caller]
    fn check(what: &str, stream: &[u8], frames: &[&Vec<u8>], damaged: usize) {
        for chunk in [1, 2, 3, 7, stream.len()] {
            let (got, bad) = split(stream, chunk);
            assert_eq!(got.iter().collect::<Vec<_>>(), frames, "{what}, {chunk} bytes at a time");
            assert_eq!(bad, damaged, "{what}, {chunk} bytes at a time");
        }
    }

    #[test]
    fn an_endless_frame_is_given_up_and_memory_stays_bounded() {
        let mut splitter = Splitter::default();
        splitter.push(&[0xff, 0xd8, 0xff, 0xda, 0, 2]);
        let mut damaged = 0;
        for _ in 0..200 {
            splitter.push(&[0x55; 65_536]);
            while let Some(next) = splitter.next_frame() {
                damaged += usize::from(next.is_err());
            }
            assert!(splitter.buffer.len() <= FRAME_LEN_MAX + 2 * 65_536);
        }
        assert_eq!(damaged, 1);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            parts in prop::collection::vec(
                prop_oneof![
                    any::<u8>().prop_map(frame),
                    prop::collection::vec(any::<u8>(), 0..12),
                    any::<u8>().prop_map(|m| frame(m)[..15].to_vec()),
                ],
                0..12,
            ),
            chunk in 1usize..64,
        ) {
            let stream = parts.concat();
            let whole = split(&stream, stream.len());
            prop_assert_eq!(&split(&stream, chunk), &whole);
            for frame in whole.0 {
                prop_assert!(frame.starts_with(&[0xff, 0xd8]) && frame.ends_with(&[0xff, 0xd9]));
            }
        }

        #[test]
        fn a_flipped_byte_costs_neither_the_frames_before_nor_those_far_behind(
            place: prop::sample::Index,
            byte: u8,
        ) {
            let mut stream: Vec<u8> = (0..6).flat_map(frame).collect();
            let len = frame(0).len();
            let at = place.index(stream.len());
            stream[at] = byte;
            // A damaged length leads 64 KiB astray at the most.
            stream.extend([0; 70_000]);
            stream.extend(frame(99));
            let (frames, _) = split(&stream, 4096);
            let before = u8::try_from(at / len).unwrap();
            for whole in (0..before).chain([99]).map(frame) {
                prop_assert!(frames.contains(&whole), "frame {} is lost", whole[15]);
            }
        }
    }
}
