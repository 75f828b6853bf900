//! What the device asks of a CUDA driver: a few dozen calls, so that another driver can stand in for it in tests.
//!
//! Handles are opaque numbers and addresses are those of the GPU. Every call may fail, and says which call it was; that a failure ended the
//! context, so that no further call can succeed, is decided here, in one place, by its code.

use std::fmt;

/// What a call gives.
pub type DriverResult<T> = Result<T, DriverError>;

/// A call of the driver that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} answers {name} ({code}): {text}")]
pub struct DriverError {
    /// The function, such as `cuMemAlloc`.
    pub call: &'static str,
    /// The driver's code.
    pub code: u32,
    /// The code's name, such as `CUDA_ERROR_OUT_OF_MEMORY`.
    pub name: String,
    /// What the driver says of it.
    pub text: String,
}

/// Codes that are asked for by name.
pub mod codes {
    /// Memory is lacking.
    pub const OUT_OF_MEMORY: u32 = 2;
    /// There is no GPU.
    pub const NO_DEVICE: u32 = 100;
    /// Code for no GPU of this kind.
    pub const NO_BINARY_FOR_GPU: u32 = 209;
    /// PTX that the driver cannot read.
    pub const INVALID_PTX: u32 = 218;
    /// PTX newer than the driver.
    pub const UNSUPPORTED_PTX_VERSION: u32 = 222;
    /// The library lacks a function.
    pub const NOT_FOUND: u32 = 500;
    /// A kernel touched memory that is not there.
    pub const ILLEGAL_ADDRESS: u32 = 700;
}

/// Codes after which a context answers every call with an error: faults of kernels and of hardware.
const STICKY: [u32; 16] = [4, 201, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999];

impl DriverError {
    /// Whether the context is lost: no later call can succeed.
    pub fn is_sticky(&self) -> bool {
        STICKY.contains(&self.code)
    }

    /// Whether memory was lacking.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == codes::OUT_OF_MEMORY
    }
}

/// A version of CUDA, as drivers count: 1000 × major + 10 × minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion(pub u32);

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// A GPU as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuProperties {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
}

/// Bytes of a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// That nobody uses.
    pub free: u64,
    /// All.
    pub total: u64,
}

/// An address of a GPU's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceAddress(pub u64);

impl DeviceAddress {
    /// The address so many bytes further on.
    #[must_use]
    pub fn offset(self, bytes: u64) -> DeviceAddress {
        DeviceAddress(self.0.wrapping_add(bytes))
    }
}

/// An address of page-locked memory of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddress(pub u64);

impl HostAddress {
    /// The address so many bytes further on.
    #[must_use]
    pub fn offset(self, bytes: u64) -> HostAddress {
        HostAddress(self.0.wrapping_add(bytes))
    }
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
    )+};
}

handles!(
    /// A GPU's context.
    ContextHandle,
    /// A queue of work.
    StreamHandle,
    /// A mark in a queue.
    EventHandle,
    /// Loaded code.
    ModuleHandle,
    /// A kernel in loaded code.
    FunctionHandle,
    /// Recorded work.
    GraphHandle,
    /// Recorded work that can be launched.
    ExecutableHandle,
);

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelLaunch {
    /// The kernel.
    pub function: FunctionHandle,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The parameter block: all parameters at their aligned offsets.
    pub params: Vec<u8>,
    /// May begin before the kernel before it has ended; it waits for that kernel's results by itself.
    pub overlaps: bool,
}

/// A CUDA driver. Calls between [`Driver::open`] and [`Driver::close`] are made on a thread that [`Driver::bind`] was called on.
///
/// Copies and launches are put into a stream and carried out later, in their order; host memory that they name must stay, and what they read must
/// not change, until the stream has been waited for.
pub trait Driver: Send + Sync {
    /// The latest CUDA that it serves.
    ///
    /// # Errors
    /// The driver's, as of every call.
    fn version(&self) -> DriverResult<CudaVersion>;

    /// GPUs there are.
    fn gpu_count(&self) -> DriverResult<u32>;

    /// A GPU by its number.
    fn gpu(&self, ordinal: u32) -> DriverResult<GpuProperties>;

    /// Makes a GPU ready.
    fn open(&self, ordinal: u32) -> DriverResult<ContextHandle>;

    /// Returns what [`Driver::open`] gave, with all memory and handles that are left in it.
    fn close(&self, ordinal: u32) -> DriverResult<()>;

    /// Lets the calling thread use a context.
    fn bind(&self, context: ContextHandle) -> DriverResult<()>;

    /// How much memory the bound GPU has.
    fn memory_info(&self) -> DriverResult<MemoryInfo>;

