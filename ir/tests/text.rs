//! `parse(print(x)) == x` for graphs and programs, and errors with a place for anything else.

use ir::graph::{Graph, Node, NodeKind, ValueId};
use ir::op::{Attr, AttrKind, OPS};
use ir::program::{Access, Arg, Binding, Buffer, BufferId, Launch, Program};
use ir::text::{parse_graph, parse_program, print_graph, print_program, read_graph, read_planned_program};
use ir::types::{DType, Dim, Symbol, SymbolId, TensorType};
use ir::verify::verify_graph;
use proptest::prelude::*;

const SYMBOLS: [&str; 3] = ["T", "S", "kv_pages"];

fn symbols() -> impl Strategy<Value = Vec<Symbol>> {
    prop::collection::vec((0..9u64, 9..9_000_000u64), 3).prop_map(|ranges| {
        let named = SYMBOLS.iter().zip(ranges);
        named.map(|(name, (min, max))| Symbol { name: name.to_string(), min, max }).collect()
    })
}

fn dim() -> impl Strategy<Value = Dim> {
    prop_oneof![any::<u64>().prop_map(Dim::Const), (0..3u32).prop_map(|i| Dim::Sym(SymbolId(i)))]
}

fn tensor_type() -> impl Strategy<Value = TensorType> {
    let dtype = prop::sample::select(DType::ALL);
    (dtype, prop::collection::vec(dim(), 0..5)).prop_map(|(dtype, shape)| TensorType { dtype, shape })
}

/// Any characters, among them quotes, escapes, control characters and other scripts.
fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z.0-9_]{0,12}", "\\PC{0,6}", "[\"\\\\\n\t\u{0}{}%]{0,6}"]
}

fn attribute(kind: AttrKind) -> BoxedStrategy<Attr> {
    match kind {
        AttrKind::Int(..) => any::<i64>().prop_map(Attr::Int).boxed(),
        AttrKind::Float => any::<f64>().prop_filter("finite", |v| v.is_finite()).prop_map(Attr::Float).boxed(),
        AttrKind::Bool => any::<bool>().prop_map(Attr::Bool).boxed(),
        AttrKind::OneOf(_) => name().prop_map(Attr::Str).boxed(),
    }
}

fn finite() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("finite", |v| v.is_finite())
}

fn operand() -> impl Strategy<Value = ValueId> {
    prop_oneof![3 => any::<u32>().prop_map(ValueId), 1 => Just(ValueId::ABSENT)]
}

fn node_kind() -> impl Strategy<Value = NodeKind> {
    let op = prop::sample::select((0..OPS.len()).collect::<Vec<_>>()).prop_flat_map(|i| {
        let attributes: Vec<_> = OPS[i].attributes.iter().map(|a| attribute(a.kind)).collect();
        (prop::collection::vec(operand(), 0..5), attributes).prop_map(move |(operands, attributes)| NodeKind::Op {
            op: OPS[i].op,
            operands,
            attributes,
        })
    });
    prop_oneof![
        Just(NodeKind::Input),
        Just(NodeKind::Weight),
        Just(NodeKind::State),
        prop::collection::vec(finite(), 0..4).prop_map(NodeKind::Constant),
        op,
    ]
}

fn graph() -> impl Strategy<Value = Graph> {
    let more = prop::collection::vec(tensor_type(), 0..3);
    let node =
        (node_kind(), tensor_type(), more, name()).prop_map(|(kind, ty, more, name)| Node { kind, ty, more, name });
    let outputs = prop::collection::vec((name(), any::<u32>().prop_map(ValueId)), 0..3);
    (name(), symbols(), prop::collection::vec(node, 0..8), outputs).prop_map(|(name, symbols, nodes, outputs)| Graph {
        name,
        symbols,
        nodes,
        outputs,
    })
}

fn bindings(kind: &'static str) -> impl Strategy<Value = Vec<Binding>> {
    prop::collection::vec((name(), tensor_type()), 1..4).prop_map(move |items| {
        let unique = items.into_iter().enumerate();
        unique.map(|(i, (name, ty))| Binding { name: format!("{kind}{i}{name}"), ty }).collect()
    })
}

fn arg() -> impl Strategy<Value = Arg> {
    let access = || prop::sample::select(vec![Access::Read, Access::Write, Access::Update]);
    prop_oneof![
        (any::<u32>(), access()).prop_map(|(i, a)| Arg::Buffer(BufferId(i), a)),
        Just(Arg::Input(0)),
        Just(Arg::Weight(0)),
        access().prop_map(|a| Arg::State(0, a)),
        Just(Arg::Null),
        prop::collection::vec(dim(), 1..4).prop_map(Arg::Size),
        finite().prop_map(Arg::Float),
    ]
}

fn launch() -> impl Strategy<Value = Launch> {
    let args = prop::collection::vec(("[a-z_]{1,8}", arg()), 0..6);
    ("[a-z][a-z_0-9]{0,8}", name(), args, name()).prop_map(|(kernel, variant, args, label)| Launch {
        kernel,
        variant,
        args,
        label,
    })
}

