//! Synthetic models: published shapes with seeded random weights, as Hugging Face folders.
//!
//! They let speed, memory and loading be measured for models that nobody wants to download or that do not exist. The text
//! such a model writes is meaningless, but a forward pass has the magnitudes of a trained one: activations near 1, logits
//! with a standard deviation of 1 to 3. Weights are written as they are drawn; memory holds one chunk a thread, whatever
//! the model's size.

mod error;
mod folder;
mod presets;
mod shape;
mod shards;
mod storage;
mod values;
mod vocabulary;

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::source::Checkpoint;
pub use error::SynthError;
use folder::StagedFolder;
pub use presets::{PRESETS, Preset, preset};
pub use shape::ParameterCount;
use shape::Weight;
use shards::Filling;
pub use storage::WeightFormat;
use vocabulary::SpecialIds;

/// Most bytes of tensors in one file.
const SHARD_BYTES: u64 = 4_000_000_000;

/// Most layers a model may be given.
const MOST_LAYERS: u64 = 4096;

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct SynthOptions {
    /// The shape.
    pub preset: &'static Preset,
    /// What weights are stored as.
    pub format: WeightFormat,
    /// Equal seeds give equal files, on any machine and with any number of threads.
    pub seed: u64,
    /// Number of layers, if it is to differ from the preset's.
    pub layers: Option<u64>,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynthReport {
    /// Number of parameters.
    pub parameters: ParameterCount,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of files with tensors.
    pub shards: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
}

/// A model that is ready to be written: all names, shapes and bytes are known.
pub struct SynthModel {
    config: Map<String, Value>,
    weights: Vec<Weight>,
    tensors: Vec<storage::StoredTensor>,
    tokenizer: Vec<u8>,
    vocabulary: u64,
    context: u64,
    seed: u64,
}

/// The preset of this name.
///
/// # Errors
/// [`SynthError::UnknownPreset`], which lists all.
pub fn find_preset(name: &str) -> Result<&'static Preset, SynthError> {
    preset(name).ok_or_else(|| SynthError::UnknownPreset {
        name: name.to_owned(),
        known: PRESETS.iter().map(|p| p.name).collect::<Vec<_>>().join(", "),
    })
}

impl Preset {
    /// Counts the parameters from the shape.
    ///
    /// # Errors
    /// Never for an entry of [`PRESETS`].
    pub fn parameters(&self) -> Result<ParameterCount, SynthError> {
        Ok(shape::count(&shape::weights(&self.parse(None)?)?))
    }

    /// The model that would be written as bf16, without its weights: a graph can be made of it at once.
    ///
    /// # Errors
    /// A number of layers out of range.
    pub fn describe(&self, layers: Option<u64>) -> Result<Checkpoint, SynthError> {
        let parsed = self.parse(layers)?;
        let fields = parsed.fields();
        let ids = SpecialIds::of(fields.size("vocab_size")?);
        let mut config = self.object()?;
        complete(&mut config, fields.size("num_hidden_layers")?, WeightFormat::BF16, ids);
        let text = serde_json::to_vec(&config).map_err(|e| SynthError::json("config.json", e))?;
        let config = Config::parse(parsed.file(), &text)?;
        Ok(Checkpoint::from_config(Path::new(self.name), config))
    }

    /// The configuration, with another number of layers if given.
    fn parse(&self, layers: Option<u64>) -> Result<Config, SynthError> {
        let file = Path::new(self.name).join("config.json");
        let Some(layers) = layers else { return Ok(Config::parse(&file, self.config.as_bytes())?) };
        if layers == 0 || layers > MOST_LAYERS {
            return Err(SynthError::Option { option: "--layers", expected: "1 to 4096", found: layers });
        }
        let mut object = self.object()?;
        object.insert("num_hidden_layers".into(), layers.into());
        let text = serde_json::to_vec(&object).map_err(|e| SynthError::json("config.json", e))?;
        Ok(Config::parse(&file, &text)?)
    }

