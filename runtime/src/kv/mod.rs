//! The paged KV cache's bookkeeping. The pages' memory belongs to the device.

pub mod pages;
