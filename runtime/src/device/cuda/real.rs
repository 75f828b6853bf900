//! The CUDA driver of this machine, opened at run time.
//!
//! Thin: a call here is a call there. The library is looked for, and its functions are looked up, before anything is called, since the
//! bindings panic where one is missing.

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::zeroed;
use std::panic::catch_unwind;
use std::ptr::{null, null_mut};

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use super::driver::{
    ContextHandle, CudaVersion, DeviceAddress, Driver, DriverError, DriverResult, EventHandle, ExecutableHandle,
    FunctionHandle, GpuProperties, GraphHandle, HostAddress, KernelLaunch, MemoryInfo, ModuleHandle, StreamHandle,
    codes,
};

/// Functions that every driver since CUDA 12.0 has and older ones may lack.
const NEEDED: [&str; 29] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphUpload",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
];

/// Why there is no driver to call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDriver {
    /// No library.
    #[error("libcuda is not on this machine")]
    Missing,
    /// A library without a function.
    #[error("libcuda has no {0}: the driver is too old")]
    Function(&'static str),
    /// A library that does not start.
    #[error(transparent)]
    Refuses(#[from] DriverError),
}

/// The driver of this machine.
#[derive(Debug)]
pub struct CudaDriver {
    /// Made by [`CudaDriver::open`] alone, which has seen the library.
    _seen: (),
}

impl CudaDriver {
    /// Opens the driver's library and starts it.
    ///
    /// # Errors
    /// If there is none, or it does not work.
    pub fn open() -> Result<CudaDriver, NoDriver> {
        // SAFETY: opens the driver's shared library, as any use of CUDA does, and closes it again.
        if !unsafe { sys::is_culib_present() } {
            return Err(NoDriver::Missing);
        }
        let missing = catch_unwind(|| {
            // SAFETY: the library is there, and what a symbol points to is not touched.
            let has = |name: &str| unsafe { sys::culib().get::<*const c_void>(name.as_bytes()).is_ok() };
            NEEDED.into_iter().find(|name| !has(name))
        });
        if let Some(name) = missing.map_err(|_| NoDriver::Missing)? {
            return Err(NoDriver::Function(name));
        }
        // SAFETY: no other call was made yet; repeating it is allowed.
        check("cuInit", unsafe { sys::cuInit(0) })?;
        Ok(CudaDriver { _seen: () })
    }
}

/// The result of a call.
fn check(call: &'static str, result: CUresult) -> DriverResult<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    type Ask = unsafe fn(CUresult, *mut *const c_char) -> CUresult;
    let ask = |function: Ask| {
        let mut text = null();
        // SAFETY: the driver sets the pointer to a string of its own that lives for ever, or leaves it null.
        unsafe {
            function(result, &raw mut text);
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        }
    };
    Err(DriverError { call, code: result as u32, name: ask(sys::cuGetErrorName), text: ask(sys::cuGetErrorString) })
}

/// A handle of the driver's by its number.
fn pointer<T>(handle: u64) -> *mut T {
    handle as usize as *mut T
}

fn device(ordinal: u32) -> DriverResult<sys::CUdevice> {
    let mut device = 0;
    // SAFETY: writes a number.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut device, ordinal as i32) })?;
    Ok(device)
}

fn attribute(device: sys::CUdevice, which: Attribute) -> DriverResult<u32> {
    let mut value = 0;
    // SAFETY: `device` was given by the driver; writes a number.
    check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) })?;
    Ok(value as u32)
}

// In all calls below, addresses and handles are those that the driver gave, which the caller returns once, and results are written to
// variables of this function. What streams do with memory is the trait's contract.
impl Driver for CudaDriver {
    fn version(&self) -> DriverResult<CudaVersion> {
        let mut version = 0;
        // SAFETY: writes a number.
        check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
        Ok(CudaVersion(version as u32))
    }

    fn gpu_count(&self) -> DriverResult<u32> {
        let mut count = 0;
        // SAFETY: writes a number.
        check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
        Ok(count as u32)
    }

