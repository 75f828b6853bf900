//! The same launches on a GPU, where one is asked for with `MOESAIC_TEST_DEVICE=cuda`: machine code by NVRTC for the first GPU, a module and
//! allocations of their own for each case.
//!
//! What the simulator sees at every access, a GPU shows only in part: around each buffer lie bytes that must not change, and the workspace behind its
//! counters holds NaNs. Results are zero before, as the native kernel's are; that all of them are written the simulator shows. Code and buffers are
//! given back after each case; a fault of a kernel ends the process's use of the GPU, and every later case fails.

use std::collections::BTreeMap;
use std::ffi::{CString, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute, CUfunction_attribute};
use kernels::cuda::{COUNTER_BYTES, CudaLaunch};

use super::{Buffer, Case, Outputs, machine_code};

/// Bytes around each buffer, and what they hold.
const MARGIN: usize = 512;
const UNTOUCHED: u8 = 0xa5;

/// What the workspace holds that nobody may expect: as a number of any width NaN, as an index -1.
const GARBAGE: u8 = 0xff;

/// Whether launches run on a GPU.
pub fn asked_for() -> bool {
    std::env::var("MOESAIC_TEST_DEVICE").is_ok_and(|device| device == "cuda")
}

/// The first GPU, ready.
struct Gpu {
    context: sys::CUcontext,
    /// As `sm_90`.
    architecture: String,
}

// SAFETY: a context may be made current in any number of threads.
unsafe impl Send for Gpu {}
// SAFETY: as above; it is never changed.
unsafe impl Sync for Gpu {}

/// Makes the first GPU current in this thread.
fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    let gpu = GPU.get_or_init(|| open().unwrap_or_else(|e| panic!("no GPU that works: {e:?}")));
    // SAFETY: the context is kept for as long as the process lives.
    unsafe { result::ctx::set_current(gpu.context) }.expect("the GPU's context");
    gpu
}

fn open() -> Result<Gpu, DriverError> {
    // SAFETY: opens the driver's library and closes it again.
    assert!(unsafe { sys::is_culib_present() }, "MOESAIC_TEST_DEVICE=cuda, and there is no CUDA driver");
    result::init()?;
    let device = result::device::get(0)?;
    // SAFETY: `device` was just given by the driver.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // SAFETY: as above.
    let context = unsafe { result::primary_ctx::retain(device) }?;
    Ok(Gpu { context, architecture: format!("sm_{major}{minor}") })
}

/// Memory of the GPU between margins.
struct Allocation {
    base: sys::CUdeviceptr,
    bytes: usize,
}

impl Allocation {
    /// So many bytes of a value.
    fn filled(value: u8, bytes: usize) -> Result<Allocation, DriverError> {
        // SAFETY: the memory is given back when the allocation is dropped, and filled within its bounds.
        unsafe {
            let base = result::malloc_sync(bytes + 2 * MARGIN)?;
            let allocation = Allocation { base, bytes };
            result::memset_d8_sync(base, UNTOUCHED, bytes + 2 * MARGIN)?;
            if bytes > 0 {
                result::memset_d8_sync(allocation.start(), value, bytes)?;
            }
            Ok(allocation)
        }
    }

    fn start(&self) -> sys::CUdeviceptr {
        self.base + MARGIN as u64
    }

    fn write(&self, contents: &[u8]) -> Result<(), DriverError> {
        assert!(contents.len() <= self.bytes);
        if contents.is_empty() {
            return Ok(());
        }
        // SAFETY: the contents fit the allocation.
        unsafe { result::memcpy_htod_sync(self.start(), contents) }
    }

    /// The contents; panics if a margin was written.
    fn read(&self, name: &str) -> Result<Vec<u8>, DriverError> {
        let mut all = vec![0u8; self.bytes + 2 * MARGIN];
        // SAFETY: the allocation is as long as the vector.
        unsafe { result::memcpy_dtoh_sync(&mut all, self.base) }?;
        let (before, rest) = all.split_at(MARGIN);
        let (contents, after) = rest.split_at(self.bytes);
        assert!(before.iter().chain(after).all(|byte| *byte == UNTOUCHED), "{name}: written out of bounds");
        Ok(contents.to_vec())
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: it was allocated and is not given back twice. After a fault the driver refuses, which the case has reported.
        let _ = unsafe { result::free_sync(self.base) };
    }
}

