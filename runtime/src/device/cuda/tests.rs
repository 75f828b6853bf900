//! The device over a driver that notes its calls: what is called in which order, what happens when any call fails, what is refused.

mod submitted;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use kernels::cuda::{Specialisation, services};
use proptest::prelude::*;

use super::driver::CudaVersion;
use super::driver::codes;
use super::simulated::{Call, SimulatedDriver, SimulatedGpu};
use super::{CONTEXT_BYTES, CudaDevice, CudaMachine, GpuOptions};
use crate::artifact::{Artifact, CompiledKernel, EntryFigures, FileInfo, KernelCode, Layout, OpenOptions};
use crate::device::{self, Device, DeviceChoice, DeviceError, Opened, StepInputs, launches};
use crate::testing::{TinyModel, write_manifest};

/// Memory of a GPU that holds the tiny model easily.
const PLENTY: u64 = 1 << 30;

/// A module without kernels: what is never launched need not be there.
const CODE: &[u8] = b".version 8.0\n.target sm_90\n.address_size 64\n\0";

/// The tiny model for GPUs: its kernels have names and no code, which is never executed.
pub(crate) struct Tiny {
    _folder: tempfile::TempDir,
    pub artifact: Arc<Artifact>,
}

impl Tiny {
    pub fn new() -> Tiny {
        Tiny::packed(Layout::Fragments)
    }

    /// Without the code of some kernels.
    fn without(kernels: &[&str]) -> Tiny {
        Tiny::with(Layout::Fragments, |specialisation| !kernels.contains(&specialisation.kernel))
    }

    fn packed(layout: Layout) -> Tiny {
        Tiny::with(layout, |_| true)
    }

    fn with(layout: Layout, is_compiled: impl Fn(&Specialisation) -> bool) -> Tiny {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = TinyModel::new().write_in(layout, folder.path());
        (manifest.target, manifest.architectures) = ("sm_90".into(), vec!["sm_90".into()]);
        manifest.kernel_compiler = Some("12.9".into());
        let mut found: Vec<Specialisation> = Vec::new();
        for bucket in &manifest.buckets {
            let text = fs::read_to_string(folder.path().join(&bucket.program)).unwrap();
            let program = ir::text::parse_program(&text).unwrap();
            launches::resolve(&program, |specialisation, _| {
                found.push(specialisation);
                Ok(())
            })
            .unwrap();
        }
        found.extend(services());
        found.retain(is_compiled);
        found.sort();
        found.dedup();
        fs::create_dir_all(folder.path().join("kernels")).unwrap();
        for (index, specialisation) in found.iter().enumerate() {
            let kernel = compiled(index, specialisation);
            let files = [&kernel.source, &kernel.code["sm_90"].cubin, &kernel.ptx["sm_90"]];
            for file in files {
                fs::write(folder.path().join(file), CODE).unwrap();
                let blake3 = blake3::hash(CODE).to_hex().to_string();
                manifest.files.insert(file.clone(), FileInfo { bytes: CODE.len() as u64, blake3 });
            }
            manifest.kernels.push(kernel);
        }
        write_manifest(folder.path(), &manifest);
        let artifact = Artifact::open(folder.path(), &OpenOptions::default()).unwrap();
        Tiny { _folder: folder, artifact: Arc::new(artifact) }
    }

    fn machine(&self, driver: &SimulatedDriver) -> Result<CudaMachine, DeviceError> {
        CudaMachine::with_driver(Box::new(driver.clone()), &self.artifact, GpuOptions::default())
    }

    pub fn load(&self, driver: &SimulatedDriver) -> Result<CudaDevice, DeviceError> {
        self.machine(driver)?.load(8)
    }
}

