//! The report as a browser reads it: valid HTML and SVG, nothing from elsewhere, every buffer and launch shown, every name escaped.

use std::fs;
use std::path::Path;

use compiler::lower::Registry;
use compiler::pipeline::{self, CompileOptions, Outcome, Stage};
use compiler::progress::Silent;
use compiler::target::{Activations, Target};
use html5ever::tendril::TendrilSink;
use html5ever::{ParseOpts, parse_document};
use ir::program::Program;
use markup5ever_rcdom::{Handle, NodeData, RcDom};
use models::Checkpoint;

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

/// A page as a browser reads it: what its parser complains of, and its elements.
struct Page {
    errors: Vec<String>,
    elements: Vec<Element>,
}

struct Element {
    /// `name`, `.class`, `name.class` and `#id`.
    marks: Vec<String>,
    attributes: Vec<(String, String)>,
    /// The marks of all elements around it.
    around: Vec<String>,
    /// The text directly in it.
    text: String,
}

impl Page {
    fn read(text: &str) -> Page {
        let dom = parse_document(RcDom::default(), ParseOpts::default()).one(text);
        let mut page =
            Page { errors: dom.errors.borrow().iter().map(|e| e.to_string()).collect(), elements: Vec::new() };
        page.walk(&dom.document, &[]);
        page
    }

    fn walk(&mut self, node: &Handle, around: &[String]) {
        let mut inside = around.to_vec();
        if let NodeData::Element { name, attrs, .. } = &node.data {
            let attributes = attrs.borrow().iter().map(|a| (a.name.local.to_string(), a.value.to_string())).collect();
            let element = Element::new(&name.local, attributes, around, text_of(node));
            inside.extend(element.marks.iter().cloned());
            self.elements.push(element);
        }
        node.children.borrow().iter().for_each(|child| self.walk(child, &inside));
    }

    /// Elements of the last mark inside elements of the others.
    fn count(&self, marks: &str) -> usize {
        let marks: Vec<&str> = marks.split(' ').collect();
        let (last, others) = marks.split_last().unwrap();
        let is = |has: &[String], mark: &str| has.iter().any(|m| m == mark);
        let fits = |e: &&Element| is(&e.marks, last) && others.iter().all(|mark| is(&e.around, mark));
        self.elements.iter().filter(fits).count()
    }

    /// All values of an attribute.
    fn values(&self, attribute: &str) -> Vec<&str> {
        let attributes = self.elements.iter().flat_map(|e| &e.attributes);
        attributes.filter(|(name, _)| name == attribute).map(|(_, value)| value.as_str()).collect()
    }
}

impl Element {
    fn new(name: &str, attributes: Vec<(String, String)>, around: &[String], text: String) -> Element {
        let mut marks = vec![name.to_string()];
        for (attribute, value) in &attributes {
            match attribute.as_str() {
                "class" => marks.extend(value.split(' ').flat_map(|c| [format!(".{c}"), format!("{name}.{c}")])),
                "id" => marks.push(format!("#{value}")),
                _ => {}
            }
        }
        Element { marks, attributes, around: around.to_vec(), text }
    }
}

fn text_of(node: &Handle) -> String {
    let text = |child: &Handle| match &child.data {
        NodeData::Text { contents } => contents.borrow().to_string(),
        _ => String::new(),
    };
    node.children.borrow().iter().map(text).collect()
}

#[test]
fn the_page_is_whole_and_shows_everything() {
    let (text, programs) = report("qwen3_moe", "model");
    let page = Page::read(&text);
    assert_eq!(page.errors, Vec::<String>::new());
    for element in ["script", "link", "img", "iframe"] {
        assert_eq!(page.count(element), 0, "{element}");
    }
    assert!(page.values("src").is_empty());
    assert!(!text.contains("url(") && !text.contains("@import"));

    let launches: usize = programs.iter().map(|p| p.launches.len()).sum();
    assert_eq!(page.count("details .tall tbody tr"), launches);
    let buffers: usize = programs.iter().map(|p| p.live_ranges().into_iter().flatten().count()).sum();
    assert_eq!(page.count("svg.plot rect.buffer"), buffers);
    assert_eq!(page.count("svg.plot line.bound"), programs.len());
    assert_eq!(page.count("#buckets tbody tr"), programs.len());
    // Before fusion, and compiled for decoding and for the largest step.
    assert_eq!(page.count("svg.graph"), 3);
    assert!(page.count("svg.graph g.product") > 3 && page.count("svg.graph path.edge") > 10);
    assert!(page.count("#formats tbody tr") > 0);
    // Links lead to a place on the page.
    assert!(!page.values("href").is_empty());
    for target in page.values("href") {
        assert_eq!(page.count(target), 1, "{target}");
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
    let page = Page::read(&text);
    assert_eq!(page.errors, Vec::<String>::new());
    assert_eq!(page.count("script"), 0);
    let is_heading = |e: &&Element| e.marks.iter().any(|m| m == "h1");
    assert_eq!(page.elements.iter().find(is_heading).unwrap().text, name);
}
