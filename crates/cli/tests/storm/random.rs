//! A small generator of numbers, whose seed is said.

/// xorshift64.
pub(crate) struct Random {
    state: u64,
    pub(crate) seed: u64,
}

impl Random {
    /// As the variable `SEED` has it, to have a storm again; else by the clock.
    pub(crate) fn new() -> Self {
        let said = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
        let by_clock =
            || u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
        let seed: u64 = said.unwrap_or_else(by_clock);
        eprintln!("SEED={seed}");
        Self::of(seed)
    }

    pub(crate) fn of(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, seed }
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state >> 33).unwrap() % n
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}
