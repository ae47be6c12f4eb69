//! Steps that are taken until one says stop.
//!
//! `bpf_loop` (since 5.17) takes them: the verifier looks at a step once instead of once each time, which is what keeps programs with
//! several walks loadable. In the object for elder kernels a walk over the elements of a map does the same (`bpf_for_each_map_elem`, since
//! 5.13). One object with both would be the end of some kernels of 5.15: where the verifier removes a function that is called back as dead,
//! they read past the end of an array (until commit 3990ed4c4266, "bpf: Stop caching subprog index in the `bpf_pseudo_func` insn"); seen
//! on Ubuntu's 5.15.0-47.

use core::ffi::c_void;

/// What a step returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Another one.
    GoOn = 0,
    /// It was the last.
    Stop = 1,
}

/// Something that is done in steps. Where it has come to is in it.
pub trait Steps {
    /// How many steps there are at most: a fraction of 2^24.
    const LIMIT: u32;

    /// The next step.
    fn step(&mut self) -> Then;
}

#[cfg(not(feature = "elder"))]
pub use by_loop::repeat;
#[cfg(feature = "elder")]
pub use by_map::repeat;

#[cfg(not(feature = "elder"))]
mod by_loop {
    use aya_ebpf::helpers::generated::bpf_loop;

    use super::{Steps, c_void};

    /// Takes the steps.
    #[inline(always)]
    pub fn repeat<S: Steps>(steps: &mut S) {
        // SAFETY: the body has the helper's signature and is given the state, which outlives the loop.
        unsafe { bpf_loop(S::LIMIT, one::<S> as *mut c_void, (&raw mut *steps).cast(), 0) };
    }

    unsafe extern "C" fn one<S: Steps>(_index: u64, steps: *mut S) -> i64 {
        // SAFETY: `repeat` hands over a pointer to its state.
        unsafe { &mut *steps }.step() as i64
    }
}

#[cfg(feature = "elder")]
mod by_map {
    use aya_ebpf::helpers::generated::bpf_for_each_map_elem;

    use super::{Steps, Then, c_void};
    use crate::maps::{STEPS, STEPS_AT_ONCE};

    /// Takes the steps: one for each element of the map, or for each element one for each other.
    #[inline(always)]
    pub fn repeat<S: Steps>(steps: &mut S) {
        let body = const {
            assert!(S::LIMIT <= (STEPS_AT_ONCE - 1) * (STEPS_AT_ONCE - 1));
            if S::LIMIT <= STEPS_AT_ONCE { one::<S> as Body<S> } else { many::<S> as Body<S> }
        };
        // SAFETY: the body has the helper's signature and is given the state, which outlives the walk.
        unsafe { bpf_for_each_map_elem(map(), body as *mut c_void, (&raw mut *steps).cast(), 0) };
    }

    /// What the helper calls for each element, with the map, the key and the value.
    type Body<S> = unsafe extern "C" fn(*const c_void, *const u32, *const c_void, *mut S) -> i64;

    #[inline(always)]
    fn map() -> *mut c_void {
        (&raw const STEPS).cast_mut().cast()
    }

    unsafe extern "C" fn one<S: Steps>(
        _map: *const c_void,
        index: *const u32,
        _value: *const c_void,
        steps: *mut S,
    ) -> i64 {
        // SAFETY: the helper hands over the key; `repeat` hands over a pointer to its state.
        unsafe { if *index >= S::LIMIT { Then::Stop as i64 } else { (*steps).step() as i64 } }
    }

    /// Takes a step for each element but the last.
    unsafe extern "C" fn many<S: Steps>(
        _map: *const c_void,
        index: *const u32,
        _value: *const c_void,
        steps: *mut S,
    ) -> i64 {
        // SAFETY: the helper hands over the key.
        if unsafe { *index } >= S::LIMIT.div_ceil(STEPS_AT_ONCE - 1) {
            return Then::Stop as i64;
        }
        // SAFETY: the body has the helper's signature and is given the state that `repeat` handed over.
        let seen = unsafe { bpf_for_each_map_elem(map(), one_of_many::<S> as *mut c_void, steps.cast(), 0) };
        // The element at which a walk stops is counted, too.
        if seen < i64::from(STEPS_AT_ONCE) { Then::Stop as i64 } else { Then::GoOn as i64 }
    }

    unsafe extern "C" fn one_of_many<S: Steps>(
        _map: *const c_void,
        index: *const u32,
        _value: *const c_void,
        steps: *mut S,
    ) -> i64 {
        // At the last element no step is taken: that the walk comes there tells that none has said stop.
        // SAFETY: the helper hands over the key; `repeat` hands over a pointer to its state.
        unsafe { if *index >= STEPS_AT_ONCE - 1 { Then::Stop as i64 } else { (*steps).step() as i64 } }
    }
}
