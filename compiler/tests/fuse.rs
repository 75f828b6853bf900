//! Fusion on whole models: what it finds, what it leaves alone, and that it means the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use compiler::cost::layer_of;
use compiler::fuse::explain::explain_by;
use compiler::fuse::price::{LaunchCount, takes_launch};
use compiler::fuse::rules::RULES;
use compiler::fuse::saturate::Limits;
use compiler::fuse::{FuseOptions, Fused, Fusion, fuse, fuse_by};
use compiler::kv_type::KvType;
use compiler::lower::{Registry, lower};
use compiler::pipeline::bucket;
use compiler::quantise::activations::quantise_activations;
use compiler::quantise::assign;
use compiler::quantise::options::QuantOptions;
use compiler::target::{Activations, Target};
use ir::graph::{Graph, NodeKind};
use ir::interp::{Interpreter, Tensor};
use ir::types::DType;
use ir::verify::verify_graph;
use models::synth::PRESETS;
use models::{Checkpoint, ImportOptions};

const BUCKETS: &[u64] = &[1, 8, 64, 512];

fn golden_folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).expect("golden").map(|e| e.expect("entry").path()).collect();
    folders.retain(|f| f.join("config.json").exists());
    folders.sort();
    assert!(folders.len() > 20);
    folders
}

/// A checkpoint's graph as it comes before fusion, its activations rounded as they say.
fn imported(folder: &Path, activations: Activations) -> Graph {
    graph_of(&Checkpoint::open(folder).expect("a checkpoint"), activations)
}

fn graph_of(checkpoint: &Checkpoint, activations: Activations) -> Graph {
    let kv_dtype = KvType::default_for(activations).dtype();
    let options = ImportOptions {
        max_tokens: 512,
        max_sequences: 8,
        max_model_len: 64,
        kv_dtype,
        trace_routing: false,
        embeddings: false,
    };
    let graph = models::import(checkpoint, &options).expect("a model").graph;
    quantise_activations(&graph, activations).expect("rounded")
}

fn fused(graph: &Graph, fusion: Fusion) -> Fused {
    let buckets: Vec<Graph> = BUCKETS.iter().map(|tokens| bucket(graph, *tokens)).collect();
    fuse_by(graph, &buckets, fusion, &LaunchCount, Limits::default()).expect("fusion")
}

/// Launches of each layer.
fn launches(graph: &Graph) -> BTreeMap<u64, usize> {
    let mut launches = BTreeMap::new();
    for node in graph.nodes.iter().filter(|n| n.op().is_some_and(takes_launch)) {
        if let Some(layer) = layer_of(&node.name) {
            *launches.entry(layer).or_insert(0) += 1;
        }
    }
    launches
}

fn ops(graph: &Graph) -> Vec<&'static str> {
    graph.nodes.iter().filter_map(|n| n.op()).filter(|op| takes_launch(*op)).map(|op| op.name()).collect()
}

#[test]
fn every_golden_model_fuses_to_a_valid_graph_within_limits() {
    for folder in golden_folders() {
        let full = Activations::ALL.map(|activations| (activations, Fusion::Full));
        for (activations, fusion) in full.into_iter().chain([(Activations::Int8, Fusion::Exact)]) {
            let graph = imported(&folder, activations);
            let fused = fused(&graph, fusion);
            let name = format!("{} {activations} {fusion}", folder.display());
            assert_eq!(fused.report.limits(), Vec::<String>::new(), "{name}");
            for bucket in &fused.graphs {
                verify_graph(bucket).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert!(ops(bucket).len() < ops(&graph).len(), "{name}");
                assert_eq!(bucket.outputs.len(), graph.outputs.len());
            }
        }
    }
}

/// Random numbers, the same for a name each time: FNV-1a, then SplitMix64.
fn numbers(name: &str) -> impl Iterator<Item = f32> {
    let mut seed = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    std::iter::repeat_with(move || {
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    })
}

/// Values of a graph's weights: norms near one, orders of columns as they are, the rest small.
fn weights(graph: &Graph) -> HashMap<String, Tensor> {
    let values = |node: &ir::graph::Node| {
        let shape: Vec<u64> = node.ty.shape.iter().filter_map(|d| d.value(&[])).collect();
        let count = shape.iter().product::<u64>() as usize;
        let random = numbers(&node.name).take(count);
        match node.ty.dtype {
            DType::I32 => Tensor::Int((0..count).map(|i| (i as u64 % shape[shape.len() - 1]) as i32).collect()),
            _ if node.name.contains("norm") => Tensor::Real(random.map(|r| 0.5 + r).collect()),
            _ => Tensor::Real(random.map(|r| 0.4 * (r - 0.5)).collect()),
        }
    };
    let weights = graph.nodes.iter().filter(|n| n.kind == NodeKind::Weight);
    weights.map(|node| (node.name.clone(), values(node))).collect()
}

