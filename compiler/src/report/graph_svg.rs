//! A layer's graph as SVG.

use maud::{Markup, html};

use super::layer::{Kind, LayerBox, LayerGraph};
use super::layout::{Point, layout};

/// Pixels of a line of text, of a character, and around a text.
const LINE: f64 = 14.0;
const CHARACTER: f64 = 6.7;
const PADDING: f64 = 8.0;

/// Most characters of a line; the whole text is shown on hovering.
const LONGEST: usize = 34;

/// The drawing, as large as it needs to be.
pub fn graph_svg(graph: &LayerGraph, name: &str) -> Markup {
    let sizes: Vec<Point> = graph.boxes.iter().map(size).collect();
    let ends: Vec<(usize, usize)> = graph.edges.iter().map(|(from, to, _)| (*from, *to)).collect();
    let layout = layout(&sizes, &ends);
    let (width, height) = (layout.size.0.ceil() + 4.0, layout.size.1.ceil() + 4.0);
    html! {
        svg class="graph" role="img" aria-label=(name) viewBox={ "-2 -2 " (width) " " (height) } width=(width) height=(height) {
            @for (route, (_, _, ty)) in layout.routes.iter().zip(&graph.edges) {
                path class="edge" d=(curve(route)) { title { (ty) } }
                polygon class="tip" points=(tip(route)) {}
            }
            @for ((content, centre), size) in graph.boxes.iter().zip(&layout.centres).zip(&sizes) {
                (drawn_box(content, *centre, *size))
            }
        }
    }
}

fn drawn_box(content: &LayerBox, centre: Point, (width, height): Point) -> Markup {
    let (left, top) = (centre.0 - width / 2.0, centre.1 - height / 2.0);
    let round = if content.kind == Kind::Outside { height / 2.0 } else { 4.0 };
    html! {
        g class={ "box " (class(content.kind)) } {
            title { (content.text) }
            rect x=(px(left)) y=(px(top)) width=(px(width)) height=(px(height)) rx=(px(round)) {}
            text x=(px(centre.0)) y=(px(top + LINE)) class="op" { (shortened(&content.title)) }
            @for (i, line) in content.lines.iter().enumerate() {
                text x=(px(centre.0)) y=(px(top + LINE * (i + 2) as f64)) { (shortened(line)) }
            }
        }
    }
}

/// The class a kind of box has in the page's style.
pub fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Outside => "outside",
        Kind::Product => "product",
        Kind::Attention => "attention",
        Kind::Routing => "routing",
        Kind::Rows => "rows",
        Kind::Inline => "inline",
    }
}

fn size(content: &LayerBox) -> Point {
    let longest = content.lines.iter().chain([&content.title]).map(|l| shortened(l).chars().count()).max().unwrap_or(0);
    (longest as f64 * CHARACTER + 2.0 * PADDING, (content.lines.len() + 1) as f64 * LINE + PADDING)
}

/// The end of a text that is too long: labels differ there.
fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= LONGEST {
        text.into()
    } else {
        std::iter::once('…').chain(text.chars().skip(count + 1 - LONGEST)).collect()
    }
}

/// A line through the points that leaves and enters each vertically.
fn curve(points: &[Point]) -> String {
    let mut d = points.first().map(|(x, y)| format!("M{} {}", px(*x), px(*y))).unwrap_or_default();
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let middle = px((y0 + y1) / 2.0);
        d += &format!("C{} {middle} {} {middle} {} {}", px(x0), px(x1), px(x1), px(y1));
    }
    d
}

fn tip(points: &[Point]) -> String {
    let (x, y) = points.last().copied().unwrap_or_default();
    format!("{},{} {},{} {},{}", px(x), px(y), px(x - 3.5), px(y - 7.0), px(x + 3.5), px(y - 7.0))
}

/// Tenths of a pixel are enough, and keep the page small.
pub fn px(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}
