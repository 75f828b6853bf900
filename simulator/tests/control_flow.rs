//! Random control flow: kernels of branches and loops run by a warp against the same program run lane by lane. Each lane must take its own
//! path with its own numbers, and lanes that stand at one place of one iteration must stand there together.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use simulator::{Access, Launch, Memory, Module, run};
use support::{Params, everything, kernel, read_words, words};

const LANES: usize = 32;

/// What a lane's number becomes in a piece of straight-line code.
fn step(number: u32, salt: u32) -> u32 {
    number.wrapping_mul(1_664_525).wrapping_add(salt)
}

fn step_text(salt: u32) -> String {
    format!("mad.lo.u32 %r1, %r1, 1664525, {salt};\n")
}

fn bit(number: u32, bit: u32) -> bool {
    number >> bit & 1 == 1
}

/// Sets `%p0` to a bit of the lane's number.
fn bit_text(bit: u32) -> String {
    format!("bfe.u32 %r4, %r1, {bit}, 1; setp.ne.u32 %p0, %r4, 0;\n")
}

/// First numbers of the lanes, of which `groups` differ: 1 makes all branches uniform.
fn first_numbers() -> impl Strategy<Value = Vec<u32>> {
    (prop::sample::select(vec![1usize, 2, 4, 32, 32]), any::<u32>()).prop_map(|(groups, seed)| {
        (0..LANES).map(|lane| step(step((lane * groups / LANES) as u32, seed), seed) ^ seed >> 7).collect()
    })
}

/// Runs `body` with the lanes' numbers in `%r1` and `%rd1` at the lane's own `stride` bytes, of which it gives the words.
fn run_lanes(body: &str, numbers: &[u32], stride: usize) -> Vec<Vec<u32>> {
    let text = kernel(&format!(
        "mad.wide.u32 %rd2, %r0, 4, %rd0; ld.global.u32 %r1, [%rd2];\n\
         add.s64 %rd1, %rd0, {}; mad.wide.u32 %rd1, %r0, {stride}, %rd1;\n{body}",
        4 * LANES
    ));
    let module = Module::parse(&text, "flow.ptx").unwrap();
    let mut memory = Memory::new();
    let mut first = words(numbers);
    first.resize(4 * LANES + LANES * stride, 0);
    let count = first.len() / 4;
    let buffer = memory.allocate_with("lanes", first, Access::ReadWrite);
    let launch = Launch::new([1, 1, 1], [LANES as u32, 1, 1], Params::new().pointer(buffer).bytes(8));
    let report = run(&module, "k", &launch, &mut memory, &everything()).unwrap();
    assert!(report.findings.is_empty(), "{}\n{text}", report.findings[0]);
    let all = read_words(&memory, buffer, count);
    all[LANES..].chunks(stride / 4).map(<[u32]>::to_vec).collect()
}

/// Structured code. Conditions are bits of the lane's number, which each piece of code changes.
#[derive(Clone, Debug)]
enum Node {
    Work(u32),
    /// `far` puts the first arm behind the kernel's end, where compilers put what is rare.
    If {
        bit: u32,
        then: Vec<Node>,
        other: Vec<Node>,
        far: bool,
    },
    /// As many iterations as two bits of the lane's number at the start say; `tested_last` runs the body once more.
    Loop {
        bit: u32,
        body: Vec<Node>,
        tested_last: bool,
    },
    /// Where the bit is set. Outside of loops the first two do nothing.
    Break(u32),
    Continue(u32),
    Return(u32),
}

/// How a piece of code ends for one lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Next,
    Break,
    Continue,
    Return,
}

/// A place in the program and the iterations of the loops around it, in the order in which lanes see them.
type Visit = Vec<u32>;

/// One lane alone.
struct Lane {
    number: u32,
    iterations: Vec<u32>,
    seen: Vec<(Visit, u32)>,
    /// Places of the nodes around the current one among their siblings.
    path: Vec<u32>,
}

impl Lane {
    fn run(&mut self, nodes: &[Node]) -> End {
        for (at, node) in nodes.iter().enumerate() {
            self.path.push(at as u32);
            let end = self.node(node);
            if end == End::Next {
                let visit = self.path.iter().chain([&u32::MAX]).chain(&self.iterations).copied().collect();
                self.seen.push((visit, self.number));
            }
            self.path.pop();
            if end != End::Next {
                return end;
            }
        }
        End::Next
    }

