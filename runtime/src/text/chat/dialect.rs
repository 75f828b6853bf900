//! Jinja2 syntax that MiniJinja lacks, rewritten before parsing; lines stay where they are.
//!
//! `{% generation %}` blocks, which mark the assistant's text for training, become blocks that do nothing. Python's
//! `'...' % operand` becomes `'...'|format(operand)`. Only a literal in front of `%` is recognised: what a variable holds is
//! not known here, and `%` on numbers must stay. A scanner of brackets and quotes is enough for both; what it cannot
//! follow it leaves alone, for the parser to report.

/// Operands within operands are rewritten to this depth.
const MAX_NESTING: usize = 32;

/// The template `source` in MiniJinja's dialect.
pub(super) fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find('{') {
        let (text, tag) = rest.split_at(open);
        out.push_str(text);
        let length = match tag.as_bytes().get(1) {
            Some(b'%') => push_block(tag, &mut out),
            Some(b'{') => {
                let length = tag_length(tag, "}}");
                let inner = tag[2..length].strip_suffix("}}").unwrap_or(&tag[2..length]);
                out.push_str("{{");
                out.push_str(&with_format_filters(inner, MAX_NESTING));
                out.push_str(&tag[2 + inner.len()..length]);
                length
            }
            Some(b'#') => push_verbatim(tag, tag.find("#}").map_or(tag.len(), |end| end + 2), &mut out),
            _ => push_verbatim(tag, 1, &mut out),
        };
        rest = &tag[length..];
    }
    out + rest
}

/// Appends the `{% %}` block at the start of `tag`, a raw block with its content, and returns its length in `tag`.
fn push_block(tag: &str, out: &mut String) -> usize {
    let length = tag_length(tag, "%}");
    let inner = tag[2..length].strip_suffix("%}").unwrap_or(&tag[2..length]);
    let replacement = match inner.trim_matches(['-', '+']).trim() {
        "generation" => inner.replace("generation", "if true"),
        "endgeneration" => inner.replace("endgeneration", "endif"),
        "raw" => return push_verbatim(tag, tag.find("endraw").unwrap_or(tag.len()), out),
        _ => with_format_filters(inner, MAX_NESTING),
    };
    out.push_str("{%");
    out.push_str(&replacement);
    out.push_str(&tag[2 + inner.len()..length]);
    length
}

fn push_verbatim(tag: &str, length: usize, out: &mut String) -> usize {
    out.push_str(&tag[..length]);
    length
}

/// Length of the tag at the start of `tag`, its end `close` included; quoted text does not end a tag.
fn tag_length(tag: &str, close: &str) -> usize {
    let mut at = 2;
    while at < tag.len() {
        let rest = &tag[at..];
        if rest.starts_with(close) {
            return at + close.len();
        }
        at += step(rest);
    }
    tag.len()
}

/// Length of the string literal or single character at the start of `text`; 0 at its end.
fn step(text: &str) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    if !matches!(first, '\'' | '"') {
        return first.len_utf8();
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == first => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `code` with every `'...' % operand` as a filter.
fn with_format_filters(code: &str, nesting: usize) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(step(rest));
        out.push_str(piece);
        rest = after;
        let Some(operand) = after.trim_start().strip_prefix('%').filter(|_| piece.starts_with(['\'', '"'])) else {
            continue;
        };
        let gap = operand.len() - operand.trim_start().len();
        let length = operand_length(&operand[gap..]);
        if length == 0 || nesting == 0 {
            continue;
        }
        let arguments = with_format_filters(arguments_of(&operand[gap..gap + length]), nesting - 1);
        let dropped = &after[..after.len() - operand.len() + gap];
        out.extend(std::iter::repeat_n('\n', dropped.matches('\n').count()));
        out.push_str("|format(");
        out.push_str(&arguments);
        out.push(')');
        rest = &operand[gap + length..];
    }
    out
}

/// A tuple gives several arguments, anything else one.
fn arguments_of(operand: &str) -> &str {
    let is_one_group = operand.starts_with('(') && group_length(operand) == operand.len();
    match operand.get(1..operand.len() - 1).filter(|_| is_one_group) {
        Some(inner) if has_top_level_comma(inner) => inner.trim_end().trim_end_matches(','),
        _ => operand,
    }
}