/// Three tokens of one sequence, then one more.
fn steps(graph: &Graph) -> Vec<(Vec<u64>, HashMap<String, Tensor>)> {
    let step = |first: i32, tokens: i32| {
        let ids = (first..first + tokens).map(|i| i * 7 % 50).collect();
        let inputs = [
            ("ids", ids),
            ("positions", (first..first + tokens).collect()),
            ("sequences", vec![0; tokens as usize]),
            ("page_table", vec![0]),
            ("logit_rows", vec![tokens - 1]),
            ("rope_tables", vec![0; tokens as usize]),
        ];
        let sizes = |name: &str| if name == "T" { tokens as u64 } else { 1 };
        let symbols = graph.symbols.iter().map(|s| sizes(&s.name)).collect();
        (symbols, inputs.into_iter().map(|(name, values)| (name.to_string(), Tensor::Int(values))).collect())
    };
    vec![step(0, 3), step(3, 1)]
}

/// The logits of each step.
fn logits(graph: &Graph) -> Vec<f32> {
    let mut interpreter = Interpreter::new(graph, weights(graph));
    let step = |(symbols, inputs): (Vec<u64>, HashMap<String, Tensor>)| match interpreter
        .step(&symbols, &inputs)
        .expect("a step")
        .remove("logits")
    {
        Some(Tensor::Real(logits)) => logits,
        other => panic!("{other:?}"),
    };
    steps(graph).into_iter().flat_map(step).collect()
}

/// The largest difference relative to the largest number.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0.0, |d, (a, b)| d.max((a - b).abs() / largest))
}

#[test]
fn a_fused_model_means_the_same() {
    for folder in golden_folders() {
        let graph = imported(&folder, Activations::F32);
        let expected = logits(&graph);
        assert!(expected.iter().all(|v| v.is_finite()), "{}", folder.display());
        for (fusion, tolerance) in [(Fusion::Exact, 1e-6), (Fusion::Full, 1e-4)] {
            let fused = fused(&graph, fusion);
            for bucket in [&fused.graphs[1], &fused.graphs[3]] {
                let found = difference(&expected, &logits(bucket));
                assert!(found <= tolerance, "{} {fusion}: {found}", folder.display());
            }
        }
    }
}

#[test]
fn a_decode_step_of_a_layer_takes_five_launches() {
    for name in ["llama31", "qwen2", "qwen3", "mistral", "smollm2", "aix", "mixtral", "qwen3_moe", "gpt_oss"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
        for activations in Activations::ALL {
            let graph = imported(&folder, activations);
            let fused = fused(&graph, Fusion::Full);
            let launches = launches(&fused.graphs[0]);
            assert!(!launches.is_empty());
            assert!(launches.values().all(|count| *count == 5), "{name} {activations}: {launches:?}");
            // Of rules that change rounding the router's alone is worth it where each launch costs the same.
            let rounding = fused.report.bodies.iter().flat_map(|b| &b.rounded_by);
            assert!(rounding.into_iter().all(|(rule, _)| *rule == "router-partials"), "{name}: {}", fused.report);
        }
    }
}

/// Published widths in 4 bits, at which a launch more can be the cheaper choice: it is not, neither for one token nor for a prompt.
#[test]
fn models_of_published_widths_take_five_launches_a_layer_on_every_gpu() {
    let (registry, fusion) = (Registry::default(), Fusion::Full);
    for preset in PRESETS {
        let graph = graph_of(&preset.describe(Some(3)).expect("a checkpoint"), Activations::F32);
        let quant = QuantOptions { format: "q4g128".parse().expect("a format"), ..QuantOptions::default() };
        let graph = assign::apply(&graph, &assign::assign(&graph, &quant)).expect("a graph");
        let graph = quantise_activations(&graph, Activations::F16).expect("rounded");
        let buckets: Vec<Graph> = BUCKETS.iter().map(|tokens| bucket(&graph, *tokens)).collect();
        for target in Target::all().filter(|t| *t != Target::Cpu) {
            let options = FuseOptions { fusion, spec: &target.spec(), target, registry: &registry };
            let fused = fuse(&graph, &buckets, &options).expect("fusion");
            let middle: Vec<usize> = fused.graphs.iter().map(|g| launches(g)[&1]).collect();
            // The partial sums of 128 experts, which every block would add up, cost an RTX 3090 more than a launch for them.
            let router_apart = (preset.name, target.name()) == ("qwen3-30b-a3b", "sm_86");
            // Gemma's layers have four norms: the two that follow a block are launches of their own.
            let most = if preset.name.starts_with("gemma") { 7 } else { 5 + usize::from(router_apart) };
            assert!(
                middle[0] <= most && middle[3] <= most,
                "{} {target}: {middle:?} {:?}",
                preset.name,
                ops(&fused.graphs[3])
            );
        }
    }
}

