//! Which key comes next: evenly, or as YCSB does where a few keys are asked for most of the time.
//!
//! Zipf's law with the exponent 0.99 is drawn as in Gray et al., "Quickly generating billion-record synthetic databases"
//! (1994), from one random number in constant time. So that the popular keys do not lie side by side, `zipfian` spreads the
//! ranks over all keys with a hash; `latest` counts ranks back from the last inserted key instead.

use crate::cli::Choice;
use rand::{Rng, RngExt};
use xxhash_rust::xxh3::xxh3_64;

/// YCSB's.
const EXPONENT: f64 = 0.99;

/// Draws keys `0..count()`.
#[derive(Debug, Clone)]
pub struct Chooser {
    choice: Choice,
    zipf: Zipf,
    count: u64,
}

impl Chooser {
    /// For so many keys, at least one. Takes time proportional to them unless they are chosen evenly.
    pub fn new(choice: Choice, keys: u64) -> Chooser {
        let count = keys.max(1);
        let ranks = if choice == Choice::Uniform { 1 } else { count };
        Chooser { choice, zipf: Zipf::new(ranks), count }
    }

    /// A key.
    pub fn draw(&self, rng: &mut impl Rng) -> u64 {
        match self.choice {
            Choice::Uniform => rng.random_range(0..self.count),
            Choice::Zipfian => {
                let rank = self.zipf.rank(rng.random());
                xxh3_64(&rank.to_le_bytes()) % self.count
            }
            Choice::Latest => self.count - 1 - self.zipf.rank(rng.random()),
        }
    }

    /// There is one key more, behind all others. A zipfian choice keeps to the keys that there were at first, as YCSB's.
    pub fn grow(&mut self) {
        self.count += u64::from(self.choice != Choice::Zipfian);
        if self.choice == Choice::Latest {
            self.zipf.grow();
        }
    }

    /// Keys to choose from.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// Ranks from 0 on, of which the first is the most frequent.
#[derive(Debug, Clone)]
struct Zipf {
    count: u64,
    /// Sum of `1 / i ^ EXPONENT` for `i` up to `count`.
    zeta: f64,
    eta: f64,
}

fn weight(rank: u64) -> f64 {
    1.0 / (rank as f64 + 1.0).powf(EXPONENT)
}

impl Zipf {
    fn new(count: u64) -> Zipf {
        Zipf::with(count, (0..count).map(weight).sum())
    }

    fn with(count: u64, zeta: f64) -> Zipf {
        let first_two = weight(0) + weight(1);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - EXPONENT)) / (1.0 - first_two / zeta);
        Zipf { count, zeta, eta }
    }

    fn grow(&mut self) {
        *self = Zipf::with(self.count + 1, self.zeta + weight(self.count));
    }

    /// The rank for an even random number in `0..1`.
    fn rank(&self, even: f64) -> u64 {
        let scaled = even * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < weight(0) + weight(1) {
            return 1.min(self.count - 1);
        }
        let rank = self.count as f64 * (self.eta * even - self.eta + 1.0).powf(1.0 / (1.0 - EXPONENT));
        (rank as u64).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    const DRAWS: usize = 200_000;

    fn counts(chooser: &Chooser) -> Vec<usize> {
        let mut rng = Pcg64Mcg::seed_from_u64(7);
        let mut counts = vec![0; chooser.count() as usize];
        (0..DRAWS).for_each(|_| counts[chooser.draw(&mut rng) as usize] += 1);
        counts
    }

    #[test]
    fn ranks_follow_zipfs_law() {
        let zipf = Zipf::new(1000);
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut counts = vec![0usize; 1000];
        (0..DRAWS).for_each(|_| counts[zipf.rank(rng.random()) as usize] += 1);
        let expected = |ranks: std::ops::Range<u64>| ranks.map(weight).sum::<f64>() / zipf.zeta * DRAWS as f64;
        // The first two ranks are exact, the others an approximation by a continuous law.
        for (ranks, within) in [(0..1, 0.02), (1..2, 0.03), (2..10, 0.1), (10..100, 0.05), (100..1000, 0.05)] {
            let seen = counts[ranks.start as usize..ranks.end as usize].iter().sum::<usize>() as f64;
            let wanted = expected(ranks.clone());
            assert!((seen / wanted - 1.0).abs() < within, "{ranks:?}: {seen} instead of {wanted}");
        }
    }

    #[test]
    fn every_random_number_has_a_rank() {
        for count in [1, 2, 3, 1000] {
            let zipf = Zipf::new(count);
            for even in [0.0, 0.3, 0.5, 0.999_999, 1.0 - f64::EPSILON] {
                assert!(zipf.rank(even) < count, "{even} of {count}");
            }
        }
    }

    #[test]
    fn a_law_that_grew_is_that_of_its_size() {
        let mut grown = Zipf::new(10);
        (0..90).for_each(|_| grown.grow());
        let fresh = Zipf::new(100);
        assert!((grown.zeta - fresh.zeta).abs() < 1e-9 && (grown.eta - fresh.eta).abs() < 1e-9);
    }

    #[test]
    fn popular_keys_are_spread_and_the_latest_are_at_the_end() {
        let zipfian = counts(&Chooser::new(Choice::Zipfian, 1000));
        let hottest = (0..1000).max_by_key(|&key| zipfian[key]).expect("keys");
        assert_eq!(hottest as u64, xxh3_64(&0u64.to_le_bytes()) % 1000);
        assert!(zipfian[hottest] > DRAWS / 10 && zipfian[hottest + 1] < DRAWS / 20);

        let mut latest = Chooser::new(Choice::Latest, 999);
        latest.grow();
        let latest = counts(&latest);
        assert!(
            latest[999] > DRAWS / 10 && latest[998] > DRAWS / 30 && latest[..10].iter().sum::<usize>() < DRAWS / 100
        );
    }

    #[test]
    fn an_even_choice_is_even_and_reaches_what_was_inserted() {
        let mut chooser = Chooser::new(Choice::Uniform, 9);
        chooser.grow();
        let counts = counts(&chooser);
        assert!(counts.iter().all(|&count| count.abs_diff(DRAWS / 10) < DRAWS / 100), "{counts:?}");
        let mut fixed = Chooser::new(Choice::Zipfian, 9);
        fixed.grow();
        assert_eq!(fixed.count(), 9);
    }
}