    /// Reserves memory of the GPU, at least 1 byte, aligned to 256.
    fn allocate(&self, bytes: u64) -> DriverResult<DeviceAddress>;

    /// Returns memory.
    fn free(&self, at: DeviceAddress) -> DriverResult<()>;

    /// Reserves page-locked memory of the host, at least 1 byte, zeroed.
    fn allocate_host(&self, bytes: u64) -> DriverResult<HostAddress>;

    /// Returns page-locked memory.
    fn free_host(&self, at: HostAddress) -> DriverResult<()>;

    /// Sets bytes.
    fn fill(&self, at: DeviceAddress, value: u8, bytes: u64, stream: StreamHandle) -> DriverResult<()>;

    /// Copies from page-locked memory to the GPU.
    fn upload(&self, to: DeviceAddress, from: HostAddress, bytes: u64, stream: StreamHandle) -> DriverResult<()>;

    /// Copies from the GPU to page-locked memory.
    fn download(&self, to: HostAddress, from: DeviceAddress, bytes: u64, stream: StreamHandle) -> DriverResult<()>;

    /// Copies within the GPU; the ranges do not overlap.
    fn copy(&self, to: DeviceAddress, from: DeviceAddress, bytes: u64, stream: StreamHandle) -> DriverResult<()>;

    /// A new queue, which waits for no other.
    fn create_stream(&self) -> DriverResult<StreamHandle>;

    /// Ends a queue.
    fn destroy_stream(&self, stream: StreamHandle) -> DriverResult<()>;

    /// Waits until a queue is empty.
    fn synchronize(&self, stream: StreamHandle) -> DriverResult<()>;

    /// A new mark.
    fn create_event(&self) -> DriverResult<EventHandle>;

    /// Removes a mark.
    fn destroy_event(&self, event: EventHandle) -> DriverResult<()>;

    /// Puts a mark into a queue.
    fn record(&self, event: EventHandle, stream: StreamHandle) -> DriverResult<()>;

    /// Waits until everything before a mark is done; at once if it was never put anywhere.
    fn wait(&self, event: EventHandle) -> DriverResult<()>;

    /// Loads machine code, or PTX with a zero byte at its end.
    fn load_module(&self, image: &[u8]) -> DriverResult<ModuleHandle>;

    /// Removes code.
    fn unload_module(&self, module: ModuleHandle) -> DriverResult<()>;

    /// A kernel by its name.
    fn function(&self, module: ModuleHandle, name: &str) -> DriverResult<FunctionHandle>;

    /// Allows launches of a kernel with so many bytes of dynamic shared memory.
    fn allow_shared(&self, function: FunctionHandle, bytes: u32) -> DriverResult<()>;

    /// Launches a kernel.
    fn launch(&self, launch: &KernelLaunch, stream: StreamHandle) -> DriverResult<()>;

    /// Records what is put into a stream from now on instead of carrying it out.
    fn begin_capture(&self, stream: StreamHandle) -> DriverResult<()>;

    /// Ends recording.
    fn end_capture(&self, stream: StreamHandle) -> DriverResult<GraphHandle>;

    /// Removes recorded work.
    fn destroy_graph(&self, graph: GraphHandle) -> DriverResult<()>;

    /// Makes recorded work launchable.
    fn instantiate(&self, graph: GraphHandle) -> DriverResult<ExecutableHandle>;

    /// Removes launchable work.
    fn destroy_executable(&self, executable: ExecutableHandle) -> DriverResult<()>;

    /// Sends launchable work to the GPU ahead of its first launch.
    fn upload_graph(&self, executable: ExecutableHandle, stream: StreamHandle) -> DriverResult<()>;

    /// Launches recorded work.
    fn launch_graph(&self, executable: ExecutableHandle, stream: StreamHandle) -> DriverResult<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_kernels_are_sticky_and_lack_of_memory_is_not() {
        let error = |code| DriverError { call: "cuTest", code, name: "CUDA_ERROR_X".into(), text: "words".into() };
        assert!(error(codes::ILLEGAL_ADDRESS).is_sticky() && error(719).is_sticky() && error(999).is_sticky());
        for code in [codes::OUT_OF_MEMORY, codes::NO_BINARY_FOR_GPU, codes::UNSUPPORTED_PTX_VERSION, 1, 701, 901] {
            assert!(!error(code).is_sticky(), "{code}");
        }
        assert!(error(codes::OUT_OF_MEMORY).is_out_of_memory());
        assert_eq!(error(700).to_string(), "cuTest answers CUDA_ERROR_X (700): words");
    }

    #[test]
    fn versions_are_written_as_people_do() {
        assert_eq!(CudaVersion(12_080).to_string(), "12.8");
        assert!(CudaVersion(12_000) < CudaVersion(13_000));
    }
}