    fn node(&mut self, node: &Node) -> End {
        let in_loop = !self.iterations.is_empty();
        match node {
            Node::Work(salt) => self.number = step(self.number, *salt),
            Node::If { bit: b, then, other, .. } => {
                let taken = bit(self.number, *b);
                self.path.push(u32::from(taken));
                let end = self.run(if taken { then } else { other });
                self.path.pop();
                return end;
            }
            Node::Loop { bit, body, tested_last } => return self.repeat(*bit, body, *tested_last),
            Node::Break(b) if in_loop && bit(self.number, *b) => return End::Break,
            Node::Continue(b) if in_loop && bit(self.number, *b) => return End::Continue,
            Node::Return(b) if bit(self.number, *b) => return End::Return,
            _ => {}
        }
        End::Next
    }

    fn repeat(&mut self, bit: u32, body: &[Node], tested_last: bool) -> End {
        let count = (self.number >> bit & 3) + u32::from(tested_last);
        self.iterations.push(0);
        let mut end = End::Next;
        for iteration in 0..count {
            *self.iterations.last_mut().unwrap() = iteration;
            end = self.run(body);
            if matches!(end, End::Break | End::Return) {
                break;
            }
        }
        self.iterations.pop();
        if end == End::Return { End::Return } else { End::Next }
    }
}

/// The same as PTX.
#[derive(Default)]
struct Writer {
    text: String,
    far: String,
    labels: u32,
    /// Labels that `continue` and `break` go to.
    loops: Vec<(u32, u32)>,
}

impl Writer {
    fn label(&mut self) -> u32 {
        self.labels += 1;
        self.labels
    }

    fn add(&mut self, text: String) {
        self.text += &text;
        self.text.push('\n');
    }

    fn run(&mut self, nodes: &[Node]) {
        for node in nodes {
            self.node(node);
            self.add("activemask.b32 %r3; st.global.v2.u32 [%rd1], {%r3, %r1}; add.s64 %rd1, %rd1, 8;".into());
        }
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Work(salt) => self.add(step_text(*salt)),
            Node::If { bit, then, other, far } => self.choose(*bit, then, other, *far),
            Node::Loop { bit, body, tested_last } => self.repeat(*bit, body, *tested_last),
            Node::Break(bit) | Node::Continue(bit) => {
                let Some(&(next, end)) = self.loops.last() else { return };
                let target = if matches!(node, Node::Break(_)) { end } else { next };
                self.add(format!("{}@%p0 bra L{target};", bit_text(*bit)));
            }
            // Half of them as compilers do it, to the one `ret` of the kernel.
            Node::Return(bit) if bit % 2 == 0 => self.add(format!("{}@%p0 bra LEnd;", bit_text(*bit))),
            Node::Return(bit) => self.add(format!("{}@%p0 ret;", bit_text(*bit))),
        }
    }

    fn choose(&mut self, bit: u32, then: &[Node], other: &[Node], far: bool) {
        let (arm, end) = (self.label(), self.label());
        self.add(format!("{}@%p0 bra L{arm};", bit_text(bit)));
        self.run(other);
        if far {
            let near = std::mem::take(&mut self.text);
            self.add(format!("L{arm}:"));
            self.run(then);
            self.add(format!("bra L{end};"));
            self.far += &std::mem::replace(&mut self.text, near);
        } else {
            self.add(format!("bra L{end};\nL{arm}:"));
            self.run(then);
        }
        self.add(format!("L{end}:"));
    }

    fn repeat(&mut self, bit: u32, body: &[Node], tested_last: bool) {
        let (start, next, end) = (self.label(), self.label(), self.label());
        let left = 20 + self.loops.len();
        self.loops.push((next, end));
        self.add(format!("bfe.u32 %r{left}, %r1, {bit}, 2;"));
        if tested_last {
            self.add(format!("add.u32 %r{left}, %r{left}, 1;\nL{start}:"));
        } else {
            self.add(format!("L{start}: setp.eq.u32 %p1, %r{left}, 0; @%p1 bra L{end};"));
        }
        self.run(body);
        self.add(format!("L{next}: sub.u32 %r{left}, %r{left}, 1;"));
        match tested_last {
            true => self.add(format!("setp.ne.u32 %p1, %r{left}, 0; @%p1 bra L{start};")),
            false => self.add(format!("bra L{start};")),
        }
        self.add(format!("L{end}:"));
        self.loops.pop();
    }
}

