//! The pass list as a user sees it: dumps that can be begun with again, passes to stop after, errors of text by line, times, and the same
//! bytes whatever the number of threads.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn moesaic(args: &[&str], threads: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moesaic"));
    command.args(args).stdin(Stdio::null());
    if let Some(threads) = threads {
        command.env("RAYON_NUM_THREADS", threads);
    }
    command.output().expect("the command starts")
}

/// Standard output of a command that must succeed.
fn shown(args: &[&str]) -> String {
    let output = moesaic(args, None);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Standard error of a command that must fail, with nothing on standard output.
fn refused(args: &[&str]) -> String {
    let output = moesaic(args, None);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    assert!(output.stdout.is_empty(), "{args:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

fn golden(name: &str) -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)).to_string()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Every file below a folder, by its path in it.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            files.extend(content(&path).into_iter().map(|(inner, bytes)| (name.join(inner), bytes)));
        } else {
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    files
}

/// Compiles a fixture into `folder/a.moesaic` with every dump in `folder/dump`.
fn compiled(folder: &Path, model: &str, more: &[&str], threads: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let (model, artifact, dump) = (golden(model), folder.join("a.moesaic"), folder.join("dump"));
    let args = ["compile", &model, "-o", text(&artifact), "--dump", text(&dump), "--threads", threads];
    let output = moesaic(&[&args[..], more].concat(), Some(threads));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    content(folder)
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let calibration = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/data/english.txt");
    let calibrated: &[&str] = &[
        "--quant",
        "q4g32",
        "--quant-method",
        "gptq",
        "--calibration",
        text(&calibration),
        "--calibration-tokens",
        "512",
    ];
    for (model, more) in [("qwen3_moe", &["--quant", "q4g32"][..]), ("llama31", calibrated)] {
        let files = ["1", "2", "7"].map(|threads| {
            let folder = tempfile::tempdir().unwrap();
            compiled(folder.path(), model, more, threads)
        });
        assert!(files[0].len() > 20, "{:?}", files[0].keys());
        for other in &files[1..] {
            assert!(files[0].keys().eq(other.keys()));
            files[0].iter().for_each(|(path, bytes)| assert!(other[path] == *bytes, "{model}: {}", path.display()));
        }
    }
}

#[test]
fn a_dump_can_be_begun_with_again() {
    let folder = tempfile::tempdir().unwrap();
    let files = compiled(folder.path(), "qwen3_moe", &[], "2");
    let dump = |name: &str| folder.path().join("dump").join(name);
    let plans: Vec<&PathBuf> = files.keys().filter(|p| text(p).starts_with("dump/06-plan-")).collect();
    assert_eq!(plans.len(), 4);
    let one = fs::read_to_string(dump("06-plan-tokens-8.ir")).unwrap();
    for from in ["03-fuse-tokens-8.ir", "04-lower-tokens-8.ir", "05-schedule-tokens-8.ir", "06-plan-tokens-8.ir"] {
        assert_eq!(shown(&["compile", "--from", text(&dump(from)), "--stop-after", "plan"]), one, "{from}");
    }
    let all: String =
        [1, 8, 64, 512].map(|t| fs::read_to_string(dump(&format!("06-plan-tokens-{t}.ir"))).unwrap()).concat();
    for from in ["01-import.ir", "02-quantise.ir"] {
        assert_eq!(shown(&["compile", "--from", text(&dump(from)), "--stop-after", "plan"]), all, "{from}");
    }
}

#[test]
fn a_text_is_packaged_with_the_weights_of_its_model_alone() {
    let folder = tempfile::tempdir().unwrap();
    let whole = compiled(folder.path(), "llama31", &["--activations", "f32"], "2");
    let artifact = folder.path().join("again.moesaic");
    let dump = |name: &str| folder.path().join("dump").join(name);
    let from = |model: &str, name: &str| {
        let (model, dump) = (golden(model), dump(name));
        let args = ["compile", &model, "-o", text(&artifact), "--activations", "f32", "--from", text(&dump)];
        args.map(str::to_string)
    };
    for name in ["01-import.ir", "02-quantise.ir"] {
        shown(&from("llama31", name).each_ref().map(String::as_str));
        for (path, bytes) in content(&artifact) {
            assert!(whole[&Path::new("a.moesaic").join(&path)] == bytes, "{name}: {}", path.display());
        }
        fs::remove_dir_all(&artifact).unwrap();
    }
    shown(&from("llama31", "06-plan-tokens-8.ir").each_ref().map(String::as_str));
    assert!(shown(&["inspect", text(&artifact)]).contains("tokens-8"));
    fs::remove_dir_all(&artifact).unwrap();
    let message = refused(&from("smollm2", "06-plan-tokens-8.ir").each_ref().map(String::as_str));
    assert!(message.contains("06-plan-tokens-8.ir") && message.contains("weight"), "{message}");
    assert!(!artifact.exists());
}

