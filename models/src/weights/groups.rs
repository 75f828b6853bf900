//! Groups of columns that share a scale, and the format that holds them.

use ir::types::DType;

/// Columns cut into groups of one size, the last possibly shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grouping {
    cols: u64,
    size: u64,
}

impl Grouping {
    /// Groups of `size` columns, a multiple of 32, or one group.
    pub fn new(cols: u64, size: Option<u64>) -> Grouping {
        Grouping { cols, size: size.unwrap_or(cols).max(1) }
    }

    /// Columns of a group.
    pub fn size(self) -> u64 {
        self.size
    }

    /// Number of groups.
    pub fn count(self) -> u64 {
        self.cols.div_ceil(self.size)
    }

    /// Columns of a group of the format: the largest that divides this one's, scales being repeated where it is smaller; for
    /// one group a row the smallest that holds it.
    fn stored(self) -> u64 {
        let mut sizes = [32, 64, 128].into_iter();
        match self.size >= self.cols {
            true => sizes.find(|g| *g >= self.cols).unwrap_or(128),
            false => sizes.rev().find(|g| self.size.is_multiple_of(*g)).unwrap_or(32),
        }
    }

    /// Groups of the format in a row.
    pub fn stored_count(self) -> usize {
        self.cols.div_ceil(self.stored()) as usize
    }

    /// The group of which a group of the format is a part.
    pub fn of_stored(self, group: usize) -> usize {
        (group as u64 * self.stored() / self.size) as usize
    }

    /// The 4-bit format of these groups, with zeros of its own or all of them 8. Symmetric groups of 32 are Q4_0, whose rows are
    /// whole blocks; other rows take the format with zeros.
    pub fn dtype(self, symmetric: bool) -> DType {
        match (self.stored(), symmetric) {
            (128, true) => DType::Q4G128,
            (64, true) => DType::Q4G64,
            (_, true) if self.cols.is_multiple_of(32) => DType::Q4_0,
            (128, false) => DType::Q4Z128,
            (64, false) => DType::Q4Z64,
            _ => DType::Q4Z32,
        }
    }
}

/// Whether a format stores a zero for each group.
pub(super) fn has_zeros(dtype: DType) -> bool {
    matches!(dtype, DType::Q4Z32 | DType::Q4Z64 | DType::Q4Z128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_take_the_largest_format_that_divides() {
        let cases = [
            (256, Some(32), DType::Q4_0, DType::Q4Z32, 8),
            (256, Some(64), DType::Q4G64, DType::Q4Z64, 4),
            (256, Some(128), DType::Q4G128, DType::Q4Z128, 2),
            (512, Some(256), DType::Q4G128, DType::Q4Z128, 4),
            (192, Some(96), DType::Q4_0, DType::Q4Z32, 6),
            (200, Some(192), DType::Q4G64, DType::Q4Z64, 4),
            (200, None, DType::Q4G128, DType::Q4Z128, 2),
            (32, Some(32), DType::Q4_0, DType::Q4Z32, 1),
            (32, Some(128), DType::Q4_0, DType::Q4Z32, 1),
            (48, None, DType::Q4G64, DType::Q4Z64, 1),
            (40, Some(32), DType::Q4Z32, DType::Q4Z32, 2),
        ];
        for (cols, size, symmetric, asymmetric, groups) in cases {
            let grouping = Grouping::new(cols, size);
            assert_eq!(grouping.dtype(true), symmetric, "{cols} {size:?}");
            assert_eq!(grouping.dtype(false), asymmetric, "{cols} {size:?}");
            assert_eq!(grouping.stored_count(), groups, "{cols} {size:?}");
            assert!(grouping.of_stored(groups - 1) as u64 == grouping.count() - 1);
        }
        assert_eq!((0..6).map(|g| Grouping::new(192, Some(96)).of_stored(g)).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1]);
    }
}
