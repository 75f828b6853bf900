//! Parameter structs filled from a program's launches: one writer for every device and for the compiler.
//!
//! A block is kept as whole words, so that a struct begins aligned as the ABI asks and fields are written without unsafe
//! code; the offsets come from the catalog.

use std::ffi::c_void;

use ir::program::{Arg, Launch, Program};

use crate::catalog::{self, Field, FieldKind, KernelInfo};

/// An address for kernels that are asked about a shape only: not null, aligned for every type, and never followed.
pub const ANYWHERE: u64 = 1 << 40;

/// Why a struct cannot be filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{label:?}: kernel {kernel} {variant:?}: {fault}")]
pub struct ParamsError {
    /// The graph node the launch came from.
    pub label: String,
    /// The kernel.
    pub kernel: String,
    /// Its variant.
    pub variant: String,
    /// What is wrong.
    pub fault: ParamsFault,
}

/// What is wrong with a launch's arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamsFault {
    /// The catalog does not know the kernel.
    #[error("the catalog has no such kernel")]
    NoKernel,
    /// The arguments are not the kernel's fields in their order.
    #[error("expected the fields {expected}, found {found}")]
    Fields {
        /// The catalog's.
        expected: String,
        /// The launch's.
        found: String,
    },
    /// A field holds another kind of value.
    #[error("field {field} holds a value of another kind than {expected:?}")]
    Kind {
        /// The field.
        field: &'static str,
        /// What it holds.
        expected: FieldKind,
    },
    /// A count names a symbol without a value, or is larger than its field.
    #[error("the count of field {field} does not fit it")]
    Count {
        /// The field.
        field: &'static str,
    },
    /// An argument names nothing that is in memory.
    #[error("field {field} names nothing that is in memory")]
    Address {
        /// The field.
        field: &'static str,
    },
}

/// The filled parameter struct of one launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    words: Vec<u64>,
    bytes: usize,
}

impl Params {
    /// The struct, for the functions of a catalog row. Valid as long as this value.
    pub fn as_ptr(&self) -> *const c_void {
        self.words.as_ptr().cast()
    }

    /// Its bytes, in the machine's order.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        bytes.truncate(self.bytes);
        bytes
    }

    /// The words that hold it; the last one may be used in part.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Sets every count anew, for a step of other sizes; the rest stays.
    ///
    /// # Errors
    /// As [`fill`].
    pub fn set_counts(&mut self, launch: &Launch, sizes: &[u64]) -> Result<(), ParamsError> {
        let info = kernel(launch)?;
        for (field, (_, arg)) in info.fields.iter().zip(&launch.args) {
            if let Arg::Size(_) = arg {
                set(&mut self.words, field, value(field, arg, sizes, |_| None).map_err(|f| error(launch, f))?);
            }
        }
        Ok(())
    }
}

/// The struct of a launch in a step whose symbols have the values `sizes`, in table order. `address` says where an argument
/// that is a buffer, input, weight or state leads.
///
/// # Errors
/// A launch whose arguments are not the fields of its kernel, a count too large for its field, an argument without an address.
pub fn fill(
    launch: &Launch,
    sizes: &[u64],
    mut address: impl FnMut(&Arg) -> Option<u64>,
) -> Result<Params, ParamsError> {
    let info = kernel(launch)?;
    let mut params = Params { words: vec![0; info.params_bytes.div_ceil(8)], bytes: info.params_bytes };
    for (field, (_, arg)) in info.fields.iter().zip(&launch.args) {
        let value = value(field, arg, sizes, &mut address).map_err(|f| error(launch, f))?;
        set(&mut params.words, field, value);
    }
    Ok(params)
}

/// The struct of a launch in the largest step of its program, with [`ANYWHERE`] for every pointer that is not null: what a kernel
/// is asked with whether it takes a shape, and what it is specialised by.
///
/// # Errors
/// As [`fill`].
pub fn fill_largest(program: &Program, launch: &Launch) -> Result<Params, ParamsError> {
    fill(launch, &program.upper_bounds(), |_| Some(ANYWHERE))
}

