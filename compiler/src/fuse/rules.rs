//! Every rule, each one line under the line that states it.
//!
//! Terms are those of [`super::language`]: all operands of an op in the order of its table row, `_` for one left out, then all
//! attributes. A line is `kind "name": what is found => what is put in its place`, then attributes to work out and
//! conditions. Rules are directed: the right side is what a launch can carry out more of; which of the two is taken is
//! the cost's choice. `put` a name that was not found introduces a bundle.

use super::conditions::*;
use super::rule::{Exactness, Rule};

macro_rules! rules {
    ($($(#[doc = $statement:literal])+ $kind:ident $(($tolerance:literal))? $name:literal: $find:literal => $put:literal
        $(let $given:literal = $value:ident($($of_value:literal),*))* $(if $holds:ident($($of:literal),*))*;)+) => {
        /// Every rule. Exact ones work together on an e-graph; those that change rounding are tried in this order beforehand.
        pub static RULES: &[Rule] = &[$(Rule {
            name: $name,
            statement: concat!($($statement),+),
            exactness: Exactness::$kind $(($tolerance))?,
            find: $find,
            put: $put,
            lets: &[$(($given, $value, &[$($of_value),*])),*],
            conditions: &[$(($holds, &[$($of),*])),*],
        }),+];
    };
}

rules! {
    /// A cast to the type that a tensor has does nothing.
    Exact "cast-same": "(cast ?x ?t)" => "?x" if is_of_type("?x", "?t");
    /// f32 holds every number there is, so that a cast by way of it is a cast.
    Exact "cast-pair": "(cast (cast ?x f32) ?t)" => "(cast ?x ?t)";
    /// A second cast to the same type does nothing.
    Exact "cast-twice": "(cast (cast ?x ?t) ?t)" => "(cast ?x ?t)";
    /// A product reads a quantised matrix as it is stored.
    Exact "dequantise-in-product": "(matmul ?x (cast ?w f32) ?b)" => "(matmul ?x ?w ?b)" if is_weight_format("?w");
    /// The product of experts reads quantised matrices as they are stored.
    Exact "dequantise-in-experts": "(grouped_matmul ?x (cast ?w f32) ?e ?b)" => "(grouped_matmul ?x ?w ?e ?b)" if is_weight_format("?w");
    /// The product of heads reads quantised matrices as they are stored.
    Exact "dequantise-in-heads": "(head_matmul ?x (cast ?w f32))" => "(head_matmul ?x ?w)" if is_weight_format("?w");
    /// The embedding reads a quantised table as it is stored.
    Exact "dequantise-in-embedding": "(embedding (cast ?w f32) ?i)" => "(embedding ?w ?i)" if is_weight_format("?w");
    /// A factor of one does nothing.
    Exact "scale-by-one": "(scale ?x 1.0)" => "?x";
    /// Heads split and merged again are the rows they were.
    Exact "merge-split": "(merge_heads (split_heads ?x ?h))" => "?x";

    /// A product is a projection with nothing after it.
    Exact "matmul-project": "(matmul ?x ?w ?b)" => "(project ?x ?w ?b _ _ _ _ _ 0.0 1.0 0.0 none)";
    /// The scale of rows by their squares, and the bias after it, are part of the projection.
    Exact "scale-rows-project": "(scale_rows (project ?x ?w _ _ _ _ _ _ 0.0 1.0 0.0 none) ?s ?b ?n ?e)" => "(project ?x ?w ?b ?s _ _ _ _ ?e 1.0 0.0 none)" if is_width_of("?n", "?x");
    /// The sigmoid gate of a token is part of the projection.
    Exact "gate-project": "(sigmoid_gate (project ?x ?w ?b ?s _ _ _ _ ?e 1.0 0.0 none) ?g)" => "(project ?x ?w ?b ?s ?g _ _ _ ?e 1.0 0.0 none)";
    /// A factor is part of the projection.
    Exact "scale-project": "(scale (project ?x ?w ?b ?s ?g _ _ _ ?e 1.0 0.0 none) ?f)" => "(project ?x ?w ?b ?s ?g _ _ _ ?e ?f 0.0 none)";
    /// A soft cap is part of the projection.
    Exact "softcap-project": "(softcap (project ?x ?w ?b ?s ?g _ _ _ ?e ?f 0.0 none) ?c)" => "(project ?x ?w ?b ?s ?g _ _ _ ?e ?f ?c none)" if is_positive("?c");
    /// The residual stream is added by the projection.
    Exact "residual-project": "(add ?r (project ?x ?w ?b ?s ?g _ _ _ ?e ?f ?c none))" => "(project ?x ?w ?b ?s ?g ?r _ _ ?e ?f ?c none)";
    /// The residual stream is added by the projection, whichever comes first.
    Exact "project-residual": "(add (project ?x ?w ?b ?s ?g _ _ _ ?e ?f ?c none) ?r)" => "(project ?x ?w ?b ?s ?g ?r _ _ ?e ?f ?c none)";
    /// The squares of what a projection gives are summed as it is stored.
    Exact "squares-project": "?y = (project ?x ?w ?b ?s ?g ?r _ _ ?e ?f ?c none), ?q = (square_sums ?y)" => "?p = (project ?x ?w ?b ?s ?g ?r _ _ ?e ?f ?c squares), ?y = (part ?p 0), ?q = (part ?p 1)";
    /// Beside the squares of what a projection gives, its products with the next router's matrix are summed as it is stored.
    Exact "router-project": "?p = (project ?x ?w ?b ?s ?g ?r _ _ ?e ?f ?c squares), ?y = (part ?p 0), ?q = (part ?p 1), ?l = (column_partials ?y ?n ?m)" => "?t = (project ?x ?w ?b ?s ?g ?r ?n ?m ?e ?f ?c router), ?y = (part ?t 0), ?q = (part ?t 1), ?l = (part ?t 2)" if is_floats("?m");

    /// A projection computes the RMS norm of its input on the way.
    Exact "inline-rms-project": "(project (rms_norm ?x ?n ?ne) ?w ?b _ ?g ?r ?rn ?rm ?e ?f ?c ?m)" => "(project (inline_norm ?x ?n _ rms ?ne) ?w ?b _ ?g ?r ?rn ?rm ?e ?f ?c ?m)";
    /// A projection computes the layer norm of its input on the way.
    Exact "inline-layer-project": "(project (layer_norm ?x ?n ?nb ?ne) ?w ?b _ ?g ?r ?rn ?rm ?e ?f ?c ?m)" => "(project (inline_norm ?x ?n ?nb layer ?ne) ?w ?b _ ?g ?r ?rn ?rm ?e ?f ?c ?m)";
    /// A projection multiplies its input by a norm's weight on the way.
    Exact "inline-scale-project": "(project (scale_columns ?x ?n) ?w ?b ?s ?g ?r ?rn ?rm ?e ?f ?c ?m)" => "(project (inline_norm ?x ?n _ scale 0.0) ?w ?b ?s ?g ?r ?rn ?rm ?e ?f ?c ?m)";
    /// A projection rounds its input on the way.
    Exact "inline-quantize-project": "(project (quantize_rows ?x ?q) ?w ?b ?s ?g ?r ?rn ?rm ?e ?f ?c ?m)" => "(project (inline_quantize ?x ?q) ?w ?b ?s ?g ?r ?rn ?rm ?e ?f ?c ?m)";
    /// A projection computes the RMS norm before it rounds.
    Exact "inline-rms-quantize-project": "(project (inline_quantize (rms_norm ?x ?n ?ne) ?q) ?w ?b _ ?g ?r ?rn ?rm ?e ?f ?c ?m)" => "(project (inline_quantize (inline_norm ?x ?n _ rms ?ne) ?q) ?w ?b _ ?g ?r ?rn ?rm ?e ?f ?c ?m)";
    /// A projection computes the layer norm before it rounds.
    Exact "inline-layer-quantize-project": "(project (inline_quantize (layer_norm ?x ?n ?nb ?ne) ?q) ?w ?b _ ?g ?r ?rn ?rm ?e ?f ?c ?m)" => "(project (inline_quantize (inline_norm ?x ?n ?nb layer ?ne) ?q) ?w ?b _ ?g ?r ?rn ?rm ?e ?f ?c ?m)";
    /// A projection multiplies by a norm's weight before it rounds.
    Exact "inline-scale-quantize-project": "(project (inline_quantize (scale_columns ?x ?n) ?q) ?w ?b ?s ?g ?r ?rn ?rm ?e ?f ?c ?m)" => "(project (inline_quantize (inline_norm ?x ?n _ scale 0.0) ?q) ?w ?b ?s ?g ?r ?rn ?rm ?e ?f ?c ?m)";

    /// An RMS norm and the rounding after it are one launch.
    Exact "rms-quantize": "(quantize_rows (rms_norm ?x ?n ?e) ?q)" => "(norm_quantize ?x ?n _ rms ?e ?q)";
    /// A layer norm and the rounding after it are one launch.
    Exact "layer-quantize": "(quantize_rows (layer_norm ?x ?n ?b ?e) ?q)" => "(norm_quantize ?x ?n ?b layer ?e ?q)";
    /// The product with a norm's weight and the rounding after it are one launch.
    Exact "scale-quantize": "(quantize_rows (scale_columns ?x ?n) ?q)" => "(norm_quantize ?x ?n _ scale 0.0 ?q)";
    /// An RMS norm is added to the residual stream where it is computed.
    Exact "residual-norm": "(add ?r (rms_norm ?x ?n ?e))" => "(norm_add ?x ?n ?r ?e 1.0 none)";
    /// An RMS norm is added to the residual stream, whichever comes first.
    Exact "norm-residual": "(add (rms_norm ?x ?n ?e) ?r)" => "(norm_add ?x ?n ?r ?e 1.0 none)";
    /// An RMS norm is multiplied by a factor and added to the residual stream where it is computed.
    Exact "residual-norm-scale": "(add ?r (scale (rms_norm ?x ?n ?e) ?f))" => "(norm_add ?x ?n ?r ?e ?f none)";
    /// The squares of a residual stream are summed where a norm is added to it.
    Exact "squares-norm-add": "?y = (norm_add ?x ?n ?r ?e ?f none), ?q = (square_sums ?y)" => "?p = (norm_add ?x ?n ?r ?e ?f squares), ?y = (part ?p 0), ?q = (part ?p 1)";

    /// A projection seen as heads is one.
    Exact "split-project": "(split_heads (project ?x ?w ?b ?s _ _ _ _ ?e 1.0 0.0 none) ?h)" => "(project_heads ?x ?w ?b ?s _ _ _ _ ?h ?e 0.0 false 1.0)";
    /// Heads are normalised by the projection.
    Exact "norm-heads": "(rms_norm (project_heads ?x ?w ?b ?s _ _ _ _ ?h ?e 0.0 false 1.0) ?n ?ne)" => "(project_heads ?x ?w ?b ?s ?n _ _ _ ?h ?e ?ne false 1.0)";
    /// Heads are turned by their position by the projection.
    Exact "rope-heads": "(rope (project_heads ?x ?w ?b ?s ?n _ _ _ ?h ?e ?ne false 1.0) ?p ?i ?t ?z ?f)" => "(project_heads ?x ?w ?b ?s ?n ?p ?i ?t ?h ?e ?ne ?z ?f)";
    /// Queries, keys and values of one input are one product, which appends keys and values to the cache.
    Exact "merge-qkv": "?c = (kv_append ?kv (project_heads ?x ?wk ?bk ?s ?nk ?p ?i ?t ?hk ?e ?ne ?z ?f) ?p ?seq ?pages (project_heads ?x ?wv ?bv ?s _ _ _ _ ?hk ?e 0.0 false 1.0)), ?q = (project_heads ?x ?wq ?bq ?s ?nq ?p ?i ?t ?h ?e ?ne ?z ?f)" => "?m = (qkv ?x ?wq ?wk ?wv ?kv ?p ?seq ?pages ?s ?bq ?bk ?bv ?nq ?nk ?i ?t ?h ?hk ?e ?ne ?z ?f), ?q = (part ?m 0), ?c = (after ?kv ?m)" if same_format("?wq", "?wk", "?wv") if first_differs("?wq", "?wk", "?wv");

    /// The gated unit of two projections of one input is one product.
    Exact "merge-gate-up": "(glu (project ?x ?wg ?bg ?s _ _ _ _ ?e 1.0 0.0 none) (project ?x ?wu ?bu ?s _ _ _ _ ?e 1.0 0.0 none) ?a ?l)" => "(gate_up ?x ?wg ?wu ?s ?bg ?bu ?e ?a ?l)" if same_format("?wg", "?wu");
    /// The gated unit of two products of one input with the same experts is one product.
    Exact "merge-experts-gate-up": "(glu (grouped_matmul ?x ?wg ?e ?bg) (grouped_matmul ?x ?wu ?e ?bu) ?a ?l)" => "(grouped_gate_up ?x ?wg ?wu ?e _ ?bg ?bu 0.0 ?a ?l)" if same_format("?wg", "?wu");
    /// The scale of rows by their squares is part of the products of experts.
    Exact "merge-scaled-experts-gate-up": "(glu (scale_rows (grouped_matmul ?x ?wg ?e _) ?s _ ?n ?eps) (scale_rows (grouped_matmul ?x ?wu ?e _) ?s _ ?n ?eps) ?a ?l)" => "(grouped_gate_up ?x ?wg ?wu ?e ?s _ _ ?eps ?a ?l)" if same_format("?wg", "?wu") if is_width_of("?n", "?x");
    /// The products of experts compute the RMS norm of their input on the way.
    Exact "inline-rms-experts": "(grouped_gate_up (rms_norm ?x ?n ?ne) ?wg ?wu ?e _ ?bg ?bu ?eps ?a ?l)" => "(grouped_gate_up (inline_norm ?x ?n _ rms ?ne) ?wg ?wu ?e _ ?bg ?bu ?eps ?a ?l)";
    /// The products of experts compute the layer norm of their input on the way.
    Exact "inline-layer-experts": "(grouped_gate_up (layer_norm ?x ?n ?nb ?ne) ?wg ?wu ?e _ ?bg ?bu ?eps ?a ?l)" => "(grouped_gate_up (inline_norm ?x ?n ?nb layer ?ne) ?wg ?wu ?e _ ?bg ?bu ?eps ?a ?l)";
    /// The products of experts multiply their input by a norm's weight on the way.
    Exact "inline-scale-experts": "(grouped_gate_up (scale_columns ?x ?n) ?wg ?wu ?e ?s ?bg ?bu ?eps ?a ?l)" => "(grouped_gate_up (inline_norm ?x ?n _ scale 0.0) ?wg ?wu ?e ?s ?bg ?bu ?eps ?a ?l)";
    /// The products of experts compute the RMS norm before they round.
    Exact "inline-rms-quantize-experts": "(grouped_gate_up (inline_quantize (rms_norm ?x ?n ?ne) ?q) ?wg ?wu ?e _ ?bg ?bu ?eps ?a ?l)" => "(grouped_gate_up (inline_quantize (inline_norm ?x ?n _ rms ?ne) ?q) ?wg ?wu ?e _ ?bg ?bu ?eps ?a ?l)";
    /// The products of experts compute the layer norm before they round.
    Exact "inline-layer-quantize-experts": "(grouped_gate_up (inline_quantize (layer_norm ?x ?n ?nb ?ne) ?q) ?wg ?wu ?e _ ?bg ?bu ?eps ?a ?l)" => "(grouped_gate_up (inline_quantize (inline_norm ?x ?n ?nb layer ?ne) ?q) ?wg ?wu ?e _ ?bg ?bu ?eps ?a ?l)";
    /// The products of experts multiply by a norm's weight before they round.
    Exact "inline-scale-quantize-experts": "(grouped_gate_up (inline_quantize (scale_columns ?x ?n) ?q) ?wg ?wu ?e ?s ?bg ?bu ?eps ?a ?l)" => "(grouped_gate_up (inline_quantize (inline_norm ?x ?n _ scale 0.0) ?q) ?wg ?wu ?e ?s ?bg ?bu ?eps ?a ?l)";

    /// Selecting the experts and weighing them is one launch.
    Exact "merge-route": "?w = (router_weights ?l ?e ?sc ?rn ?f ?j), ?e = (router ?l ?b ?k ?sc ?g ?tg)" => "?r = (route ?l ?b ?k ?sc ?g ?tg ?rn ?f ?j), ?e = (part ?r 0), ?w = (part ?r 1)";
    /// The selection is part of the products of the selected experts.
    Exact "routed-gate-up": "?r = (route ?l ?c ?k ?sc ?g ?tg ?rn ?f ?j), ?e = (part ?r 0), ?w = (part ?r 1), ?h = (grouped_gate_up ?x ?wg ?wu ?e ?s ?bg ?bu ?eps ?a ?lim)" => "?p = (routed_gate_up ?x ?wg ?wu ?l ?s ?bg ?bu ?c ?eps ?a ?lim ?k ?sc ?g ?tg ?rn ?f ?j), ?h = (part ?p 0), ?e = (part ?p 1), ?w = (part ?p 2)";
    /// The router's logits are finished by the launch that selects.
    Exact "inline-logits-route": "(route (finish_logits ?pt ?s ?lb ?n ?e) ?c ?k ?sc ?g ?tg ?rn ?f ?j)" => "(route (inline_logits ?pt ?s ?lb ?n ?e) ?c ?k ?sc ?g ?tg ?rn ?f ?j)";
    /// The router's logits are finished by the products of the selected experts.
    Exact "inline-logits-gate-up": "(routed_gate_up ?x ?wg ?wu (finish_logits ?pt ?q ?lb ?n ?le) ?s ?bg ?bu ?c ?eps ?a ?lim ?k ?sc ?g ?tg ?rn ?f ?j)" => "(routed_gate_up ?x ?wg ?wu (inline_logits ?pt ?q ?lb ?n ?le) ?s ?bg ?bu ?c ?eps ?a ?lim ?k ?sc ?g ?tg ?rn ?f ?j)";

    /// The product of experts rounds its input on the way.
    Exact "inline-quantize-grouped": "(grouped_matmul (quantize_rows ?x ?q) ?w ?e ?b)" => "(grouped_matmul (inline_quantize ?x ?q) ?w ?e ?b)";
    /// The product of heads rounds its input on the way.
    Exact "inline-quantize-heads": "(head_matmul (quantize_rows ?x ?q) ?w)" => "(head_matmul (inline_quantize ?x ?q) ?w)";
    /// The down projections of the selected experts, weighed and added up, are one reduction.
    Exact "combine-down": "(combine (grouped_matmul ?h ?w ?e ?b) ?wt)" => "(combine_down ?h ?w ?e ?wt ?b _ 1.0 none)";
    /// A factor is part of the reduction.
    Exact "scale-combine-down": "(scale (combine_down ?h ?w ?e ?wt ?b _ 1.0 none) ?f)" => "(combine_down ?h ?w ?e ?wt ?b _ ?f none)";
    /// The residual stream is added by the reduction.
    Exact "residual-combine-down": "(add ?r (combine_down ?h ?w ?e ?wt ?b _ ?f none))" => "(combine_down ?h ?w ?e ?wt ?b ?r ?f none)";
    /// The residual stream is added by the reduction, whichever comes first.
    Exact "combine-down-residual": "(add (combine_down ?h ?w ?e ?wt ?b _ ?f none) ?r)" => "(combine_down ?h ?w ?e ?wt ?b ?r ?f none)";
    /// The squares of what the reduction gives are summed as it is stored.
    Exact "squares-combine-down": "?y = (combine_down ?h ?w ?e ?wt ?b ?r ?f none), ?q = (square_sums ?y)" => "?p = (combine_down ?h ?w ?e ?wt ?b ?r ?f squares), ?y = (part ?p 0), ?q = (part ?p 1)";
    /// Experts' results are weighed and added to the residual stream in one launch.
    Exact "residual-combine": "(add ?r (combine ?y ?wt))" => "(combine_add ?y ?wt ?r 1.0 none)";
    /// Experts' results are weighed and added to the residual stream, whichever comes first.
    Exact "combine-residual": "(add (combine ?y ?wt) ?r)" => "(combine_add ?y ?wt ?r 1.0 none)";
    /// Experts' results are weighed, multiplied by a factor and added to the residual stream in one launch.
    Exact "residual-combine-scale": "(add ?r (scale (combine ?y ?wt) ?f))" => "(combine_add ?y ?wt ?r ?f none)";
    /// The squares of a residual stream are summed where experts' results are added to it.
    Exact "squares-combine-add": "?y = (combine_add ?a ?wt ?r ?f none), ?q = (square_sums ?y)" => "?p = (combine_add ?a ?wt ?r ?f squares), ?y = (part ?p 0), ?q = (part ?p 1)";

    /// The shared expert joins the residual stream before the selected ones do.
    Rounding(1e-5) "residual-before-experts": "(add ?r (add (combine ?y ?wt) ?shared))" => "(add (add ?r ?shared) (combine ?y ?wt))";
    /// The router's logits are products with the residual stream, a panel at a time, divided by its root mean square at the end.
    Rounding(1e-5) "router-partials": "?l = (matmul (rms_norm ?x ?n ?eps) ?w ?b), ?e = (router ?l ?c ?k ?sc ?g ?tg)" => "?l = (finish_logits (column_partials ?x ?n ?w) (square_sums ?x) ?b ?width ?eps)" let "?width" = width_of("?x") if is_floats("?w");
    /// A product of an RMS norm is the product of the weighed input, divided by its root mean square afterwards.
    Rounding(1e-5) "rms-after-product": "(matmul (rms_norm ?x ?n ?eps) ?w ?b)" => "(scale_rows (matmul (scale_columns ?x ?n) ?w _) (square_sums ?x) ?b ?width ?eps)" let "?width" = width_of("?x");
    /// So is a product of an RMS norm that is rounded relative to its row or blocks, whose scales are then larger by the root mean square.
    Rounding(2e-2) "rms-after-rounded-product": "(matmul (quantize_rows (rms_norm ?x ?n ?eps) ?q) ?w ?b)" => "(scale_rows (matmul (quantize_rows (scale_columns ?x ?n) ?q) ?w _) (square_sums ?x) ?b ?width ?eps)" let "?width" = width_of("?x") if is_relative("?q");
    /// The products of experts with an RMS norm, which have no bias, are divided by the root mean square afterwards.
    Rounding(1e-5) "rms-after-experts": "(grouped_matmul (rms_norm ?x ?n ?eps) ?w ?e _)" => "(scale_rows (grouped_matmul (scale_columns ?x ?n) ?w ?e _) (square_sums ?x) _ ?width ?eps)" let "?width" = width_of("?x");
    /// So are those with an RMS norm that is rounded relative to its row or blocks.
    Rounding(2e-2) "rms-after-rounded-experts": "(grouped_matmul (quantize_rows (rms_norm ?x ?n ?eps) ?q) ?w ?e _)" => "(scale_rows (grouped_matmul (quantize_rows (scale_columns ?x ?n) ?q) ?w ?e _) (square_sums ?x) _ ?width ?eps)" let "?width" = width_of("?x") if is_relative("?q");
}
