//! Memory that is not needed any more.

/// Gives back to the system what the allocator keeps of memory that was freed, in whatever thread. Loading the programs and a policy
/// needs several times what stays, and glibc keeps whatever it has below something that is still in use. It takes about a millisecond,
/// during which other threads may wait for memory.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it locks what it looks at, and touches nothing that is allocated (`malloc_trim(3)`: MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}
