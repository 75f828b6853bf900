//! The memory plan over the launches: one rectangle a buffer, from the launch that makes it to the last that reads it, at its place
//! in the arena.

use ir::program::Program;
use maud::{Markup, html};

use super::graph_svg::px;
use super::page::bytes_text;

/// Size of the plotted area and the room for its scales, in pixels.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 76.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 14.0;

/// Colours that stand beside each other well; a buffer's is that of the kernel that makes it.
const COLOURS: usize = 12;

/// A buffer's rectangle.
struct Span {
    first: usize,
    last: usize,
    offset: u64,
    bytes: u64,
    maker: usize,
    title: String,
}

/// The plot of a program's memory plan.
pub fn memory_plot(program: &Program) -> Markup {
    let spans = spans(program);
    let (launches, arena) = (program.launches.len().max(1) as f64, program.arena_bytes.max(1) as f64);
    let x = |launch: f64| px(LEFT + launch / launches * WIDTH);
    let y = |offset: f64| px(TOP + HEIGHT - offset / arena * HEIGHT);
    let bound = program.arena_lower_bound();
    let kernels = kernels(program);
    html! {
        svg class="plot" role="img" aria-label={ "Memory plan of " (program.name) }
            viewBox={ "0 0 " (LEFT + WIDTH + 12.0) " " (TOP + HEIGHT + BOTTOM) } {
            @for step in 0..=4 {
                @let offset = arena * f64::from(step) / 4.0;
                line class="grid" x1=(LEFT) x2=(LEFT + WIDTH) y1=(y(offset)) y2=(y(offset)) {}
                text class="scale" x=(LEFT - 6.0) y=(y(offset) + 4.0) text-anchor="end" { (bytes_text(offset as u64)) }
            }
            @for launch in ticks(program.launches.len()) {
                text class="scale" x=(x(launch as f64)) y=(TOP + HEIGHT + 16.0) text-anchor="middle" { (launch) }
            }
            text class="scale" x=(LEFT + WIDTH / 2.0) y=(TOP + HEIGHT + 31.0) text-anchor="middle" { "launch" }
            @for span in &spans {
                @let (top, end) = (y((span.offset + span.bytes) as f64), y(span.offset as f64));
                @let (left, right) = (x(span.first as f64), x((span.last + 1).min(program.launches.len()) as f64));
                rect class={ "buffer c" (span.maker % COLOURS) } x=(left) y=(top)
                    width=(px((right - left).max(0.5))) height=(px((end - top).max(0.5))) { title { (span.title) } }
            }
            line class="bound" x1=(LEFT) x2=(LEFT + WIDTH) y1=(y(bound as f64)) y2=(y(bound as f64)) {
                title { "lower bound " (bytes_text(bound)) ": the largest live set" }
            }
        }
        p class="legend" {
            @for (i, kernel) in kernels.iter().enumerate() {
                span { i class={ "swatch c" (i % COLOURS) } {} (kernel) }
            }
            span { i class="swatch line" {} "lower bound" }
        }
    }
}

/// Every buffer that a launch touches.
fn spans(program: &Program) -> Vec<Span> {
    let bounds = program.upper_bounds();
    let kernels = kernels(program);
    let describe = |(index, range): (usize, Option<(usize, usize)>)| {
        let (first, last) = range?;
        let buffer = &program.buffers[index];
        let bytes = buffer.ty.bytes(&bounds)?;
        let maker = program.launches.get(first)?;
        let title = format!(
            "buffer %{index}: {} at {}, launches {first} to {last}, made by {} {}",
            bytes_text(bytes),
            bytes_text(buffer.offset),
            maker.kernel,
            maker.label
        );
        let maker = kernels.iter().position(|k| *k == maker.kernel)?;
        Some(Span { first, last, offset: buffer.offset, bytes, maker, title })
    };
    program.live_ranges().into_iter().enumerate().filter_map(describe).collect()
}

/// Kernels that are the first to write a buffer, in the order of their first such launch.
fn kernels(program: &Program) -> Vec<&str> {
    let mut makers: Vec<usize> = program.live_ranges().into_iter().flatten().map(|(first, _)| first).collect();
    makers.sort_unstable();
    let mut kernels: Vec<&str> = Vec::new();
    for launch in makers.into_iter().filter_map(|first| program.launches.get(first)) {
        if !kernels.contains(&launch.kernel.as_str()) {
            kernels.push(&launch.kernel);
        }
    }
    kernels
}

/// About ten round numbers up to `count`.
fn ticks(count: usize) -> impl Iterator<Item = usize> {
    let step = [1, 2, 5, 10, 20, 50, 100, 200, 500].into_iter().find(|step| count / step <= 12).unwrap_or(1000);
    (0..=count).step_by(step)
}