    fn object(&self) -> Result<Map<String, Value>, SynthError> {
        serde_json::from_str(self.config).map_err(|e| SynthError::json("config.json", e))
    }
}

impl SynthModel {
    /// Lays a model out without writing anything.
    ///
    /// # Errors
    /// A number of layers out of range, or a group that does not divide a matrix.
    pub fn new(options: &SynthOptions) -> Result<SynthModel, SynthError> {
        if let WeightFormat::Int4 { group_size } = options.format
            && ![32, 64, 128].contains(&group_size)
        {
            return Err(SynthError::Option { option: "--group-size", expected: "32, 64 or 128", found: group_size });
        }
        let parsed = options.preset.parse(options.layers)?;
        let fields = parsed.fields();
        let (vocabulary, context) = (fields.size("vocab_size")?, fields.size("max_position_embeddings")?);
        let layers = fields.size("num_hidden_layers")?;
        let tokenizer = vocabulary::tokenizer(vocabulary)?;
        let weights = shape::weights(&parsed)?;
        let mut tensors = Vec::new();
        for weight in &weights {
            tensors.extend(storage::stored(weight, options.format)?);
        }
        let mut config = options.preset.object()?;
        complete(&mut config, layers, options.format, SpecialIds::of(vocabulary));
        if let Some(quantised) = storage::quantization_config(&weights, options.format) {
            config.insert("quantization_config".into(), quantised);
        }
        Ok(SynthModel { config, weights, tensors, tokenizer, vocabulary, context, seed: options.seed })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(storage::StoredTensor::bytes).sum()
    }

    /// Writes the folder; `advance` is told how many more bytes of tensors are written, from any thread.
    ///
    /// # Errors
    /// If `folder` stands there and is not empty, or if writing fails; then nothing is left.
    pub fn write(self, folder: &Path, advance: &(dyn Fn(u64) + Sync)) -> Result<SynthReport, SynthError> {
        let filling = Filling { seed: self.seed, threads: Filling::default_threads(), advance };
        self.write_with(folder, SHARD_BYTES, &filling)
    }

    fn write_with(self, folder: &Path, shard_bytes: u64, filling: &Filling<'_>) -> Result<SynthReport, SynthError> {
        let staged = StagedFolder::create(folder)?;
        let bytes = self.bytes();
        let (parameters, tensors) = (shape::count(&self.weights), self.tensors.len());
        let ids = SpecialIds::of(self.vocabulary);
        let generation = json!({
            "bos_token_id": ids.end_of_text,
            "eos_token_id": [ids.end_of_turn, ids.end_of_text],
            "pad_token_id": ids.end_of_text,
        });
        for (name, value) in [
            ("config.json", &Value::Object(self.config)),
            ("generation_config.json", &generation),
            ("tokenizer_config.json", &vocabulary::tokenizer_config(self.context)),
        ] {
            staged.write(name, &pretty(name, value)?)?;
        }
        staged.write("tokenizer.json", &self.tokenizer)?;
        let shards = shards::write(self.tensors, shard_bytes, &staged, filling)?;
        staged.commit()?;
        Ok(SynthReport { parameters, tensors, shards, bytes })
    }
}

/// Sets what depends on the options and on the tokenizer.
fn complete(config: &mut Map<String, Value>, layers: u64, format: WeightFormat, ids: SpecialIds) {
    config.insert("num_hidden_layers".into(), layers.into());
    if let Some(Value::Array(pattern)) = config.get_mut("layer_types") {
        *pattern = pattern.iter().cycle().take(layers as usize).cloned().collect();
    }
    config.insert("bos_token_id".into(), ids.end_of_text.into());
    config.insert("eos_token_id".into(), ids.end_of_turn.into());
    config.insert("pad_token_id".into(), ids.end_of_text.into());
    config.insert("torch_dtype".into(), format.torch_dtype().into());
    config.sort_keys();
}

/// JSON as Hugging Face writes it.
fn pretty(file: &str, value: &Value) -> Result<Vec<u8>, SynthError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| SynthError::json(file, e))?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests;
