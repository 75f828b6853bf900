//! Golden fixtures written in both packed layouts: the same matrices, read back from the files.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use ir::quant::fragments;
use models::{Checkpoint, ImportOptions};
use safetensors::SafeTensors;

use super::*;
use crate::quantise::assign::{apply, assign};
use crate::quantise::options::QuantOptions;
use crate::quantise::rows::StreamedRows;

/// Stacks of experts, vectors beside matrices, rows that are no multiple of 64, and the formats that checkpoints come in.
const FIXTURES: &[&str] = &[
    "llama31",
    "mixtral_gptq",
    "gpt_oss_mxfp4",
    "odd_gpt_oss_mxfp4",
    "odd_llama",
    "bitnet_packed",
    "qwen3_fp8_block",
    "llama_gptq_asym",
    "deepseek_v2_lite",
];

/// The weights of a fixture as written in a layout, in the order of the table.
fn written(name: &str, packed: Layout) -> Vec<(WeightInfo, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    let checkpoint = Checkpoint::open(path).unwrap();
    let options = ImportOptions {
        max_tokens: 8,
        max_sequences: 1,
        max_model_len: 64,
        kv_dtype: DType::F32,
        trace_routing: false,
        embeddings: false,
    };
    let model = models::import(&checkpoint, &options).unwrap();
    let assignment = assign(&model.graph, &QuantOptions::default());
    let graph = apply(&model.graph, &assignment).unwrap();
    let mut rows = StreamedRows::new(&checkpoint, &model.weights, &assignment, 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut staging = Staging::create(&folder.path().join("artifact")).unwrap();
    let advanced = std::cell::Cell::new(0);
    let advance = |bytes| advanced.set(advanced.get() + bytes);
    let table = write_weights(&graph, packed, &mut rows, &mut staging, &advance).unwrap();
    assert_eq!(advanced.get(), total_bytes(&graph, packed).unwrap(), "{name}");
    let file = fs::read(staging.folder().join("weights-00001.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    table.into_iter().map(|weight| (weight.clone(), read(&tensors, &file, &weight))).collect()
}

/// A weight's bytes, which begin at a multiple of its layout's alignment.
fn read(tensors: &SafeTensors, file: &[u8], weight: &WeightInfo) -> Vec<u8> {
    let bytes = tensors.tensor(&weight.name).unwrap().data();
    let offset = bytes.as_ptr().addr() - file.as_ptr().addr();
    assert!(offset.is_multiple_of(weight.layout.alignment()), "{} at {offset}", weight.name);
    assert_eq!(bytes.len() as u64, weight.bytes, "{}", weight.name);
    bytes.to_vec()
}

/// A weight's tiles as panels.
fn panels(weight: &WeightInfo, tiles: &[u8]) -> Vec<u8> {
    let (dtype, cols) = (DType::from_name(&weight.dtype).unwrap(), *weight.shape.last().unwrap());
    let tile_bytes = fragments::tile_bytes(dtype, cols).unwrap() as usize;
    let panel_bytes = quant::packed_bytes(dtype, PANEL_ROWS as u64, cols).unwrap() as usize;
    let mut panels = vec![0; tiles.len() / tile_bytes * panel_bytes];
    for (tile, panel) in tiles.chunks(tile_bytes).zip(panels.chunks_mut(panel_bytes)) {
        fragments::to_panel(dtype, tile, cols as usize, panel).unwrap();
    }
    panels
}

#[test]
fn tiles_hold_what_panels_hold() {
    let mut formats = HashSet::new();
    for name in FIXTURES {
        let (cpu, gpu) = (written(name, packed_layout(Target::Cpu)), written(name, Layout::Fragments));
        assert_eq!(cpu.len(), gpu.len(), "{name}");
        for ((panel_info, panel_bytes), (tile_info, tile_bytes)) in cpu.iter().zip(&gpu) {
            let of = |w: &WeightInfo| (w.name.clone(), w.dtype.clone(), w.shape.clone());
            assert_eq!(of(panel_info), of(tile_info), "{name}");
            match (panel_info.layout, tile_info.layout) {
                (Layout::Plain, Layout::Plain) => assert!(panel_bytes == tile_bytes, "{name} {}", tile_info.name),
                (Layout::Rows16, Layout::Fragments) => {
                    assert!(*panel_bytes == panels(tile_info, tile_bytes), "{name} {}", tile_info.name);
                    formats.insert(tile_info.dtype.clone());
                }
                layouts => panic!("{name} {}: {layouts:?}", tile_info.name),
            }
        }
    }
    assert!(formats.len() >= 6, "{formats:?}");
}

#[test]
fn every_gpu_takes_tiles() {
    for target in Target::all() {
        assert_eq!(packed_layout(target) == Layout::Fragments, target != Target::Cpu, "{target}");
    }
}