/// With the lowerings there are and what launches cost.
#[test]
fn on_a_gpu_a_layer_takes_five_launches_to_decode_and_at_most_nine_to_prefill() {
    let (registry, target) = (Registry::default(), "sm_90".parse::<Target>().expect("a target"));
    for name in ["llama31", "qwen3", "aix", "mixtral", "llama_gptq", "qwen3_moe"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
        for activations in Activations::ALL {
            let graph = imported(&folder, activations);
            let buckets: Vec<Graph> = BUCKETS.iter().map(|tokens| bucket(&graph, *tokens)).collect();
            let options = FuseOptions { fusion: Fusion::Full, spec: &target.spec(), target, registry: &registry };
            let fused = fuse(&graph, &buckets, &options).expect("fusion");
            let counts: Vec<Vec<usize>> = fused.graphs.iter().map(|g| launches(g).into_values().collect()).collect();
            assert!(
                counts[0].iter().all(|count| *count <= 5),
                "{name} {activations}: {counts:?} {:?} {}",
                ops(&fused.graphs[0]),
                fused.report
            );
            assert!(counts[3].iter().all(|count| *count <= 9), "{name} {activations}: {counts:?}");
            for bucket in &fused.graphs {
                lower(bucket, &registry, target).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
    }
}

#[test]
fn equal_layers_are_worked_on_once() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/gpt_oss");
    let report = fused(&imported(&folder, Activations::Int8), Fusion::Full).report;
    let copies: Vec<usize> = report.bodies.iter().map(|b| b.copies).collect();
    // Windows alternate; before the first attention and after the last stands another body.
    assert_eq!(copies, [1, 2, 1, 1]);
}

#[test]
fn a_limit_that_is_hit_is_reported() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/aix");
    let graph = imported(&folder, Activations::Int8);
    let few = [Limits { rounds: 2, ..Limits::default() }, Limits { nodes: 60, ..Limits::default() }];
    for limits in few {
        let buckets = [bucket(&graph, 1)];
        let fused = fuse_by(&graph, &buckets, Fusion::Full, &LaunchCount, limits).expect("fusion");
        assert!(!fused.report.limits().is_empty(), "{limits:?}");
        verify_graph(&fused.graphs[0]).expect("a valid graph all the same");
    }
}

#[test]
fn without_fusion_all_stays_as_it_is() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/aix");
    let graph = imported(&folder, Activations::Int8);
    let fused = fused(&graph, Fusion::Off);
    assert!(fused.graphs.iter().all(|g| g.nodes == graph.nodes && g.outputs == graph.outputs));
}

#[test]
fn fusion_is_the_same_each_time() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/qwen2_moe_sharded");
    let graph = imported(&folder, Activations::Int8);
    let first = fused(&graph, Fusion::Full);
    let others = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3).map(|_| scope.spawn(|| fused(&graph, Fusion::Full))).collect();
        runs.into_iter().map(|r| r.join().expect("a run")).collect::<Vec<_>>()
    });
    for other in others {
        assert_eq!(first.graphs, other.graphs);
        assert_eq!(first.report, other.report);
    }
}

/// Rules that find something in a golden model or in a graph of `tests/filetests/fuse`.
#[test]
fn every_rule_finds_something_somewhere() {
    let mut found = BTreeSet::new();
    for folder in golden_folders() {
        for activations in Activations::ALL {
            note(&imported(&folder, activations), &mut found);
        }
    }
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/filetests/fuse");
    for file in std::fs::read_dir(files).expect("filetests") {
        let text = std::fs::read_to_string(file.expect("entry").path()).expect("UTF-8");
        let input = text.split("; ---\n").next().expect("an input");
        note(&ir::text::read_graph(input).expect("a graph"), &mut found);
    }
    let idle: Vec<&str> = RULES.iter().map(|r| r.name).filter(|name| !found.contains(*name)).collect();
    assert_eq!(idle, Vec::<&str>::new());
}

/// Notes the rules that work on a graph, with those that change rounding and without.
fn note(graph: &Graph, found: &mut BTreeSet<String>) {
    for fusion in [Fusion::Exact, Fusion::Full] {
        found.extend(fused(graph, fusion).report.rules().into_iter().map(str::to_string));
    }
}

#[test]
fn a_node_is_explained_by_the_rules_that_made_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/aix");
    let graph = imported(&folder, Activations::F32);
    let buckets = [bucket(&graph, 1)];
    let explain = |node: &str| explain_by(&graph, &buckets, Fusion::Full, &LaunchCount, 0, node);
    let text = explain("layers.0.mlp.experts.gate_up").expect("an explanation");
    for rule in ["router-partials", "merge-experts-gate-up", "merge-route", "routed-gate-up"] {
        assert!(text.contains(rule), "{rule} is missing in\n{text}");
    }
    let text = explain("layers.0.self_attn.qkv").expect("an explanation");
    for rule in ["matmul-project", "split-project", "rope-heads", "merge-qkv"] {
        assert!(text.contains(rule), "{rule} is missing in\n{text}");
    }
    let unfused = explain("layers.0.attention").expect("an explanation");
    assert!(unfused.contains("stands in the model as it is"), "{unfused}");
    let unknown = explain("layers.9.gate_up").expect_err("no such node").to_string();
    assert!(unknown.contains("layers.0.mlp.experts.gate_up"), "{unknown}");
    assert!(explain("%100000").is_err());
}
