//! Passes by whole text: each file of `filetests/<pass>` is a graph or program, `; ---`, and what the pass makes of it.
//!
//! `BLESS=1 cargo test -p moesaic-tests --test filetests` writes what the passes make now; the difference is then to be read. The first
//! lines of a file are comments: `; key: value` is an option of the pass, anything else is for the reader.
//!
//! | folder | the text is read as what this pass gave | keys |
//! |---|---|---|
//! | `parse`, `verify` | none; a graph, or a planned program | |
//! | `quantise` | import | `activations`, `quant` |
//! | `fuse` | quantise | `activations`, `target`, `tokens`, `fuse` |
//! | `lower`, `schedule`, `plan` | fuse; a program: the pass before | `target`, `tokens` |
//! | `run` | any; it is interpreted on the values given | a symbol or the name of an input, weight or state |

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use compiler::lower::Registry;
use compiler::pipeline::{CompileOptions, Setting, Stage, bucket, comments, parse_stage, pass_names, passes_after};
use compiler::progress::Silent;
use compiler::target::{Activations, Target};
use ir::graph::{Graph, NodeKind};
use ir::interp::{Interpreter, Tensor};
use ir::text::{print_graph, print_program, read_graph, read_planned_program};
use ir::types::DType;

/// What separates the input from the expected output.
const SEPARATOR: &str = "; ---\n";

/// Every folder of `filetests`.
const FOLDERS: &[&str] = &["parse", "verify", "quantise", "fuse", "lower", "schedule", "plan", "run"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests")
}

fn files(pass: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder().join(pass)).unwrap_or_else(|e| panic!("filetests/{pass}: {e}"));
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("entry").path()).collect();
    files.sort();
    assert!(
        files.iter().all(|f| f.extension().is_some_and(|e| e == "ir")),
        "filetests/{pass} has a file that is no .ir"
    );
    files
}

/// Runs every file of a folder through its pass and compares, or writes, the output.
fn check(pass: &str) {
    let (files, bless) = (files(pass), std::env::var_os("BLESS").is_some_and(|v| v == "1"));
    assert!(!files.is_empty(), "filetests/{pass} has no files");
    let mut failures = String::new();
    for file in files {
        let content = std::fs::read_to_string(&file).expect("UTF-8");
        let (input, expected) = content.split_once(SEPARATOR).map_or((content.as_str(), None), |(i, e)| (i, Some(e)));
        let found = output(pass, input).unwrap_or_else(|message| panic!("{}: {message}", file.display()));
        if bless {
            std::fs::write(&file, format!("{}\n{SEPARATOR}{found}", input.trim_end())).expect("written");
        } else if expected != Some(found.as_str()) {
            let expected = expected.unwrap_or("");
            let diff = similar::TextDiff::from_lines(expected, &found);
            let diff = diff.unified_diff().context_radius(3).header("expected", "found").to_string();
            write!(failures, "{}\n{diff}", file.display()).expect("a string takes everything");
        }
    }
    assert!(failures.is_empty(), "BLESS=1 writes what was found\n{failures}");
}

/// What a pass makes of an input: text, or the errors it gives.
///
/// # Errors
/// The file's own options are wrong.
fn output(pass: &str, input: &str) -> Result<String, String> {
    let keys: HashMap<&str, &str> = comments(input).filter(|(key, _)| !key.contains(' ')).collect();
    let is_program = input.lines().any(|line| line.starts_with("program "));
    if pass == "run" {
        return interpret(input, &keys);
    }
    let options = options(&keys)?;
    Ok(match (pass, is_program) {
        ("parse" | "verify", false) => text_or_errors(read_graph(input).map(|g| print_graph(&g))),
        ("parse" | "verify", true) => text_or_errors(read_planned_program(input).map(|p| print_program(&p))),
        _ => {
            let after = match (pass, is_program) {
                (_, true) => pass_names().take_while(|name| *name != pass).last().unwrap_or_default(),
                ("quantise", _) => "import",
                ("fuse", _) => "quantise",
                _ => "fuse",
            };
            let mut stage = parse_stage(input, after).map_err(|e| e.to_string())?;
            if let (Stage::Buckets(graphs), [tokens]) = (&mut stage, options.buckets.as_slice()) {
                graphs.iter_mut().for_each(|graph| *graph = bucket(graph, *tokens));
            }
            text_or_errors(run_passes(stage, after, pass, &options))
        }
    })
}

fn text_or_errors<E: std::fmt::Display>(result: Result<String, E>) -> String {
    result.unwrap_or_else(|errors| errors.to_string().lines().map(|line| format!("error: {line}\n")).collect())
}

