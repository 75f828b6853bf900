//! Whether the parts of an artifact agree: manifest, programs, weights and the kernel catalog.
//!
//! Everything here returns the field and the fault; the caller knows the file.

use std::collections::{HashMap, HashSet};

use ir::op::{KV_TYPES, PAGE_TOKENS, page_bytes};
use ir::program::{Access, Arg, Binding, Launch, Program};
use ir::types::{DType, Dim, TensorType};
use kernels::catalog::{self, FieldKind};
use kernels::cpu::project::ROUTER_TYPES;

use super::error::Fault;
use super::extents::{self, Call, Extents, Pointer, Role};
use super::kernel_table::check_kernels;
use super::manifest::{Bucket, Layout, Manifest, WeightInfo};
use super::prefixes::check_prefixes;
use super::weights::check_weight;

type Checked = Result<(), (String, Fault)>;
type Weights<'a> = HashMap<&'a str, &'a WeightInfo>;

/// The step's inputs and their shapes, in symbols.
const INPUTS: &[(&str, &[&str])] = &[
    ("ids", &["T"]),
    ("positions", &["T"]),
    ("sequences", &["T"]),
    ("page_table", &["S", "P"]),
    ("logit_rows", &["R"]),
    ("rope_tables", &["T"]),
];

/// Largest sizes that index types and this build's arithmetic allow.
const MAX_COUNT: u64 = i32::MAX as u64;

fn expect<T: PartialEq + std::fmt::Display>(field: impl Into<String>, expected: T, found: T) -> Checked {
    if expected == found { Ok(()) } else { Err((field.into(), Fault::mismatch(expected, found))) }
}

fn in_range(field: impl Into<String>, value: u64) -> Checked {
    if (1..=MAX_COUNT).contains(&value) {
        return Ok(());
    }
    Err((field.into(), Fault::mismatch(format!("1 to {MAX_COUNT}"), value)))
}

/// Checks what the manifest says about itself.
pub(super) fn check_manifest(m: &Manifest) -> Checked {
    let model = &m.model;
    for (field, value) in [
        ("model.vocab_size", model.vocab_size),
        ("model.layers", model.layers),
        ("model.hidden_size", model.hidden_size),
        ("model.heads", model.heads),
        ("model.kv_heads", model.kv_heads),
        ("model.head_dim", model.head_dim),
        ("model.max_context", model.max_context),
        ("max_sequences", m.max_sequences),
    ] {
        in_range(field, value)?;
    }
    if let Some(id) = model.eos_ids.iter().find(|id| u64::from(**id) >= model.vocab_size) {
        return Err(("model.eos_ids".into(), Fault::mismatch(format!("ids below {}", model.vocab_size), id)));
    }
    if !["f32", "f16", "int8"].contains(&m.activations.as_str()) {
        let expected = "\"f32\", \"f16\" or \"int8\"";
        return Err(("activations".into(), Fault::mismatch(expected, format!("{:?}", m.activations))));
    }
    if m.target.is_empty() {
        return Err(("target".into(), Fault::Invalid("the artifact is for no target".into())));
    }
    check_kv(m)?;
    check_kernels(m)?;
    check_prefixes(m)?;
    check_buckets(m)
}

fn check_kv(m: &Manifest) -> Checked {
    let kv = &m.kv;
    expect("kv.page_tokens", PAGE_TOKENS, kv.page_tokens)?;
    let Some(dtype) = KV_TYPES.into_iter().find(|dtype| dtype.name() == kv.dtype) else {
        let known: Vec<_> = KV_TYPES.iter().map(|dtype| format!("{:?}", dtype.name())).collect();
        return Err(("kv.dtype".into(), Fault::mismatch(known.join(" or "), format!("{:?}", kv.dtype))));
    };
    if !(1..=2).contains(&kv.planes) {
        return Err(("kv.planes".into(), Fault::mismatch("1 or 2", kv.planes)));
    }
    let page = page_bytes(dtype, kv.planes, kv.heads, kv.head_dim)
        .ok_or_else(|| ("kv.page_bytes_per_layer".to_string(), Fault::Invalid("the page size overflows".into())))?;
    expect("kv.page_bytes_per_layer", page, kv.page_bytes_per_layer)?;
    let names: HashSet<&String> = kv.states.iter().collect();
    expect("kv.states (distinct names)", kv.states.len(), names.len())?;
    let token = (page / PAGE_TOKENS).saturating_mul(kv.states.len() as u64);
    expect("kv.bytes_per_token", token, kv.bytes_per_token)
}