fn compiled(index: usize, specialisation: &Specialisation) -> CompiledKernel {
    let name = format!("k{index}");
    let entries: BTreeMap<_, _> = [("entry".to_string(), EntryFigures::default())].into();
    CompiledKernel {
        kernel: specialisation.kernel.into(),
        variant: specialisation.variant.clone(),
        defines: specialisation.defines.iter().map(|d| (d.name.to_string(), d.value.clone())).collect(),
        source: format!("kernels/{name}.cu"),
        entries: vec!["entry".into()],
        code: [("sm_90".to_string(), KernelCode { cubin: format!("kernels/{name}.cubin"), entries })].into(),
        ptx: [("sm_90".to_string(), format!("kernels/{name}.ptx"))].into(),
        name,
    }
}

/// A driver that executes nothing.
pub(crate) fn driver() -> SimulatedDriver {
    with_memory(PLENTY)
}

fn with_memory(memory_bytes: u64) -> SimulatedDriver {
    SimulatedDriver::new(SimulatedGpu { memory_bytes, executes: false, ..SimulatedGpu::default() })
}

/// Tokens of one sequence from position 0 on.
fn tokens(count: usize) -> [Vec<i32>; 3] {
    [vec![1; count], (0..count as i32).collect(), vec![0; count]]
}

fn step(device: &mut CudaDevice, bucket: usize, count: usize) -> Result<(), DeviceError> {
    let [ids, positions, sequences] = tokens(count);
    device.step(
        bucket,
        &StepInputs {
            ids: &ids,
            positions: &positions,
            sequences: &sequences,
            page_table: &[3],
            page_columns: 1,
            logit_rows: &[0],
            rope_tables: &vec![0; count],
        },
    )
}

fn is_lost(error: &DeviceError) -> bool {
    matches!(error, DeviceError::Lost { .. })
}

#[test]
fn a_step_is_one_copy_one_graph_a_copy_of_each_output_and_one_wait() {
    let (tiny, driver) = (Tiny::new(), driver());
    let mut device = tiny.load(&driver).unwrap();
    step(&mut device, 2, 5).unwrap();
    let first = driver.take_calls();
    let captures = |calls: &[Call]| calls.iter().filter(|c| matches!(c, Call::BeginCapture)).count();
    assert_eq!(captures(&first), 1);
    let logits = crate::testing::shapes::VOCABULARY as u64 * 4;
    // A longer step with the counts of the same recording.
    for count in [5, 6] {
        step(&mut device, 2, count).unwrap();
        let calls = driver.take_calls();
        assert!(matches!(calls[0], Call::Upload { bytes } if bytes < 4096), "{calls:?}");
        assert_eq!(calls[1..], [Call::LaunchGraph, Call::Download { bytes: logits }, Call::Synchronize], "{count}");
    }
    step(&mut device, 2, 7).unwrap();
    assert_eq!(captures(&driver.take_calls()), 1);
    drop(device);
    assert_eq!((driver.live(), driver.violations()), (0, Vec::new()));
}

#[test]
fn launches_overlap_behind_the_first_where_the_gpu_allows_it() {
    let tiny = Tiny::new();
    let overlaps = |gpu: SimulatedGpu, overlap| {
        let driver = SimulatedDriver::new(SimulatedGpu { executes: false, ..gpu });
        let options = GpuOptions { overlap, ..GpuOptions::default() };
        let machine = CudaMachine::with_driver(Box::new(driver.clone()), &tiny.artifact, options).unwrap();
        let mut device = machine.load(8).unwrap();
        step(&mut device, 0, 1).unwrap();
        let calls = driver.take_calls();
        calls
            .iter()
            .filter_map(|c| match c {
                Call::Launch { overlaps, .. } => Some(*overlaps),
                _ => None,
            })
            .collect()
    };
    let launches: Vec<bool> = overlaps(SimulatedGpu::default(), true);
    assert!(launches.len() >= tiny.artifact.programs()[0].launches.len());
    assert!(!launches[0] && launches[1..].iter().all(|o| *o));
    let none = |launches: Vec<bool>| !launches.is_empty() && launches.iter().all(|o| !o);
    assert!(none(overlaps(SimulatedGpu::default(), false)));
    // A driver that would forget it.
    assert!(none(overlaps(SimulatedGpu { version: CudaVersion(12_020), ..SimulatedGpu::default() }, true)));
}

