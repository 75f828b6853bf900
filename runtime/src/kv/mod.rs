//! The paged KV cache's bookkeeping. The pages' memory belongs to the device.

mod disk;
mod host_tier;
pub(crate) mod key;
pub mod pages;
pub(crate) mod prefix_cache;
mod prefix_tree;
pub mod salt;

pub use prefix_cache::{PrefixCacheOptions, PrefixCacheStats, Tending};
