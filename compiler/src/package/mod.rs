//! Packaging: programs, packed weights, tokenizer and templates become an artifact folder, described by its manifest.
//!
//! Nothing in it depends on time, path, machine or thread count: the same inputs give the same bytes.

mod prompts;
mod staging;
mod weights;

use std::path::Path;

use ir::graph::{Graph, Node, NodeKind, ValueId};
use ir::op::Op;
use ir::program::Program;
use ir::text::print_program;
use ir::types::Dim;
use models::chat_template::ChatTemplate;
use models::generation::GenerationConfig;
use models::hyperparameters::KvGeometry;
use models::{Checkpoint, Metadata, Model, ModelError};
use runtime::artifact::{Bucket, GenerationDefaults, KvInfo, MANIFEST_FILE, Manifest, ModelCard, SCHEMA};
use runtime::engine::bake::BakeError;

use crate::emit::Kernels;
use crate::pipeline::CompileOptions;
use crate::progress::Progress;
use crate::quantise::WeightRows;
use crate::target::Arch;
pub use staging::{Staging, WriteError};
pub(crate) use weights::weight_table;
pub use weights::{WeightsError, packed_layout, total_bytes as weight_bytes};

/// Why an artifact could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file or folder could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Weights could not be packed.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Tokenizer, template or generation settings could not be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A prompt could not be baked.
    #[error(transparent)]
    Bake(Box<BakeError>),
    /// A description could not be written as JSON.
    #[error("{file}: {source}")]
    Json {
        /// The file.
        file: &'static str,
        /// What JSON cannot express.
        source: serde_json::Error,
    },
}

impl From<BakeError> for PackageError {
    fn from(error: BakeError) -> PackageError {
        // Boxed, for it is several times as large as the others.
        PackageError::Bake(Box::new(error))
    }
}

/// Starts an artifact at `output`, before anything is read, so that a path that cannot be written fails at once.
pub fn stage(output: &Path) -> Result<Staging, PackageError> {
    Ok(Staging::create(output)?)
}

/// Writes what describes the model; gives its card.
pub fn describe(
    staging: &mut Staging,
    model: &Model,
    checkpoint: &Checkpoint,
    options: &CompileOptions,
) -> Result<ModelCard, PackageError> {
    write_text_files(staging, checkpoint)?;
    model_card(model, checkpoint, options)
}

/// What is packed: the graph says which weights in which formats, `rows` gives their bytes.
pub struct Content<'a> {
    /// The model's description.
    pub card: ModelCard,
    /// The geometry of its cache.
    pub kv: KvGeometry,
    /// Pages of its cache, where a memory to fill was named.
    pub kv_pages: Option<u64>,
    /// The graph of one step, its weights in the formats they are stored in.
    pub graph: &'a Graph,
    /// Its programs.
    pub programs: &'a [Program],
    /// The machine code of their launches.
    pub kernels: &'a Kernels,
    /// The bytes of its weights.
    pub rows: &'a mut dyn WeightRows,
}

/// Fills and commits an artifact; gives its manifest.
pub fn package(
    mut staging: Staging,
    content: Content,
    options: &CompileOptions,
    progress: &dyn Progress,
) -> Result<Manifest, PackageError> {
    let Content { card, kv, kv_pages, graph, programs, kernels, rows } = content;
    let buckets = programs.iter().map(|p| write_program(&mut staging, p)).collect::<Result<Vec<_>, _>>()?;
    kernels.files().try_for_each(|(name, content)| staging.write(&name, content))?;
    let packed = packed_layout(options.target);
    progress.begin("packing weights", weights::total_bytes(graph, packed)?);
    let weights = weights::write_weights(graph, packed, rows, &mut staging, &|bytes| progress.advance(bytes))?;
    progress.finish();
    let mut manifest = Manifest {
        schema: SCHEMA,
        producer: concat!("moesaic ", env!("CARGO_PKG_VERSION")).into(),
        kv: KvInfo { pages: kv_pages, ..kv_info(kv, card.layers, options) },
        model: card,
        target: options.target.to_string(),
        architectures: options.architectures.iter().map(Arch::to_string).collect(),
        activations: options.activations.to_string(),
        max_sequences: symbol_max(programs, "S"),
        buckets,
        weights,
        kernel_compiler: kernels.compiler.clone(),
        kernels: kernels.table(),
        prefixes: Vec::new(),
        files: staging.files().clone(),
    };
    if !options.bake_prompts.is_empty() {
        prompts::bake_prompts(&mut staging, &mut manifest, options, progress)?;
    }
    staging.write(MANIFEST_FILE, &json(MANIFEST_FILE, &manifest)?)?;
    staging.commit()?;
    Ok(manifest)
}

fn json<T: serde::Serialize>(file: &'static str, value: &T) -> Result<Vec<u8>, PackageError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| PackageError::Json { file, source })?;
    text.push(b'\n');
    Ok(text)
}