fn check_buckets(m: &Manifest) -> Checked {
    if m.buckets.is_empty() {
        return Err(("buckets".into(), Fault::Invalid("there are none".into())));
    }
    for b in &m.buckets {
        let field = |name: &str| format!("buckets {:?} {name}", b.name);
        in_range(field("max_tokens"), b.max_tokens)?;
        in_range(field("max_logit_rows"), b.max_logit_rows)?;
        in_range(field("launches"), b.launches)?;
        if b.max_logit_rows > b.max_tokens {
            return Err((field("max_logit_rows"), Fault::mismatch("at most max_tokens", b.max_logit_rows)));
        }
    }
    for pair in m.buckets.windows(2) {
        if pair[1].max_tokens <= pair[0].max_tokens || pair[1].max_logit_rows < pair[0].max_logit_rows {
            let field = format!("buckets {:?} max_tokens", pair[1].name);
            return Err((field, Fault::Invalid("buckets must grow in tokens and not shrink in logit rows".into())));
        }
    }
    Ok(())
}

/// Checks a verified program against manifest and catalog.
pub(super) fn check_program(program: &Program, bucket: &Bucket, manifest: &Manifest) -> Checked {
    expect("program name", &bucket.name, &program.name)?;
    expect("arena", bucket.arena_bytes, program.arena_bytes)?;
    expect("launches", bucket.launches, program.launches.len() as u64)?;
    check_symbols(program, bucket, manifest)?;
    check_inputs(program)?;
    let by_name: Weights = manifest.weights.iter().map(|w| (w.name.as_str(), w)).collect();
    let weights = check_weights(program, &by_name)?;
    check_states(program, manifest)?;
    check_outputs(program, manifest)?;
    let pages = Pages { dtype: &manifest.kv.dtype, bytes: manifest.kv.page_bytes_per_layer };
    check_launches(program, &weights, manifest.model.vocab_size, pages)
}

fn check_launches(program: &Program, weights: &[&WeightInfo], vocabulary: u64, pages: Pages) -> Checked {
    program.launches.iter().enumerate().try_for_each(|(i, launch)| {
        check_launch(&Site { program, launch, vocabulary, pages, weights })
            .map_err(|(field, fault)| (format!("launch {i} {} {:?} {field}", launch.kernel, launch.label), fault))
    })
}

/// Checks a program that belongs to no artifact: that it is valid and stays inside its own memory. Inputs of f32 may have any
/// name and shape; all states have pages of one size.
pub(crate) fn check_unpackaged(program: &Program, weights: &[WeightInfo], vocabulary: u64) -> Result<(), String> {
    let text = |(field, fault): (String, Fault)| format!("{field}: {fault}");
    ir::verify::verify_program(program).map_err(|e| e.to_string())?;
    program
        .inputs
        .iter()
        .filter(|i| i.ty.dtype != DType::F32)
        .try_for_each(|i| check_input(program, i))
        .map_err(text)?;
    for weight in weights {
        check_weight(weight).map_err(|fault| text((format!("weight {:?}", weight.name), fault)))?;
    }
    let by_name: Weights = weights.iter().map(|w| (w.name.as_str(), w)).collect();
    let weights = check_weights(program, &by_name).map_err(text)?;
    let mut pages = program.states.iter().map(|s| {
        let page = TensorType::new(s.ty.dtype, s.ty.shape.get(1..).unwrap_or_default());
        (s.ty.shape.first().copied(), page.dtype.name(), page.bytes(&[]).unwrap_or(0))
    });
    let first = pages.next().unwrap_or((symbol(program, "N"), "f32", 0));
    if first.0 != symbol(program, "N") || pages.any(|other| other != first) {
        return Err("its states must be N pages, all of one size".into());
    }
    check_launches(program, &weights, vocabulary, Pages { dtype: first.1, bytes: first.2 }).map_err(text)
}

