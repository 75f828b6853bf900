//! Products with what stands around them, and the gated half of a feed-forward network with its routing. One launch each.

use ir::graph::{Graph, Node, ValueId};
use ir::op::Op;
use ir::program::Arg;
use ir::types::Dim;
use kernels::cpu::gate_up::{ACTIVATIONS, SCORINGS};
use kernels::cpu::project::ROUTER_TYPES;

use super::source::Source;
use super::{Context, LowerError, Lowering, count, size};
use crate::target::Target;

/// `project`, in the place of the residual stream.
pub struct Project;

impl Lowering for Project {
    fn name(&self) -> &'static str {
        "project"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::Project)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let (w, source, out) = (c.operand_type(1).clone(), Source::of(c, 0), c.node().ty.shape.clone());
        let (router_rows, router_type) = router(c)?;
        let args = vec![
            ("x", source.x),
            ("w", c.read(1)),
            ("norm_weight", source.norm_weight),
            ("norm_bias", source.norm_bias),
            ("squares", c.read_optional(3)),
            ("bias", c.read_optional(2)),
            ("gate", c.read_optional(4)),
            ("residual", c.read_optional(5)),
            ("router_norm", c.read_optional(6)),
            ("router", c.read_optional(7)),
            ("out", c.result()),
            ("squares_out", c.further_result(1)),
            ("partials_out", c.further_result(2)),
            ("tokens", size(out[0])),
            ("rows", size(w.shape[0])),
            ("cols", size(w.shape[1])),
            ("norm", source.norm),
            ("router_rows", router_rows),
            ("router_type", router_type),
            ("eps", c.float("eps")),
            ("norm_eps", source.norm_eps),
            ("factor", c.float("factor")),
            ("softcap", c.float("softcap")),
        ];
        c.may_overwrite(5);
        c.launch("project", &format!("{}.{}", w.dtype, source.form), args)
    }

    fn carries_out(&self, inline: Op) -> bool {
        matches!(inline, Op::InlineNorm | Op::InlineQuantize)
    }
}

/// Rows and the type's number of the router whose partial sums are emitted.
fn router(c: &Context) -> Result<(Arg, Arg), LowerError> {
    if !c.has(7) {
        return Ok((count(0), count(0)));
    }
    let router = c.operand_type(7);
    match number(ROUTER_TYPES, &router.dtype) {
        Some(number) => Ok((size(router.shape[0]), number)),
        None => Err(c.error(format!("a router of {} emits no partial sums: use f32, f16 or bf16", router.dtype))),
    }
}

/// Where something stands in a list, as a launch numbers it.
fn number<T: PartialEq>(list: &[T], item: &T) -> Option<Arg> {
    list.iter().position(|i| i == item).map(|i| count(i as u64))
}

/// `gate_up`, `grouped_gate_up` and `routed_gate_up`: one kernel.
pub struct GateUp;

impl Lowering for GateUp {
    fn name(&self) -> &'static str {
        "gate_up"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        matches!(node.op(), Some(Op::GateUp | Op::GroupedGateUp | Op::RoutedGateUp))
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let routing = Routing::of(c);
        let (w, up) = (c.operand_type(1).clone(), c.operand_type(2).dtype);
        if up != w.dtype {
            return Err(
                c.error(format!("its matrices must have one format, not {} and {up}: leave them apart", w.dtype))
            );
        }
        let (form, mut args) = self.operands(c, &routing);
        args.extend(self.counts(c, &routing)?);
        c.launch("gate_up", &format!("{}.{form}", w.dtype), args)
    }

    fn carries_out(&self, inline: Op) -> bool {
        matches!(inline, Op::InlineNorm | Op::InlineQuantize | Op::InlineLogits)
    }
}

/// Number of the routing, and operands that not all three ops have.
struct Routing {
    number: u64,
    experts: Option<usize>,
    logits: Option<usize>,
    /// Of squares; both biases follow.
    squares: usize,
}

impl Routing {
    fn of(c: &Context) -> Routing {
        match c.node().op() {
            Some(Op::GroupedGateUp) => Routing { number: 1, experts: Some(3), logits: None, squares: 4 },
            Some(Op::RoutedGateUp) => Routing { number: 2, experts: None, logits: Some(3), squares: 4 },
            _ => Routing { number: 0, experts: None, logits: None, squares: 3 },
        }
    }
}

