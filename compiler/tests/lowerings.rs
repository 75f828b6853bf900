//! A user's own lowering takes part like a built-in one: asked first, checked against the catalog, errors at the node.

use std::path::Path;

use compiler::lower::{Context, LowerError, Lowering, Registry, count};
use compiler::pipeline::{CompileOptions, compile_programs};
use compiler::target::{Activations, Target};
use ir::graph::{Graph, Node};
use ir::op::Op;
use ir::program::{Arg, Program};
use models::Checkpoint;

/// Lowers additions as told.
struct OwnAdd(fn(&mut Context) -> Result<(), LowerError>);

impl Lowering for OwnAdd {
    fn name(&self) -> &'static str {
        "own add"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::Add)
    }

    fn lower(&self, context: &mut Context) -> Result<(), LowerError> {
        (self.0)(context)
    }
}

fn programs(lower: fn(&mut Context) -> Result<(), LowerError>) -> Result<Vec<Program>, String> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/smollm2");
    let checkpoint = Checkpoint::open(fixture).unwrap();
    let mut registry = Registry::default();
    registry.register(Box::new(OwnAdd(lower)));
    let options = CompileOptions::new(Target::Cpu, Activations::F32);
    match compile_programs(&checkpoint, &options, &registry) {
        Ok(compiled) => Ok(compiled.expect("all passes").1),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn a_lowering_registered_later_is_asked_first() {
    // a + b written without the permission to overwrite: other launches of the same kernel are in place.
    let own = programs(|c| {
        let elements = c.node().ty.shape.clone();
        let args = vec![
            ("a", c.read(1)),
            ("b", c.read(0)),
            ("out", c.result()),
            ("count", Arg::Size(elements)),
            ("limit", Arg::Float(0.0)),
            ("reserved", count(0)),
        ];
        c.launch("binary", "add", args)
    });
    let launches = own.unwrap().remove(0).launches;
    let adds: Vec<_> = launches.iter().filter(|l| l.kernel == "binary" && l.variant == "add").collect();
    assert_eq!(adds.len(), 4);
    for add in adds {
        let buffers: Vec<_> =
            add.args.iter().filter_map(|(_, a)| if let Arg::Buffer(id, _) = a { Some(id) } else { None }).collect();
        assert!(buffers[2] != buffers[0] && buffers[2] != buffers[1]);
    }
}

#[test]
fn what_the_catalog_does_not_have_is_an_error_at_the_node() {
    let error = programs(|c| c.launch("fused_add", "", vec![])).unwrap_err();
    assert!(error.contains("add layers.0.residual") && error.contains("no kernel fused_add"), "{error}");
    let error = programs(|c| c.launch("binary", "pow", vec![])).unwrap_err();
    assert!(error.contains("no variant \"pow\""), "{error}");
    let error = programs(|c| c.launch("binary", "add", vec![("count", count(1))])).unwrap_err();
    assert!(error.contains("takes (a, b, out, count, limit, reserved), not (count)"), "{error}");
    let error = programs(|_| Ok(())).unwrap_err();
    assert!(error.contains("own add gave no result"), "{error}");
}
