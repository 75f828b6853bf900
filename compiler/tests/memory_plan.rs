//! The scheduler and the planner on random programs: the verifier accepts every plan, and every launch reads what it would read if
//! each buffer had a place of its own. And on every fixture and preset: the arena is within 2 % of the largest live set.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use std::path::{Path, PathBuf};

use compiler::fuse::Fusion;
use compiler::lower::{InPlace, Lowered, Registry};
use compiler::pipeline::{CompileOptions, compile_programs};
use compiler::target::{Activations, Target};
use compiler::{plan, schedule};
use ir::program::{ALIGNMENT, Access, Arg, Binding, Buffer, BufferId, Launch, Program};
use ir::types::{DType, Dim, Symbol, SymbolId, TensorType};
use ir::verify::verify_program;
use models::Checkpoint;
use models::synth::{PRESETS, preset};
use proptest::prelude::*;

/// One launch: how many elements its result has, which earlier results it reads, whether it may overwrite its first operand,
/// and whether it touches the state.
#[derive(Clone, Debug)]
struct Step {
    size: u64,
    reads: Vec<usize>,
    in_place: bool,
    state: Option<Access>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let state = prop_oneof![4 => Just(None), 1 => Just(Some(Access::Read)), 1 => Just(Some(Access::Update))];
    let step =
        (prop_oneof![Just(64u64), 1..2000u64], prop::collection::vec(any::<usize>(), 0..4), any::<bool>(), state)
            .prop_map(|(size, reads, in_place, state)| Step { size, reads, in_place, state });
    prop::collection::vec(step, 1..40)
}

fn lowered(steps: &[Step]) -> Lowered {
    let mut program = Program {
        name: "random".into(),
        symbols: vec![Symbol { name: "T".into(), min: 1, max: 3 }],
        states: vec![Binding { name: "kv.0".into(), ty: TensorType::new(DType::F32, [Dim::Const(8)]) }],
        ..Program::default()
    };
    let mut in_place = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let result = BufferId(i as u32);
        let mut args = vec![("out".to_string(), Arg::Buffer(result, Access::Write))];
        for (n, read) in step.reads.iter().enumerate().filter(|_| i > 0) {
            let operand = BufferId((read % i) as u32);
            args.push((format!("x{n}"), Arg::Buffer(operand, Access::Read)));
            if step.in_place {
                in_place.push(InPlace { launch: i, result, operand });
            }
        }
        args.extend(step.state.map(|access| ("kv".to_string(), Arg::State(0, access))));
        let ty = TensorType::new(DType::F32, [Dim::Sym(SymbolId(0)), Dim::Const(step.size)]);
        program.buffers.push(Buffer { ty, offset: 0 });
        program.launches.push(Launch { kernel: "k".into(), variant: String::new(), args, label: format!("{i}") });
    }
    program.outputs.push(("out".into(), BufferId(steps.len() as u32 - 1)));
    Lowered { program, in_place }
}

/// Executes a program on memory whose cells are the arena's aligned blocks: every launch writes a number that depends on its label and
/// on what it reads. Gives the number found in the output.
fn execute(program: &Program) -> u64 {
    let mut memory: HashMap<u64, u64> = HashMap::new();
    let bounds = program.upper_bounds();
    let cells = |id: &BufferId| {
        let buffer = &program.buffers[id.0 as usize];
        let blocks = buffer.ty.bytes(&bounds).unwrap().div_ceil(ALIGNMENT);
        (0..blocks).map(|b| buffer.offset / ALIGNMENT + b).collect::<Vec<_>>()
    };
    let read = |memory: &HashMap<u64, u64>, id: &BufferId| {
        let mut hash = DefaultHasher::new();
        cells(id).iter().map(|c| memory.get(c)).collect::<Vec<_>>().hash(&mut hash);
        hash.finish()
    };
    for launch in &program.launches {
        let mut hash = DefaultHasher::new();
        launch.label.hash(&mut hash);
        for (_, arg) in &launch.args {
            if let Arg::Buffer(id, Access::Read) = arg {
                read(&memory, id).hash(&mut hash);
            }
        }
        for (_, arg) in &launch.args {
            if let Arg::Buffer(id, Access::Write) = arg {
                memory.extend(cells(id).into_iter().map(|c| (c, hash.finish())));
            }
        }
    }
    read(&memory, &program.outputs[0].1)
}

/// The program with every buffer in a place of its own.
fn spread(mut program: Program) -> Program {
    let bounds = program.upper_bounds();
    let mut offset = 0;
    for buffer in &mut program.buffers {
        buffer.offset = offset;
        offset += buffer.ty.bytes(&bounds).unwrap().next_multiple_of(ALIGNMENT);
    }
    program
}

/// Positions of launches by label, and for each the labels of the launches it depends on through the state.
fn state_order(program: &Program) -> Vec<(String, Access)> {
    let touches = |l: &Launch| {
        l.args
            .iter()
            .find_map(|(_, a)| if let Arg::State(_, access) = a { Some((l.label.clone(), *access)) } else { None })
    };
    program.launches.iter().filter_map(touches).collect()
}