impl GateUp {
    /// The variant's word for x and all pointers.
    fn operands(&self, c: &mut Context, routing: &Routing) -> (String, Vec<(&'static str, Arg)>) {
        let (source, logits) = (Source::of(c, 0), Logits::of(c, routing.logits));
        let correction = if routing.logits.is_some() { c.read_optional(7) } else { Arg::Null };
        let args = vec![
            ("x", source.x),
            ("w_gate", c.read(1)),
            ("w_up", c.read(2)),
            ("experts", routing.experts.map_or(Arg::Null, |i| c.read(i))),
            ("norm_weight", source.norm_weight),
            ("norm_bias", source.norm_bias),
            ("squares", c.read_optional(routing.squares)),
            ("gate_bias", c.read_optional(routing.squares + 1)),
            ("up_bias", c.read_optional(routing.squares + 2)),
            ("logits", logits.logits),
            ("route_partials", logits.partials),
            ("route_squares", logits.squares),
            ("route_bias", logits.bias),
            ("correction", correction),
            ("out", c.result()),
            ("experts_out", c.further_result(1)),
            ("weights_out", c.further_result(2)),
        ];
        (source.form, args)
    }

    fn counts(&self, c: &Context, routing: &Routing) -> Result<Vec<(&'static str, Arg)>, LowerError> {
        let (source, logits) = (Source::of(c, 0), Logits::of(c, routing.logits));
        let (x, w, out) = (c.operand_type(0), c.operand_type(1).shape.clone(), c.node().ty.shape.clone());
        let (slots, matrices) = if routing.number == 0 { (Dim::Const(1), Dim::Const(1)) } else { (out[1], w[0]) };
        let [rows, cols] = [w[w.len() - 2], w[w.len() - 1]];
        let named = |attribute: &str, list: &[&str]| {
            let word = c.node().word(attribute).unwrap_or(list[0]);
            number(list, &word).ok_or_else(|| c.error(format!("no kernel has the {attribute} {word:?}")))
        };
        Ok(vec![
            ("tokens", size(out[0])),
            ("slots", size(slots)),
            ("matrices", size(matrices)),
            ("rows", size(rows)),
            ("cols", size(cols)),
            ("slots_share_x", count(u64::from(routing.number != 0 && x.shape.len() == 2))),
            ("activation", named("activation", ACTIVATIONS)?),
            ("norm", source.norm),
            ("routing", count(routing.number)),
            ("scoring", named("scoring", SCORINGS)?),
            ("groups", c.int("groups")),
            ("top_groups", c.int("top_groups")),
            ("renormalise", c.flag("renormalise")),
            ("route_width", logits.width),
            ("eps", c.float("eps")),
            ("norm_eps", source.norm_eps),
            ("limit", c.float("limit")),
            ("route_eps", logits.eps),
            ("scale", c.float("scale")),
            ("jitter", c.float("jitter")),
        ])
    }
}

/// `route`: one launch with both results.
pub struct Route;

impl Lowering for Route {
    fn name(&self) -> &'static str {
        "route"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::Route)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let logits = Logits::of(c, Some(0));
        let (shape, selected) = (c.operand_type(0).shape.clone(), c.node().ty.shape.clone());
        let scoring = c.node().word("scoring").unwrap_or_default().to_string();
        let args = vec![
            ("logits", logits.logits),
            ("partials", logits.partials),
            ("squares", logits.squares),
            ("logits_bias", logits.bias),
            ("bias", c.read_optional(1)),
            ("selected", c.result()),
            ("weights", c.further_result(1)),
            ("tokens", size(shape[0])),
            ("experts", size(shape[1])),
            ("slots", size(selected[1])),
            ("groups", c.int("groups")),
            ("top_groups", c.int("top_groups")),
            ("renormalise", c.flag("renormalise")),
            ("width", logits.width),
            ("eps", logits.eps),
            ("scale", c.float("scale")),
            ("jitter", c.float("jitter")),
        ];
        c.launch("route", &scoring, args)
    }

    fn carries_out(&self, inline: Op) -> bool {
        inline == Op::InlineLogits
    }
}

/// Where a launch finds a router's logits: as they are, or by what the launch itself makes them of.
struct Logits {
    logits: Arg,
    partials: Arg,
    squares: Arg,
    bias: Arg,
    width: Arg,
    eps: Arg,
}

impl Logits {
    /// Those of operand `i`, if the op has logits.
    fn of(c: &Context, i: Option<usize>) -> Logits {
        let null = || Arg::Null;
        let (logits, partials, squares, bias) = (null(), null(), null(), null());
        let none = Logits { logits, partials, squares, bias, width: count(0), eps: Arg::Float(0.0) };
        let Some(value) = i.map(|i| c.operand(i)) else { return none };
        let node = c.definition(value);
        if node.op() != Some(Op::InlineLogits) {
            return Logits { logits: c.read_value(value), ..none };
        }
        let read = |value: Option<ValueId>| value.map_or(Arg::Null, |v| c.read_value(v));
        Logits {
            logits: Arg::Null,
            partials: read(node.operand(0)),
            squares: read(node.operand(1)),
            bias: read(node.operand(2)),
            width: count(node.int("width").map_or(0, i64::unsigned_abs)),
            eps: Arg::Float(node.float("eps").unwrap_or(0.0) as f32),
        }
    }
}