/// Bytes of workspace that the largest steps of a program need on a GPU; launches without a CUDA kernel count for nothing.
///
/// # Errors
/// As [`fill`].
pub fn largest_workspace(program: &Program) -> Result<u64, ParamsError> {
    let mut most = 0;
    for launch in &program.launches {
        let params = fill_largest(program, launch)?;
        if let Some(kernel) = crate::cuda::lookup(&launch.kernel) {
            // SAFETY: `params` was filled as the struct of this launch's kernel.
            most = most.max(unsafe { kernel.workspace_bytes(&launch.variant, params.as_ptr()) });
        }
    }
    Ok(most)
}

/// Writes a field into the words of a struct; of a field of 4 bytes the low half of `value`.
///
/// # Panics
/// If the words end before the field: they are not those of its struct.
pub fn set(words: &mut [u64], field: &Field, value: u64) {
    let word = &mut words[field.offset / 8];
    let mut bytes = word.to_ne_bytes();
    match field.kind.bytes() {
        8 => bytes = value.to_ne_bytes(),
        width => bytes[field.offset % 8..][..width].copy_from_slice(&(value as u32).to_ne_bytes()),
    }
    *word = u64::from_ne_bytes(bytes);
}

/// The value of a field.
fn value(
    field: &'static Field,
    arg: &Arg,
    sizes: &[u64],
    mut address: impl FnMut(&Arg) -> Option<u64>,
) -> Result<u64, ParamsFault> {
    let name = field.name;
    match (field.kind, arg) {
        (FieldKind::U32 | FieldKind::U64, Arg::Size(dims)) => {
            let count = dims.iter().try_fold(1u64, |product, dim| product.checked_mul(dim.value(sizes)?));
            let largest = if field.kind == FieldKind::U32 { u64::from(u32::MAX) } else { u64::MAX };
            count.filter(|n| *n <= largest).ok_or(ParamsFault::Count { field: name })
        }
        (FieldKind::F32, Arg::Float(number)) => Ok(u64::from(number.to_bits())),
        (FieldKind::In | FieldKind::Out, Arg::Null) => Ok(0),
        (FieldKind::In | FieldKind::Out, Arg::Buffer(..) | Arg::Input(_) | Arg::Weight(_) | Arg::State(..)) => {
            address(arg).ok_or(ParamsFault::Address { field: name })
        }
        (expected, _) => Err(ParamsFault::Kind { field: name, expected }),
    }
}

/// The catalog row of a launch, whose arguments are its fields.
fn kernel(launch: &Launch) -> Result<&'static KernelInfo, ParamsError> {
    let info = catalog::lookup(&launch.kernel).ok_or_else(|| error(launch, ParamsFault::NoKernel))?;
    let given = launch.args.iter().map(|(name, _)| name.as_str());
    if info.fields.iter().map(|f| f.name).eq(given.clone()) {
        return Ok(info);
    }
    let expected: Vec<_> = info.fields.iter().map(|f| f.name).collect();
    let found: Vec<_> = given.collect();
    Err(error(launch, ParamsFault::Fields { expected: expected.join(", "), found: found.join(", ") }))
}

fn error(launch: &Launch, fault: ParamsFault) -> ParamsError {
    let (label, kernel, variant) = (launch.label.clone(), launch.kernel.clone(), launch.variant.clone());
    ParamsError { label, kernel, variant, fault }
}

#[cfg(test)]
mod tests {
    use ir::program::{Access, BufferId};
    use ir::types::{Dim, SymbolId};

    use super::*;
    use crate::abi::{BinaryParams, RmsNormParams};

    fn rms_norm() -> Launch {
        let args = [
            ("x", Arg::Buffer(BufferId(3), Access::Read)),
            ("weight", Arg::Null),
            ("out", Arg::Buffer(BufferId(4), Access::Write)),
            ("rows", Arg::Size(vec![Dim::Sym(SymbolId(0)), Dim::Const(3)])),
            ("cols", Arg::Size(vec![Dim::Const(64)])),
            ("eps", Arg::Float(1e-5)),
            ("reserved", Arg::Size(vec![Dim::Const(0)])),
        ];
        launch("rms_norm", "", &args)
    }

