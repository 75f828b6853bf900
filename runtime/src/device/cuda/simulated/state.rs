//! The simulated driver's state: what is reserved, what waits, what was done wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::ThreadId;

use simulator::{Finding, Kind, Launch, Module, Options, SimError};

use super::memory::Memories;
use super::streams::{Stream, Streams, Work};
use super::{Call, SimulatedGpu};
use crate::device::cuda::driver::{
    ContextHandle, DeviceAddress, DriverError, DriverResult, EventHandle, ExecutableHandle, FunctionHandle,
    GraphHandle, HostAddress, KernelLaunch, ModuleHandle, StreamHandle, codes,
};

/// Codes that it answers by itself.
const INVALID_VALUE: u32 = 1;
const INVALID_CONTEXT: u32 = 201;
const INVALID_HANDLE: u32 = 400;
const LAUNCH_FAILED: u32 = 719;
const CAPTURE_UNSUPPORTED: u32 = 900;

/// Dynamic shared memory that needs no leave, and the most there is, in bytes.
const SHARED_WITHOUT_LEAVE: u32 = 48 << 10;
const MOST_SHARED: u32 = 227 << 10;

/// Loaded code; without it where nothing is executed.
struct Code {
    module: Option<Arc<Module>>,
    /// Whether its kernels wait for the launch before them.
    waits: bool,
}

/// A kernel.
struct Function {
    module: u64,
    name: String,
    shared: u32,
}

pub(super) struct State {
    pub gpu: SimulatedGpu,
    pub memory: Memories,
    pub calls: Vec<Call>,
    pub count: usize,
    pub violations: Vec<String>,
    pub findings: Vec<Finding>,
    failure: Option<(usize, u32)>,
    /// The code of the failure that ended the context.
    lost: Option<u32>,
    context: Option<u64>,
    bound: HashMap<ThreadId, u64>,
    next_handle: u64,
    streams: Streams,
    events: HashMap<u64, ()>,
    modules: HashMap<u64, Code>,
    functions: HashMap<u64, Function>,
    graphs: HashMap<u64, Arc<Vec<KernelLaunch>>>,
    executables: HashMap<u64, Arc<Vec<KernelLaunch>>>,
}

fn error(call: &'static str, code: u32, text: impl Into<String>) -> DriverError {
    let name = match code {
        INVALID_VALUE => "CUDA_ERROR_INVALID_VALUE",
        codes::OUT_OF_MEMORY => "CUDA_ERROR_OUT_OF_MEMORY",
        codes::NO_DEVICE => "CUDA_ERROR_NO_DEVICE",
        INVALID_CONTEXT => "CUDA_ERROR_INVALID_CONTEXT",
        codes::INVALID_PTX => "CUDA_ERROR_INVALID_PTX",
        INVALID_HANDLE => "CUDA_ERROR_INVALID_HANDLE",
        codes::ILLEGAL_ADDRESS => "CUDA_ERROR_ILLEGAL_ADDRESS",
        LAUNCH_FAILED => "CUDA_ERROR_LAUNCH_FAILED",
        CAPTURE_UNSUPPORTED => "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        _ => "CUDA_ERROR_SIMULATED",
    };
    DriverError { call, code, name: name.into(), text: text.into() }
}

impl State {
    pub fn new(gpu: SimulatedGpu) -> State {
        State {
            memory: Memories::new(gpu.executes),
            gpu,
            calls: Vec::new(),
            count: 0,
            violations: Vec::new(),
            findings: Vec::new(),
            failure: None,
            lost: None,
            context: None,
            bound: HashMap::new(),
            next_handle: 1,
            streams: Streams::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
        }
    }

    pub fn fail_at(&mut self, call: usize, code: u32) {
        self.failure = Some((self.count + call, code));
    }

    pub fn live(&self) -> usize {
        let handles = self.streams.len() + self.events.len() + self.modules.len() + self.graphs.len();
        handles + self.executables.len() + self.memory.live() + usize::from(self.context.is_some())
    }

    /// Notes a call; fails if it was told to, or the context is lost.
    pub fn begin(&mut self, name: &'static str, call: Call) -> DriverResult<()> {
        self.calls.push(call);
        let index = self.count;
        self.count += 1;
        if let Some(code) = self.lost
            && call != Call::Close
        {
            self.violations.push(format!("{name} after the context was lost"));
            return Err(error(name, code, "the context is lost"));
        }
        match self.failure {
            Some((at, code)) if at == index => Err(self.fail(name, code, "told to fail")),
            _ => Ok(()),
        }
    }

    /// As [`State::begin`], for calls that need the context.
    pub fn begin_bound(&mut self, name: &'static str, call: Call) -> DriverResult<()> {
        self.begin(name, call)?;
        self.bound(name)
    }