fn check_symbols(program: &Program, bucket: &Bucket, manifest: &Manifest) -> Checked {
    for symbol in &program.symbols {
        let field = format!("sym {}", symbol.name);
        let expected = match symbol.name.as_str() {
            "T" => bucket.max_tokens,
            "R" => bucket.max_logit_rows,
            "S" => manifest.max_sequences,
            "P" => manifest.model.max_context.div_ceil(PAGE_TOKENS),
            "N" => symbol.max,
            _ => return Err((field, Fault::Invalid("the symbols of a step are T, S, P, R and N".into()))),
        };
        expect(&field, expected, symbol.max)?;
        in_range(&field, symbol.max)?;
        if symbol.min > 1 {
            return Err((field, Fault::mismatch("a range from 1", symbol.min)));
        }
    }
    Ok(())
}

/// The dimension that is a symbol of that name.
fn symbol(program: &Program, name: &str) -> Option<Dim> {
    let i = program.symbols.iter().position(|s| s.name == name)?;
    Some(Dim::Sym(ir::types::SymbolId(i as u32)))
}

fn check_inputs(program: &Program) -> Checked {
    program.inputs.iter().try_for_each(|input| check_input(program, input))
}

/// Checks that an input is one of a step's metadata.
fn check_input(program: &Program, input: &Binding) -> Checked {
    let shape = INPUTS.iter().find(|(name, _)| *name == input.name).map(|(_, shape)| *shape);
    let dims: Option<Vec<Dim>> = shape.and_then(|s| s.iter().map(|name| symbol(program, name)).collect());
    if dims.is_some_and(|dims| input.ty == TensorType::new(DType::I32, dims)) {
        return Ok(());
    }
    let known: Vec<String> = INPUTS.iter().map(|(name, s)| format!("{name} i32[{}]", s.join(", "))).collect();
    let fault = Fault::Invalid(format!("the inputs of a step are {}", known.join("; ")));
    Err((format!("input {:?}", input.name), fault))
}

/// The manifest's weights of a program's, in the program's order.
fn check_weights<'a>(program: &Program, weights: &Weights<'a>) -> Result<Vec<&'a WeightInfo>, (String, Fault)> {
    let check = |weight: &Binding| {
        let field = format!("weight {:?}", weight.name);
        let Some(info) = weights.get(weight.name.as_str()) else {
            return Err((field, Fault::Invalid("the manifest has no such weight".into())));
        };
        expect(&field, info.dtype.as_str(), weight.ty.dtype.name())?;
        let shape: Vec<Dim> = info.shape.iter().map(|d| Dim::Const(*d)).collect();
        if shape != weight.ty.shape {
            return Err((field, Fault::mismatch(format!("the manifest's shape {:?}", info.shape), "another shape")));
        }
        Ok(*info)
    };
    program.weights.iter().map(check).collect()
}

fn check_states(program: &Program, manifest: &Manifest) -> Checked {
    let pages = symbol(program, "N");
    for state in &program.states {
        let field = format!("state {:?}", state.name);
        if !manifest.kv.states.contains(&state.name) {
            return Err((field, Fault::Invalid("the manifest's kv.states has no such state".into())));
        }
        expect(&field, manifest.kv.dtype.as_str(), state.ty.dtype.name())?;
        let (Some(first), rest) = (state.ty.shape.first(), state.ty.shape.get(1..).unwrap_or_default()) else {
            return Err((field, Fault::Invalid("its first dimension must be N".into())));
        };
        let page = TensorType::new(state.ty.dtype, rest.to_vec()).bytes(&[]);
        if Some(*first) != pages || page != Some(manifest.kv.page_bytes_per_layer) {
            let expected = format!("N pages of {} bytes", manifest.kv.page_bytes_per_layer);
            return Err((field, Fault::mismatch(expected, "another shape")));
        }
    }
    Ok(())
}

fn check_outputs(program: &Program, manifest: &Manifest) -> Checked {
    let vocabulary = Dim::Const(manifest.model.vocab_size);
    let expected = symbol(program, "R").map(|rows| TensorType::new(DType::F32, [rows, vocabulary]));
    let found =
        program.outputs.iter().find(|(name, _)| name == "logits").map(|(_, id)| &program.buffers[id.0 as usize].ty);
    let others = program.outputs.iter().filter(|(name, _)| name != "logits");
    if expected.is_none()
        || found != expected.as_ref()
        || !others.into_iter().all(|o| is_trace(program, o) || is_hidden(program, manifest, o))
    {
        let message = "the outputs of a step are logits f32[R, {}], hidden f32[R, hidden_size] and those of routers, \"router.…\" of [T, experts a token]";
        let fault = Fault::Invalid(message.replace("{}", &manifest.model.vocab_size.to_string()));
        return Err(("output".into(), fault));
    }
    Ok(())
}

