//! The report as a browser reads it: valid HTML and SVG, nothing from elsewhere, every buffer and launch shown, every name escaped.

use std::fs;
use std::path::Path;

use compiler::lower::Registry;
use compiler::pipeline::{self, CompileOptions, Outcome, Stage};
use compiler::progress::Silent;
use compiler::target::{Activations, Target};
use ir::program::Program;
use models::Checkpoint;
use scraper::{Html, Selector};

/// The report of a fixture whose folder has a `name` of its own, and the programs it is about.
fn report(fixture: &str, name: &str) -> (String, Vec<Program>) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join(name);
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(fixture)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let page = folder.path().join("report.html");
    let options = CompileOptions {
        stop_after: Some("plan".into()),
        report: Some(page.clone()),
        ..CompileOptions::new(Target::Cpu, Activations::Int8)
    };
    let mut checkpoint = Checkpoint::open(&model).unwrap();
    let outcome = pipeline::compile(&mut checkpoint, Path::new(""), &options, &Registry::default(), &Silent).unwrap();
    let Outcome::Stopped(stopped) = outcome else { panic!("told to stop") };
    let Stage::Planned(programs) = stopped.stage else { panic!("told to stop after plan") };
    (fs::read_to_string(page).unwrap(), programs)
}

fn count(page: &Html, selector: &str) -> usize {
    page.select(&Selector::parse(selector).unwrap()).count()
}

#[test]
fn the_page_is_whole_and_shows_everything() {
    let (text, programs) = report("qwen3_moe", "model");
    let page = Html::parse_document(&text);
    assert_eq!(page.errors, Vec::<String>::new());
    for element in ["script", "link", "img", "iframe", "[src]", "a[href^=http]"] {
        assert_eq!(count(&page, element), 0, "{element}");
    }
    assert!(!text.contains("url(") && !text.contains("@import"));

    let launches: usize = programs.iter().map(|p| p.launches.len()).sum();
    assert_eq!(count(&page, "details .tall tbody tr"), launches);
    let buffers: usize = programs.iter().map(|p| p.live_ranges().into_iter().flatten().count()).sum();
    assert_eq!(count(&page, "svg.plot rect.buffer"), buffers);
    assert_eq!(count(&page, "svg.plot line.bound"), programs.len());
    assert_eq!(count(&page, "#buckets tbody tr"), programs.len());
    // Before fusion, and compiled for decoding and for the largest step.
    assert_eq!(count(&page, "svg.graph"), 3);
    assert!(count(&page, "svg.graph g.product") > 3 && count(&page, "svg.graph path.edge") > 10);
    assert!(count(&page, "#formats tbody tr") > 0);
    for anchor in page.select(&Selector::parse("a[href]").unwrap()) {
        let target = anchor.attr("href").unwrap();
        assert_eq!(count(&page, target), 1, "{target}");
    }
}

#[test]
fn drawings_are_xml_with_numbers_in_them() {
    let (text, _) = report("llama31", "model");
    let drawings: Vec<&str> = text.split("<svg").skip(1).map(|rest| rest.split("</svg>").next().unwrap()).collect();
    assert!(drawings.len() >= 3 + 4);
    for drawing in drawings {
        let xml = format!("<svg{drawing}</svg>");
        let xml = roxmltree::Document::parse(&xml).unwrap_or_else(|e| panic!("{e}: {xml}"));
        for node in xml.descendants() {
            for name in ["x", "y", "x1", "x2", "y1", "y2", "width", "height"] {
                let Some(value) = node.attribute(name) else { continue };
                assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{name}={value}");
            }
        }
    }
}

#[test]
fn names_cannot_become_markup() {
    let name = "<script>alert(1)<!-- & \"quoted\" 'x'";
    let (text, _) = report("smollm2", name);
    let page = Html::parse_document(&text);
    assert_eq!(page.errors, Vec::<String>::new());
    assert_eq!(count(&page, "script"), 0);
    let heading: String = page.select(&Selector::parse("h1").unwrap()).flat_map(|h| h.text()).collect();
    assert_eq!(heading, name);
}