/// Pieces of code nested `depth` deep, with jumps out of the middle or without.
fn nodes(depth: u32, jumps: bool) -> BoxedStrategy<Vec<Node>> {
    let work = any::<u32>().prop_map(|salt| Node::Work(salt | 1));
    let jump = (0u32..4, 8u32..32).prop_map(move |(kind, bit)| match kind {
        _ if !jumps => Node::Work(bit),
        0 => Node::Return(bit),
        1 => Node::Continue(bit),
        _ => Node::Break(bit),
    });
    let node = if depth == 0 {
        prop_oneof![work, jump].boxed()
    } else {
        let inner = move || nodes(depth - 1, jumps);
        let choice = (8u32..32, inner(), inner(), any::<bool>()).prop_map(|(bit, then, other, far)| Node::If {
            bit,
            then,
            other,
            far,
        });
        let repeat = (8u32..30, inner(), any::<bool>()).prop_map(|(bit, body, tested_last)| Node::Loop {
            bit,
            body,
            tested_last,
        });
        prop_oneof![1 => work, 1 => jump, 2 => choice, 2 => repeat].boxed()
    };
    prop::collection::vec(node, 1..4).boxed()
}

/// Lanes agree with themselves alone, and at each visit stand all lanes that make it.
fn check_structured(program: &[Node], numbers: &[u32]) {
    let lanes: Vec<Lane> = numbers
        .iter()
        .map(|&number| {
            let mut lane = Lane { number, iterations: vec![], seen: vec![], path: vec![] };
            lane.run(program);
            lane
        })
        .collect();
    let mut together: BTreeMap<&Visit, u32> = BTreeMap::new();
    for (at, lane) in lanes.iter().enumerate() {
        lane.seen.iter().for_each(|(visit, _)| *together.entry(visit).or_default() |= 1 << at);
    }
    let mut writer = Writer::default();
    writer.run(program);
    let body = format!("{}LEnd: ret;\n{}", writer.text, writer.far);
    let stride = 8 * lanes.iter().map(|l| l.seen.len()).max().unwrap_or(0) + 8;
    let got = run_lanes(&body, numbers, stride);
    for (at, lane) in lanes.iter().enumerate() {
        let mut expected: Vec<u32> = lane.seen.iter().flat_map(|(visit, number)| [together[visit], *number]).collect();
        expected.resize(stride / 4, 0);
        assert_eq!(got[at], expected, "lane {at} of {program:?}\n{body}");
    }
}

/// A graph's block ends with one of these; targets count blocks, conditions are bits of the lane's number.
#[derive(Clone, Debug)]
enum Jump {
    /// To a later block or on.
    Forward { to: usize, bit: u32 },
    /// To one of two later blocks.
    Either { to: [usize; 2], bit: u32 },
    /// To this or an earlier block, while the lane has any of its jumps back left, or on.
    Back { to: usize, bit: u32 },
    /// On, for lanes that do not end here.
    Return(u32),
    /// Ends all, or those that `to` does not take.
    ReturnOrForward { to: usize, bit: u32 },
}

/// Jumps back that a lane may take.
fn jumps_back(number: u32) -> u32 {
    number >> 20 & 15
}

impl Jump {
    /// From `kind` and numbers of any size, for block `at` of `count` that are followed by the last.
    fn new(at: usize, count: usize, [kind, bit, p, q]: [u32; 4]) -> Jump {
        let later = |n: u32| at + 1 + n as usize % (count - at);
        match kind % 9 {
            0..=2 => Jump::Forward { to: later(p), bit },
            3 | 4 => Jump::Either { to: [later(p), later(q)], bit },
            5 | 6 => Jump::Back { to: p as usize % (at + 1), bit },
            7 => Jump::Return(bit),
            _ => Jump::ReturnOrForward { to: later(p), bit },
        }
    }

    /// Where a lane goes from block `at`; `None` ends it.
    fn follow(&self, at: usize, number: u32, left: &mut u32) -> Option<usize> {
        match *self {
            Jump::Forward { to, bit: b } => Some(if bit(number, b) { to } else { at + 1 }),
            Jump::Either { to, bit: b } => Some(if bit(number, b) { to[0] } else { to[1] }),
            Jump::Back { to, bit: b } => {
                let taken = bit(number, b) && *left > 0;
                *left -= u32::from(taken);
                Some(if taken { to } else { at + 1 })
            }
            Jump::Return(b) => (!bit(number, b)).then_some(at + 1),
            Jump::ReturnOrForward { to, bit: b } => bit(number, b).then_some(to),
        }
    }

    fn text(&self) -> String {
        match *self {
            Jump::Forward { to, bit } => format!("{}@%p0 bra B{to};", bit_text(bit)),
            Jump::Either { to: [p, q], bit } => format!("{}@%p0 bra B{p}; bra.uni B{q};", bit_text(bit)),
            Jump::Back { to, bit } => {
                format!("{}setp.ne.and.u32 %p0, %r5, 0, %p0; @%p0 sub.u32 %r5, %r5, 1; @%p0 bra B{to};", bit_text(bit))
            }
            Jump::Return(bit) => format!("{}@%p0 ret;", bit_text(bit)),
            Jump::ReturnOrForward { to, bit } => format!("{}@%p0 bra B{to}; ret;", bit_text(bit)),
        }
    }

