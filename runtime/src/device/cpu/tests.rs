//! The tiny model on the processor against its scalar definition.

use super::*;
use crate::artifact::{Layout, OpenOptions};
use crate::testing::{TinyModel, reference_logits, shapes};

fn load(threads: usize, isa: Isa) -> (tempfile::TempDir, TinyModel, CpuDevice) {
    let folder = tempfile::tempdir().unwrap();
    let model = TinyModel::new();
    model.write(folder.path());
    let artifact = Arc::new(Artifact::open(folder.path(), &OpenOptions::default()).unwrap());
    let options = LoadOptions { pages: 8, threads: Some(threads), isa: Some(isa) };
    (folder, model, CpuDevice::load(artifact, &options).unwrap())
}

fn assert_close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f64::from(*f) - e).abs() < 1e-4, "{f} is not near {e}");
    }
}

/// Tokens of one sequence in the given pages, with logits of all of them.
fn step_all(device: &mut CpuDevice, bucket: usize, tokens: &[u32], start: usize, pages: &[i32]) -> Vec<f32> {
    let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
    let positions: Vec<i32> = (start..start + ids.len()).map(|p| p as i32).collect();
    let inputs = StepInputs {
        ids: &ids,
        positions: &positions,
        sequences: &vec![0; ids.len()],
        page_table: pages,
        page_columns: pages.len(),
        logit_rows: &(0..ids.len() as i32).collect::<Vec<_>>(),
        rope_tables: &vec![0; ids.len()],
    };
    device.step(bucket, &inputs).unwrap();
    device.output("logits").unwrap().to_vec()
}

#[test]
fn logits_are_those_of_the_definition_on_any_number_of_threads() {
    let tokens: Vec<u32> = (0..20).map(|i| (i * 17 + 5) % shapes::VOCABULARY as u32).collect();
    let mut all: Vec<Vec<f32>> = Vec::new();
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            let (_folder, model, mut device) = load(threads, *isa);
            let expected = reference_logits(&model, &tokens).concat();
            let mut found = step_all(&mut device, 2, &tokens[..8], 0, &[5, 2]);
            found.extend(step_all(&mut device, 2, &tokens[8..15], 8, &[5, 2]));
            found.extend(step_all(&mut device, 1, &tokens[15..17], 15, &[5, 2]));
            for (i, token) in tokens[17..].iter().enumerate() {
                found.extend(step_all(&mut device, 0, &[*token], 17 + i, &[5, 2, 0]));
            }
            assert_close(&found, &expected);
            all.push(found);
        }
    }
    assert!(all.windows(2).all(|w| w[0] == w[1]), "the bits depend on threads or instruction set");
}

/// The tiny model with its matrices in a layout.
fn load_in(layout: Layout, threads: usize) -> (tempfile::TempDir, CpuDevice) {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::new().write_in(layout, folder.path());
    let artifact = Arc::new(Artifact::open(folder.path(), &OpenOptions::default()).unwrap());
    let options = LoadOptions { pages: 8, threads: Some(threads), isa: None };
    (folder, CpuDevice::load(artifact, &options).unwrap())
}

#[test]
fn weights_laid_out_for_a_gpu_give_the_same_bits() {
    let tokens: Vec<u32> = (0..16).map(|i| (i * 29 + 3) % shapes::VOCABULARY as u32).collect();
    let (_folder, mut panels) = load_in(Layout::Rows16, 1);
    let expected = step_all(&mut panels, 2, &tokens[..8], 0, &[5]);
    for threads in [1, 3] {
        let (_folder, mut device) = load_in(Layout::Fragments, threads);
        assert_eq!(step_all(&mut device, 2, &tokens[..8], 0, &[5]), expected);
        // What it holds is panels; the tiles they are made of are padded to 64 columns.
        let manifest = device.artifact.manifest();
        assert_eq!(device.memory().weights, panels.memory().weights);
        assert!(manifest.weight_bytes() > device.memory().weights);
        let (arena, kv) = (manifest.arena_bytes(), manifest.page_bytes());
        let needed = arena + kv + converted_bytes(manifest);
        assert!(check_memory(manifest, 1, Some(needed)).is_ok());
        let error = check_memory(manifest, 1, Some(needed - 1)).unwrap_err().to_string();
        assert!(error.contains(&format!("{} for weights", converted_bytes(manifest))), "{error}");
    }
    assert_eq!(converted_bytes(panels.artifact.manifest()), 0);
}