    fn gpu(&self, ordinal: u32) -> DriverResult<GpuProperties> {
        let device = device(ordinal)?;
        let mut name = [0 as c_char; 256];
        // SAFETY: the driver writes at most so many bytes, the last of them zero.
        let name = unsafe {
            check("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device))?;
            CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
        };
        let major = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok(GpuProperties { name, capability: (major, minor) })
    }

    fn open(&self, ordinal: u32) -> DriverResult<ContextHandle> {
        let device = device(ordinal)?;
        let mut context = null_mut();
        // SAFETY: as above.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) })?;
        Ok(ContextHandle(context as u64))
    }

    fn close(&self, ordinal: u32) -> DriverResult<()> {
        let device = device(ordinal)?;
        // SAFETY: the context was retained by `open`.
        check("cuDevicePrimaryCtxRelease", unsafe { sys::cuDevicePrimaryCtxRelease_v2(device) })
    }

    fn bind(&self, context: ContextHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(pointer(context.0)) })
    }

    fn memory_info(&self) -> DriverResult<MemoryInfo> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
        Ok(MemoryInfo { free: free as u64, total: total as u64 })
    }

    fn allocate(&self, bytes: u64) -> DriverResult<DeviceAddress> {
        let mut at = 0;
        // SAFETY: as above.
        check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&raw mut at, bytes as usize) })?;
        Ok(DeviceAddress(at))
    }

    fn free(&self, at: DeviceAddress) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuMemFree", unsafe { sys::cuMemFree_v2(at.0) })
    }

    fn allocate_host(&self, bytes: u64) -> DriverResult<HostAddress> {
        let mut at = null_mut();
        // SAFETY: as above.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&raw mut at, bytes as usize, 0) })?;
        // SAFETY: the driver has just reserved so many bytes there.
        unsafe { at.cast::<u8>().write_bytes(0, bytes as usize) };
        Ok(HostAddress(at as u64))
    }

    fn free_host(&self, at: HostAddress) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuMemFreeHost", unsafe { sys::cuMemFreeHost(pointer(at.0)) })
    }

    fn fill(&self, at: DeviceAddress, value: u8, bytes: u64, stream: StreamHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(at.0, value, bytes as usize, pointer(stream.0)) })
    }

    fn upload(&self, to: DeviceAddress, from: HostAddress, bytes: u64, stream: StreamHandle) -> DriverResult<()> {
        let from: *mut c_void = pointer(from.0);
        // SAFETY: as above.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, from, bytes as usize, pointer(stream.0)) };
        check("cuMemcpyHtoDAsync", result)
    }

    fn download(&self, to: HostAddress, from: DeviceAddress, bytes: u64, stream: StreamHandle) -> DriverResult<()> {
        // SAFETY: as above.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(pointer(to.0), from.0, bytes as usize, pointer(stream.0)) };
        check("cuMemcpyDtoHAsync", result)
    }

    fn copy(&self, to: DeviceAddress, from: DeviceAddress, bytes: u64, stream: StreamHandle) -> DriverResult<()> {
        // SAFETY: as above.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes as usize, pointer(stream.0)) };
        check("cuMemcpyDtoDAsync", result)
    }

    fn create_stream(&self) -> DriverResult<StreamHandle> {
        let mut stream = null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: as above.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut stream, flags) })?;
        Ok(StreamHandle(stream as u64))
    }

    fn destroy_stream(&self, stream: StreamHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuStreamDestroy", unsafe { sys::cuStreamDestroy_v2(pointer(stream.0)) })
    }

    fn synchronize(&self, stream: StreamHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(pointer(stream.0)) })
    }

    fn create_event(&self) -> DriverResult<EventHandle> {
        let mut event = null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: as above.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut event, flags) })?;
        Ok(EventHandle(event as u64))
    }

    fn destroy_event(&self, event: EventHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuEventDestroy", unsafe { sys::cuEventDestroy_v2(pointer(event.0)) })
    }

    fn record(&self, event: EventHandle, stream: StreamHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuEventRecord", unsafe { sys::cuEventRecord(pointer(event.0), pointer(stream.0)) })
    }

    fn wait(&self, event: EventHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(pointer(event.0)) })
    }

    fn load_module(&self, image: &[u8]) -> DriverResult<ModuleHandle> {
        let mut module = null_mut();
        // SAFETY: machine code says its own length, and PTX ends with a zero byte, as the trait says.
        check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&raw mut module, image.as_ptr().cast()) })?;
        Ok(ModuleHandle(module as u64))
    }

    fn unload_module(&self, module: ModuleHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuModuleUnload", unsafe { sys::cuModuleUnload(pointer(module.0)) })
    }

    fn function(&self, module: ModuleHandle, name: &str) -> DriverResult<FunctionHandle> {
        let (call, mut function) = ("cuModuleGetFunction", null_mut());
        let name = CString::new(name).map_err(|_| DriverError {
            call,
            code: codes::NOT_FOUND,
            name: "CUDA_ERROR_NOT_FOUND".into(),
            text: "the name of the kernel has a zero byte".into(),
        })?;
        // SAFETY: as above; the name ends with a zero byte.
        check(call, unsafe { sys::cuModuleGetFunction(&raw mut function, pointer(module.0), name.as_ptr()) })?;
        Ok(FunctionHandle(function as u64))
    }

    fn allow_shared(&self, function: FunctionHandle, bytes: u32) -> DriverResult<()> {
        let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: as above.
        let result = unsafe { sys::cuFuncSetAttribute(pointer(function.0), which, bytes as i32) };
        check("cuFuncSetAttribute", result)
    }

    fn launch(&self, launch: &KernelLaunch, stream: StreamHandle) -> DriverResult<()> {
        let mut bytes = launch.params.len();
        let mut extra = [
            sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize as *mut c_void,
            launch.params.as_ptr().cast_mut().cast(),
            sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize as *mut c_void,
            (&raw mut bytes).cast(),
            sys::CU_LAUNCH_PARAM_END_AS_INT as usize as *mut c_void,
        ];
        // SAFETY: all zeros are a value of both structs of numbers and pointers.
        let (mut attribute, mut config) =
            unsafe { (zeroed::<sys::CUlaunchAttribute>(), zeroed::<sys::CUlaunchConfig>()) };
        attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute.value.programmaticStreamSerializationAllowed = 1;
        [config.gridDimX, config.gridDimY, config.gridDimZ] = launch.grid;
        [config.blockDimX, config.blockDimY, config.blockDimZ] = [launch.threads, 1, 1];
        (config.sharedMemBytes, config.hStream) = (launch.shared_bytes, pointer(stream.0));
        (config.attrs, config.numAttrs) = (&raw mut attribute, launch.overlaps.into());
        let function = pointer(launch.function.0);
        // SAFETY: the driver copies the parameter block before it returns, and reads no more of it than its size; configuration and
        // attribute live until then. That the block is the kernel's, and its addresses are in bounds, the caller has seen to.
        check("cuLaunchKernelEx", unsafe {
            sys::cuLaunchKernelEx(&raw const config, function, null_mut(), extra.as_mut_ptr())
        })
    }

    fn begin_capture(&self, stream: StreamHandle) -> DriverResult<()> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: as above.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(pointer(stream.0), mode) })
    }

    fn end_capture(&self, stream: StreamHandle) -> DriverResult<GraphHandle> {
        let mut graph = null_mut();
        // SAFETY: as above.
        check("cuStreamEndCapture", unsafe { sys::cuStreamEndCapture(pointer(stream.0), &raw mut graph) })?;
        Ok(GraphHandle(graph as u64))
    }

    fn destroy_graph(&self, graph: GraphHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuGraphDestroy", unsafe { sys::cuGraphDestroy(pointer(graph.0)) })
    }

    fn instantiate(&self, graph: GraphHandle) -> DriverResult<ExecutableHandle> {
        let mut executable = null_mut();
        // SAFETY: as above.
        let result = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut executable, pointer(graph.0), 0) };
        check("cuGraphInstantiate", result)?;
        Ok(ExecutableHandle(executable as u64))
    }

    fn destroy_executable(&self, executable: ExecutableHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuGraphExecDestroy", unsafe { sys::cuGraphExecDestroy(pointer(executable.0)) })
    }

    fn upload_graph(&self, executable: ExecutableHandle, stream: StreamHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuGraphUpload", unsafe { sys::cuGraphUpload(pointer(executable.0), pointer(stream.0)) })
    }

    fn launch_graph(&self, executable: ExecutableHandle, stream: StreamHandle) -> DriverResult<()> {
        // SAFETY: as above.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(pointer(executable.0), pointer(stream.0)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On any machine opening the driver is an answer and never a panic.
    #[test]
    fn a_missing_driver_is_an_answer() {
        match CudaDriver::open() {
            Ok(driver) => assert!(driver.version().is_ok_and(|v| v.0 > 0)),
            Err(error) => assert!(!error.to_string().is_empty() && !error.to_string().contains('\n')),
        }
    }
}