/// Whether an output is the rows that the output projection reads.
fn is_hidden(program: &Program, manifest: &Manifest, (name, id): &(String, ir::program::BufferId)) -> bool {
    let expected =
        symbol(program, "R").map(|rows| TensorType::new(DType::F32, [rows, Dim::Const(manifest.model.hidden_size)]));
    name == "hidden" && expected.as_ref() == Some(&program.buffers[id.0 as usize].ty)
}

/// Whether an output is what a router selected or the weights it gave.
fn is_trace(program: &Program, (name, id): &(String, ir::program::BufferId)) -> bool {
    let ty = &program.buffers[id.0 as usize].ty;
    let shape = [symbol(program, "T"), ty.shape.get(1).copied()];
    name.starts_with("router.")
        && matches!(ty.dtype, DType::F32 | DType::I32)
        && ty.shape.len() == 2
        && shape[0] == Some(ty.shape[0])
        && matches!(shape[1], Some(Dim::Const(_)))
}

fn check_launch(site: &Site) -> Checked {
    let Site { program, launch, vocabulary, .. } = site;
    let unknown = |field: &str, message: String| (field.to_string(), Fault::Invalid(message));
    if catalog::SERVICES.contains(&launch.kernel.as_str()) {
        let message = format!("{} is launched by engines beside programs; a program cannot launch it", launch.kernel);
        return Err(unknown("kernel", message));
    }
    let (Some(kernel), Some(extents)) = (catalog::lookup(&launch.kernel), extents::lookup(&launch.kernel)) else {
        return Err(unknown("kernel", "this build has no such kernel".into()));
    };
    if !kernel.has_variant(&launch.variant) {
        return Err(unknown("variant", format!("the kernel has no variant {:?}", launch.variant)));
    }
    let given: Vec<&str> = launch.args.iter().map(|(name, _)| name.as_str()).collect();
    let fields: Vec<&str> = kernel.fields.iter().map(|f| f.name).collect();
    expect("fields", fields.join(", "), given.join(", "))?;
    let bounds = program.upper_bounds();
    let mut counts = Vec::new();
    for (field, (_, arg)) in kernel.fields.iter().zip(&launch.args) {
        let count = match (field.kind, arg) {
            (FieldKind::U32 | FieldKind::U64, Arg::Size(dims)) => product(dims, &bounds),
            (FieldKind::F32, Arg::Float(_)) | (FieldKind::In | FieldKind::Out, _) => continue,
            _ => return Err(unknown(field.name, format!("the field holds a value of kind {:?}", field.kind))),
        };
        match count {
            Some(n) if field.kind == FieldKind::U64 || n <= MAX_COUNT => counts.push((field.name, n)),
            _ => return Err(unknown(field.name, format!("the count exceeds {MAX_COUNT}"))),
        }
    }
    let (max_tokens, vocabulary) = (symbol_max(program, "T"), *vocabulary);
    let nulls: Vec<&str> = launch.args.iter().filter(|(_, a)| *a == Arg::Null).map(|(name, _)| name.as_str()).collect();
    let layout = Layout::Plain;
    let call = Call { variant: &launch.variant, counts: &counts, nulls: &nulls, max_tokens, vocabulary, layout };
    check_extents(site, extents, &call)
}

fn product(dims: &[Dim], bounds: &[u64]) -> Option<u64> {
    dims.iter().try_fold(1u64, |product, d| product.checked_mul(d.value(bounds)?))
}

fn symbol_max(program: &Program, name: &str) -> u64 {
    program.symbols.iter().find(|s| s.name == name).map_or(1, |s| s.max)
}

/// What one page of a state is.
#[derive(Clone, Copy)]
struct Pages<'a> {
    dtype: &'a str,
    bytes: u64,
}

/// A launch and what surrounds it.
struct Site<'a> {
    program: &'a Program,
    launch: &'a Launch,
    vocabulary: u64,
    pages: Pages<'a>,
    /// Of the program, in its order.
    weights: &'a [&'a WeightInfo],
}