fn program() -> impl Strategy<Value = Program> {
    let buffer = (tensor_type(), any::<u64>()).prop_map(|(ty, offset)| Buffer { ty, offset });
    let outputs = prop::collection::vec((name(), any::<u32>().prop_map(BufferId)), 0..3);
    (
        (name(), symbols(), any::<u64>()),
        (bindings("i"), bindings("w"), bindings("s")),
        (prop::collection::vec(buffer, 0..5), outputs, prop::collection::vec(launch(), 0..5)),
    )
        .prop_map(|((name, symbols, arena_bytes), (inputs, weights, states), (buffers, outputs, launches))| {
            Program { name, symbols, arena_bytes, inputs, weights, states, buffers, outputs, launches }
        })
}

proptest! {
    #[test]
    fn a_printed_graph_parses_to_itself(graph in graph()) {
        let text = print_graph(&graph);
        prop_assert_eq!(parse_graph(&text).map_err(|e| format!("{e}\n{text}")), Ok(graph));
    }

    #[test]
    fn a_printed_program_parses_to_itself(program in program()) {
        let text = print_program(&program);
        prop_assert_eq!(parse_program(&text).map_err(|e| format!("{e}\n{text}")), Ok(program));
    }

    #[test]
    fn a_damaged_graph_is_an_error_or_another_graph(graph in graph(), at in any::<prop::sample::Index>(), c in any::<char>()) {
        let mut text: Vec<char> = print_graph(&graph).chars().collect();
        let at = at.index(text.len());
        text[at] = c;
        let _ = parse_graph(&text.into_iter().collect::<String>());
    }

    #[test]
    fn any_text_is_read_without_panic(text in "\\PC{0,80}") {
        let _ = (parse_graph(&text), parse_program(&text), read_graph(&text), read_planned_program(&text));
    }

    #[test]
    fn reading_accepts_what_parsing_and_verifying_accept(
        graph in graph(), line in any::<prop::sample::Index>(), with in "(%[0-3] = add\\(%[0-9], %1\\) : f32\\[4\\]|output \"y\" %[0-9]|\\PC{0,20})",
    ) {
        let text = print_graph(&graph);
        let mut lines: Vec<&str> = text.lines().collect();
        let at = line.index(lines.len());
        for text in [text.clone(), { lines[at] = &with; lines.join("\n") }] {
            let expected = parse_graph(&text).ok().filter(|g| verify_graph(g).is_ok());
            prop_assert_eq!(read_graph(&text).ok(), expected, "{}", text);
        }
    }
}

#[test]
fn errors_name_line_and_column() {
    let error = |text: &str| parse_graph(text).map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        error("graph \"g\" {\n  %0 = input \"ids\" : i31[4]\n}"),
        "line 2, column 22: unknown element type i31; known: f32, f16, bf16, i32, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k, q4g64, q4g128, q4z32, \
         q4z64, q4z128, q8c, f8_e4m3, mxfp4, t2, q8x32, int8"
    );
    assert_eq!(
        error("graph \"g\" {\n  %1 = input \"a\" : f32[]\n}"),
        "line 2, column 3: values are numbered in order: expected %0"
    );
    assert_eq!(error("graph \"g\" {\n  sym T in 1..=\n}"), "line 3, column 1: expected an unsigned integer, found `}`");
    assert_eq!(error("graph \"g"), "line 1, column 7: a string without its closing quote");
    assert_eq!(error("graph \"g\" { %0 = input \"x\" : f32[T] }"), "line 1, column 34: the symbol T is not declared");
}

/// The lines a reading of a graph complains about, each with its place.
fn places(text: &str) -> Vec<(usize, String)> {
    let diagnostics = read_graph(text).map(|_| ()).unwrap_err();
    diagnostics.0.into_iter().map(|d| (d.line, d.place)).collect()
}

#[test]
fn reading_goes_on_after_a_mistake_and_verifies_the_rest() {
    let text = "graph \"g\" {\n  %0 = input \"x\" : f32[4]\n  %1 = addd(%0, %0) : f32[4] \"a\"\n  %2 = add(%1, %0) : f32[4] \"b\"\n  \
                %3 = add(%2, %0) : f32[5] \"c\"\n  output \"y\" %3\n}\n";
    assert_eq!(places(text), [(3, "node %1 (addd a)".into()), (5, "node %3 (add c)".into())]);
    assert_eq!(places("program \"p\" {\n}\n"), [(1, String::new())]);
}

#[test]
fn a_number_defined_late_is_a_cycle_and_reported_once() {
    let text = "graph \"g\" {\n  %0 = input \"x\" : f32[4]\n  %1 = add(%0, %2) : f32[4]\n  %2 = add(%1, %1) : f32[4]\n  output \"y\" %2\n}\n";
    let message = read_graph(text).map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        message,
        "line 3: node %1 (add): operand %2 is not defined before its use: the graph has a cycle or is out of order"
    );
}

#[test]
fn violations_of_a_program_have_the_line_of_their_launch() {
    let text = "program \"p\" {\n  arena 256\n  buffer %0 : f32[4] at 0\n  ; a comment\n  output \"y\" %0\n  \
                launch a \"\" {x = read %0} \"first\"\n  launch b \"\" {out = write %0} \"second\"\n}\n";
    let message = read_planned_program(text).map(|_| ()).unwrap_err().to_string();
    assert_eq!(message, "line 6: launch 0 (a first): field x: buffer %0 is read before it is written");
}