#[test]
fn weights_come_last_and_everything_is_reserved_before() {
    let (tiny, driver) = (Tiny::new(), driver());
    let device = tiny.load(&driver).unwrap();
    let calls = driver.take_calls();
    let last_reserved =
        calls.iter().rposition(|c| matches!(c, Call::Allocate { .. } | Call::LoadModule { .. })).unwrap();
    let first_upload = calls.iter().position(|c| matches!(c, Call::Upload { .. })).unwrap();
    assert!(last_reserved < first_upload, "{calls:?}");
    let uploaded: u64 = calls.iter().map(|c| if let Call::Upload { bytes } = c { *bytes } else { 0 }).sum();
    assert_eq!(uploaded, device.memory().weights);
    let reserved: u64 = calls.iter().map(|c| if let Call::Allocate { bytes } = c { *bytes } else { 0 }).sum();
    assert!(reserved <= device.memory().total() - CONTEXT_BYTES);
    // But for the estimates, of the context and of recordings, it is the same to the byte.
    let recordings = super::needs::graph_bytes(tiny.artifact.programs());
    assert_eq!(reserved, device.memory().total() - CONTEXT_BYTES - recordings);
    assert!(device.name().starts_with("cuda ") && device.arithmetic().contains("sm_90"));
    assert_eq!(device.pages(), 8);
}

/// Whatever call of loading fails, and however, nothing is left behind and nothing is asked of a lost context.
#[test]
fn a_load_that_fails_at_any_call_leaves_nothing() {
    let tiny = Tiny::new();
    let calls = {
        let driver = driver();
        let device = tiny.load(&driver).unwrap();
        let calls = driver.call_count();
        drop(device);
        calls
    };
    for code in [codes::OUT_OF_MEMORY, codes::ILLEGAL_ADDRESS] {
        for call in 0..calls {
            let driver = driver();
            driver.fail_at(call, code);
            match tiny.load(&driver) {
                Err(error) => {
                    let text = error.to_string();
                    assert!(!text.contains('\n'), "{text}");
                    // Right whether somebody else uses the GPU or the weights are too large.
                    let ways = ["stop what else uses it", "--gpu-memory-utilization", "--quant"];
                    let lacks = matches!(error, DeviceError::GpuMemory { .. });
                    assert!(!lacks || ways.iter().all(|way| text.contains(way)), "{text}");
                }
                // Only what is returned while loading may fail unnoticed: staging memory.
                Ok(device) => drop(device),
            }
            assert_eq!(driver.live(), 0, "call {call} fails with {code}");
            let leaks = driver.violations().into_iter().filter(|v| !released_in_vain(v)).collect::<Vec<_>>();
            assert!(leaks.is_empty(), "call {call} fails with {code}: {leaks:?}");
        }
    }
}

/// A handle whose return failed goes with the context.
fn released_in_vain(violation: &str) -> bool {
    violation == "1 handles are left when the context is closed"
}