/// A module, loaded.
struct Loaded(sys::CUmodule);

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: it was loaded and is not unloaded twice; nothing runs any more.
        let _ = unsafe { result::module::unload(self.0) };
    }
}

impl Case {
    /// What the CUDA kernel writes on the GPU. Panics at any fault, and where something was written that must not be.
    pub fn run_on_gpu(&self) -> Outputs {
        self.on_gpu(gpu()).unwrap_or_else(|e| panic!("{} {}: {e:?}", self.kernel.name, self.variant))
    }

    fn on_gpu(&self, gpu: &Gpu) -> Result<Outputs, DriverError> {
        let places = self.place_on_gpu()?;
        let mut params = self.params(|name| places[name].start());
        let pointer: *const c_void = params.as_ptr().cast();
        // SAFETY: `params` is the kernel's struct; no pointer is followed.
        let (specialisation, launches, bytes) = unsafe {
            let specialisation = self.cuda().specialise(&self.variant, pointer).unwrap_or_else(|e| panic!("{e}"));
            let launches = self.cuda().launches(&self.variant, pointer);
            (specialisation, launches, self.cuda().workspace_bytes(&self.variant, pointer))
        };
        let workspace = Allocation::filled(GARBAGE, bytes as usize)?;
        workspace.write(&vec![0; bytes.min(COUNTER_BYTES.into()) as usize])?;
        params.push(workspace.start());
        let code = machine_code(&specialisation, &gpu.architecture, self.pace);
        // SAFETY: NVRTC gave a whole cubin.
        let module = Loaded(unsafe { result::module::load_data(code.as_ptr().cast()) }?);
        for each in &launches {
            launch(&module, each, &params)?;
        }
        result::ctx::synchronize()?;
        workspace.read("workspace")?;
        self.outputs_of(&places)
    }

    fn place_on_gpu(&self) -> Result<BTreeMap<&'static str, Allocation>, DriverError> {
        let place = |(name, buffer): (&&'static str, &Buffer)| {
            let bytes = buffer.cuda.as_ref().unwrap_or(&buffer.native);
            let allocation = Allocation::filled(0, bytes.len())?;
            if buffer.given {
                allocation.write(bytes)?;
            }
            Ok((*name, allocation))
        };
        self.buffers.iter().map(place).collect()
    }

    /// What was written; panics if something else was.
    fn outputs_of(&self, places: &BTreeMap<&'static str, Allocation>) -> Result<Outputs, DriverError> {
        let mut outputs = Outputs::new();
        for (name, buffer) in &self.buffers {
            let contents = places[name].read(name)?;
            if buffer.written {
                outputs.insert(name, contents);
            } else {
                let before = buffer.cuda.as_ref().unwrap_or(&buffer.native);
                assert!(contents == *before, "{name}: written, and only to be read");
            }
        }
        Ok(outputs)
    }
}

/// Puts a launch into the default stream: launches run one after the other.
fn launch(module: &Loaded, launch: &CudaLaunch, params: &[u64]) -> Result<(), DriverError> {
    let entry = CString::new(launch.entry).expect("a name");
    let mut bytes = size_of_val(params);
    let mut extra: [*mut c_void; 5] = [
        ptr::without_provenance_mut(1), // CU_LAUNCH_PARAM_BUFFER_POINTER
        params.as_ptr().cast_mut().cast(),
        ptr::without_provenance_mut(2), // CU_LAUNCH_PARAM_BUFFER_SIZE
        (&raw mut bytes).cast(),
        ptr::null_mut(), // CU_LAUNCH_PARAM_END
    ];
    let [x, y, z] = launch.grid;
    // SAFETY: the parameters are the kernel's struct and the workspace, as it declares them; buffers outlive the launch, which is waited for.
    unsafe {
        let function = result::module::get_function(module.0, entry)?;
        let shared = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        result::function::set_function_attribute(function, shared, launch.shared_bytes as i32)?;
        let (threads, shared): (c_uint, c_uint) = (launch.threads, launch.shared_bytes);
        let (stream, none) = (result::stream::null(), ptr::null_mut());
        sys::cuLaunchKernel(function, x, y, z, threads, 1, 1, shared, stream, none, extra.as_mut_ptr()).result()
    }
}
