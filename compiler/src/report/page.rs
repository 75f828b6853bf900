//! The page: model card, a layer before and after fusion, launches and memory plan of each bucket, weights by format.

use std::collections::BTreeMap;

use ir::graph::{Graph, NodeKind};
use ir::program::Program;
use ir::types::Dim;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::costs::{by_kernel, costs, launches_per_layer};
use super::graph_svg::graph_svg;
use super::layer::{layer_graph, middle_layer};
use super::plots::memory_plot;
use super::{Subject, layer::LayerGraph};
use crate::cost::LaunchCost;

/// Colours and spacing; light or dark as the reader's system is.
const STYLE: &str = include_str!("style.css");

/// The page's text.
pub fn page(subject: &Subject) -> String {
    let name = &subject.card.name;
    let title = format!("{name} compiled for {}", subject.options.target);
    let lead = html! {
        "Compiled for " b { (subject.options.target) } " with " b { (subject.options.activations) } " activations."
    };
    let content = html! {
        (card(subject))
        (buckets(subject))
        (layers(subject))
        @for program in subject.programs { (memory(program)) }
        @for program in subject.programs { (launches(subject, program)) }
        (formats(subject.graph))
    };
    frame(&title, name, &lead, &content)
}

/// A whole page around its content.
pub(super) fn frame(title: &str, heading: &str, lead: &Markup, content: &Markup) -> String {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { h1 { (heading) } p { (lead) } }
                main { (content) }
            }
        }
    };
    markup.into_string()
}

fn card(subject: &Subject) -> Markup {
    let m = subject.card;
    let mut facts = vec![
        ("family", m.family.clone()),
        ("source", m.source_format.clone()),
        ("parameters", count_text(m.parameters)),
        ("active a token", count_text(m.active_parameters)),
        ("layers", m.layers.to_string()),
        ("hidden size", m.hidden_size.to_string()),
        ("heads", format!("{} query, {} key/value, {} wide", m.heads, m.kv_heads, m.head_dim)),
        ("vocabulary", m.vocab_size.to_string()),
        ("longest sequence", format!("{} tokens", m.max_context)),
        ("KV cache", subject.options.kv_type().to_string()),
    ];
    if m.experts > 0 {
        facts.insert(5, ("experts", format!("{}, {} a token", m.experts, m.experts_per_token)));
    }
    html! {
        section id="model" {
            h2 { "Model" }
            dl { @for (term, fact) in &facts { div { dt { (term) } dd { (fact) } } } }
        }
    }
}

