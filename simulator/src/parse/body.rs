//! Functions and their statements.

use super::lexer::Token;
use super::scope::Scopes;
use super::variable::register_width;
use super::{Function, Instruction, Operand, Parser, SourceLine, Statement, Variable};
use crate::error::ParseError;

/// Inline assembly nests a level or two; deeper is a damaged file.
const MOST_NESTING: usize = 64;

/// A function under construction.
struct Body<'a> {
    scopes: Scopes<'a>,
    source: SourceLine,
    statements: Vec<Statement>,
    /// The scope of each statement, for labels.
    scope_of: Vec<usize>,
    variables: Vec<Variable>,
    depth: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn function(&mut self) -> Result<Function, ParseError> {
        let line = self.tokens[self.at].line;
        let kernel = self.word("`.entry` or `.func`")? == ".entry";
        let results = if self.accept(b'(') { self.parameters()? } else { Vec::new() };
        let name = self.word("a function's name")?.to_string();
        let params = if self.accept(b'(') { self.parameters()? } else { Vec::new() };
        let max_threads = self.performance_directives()?;
        let mut function = Function {
            name,
            kernel,
            defined: false,
            results,
            params,
            registers: Vec::new(),
            variables: Vec::new(),
            label_count: 0,
            body: Vec::new(),
            max_threads,
            line,
        };
        if self.accept(b'{') {
            self.body(&mut function)?;
        } else {
            self.expect(b';')?;
        }
        Ok(function)
    }

    fn parameters(&mut self) -> Result<Vec<Variable>, ParseError> {
        let mut all = Vec::new();
        while !self.accept(b')') {
            if self.peek_word() == ".reg" {
                return Err(self.error("a function with `.reg` parameters is not simulated"));
            }
            all.extend(self.variables(false)?);
            if !self.accept(b',') && *self.peek() != Token::Punct(b')') {
                return self.unexpected("`,` or `)`");
            }
        }
        Ok(all)
    }

    /// `.maxntid 128, 1, 1` and its like; returns the most threads a block, 0 if unsaid.
    fn performance_directives(&mut self) -> Result<u32, ParseError> {
        let mut threads = 0;
        while !matches!(self.peek(), Token::Punct(b'{' | b';')) {
            let directive = self.word("a function's body")?;
            let mut product: i64 = 1;
            while let Token::Integer(_) | Token::Punct(b',') = self.peek() {
                if !self.accept(b',') {
                    product = product.saturating_mul(self.integer()?);
                }
            }
            match directive {
                ".maxntid" | ".reqntid" => threads = u32::try_from(product).unwrap_or(u32::MAX),
                ".pragma" => {
                    self.advance();
                    self.accept(b';');
                }
                ".minnctapersm" | ".maxnctapersm" | ".maxnreg" | ".noreturn" | ".explicitcluster"
                | ".reqnctapercluster" | ".maxclusterrank" | ".blocksareclusters" => {}
                other => return Err(self.error(format!("the directive `{other}` is not simulated"))),
            }
        }
        Ok(threads)
    }

    fn body(&mut self, function: &mut Function) -> Result<(), ParseError> {
        let mut body = Body {
            scopes: Scopes::new(),
            source: SourceLine::default(),
            statements: Vec::new(),
            scope_of: Vec::new(),
            variables: Vec::new(),
            depth: 0,
        };
        while self.statement(&mut body)? {}
        self.resolve_labels(&mut body)?;
        function.defined = true;
        function.registers = body.scopes.registers;
        function.label_count = body.scopes.label_count;
        function.variables = body.variables;
        function.body = body.statements;
        Ok(())
    }

    /// False after the function's closing brace.
    fn statement(&mut self, body: &mut Body<'a>) -> Result<bool, ParseError> {
        match self.peek().clone() {
            Token::Punct(b'{') => {
                self.advance();
                body.depth += 1;
                if body.depth > MOST_NESTING {
                    return Err(self.error(format!("more than {MOST_NESTING} nested scopes")));
                }
                body.scopes.open();
            }
            Token::Punct(b'}') => {
                self.advance();
                body.depth = body.depth.saturating_sub(1);
                return Ok(body.scopes.close());
            }
            Token::Punct(b';') => {
                self.advance();
            }
            Token::Punct(b'@') => self.instruction(body)?,
            Token::Word(word) if word.starts_with('.') => self.directive(word, body)?,
            Token::Word(word) if self.tokens[self.at + 1].token == Token::Punct(b':') => {
                let Some(label) = body.scopes.define_label(word) else {
                    return Err(self.error(format!("the label `{word}` is defined twice")));
                };
                self.at += 2;
                body.push(Statement::Label(label));
            }
            Token::Word(_) => self.instruction(body)?,
            _ => return self.unexpected("a statement"),
        }
        Ok(true)
    }

    fn directive(&mut self, word: &str, body: &mut Body<'a>) -> Result<(), ParseError> {
        match word {
            ".loc" => self.location(body),
            ".reg" => self.registers(body),
            ".pragma" => {
                while !self.accept(b';') {
                    if *self.peek() == Token::End {
                        return self.unexpected("`;`");
                    }
                    self.advance();
                }
                Ok(())
            }
            _ if self.starts_variable() => {
                let variables = self.variables(false)?;
                body.variables.extend(variables);
                self.expect(b';')
            }
            other => Err(self.error(format!("the directive `{other}` is not simulated"))),
        }
    }

    /// `.loc file line column[, function_name l, inlined_at file line column]`. Of an inlined place the inner line is kept: it is where
    /// the access stands.
    fn location(&mut self, body: &mut Body<'a>) -> Result<(), ParseError> {
        self.advance();
        let (file, line) = (self.integer()?, self.integer()?);
        self.integer()?;
        while self.accept(b',') {
            match self.peek_word() {
                "function_name" => {
                    self.advance();
                    self.word("a label")?;
                    if self.accept(b'+') {
                        self.integer()?;
                    }
                }
                "inlined_at" => {
                    self.advance();
                    for _ in 0..3 {
                        self.integer()?;
                    }
                }
                _ => return self.unexpected("`function_name` or `inlined_at`"),
            }
        }
        // Line 0 marks code without a line of its own: the last one stays the best answer.
        if line > 0 {
            body.source = SourceLine { file: file as u32, line: line as u32 };
        }
        Ok(())
    }

    fn registers(&mut self, body: &mut Body<'a>) -> Result<(), ParseError> {
        self.advance();
        let word = self.word("a register type")?;
        let Some(width) = register_width(word) else {
            return Err(self.error(format!("registers of type `{word}` are not simulated")));
        };
        loop {
            let name = self.word("a register's name")?;
            let mut count = None;
            if self.accept(b'<') {
                count = Some(u32::try_from(self.integer()?).map_err(|_| self.error("a count of registers below 0"))?);
                self.expect(b'>')?;
            }
            if !body.scopes.declare(name, count, width) {
                return Err(self.error("too many registers"));
            }
            if !self.accept(b',') {
                return self.expect(b';');
            }
        }
    }

    fn instruction(&mut self, body: &mut Body<'a>) -> Result<(), ParseError> {
        let (line, column) = (self.tokens[self.at].line, self.tokens[self.at].column);
        let guard = if self.accept(b'@') {
            let negated = self.accept(b'!');
            let name = self.word("a predicate")?;
            let register = body.scopes.register(name).ok_or_else(|| self.error(format!("no register `{name}`")))?;
            Some((register, negated))
        } else {
            None
        };
        let opcode = self.word("an instruction")?.to_string();
        let mut operands = Vec::new();
        while !self.accept(b';') {
            operands.push(self.operand(&body.scopes)?);
            if !self.accept(b',') && *self.peek() != Token::Punct(b';') {
                return self.unexpected("`,` or `;`");
            }
        }
        body.push(Statement::Instruction(Instruction { guard, opcode, operands, line, column, source: body.source }));
        Ok(())
    }

    /// Branches name labels that may follow them, so they are looked up last. `brx.idx` needs `.branchtargets`, which NVRTC does not emit.
    fn resolve_labels(&self, body: &mut Body<'a>) -> Result<(), ParseError> {
        for (statement, &scope) in body.statements.iter_mut().zip(&body.scope_of) {
            let Statement::Instruction(instruction) = statement else { continue };
            if instruction.opcode != "bra" && instruction.opcode != "bra.uni" {
                continue;
            }
            let label = match instruction.operands.as_slice() {
                [Operand::Symbol(name, 0)] => body.scopes.label(name, scope),
                _ => None,
            };
            let Some(label) = label else {
                return Err(ParseError {
                    file: self.file.into(),
                    line: instruction.line,
                    column: instruction.column,
                    message: "a branch needs one label of this function".into(),
                });
            };
            instruction.operands = vec![Operand::Label(label)];
        }
        Ok(())
    }
}

impl Body<'_> {
    fn push(&mut self, statement: Statement) {
        self.statements.push(statement);
        self.scope_of.push(self.scopes.current);
    }
}
