//! Groups of columns that share a scale, and the format that holds them.

use ir::types::DType;

/// Columns cut into groups of one size, the last possibly shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grouping {
    cols: u64,
    size: u64,
}

impl Grouping {
    /// Groups of `size` columns, or one group.
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

    /// Columns of a group of the format, which divides this one's or, for one group a row, is the largest.
    pub fn stored(self) -> u64 {
        let whole = self.size >= self.cols;
        [128, 64, 32].into_iter().find(|g| whole || self.size % g == 0).unwrap_or(32)
    }

    /// Groups of the format in a row.
    pub fn stored_count(self) -> usize {
        self.cols.div_ceil(self.stored()) as usize
    }

    /// The group of which a group of the format is a part.
    pub fn of_stored(self, group: usize) -> usize {
        (group as u64 * self.stored() / self.size) as usize
    }
}

/// The 4-bit format of a grouping, with zeros of its own or all of them 8. Blocks of 32 want whole blocks.
pub(super) fn group_dtype(grouping: Grouping, symmetric: bool) -> DType {
    match (grouping.stored(), symmetric) {
        (128, true) => DType::Q4G128,
        (64, true) => DType::Q4G64,
        (_, true) if grouping.cols % 32 == 0 => DType::Q4_0,
        (128, false) => DType::Q4Z128,
        (64, false) => DType::Q4Z64,
        _ => DType::Q4Z32,
    }
}

/// Whether a format stores a zero for each group.
pub(super) fn has_zeros(dtype: DType) -> bool {
    matches!(dtype, DType::Q4Z32 | DType::Q4Z64 | DType::Q4Z128)
}
