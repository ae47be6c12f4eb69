//! Reads a ring buffer map (`BPF_MAP_TYPE_RINGBUF`, since 5.8) through a window.
//!
//! A mapping of the kernel's ring counts as resident as a whole, used or not, and its data lies there twice in a row, so that a
//! record that wraps is in one piece. Here a part of it is mapped, which moves along as records are read: of 16 MiB, 256 KiB.
//!
//! The layout is that of `kernel/bpf/ringbuf.c: ringbuf_map_mmap_kern`: a page with the consumer's position, which alone can be
//! written; a page with the producer's; the data; the same data. A position counts bytes and never wraps at the ring's size.

use std::{
    io,
    ops::Deref,
    os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence},
};

use aya::maps::{Map, MapError};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// How much of the data is mapped, in bytes; more where a record is larger, and less where the ring is smaller.
const WINDOW: usize = 256 << 10;
/// What lies before a record: its length and flags, and a number of the kernel's own (`include/uapi/linux/bpf.h:
/// BPF_RINGBUF_HDR_SZ`). A record with it begins at a multiple of this.
const HEADER: usize = 8;
/// Flags in the length (`include/uapi/linux/bpf.h`): still being written, and not to be read.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;

/// A ring buffer, and the place up to which it was read. Two that read the same ring each give its records.
#[derive(Debug)]
pub struct RingBuf {
    map: OwnedFd,
    page: usize,
    /// A power of two.
    size: usize,
    consumer: Mapping,
    producer: Mapping,
    window: Option<Window>,
    position: usize,
    /// The producer's position when it was last looked at.
    end: usize,
    /// Whether the kernel may not see yet how far was read: see [`Self::look_again`].
    unseen: bool,
}

/// What is next in a ring.
#[derive(Debug)]
pub enum Next<'a> {
    /// A record.
    Record(Record<'a>),
    /// What lies there is no record: everything that is there was skipped.
    Damaged {
        /// How many bytes, headers included; never more than the ring holds.
        bytes: usize,
    },
}

/// A record that has not left the ring. When this is dropped it leaves, and the kernel may write there.
#[derive(Debug)]
pub struct Record<'a> {
    ring: &'a mut RingBuf,
    start: NonNull<u8>,
    len: usize,
}

/// What lies at the consumer's position.
enum Found {
    /// Nothing yet.
    Nothing,
    /// A record of this length in bytes.
    Record(NonNull<u8>, usize),
    /// One of this length that is not to be read.
    Discarded(usize),
    /// No record.
    Damage,
}

impl TryFrom<Map> for RingBuf {
    type Error = MapError;

    fn try_from(map: Map) -> Result<Self, MapError> {
        let Map::RingBuf(data) = map else { return Err(io::Error::other("it is no ring buffer").into()) };
        let size = data.info()?.max_entries() as usize;
        let map = data.fd().as_fd().try_clone_to_owned()?;
        Ok(Self::new(map, size)?)
    }
}

