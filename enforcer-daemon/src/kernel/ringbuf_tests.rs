//! The reader against a file that is laid out like the kernel's ring.

use std::{fs::File, os::unix::fs::FileExt as _};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::*;

/// Several windows.
const LARGE: usize = 4 * WINDOW;

/// The kernel's side of a ring.
struct Kernel {
    file: File,
    size: usize,
    page: usize,
    /// The producer's position.
    end: usize,
}

impl Kernel {
    /// An empty ring whose positions are this already.
    fn at(size: usize, position: usize) -> Self {
        let file: File = memfd_create("ring", MemfdFlags::CLOEXEC).expect("a file in memory").into();
        let page = rustix::param::page_size();
        ftruncate(&file, (2 * page + 2 * size) as u64).expect("room");
        let kernel = Self { file, size, page, end: position };
        kernel.put(0, &position.to_ne_bytes());
        kernel.put(page, &position.to_ne_bytes());
        kernel
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset as u64).expect("written");
    }

    /// Where the consumer says it is.
    fn consumer(&self) -> usize {
        let mut bytes = [0; size_of::<usize>()];
        self.file.read_exact_at(&mut bytes, 0).expect("read");
        usize::from_ne_bytes(bytes)
    }

    /// Writes data at a position, in both places where a reader may look for it.
    fn data(&self, position: usize, bytes: &[u8]) {
        let offset = position % self.size;
        let (before, after) = bytes.split_at(bytes.len().min(self.size - offset));
        for copy in [0, self.size] {
            self.put(2 * self.page + copy + offset, before);
            self.put(2 * self.page + copy, after);
        }
    }

    /// Moves the producer's position.
    fn produce(&mut self, bytes: usize) {
        self.end = self.end.wrapping_add(bytes);
        self.put(self.page, &self.end.to_ne_bytes());
    }

    /// Writes a record with these flags; returns its position.
    fn record(&mut self, content: &[u8], flags: u32) -> usize {
        let position = self.end;
        let header = u32::try_from(content.len()).expect("short") | flags;
        self.data(position, &header.to_ne_bytes());
        self.data(position.wrapping_add(HEADER), content);
        self.produce(with_header(content.len()));
        position
    }

    fn reader(&self) -> RingBuf {
        RingBuf::new(self.file.try_clone().expect("a descriptor").into(), self.size).expect("mapped")
    }
}

