//! Launches of `router`, `router_weights` and `route`.

use super::{Case, noise};

/// The variants.
pub const SCORINGS: [&str; 3] = ["softmax", "sigmoid", "sparsemixer"];

/// What a token is routed by, and how.
#[derive(Clone, Debug)]
pub struct Routing {
    pub scoring: &'static str,
    pub tokens: usize,
    pub experts: usize,
    pub slots: usize,
    pub groups: [usize; 2],
    pub corrected: bool,
    pub renormalise: bool,
    pub jitter: f32,
    pub seed: u64,
}

/// Every third logit repeats one before it, so that there are equals; some are infinite or no number.
pub fn logits(routing: &Routing) -> Vec<f32> {
    let mut logits: Vec<f32> = noise(routing.seed, routing.tokens * routing.experts).iter().map(|x| 3.0 * x).collect();
    for i in (3..logits.len()).step_by(3) {
        logits[i] = logits[i - 2];
    }
    if routing.seed.is_multiple_of(4) && logits.len() > 5 {
        (logits[1], logits[4], logits[5]) = (f32::NEG_INFINITY, f32::NAN, -0.0);
    }
    logits
}

pub fn router(routing: &Routing) -> Case {
    let case = Case::new("router", routing.scoring)
        .input("logits", &logits(routing))
        .output::<i32>("out", routing.tokens * routing.slots)
        .count("tokens", routing.tokens)
        .count("experts", routing.experts)
        .count("slots", routing.slots)
        .count("groups", routing.groups[0])
        .count("top_groups", routing.groups[1]);
    if routing.corrected { case.input("bias", &noise(routing.seed ^ 1, routing.experts)) } else { case }
}

pub fn router_weights(routing: &Routing, selected: &[i32]) -> Case {
    Case::new("router_weights", routing.scoring)
        .input("logits", &logits(routing))
        .input("selected", selected)
        .output::<f32>("out", selected.len())
        .count("tokens", routing.tokens)
        .count("experts", routing.experts)
        .count("slots", routing.slots)
        .count("renormalise", routing.renormalise.into())
        .number("scale", 1.5)
        .number("jitter", routing.jitter)
}

/// Of logits, or of partial sums of `width` columns.
pub fn route(routing: &Routing, width: Option<usize>) -> Case {
    let pairs = routing.tokens * routing.slots;
    let mut case = Case::new("route", routing.scoring)
        .output::<i32>("selected", pairs)
        .output::<f32>("weights", pairs)
        .count("tokens", routing.tokens)
        .count("experts", routing.experts)
        .count("slots", routing.slots)
        .count("groups", routing.groups[0])
        .count("top_groups", routing.groups[1])
        .count("renormalise", routing.renormalise.into())
        .number("eps", 1e-5)
        .number("scale", 2.5)
        .number("jitter", routing.jitter);
    if routing.corrected {
        case = case.input("bias", &noise(routing.seed ^ 1, routing.experts));
    }
    let Some(width) = width else { return case.input("logits", &logits(routing)) };
    let panels = width.div_ceil(16);
    let squares: Vec<f32> = noise(routing.seed ^ 2, routing.tokens * panels).iter().map(|x| x * x).collect();
    case.input("partials", &noise(routing.seed ^ 3, routing.tokens * panels * routing.experts))
        .input("squares", &squares)
        .input("logits_bias", &noise(routing.seed ^ 4, routing.experts))
        .count("width", width)
}
