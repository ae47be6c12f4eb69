//! Numbers that nobody chose.

/// xorshift64.
pub(crate) struct Random(u64);

impl Random {
    /// From the clock.
    pub(crate) fn seeded() -> Self {
        let nanos = std::time::UNIX_EPOCH.elapsed().map_or(1, |d| u64::from(d.subsec_nanos()));
        Self(nanos | 1)
    }

    /// One below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
