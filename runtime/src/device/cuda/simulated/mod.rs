//! A CUDA driver where there is none: for tests of the device on any machine.
//!
//! It notes every call. Work in streams is put off until somebody waits for it, so that a wait that is missing shows. What is launched, the
//! simulator executes from its PTX over memory whose contents are undefined until they are written; or nothing is executed at all, and memory of
//! any size can be reserved. It can be told to fail at any call, and it says what a caller did wrong: handles that are left, memory
//! returned while work uses it, calls after the context was lost.

mod memory;
mod state;
mod streams;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use simulator::Finding;

use self::state::State;
use super::driver::{
    ContextHandle, CudaVersion, DeviceAddress, Driver, DriverResult, EventHandle, ExecutableHandle, FunctionHandle,
    GpuProperties, GraphHandle, HostAddress, KernelLaunch, MemoryInfo, ModuleHandle, StreamHandle,
};

/// What the driver is like.
#[derive(Clone, Debug)]
pub struct SimulatedGpu {
    /// GPUs there are, all alike.
    pub count: u32,
    /// Compute capability.
    pub capability: (u32, u32),
    /// CUDA that the driver serves.
    pub version: CudaVersion,
    /// Bytes of the GPU's memory.
    pub memory_bytes: u64,
    /// Execute what is launched, from PTX; otherwise memory has no contents.
    pub executes: bool,
    /// With every check of the simulator, which are [`SimulatedDriver::findings`].
    pub checks: bool,
}

impl Default for SimulatedGpu {
    /// One of compute capability 9.0 with 1 GiB, which executes.
    fn default() -> SimulatedGpu {
        let version = CudaVersion(12_090);
        SimulatedGpu { count: 1, capability: (9, 0), version, memory_bytes: 1 << 30, executes: true, checks: false }
    }
}

/// A call of the driver; calls that ask for facts, and those that let a thread use the context, are [`Call::Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Call {
    Ask,
    Open,
    Close,
    Allocate { bytes: u64 },
    Free,
    AllocateHost { bytes: u64 },
    FreeHost,
    Fill { bytes: u64 },
    Upload { bytes: u64 },
    Download { bytes: u64 },
    Copy { bytes: u64 },
    CreateStream,
    DestroyStream,
    Synchronize,
    CreateEvent,
    DestroyEvent,
    Record,
    Wait,
    LoadModule { bytes: usize },
    UnloadModule,
    Function,
    AllowShared { bytes: u32 },
    Launch { grid: [u32; 3], overlaps: bool },
    BeginCapture,
    EndCapture { launches: usize },
    DestroyGraph,
    Instantiate,
    DestroyExecutable,
    UploadGraph,
    LaunchGraph,
}

/// The driver, and a look at it: clones share everything.
#[derive(Clone)]
pub struct SimulatedDriver {
    state: Arc<Mutex<State>>,
}

impl SimulatedDriver {
    /// Nothing is reserved yet.
    pub fn new(gpu: SimulatedGpu) -> SimulatedDriver {
        SimulatedDriver { state: Arc::new(Mutex::new(State::new(gpu))) }
    }

    /// Makes the call fail that is the `call`-th from now on, counted from 0, with a code of the driver's.
    pub fn fail_at(&self, call: usize, code: u32) {
        self.lock().fail_at(call, code);
    }

