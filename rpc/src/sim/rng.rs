//! Randomness for a test's workload, drawn from its seed.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, TryRng};
use std::convert::Infallible;
use std::ops::Range;

/// A generator whose numbers follow from the test's seed: every client of a simulation has its own. It is also a generator
/// of the `rand` crate, for those who use it.
///
/// ```
/// # use trimaran_rpc::sim::SimRng;
/// let mut rng = SimRng::new(7);
/// let key = format!("user:{}", rng.below(10));
/// let word = *rng.pick(&["a", "b"]);
/// let value = if rng.chance(0.1) { rng.bytes(8_000) } else { word.as_bytes().to_vec() };
/// # assert!(key.len() == 6 && !value.is_empty());
/// ```
#[derive(Debug, Clone)]
pub struct SimRng(Pcg64Mcg);

impl SimRng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> SimRng {
        SimRng(Pcg64Mcg::seed_from_u64(seed))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.random()
    }

    /// A number from 0 to `bound` - 1, each as likely; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.random_range(0..bound) }
    }

    /// A number of the range; its start where it is empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// `true` with this probability, from 0 to 1.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.random::<f64>() < probability
    }

    /// One of them.
    ///
    /// # Panics
    /// Where there are none.
    #[track_caller]
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        assert!(!choices.is_empty(), "nothing to pick from");
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// So many random bytes.
    pub fn bytes(&mut self, bytes: usize) -> Vec<u8> {
        let mut random = vec![0; bytes];
        self.0.fill_bytes(&mut random);
        random
    }
}

impl TryRng for SimRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(to);
        Ok(())
    }
}