    /// As [`State::begin`], for calls that only ask.
    pub fn ask(&mut self, name: &'static str) -> DriverResult<()> {
        self.begin(name, Call::Ask)
    }

    /// Fails unless this thread may use the context.
    pub fn bound(&mut self, name: &'static str) -> DriverResult<()> {
        let bound = self.bound.get(&std::thread::current().id());
        match self.context.is_some() && bound == self.context.as_ref() {
            true => Ok(()),
            false => {
                self.violations.push(format!("{name} on a thread that has no context"));
                Err(self.fail(name, INVALID_CONTEXT, "no context on this thread"))
            }
        }
    }

    /// An error, which ends the context if errors of its code do.
    fn fail(&mut self, call: &'static str, code: u32, text: impl Into<String>) -> DriverError {
        let error = error(call, code, text);
        if error.is_sticky() {
            self.lost.get_or_insert(code);
        }
        error
    }

    /// Fails for a handle that does not exist.
    fn unknown<T>(&mut self, call: &'static str) -> DriverResult<T> {
        self.violations.push(format!("{call} of something that is not there"));
        Err(self.fail(call, INVALID_HANDLE, "no such thing"))
    }

    pub fn known_gpu(&mut self, ordinal: u32) -> DriverResult<()> {
        match ordinal < self.gpu.count {
            true => Ok(()),
            false => Err(error("cuDeviceGet", 101, "no such GPU")),
        }
    }

