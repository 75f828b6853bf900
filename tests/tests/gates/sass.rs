//! What nvdisasm says of a cubin: the instructions of each function, and the loop in which the tensor cores work.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// The machine code of one function.
#[derive(Debug, Default)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Instructions in order, predicate first.
    instructions: Vec<String>,
    /// Index of the instruction behind each label.
    labels: HashMap<String, usize>,
}

/// The innermost loop with the most tensor-core instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    /// Its instructions.
    pub instructions: usize,
    /// Of those, how many multiply matrices.
    pub hmma: usize,
    /// Waits at a barrier; that a warp arrives at one for others to wait does not count.
    pub barriers: usize,
}

/// Loads of packed weights that pass by L1, or copies to shared memory, by width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightLoads {
    /// 128 bits a lane.
    pub wide: usize,
    /// All.
    pub all: usize,
}

impl WeightLoads {
    /// Percentage of the wide ones; `None` without any.
    pub fn percent(self) -> Option<usize> {
        (self.all > 0).then(|| self.wide * 100 / self.all)
    }
}

/// Disassembles a cubin with nvdisasm.
pub fn disassemble(nvdisasm: &Path, cubin: &Path) -> Vec<Function> {
    let output = Command::new(nvdisasm).arg("-c").arg(cubin).output().expect("nvdisasm starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(text: &str) -> Vec<Function> {
    let mut functions: Vec<Function> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix(".text.").and_then(|l| l.strip_suffix(':')) {
            functions.push(Function { name: name.into(), ..Function::default() });
        }
        let Some(function) = functions.last_mut() else { continue };
        if let Some(label) = line.strip_suffix(':').filter(|l| l.starts_with(".L_")) {
            function.labels.insert(label.into(), function.instructions.len());
        } else if let Some((_, instruction)) = line.strip_prefix("/*").and_then(|l| l.split_once("*/")) {
            // The second line of an instruction's encoding has no text.
            if let Some((text, _)) = instruction.split_once(';').filter(|(text, _)| !text.trim().is_empty()) {
                function.instructions.push(text.trim().into());
            }
        }
    }
    functions
}

/// The opcode of an instruction, with its modifiers.
fn opcode(instruction: &str) -> &str {
    let mut words = instruction.split_whitespace();
    let first = words.next().unwrap_or("");
    if first.starts_with('@') { words.next().unwrap_or("") } else { first }
}

impl Function {
    /// Instructions in all.
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// Instructions whose opcode begins with `prefix`.
    pub fn count(&self, prefix: &str) -> usize {
        self.instructions.iter().filter(|i| opcode(i).starts_with(prefix)).count()
    }

    /// Loads of weights and copies to shared memory.
    pub fn weight_loads(&self) -> WeightLoads {
        let mut loads = WeightLoads::default();
        for opcode in self.instructions.iter().map(|i| opcode(i)) {
            // Weights are what is loaded without a place in L1.
            let is_weights = opcode.starts_with("LDG.") && opcode.contains(".NA.") || opcode.starts_with("LDGSTS");
            loads.all += usize::from(is_weights);
            loads.wide += usize::from(is_weights && opcode.contains(".128"));
        }
        loads
    }

    /// The innermost loop with the most tensor-core instructions.
    pub fn tensor_loop(&self) -> Option<Loop> {
        let loops = self.instructions.iter().enumerate().filter_map(|(end, instruction)| {
            let label = instruction.split_once("`(")?.1.split_once(')')?.0;
            let start = *self.labels.get(label).filter(|s| opcode(instruction).starts_with("BRA") && **s <= end)?;
            let body = &self.instructions[start..=end];
            let count = |prefix: &str| body.iter().filter(|i| opcode(i).starts_with(prefix)).count();
            let (hmma, barriers) = (count("HMMA"), count("BAR.SYNC"));
            (hmma > 0).then_some(Loop { instructions: body.len(), hmma, barriers })
        });
        loops.max_by_key(|l| (l.hmma, std::cmp::Reverse(l.instructions)))
    }
}

#[test]
fn loops_and_loads_are_found() {
    let text = "
.text.k:
        /*0000*/                   LDG.E.NA.LTC128B.128.CONSTANT R4, desc[UR4][R2.64] ;  /* 0x1 */
                                                                                       /* 0x2 */
        /*0010*/              @!P0 LDG.E.NA.LTC128B.CONSTANT R8, desc[UR4][R2.64] ;
.L_x_1:
        /*0020*/                   IADD3 R1, R1, 1, RZ ;
.L_x_0:
        /*0030*/                   HMMA.16816.F32 R4, R8, R2, R4 ;
        /*0040*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0050*/              @!P1 BRA `(.L_x_0) ;
        /*0060*/              @!P2 BRA `(.L_x_1) ;
        /*0070*/                   EXIT ;
";
    let functions = parse(text);
    assert_eq!((functions.len(), functions[0].name.as_str(), functions[0].len()), (1, "k", 8));
    assert_eq!(functions[0].tensor_loop(), Some(Loop { instructions: 3, hmma: 1, barriers: 1 }));
    assert_eq!(functions[0].weight_loads(), WeightLoads { wide: 1, all: 2 });
    assert_eq!(functions[0].weight_loads().percent(), Some(50));
    assert_eq!(functions[0].count("BRA"), 2);
}