fn has_top_level_comma(code: &str) -> bool {
    let mut at = 0;
    while at < code.len() {
        let rest = &code[at..];
        if rest.starts_with(',') {
            return true;
        }
        at += group_length(rest).max(step(rest));
    }
    false
}

/// Length of the operand at the start of `code`: a primary expression with its attributes, subscripts, calls and filters.
fn operand_length(code: &str) -> usize {
    let mut at = usize::from(code.starts_with('-'));
    let primary = primary_length(&code[at..]);
    if primary == 0 {
        return 0;
    }
    at += primary;
    loop {
        let rest = &code[at..];
        let space = rest.len() - rest.trim_start().len();
        let after = &rest[space..];
        let more = match after.chars().next() {
            Some('(' | '[') => group_length(after),
            Some(mark @ ('.' | '|')) => {
                let name = after[mark.len_utf8()..].trim_start();
                let length = word_length(name);
                if length == 0 { 0 } else { after.len() - name.len() + length }
            }
            _ => 0,
        };
        if more == 0 {
            return at;
        }
        at += space + more;
    }
}

fn primary_length(code: &str) -> usize {
    match code.chars().next() {
        Some('(' | '[' | '{') => group_length(code),
        Some('\'' | '"') => step(code),
        _ => word_length(code),
    }
}

/// Length of the name or number at the start of `code`.
fn word_length(code: &str) -> usize {
    code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len())
}

/// Length of the bracketed group at the start of `code`; 0 if there is none or it does not end.
fn group_length(code: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < code.len() {
        let rest = &code[at..];
        match rest.as_bytes()[0] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += step(rest);
        if depth == 0 {
            return if code.starts_with(['(', '[', '{']) { at } else { 0 };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn string_formatting_becomes_a_filter() {
        let cases = [
            ("{{ '%s' % x }}", "{{ '%s'|format(x) }}"),
            ("{{ \"%s %s\" % (a, b.c[0]) }}", "{{ \"%s %s\"|format(a, b.c[0]) }}"),
            ("{{ '%s' % (a,) }}", "{{ '%s'|format(a) }}"),
            ("{{ '%s' % (a + b) ~ c }}", "{{ '%s'|format((a + b)) ~ c }}"),
            (
                "{%- set x = '%d' % m['n'].f(1, ')')|upper + 'y' -%}",
                "{%- set x = '%d'|format(m['n'].f(1, ')')|upper) + 'y' -%}",
            ),
            ("{{ '%s' % ('%s' % x) }}", "{{ '%s'|format(('%s'|format(x))) }}"),
            ("{{ '%s' %\n x }}", "{{ '%s'\n|format(x) }}"),
        ];
        for (source, expected) in cases {
            assert_eq!(translate(source), expected);
        }
    }

    #[test]
    fn everything_else_stays() {
        for source in [
            "{{ a % 2 }}",
            "{% if x == 'a' %}b{% endif %}",
            "{% if x == 'a' -%}'%s' % x{% endif %}",
            "{{ 'it\\'s %} }}' }} {# '%s' % x #}",
            "{% raw %}{{ '%s' % x }}{% endraw %}",
            "{{ '%s' % }}",
            "{{ '%s' % (a }}",
            "{% unfinished",
            "{ { plain 'quote } }",
        ] {
            assert_eq!(translate(source), source);
        }
    }

    #[test]
    fn generation_blocks_do_nothing() {
        let source = "{%- generation -%}\nx{% endgeneration +%}{% set generation = 1 %}";
        assert_eq!(translate(source), "{%- if true -%}\nx{% endif +%}{% set generation = 1 %}");
    }

    proptest! {
        #[test]
        fn any_text_keeps_its_lines(source in "[{}%#'\"\\\\(),.|a \né-]{0,60}") {
            prop_assert_eq!(translate(&source).matches('\n').count(), source.matches('\n').count());
        }
    }
}
