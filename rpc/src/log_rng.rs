//! Randomness that every replica draws alike.

use xxhash_rust::xxh3::xxh3_128;

/// Random numbers for replicated handlers: seeded by cluster id and log index, so that all replicas draw the same, and
/// clients cannot foresee them from the log's position alone.
///
/// The algorithm is pinned, since replicas of two builds must agree while a cluster is upgraded: PCG XSL-RR 128/64 (multiplier
/// 0x2360ED051FC65DA44385DF649FCCF645), [`LogRng::below`] by Lemire's multiplication with rejection. Not for secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRng {
    state: u128,
}

const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

impl LogRng {
    /// The generator of one handler: `stream` tells apart what runs at the same index.
    pub(crate) fn new(cluster: u128, index: u64, stream: u64) -> LogRng {
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&cluster.to_le_bytes());
        seed[16..24].copy_from_slice(&index.to_le_bytes());
        seed[24..].copy_from_slice(&stream.to_le_bytes());
        // The multiplicative generator needs an odd state.
        LogRng { state: xxh3_128(&seed) | 1 }
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(MULTIPLIER);
        let turns = (self.state >> 122) as u32;
        ((self.state >> 64) as u64 ^ self.state as u64).rotate_right(turns)
    }

    /// A number from 0 to `bound` - 1, each as likely; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let refused = if bound == 0 { 0 } else { bound.wrapping_neg() % bound };
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= refused {
                return (product >> 64) as u64;
            }
        }
    }

    /// Fills `bytes` with random ones.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster in the middle of an upgrade runs two builds: these numbers may never change.
    #[test]
    fn the_algorithm_is_pinned() {
        let mut rng = LogRng::new(0x0123_4567_89ab_cdef, 42, 0);
        let drawn = [rng.next_u64(), rng.next_u64(), rng.below(1000), rng.below(6)];
        assert_eq!(drawn, PINNED);
        let mut bytes = [0; 3];
        rng.fill(&mut bytes);
        assert_ne!(bytes, [0; 3]);
    }

    const PINNED: [u64; 4] = [16_564_791_403_966_910_227, 7_555_579_711_780_865_074, 764, 2];

    /// The generator is the published one: the same numbers as an independent implementation from the same state.
    #[test]
    fn it_is_the_published_generator() {
        use rand::Rng;
        let state = 0xcafe_f00d_d15e_a5e5;
        let mut own = LogRng { state };
        let mut theirs = rand_pcg::Pcg64Mcg::new(state);
        for _ in 0..100 {
            assert_eq!(own.next_u64(), theirs.next_u64());
        }
    }

    #[test]
    fn every_index_and_stream_draws_its_own() {
        let first = |index, stream| LogRng::new(7, index, stream).next_u64();
        assert_ne!(first(1, 0), first(2, 0));
        assert_ne!(first(1, 0), first(1, 1));
        let mut rng = LogRng::new(7, 1, 0);
        assert_eq!(rng.below(0), 0);
        assert!((0..1000).all(|_| rng.below(10) < 10));
    }
}