#[test]
fn a_step_that_fails_at_any_call_leaves_the_device_usable_or_lost() {
    let tiny = Tiny::new();
    let calls = {
        let driver = driver();
        let mut device = tiny.load(&driver).unwrap();
        let before = driver.call_count();
        step(&mut device, 1, 3).unwrap();
        driver.call_count() - before
    };
    assert!(calls > 10);
    for call in 0..calls {
        for (code, sticky) in [(codes::OUT_OF_MEMORY, false), (1, false), (codes::ILLEGAL_ADDRESS, true)] {
            let driver = driver();
            let mut device = tiny.load(&driver).unwrap();
            driver.fail_at(call, code);
            let first = step(&mut device, 1, 3);
            let asked = driver.call_count();
            let second = step(&mut device, 1, 3);
            match sticky {
                true => {
                    assert!(first.is_err_and(|e| is_lost(&e)), "call {call}");
                    assert!(second.is_err_and(|e| is_lost(&e)), "call {call}");
                    assert!(device.write_page(0, &vec![0; 2048]).is_err_and(|e| is_lost(&e)));
                    assert!(device.copy_page(0, 1).is_err_and(|e| is_lost(&e)));
                    assert_eq!(driver.call_count(), asked, "a lost device is asked");
                }
                // Only the return of a template may fail unnoticed.
                false => assert!(second.is_ok(), "call {call}: {first:?}, then {second:?}"),
            }
            drop(device);
            assert_eq!(driver.live(), 0);
            let wrong: Vec<_> = driver.violations().into_iter().filter(|v| !released_in_vain(v)).collect();
            assert!(wrong.is_empty(), "call {call}, code {code}: {wrong:?}");
        }
    }
}

#[test]
fn memory_that_does_not_suffice_is_found_before_weights_are_copied() {
    let tiny = Tiny::new();
    let small = with_memory(100 << 10);
    let error = tiny.machine(&small).unwrap().load(8).err().unwrap();
    assert!(matches!(error, DeviceError::GpuBudget { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("100.00 KiB") && text.contains("--gpu-memory-utilization"), "{text}");
    assert!(!small.take_calls().iter().any(|c| matches!(c, Call::Allocate { .. } | Call::Upload { .. })));
    assert_eq!((small.live(), small.violations()), (0, Vec::new()));
}

#[test]
fn pages_are_as_many_as_the_memory_holds() {
    let (tiny, driver) = (Tiny::new(), driver());
    let machine = tiny.machine(&driver).unwrap();
    let page = tiny.artifact.manifest().page_bytes();
    let pages = machine.pages_within(None, None, 1).unwrap();
    let taken = machine.sizes.memory(&tiny.artifact, pages).total() - CONTEXT_BYTES;
    let limit = (PLENTY as f64 * 0.9) as u64;
    assert!(pages == 65535 || (taken <= limit && taken + 2 * page > limit), "{pages} pages take {taken} of {limit}");
    assert_eq!(machine.pages_within(None, Some(3), 1).unwrap(), 3);
    let budget = machine.sizes.memory(&tiny.artifact, 10).total();
    assert_eq!(machine.pages_within(Some(budget), None, 1).unwrap(), 10);
    let error = machine.pages_within(Some(budget), Some(11), 1).unwrap_err();
    assert!(matches!(error, DeviceError::Budget { .. }) && error.to_string().contains("--vram"), "{error}");
    assert!(machine.load(65536).is_err_and(|e| e.to_string().contains("pages")));
}

#[test]
fn what_is_missing_is_said_in_one_line() {
    let tiny = Tiny::new();
    let refused = |gpu: SimulatedGpu, ordinal| {
        let driver = SimulatedDriver::new(gpu);
        let options = GpuOptions { ordinal, ..GpuOptions::default() };
        let refused = CudaMachine::with_driver(Box::new(driver.clone()), &tiny.artifact, options).unwrap_err();
        assert_eq!((driver.live(), driver.violations()), (0, Vec::new()));
        let text = refused.to_string();
        assert!(!text.contains('\n'));
        text
    };
    let gpu = SimulatedGpu::default;
    assert!(refused(SimulatedGpu { count: 0, ..gpu() }, 0).contains("no GPU"));
    assert!(refused(gpu(), 1).contains("--gpu 1"));
    assert!(refused(SimulatedGpu { capability: (8, 6), ..gpu() }, 0).contains("--target sm_86"));
    assert!(refused(SimulatedGpu { version: CudaVersion(11_080), ..gpu() }, 0).contains("11.8"));
    let panels = Tiny::packed(Layout::Rows16);
    let error = CudaMachine::with_driver(Box::new(driver()), &panels.artifact, GpuOptions::default()).unwrap_err();
    assert!(error.to_string().contains("panels"), "{error}");
    for utilization in [0.0, 1.1, f64::NAN] {
        let options = GpuOptions { utilization, ..GpuOptions::default() };
        assert!(CudaMachine::with_driver(Box::new(driver()), &tiny.artifact, options).is_err());
    }
}

/// On a machine without a driver, `cuda` is an error in one line and `auto` is the processor.
#[test]
fn without_a_driver_only_cuda_itself_is_an_error() {
    let tiny = Tiny::new();
    if super::CudaDriver::open().is_ok() {
        return;
    }
    let open = |choice| device::open(choice, &tiny.artifact, &GpuOptions::default());
    let error = open(DeviceChoice::Cuda).err().unwrap().to_string();
    assert!(
        error.starts_with("no CUDA driver: ") && error.contains("--device cpu") && !error.contains('\n'),
        "{error}"
    );
    assert!(matches!(open(DeviceChoice::Auto), Ok(Opened::Cpu)));
}

#[test]
fn a_device_moves_to_another_thread() {
    let (tiny, driver) = (Tiny::new(), driver());
    let mut device = tiny.load(&driver).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| step(&mut device, 0, 1).unwrap());
    });
    let device: Box<dyn Device> = Box::new(device);
    std::thread::spawn(move || drop(device)).join().unwrap();
    assert_eq!((driver.live(), driver.violations()), (0, Vec::new()));
}

