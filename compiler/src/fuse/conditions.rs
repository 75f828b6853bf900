//! What rules ask of what they have found, and attributes that they work out. Each takes the variables it is about.

use egg::{Id, Subst};
use ir::op::Attr;
use ir::types::{DType, Dim, TensorType};

use super::language::Head;
use super::typing::Body;

/// What a rule has found.
pub struct Match<'a> {
    /// The e-graph.
    pub egraph: &'a Body,
    /// The class of each variable.
    pub subst: &'a Subst,
}

impl Match<'_> {
    fn class(&self, variable: &str) -> Option<Id> {
        let class = self.subst.get(variable.parse().ok()?)?;
        Some(self.egraph.find(*class))
    }

    fn ty(&self, variable: &str) -> Option<&TensorType> {
        self.egraph[self.class(variable)?].data.ty()
    }

    fn attr(&self, variable: &str) -> Option<&Attr> {
        self.egraph[self.class(variable)?].data.attr()
    }

    /// Length of the last dimension.
    fn width(&self, variable: &str) -> Option<u64> {
        match self.ty(variable)?.shape.last()? {
            Dim::Const(width) => Some(*width),
            Dim::Sym(_) => None,
        }
    }
}

/// The tensors are stored in one format.
pub fn same_format(found: &Match, of: &[&str]) -> bool {
    let formats: Option<Vec<DType>> = of.iter().map(|v| Some(found.ty(v)?.dtype)).collect();
    formats.is_some_and(|formats| formats.windows(2).all(|pair| pair[0] == pair[1]))
}

/// The first differs from each of the others.
pub fn first_differs(found: &Match, of: &[&str]) -> bool {
    let classes: Option<Vec<Id>> = of.iter().map(|v| found.class(v)).collect();
    classes.is_some_and(|classes| classes[1..].iter().all(|other| *other != classes[0]))
}

/// The tensor is of the element type that the attribute names.
pub fn is_of_type(found: &Match, of: &[&str]) -> bool {
    match (found.ty(of[0]), found.attr(of[1])) {
        (Some(ty), Some(Attr::Str(name))) => ty.dtype.name() == name,
        _ => false,
    }
}

/// The tensor is in a format of weights, which products read without help.
pub fn is_weight_format(found: &Match, of: &[&str]) -> bool {
    found.ty(of[0]).is_some_and(|ty| ty.dtype.is_real() && ty.dtype != DType::Q8X32)
}

/// The tensor is stored as floats: what partial sums of a router are made from.
pub fn is_floats(found: &Match, of: &[&str]) -> bool {
    found.ty(of[0]).is_some_and(|ty| matches!(ty.dtype, DType::F32 | DType::F16 | DType::BF16))
}

/// The attribute is the width of the tensor.
pub fn is_width_of(found: &Match, of: &[&str]) -> bool {
    let width = found.width(of[1]).and_then(|w| i64::try_from(w).ok());
    matches!((found.attr(of[0]), width), (Some(Attr::Int(given)), Some(width)) if *given == width)
}

/// The attribute is a positive number.
pub fn is_positive(found: &Match, of: &[&str]) -> bool {
    matches!(found.attr(of[0]), Some(Attr::Float(v)) if *v > 0.0)
}

/// Rounding of that granularity follows the magnitude of its row, however small that is; one scale for a row (BitNet) has a least.
pub fn is_relative(found: &Match, of: &[&str]) -> bool {
    matches!(found.attr(of[0]), Some(Attr::Str(granularity)) if granularity != "row")
}

/// The width of the tensor, as an attribute.
pub fn width_of(found: &Match, of: &[&str]) -> Option<Head> {
    Some(Head::Int(i64::try_from(found.width(of[0])?).ok()?))
}
