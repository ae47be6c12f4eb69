//! From a dentry up to its filesystem's root.
//!
//! The steps are those of [`repeat`].

use enforcer_common::{
    decide::{Ancestry, Climb, Step},
    event::{NAME_CAPACITY, RawPath},
    rules::MAX_DEPTH,
};

use crate::{
    atomic,
    kernel::Dentry,
    repeat::{Steps, Then, repeat},
};

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
        repeat(&mut climber);
        // SAFETY: the word is on this program's stack.
        match unsafe { (&raw const climber.end).read_volatile() } {
            ENOUGH => Climb::Enough,
            ROOT => Climb::Root,
            ADRIFT => Climb::Adrift,
            _ => Climb::TooDeep,
        }
    }
}

impl<S: Step> Steps for Climber<'_, S> {
    const LIMIT: u32 = MAX_DEPTH;

    #[inline(always)]
    fn step(&mut self) -> Then {
        let dentry = self.dentry;
        if self.step.visit(&dentry.inode()) {
            self.ends(ENOUGH);
            return Then::Stop;
        }
        let parent = dentry.parent();
        if parent == dentry {
            self.ends(if dentry.is_root_of_filesystem() { ROOT } else { ADRIFT });
            return Then::Stop;
        }
        self.dentry = parent;
        Then::GoOn
    }
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
    // SAFETY: as the caller promised.
    unsafe { (*path).dev = dentry.superblock().dev() };
    // Every write stays below `N`, because a name is read only while a whole one fits.
    repeat(&mut writer);
}

impl<const N: usize> Steps for Writer<N> {
    const LIMIT: u32 = MAX_DEPTH;

    /// Writes one name.
    #[inline(always)]
    fn step(&mut self) -> Then {
        let (dentry, path) = (self.dentry, self.path);
        let parent = dentry.parent();
        if parent == dentry {
            return Then::Stop;
        }
        // SAFETY: the path is the caller's of `write_path`.
        let len = unsafe { (*path).len };
        if len > (N - NAME_CAPACITY) as u32 {
            // SAFETY: as above.
            unsafe { (*path).truncated = 1 };
            return Then::Stop;
        }
        // SAFETY: `len` leaves room for `NAME_CAPACITY` bytes below `N`.
        let read = unsafe {
            let bytes: *mut u8 = (&raw mut (*path).bytes).cast();
            dentry.read_name(bytes.add(len as usize), NAME_CAPACITY as u32)
        };
        if read <= 0 {
            return Then::Stop;
        }
        // SAFETY: as above.
        unsafe { (*path).len = len + read as u32 };
        self.dentry = parent;
        Then::GoOn
    }
}