    fn launch(kernel: &str, variant: &str, args: &[(&str, Arg)]) -> Launch {
        let args = args.iter().map(|(name, arg)| ((*name).into(), arg.clone())).collect();
        Launch { kernel: kernel.into(), variant: variant.into(), args, label: "layers.0.norm".into() }
    }

    #[test]
    fn every_field_gets_its_value() {
        let address = |arg: &Arg| match arg {
            Arg::Buffer(id, _) => Some(0x1000 * u64::from(id.0)),
            _ => None,
        };
        let mut params = fill(&rms_norm(), &[5], address).unwrap();
        let read = |params: &Params| {
            // SAFETY: the words are those of this struct.
            let p = unsafe { *params.as_ptr().cast::<RmsNormParams>() };
            (p.x.addr(), p.weight.addr(), p.out.addr(), p.rows, p.cols, p.eps)
        };
        assert_eq!(read(&params), (0x3000, 0, 0x4000, 15, 64, 1e-5));
        assert_eq!(params.to_bytes().len(), size_of::<RmsNormParams>());
        params.set_counts(&rms_norm(), &[7]).unwrap();
        assert_eq!(read(&params), (0x3000, 0, 0x4000, 21, 64, 1e-5));
    }

    #[test]
    fn counts_of_64_bits_are_kept_whole() {
        let any = || Arg::Buffer(BufferId(0), Access::Read);
        let count = Arg::Size(vec![Dim::Const(1 << 20), Dim::Const(1 << 20)]);
        let (limit, reserved) = (Arg::Float(0.5), Arg::Size(vec![Dim::Const(0)]));
        let args =
            [("a", any()), ("b", any()), ("out", any()), ("count", count), ("limit", limit), ("reserved", reserved)];
        let params = fill(&launch("binary", "add", &args), &[], |_| Some(ANYWHERE)).unwrap();
        // SAFETY: the words are those of this struct.
        let p = unsafe { *params.as_ptr().cast::<BinaryParams>() };
        assert_eq!((p.count, p.limit, p.out.addr() as u64), (1 << 40, 0.5, ANYWHERE));
    }

    #[test]
    fn arguments_that_do_not_fit_are_named() {
        let fault = |launch: &Launch, sizes: &[u64]| fill(launch, sizes, |_| Some(8)).unwrap_err().fault;
        assert_eq!(fault(&rms_norm(), &[]), ParamsFault::Count { field: "rows" });
        assert_eq!(fault(&rms_norm(), &[u64::from(u32::MAX)]), ParamsFault::Count { field: "rows" });
        assert_eq!(fault(&rms_norm(), &[u64::MAX]), ParamsFault::Count { field: "rows" });
        let mut wrong = rms_norm();
        wrong.args[4].1 = Arg::Float(1.0);
        assert_eq!(fault(&wrong, &[1]), ParamsFault::Kind { field: "cols", expected: FieldKind::U32 });
        wrong.args.pop();
        assert!(matches!(fault(&wrong, &[1]), ParamsFault::Fields { .. }));
        wrong.kernel = "unheard_of".into();
        assert_eq!(fault(&wrong, &[1]), ParamsFault::NoKernel);
        let error = fill(&rms_norm(), &[1], |_| None).unwrap_err();
        let text = "\"layers.0.norm\": kernel rms_norm \"\": field x names nothing that is in memory";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn the_largest_step_is_that_of_the_upper_bounds() {
        let symbols = vec![ir::types::Symbol { name: "T".into(), min: 1, max: 512 }];
        let program = Program { symbols, ..Program::default() };
        let params = fill_largest(&program, &rms_norm()).unwrap();
        // SAFETY: the words are those of this struct.
        let p = unsafe { *params.as_ptr().cast::<RmsNormParams>() };
        assert_eq!((p.rows, p.x.addr() as u64, p.weight.is_null()), (1536, ANYWHERE, true));
    }
}
