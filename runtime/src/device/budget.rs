//! How many KV pages fit a given memory, beside weights, results and what the device needs for itself.
//!
//! Arithmetic alone, for the compiler's plans and the runtime's devices alike, so that both give the same answer.

use super::DeviceMemory;

/// What a device needs for a number of KV pages.
pub struct Needs<'a> {
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes of the largest arena.
    pub arena: u64,
    /// Bytes of a page in all layers.
    pub page_bytes: u64,
    /// Most pages that a program can address.
    pub most_pages: u64,
    /// Bytes of everything else, which may grow with the number of pages, but never shrinks.
    pub other: &'a mut dyn FnMut(u64) -> u64,
}

impl Needs<'_> {
    /// What so many pages take.
    pub fn memory(&mut self, pages: u64) -> DeviceMemory {
        let kv = self.page_bytes.saturating_mul(pages);
        DeviceMemory { weights: self.weights, arena: self.arena, kv, other: (self.other)(pages) }
    }

    /// The most pages that fit so many bytes; 0 if not even one does.
    pub fn pages_within(&mut self, bytes: u64) -> u64 {
        let kv_at_most = bytes.saturating_sub(self.weights).saturating_sub(self.arena);
        // The first number of pages known not to fit is narrowed down from above.
        let (mut fits, mut too_many) =
            (0, (kv_at_most / self.page_bytes.max(1)).min(self.most_pages).saturating_add(1));
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            match self.memory(middle).total() <= bytes {
                true => fits = middle,
                false => too_many = middle,
            }
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_page_more_would_not_fit(
            weights in 0..1000u64, arena in 0..1000u64, page in 1..50u64, most in 1..300u64, bytes in 0..9000u64,
            fixed in 0..500u64, columns in 0..20u64,
        ) {
            let mut other = |pages: u64| fixed + pages.min(columns) * 4;
            let mut needs = Needs { weights, arena, page_bytes: page, most_pages: most, other: &mut other };
            let pages = needs.pages_within(bytes);
            prop_assert!(pages <= most);
            prop_assert!(pages == 0 || needs.memory(pages).total() <= bytes);
            prop_assert!(pages == most || needs.memory(pages + 1).total() > bytes);
        }
    }

    #[test]
    fn sizes_past_counting_do_not_fit() {
        let mut other = |_| 1;
        let mut needs =
            Needs { weights: u64::MAX, arena: 1, page_bytes: u64::MAX, most_pages: u64::MAX, other: &mut other };
        assert_eq!(needs.pages_within(u64::MAX - 1), 0);
        assert_eq!(needs.memory(2).total(), u64::MAX);
    }
}
