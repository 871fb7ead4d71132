//! Each target on random bytes, the same ones at each run, and on each input that once made it fail.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::fs;
use std::path::Path;
use trimaran_fuzz::TARGETS;

const INPUTS: u64 = 2_000;
const INPUT_BYTES_MAX: usize = 1_500;

#[test]
fn random_bytes_are_borne() {
    for (name, run) in TARGETS {
        for seed in 0..INPUTS {
            let mut rng = Pcg64Mcg::seed_from_u64(seed);
            // Some of few values, which say more of what the targets understand.
            let below = [256_u16, 16, 4][rng.random_range(0..3)];
            let length = rng.random_range(0..INPUT_BYTES_MAX);
            let bytes: Vec<u8> = (0..length).map(|_| rng.random_range(0..below) as u8).collect();
            println!("{name}, seed {seed}"); // the last line before a panic
            run(&bytes);
        }
    }
}

#[test]
fn what_was_found_once_stays_mended() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("found");
    for (name, run) in TARGETS {
        let Ok(files) = fs::read_dir(directory.join(name)) else { continue };
        for file in files {
            let path = file.expect("a readable directory").path();
            println!("{}", path.display());
            run(&fs::read(&path).expect("a readable file"));
        }
    }
}