impl Site<'_> {
    fn arg(&self, field: &str) -> Option<&Arg> {
        self.launch.args.iter().find(|(name, _)| name == field).map(|(_, arg)| arg)
    }
}

fn check_extents(site: &Site, extents: &Extents, call: &Call) -> Checked {
    for (rule, holds) in extents.rules {
        if holds(call) != Some(true) {
            return Err(("counts".into(), Fault::Invalid((*rule).into())));
        }
    }
    for pointer in extents.pointers {
        for layout in pointer.role.layouts() {
            check_extent(site, pointer, &Call { layout: *layout, ..*call })
                .map_err(|fault| (pointer.field.to_string(), fault))?;
        }
    }
    Ok(())
}

/// Checks that what a pointer needs is there, in one layout of packed weights.
fn check_extent(site: &Site, pointer: &Pointer, call: &Call) -> Result<(), Fault> {
    let needed = (pointer.bytes)(call)
        .ok_or_else(|| Fault::Invalid("the counts are impossible: no whole blocks, or an overflow".into()))?;
    let arg = site.arg(pointer.field).ok_or_else(|| Fault::Invalid("the field has no value".into()))?;
    match available_bytes(site, pointer, arg, call.layout)? {
        Some(available) if available < needed => {
            Err(Fault::mismatch(format!("at least {needed} bytes for these counts"), available))
        }
        _ => Ok(()),
    }
}

/// Bytes behind an argument, of a packed weight those it has in `layout`; `None` for null. Fails if the argument is not of
/// the pointer's role.
fn available_bytes(site: &Site, pointer: &Pointer, arg: &Arg, layout: Layout) -> Result<Option<u64>, Fault> {
    let program = site.program;
    let wrong = |expected: &str| Err(Fault::mismatch(expected, "another kind of argument"));
    match (pointer.role, arg) {
        (
            Role::OptionalValues
            | Role::OptionalIndexes
            | Role::OptionalMetadata(_)
            | Role::OptionalResult(_)
            | Role::OptionalPacked
            | Role::OptionalRouter
            | Role::OptionalPagesWritten,
            Arg::Null,
        ) => Ok(None),
        (Role::Values | Role::OptionalValues, Arg::Buffer(id, Access::Read | Access::Update)) => {
            Ok(program.buffers[id.0 as usize].ty.bytes(&program.upper_bounds()))
        }
        (Role::Values | Role::OptionalValues, Arg::Weight(i)) => plain_bytes(site, *i),
        // Of an artifact's program all inputs are metadata; a layer run on its own is given what the layer before made.
        (Role::Values | Role::OptionalValues, Arg::Input(i)) if program.inputs[*i as usize].ty.dtype == DType::F32 => {
            Ok(program.inputs[*i as usize].ty.bytes(&program.upper_bounds()))
        }
        (Role::Values | Role::OptionalValues, _) => wrong("a buffer that is read, or a plain weight"),
        (Role::Indexes | Role::OptionalIndexes, Arg::Buffer(id, Access::Read | Access::Update))
            if program.buffers[id.0 as usize].ty.dtype == DType::I32 =>
        {
            Ok(program.buffers[id.0 as usize].ty.bytes(&program.upper_bounds()))
        }
        (Role::Indexes | Role::OptionalIndexes, Arg::Weight(i))
            if program.weights[*i as usize].ty.dtype == DType::I32 =>
        {
            plain_bytes(site, *i)
        }
        (Role::Indexes | Role::OptionalIndexes, _) => wrong("a buffer of i32 that is read, or a plain weight of i32"),
        (Role::Packed | Role::OptionalPacked, Arg::Weight(i)) => {
            check_stored_type(site, site.program.weights[*i as usize].ty.dtype.name())?;
            packed_bytes(site, *i, layout)
        }
        (Role::OptionalRouter, Arg::Weight(i)) => {
            check_router_type(site, site.program.weights[*i as usize].ty.dtype)?;
            packed_bytes(site, *i, layout)
        }
        (Role::Packed | Role::OptionalPacked | Role::OptionalRouter, _) => wrong("a packed weight"),
        (Role::Metadata(name) | Role::OptionalMetadata(name), Arg::Input(i))
            if program.inputs[*i as usize].name == name =>
        {
            metadata_bytes(site, pointer, *i)
        }
        (Role::Metadata(name) | Role::OptionalMetadata(name), _) => wrong(&format!("input {name:?}")),
        (Role::Result(in_place) | Role::OptionalResult(in_place), Arg::Buffer(id, Access::Write | Access::Update)) => {
            let same = |(_, a): &&(String, Arg)| matches!(a, Arg::Buffer(other, _) if other == id);
            let clash = |(name, _): &(String, Arg)| name != pointer.field && !in_place.contains(&name.as_str());
            if let Some((name, _)) = site.launch.args.iter().filter(same).find(|a| clash(a)) {
                return Err(Fault::Invalid(format!("the kernel cannot write over its operand {name}")));
            }
            Ok(program.buffers[id.0 as usize].ty.bytes(&program.upper_bounds()))
        }
        (Role::Result(_) | Role::OptionalResult(_), _) => wrong("a buffer that is written"),
        (Role::PagesRead, Arg::State(_, Access::Read))
        | (Role::PagesWritten | Role::OptionalPagesWritten, Arg::State(_, Access::Update | Access::Write)) => {
            check_page_type(site)?;
            Ok(Some(site.pages.bytes))
        }
        (Role::PagesRead, _) => wrong("a state that is read"),
        (Role::PagesWritten | Role::OptionalPagesWritten, _) => wrong("a state that is updated"),
    }
}