/// Tokenizer, chat template and generation defaults, each if the checkpoint has it.
fn write_text_files(staging: &mut Staging, checkpoint: &Checkpoint) -> Result<(), PackageError> {
    if let Some(tokenizer) = models::tokenizer::tokenizer_json(checkpoint)? {
        staging.write("tokenizer.json", &tokenizer)?;
    }
    let chat = ChatTemplate::read(checkpoint)?;
    if let Some(template) = &chat.template {
        staging.write("chat_template.jinja", template.as_bytes())?;
    }
    let defaults = GenerationConfig::read(checkpoint)?;
    let generation = GenerationDefaults {
        eos_ids: defaults.eos_token_ids,
        bos_token: chat.bos_token,
        eos_token: chat.eos_token,
        temperature: defaults.temperature,
        top_k: defaults.top_k,
        top_p: defaults.top_p,
        min_p: defaults.min_p,
        repetition_penalty: defaults.repetition_penalty,
    };
    staging.write("generation.json", &json("generation.json", &generation)?)?;
    Ok(())
}

fn write_program(staging: &mut Staging, program: &Program) -> Result<Bucket, PackageError> {
    let path = format!("programs/{}.ir", program.name);
    staging.write(&path, print_program(program).as_bytes())?;
    let one = std::slice::from_ref(program);
    Ok(Bucket {
        name: program.name.clone(),
        max_tokens: symbol_max(one, "T"),
        max_logit_rows: symbol_max(one, "R"),
        program: path,
        arena_bytes: program.arena_bytes,
        arena_lower_bound_bytes: program.arena_lower_bound(),
        launches: program.launches.len() as u64,
    })
}

fn symbol_max(programs: &[Program], name: &str) -> u64 {
    programs.iter().flat_map(|p| &p.symbols).filter(|s| s.name == name).map(|s| s.max).max().unwrap_or(1)
}

fn kv_info(kv: KvGeometry, layers: u64, options: &CompileOptions) -> KvInfo {
    let cache = options.kv_type();
    KvInfo {
        dtype: cache.name().into(),
        page_tokens: ir::op::PAGE_TOKENS,
        heads: kv.heads,
        head_dim: kv.head_dim,
        planes: kv.planes,
        page_bytes_per_layer: cache.page_bytes(kv),
        bytes_per_token: cache.bytes_per_token(kv, layers),
        states: (0..layers).map(|l| format!("kv.{l}")).collect(),
        pages: None,
    }
}

/// What the model is, from metadata alone.
///
/// # Errors
/// Metadata that cannot be understood.
pub fn model_card(model: &Model, checkpoint: &Checkpoint, options: &CompileOptions) -> Result<ModelCard, PackageError> {
    let h = &model.hyper;
    let (source_format, name) = match checkpoint.metadata() {
        Metadata::HuggingFace(_) => ("huggingface", None),
        Metadata::Gguf(metadata) => ("gguf", metadata.opt_str("general.name")?.map(str::to_string)),
    };
    let path = checkpoint.path();
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let fallback = || stem.map_or_else(|| model.family.to_string(), |s| s.to_string_lossy().into_owned());
    Ok(ModelCard {
        name: name.unwrap_or_else(fallback),
        family: model.family.into(),
        vocab_size: h.vocabulary,
        layers: h.layers as u64,
        hidden_size: h.hidden,
        heads: h.heads,
        kv_heads: h.kv_heads,
        head_dim: h.head_dim,
        max_context: options.max_model_len.unwrap_or(h.max_context),
        rope_switch: h.rope_switch,
        parameters: parameters(&model.graph),
        active_parameters: active_parameters(&model.graph),
        experts: experts(&model.graph).0,
        experts_per_token: experts(&model.graph).1,
        eos_ids: GenerationConfig::read(checkpoint)?.eos_token_ids,
        source_format: source_format.into(),
    })
}

/// Elements of a tensor of fixed shape.
fn elements(node: &Node) -> u64 {
    node.ty.shape.iter().map(|d| d.value(&[]).unwrap_or(0)).fold(1, u64::saturating_mul)
}

/// Elements of all weights; a tied table counts once.
fn parameters(graph: &Graph) -> u64 {
    let weights = graph.nodes.iter().filter(|n| n.kind == NodeKind::Weight && n.ty.dtype.is_real());
    weights.map(elements).fold(0, u64::saturating_add)
}

/// Elements a token is multiplied with: of stacked experts those selected, of an embedding table that is not also the head
/// the one row.
fn active_parameters(graph: &Graph) -> u64 {
    let share = |(value, node): (ValueId, &Node)| {
        let users = graph.nodes.iter().filter(|n| n.operands().contains(&value));
        let used = users.map(|user| match (user.op(), user.ty.shape.get(1), node.ty.shape.first()) {
            (Some(Op::GroupedMatmul), Some(Dim::Const(slots)), Some(Dim::Const(all))) if *all > 0 => {
                elements(node) / all * slots
            }
            (Some(Op::Embedding), Some(Dim::Const(width)), _) => *width,
            _ => elements(node),
        });
        used.max().unwrap_or(0)
    };
    let weights = graph.values().filter(|(_, n)| n.kind == NodeKind::Weight && n.ty.dtype.is_real());
    weights.map(share).fold(0, u64::saturating_add)
}

/// Experts of a mixture layer, and how many of them a token selects; zeros where there is none.
fn experts(graph: &Graph) -> (u64, u64) {
    let router = graph.nodes.iter().find(|n| n.op() == Some(Op::Router));
    let width = |node: &Node| node.ty.shape.get(1).and_then(|d| d.value(&[])).unwrap_or(0);
    router.map_or((0, 0), |r| (width(graph.node(r.operands()[0])), width(r)))
}