#[test]
fn recordings_are_bounded() {
    let (tiny, driver) = (Tiny::new(), driver());
    let mut device = tiny.load(&driver).unwrap();
    let mut recorded = 0;
    for columns in 1..=7 {
        for count in 1..=16 {
            let [ids, positions, sequences] = tokens(count);
            let rows = if count > 8 { 1 } else { count };
            let inputs = StepInputs {
                ids: &ids,
                positions: &positions,
                sequences: &sequences,
                page_table: &vec![0; columns],
                page_columns: columns,
                logit_rows: &vec![0; rows],
                rope_tables: &vec![0; count],
            };
            device.step(2, &inputs).unwrap();
            let calls = driver.take_calls();
            recorded += calls.iter().filter(|c| **c == Call::Instantiate).count();
            recorded -= calls.iter().filter(|c| **c == Call::DestroyExecutable).count();
        }
    }
    assert_eq!(recorded, super::needs::MOST_GRAPHS);
}

proptest! {
    /// Pages written, copied and read keep their bytes, in any order.
    #[test]
    fn pages_keep_their_bytes(writes in prop::collection::vec((0u32..8, any::<u8>()), 1..8), from in 0u32..8, to in 0u32..8) {
        let tiny = Tiny::new();
        let page_bytes = tiny.artifact.manifest().page_bytes() as usize;
        let driver = SimulatedDriver::new(SimulatedGpu { memory_bytes: PLENTY, executes: true, ..SimulatedGpu::default() });
        let mut device = tiny.load(&driver).unwrap();
        let mut expected = vec![vec![0; page_bytes]; 8];
        for page in 0..8 {
            device.write_page(page, &expected[page as usize]).unwrap();
        }
        for (page, value) in writes {
            expected[page as usize] = (0..page_bytes).map(|i| (i as u8).wrapping_mul(31) ^ value).collect();
            device.write_page(page, &expected[page as usize]).unwrap();
        }
        device.copy_page(from, to).unwrap();
        expected[to as usize] = expected[from as usize].clone();
        for (page, bytes) in expected.iter().enumerate() {
            let mut found = vec![0xff; page_bytes];
            device.read_page(page as u32, &mut found).unwrap();
            prop_assert!(found == *bytes, "page {}", page);
        }
        prop_assert!(device.read_page(8, &mut vec![0; page_bytes]).is_err());
        prop_assert!(device.write_page(0, &[1]).is_err() && device.copy_page(0, 8).is_err());
    }
}