/// The number of a router's type is that of the weight.
fn check_router_type(site: &Site, stored: DType) -> Result<(), Fault> {
    let number = ROUTER_TYPES.iter().position(|dtype| *dtype == stored);
    let expected = number.map(|n| Arg::Size(vec![Dim::Const(n as u64)]));
    if expected.is_some() && site.arg("router_type") == expected.as_ref() {
        return Ok(());
    }
    Err(Fault::Invalid(format!("router_type is not the number of {stored}")))
}

/// A variant's name starts with the type of the weight.
fn check_stored_type(site: &Site, stored: &str) -> Result<(), Fault> {
    check_type(site, site.launch.variant.split('.').next(), stored)
}

/// A variant's name ends with the type of the pages.
fn check_page_type(site: &Site) -> Result<(), Fault> {
    check_type(site, site.launch.variant.split('.').next_back(), site.pages.dtype)
}

fn check_type(site: &Site, named: Option<&str>, stored: &str) -> Result<(), Fault> {
    if named == Some(stored) {
        return Ok(());
    }
    Err(Fault::mismatch(format!("a variant for {stored}"), format!("variant {:?}", site.launch.variant)))
}

fn plain_bytes(site: &Site, i: u32) -> Result<Option<u64>, Fault> {
    match site.weights[i as usize] {
        weight if weight.layout == Layout::Plain => Ok(Some(weight.bytes)),
        weight => Err(Fault::mismatch("a weight in layout Plain", format!("layout {:?}", weight.layout))),
    }
}

/// Bytes that a packed weight has in a layout, whichever it is stored in.
fn packed_bytes(site: &Site, i: u32, layout: Layout) -> Result<Option<u64>, Fault> {
    let (weight, dtype) = (site.weights[i as usize], site.program.weights[i as usize].ty.dtype);
    if !weight.layout.is_packed() {
        return Err(Fault::mismatch("a packed weight", format!("layout {:?}", weight.layout)));
    }
    match layout.bytes(dtype, &weight.shape) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(Fault::Invalid(format!("shape {:?} cannot be packed as {dtype}", weight.shape))),
    }
}

/// The counts of a metadata field must be the input's own dimensions, so that in every step they are what was checked.
fn metadata_bytes(site: &Site, pointer: &Pointer, input: u32) -> Result<Option<u64>, Fault> {
    let ty = &site.program.inputs[input as usize].ty;
    let (field, dim) = match pointer.field {
        "page_table" => ("page_table_stride", ty.shape.get(1)),
        "rows" => ("count", ty.shape.first()),
        _ => ("tokens", ty.shape.first()),
    };
    match (site.arg(field), dim) {
        (Some(Arg::Size(dims)), Some(dim)) if dims.as_slice() == [*dim] => Ok(ty.bytes(&site.program.upper_bounds())),
        _ => Err(Fault::Invalid(format!("{field} must be the input's own dimension"))),
    }
}
