//! Text form of programs.
//!
//! ```text
//! program "tokens-1" {
//!   sym T in 1..=1
//!   arena 2560
//!   input "ids" : i32[T]
//!   weight "token_embd.weight" : q8_0[49152, 576]
//!   buffer %0 : f32[T, 576] at 0
//!   output "hidden" %0
//!   launch embedding "q8_0" {ids = input "ids", table = weight "token_embd.weight", out = write %0, tokens = T, …} "embed"
//! }
//! ```

use super::lexer::{Lexer, Token};
use super::{ParseError, parse_dim, parse_symbol, parse_type, print_dim, print_symbols, print_type, quote};
use crate::program::{Access, Arg, Binding, Buffer, BufferId, Launch, Program};

/// Prints a program.
pub fn print_program(program: &Program) -> String {
    let mut out = format!("program {} {{\n", quote(&program.name));
    print_symbols(&program.symbols, &mut out);
    out.push_str(&format!("  arena {}\n", program.arena_bytes));
    for (kind, bindings) in [("input", &program.inputs), ("weight", &program.weights), ("state", &program.states)] {
        for b in bindings {
            out.push_str(&format!("  {kind} {} : {}\n", quote(&b.name), print_type(&b.ty, &program.symbols)));
        }
    }
    for (i, b) in program.buffers.iter().enumerate() {
        out.push_str(&format!("  buffer %{i} : {} at {}\n", print_type(&b.ty, &program.symbols), b.offset));
    }
    for (name, id) in &program.outputs {
        out.push_str(&format!("  output {} %{}\n", quote(name), id.0));
    }
    for launch in &program.launches {
        let args: Vec<String> = launch.args.iter().map(|(n, a)| format!("{n} = {}", print_arg(a, program))).collect();
        out.push_str(&format!("  launch {} {} {{{}}}", launch.kernel, quote(&launch.variant), args.join(", ")));
        out.push_str(&format!(" {}\n", quote(&launch.label)));
    }
    out.push_str("}\n");
    out
}

fn print_arg(arg: &Arg, program: &Program) -> String {
    let name =
        |bindings: &[Binding], i: u32| bindings.get(i as usize).map_or_else(|| "\"?\"".into(), |b| quote(&b.name));
    match arg {
        Arg::Buffer(id, access) => format!("{} %{}", print_access(*access), id.0),
        Arg::Input(i) => format!("input {}", name(&program.inputs, *i)),
        Arg::Weight(i) => format!("weight {}", name(&program.weights, *i)),
        Arg::State(i, access) => format!("{} state {}", print_access(*access), name(&program.states, *i)),
        Arg::Null => "null".into(),
        Arg::Size(dims) => {
            let dims: Vec<String> = dims.iter().map(|d| print_dim(*d, &program.symbols)).collect();
            dims.join(" * ")
        }
        Arg::Float(v) => format!("float {v:?}"),
    }
}

fn print_access(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Write => "write",
        Access::Update => "update",
    }
}

/// Parses a program.
pub fn parse_program(text: &str) -> Result<Program, ParseError> {
    let mut lexer = Lexer::new(text);
    lexer.keyword("program")?;
    let mut program = Program { name: lexer.string()?, ..Program::default() };
    lexer.punctuation("{")?;
    while !lexer.accept("}")? {
        parse_item(&mut lexer, &mut program)?;
    }
    match lexer.next()? {
        Token::End => Ok(program),
        _ => Err(lexer.error_before("text after the program's closing brace".into())),
    }
}

pub(super) fn parse_item(lexer: &mut Lexer, program: &mut Program) -> Result<(), ParseError> {
    let word = lexer.word()?;
    match word.as_str() {
        "sym" => program.symbols.push(parse_symbol(lexer)?),
        "arena" => program.arena_bytes = lexer.unsigned()?,
        "input" => program.inputs.push(parse_binding(lexer, program)?),
        "weight" => program.weights.push(parse_binding(lexer, program)?),
        "state" => program.states.push(parse_binding(lexer, program)?),
        "buffer" => {
            let buffer = parse_buffer(lexer, program)?;
            program.buffers.push(buffer);
        }
        "output" => {
            let name = lexer.string()?;
            program.outputs.push((name, BufferId(lexer.value()?)));
        }
        "launch" => {
            let launch = parse_launch(lexer, program)?;
            program.launches.push(launch);
        }
        other => return Err(lexer.error_before(format!("unknown item `{other}` in a program"))),
    }
    Ok(())
}

fn parse_binding(lexer: &mut Lexer, program: &Program) -> Result<Binding, ParseError> {
    let name = lexer.string()?;
    lexer.punctuation(":")?;
    Ok(Binding { name, ty: parse_type(lexer, &program.symbols)? })
}

fn parse_buffer(lexer: &mut Lexer, program: &Program) -> Result<Buffer, ParseError> {
    if lexer.value()? as usize != program.buffers.len() {
        return Err(lexer.error_before(format!("buffers are numbered in order: expected %{}", program.buffers.len())));
    }
    lexer.punctuation(":")?;
    let ty = parse_type(lexer, &program.symbols)?;
    lexer.keyword("at")?;
    Ok(Buffer { ty, offset: lexer.unsigned()? })
}

fn parse_launch(lexer: &mut Lexer, program: &Program) -> Result<Launch, ParseError> {
    let kernel = lexer.word()?;
    let variant = lexer.string()?;
    let mut args = Vec::new();
    lexer.list("{", "}", |l| {
        let field = l.word()?;
        l.punctuation("=")?;
        args.push((field, parse_arg(l, program)?));
        Ok(())
    })?;
    Ok(Launch { kernel, variant, args, label: lexer.string()? })
}

fn parse_arg(lexer: &mut Lexer, program: &Program) -> Result<Arg, ParseError> {
    let word = match lexer.peek()? {
        Token::Word(w) => w.clone(),
        _ => return parse_size(lexer, program),
    };
    let access = match word.as_str() {
        "input" | "weight" | "null" | "float" => None,
        "read" => Some(Access::Read),
        "write" => Some(Access::Write),
        "update" => Some(Access::Update),
        _ => return parse_size(lexer, program),
    };
    lexer.next()?;
    Ok(match (word.as_str(), access) {
        ("input", _) => Arg::Input(parse_reference(lexer, &program.inputs)?),
        ("weight", _) => Arg::Weight(parse_reference(lexer, &program.weights)?),
        ("null", _) => Arg::Null,
        (_, Some(access)) if matches!(lexer.peek()?, Token::Value(_)) => Arg::Buffer(BufferId(lexer.value()?), access),
        (_, Some(access)) => {
            lexer.keyword("state")?;
            Arg::State(parse_reference(lexer, &program.states)?, access)
        }
        _ => Arg::Float(lexer.number("a float")?),
    })
}

fn parse_reference(lexer: &mut Lexer, bindings: &[Binding]) -> Result<u32, ParseError> {
    let name = lexer.string()?;
    match bindings.iter().position(|b| b.name == name) {
        Some(i) => Ok(i as u32),
        None => Err(lexer.error_before(format!("{name:?} is not declared"))),
    }
}

fn parse_size(lexer: &mut Lexer, program: &Program) -> Result<Arg, ParseError> {
    let mut dims = vec![parse_dim(lexer, &program.symbols)?];
    while lexer.accept("*")? {
        dims.push(parse_dim(lexer, &program.symbols)?);
    }
    Ok(Arg::Size(dims))
}
