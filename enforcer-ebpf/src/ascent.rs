//! From a dentry up to its filesystem's root.
//!
//! The steps are made by `bpf_loop` (since 5.17): the verifier looks at the body once instead of once per step, which is what
//! keeps programs with several walks loadable.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use enforcer_common::{
    decide::{Ancestry, Climb, Step},
    event::{NAME_CAPACITY, RawPath},
    rules::MAX_DEPTH,
};

use crate::{atomic, kernel::Dentry};

/// What the body of a loop returns.
const GO_ON: i64 = 0;
const STOP: i64 = 1;

/// The way up from a dentry.
pub struct Ascent(Dentry);

impl Ascent {
    /// From the object itself; from its directory, when it does not exist yet. What lies above exists.
    #[inline(always)]
    pub fn from(dentry: Dentry) -> Self {
        Self(if dentry.is_negative() { dentry.parent() } else { dentry })
    }
}

/// Where a climb is.
struct Climber<'a, S> {
    dentry: Dentry,
    step: &'a mut S,
    /// Written by [`atomic::store`], so that the verifier does not follow each way in which a walk can end through the rest of the
    /// program.
    end: u64,
}

impl<S> Climber<'_, S> {
    #[inline(always)]
    fn ends(&mut self, how: u64) {
        // SAFETY: the word is on the program's stack.
        unsafe { atomic::store(&raw mut self.end, how) };
    }
}

/// Values of [`Climber::end`]; the initial one remains when the loop has run out.
const TOO_DEEP: u64 = 0;
const ENOUGH: u64 = 1;
const ROOT: u64 = 2;
const ADRIFT: u64 = 3;

impl Ancestry for Ascent {
    #[inline(always)]
    fn climb<S: Step>(&mut self, step: &mut S) -> Climb {
        let mut climber = Climber { dentry: self.0, step, end: TOO_DEEP };
        climber.ends(TOO_DEEP);
        // SAFETY: the body has the helper's signature and is given the climber, which outlives the loop.
        unsafe { bpf_loop(MAX_DEPTH, climb_one::<S> as *mut c_void, (&raw mut climber).cast(), 0) };
        // SAFETY: the word is on this program's stack.
        match unsafe { (&raw const climber.end).read_volatile() } {
            ENOUGH => Climb::Enough,
            ROOT => Climb::Root,
            ADRIFT => Climb::Adrift,
            _ => Climb::TooDeep,
        }
    }
}

/// One step of a climb.
unsafe extern "C" fn climb_one<S: Step>(_index: u64, climber: *mut Climber<'_, S>) -> i64 {
    // SAFETY: `climb` hands over a pointer to its climber.
    let climber = unsafe { &mut *climber };
    let dentry = climber.dentry;
    if climber.step.visit(&dentry.inode()) {
        climber.ends(ENOUGH);
        return STOP;
    }
    let parent = dentry.parent();
    if parent == dentry {
        climber.ends(if dentry.is_root_of_filesystem() { ROOT } else { ADRIFT });
        return STOP;
    }
    climber.dentry = parent;
    GO_ON
}

/// Where the writing of a path is. How far it has come is in the path alone: of what is on the stack the verifier would follow each
/// way in which a walk can end.
struct Writer<const N: usize> {
    dentry: Dentry,
    path: *mut RawPath<N>,
}

/// Writes the names from `dentry` towards the root of its filesystem.
///
/// # Safety
/// `path` must point to writable memory, and be empty.
#[inline(always)]
pub unsafe fn write_path<const N: usize>(path: *mut RawPath<N>, dentry: Dentry) {
    let mut writer = Writer { dentry, path };
    // SAFETY: as the caller promised; every write stays below `N`, because a name is read only while a whole one fits.
    unsafe {
        (*path).dev = dentry.superblock().dev();
        bpf_loop(MAX_DEPTH, write_one::<N> as *mut c_void, (&raw mut writer).cast(), 0);
    }
}

/// Writes one name.
unsafe extern "C" fn write_one<const N: usize>(_index: u64, writer: *mut Writer<N>) -> i64 {
    // SAFETY: `write_path` hands over a pointer to its writer.
    let writer = unsafe { &mut *writer };
    let (dentry, path) = (writer.dentry, writer.path);
    let parent = dentry.parent();
    if parent == dentry {
        return STOP;
    }
    // SAFETY: the path is the caller's of `write_path`.
    let len = unsafe { (*path).len };
    if len > (N - NAME_CAPACITY) as u32 {
        // SAFETY: as above.
        unsafe { (*path).truncated = 1 };
        return STOP;
    }
    // SAFETY: `len` leaves room for `NAME_CAPACITY` bytes below `N`.
    let read = unsafe {
        let bytes: *mut u8 = (&raw mut (*path).bytes).cast();
        dentry.read_name(bytes.add(len as usize), NAME_CAPACITY as u32)
    };
    if read <= 0 {
        return STOP;
    }
    // SAFETY: as above.
    unsafe { (*path).len = len + read as u32 };
    writer.dentry = parent;
    GO_ON
}
