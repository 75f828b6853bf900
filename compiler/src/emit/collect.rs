//! Which specialisations an artifact needs: those its programs launch, and those an engine launches beside them.

use std::collections::{BTreeMap, BTreeSet};

use ir::program::{Launch, Program};
use kernels::cuda::Specialisation;
use kernels::params::fill_largest;

use super::error::{EmitError, Nodes, Reason, Refusal};
use super::library::KernelLibrary;

/// Longest name that a kernel's files are given as it is, in bytes.
const LONGEST_NAME: usize = 64;

/// A specialisation and what needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// What to compile.
    pub specialisation: Specialisation,
    /// File name and text of its source.
    pub source: (&'a str, &'a str),
    /// Its name in the artifact, as no other's.
    pub name: String,
    /// The graph nodes whose launches it carries out; none of a service.
    pub nodes: Nodes,
}

/// Every specialisation of the programs once, and the library's services, ordered by kernel, variant and constants. Programs without
/// launches need no services either.
///
/// # Errors
/// Every launch that no kernel takes.
pub fn wanted<'a>(programs: &[Program], library: &'a dyn KernelLibrary) -> Result<Vec<Wanted<'a>>, EmitError> {
    let mut found = AllFound::new();
    let mut refusals: Vec<Refusal> = Vec::new();
    for program in programs {
        for launch in &program.launches {
            match specialise(program, launch, library) {
                Ok((specialisation, source)) => {
                    found.entry(specialisation).or_insert((Nodes::default(), source)).0.add(&launch.label);
                }
                Err(reason) => refuse(&mut refusals, reason, &launch.label),
            }
        }
    }
    if !found.is_empty() {
        add_services(library, &mut found, &mut refusals);
    }
    if !refusals.is_empty() {
        return Err(EmitError::Refused(refusals));
    }
    let mut taken = BTreeSet::new();
    let wanted = found.into_iter().map(|(specialisation, (nodes, source))| {
        let name = file_name(&specialisation, &mut taken);
        Wanted { specialisation, source, name, nodes }
    });
    Ok(wanted.collect())
}

/// A launch's specialisation and its source.
type Found<'a> = (Specialisation, (&'a str, &'a str));

/// The nodes of each specialisation, and its source.
type AllFound<'a> = BTreeMap<Specialisation, (Nodes, (&'a str, &'a str))>;

fn add_services<'a>(library: &'a dyn KernelLibrary, found: &mut AllFound<'a>, refusals: &mut Vec<Refusal>) {
    for service in library.services() {
        if let Some(source) = library.source(&service) {
            found.entry(service).or_insert((Nodes::default(), source));
        } else {
            let reason = Reason::Missing { kernel: service.kernel.into(), variant: service.variant };
            refusals.push(Refusal { nodes: Nodes::default(), reason });
        }
    }
}

fn specialise<'a>(program: &Program, launch: &Launch, library: &'a dyn KernelLibrary) -> Result<Found<'a>, Reason> {
    let params = fill_largest(program, launch).map_err(Reason::Params)?;
    let missing = || Reason::Missing { kernel: launch.kernel.clone(), variant: launch.variant.clone() };
    let specialisation = library.specialise(launch, &params).ok_or_else(missing)?.map_err(Reason::Constraint)?;
    let source = library.source(&specialisation).ok_or_else(missing)?;
    Ok((specialisation, source))
}

/// Adds a node to the refusals; one reason stands there once, however many layers and buckets it comes from.
fn refuse(refusals: &mut Vec<Refusal>, reason: Reason, label: &str) {
    let at = refusals.iter().position(|r| r.reason == reason).unwrap_or_else(|| {
        refusals.push(Refusal { nodes: Nodes::default(), reason });
        refusals.len() - 1
    });
    refusals[at].nodes.add(label);
}

/// A file name for a specialisation: its own name, where that is short and free; else the beginning of it and a hash of all constants, so that
/// the name does not depend on what else an artifact holds more than it must.
fn file_name(specialisation: &Specialisation, taken: &mut BTreeSet<String>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = specialisation.name().chars().map(plain).collect();
    let short = if name.len() <= LONGEST_NAME { name.as_str() } else { cut(&name) };
    let name = if short.len() == name.len() && !taken.contains(&name) {
        name
    } else {
        let constants = specialisation.options().join("\0");
        format!("{short}-{}", &blake3::hash(constants.as_bytes()).to_hex()[..12])
    };
    taken.insert(name.clone());
    name
}

/// The longest beginning of whole words, which dots separate, that is not too long.
fn cut(name: &str) -> &str {
    let head = &name[..LONGEST_NAME];
    head.rfind('.').map_or(head, |dot| &head[..dot])
}

#[cfg(test)]
mod tests {
    use kernels::cuda::Define;

    use super::*;

    #[test]
    fn names_are_unique_short_and_plain() {
        let mut taken = BTreeSet::new();
        let mut name = |variant: &str, defines: &[(&'static str, &str)]| {
            let defines = defines.iter().map(|(name, value)| Define::new(name, value)).collect();
            file_name(&Specialisation { kernel: "project", variant: variant.into(), defines }, &mut taken)
        };
        assert_eq!(name("q4g128.f32", &[("ROWS", "7"), ("WEIGHT", "a::b")]), "project.q4g128.f32.rows7");
        let other = name("q4g128.f32", &[("ROWS", "7"), ("WEIGHT", "a::c")]);
        assert!(other.starts_with("project.q4g128.f32.rows7-") && other.len() == 37, "{other}");
        assert_eq!(name("../a b", &[]), "project...-a-b");
        let long = name("f16", &[("A_CONSTANT_OF_SOME_LENGTH", "123456"), ("ANOTHER_OF_SOME_LENGTH", "123456")]);
        assert!(long.starts_with("project.f16.a_constant_of_some_length123456-") && long.len() <= 80, "{long}");
        assert!(name(&"x".repeat(300), &[]).len() <= 80);
    }
}