#[test]
fn a_file_cut_off_before_its_weights_are_converted_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::new().write_in(Layout::Fragments, folder.path());
    let artifact = Arc::new(Artifact::open(folder.path(), &OpenOptions::default()).unwrap());
    let file = std::fs::OpenOptions::new().write(true).open(folder.path().join("weights-00001.safetensors")).unwrap();
    file.set_len(4096).unwrap();
    let error = CpuDevice::load(artifact, &LoadOptions { pages: 1, ..LoadOptions::default() }).err().unwrap();
    assert!(error.to_string().contains("weights-00001.safetensors"), "{error}");
}

#[test]
fn bad_inputs_and_options_are_errors() {
    let (folder, _, mut device) = load(2, Isa::Portable);
    let inputs = StepInputs {
        ids: &[shapes::VOCABULARY as i32],
        positions: &[0],
        sequences: &[0],
        page_table: &[0],
        page_columns: 1,
        logit_rows: &[0],
        rope_tables: &[0],
    };
    assert!(matches!(device.step(0, &inputs), Err(DeviceError::Inputs(e)) if e.input == "ids"));
    assert!(device.output("logits").is_none());
    assert!(matches!(device.step(9, &inputs), Err(DeviceError::Option { .. })));
    device.step(0, &StepInputs { ids: &[1], ..inputs }).unwrap();
    assert_eq!(device.output("logits").unwrap().len(), shapes::VOCABULARY);
    assert!(device.output("hidden").is_none());
    let artifact = Arc::new(Artifact::open(folder.path(), &OpenOptions::default()).unwrap());
    for (options, name) in [
        (LoadOptions { pages: 0, ..LoadOptions::default() }, "pages"),
        (LoadOptions { pages: 65537, ..LoadOptions::default() }, "pages"),
        (LoadOptions { pages: 1, threads: Some(0), isa: None }, "threads"),
    ] {
        match CpuDevice::load(artifact.clone(), &options) {
            Err(DeviceError::Option { option, .. }) => assert_eq!(option, name),
            other => panic!("{:?}", other.err()),
        }
    }
}

#[test]
fn a_weights_file_cut_off_while_in_use_is_an_error() {
    let (folder, _, mut device) = load(1, Isa::Portable);
    let first = step_all(&mut device, 0, &[1], 0, &[0]);
    assert_eq!(first.len(), shapes::VOCABULARY);
    let file = std::fs::OpenOptions::new().write(true).open(folder.path().join("weights-00001.safetensors")).unwrap();
    file.set_len(4096).unwrap();
    let inputs = StepInputs {
        ids: &[1],
        positions: &[1],
        sequences: &[0],
        page_table: &[0],
        page_columns: 1,
        logit_rows: &[0],
        rope_tables: &[0],
    };
    let error = device.step(0, &inputs).unwrap_err().to_string();
    assert!(error.contains("weights-00001.safetensors") && error.contains("4096 bytes"), "{error}");
    assert!(device.output("logits").is_none());
}

#[test]
fn what_can_never_fit_is_refused_before_it_is_reserved() {
    let (_folder, _, device) = load(1, Isa::Portable);
    let manifest = device.artifact.manifest();
    let (arena, page) = (manifest.arena_bytes(), manifest.page_bytes());
    assert!(check_memory(manifest, 10, Some(arena + 10 * page)).is_ok());
    assert!(check_memory(manifest, 10, None).is_ok());
    for pages in [11, u64::MAX] {
        let error = check_memory(manifest, pages, Some(arena + 10 * page)).unwrap_err();
        assert!(matches!(error, DeviceError::TooLarge { limit, .. } if limit == arena + 10 * page));
    }
}

#[test]
fn memory_is_what_was_reserved() {
    let (_folder, _, device) = load(2, Isa::Portable);
    let memory = device.memory();
    assert_eq!(memory.kv, 8 * 2 * 16 * 16 * 4);
    assert_eq!(memory.arena, device.artifact.manifest().arena_bytes());
    assert!(memory.weights > 0 && memory.other > 0);
    assert_eq!(device.name(), "cpu portable, 2 threads");
}