    fn handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }

    pub fn open_context(&mut self) -> DriverResult<ContextHandle> {
        if self.context.is_some() {
            self.violations.push("a context is opened twice".into());
        }
        let handle = self.handle();
        (self.context, self.lost) = (Some(handle), None);
        Ok(ContextHandle(handle))
    }

    /// Returns the context and all that is left in it, which should be nothing unless it was lost.
    pub fn close_context(&mut self) {
        let left = self.live().saturating_sub(usize::from(self.context.is_some()));
        if left > 0 && self.lost.is_none() {
            self.violations.push(format!("{left} handles are left when the context is closed"));
        }
        let fresh = State::new(self.gpu.clone());
        let old = std::mem::replace(self, fresh);
        (self.next_handle, self.count, self.failure) = (old.next_handle, old.count, old.failure);
        (self.calls, self.violations, self.findings) = (old.calls, old.violations, old.findings);
    }

    pub fn bind(&mut self, context: ContextHandle) -> DriverResult<()> {
        if self.context != Some(context.0) {
            return self.unknown("cuCtxSetCurrent");
        }
        self.bound.insert(std::thread::current().id(), context.0);
        Ok(())
    }

    pub fn allocate(&mut self, bytes: u64) -> DriverResult<DeviceAddress> {
        if bytes == 0 {
            return Err(error("cuMemAlloc", INVALID_VALUE, "0 bytes"));
        }
        match bytes <= self.memory.info(self.gpu.memory_bytes).free {
            true => Ok(self.memory.allocate(bytes)),
            false => Err(error("cuMemAlloc", codes::OUT_OF_MEMORY, "out of memory")),
        }
    }

    pub fn free(&mut self, at: DeviceAddress) -> DriverResult<()> {
        let queued = self.streams.values().flat_map(|s| &s.queue).flat_map(Work::device_ranges);
        if queued.into_iter().any(|(address, _)| self.memory.holds(address, 0) && address == at) {
            self.violations.push("memory is returned while work in a stream uses it".into());
        }
        if self.memory.free(at) { Ok(()) } else { self.unknown("cuMemFree") }
    }

    pub fn free_host(&mut self, at: HostAddress) -> DriverResult<()> {
        let in_use = self.streams.values().flat_map(|s| &s.queue).filter_map(Work::host_range).count();
        if in_use > 0 {
            self.violations.push("page-locked memory is returned while copies are under way".into());
        }
        if self.memory.free_host(at) { Ok(()) } else { self.unknown("cuMemFreeHost") }
    }

    pub fn create_stream(&mut self) -> StreamHandle {
        let handle = self.handle();
        self.streams.insert(handle, Stream::default());
        StreamHandle(handle)
    }

    pub fn destroy_stream(&mut self, stream: StreamHandle) -> DriverResult<()> {
        match self.streams.remove(&stream.0) {
            Some(gone) if gone.queue.is_empty() => Ok(()),
            Some(_) => {
                self.violations.push("a stream goes before its work is done".into());
                Ok(())
            }
            None => self.unknown("cuStreamDestroy"),
        }
    }

    pub fn known_stream(&mut self, stream: StreamHandle) -> DriverResult<()> {
        if self.streams.contains_key(&stream.0) { Ok(()) } else { self.unknown("a stream") }
    }

    pub fn create_event(&mut self) -> EventHandle {
        let handle = self.handle();
        self.events.insert(handle, ());
        EventHandle(handle)
    }

    pub fn destroy_event(&mut self, event: EventHandle) -> DriverResult<()> {
        if self.events.remove(&event.0).is_some() { Ok(()) } else { self.unknown("cuEventDestroy") }
    }

    /// Puts work into a stream.
    pub fn enqueue(&mut self, stream: StreamHandle, work: Work) -> DriverResult<()> {
        let inside = work.device_ranges().iter().all(|(at, bytes)| self.memory.holds(*at, *bytes))
            && work.host_range().is_none_or(|(at, bytes)| self.memory.holds_host(at, bytes));
        if !inside {
            return Err(error("a copy", INVALID_VALUE, "a range outside of what is reserved"));
        }
        let Some(found) = self.streams.get_mut(&stream.0) else { return self.unknown("a stream") };
        if found.recording.is_some() {
            return Err(error("a copy", CAPTURE_UNSUPPORTED, "only launches are recorded here"));
        }
        found.queue.push_back(work);
        Ok(())
    }

    pub fn wait(&mut self, event: EventHandle) -> DriverResult<()> {
        if !self.events.contains_key(&event.0) {
            return self.unknown("cuEventSynchronize");
        }
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|stream| self.carry_out(StreamHandle(stream), Some(event)))
    }

    /// Carries out what waits in a stream: all, or up to the last mark of an event.
    pub fn carry_out(&mut self, stream: StreamHandle, until: Option<EventHandle>) -> DriverResult<()> {
        self.known_stream(stream)?;
        while let Some(work) = self.streams.get_mut(&stream.0).and_then(|s| s.next(until)) {
            if let Err(failed) = self.carry_out_one(&work) {
                self.streams.values_mut().for_each(|s| s.queue.clear());
                return Err(failed);
            }
        }
        Ok(())
    }

    fn carry_out_one(&mut self, work: &Work) -> DriverResult<()> {
        let result = match work {
            Work::Fill { at, value, bytes } => self.memory.fill(*at, *value, *bytes),
            Work::Upload { to, from, bytes } => self.memory.upload(*to, *from, *bytes),
            Work::Download { to, from, bytes } => self.memory.download(*to, *from, *bytes),
            Work::Copy { to, from, bytes } => self.memory.copy(*to, *from, *bytes),
            Work::Launches(launches) => return launches.iter().try_for_each(|launch| self.execute(launch)),
            Work::Mark { .. } => Ok(()),
        };
        result.map_err(|e| self.fail("cuStreamSynchronize", codes::ILLEGAL_ADDRESS, e.to_string()))
    }

    pub fn load_module(&mut self, image: &[u8]) -> DriverResult<ModuleHandle> {
        let mut code = Code { module: None, waits: true };
        if self.gpu.executes {
            let refused = |text: String| error("cuModuleLoadData", codes::INVALID_PTX, text);
            let text = image.strip_suffix(&[0]).and_then(|text| std::str::from_utf8(text).ok());
            let text = text.ok_or_else(|| refused("expected PTX that ends with a zero byte".into()))?;
            code.waits = text.contains("griddepcontrol.wait");
            code.module = Some(Arc::new(Module::parse(text, "a module").map_err(|e| refused(e.to_string()))?));
        }
        let handle = self.handle();
        self.modules.insert(handle, code);
        Ok(ModuleHandle(handle))
    }

    pub fn unload_module(&mut self, module: ModuleHandle) -> DriverResult<()> {
        self.functions.retain(|_, function| function.module != module.0);
        if self.modules.remove(&module.0).is_some() { Ok(()) } else { self.unknown("cuModuleUnload") }
    }

    pub fn function(&mut self, module: ModuleHandle, name: &str) -> DriverResult<FunctionHandle> {
        let Some(code) = self.modules.get(&module.0) else { return self.unknown("cuModuleGetFunction") };
        if code.module.as_ref().is_some_and(|m| !m.kernels().any(|kernel| kernel == name)) {
            return Err(error("cuModuleGetFunction", codes::NOT_FOUND, format!("no kernel {name}")));
        }
        let handle = self.handle();
        self.functions.insert(handle, Function { module: module.0, name: name.into(), shared: SHARED_WITHOUT_LEAVE });
        Ok(FunctionHandle(handle))
    }

    pub fn allow_shared(&mut self, function: FunctionHandle, bytes: u32) -> DriverResult<()> {
        if bytes > MOST_SHARED {
            return Err(error("cuFuncSetAttribute", INVALID_VALUE, "more shared memory than a block can have"));
        }
        let Some(found) = self.functions.get_mut(&function.0) else { return self.unknown("cuFuncSetAttribute") };
        found.shared = bytes;
        Ok(())
    }

    pub fn launch(&mut self, launch: &KernelLaunch, stream: StreamHandle) -> DriverResult<()> {
        let Some(function) = self.functions.get(&launch.function.0) else { return self.unknown("cuLaunchKernelEx") };
        if launch.shared_bytes > function.shared || launch.grid.contains(&0) || launch.threads == 0 {
            return Err(error("cuLaunchKernelEx", INVALID_VALUE, format!("geometry of {}", function.name)));
        }
        if launch.overlaps && !self.modules.get(&function.module).is_some_and(|code| code.waits) {
            self.violations.push(format!("{} overlaps the launch before it and does not wait for it", function.name));
        }
        let Some(found) = self.streams.get_mut(&stream.0) else { return self.unknown("a stream") };
        match &mut found.recording {
            Some(recording) => recording.push(launch.clone()),
            None => found.queue.push_back(Work::Launches(Arc::new(vec![launch.clone()]))),
        }
        Ok(())
    }

    pub fn begin_capture(&mut self, stream: StreamHandle) -> DriverResult<()> {
        let Some(found) = self.streams.get_mut(&stream.0) else { return self.unknown("cuStreamBeginCapture") };
        if found.recording.replace(Vec::new()).is_some() {
            self.violations.push("a stream is recorded twice".into());
        }
        Ok(())
    }

    /// Ends a recording, if there is one.
    pub fn end_capture(&mut self, stream: StreamHandle) -> Option<Vec<KernelLaunch>> {
        self.streams.get_mut(&stream.0)?.recording.take()
    }

    pub fn add_graph(&mut self, launches: Option<Vec<KernelLaunch>>) -> DriverResult<GraphHandle> {
        let Some(launches) = launches else { return self.unknown("cuStreamEndCapture") };
        let handle = self.handle();
        self.graphs.insert(handle, Arc::new(launches));
        Ok(GraphHandle(handle))
    }

    pub fn destroy_graph(&mut self, graph: GraphHandle) -> DriverResult<()> {
        if self.graphs.remove(&graph.0).is_some() { Ok(()) } else { self.unknown("cuGraphDestroy") }
    }

    pub fn instantiate(&mut self, graph: GraphHandle) -> DriverResult<ExecutableHandle> {
        let Some(launches) = self.graphs.get(&graph.0).cloned() else { return self.unknown("cuGraphInstantiate") };
        let handle = self.handle();
        self.executables.insert(handle, launches);
        Ok(ExecutableHandle(handle))
    }

    pub fn known_executable(&mut self, executable: ExecutableHandle) -> DriverResult<()> {
        if self.executables.contains_key(&executable.0) { Ok(()) } else { self.unknown("a recorded graph") }
    }

    pub fn destroy_executable(&mut self, executable: ExecutableHandle) -> DriverResult<()> {
        if self.executables.remove(&executable.0).is_some() { Ok(()) } else { self.unknown("cuGraphExecDestroy") }
    }

    pub fn launch_graph(&mut self, executable: ExecutableHandle, stream: StreamHandle) -> DriverResult<()> {
        let Some(launches) = self.executables.get(&executable.0).cloned() else {
            return self.unknown("cuGraphLaunch");
        };
        let Some(found) = self.streams.get_mut(&stream.0) else { return self.unknown("cuGraphLaunch") };
        found.queue.push_back(Work::Launches(launches));
        Ok(())
    }

    /// Has the simulator execute a launch. What a GPU would trap ends the context; what only the simulator sees is noted.
    fn execute(&mut self, launch: &KernelLaunch) -> DriverResult<()> {
        let Some(function) = self.functions.get(&launch.function.0) else { return self.unknown("a launch") };
        let Some(module) = self.modules.get(&function.module).and_then(|code| code.module.clone()) else {
            return Ok(());
        };
        let request = Launch {
            dynamic_shared: launch.shared_bytes,
            ..Launch::new(launch.grid, [launch.threads, 1, 1], launch.params.clone())
        };
        let options = Options { checks: self.gpu.checks, ..Options::default() };
        let report = simulator::run(&module, &function.name, &request, &mut self.memory.device, &options);
        let report = report.map_err(|e: SimError| self.fail("cuStreamSynchronize", LAUNCH_FAILED, e.to_string()))?;
        self.findings.extend(report.findings.iter().cloned());
        let traps = |finding: &&Finding| matches!(finding.kind, Kind::OutOfBounds | Kind::Misaligned);
        match report.findings.iter().find(traps) {
            None => Ok(()),
            Some(finding) => Err(self.fail("cuStreamSynchronize", codes::ILLEGAL_ADDRESS, finding.to_string())),
        }
    }
}