/// The updates before each read of the state, which reordering must keep.
fn updates_before_reads(program: &Program) -> std::collections::BTreeMap<String, usize> {
    let mut updates = 0;
    let mut seen = std::collections::BTreeMap::new();
    for (label, access) in state_order(program) {
        updates += usize::from(access != Access::Read);
        seen.insert(label, updates);
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_plan_is_valid_and_no_smaller_than_the_bound(steps in steps()) {
        let before = lowered(&steps);
        let states = updates_before_reads(&before.program);
        let bound = before.program.arena_lower_bound();
        let expected = execute(&spread(before.program.clone()));
        let scheduled = schedule::schedule(before);
        prop_assert!(scheduled.program.arena_lower_bound() <= bound);
        prop_assert_eq!(updates_before_reads(&scheduled.program), states);
        let program = plan::plan(scheduled).unwrap();
        verify_program(&program).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert!(program.arena_bytes >= program.arena_lower_bound());
        prop_assert_eq!(program.launches.len(), steps.len());
        prop_assert_eq!(execute(&program), expected);
    }

    #[test]
    fn the_same_program_gets_the_same_plan(steps in steps()) {
        let once = plan::plan(schedule::schedule(lowered(&steps))).unwrap();
        prop_assert_eq!(once, plan::plan(schedule::schedule(lowered(&steps))).unwrap());
    }
}

#[test]
fn a_chain_of_equal_results_needs_two_places_and_one_in_place() {
    let chain = |in_place| {
        let step =
            |i: usize| Step { size: 64, reads: if i == 0 { vec![] } else { vec![i - 1] }, in_place, state: None };
        plan::plan(lowered(&(0..6).map(step).collect::<Vec<_>>())).unwrap().arena_bytes
    };
    assert_eq!(chain(false), 2 * 768);
    assert_eq!(chain(true), 768);
}

/// Committed fixtures and those of `MOESAIC_GOLDEN`.
fn fixtures() -> Vec<PathBuf> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let more = std::env::var_os("MOESAIC_GOLDEN").map(PathBuf::from);
    let folders = [Some(committed), more].into_iter().flatten();
    let entries = folders.flat_map(|f| std::fs::read_dir(f).unwrap().map(|e| e.unwrap().path()));
    let mut fixtures: Vec<_> = entries.filter(|p| p.join("golden.safetensors").is_file()).collect();
    fixtures.sort();
    fixtures
}

fn programs(checkpoint: &Checkpoint, fusion: Fusion) -> Vec<Program> {
    let target = Target::Cpu;
    let options = CompileOptions { fusion, ..CompileOptions::new(target, Activations::default_for(target)) };
    compile_programs(checkpoint, &options, &Registry::default()).unwrap().unwrap().1
}

/// Every plan of every checkpoint; gives the largest ratio of arena and lower bound, and prints a line for each.
fn worst_ratio<'a>(checkpoints: impl Iterator<Item = (String, &'a Checkpoint)>, fusion: Fusion) -> f64 {
    let mut worst = 1.0f64;
    for (name, checkpoint) in checkpoints {
        for program in programs(checkpoint, fusion) {
            let (arena, bound) = (program.arena_bytes, program.arena_lower_bound());
            let ratio = arena as f64 / bound as f64;
            println!("{name:<28} {:<11} {arena:>12} {bound:>12} {ratio:.4}", program.name);
            worst = worst.max(ratio);
        }
    }
    worst
}

#[test]
fn arenas_of_fixtures_are_within_two_percent_of_the_bound() {
    let opened: Vec<_> = fixtures().iter().map(|f| (f.display().to_string(), Checkpoint::open(f).unwrap())).collect();
    assert!(opened.len() > 30);
    for fusion in [Fusion::Off, Fusion::Full] {
        let named = opened.iter().map(|(path, c)| (path.rsplit('/').next().unwrap_or(path).to_string(), c));
        let worst = worst_ratio(named, fusion);
        assert!(worst <= 1.02, "{fusion:?}: {worst}");
    }
}

#[test]
fn arenas_of_presets_are_within_two_percent_of_the_bound() {
    let described: Vec<_> = PRESETS.iter().map(|p| (p.name.to_string(), p.describe(None).unwrap())).collect();
    for fusion in [Fusion::Off, Fusion::Full] {
        let worst = worst_ratio(described.iter().map(|(name, c)| (name.clone(), c)), fusion);
        assert!(worst <= 1.02, "{fusion:?}: {worst}");
    }
}

/// More layers of the same kind live one after the other: the arena does not grow with them.
#[test]
fn the_arena_does_not_grow_with_the_number_of_layers() {
    let arenas = |layers| {
        let checkpoint = preset("aix-4b").unwrap().describe(Some(layers)).unwrap();
        programs(&checkpoint, Fusion::Full).iter().map(|p| p.arena_bytes).collect::<Vec<_>>()
    };
    assert_eq!(arenas(4), arenas(12));
}
