//! Philox4x32-10, a counter-based random number generator.
//!
//! A counter-based generator has no state: the number at one position is a pure function of (key, counter). A sequence
//! therefore draws the same numbers whatever else shares its batch, after a preemption, and on replay; a stateful
//! generator would be cheaper per number, but sampling needs one number per token.
//!
//! Method: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.

const MULTIPLIER_0: u64 = 0xD251_1F53;
const MULTIPLIER_1: u64 = 0xCD9E_8D57;
/// Key increments of the Weyl sequence: the golden ratio and sqrt(3) - 1, as 32-bit fractions.
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;
const ROUNDS: usize = 10;

/// Returns the four 32-bit words of the block at `counter` under `key`.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let a = MULTIPLIER_0 * u64::from(counter[0]);
        let b = MULTIPLIER_1 * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL_0), key[1].wrapping_add(WEYL_1)];
    }
    counter
}

/// The uniform number in `[0, 1)` that `(seed, position)` stands for, with 53 random bits.
pub fn uniform(seed: u64, position: u64) -> f64 {
    bits(seed, position) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// The 53 random bits of [`uniform`], its numerator over 2^53.
pub fn bits(seed: u64, position: u64) -> u64 {
    let words = philox4x32([position as u32, (position >> 32) as u32, 0, 0], [seed as u32, (seed >> 32) as u32]);
    (u64::from(words[0]) << 32 | u64::from(words[1])) >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known-answer vectors of the Random123 distribution (`kat_vectors`, `philox4x32 10`).
    #[test]
    fn agrees_with_the_published_vectors() {
        let cases: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn uniform_numbers_fill_the_unit_interval_evenly() {
        let mut buckets = [0u32; 16];
        for position in 0..32_000 {
            let u = uniform(7, position);
            assert!((0.0..1.0).contains(&u));
            buckets[(u * 16.0) as usize] += 1;
        }
        // 2000 expected per bucket, standard deviation 43: five of them leave no room for chance.
        assert!(buckets.iter().all(|&n| (1785..=2215).contains(&n)), "{buckets:?}");
    }

    #[test]
    fn seed_and_position_both_matter_in_all_their_bits() {
        let base = uniform(1, 1);
        for bit in 0..64 {
            assert_ne!(uniform(1 ^ (1 << bit), 1), base, "seed bit {bit}");
            assert_ne!(uniform(1, 1 ^ (1 << bit)), base, "position bit {bit}");
        }
    }
}
