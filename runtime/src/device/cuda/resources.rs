//! An opened GPU and what is held of it: memory, queues, marks, code and recorded work, each returned when its value goes.
//!
//! All calls of the driver go through [`Gpu::call`], which remembers a failure that ended the context: from then on nothing is asked of the
//! driver any more, but to close the context, which returns all that was left in it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::{
    ContextHandle, DeviceAddress, Driver, DriverError, DriverResult, EventHandle, ExecutableHandle, FunctionHandle,
    GraphHandle, HostAddress, KernelLaunch, ModuleHandle, StreamHandle,
};
use crate::device::DeviceError;

/// A GPU whose context is open.
pub(super) struct Gpu {
    driver: Box<dyn Driver>,
    ordinal: u32,
    context: ContextHandle,
    /// What the driver said when the context was lost.
    lost: Mutex<Option<String>>,
}

impl Gpu {
    /// Opens a GPU and lets this thread use it.
    pub fn open(driver: Box<dyn Driver>, ordinal: u32) -> Result<Arc<Gpu>, DeviceError> {
        let context = driver.open(ordinal).map_err(|source| DeviceError::Driver { doing: "open the GPU", source })?;
        let gpu = Arc::new(Gpu { driver, ordinal, context, lost: Mutex::default() });
        gpu.bind()?;
        Ok(gpu)
    }

    /// Lets the calling thread use the GPU: before all other calls on it.
    pub fn bind(&self) -> Result<(), DeviceError> {
        self.call("bind the GPU's context", |driver| driver.bind(self.context))
    }

    /// Calls the driver, unless the context is lost; `doing` says for what.
    pub fn call<T>(
        &self,
        doing: &'static str,
        ask: impl FnOnce(&dyn Driver) -> DriverResult<T>,
    ) -> Result<T, DeviceError> {
        if let Some(message) = &*self.lost() {
            return Err(DeviceError::Lost { message: message.clone() });
        }
        ask(&*self.driver).map_err(|source| self.error(doing, source))
    }

    /// The error of a call; remembers that the context is lost.
    fn error(&self, doing: &'static str, source: DriverError) -> DeviceError {
        if !source.is_sticky() {
            return DeviceError::Driver { doing, source };
        }
        let message = format!("cannot {doing}: {source}");
        self.lost().get_or_insert_with(|| message.clone());
        DeviceError::Lost { message }
    }

    fn lost(&self) -> MutexGuard<'_, Option<String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns something; what a failure would leave behind goes with the context.
    fn release(&self, ask: impl FnOnce(&dyn Driver) -> DriverResult<()>) {
        // The thread that drops a device need not be one that used it.
        if self.bind().is_ok() {
            let _ = self.call("return what was reserved", ask);
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Also after a loss: only so can another context be opened.
        let _ = self.driver.close(self.ordinal);
    }
}

/// A block of the GPU's memory.
pub(super) struct Block {
    gpu: Arc<Gpu>,
    at: DeviceAddress,
    bytes: u64,
}

impl Block {
    /// Reserves memory; its contents are undefined.
    ///
    /// # Errors
    /// [`DeviceError::GpuMemory`] with what is free, if memory is lacking.
    pub fn new(gpu: &Arc<Gpu>, what: &'static str, bytes: u64) -> Result<Block, DeviceError> {
        // The driver refuses to reserve nothing.
        let allocated = gpu.call("reserve memory", |driver| driver.allocate(bytes.max(1)));
        let at = allocated.map_err(|error| out_of_memory(gpu, what, bytes, error))?;
        Ok(Block { gpu: gpu.clone(), at, bytes })
    }

