//! How much memory a process keeps that lives for long.

/// Lets the system back this process's memory with its smallest pages alone. Where huge ones are given to everybody, the kernel
/// fills up 2 MiB around whatever is in use (`mm/khugepaged.c`), most of it with what was [given back](give_back). A process that this
/// one starts inherits it.
pub fn in_small_pages() {
    // A kernel without huge pages has none to leave out.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

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
