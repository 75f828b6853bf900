//! The kernels: their parameter ABI, their native implementations and the catalog that describes them.

pub mod abi;
pub mod cpu;