    /// Where it begins.
    pub fn at(&self) -> DeviceAddress {
        self.at
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.gpu.release(|driver| driver.free(self.at));
    }
}

/// Says how much is free where a call failed for lack of memory.
pub(super) fn out_of_memory(gpu: &Gpu, what: &'static str, bytes: u64, error: DeviceError) -> DeviceError {
    match error {
        DeviceError::Driver { source, .. } if source.is_out_of_memory() => {
            let free = gpu.call("ask for free memory", |driver| driver.memory_info()).map_or(0, |info| info.free);
            DeviceError::GpuMemory { what, bytes, free }
        }
        other => other,
    }
}

/// Page-locked memory of the host, zeroed: what copies that nobody waits for go through.
pub(super) struct Pinned {
    gpu: Arc<Gpu>,
    at: HostAddress,
    bytes: usize,
}

impl Pinned {
    /// Reserves it.
    pub fn new(gpu: &Arc<Gpu>, what: &'static str, bytes: u64) -> Result<Pinned, DeviceError> {
        let refused = || DeviceError::Memory { what, bytes, source: std::io::ErrorKind::OutOfMemory.into() };
        let size = usize::try_from(bytes).map_err(|_| refused())?;
        let at = gpu.call("reserve page-locked memory", |driver| driver.allocate_host(bytes.max(1)));
        let at = at.map_err(|error| match error {
            DeviceError::Driver { source, .. } if source.is_out_of_memory() => refused(),
            other => other,
        })?;
        Ok(Pinned { gpu: gpu.clone(), at, bytes: size })
    }

    /// Its bytes. No copy may be under way that writes them.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the driver reserved and the device zeroed so many bytes, which live as long as this value. Copies into them are waited for
        // before they are read: each user of this memory waits for the stream, or for the event behind its copies.
        unsafe { std::slice::from_raw_parts(self.at.0 as usize as *const u8, self.bytes) }
    }

    /// As [`Pinned::bytes`]; no copy may be under way at all.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; this value is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.at.0 as usize as *mut u8, self.bytes) }
    }

    /// Values of a type of 4 bytes from a byte on, a multiple of 4; `None` past the end.
    pub fn words<T: Word>(&self, offset: usize, count: usize) -> Option<&[T]> {
        let bytes = self.bytes().get(offset..)?.get(..count.checked_mul(4)?)?;
        // SAFETY: every pattern of bits is a value of these types.
        let (before, words, after) = unsafe { bytes.align_to::<T>() };
        (before.is_empty() && after.is_empty()).then_some(words)
    }
}

/// Types of 4 bytes of which every pattern of bits is a value.
pub(super) trait Word: Copy {}
impl Word for f32 {}
impl Word for i32 {}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.gpu.release(|driver| driver.free_host(self.at));
    }
}

/// A queue of work, waited for before it goes.
pub(super) struct Stream {
    gpu: Arc<Gpu>,
    handle: StreamHandle,
}

impl Stream {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Stream, DeviceError> {
        let handle = gpu.call("open a stream", |driver| driver.create_stream())?;
        Ok(Stream { gpu: gpu.clone(), handle })
    }

