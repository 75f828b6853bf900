//! Shared by the integration tests: the golden fixtures' place and a GGUF writer.

#![allow(dead_code)] // each test program uses a part

use std::path::{Path, PathBuf};

/// A folder of the golden fixtures.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// Writes a GGUF file, valid unless told otherwise.
pub struct GgufWriter {
    pub version: u32,
    pub alignment: usize,
    pub pairs: Vec<Vec<u8>>,
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

/// A metadata value to write.
pub enum Meta {
    U32(u32),
    I32(i32),
    F32(f32),
    F64(f64),
    U64(u64),
    Bool(bool),
    Str(String),
    Strs(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    /// Arrays of arrays: this many levels around one empty u8 array.
    Nested(u32),
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn put_array<T>(out: &mut Vec<u8>, kind: u32, items: &[T], mut put: impl FnMut(&mut Vec<u8>, &T)) {
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((items.len() as u64).to_le_bytes());
    items.iter().for_each(|item| put(out, item));
}

fn put_value(out: &mut Vec<u8>, value: &Meta) {
    match value {
        Meta::U32(n) => out.extend([4u32.to_le_bytes(), n.to_le_bytes()].concat()),
        Meta::I32(n) => out.extend([5u32.to_le_bytes(), n.to_le_bytes()].concat()),
        Meta::F32(x) => out.extend([6u32.to_le_bytes(), x.to_le_bytes()].concat()),
        Meta::Bool(b) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*b));
        }
        Meta::Str(s) => {
            out.extend(8u32.to_le_bytes());
            put_str(out, s);
        }
        Meta::U64(n) => {
            out.extend(10u32.to_le_bytes());
            out.extend(n.to_le_bytes());
        }
        Meta::F64(x) => {
            out.extend(12u32.to_le_bytes());
            out.extend(x.to_le_bytes());
        }
        Meta::Strs(items) => put_array(out, 8, items, |out, s| put_str(out, s)),
        Meta::F32s(items) => put_array(out, 6, items, |out, x| out.extend(x.to_le_bytes())),
        Meta::I32s(items) => put_array(out, 5, items, |out, n| out.extend(n.to_le_bytes())),
        Meta::Nested(levels) => {
            out.extend(9u32.to_le_bytes());
            for _ in 1..*levels {
                out.extend(9u32.to_le_bytes());
                out.extend(1u64.to_le_bytes());
            }
            out.extend(0u32.to_le_bytes());
            out.extend(0u64.to_le_bytes());
        }
    }
}

impl GgufWriter {
    pub fn new() -> GgufWriter {
        GgufWriter { version: 3, alignment: 32, pairs: Vec::new(), tensors: Vec::new() }
    }

    pub fn meta(mut self, key: &str, value: Meta) -> GgufWriter {
        let mut pair = Vec::new();
        put_str(&mut pair, key);
        put_value(&mut pair, &value);
        self.pairs.push(pair);
        self
    }

    pub fn str(self, key: &str, value: &str) -> GgufWriter {
        self.meta(key, Meta::Str(value.to_owned()))
    }

    /// Adds a tensor; `dims` are in the file's order, innermost first.
    pub fn tensor(mut self, name: &str, dims: &[u64], type_id: u32, data: Vec<u8>) -> GgufWriter {
        self.tensors.push((name.to_owned(), dims.to_vec(), type_id, data));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        self.pairs.iter().for_each(|pair| out.extend(pair));
        let mut offset = 0;
        for (name, dims, type_id, data) in &self.tensors {
            put_str(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(type_id.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += data.len().next_multiple_of(self.alignment);
        }
        for (_, _, _, data) in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(data);
        }
        out
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

/// A small file with one of most things.
pub fn sample_gguf() -> GgufWriter {
    GgufWriter::new()
        .str("general.architecture", "llama")
        .meta("llama.block_count", Meta::U32(2))
        .meta("llama.rope.freq_base", Meta::F32(10_000.0))
        .meta("a.u64", Meta::U64(1 << 40))
        .meta("a.i32", Meta::I32(-5))
        .meta("a.f64", Meta::F64(f64::NAN))
        .meta("a.bool", Meta::Bool(true))
        .meta("a.nested", Meta::Nested(3))
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "smollm")
        .meta("tokenizer.ggml.tokens", Meta::Strs(["<|end|>", "a", "b", "ab", "Ġ"].map(String::from).to_vec()))
        .meta("tokenizer.ggml.token_type", Meta::I32s(vec![3, 1, 1, 1, 1]))
        .meta("tokenizer.ggml.merges", Meta::Strs(vec!["a b".to_owned()]))
        .meta("tokenizer.ggml.eos_token_id", Meta::U32(0))
        .str("tokenizer.chat_template", "{{ messages }}")
        .tensor("token_embd.weight", &[32, 5], 8, (0..170).map(|i| i as u8).collect())
        .tensor("output_norm.weight", &[32], 0, (0..32u32).flat_map(|i| (i as f32).to_le_bytes()).collect())
        .tensor("blk.0.odd", &[256], 10, vec![7; 84])
}
