//! The table of extents against the kernel catalog, and the bytes it computes.

use ir::quant::packed_bytes;
use kernels::catalog::{FieldKind, KERNELS, SERVICES};

use super::*;
use crate::artifact::check_unpackaged;
use crate::artifact::manifest::WeightInfo;

/// Every kernel of the catalog that programs may launch has a row with all its pointers, each in the right direction.
#[test]
fn the_table_covers_the_catalog() {
    for kernel in KERNELS.iter().filter(|k| !SERVICES.contains(&k.name)) {
        let row = lookup(kernel.name).unwrap_or_else(|| panic!("no row for {}", kernel.name));
        let pointers: Vec<_> =
            kernel.fields.iter().filter(|f| matches!(f.kind, FieldKind::In | FieldKind::Out)).collect();
        assert_eq!(pointers.len(), row.pointers.len(), "{}", kernel.name);
        for (field, pointer) in pointers.iter().zip(row.pointers) {
            assert_eq!(field.name, pointer.field, "{}", kernel.name);
            let written = matches!(
                pointer.role,
                Role::Result(_) | Role::OptionalResult(_) | Role::PagesWritten | Role::OptionalPagesWritten
            );
            assert_eq!(field.kind == FieldKind::Out, written, "{} {}", kernel.name, field.name);
        }
    }
    assert_eq!(KERNELS.len(), EXTENTS.len() + SERVICES.len());
}

/// A null `v` and a value_dim both say that pages hold keys alone.
#[test]
fn latent_pages_are_half_as_long() {
    let counts = |value_dim| {
        [
            ("tokens", 3),
            ("heads", 4),
            ("kv_heads", 1),
            ("head_dim", 24),
            ("page_table_stride", 2),
            ("value_dim", value_dim),
        ]
    };
    let bytes = |kernel: &str, field: &str, value_dim: u64, nulls: &[&str]| {
        let counts = counts(value_dim);
        let call =
            Call { variant: "f16", counts: &counts, max_tokens: 4, vocabulary: 1, nulls, layout: Layout::Rows16 };
        lookup(kernel).unwrap().pointers.iter().find(|p| p.field == field).and_then(|p| (p.bytes)(&call))
    };
    let keys = 24 * 16 * 2;
    assert_eq!(bytes("kv_append", "kv", 0, &[]), Some(2 * keys));
    assert_eq!(bytes("kv_append", "kv", 0, &["v"]), Some(keys));
    assert_eq!(bytes("attention", "kv", 0, &[]), Some(2 * keys));
    assert_eq!(bytes("attention", "kv", 16, &[]), Some(keys));
    assert_eq!(bytes("attention", "out", 0, &[]), Some(3 * 4 * 24 * 4));
    assert_eq!(bytes("attention", "out", 16, &[]), Some(3 * 4 * 16 * 4));
}

/// Keys and values come with the cache and the step's metadata; pages are of the variant's last type.
#[test]
fn heads_have_what_they_need() {
    let counts = [
        ("tokens", 3),
        ("cols", 64),
        ("heads", 4),
        ("kv_heads", 2),
        ("head_dim", 24),
        ("pairs", 12),
        ("tables", 1),
        ("norm", 0),
        ("page_table_stride", 2),
    ];
    let row = lookup("qkv").unwrap();
    let call = |nulls| Call {
        variant: "q8_0.q8x32.f16",
        counts: &counts,
        max_tokens: 4,
        vocabulary: 1,
        nulls,
        layout: Layout::Rows16,
    };
    let holds = |nulls| row.rules.iter().all(|(_, rule)| rule(&call(nulls)) == Some(true));
    assert!(holds(&[]) && holds(&["wk", "wv", "kv", "sequences", "page_table"]) && holds(&["inv_freq"]));
    for nulls in [&["wk"][..], &["kv"], &["page_table"], &["wk", "wv", "kv", "positions"]] {
        assert!(!holds(nulls), "{nulls:?}");
    }
    let bytes = |field: &str| row.pointers.iter().find(|p| p.field == field).and_then(|p| (p.bytes)(&call(&[])));
    assert_eq!(bytes("kv"), Some(2 * 2 * 24 * 16 * 2));
    assert_eq!(bytes("wq"), packed_bytes(DType::Q8_0, 96, 64));
    assert_eq!(bytes("wv"), packed_bytes(DType::Q8_0, 48, 64));
    assert_eq!(bytes("out"), Some(3 * 96 * 4));
}