/// The passes after `after`, to `last`; the text of what that gives.
fn run_passes(mut stage: Stage, after: &str, last: &str, options: &CompileOptions) -> Result<String, String> {
    let notes = RefCell::default();
    let setting =
        Setting { options, registry: &Registry::default(), assignment: None, notes: &notes, progress: &Silent };
    for pass in passes_after(after) {
        stage = (pass.run)(stage, &setting).map_err(|e| e.to_string())?;
        stage.verify().map_err(|e| format!("after {}: {e}", pass.name))?;
        if pass.name == last {
            break;
        }
    }
    // A limit that a pass ran into is a fault of the pass.
    assert!(notes.borrow().is_empty(), "{:?}", notes.borrow());
    Ok(stage.texts(last).into_iter().map(|t| t.text).collect())
}

fn options(keys: &HashMap<&str, &str>) -> Result<CompileOptions, String> {
    let mut options = CompileOptions::new(Target::Cpu, Activations::F32);
    for (key, value) in keys {
        match *key {
            "target" => {
                options.target = value.parse().map_err(|e| format!("target: {e}"))?;
                options.spec = options.target.spec();
            }
            "activations" => options.activations = value.parse()?,
            "fuse" => options.fusion = value.parse()?,
            "quant" => options.quant.format = value.parse().map_err(|e| format!("quant: {e}"))?,
            "tokens" => {
                let tokens: Result<_, _> = value.split_whitespace().map(str::parse).collect();
                options.buckets = tokens.map_err(|e| format!("tokens: {e}"))?;
            }
            "after" => {}
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(options)
}

/// Interprets a graph; the comments give the symbols and the values of everything that is no op.
fn interpret(input: &str, keys: &HashMap<&str, &str>) -> Result<String, String> {
    let graph = read_graph(input).map_err(|e| e.to_string())?;
    let mut symbols = Vec::new();
    for symbol in &graph.symbols {
        let value = keys.get(symbol.name.as_str()).ok_or_else(|| format!("symbol {} has no value", symbol.name))?;
        symbols.push(value.parse().map_err(|e| format!("symbol {}: {e}", symbol.name))?);
    }
    let values = values(&graph, keys)?;
    let outputs = match Interpreter::new(&graph, values.clone()).step(&symbols, &values) {
        Ok(outputs) => outputs,
        Err(error) => return Ok(format!("error: {error}\n")),
    };
    let mut text = String::new();
    for (name, _) in &graph.outputs {
        let numbers: Vec<String> = match &outputs[name] {
            Tensor::Real(v) => v.iter().map(|v| format!("{}", (f64::from(*v) * 1e6).round() / 1e6)).collect(),
            Tensor::Int(v) => v.iter().map(ToString::to_string).collect(),
        };
        text += &format!("{name}: {}\n", numbers.join(" "));
    }
    Ok(text)
}

fn values(graph: &Graph, keys: &HashMap<&str, &str>) -> Result<HashMap<String, Tensor>, String> {
    let mut values = HashMap::new();
    for node in &graph.nodes {
        if !matches!(node.kind, NodeKind::Input | NodeKind::Weight | NodeKind::State) {
            continue;
        }
        let text = keys.get(node.name.as_str()).ok_or_else(|| format!("{:?} has no values", node.name))?;
        let words = text.split_whitespace();
        let wrong = |e: &dyn std::fmt::Display| format!("{:?}: {e}", node.name);
        let tensor = match node.ty.dtype {
            DType::I32 => Tensor::Int(words.map(str::parse).collect::<Result<_, _>>().map_err(|e| wrong(&e))?),
            _ => Tensor::Real(words.map(str::parse).collect::<Result<_, _>>().map_err(|e| wrong(&e))?),
        };
        values.insert(node.name.clone(), tensor);
    }
    Ok(values)
}

macro_rules! folders {
    ($($pass:ident)*) => { $(#[test] fn $pass() { check(stringify!($pass)); })* };
}

folders! { parse verify quantise fuse lower schedule plan run }

#[test]
fn every_folder_is_run() {
    let entries = std::fs::read_dir(folder()).expect("filetests");
    let mut found: Vec<String> =
        entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    found.retain(|name| !FOLDERS.contains(&name.as_str()));
    assert!(found.is_empty(), "no pass is called {found:?}");
}

#[test]
fn a_stale_or_missing_expectation_is_seen() {
    let graph = "graph \"g\" {\n  %0 = input \"x\" : f32[2]\n  output \"x\" %0\n}\n";
    assert_eq!(output("parse", graph).unwrap(), graph);
    assert!(output("parse", &format!("; colour: red\n{graph}")).unwrap_err().contains("colour"));
    assert!(output("parse", "graph \"g\" {\n  %0 = inptu(%1) : f32[2]\n}\n").unwrap().starts_with("error: line 2"));
}