/// One line a bucket.
fn buckets(subject: &Subject) -> Markup {
    html! {
        section id="buckets" {
            h2 { "Programs" }
            p { "One program for each range of step sizes. Times are the target's roofline: bytes over bandwidth, operations over rate, and
                 the cost of each dependent launch; attention sees a context of " (crate::cost::CONTEXT_TOKENS) " tokens." }
            div class="scroll" { table {
                thead { tr { th { "bucket" } th class="n" { "launches" } th class="n" { "a layer" } th class="n" { "arena" }
                    th class="n" { "lower bound" } th class="n" { "ratio" } th class="n" { "bytes moved" } th class="n" { "roofline" } } }
                tbody { @for program in subject.programs { (bucket_row(subject, program)) } }
            } }
        }
    }
}

fn bucket_row(subject: &Subject, program: &Program) -> Markup {
    let total: LaunchCost = costs(subject, program).into_iter().sum();
    let bound = program.arena_lower_bound();
    html! {
        tr {
            td { a href={ "#launches-" (program.name) } { (program.name) } }
            td class="n" { (program.launches.len()) }
            td class="n" { (launches_per_layer(program)) }
            td class="n" { (bytes_text(program.arena_bytes)) }
            td class="n" { (bytes_text(bound)) }
            td class="n" { (format!("{:.3}", program.arena_bytes as f64 / bound.max(1) as f64)) }
            td class="n" { (bytes_text(total.bytes)) }
            td class="n" { (time_text(total.seconds)) }
        }
    }
}

/// The layer in the middle, before fusion and after it for decoding and for the largest step.
fn layers(subject: &Subject) -> Markup {
    let Some(layer) = middle_layer(subject.graph) else {
        return html! { section id="layer" { h2 { "Graph" } p { "No node of this graph is labelled as part of a layer." } } };
    };
    let ends = match subject.fused {
        [] => vec![],
        [one] => vec![one],
        [first, .., last] => vec![first, last],
    };
    html! {
        section id="layer" {
            h2 { "Layer " (layer) }
            p class="legend" {
                @for (class, name) in [("product", "product with weights"), ("attention", "attention and cache"), ("routing", "routing"),
                    ("rows", "rows and elements"), ("inline", "carried out by its readers"), ("outside", "from elsewhere")] {
                    span { i class={ "swatch " (class) } {} (name) }
                }
            }
            div class="drawings" {
                (drawing("Before fusion", &layer_graph(subject.graph, layer)))
                @for graph in ends { (drawing(&format!("Compiled, {}", graph.name), &layer_graph(graph, layer))) }
            }
        }
    }
}

fn drawing(name: &str, graph: &LayerGraph) -> Markup {
    html! {
        details open {
            summary { (name) ": " (graph.launches()) @if graph.launches() == 1 { " launch" } @else { " launches" } }
            div class="scroll" { (graph_svg(graph, name)) }
        }
    }
}

fn memory(program: &Program) -> Markup {
    html! {
        section id={ "memory-" (program.name) } {
            h2 { "Memory plan, " (program.name) }
            p { "Arena " (bytes_text(program.arena_bytes)) ", lower bound " (bytes_text(program.arena_lower_bound()))
                ". One rectangle a buffer: across the launches it lives for, up by its place in the arena." }
            div class="scroll" { (memory_plot(program)) }
        }
    }
}

fn launches(subject: &Subject, program: &Program) -> Markup {
    let costs = costs(subject, program);
    let total: LaunchCost = costs.iter().copied().sum();
    html! {
        section id={ "launches-" (program.name) } {
            h2 { "Launches, " (program.name) }
            div class="scroll" { table {
                thead { tr { th { "kernel" } th class="n" { "launches" } (cost_heads()) } }
                tbody { @for (kernel, count, cost) in by_kernel(program, &costs) {
                    tr { td { (kernel) } td class="n" { (count) } (cost_cells(cost, total)) }
                } }
            } }
            details {
                summary { "All " (program.launches.len()) " launches" }
                div class="scroll tall" { table {
                    thead { tr { th class="n" { "#" } th { "kernel" } th { "variant" } th { "label" } (cost_heads()) } }
                    tbody { @for (i, (launch, cost)) in program.launches.iter().zip(&costs).enumerate() {
                        tr { td class="n" { (i) } td { (launch.kernel) } td { (launch.variant) } td { (launch.label) } (cost_cells(*cost, total)) }
                    } }
                } }
            }
        }
    }
}

fn cost_heads() -> Markup {
    html! { th class="n" { "bytes" } th class="n" { "operations" } th class="n" { "roofline" } th class="n" { "share" } th {} }
}

fn cost_cells(cost: LaunchCost, total: LaunchCost) -> Markup {
    let share = 100.0 * cost.seconds / total.seconds.max(f64::MIN_POSITIVE);
    html! {
        td class="n" { (bytes_text(cost.bytes)) }
        td class="n" { (count_text(cost.operations)) }
        td class="n" { (time_text(cost.seconds)) }
        td class="n" { (format!("{share:.1} %")) }
        (bar(share))
    }
}

fn bar(percent: f64) -> Markup {
    html! { td class="bar" { i style={ "width:" (format!("{percent:.1}")) "%" } {} } }
}

/// Weights, elements and bytes of each storage format.
fn formats(graph: &Graph) -> Markup {
    let mut formats: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
    for node in graph.nodes.iter().filter(|n| n.kind == NodeKind::Weight) {
        let elements =
            node.ty.shape.iter().map(|d| if let Dim::Const(n) = d { *n } else { 0 }).fold(1, u64::saturating_mul);
        let entry = formats.entry(node.ty.dtype.name()).or_default();
        *entry =
            (entry.0 + 1, entry.1.saturating_add(elements), entry.2.saturating_add(node.ty.bytes(&[]).unwrap_or(0)));
    }
    let total = formats.values().fold(0u64, |sum, f| sum.saturating_add(f.2)).max(1);
    let mut rows: Vec<_> = formats.into_iter().collect();
    rows.sort_by_key(|(_, (_, _, bytes))| std::cmp::Reverse(*bytes));
    html! {
        section id="formats" {
            h2 { "Weights by format" }
            div class="scroll" { table {
                thead { tr { th { "format" } th class="n" { "tensors" } th class="n" { "elements" } th class="n" { "bytes" }
                    th class="n" { "bits each" } th class="n" { "share" } th {} } }
                tbody { @for (name, (tensors, elements, bytes)) in rows {
                    @let share = 100.0 * bytes as f64 / total as f64;
                    tr {
                        td { (name) } td class="n" { (tensors) } td class="n" { (count_text(elements)) } td class="n" { (bytes_text(bytes)) }
                        td class="n" { (format!("{:.2}", bytes as f64 * 8.0 / elements.max(1) as f64)) }
                        td class="n" { (format!("{share:.1} %")) } (bar(share))
                    }
                } }
            } }
        }
    }
}

/// Three digits and a power of a thousand.
pub(super) fn count_text(n: u64) -> String {
    scaled(n as f64, 1000.0, &["", " k", " M", " G", " T"])
}

/// Three digits and a binary unit.
pub(super) fn bytes_text(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

fn time_text(seconds: f64) -> String {
    if seconds < 1e-3 { format!("{:.2} µs", seconds * 1e6) } else { format!("{:.2} ms", seconds * 1e3) }
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut units = units.iter().peekable();
    while let Some(unit) = units.next() {
        if value < step || units.peek().is_none() {
            let digits = if value.fract() == 0.0 || value >= 100.0 { 0 } else { 1 };
            return format!("{value:.digits$}{unit}");
        }
        value /= step;
    }
    String::new()
}