    fn successors(&self, at: usize) -> Vec<usize> {
        match *self {
            Jump::Forward { to, .. } | Jump::Back { to, .. } => vec![to, at + 1],
            Jump::Either { to, .. } => to.to_vec(),
            Jump::Return(_) => vec![at + 1],
            Jump::ReturnOrForward { to, .. } => vec![to],
        }
    }
}

/// Whether no lane can be in block `at` twice: nothing leads from it to itself.
fn once(graph: &[Jump], at: usize) -> bool {
    let mut reached = vec![false; graph.len() + 1];
    let mut pending = vec![at];
    while let Some(from) = pending.pop() {
        for to in graph.get(from).map_or(vec![], |jump| jump.successors(from)) {
            if !std::mem::replace(&mut reached[to], true) {
                pending.push(to);
            }
        }
    }
    !reached[at]
}

/// The blocks one lane enters, with its number behind each.
fn walk(graph: &[Jump], mut number: u32) -> Vec<(usize, u32)> {
    let mut left = jumps_back(number);
    let mut seen = Vec::new();
    let mut at = Some(0);
    while let Some(block) = at {
        number = step(number, 2 * block as u32 + 1);
        seen.push((block, number));
        at = graph.get(block).and_then(|jump| jump.follow(block, number, &mut left));
    }
    seen
}

/// Lanes agree with themselves alone, and in each block that loops do not hold all are together that ever enter it.
fn check_graph(graph: &[Jump], numbers: &[u32]) {
    let lanes: Vec<_> = numbers.iter().map(|&number| walk(graph, number)).collect();
    let mut body = String::from("bfe.u32 %r5, %r1, 20, 4;\n");
    let mut members = vec![0u32; graph.len() + 1];
    for (lane, seen) in lanes.iter().enumerate() {
        seen.iter().for_each(|(block, _)| members[*block] |= 1 << lane);
    }
    for (block, &entering) in members.iter().enumerate() {
        body += &format!("B{block}: {}", step_text(2 * block as u32 + 1));
        // A vote whose mask names lanes that are elsewhere, or not all that are here, is a finding.
        if once(graph, block) && entering != 0 {
            body += &format!("setp.eq.u32 %p1, %r0, %r0; vote.sync.all.pred %p1, %p1, {entering};\n");
        }
        body += "st.global.u32 [%rd1], %r1; add.s64 %rd1, %rd1, 4;\n";
        body += &graph.get(block).map_or("ret;".into(), Jump::text);
        body.push('\n');
    }
    let stride = 4 * lanes.iter().map(Vec::len).max().unwrap_or(0) + 4;
    let got = run_lanes(&body, numbers, stride);
    for (at, seen) in lanes.iter().enumerate() {
        let mut expected: Vec<u32> = seen.iter().map(|(_, number)| *number).collect();
        expected.resize(stride / 4, 0);
        assert_eq!(got[at], expected, "lane {at} of {graph:?}\n{body}");
    }
}

/// Graphs of 1 to 14 blocks and the last.
fn graphs() -> impl Strategy<Value = Vec<Jump>> {
    prop::collection::vec((0u32..9, 8u32..32, any::<u32>(), any::<u32>()), 1..15).prop_map(|all| {
        let count = all.len();
        all.into_iter().enumerate().map(|(at, (kind, bit, p, q))| Jump::new(at, count, [kind, bit, p, q])).collect()
    })
}

/// A loop of bytes in a branch of a loop that the branch may leave: its arms meet where lanes that go on go on, not behind the outer loop.
#[test]
fn lanes_meet_though_an_arm_may_leave_the_loop_around_it() {
    let bytes = Node::Loop { bit: 13, body: vec![Node::Work(5)], tested_last: false };
    let branch = Node::If { bit: 9, then: vec![bytes, Node::Break(17)], other: vec![Node::Work(3)], far: false };
    let program = [Node::Loop { bit: 20, body: vec![branch, Node::Work(7)], tested_last: true }];
    let numbers: Vec<u32> = (0..LANES as u32).map(|lane| step(step(lane, 1), 11)).collect();
    check_structured(&program, &numbers);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn lanes_meet_behind_branches_and_loops(program in nodes(3, false), numbers in first_numbers()) {
        check_structured(&program, &numbers);
    }

    #[test]
    fn lanes_meet_despite_jumps_out_of_the_middle(program in nodes(3, true), numbers in first_numbers()) {
        check_structured(&program, &numbers);
    }

    #[test]
    fn lanes_meet_in_any_graph(graph in graphs(), numbers in first_numbers()) {
        check_graph(&graph, &numbers);
    }
}