#[test]
fn all_that_is_wrong_with_a_text_is_listed_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.ir");
    let graph = "; after: fuse\ngraph \"g\" {\n  %0 = input \"x\" : f32[4, 64]\n  %1 = weight \"w\" : f32[32, 48]\n  \
                 %2 = matmul(%0, %1) : f32[4, 32] \"q\"\n  %3 = addd(%2, %2) : f32[4, 32]\n  %4 = add(%3, %5) : f32[4, 32]\n  \
                 %5 = add(%4, %4) : f32[4, 32]\n  output \"y\" %5\n}\n";
    fs::write(&file, graph).unwrap();
    let message = refused(&["compile", "--from", text(&file), "--stop-after", "plan"]);
    let lines: Vec<&str> = message.lines().collect();
    let expected = [
        "line 5: node %2 (matmul q): the widths of x and w differ",
        "line 6, column 8: node %3 (addd): unknown op addd; did you mean add?",
        "line 7: node %4 (add): operand %5 is not defined before its use: the graph has a cycle or is out of order",
    ];
    assert_eq!(lines.len(), expected.len() + 1, "{message}");
    for (line, expected) in lines.iter().zip(expected) {
        assert_eq!(*line, format!("{}: {expected}", file.display()));
    }
    assert_eq!(lines[3], format!("error: {}: 3 violations", file.display()));
}

#[test]
fn an_unplanned_program_is_verified_before_a_pass_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("program.ir");
    let program = |launch: &str, comment: &str| {
        format!(
            "; after: lower\n{comment}program \"p\" {{\n  arena 0\n  input \"x\" : f32[64]\n  buffer %0 : f32[64] at 0\n  output \"y\" %0\n  \
                 launch {launch} \"a\"\n}}\n"
        )
    };
    let good = "unary \"softcap\" {x = input \"x\", out = write %0, count = 64, value = float 1.0, reserved = 0}";
    let check = |text_of_file: String, part: &str| {
        fs::write(&file, text_of_file).unwrap();
        let message = refused(&["compile", "--from", text(&file), "--stop-after", "plan"]);
        assert!(message.contains(part), "{message}");
    };
    check(program(&good.replace("%0", "%3"), ""), "buffer %3 is not declared");
    check(program(&good.replace("unary", "unairy"), ""), "the catalog has no kernel unairy");
    check(program(&good.replace("softcap", "hardcap"), ""), "no variant \"hardcap\"");
    check(program(&good.replace("count", "amount"), ""), "kernel unary takes (x, out, count");
    check(program(good, "; in-place: 0 %0 %9\n"), "line 2: in-place");
    fs::write(&file, program(good, "")).unwrap();
    assert!(shown(&["compile", "--from", text(&file), "--stop-after", "plan"]).contains("arena 256"));
}

#[test]
fn options_of_the_pass_list_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("g.ir");
    fs::write(
        &file,
        "graph \"g\" {\n  %0 = input \"x\" : f32[1, 64]\n  %1 = softcap(%0) {cap = 1.0} : f32[1, 64]\n  output \"y\" %1\n}\n",
    )
    .unwrap();
    let file = text(&file);
    let check = |args: &[&str], parts: &[&str]| {
        let message = refused(args);
        assert!(parts.iter().all(|p| message.contains(p)), "{args:?}: {message}");
    };
    check(&["compile", "--from", file, "--stop-after", "plan"], &["--from-pass", "; after: PASS", "quantise"]);
    check(
        &["compile", "--from", file, "--from-pass", "fuze", "--stop-after", "plan"],
        &["--from-pass", "fuze", "fuse"],
    );
    check(&["compile", "--from", file, "--from-pass", "fuse", "-o", "x.moesaic"], &["--stop-after", "MODEL"]);
    check(
        &["compile", "--from", file, "--from-pass", "fuse", "--stop-after", "import"],
        &["--stop-after", "before fuse"],
    );
    check(&["compile", "--from", "/no/such/file", "--stop-after", "plan"], &["/no/such/file", "No such file"]);
    check(&["compile", &golden("llama31"), "--stop-after", "lower", "--report", "x.html"], &["--report", "plan"]);
    assert!(
        shown(&["compile", "--from", file, "--from-pass", "fuse", "--stop-after", "lower"])
            .starts_with("; after: lower\n")
    );
}

#[test]
fn passes_are_timed() {
    let model = golden("llama31");
    let args = ["compile", &model, "--stop-after", "plan", "--time-passes", "--json"];
    let summary: serde_json::Value = serde_json::from_str(&shown(&args)).unwrap();
    let passes = summary["passes"].as_array().unwrap();
    let names: Vec<&str> = passes.iter().map(|p| p["pass"].as_str().unwrap()).collect();
    assert_eq!(names, ["import", "quantise", "fuse", "lower", "schedule", "plan"]);
    assert!(passes.iter().all(|p| p["ms"].as_f64().is_some_and(|ms| ms >= 0.0)));
    assert!(passes[0]["before"].is_null() && passes[1]["before"] == passes[0]["after"]);
    assert!(passes[5]["after"]["launches"].as_u64().unwrap() > 0);
    let table = String::from_utf8(moesaic(&args[..5], None).stderr).unwrap();
    assert!(table.lines().any(|l| l.starts_with("schedule ") && l.contains(" launches")), "{table}");
}