/// Indexes are of i32, whatever their values; a table of frequencies is named by the input that is checked for it.
#[test]
fn indexes_have_their_type_and_size() {
    let good = r#"program "p" {
      sym T in 1..=4
      arena 512
      input "x" : f32[T, 16]
      input "positions" : i32[T]
      input "rope_tables" : i32[T]
      weight "order" : i32[16]
      weight "inv_freq" : f32[2, 8]
      buffer %0 : f32[T, 16] at 0
      buffer %1 : f32[T, 16] at 256
      output "y" %1
      launch permute_columns "" {x = input "x", index = weight "order", experts = null, out = write %0, tokens = T,
        slots = 1, matrices = 1, cols = 16, slots_share_x = 0, reserved = 0} "permute"
      launch rope "" {x = read %0, positions = input "positions", inv_freq = weight "inv_freq",
        table = input "rope_tables", out = write %1, tokens = T, heads = 1, head_dim = 16, pairs = 8, tables = 2,
        interleaved = 0, scale = float 1.0, reserved = 0} "rope"
    }"#;
    let weight = |name: &str, dtype: &str, shape: &[u64]| WeightInfo {
        name: name.into(),
        dtype: dtype.into(),
        layout: Layout::Plain,
        shape: shape.into(),
        file: String::new(),
        bytes: 64,
    };
    let weights = [weight("order", "i32", &[16]), weight("inv_freq", "f32", &[2, 8])];
    let check = |text: &str| check_unpackaged(&ir::text::parse_program(text).unwrap(), &weights, 1);
    assert_eq!(check(good), Ok(()));
    assert_eq!(check(&good.replace("table = input \"rope_tables\"", "table = null")), Ok(()));
    for (from, to, expected) in [
        ("index = weight \"order\"", "index = weight \"inv_freq\"", "index"),
        ("experts = null", "experts = input \"rope_tables\"", "experts"),
        ("index = weight \"order\"", "index = null", "index"),
        ("matrices = 1", "matrices = 2", "index"),
        ("slots = 1", "slots = 2", "x:"),
        ("table = input \"rope_tables\"", "table = input \"positions\"", "table"),
        ("tables = 2", "tables = 3", "inv_freq"),
        ("tables = 2", "tables = 0", "tables must be"),
    ] {
        assert!(good.contains(from), "{from}");
        let error = check(&good.replace(from, to)).unwrap_err();
        assert!(error.contains(expected), "{from} -> {to}: {error}");
    }
}

/// A norm needs weights and rows of f32, an emission its router, a routed launch logits and results.
#[test]
fn fused_products_have_what_they_need() {
    let holds = |kernel: &str, variant: &str, counts: &[(&str, u64)], nulls: &[&str]| {
        let call = Call { variant, counts, max_tokens: 4, vocabulary: 1, nulls, layout: Layout::Rows16 };
        lookup(kernel).unwrap().rules.iter().all(|(_, rule)| rule(&call) == Some(true))
    };
    let project = |variant: &str, norm: u64, nulls: &[&str]| holds("project", variant, &[("norm", norm)], nulls);
    let router = ["router", "router_norm", "partials_out"];
    assert!(project("q4_0.q8x32", 0, &router) && project("q4_0.f32.row", 3, &router) && project("f16.f32", 1, &[]));
    assert!(
        !project("q4_0.q8x32", 1, &router) && !project("f16.f32", 4, &router) && !project("f16.f32", 0, &router[1..])
    );
    assert!(!project("f16.f32", 2, &["norm_weight"]) && project("f16.f32", 0, &["norm_weight"]));
    let gate_up = |routing: u64, scoring: u64, nulls: &[&str]| {
        let counts = [("norm", 0), ("activation", 4), ("scoring", scoring), ("routing", routing)];
        holds("gate_up", "q4_0.f32", &counts, nulls)
    };
    assert!(gate_up(0, 0, &["experts", "logits", "route_partials"]) && gate_up(1, 0, &["logits"]));
    assert!(gate_up(2, 2, &["logits"]) && gate_up(2, 0, &["route_partials", "route_squares"]));
    assert!(!gate_up(1, 0, &["experts"]) && !gate_up(2, 0, &["logits", "route_squares"]));
    assert!(!gate_up(2, 0, &["experts_out"]) && !gate_up(3, 0, &[]) && !gate_up(0, 3, &[]));
    assert!(holds("route", "softmax", &[], &["partials"]) && !holds("route", "softmax", &[], &["logits", "squares"]));
    let counts = [("router_type", 1), ("router_rows", 20), ("rows", 64)];
    let bytes = |counts: &[(&str, u64)], nulls: &[&str]| {
        let call = Call { variant: "q4_0.f32", counts, max_tokens: 4, vocabulary: 1, nulls, layout: Layout::Rows16 };
        call.router_bytes()
    };
    assert_eq!(bytes(&counts, &[]), packed_bytes(DType::F16, 20, 64));
    assert_eq!(bytes(&[("router_type", 3), counts[1], counts[2]], &[]), None);
    assert_eq!(bytes(&[], &["router"]), Some(0));
}

#[test]
fn counts_become_bytes_without_overflow() {
    let counts = [("tokens", 2), ("rows", 20), ("cols", 64)];
    let call = Call {
        variant: "q8_0.q8x32",
        counts: &counts,
        max_tokens: 4,
        vocabulary: 1,
        nulls: &[],
        layout: Layout::Rows16,
    };
    let bytes: Vec<_> = lookup("matmul").unwrap().pointers.iter().map(|p| (p.bytes)(&call)).collect();
    let packed = packed_bytes(DType::Q8_0, 20, 64);
    assert_eq!(bytes, [Some(2 * 2 * 44), packed, Some(80), Some(160)]);
    let huge = [("tokens", u64::MAX), ("rows", 20), ("cols", u64::MAX - 31)];
    let call = Call { counts: &huge, ..call };
    assert!(lookup("matmul").unwrap().pointers.iter().all(|p| p.field == "bias" || (p.bytes)(&call).is_none()));
}