impl RingBuf {
    /// Goes on where its last reader ended.
    ///
    /// `size` is that of its data in bytes: a power of two, and a multiple of the page size.
    fn new(map: OwnedFd, size: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        if !size.is_power_of_two() || !size.is_multiple_of(page) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a ring cannot have {size} bytes")));
        }
        let consumer = Mapping::new(&map, 0, page, ProtFlags::READ | ProtFlags::WRITE)?;
        let producer = Mapping::new(&map, page, page, ProtFlags::READ)?;
        let position = consumer.position().load(Ordering::Acquire);
        Ok(Self { map, page, size, consumer, producer, window: None, position, end: position, unseen: true })
    }

    /// The next record, if there is one; if not, the descriptor becomes readable when there is.
    ///
    /// # Errors
    /// When the part of the ring that it lies in cannot be mapped. Nothing leaves the ring then.
    pub fn read_next(&mut self) -> io::Result<Option<Next<'_>>> {
        loop {
            match self.look()? {
                Found::Nothing if self.unseen => self.look_again(),
                Found::Nothing => return Ok(None),
                Found::Discarded(len) => self.consume(len),
                Found::Record(start, len) => return Ok(Some(Next::Record(Record { ring: self, start, len }))),
                Found::Damage => {
                    // The producer's position alone is known to be where a record begins.
                    self.end = self.produced();
                    let bytes = self.end.wrapping_sub(self.position).min(self.size);
                    self.leave(self.end);
                    return Ok(Some(Next::Damaged { bytes }));
                }
            }
        }
    }

    fn look(&mut self) -> io::Result<Found> {
        if self.position == self.end {
            self.end = self.produced();
        }
        // Both positions wrap with the type.
        let there = self.end.wrapping_sub(self.position);
        if there == 0 {
            return Ok(Found::Nothing);
        }
        // The kernel's producer never is further ahead than the ring is large, and the consumer never before it.
        if there > self.size || there < HEADER || !self.position.is_multiple_of(HEADER) {
            return Ok(Found::Damage);
        }
        let offset = self.position & (self.size - 1);
        let header = self.data(offset, HEADER)?;
        // SAFETY: the pointer is to `HEADER` bytes of the window, whose start is a page's, at a multiple of `HEADER`: it is aligned.
        // All else that accesses it is the kernel, atomically, and an atomic load of 32 bits with this ordering may be of memory
        // that is read-only (`std::sync::atomic`).
        let header = unsafe { AtomicU32::from_ptr(header.as_ptr().cast()) };
        // The kernel ends the writing of a record with an exchange (`bpf_ringbuf_commit`): what it wrote before is seen.
        let header = header.load(Ordering::Acquire);
        if header & BUSY != 0 {
            return Ok(Found::Nothing);
        }
        let len = (header & !DISCARDED) as usize;
        Ok(if with_header(len) > there {
            Found::Damage
        } else if header & DISCARDED != 0 {
            Found::Discarded(len)
        } else {
            Found::Record(self.data(offset + HEADER, len)?, len)
        })
    }

    /// Prepares for waiting. The kernel wakes a reader only when it sees that the one had read everything before a record. Of its look
    /// at the consumer's position and ours at what it wrote, one has to see the other's.
    fn look_again(&mut self) {
        fence(Ordering::SeqCst);
        self.unseen = false;
    }

    /// The producer's position; the headers before it are there.
    fn produced(&self) -> usize {
        // The kernel's store is a release (`__bpf_ringbuf_reserve`).
        self.producer.position().load(Ordering::Acquire)
    }

    /// A record of this length leaves the ring.
    fn consume(&mut self, len: usize) {
        self.leave(self.position.wrapping_add(with_header(len)));
    }

    /// Everything before this position leaves the ring.
    fn leave(&mut self, position: usize) {
        self.position = position;
        // The kernel loads it with acquire before it writes there: the record was read before.
        self.consumer.position().store(position, Ordering::Release);
        self.unseen = true;
    }

    /// Data at an offset less than the ring's size plus [`HEADER`], at most as many bytes as the ring has from the header on. The pointer
    /// is good until the next call.
    fn data(&mut self, offset: usize, len: usize) -> io::Result<NonNull<u8>> {
        let end = offset + len;
        if let Some(window) = &self.window
            && let Some(start) = window.at(offset, end)
        {
            return Ok(start);
        }
        // The old one goes first: there are never two.
        self.window = None;
        let start = offset - offset % self.page;
        let len = (end - start).next_multiple_of(self.page).max(WINDOW).min(2 * self.size - start);
        let memory = Mapping::new(&self.map, 2 * self.page + start, len, ProtFlags::READ)?;
        let window = self.window.insert(Window { memory, start });
        window.at(offset, end).ok_or_else(|| io::Error::other("a record reaches beyond the ring"))
    }
}

impl AsRawFd for RingBuf {
    fn as_raw_fd(&self) -> RawFd {
        self.map.as_raw_fd()
    }
}

impl Deref for Record<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `RingBuf::data` gave the pointer for so many bytes of the window, which moves or goes with a call of the ring's alone,
        // and this has borrowed it. The kernel does not write to a record that is committed and has not left the ring.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.ring.consume(self.len);
    }
}

/// How much of the ring a record of this length takes (`kernel/bpf/ringbuf.c: __bpf_ringbuf_reserve`).
fn with_header(len: usize) -> usize {
    (len + HEADER).next_multiple_of(HEADER)
}

/// A part of the data.
#[derive(Debug)]
struct Window {
    memory: Mapping,
    /// Where it begins in the data.
    start: usize,
}

impl Window {
    /// A pointer to what lies between two offsets of the data, if all of it does lie here.
    fn at(&self, from: usize, to: usize) -> Option<NonNull<u8>> {
        let at = from.checked_sub(self.start)?;
        // SAFETY: the offset is at most the mapping's length.
        (from <= to && to - self.start <= self.memory.len).then(|| unsafe { self.memory.start.add(at) })
    }
}

/// Memory of the map's.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps a part of the map. All are multiples of the page size, and the length is not zero.
    fn new(map: &OwnedFd, offset: usize, len: usize, access: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address, so that nothing that is mapped is replaced.
        let start = unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, map, offset as u64) }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self { start, len })
    }

    /// The position that its first page is for.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: the mapping is at least a page long, begins at a page, and lives as long as the reference. The kernel accesses the
        // position as an `unsigned long`, atomically; one in memory that is read-only is only loaded, which may be done there.
        unsafe { AtomicUsize::from_ptr(self.start.as_ptr().cast()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length; whatever points into it borrows it or is not used after.
        if let Err(e) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            tracing::warn!("a part of the ring stays mapped: {e}");
        }
    }
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}

#[cfg(test)]
#[path = "ringbuf_tests.rs"]
mod tests;