    /// Its GPU.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Waits until everything in it is done.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.gpu.call("carry out a step", |driver| driver.synchronize(self.handle))
    }

    /// Sets a whole block to zero.
    pub fn zero(&self, block: &Block) -> Result<(), DeviceError> {
        self.gpu.call("clear memory", |driver| driver.fill(block.at, 0, block.bytes.max(1), self.handle))
    }

    /// Copies `bytes` bytes of page-locked memory from `offset` on.
    pub fn upload(&self, to: DeviceAddress, from: &Pinned, offset: u64, bytes: u64) -> Result<(), DeviceError> {
        debug_assert!(offset + bytes <= from.bytes as u64);
        self.gpu.call("copy to the GPU", |driver| driver.upload(to, from.at.offset(offset), bytes, self.handle))
    }

    /// Copies `bytes` bytes into page-locked memory from `offset` on.
    pub fn download(&self, to: &Pinned, offset: u64, from: DeviceAddress, bytes: u64) -> Result<(), DeviceError> {
        debug_assert!(offset + bytes <= to.bytes as u64);
        self.gpu.call("copy from the GPU", |driver| driver.download(to.at.offset(offset), from, bytes, self.handle))
    }

    /// Copies within the GPU.
    pub fn copy(&self, to: DeviceAddress, from: DeviceAddress, bytes: u64) -> Result<(), DeviceError> {
        self.gpu.call("copy on the GPU", |driver| driver.copy(to, from, bytes, self.handle))
    }

    /// Marks the place that is reached when everything so far is done.
    pub fn record(&self, event: &Event) -> Result<(), DeviceError> {
        self.gpu.call("record an event", |driver| driver.record(event.handle, self.handle))
    }

    /// Launches recorded work.
    pub fn launch(&self, graph: &Graph) -> Result<(), DeviceError> {
        self.gpu.call("launch a step", |driver| driver.launch_graph(graph.handle, self.handle))
    }

    /// Records launches, in their order, as work that can be launched again and again.
    ///
    /// # Errors
    /// The driver's. A failure in between ends the recording, too.
    pub fn capture(&self, launches: &[KernelLaunch]) -> Result<Graph, DeviceError> {
        let (gpu, stream) = (&self.gpu, self.handle);
        gpu.call("record a step", |driver| driver.begin_capture(stream))?;
        let recorded =
            launches.iter().try_for_each(|launch| gpu.call("record a launch", |driver| driver.launch(launch, stream)));
        // Ended in any case: a stream that records can do nothing else.
        let ended = gpu.call("record a step", |driver| driver.end_capture(stream));
        let template = ended.map(|handle| Template { gpu: gpu.clone(), handle });
        recorded?;
        let template = template?;
        let handle = gpu.call("make a recorded step launchable", |driver| driver.instantiate(template.handle))?;
        let graph = Graph { gpu: gpu.clone(), handle };
        gpu.call("send a recorded step to the GPU", |driver| driver.upload_graph(handle, stream))?;
        Ok(graph)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.gpu.release(|driver| driver.synchronize(self.handle));
        self.gpu.release(|driver| driver.destroy_stream(self.handle));
    }
}

/// A mark in a stream.
pub(super) struct Event {
    gpu: Arc<Gpu>,
    handle: EventHandle,
}

impl Event {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Event, DeviceError> {
        let handle = gpu.call("make an event", |driver| driver.create_event())?;
        Ok(Event { gpu: gpu.clone(), handle })
    }

    /// Waits until it is reached; at once if it was never recorded.
    pub fn wait(&self) -> Result<(), DeviceError> {
        self.gpu.call("carry out a step or a copy", |driver| driver.wait(self.handle))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.gpu.release(|driver| driver.destroy_event(self.handle));
    }
}

/// Loaded code.
pub(super) struct Module {
    gpu: Arc<Gpu>,
    handle: ModuleHandle,
}

impl Module {
    /// Loads machine code, or PTX with a zero byte at its end.
    pub fn new(gpu: &Arc<Gpu>, image: &[u8]) -> Result<Module, DeviceError> {
        let handle = gpu.call("load code", |driver| driver.load_module(image))?;
        Ok(Module { gpu: gpu.clone(), handle })
    }

    /// A kernel in it.
    pub fn function(&self, name: &str) -> Result<FunctionHandle, DeviceError> {
        self.gpu.call("find a kernel in its code", |driver| driver.function(self.handle, name))
    }

    /// Its GPU.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        self.gpu.release(|driver| driver.unload_module(self.handle));
    }
}

/// Recorded work that is not launchable yet.
struct Template {
    gpu: Arc<Gpu>,
    handle: GraphHandle,
}

impl Drop for Template {
    fn drop(&mut self) {
        self.gpu.release(|driver| driver.destroy_graph(self.handle));
    }
}

/// Recorded work that can be launched.
pub(super) struct Graph {
    gpu: Arc<Gpu>,
    handle: ExecutableHandle,
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.gpu.release(|driver| driver.destroy_executable(self.handle));
    }
}