    /// The calls so far, without [`Call::Ask`]; they are forgotten.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.lock().calls).into_iter().filter(|call| *call != Call::Ask).collect()
    }

    /// Number of calls so far, of every kind.
    pub fn call_count(&self) -> usize {
        self.lock().count
    }

    /// What callers did that a driver may punish.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// What the checks of the simulator found.
    pub fn findings(&self) -> Vec<Finding> {
        self.lock().findings.clone()
    }

    /// Handles and memory that were not returned.
    pub fn live(&self) -> usize {
        self.lock().live()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver for SimulatedDriver {
    fn version(&self) -> DriverResult<CudaVersion> {
        let mut state = self.lock();
        state.ask("cuDriverGetVersion")?;
        Ok(state.gpu.version)
    }

    fn gpu_count(&self) -> DriverResult<u32> {
        let mut state = self.lock();
        state.ask("cuDeviceGetCount")?;
        Ok(state.gpu.count)
    }

    fn gpu(&self, ordinal: u32) -> DriverResult<GpuProperties> {
        let mut state = self.lock();
        state.ask("cuDeviceGet")?;
        state.known_gpu(ordinal)?;
        let capability = state.gpu.capability;
        Ok(GpuProperties { name: "simulated GPU".into(), capability })
    }

    fn open(&self, ordinal: u32) -> DriverResult<ContextHandle> {
        let mut state = self.lock();
        state.begin("cuDevicePrimaryCtxRetain", Call::Open)?;
        state.known_gpu(ordinal)?;
        state.open_context()
    }

    fn close(&self, ordinal: u32) -> DriverResult<()> {
        let mut state = self.lock();
        state.close_context();
        state.begin("cuDevicePrimaryCtxRelease", Call::Close)?;
        state.known_gpu(ordinal)
    }

    fn bind(&self, context: ContextHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.ask("cuCtxSetCurrent")?;
        state.bind(context)
    }

    fn memory_info(&self) -> DriverResult<MemoryInfo> {
        let mut state = self.lock();
        state.ask("cuMemGetInfo")?;
        state.bound("cuMemGetInfo")?;
        Ok(state.memory.info(state.gpu.memory_bytes))
    }

    fn allocate(&self, bytes: u64) -> DriverResult<DeviceAddress> {
        let mut state = self.lock();
        state.begin_bound("cuMemAlloc", Call::Allocate { bytes })?;
        state.allocate(bytes)
    }

    fn free(&self, at: DeviceAddress) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuMemFree", Call::Free)?;
        state.free(at)
    }

    fn allocate_host(&self, bytes: u64) -> DriverResult<HostAddress> {
        let mut state = self.lock();
        state.begin_bound("cuMemHostAlloc", Call::AllocateHost { bytes })?;
        Ok(state.memory.allocate_host(bytes))
    }

    fn free_host(&self, at: HostAddress) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuMemFreeHost", Call::FreeHost)?;
        state.free_host(at)
    }

    fn fill(&self, at: DeviceAddress, value: u8, bytes: u64, stream: StreamHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuMemsetD8Async", Call::Fill { bytes })?;
        state.enqueue(stream, streams::Work::Fill { at, value, bytes })
    }

    fn upload(&self, to: DeviceAddress, from: HostAddress, bytes: u64, stream: StreamHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuMemcpyHtoDAsync", Call::Upload { bytes })?;
        state.enqueue(stream, streams::Work::Upload { to, from, bytes })
    }

    fn download(&self, to: HostAddress, from: DeviceAddress, bytes: u64, stream: StreamHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuMemcpyDtoHAsync", Call::Download { bytes })?;
        state.enqueue(stream, streams::Work::Download { to, from, bytes })
    }

    fn copy(&self, to: DeviceAddress, from: DeviceAddress, bytes: u64, stream: StreamHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuMemcpyDtoDAsync", Call::Copy { bytes })?;
        state.enqueue(stream, streams::Work::Copy { to, from, bytes })
    }

    fn create_stream(&self) -> DriverResult<StreamHandle> {
        let mut state = self.lock();
        state.begin_bound("cuStreamCreate", Call::CreateStream)?;
        Ok(state.create_stream())
    }

    fn destroy_stream(&self, stream: StreamHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuStreamDestroy", Call::DestroyStream)?;
        state.destroy_stream(stream)
    }

    fn synchronize(&self, stream: StreamHandle) -> DriverResult<()> {
        let mut state = self.lock();
        let begun = state.begin_bound("cuStreamSynchronize", Call::Synchronize);
        // One that fails has waited all the same.
        let done = state.carry_out(stream, None);
        begun.and(done)
    }

    fn create_event(&self) -> DriverResult<EventHandle> {
        let mut state = self.lock();
        state.begin_bound("cuEventCreate", Call::CreateEvent)?;
        Ok(state.create_event())
    }

    fn destroy_event(&self, event: EventHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuEventDestroy", Call::DestroyEvent)?;
        state.destroy_event(event)
    }

    fn record(&self, event: EventHandle, stream: StreamHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuEventRecord", Call::Record)?;
        state.enqueue(stream, streams::Work::Mark { event })
    }

    fn wait(&self, event: EventHandle) -> DriverResult<()> {
        let mut state = self.lock();
        let begun = state.begin_bound("cuEventSynchronize", Call::Wait);
        let done = state.wait(event);
        begun.and(done)
    }

    fn load_module(&self, image: &[u8]) -> DriverResult<ModuleHandle> {
        let mut state = self.lock();
        state.begin_bound("cuModuleLoadData", Call::LoadModule { bytes: image.len() })?;
        state.load_module(image)
    }

    fn unload_module(&self, module: ModuleHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuModuleUnload", Call::UnloadModule)?;
        state.unload_module(module)
    }

    fn function(&self, module: ModuleHandle, name: &str) -> DriverResult<FunctionHandle> {
        let mut state = self.lock();
        state.begin_bound("cuModuleGetFunction", Call::Function)?;
        state.function(module, name)
    }

    fn allow_shared(&self, function: FunctionHandle, bytes: u32) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuFuncSetAttribute", Call::AllowShared { bytes })?;
        state.allow_shared(function, bytes)
    }

    fn launch(&self, launch: &KernelLaunch, stream: StreamHandle) -> DriverResult<()> {
        let mut state = self.lock();
        let call = Call::Launch { grid: launch.grid, overlaps: launch.overlaps };
        state.begin_bound("cuLaunchKernelEx", call)?;
        state.launch(launch, stream)
    }

    fn begin_capture(&self, stream: StreamHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuStreamBeginCapture", Call::BeginCapture)?;
        state.begin_capture(stream)
    }

    fn end_capture(&self, stream: StreamHandle) -> DriverResult<GraphHandle> {
        let mut state = self.lock();
        // Ended even where the call fails, as a driver does with a recording that cannot be used.
        let launches = state.end_capture(stream);
        let count = launches.as_ref().map_or(0, Vec::len);
        state.begin_bound("cuStreamEndCapture", Call::EndCapture { launches: count })?;
        state.add_graph(launches)
    }

    fn destroy_graph(&self, graph: GraphHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuGraphDestroy", Call::DestroyGraph)?;
        state.destroy_graph(graph)
    }

    fn instantiate(&self, graph: GraphHandle) -> DriverResult<ExecutableHandle> {
        let mut state = self.lock();
        state.begin_bound("cuGraphInstantiate", Call::Instantiate)?;
        state.instantiate(graph)
    }

    fn destroy_executable(&self, executable: ExecutableHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuGraphExecDestroy", Call::DestroyExecutable)?;
        state.destroy_executable(executable)
    }

    fn upload_graph(&self, executable: ExecutableHandle, stream: StreamHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuGraphUpload", Call::UploadGraph)?;
        state.known_executable(executable)?;
        state.known_stream(stream)
    }

    fn launch_graph(&self, executable: ExecutableHandle, stream: StreamHandle) -> DriverResult<()> {
        let mut state = self.lock();
        state.begin_bound("cuGraphLaunch", Call::LaunchGraph)?;
        state.launch_graph(executable, stream)
    }
}