/// The next record's content.
#[track_caller]
fn record(ring: &mut RingBuf) -> Vec<u8> {
    match ring.read_next().expect("mapped") {
        Some(Next::Record(record)) => record.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn nothing(ring: &mut RingBuf) {
    let next = ring.read_next().expect("mapped");
    assert!(next.is_none(), "{next:?}");
}

/// How much was skipped.
#[track_caller]
fn damage(ring: &mut RingBuf) -> usize {
    match ring.read_next().expect("mapped") {
        Some(Next::Damaged { bytes }) => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_leaves_the_ring_when_it_is_dropped() {
    let mut kernel = Kernel::at(4096, 0);
    let mut ring = kernel.reader();
    nothing(&mut ring);
    kernel.record(b"one", 0);
    kernel.record(b"", 0);
    let next = ring.read_next().expect("mapped");
    assert!(matches!(&next, Some(Next::Record(record)) if **record == *b"one"), "{next:?}");
    assert_eq!(kernel.consumer(), 0);
    drop(next);
    assert_eq!(kernel.consumer(), 16);
    // A reader that is killed leaves the rest to the next one.
    drop(ring);
    let mut ring = kernel.reader();
    assert_eq!(record(&mut ring), b"");
    nothing(&mut ring);
    assert_eq!(kernel.consumer(), 24);
}

#[test]
fn records_are_read_over_windows_and_round_the_ring() {
    for (size, len) in [(LARGE, 1500), (LARGE, WINDOW + 5000), (4096, 1000), (4096, 4088)] {
        let mut kernel = Kernel::at(size, 0);
        let mut ring = kernel.reader();
        for n in 0..2 * size / len + 3 {
            let content: Vec<u8> = (0..len).map(|at| u8::try_from((at + n) % 251).expect("small")).collect();
            kernel.record(&content, 0);
            assert!(record(&mut ring) == content, "{n} of {len} bytes in {size}");
            let window = ring.window.as_ref().expect("a window").memory.len;
            assert!(window <= WINDOW.max(len + HEADER + 2 * kernel.page).min(2 * size), "{window} are mapped");
        }
        nothing(&mut ring);
        assert_eq!(kernel.consumer(), kernel.end);
    }
}

#[test]
fn positions_wrap_with_their_type() {
    let mut kernel = Kernel::at(4096, usize::MAX - 15);
    let mut ring = kernel.reader();
    for n in 0..10 {
        kernel.record(&[n; 40], 0);
        assert_eq!(record(&mut ring), [n; 40]);
    }
    nothing(&mut ring);
    assert_eq!(kernel.consumer(), 48 * 10 - 16);
}

#[test]
fn what_is_being_written_is_waited_for_and_what_was_discarded_skipped() {
    let mut kernel = Kernel::at(4096, 0);
    let mut ring = kernel.reader();
    kernel.record(b"discarded", DISCARDED);
    let busy = kernel.record(b"busy", BUSY);
    kernel.record(b"after", 0);
    nothing(&mut ring);
    assert_eq!(kernel.consumer(), busy);
    nothing(&mut ring);
    kernel.data(busy, &4_u32.to_ne_bytes());
    assert_eq!(record(&mut ring), b"busy");
    assert_eq!(record(&mut ring), b"after");
    kernel.record(b"discarded, too", DISCARDED);
    nothing(&mut ring);
    assert_eq!(kernel.consumer(), kernel.end);
}

#[test]
fn a_length_beyond_what_was_produced_is_damage() {
    let mut kernel = Kernel::at(4096, 8000);
    let mut ring = kernel.reader();
    for (bad, flags) in [(9, 0), (9, DISCARDED), (5000, 0), (!(BUSY | DISCARDED), 0), (!(BUSY | DISCARDED), DISCARDED)]
    {
        let position = kernel.record(&[7; 8], 0);
        kernel.data(position, &(bad | flags).to_ne_bytes());
        assert_eq!(damage(&mut ring), 16, "{bad}");
        assert_eq!(kernel.consumer(), kernel.end);
        nothing(&mut ring);
        // What comes after is read as ever.
        kernel.record(b"good", 0);
        assert_eq!(record(&mut ring), b"good");
    }
}

#[test]
fn positions_that_cannot_be_are_damage() {
    // The consumer's beyond the producer's, or too far behind it, or not where a record can begin.
    for (consumer, bytes) in [(8008, 4096), (8000 - 4104, 4096), (7996, 4), (7988, 12)] {
        let mut kernel = Kernel::at(4096, 8000);
        kernel.put(0, &usize::to_ne_bytes(consumer));
        let mut ring = kernel.reader();
        assert_eq!(damage(&mut ring), bytes, "{consumer}");
        assert_eq!(kernel.consumer(), 8000);
        nothing(&mut ring);
        kernel.record(b"good", 0);
        assert_eq!(record(&mut ring), b"good");
    }
    // The producer's where no record can end.
    let mut kernel = Kernel::at(4096, 8000);
    let mut ring = kernel.reader();
    kernel.produce(4);
    assert_eq!(damage(&mut ring), 4);
    nothing(&mut ring);
    kernel.produce(4);
    assert_eq!(damage(&mut ring), 4);
    nothing(&mut ring);
    kernel.record(b"good", 0);
    assert_eq!(record(&mut ring), b"good");
}

#[test]
fn a_ring_has_a_size_that_the_kernel_allows() {
    let kernel = Kernel::at(4096, 0);
    for size in [0, 1, 2048, 4096 * 3] {
        assert!(RingBuf::new(kernel.file.try_clone().expect("a descriptor").into(), size).is_err(), "{size}");
    }
}
