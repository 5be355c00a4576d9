//! A spec's text as tokens, without its grammar: enough to refuse what would
//! overflow the parser's stack before it parses, and to find the places of
//! arguments, elements and entries in it.

use std::ops::Range;

/// Deepest nesting of brackets, and of blocks.
const NESTING_MAX: usize = 100;

/// Longest expression, in tokens that no comma separates, those of the
/// brackets around it included: `- - - 1`, `a.b.c` and `x + y + z` each nest
/// one level a token.
const EXPRESSION_TOKENS_MAX: usize = 4_000;

/// Most `elif` of a file: each nests in the one before.
const ELIF_MAX: usize = 1_000;

/// What breaks a limit, and where in the text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMuch {
    pub(crate) at: Range<usize>,
    pub(crate) message: String,
}

/// Refuses text that the parser could not take with a bounded stack.
pub(crate) fn check_limits(source: &str) -> Result<(), TooMuch> {
    // Tokens of the expression so far; one entry for each open bracket.
    let mut runs = vec![0usize];
    let mut blocks = vec![0usize];
    let mut elifs = 0;
    let refuse = |at: &Range<usize>, message: String| {
        Err(TooMuch {
            at: at.clone(),
            message,
        })
    };
    for (token, at) in Tokens::new(source) {
        let run = runs.last_mut().expect("the outermost entry stays");
        *run += 1;
        if *run > EXPRESSION_TOKENS_MAX {
            let message = format!("an expression has more than {EXPRESSION_TOKENS_MAX} parts");
            return refuse(&at, message);
        }
        match token {
            Token::Open => {
                let start = *run;
                runs.push(start);
                if runs.len() > NESTING_MAX + 1 {
                    let message = format!("brackets are nested more than {NESTING_MAX} deep");
                    return refuse(&at, message);
                }
            }
            Token::Close if runs.len() > 1 => drop(runs.pop()),
            Token::Comma => *runs.last_mut().expect("as above") = around(&runs),
            Token::LineEnd { indent } if runs.len() == 1 => {
                runs[0] = 0;
                blocks.retain(|&block| block < indent);
                blocks.push(indent);
                if blocks.len() > NESTING_MAX {
                    let message = format!("blocks are nested more than {NESTING_MAX} deep");
                    return refuse(&at, message);
                }
            }
            Token::Name if &source[at.clone()] == "elif" => {
                elifs += 1;
                if elifs > ELIF_MAX {
                    return refuse(&at, format!("there are more than {ELIF_MAX} elif"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn around(runs: &[usize]) -> usize {
    match runs {
        [.., outer, _] => *outer,
        _ => 0,
    }
}

/// Where an argument stands in a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Argument {
    /// None if it is given by position.
    pub(crate) name: Option<Range<usize>>,
    pub(crate) value: Range<usize>,
}

/// The arguments in the text of one call, `f(a, name = b)`, in their order;
/// what comes by `*` or `**` has no place and is left out.
pub(crate) fn arguments(call: &str) -> Vec<Argument> {
    let mut found = Vec::new();
    for part in parts(call) {
        let mut tokens = Tokens::new(&call[part.clone()]).filter(|(token, _)| !is_line_end(*token));
        let shift = |at: Range<usize>| at.start + part.start..at.end + part.start;
        let Some((first, at)) = tokens.next() else {
            continue;
        };
        let at = shift(at);
        if call[at.clone()].starts_with('*') {
            continue;
        }
        let named = first == Token::Name && matches!(tokens.next(), Some((Token::Equals, _)));
        let value = tokens
            .next()
            .map_or(at.clone(), |(_, v)| shift(v).start..part.end);
        found.push(match named {
            true => Argument {
                name: Some(at),
                value,
            },
            false => Argument {
                name: None,
                value: part,
            },
        });
    }
    found
}

/// The elements in the text of a list or tuple; none if it is written in
/// another way, for example as a comprehension.
pub(crate) fn elements(text: &str) -> Option<Vec<Range<usize>>> {
    let literal = text.starts_with(['[', '(']) && is_one_bracket(text);
    let parts = parts(text);
    let plain = |part: &Range<usize>| {
        let inner = &text[part.clone()];
        !inner.starts_with('*') && !has_word(inner, "for")
    };
    (literal && parts.iter().all(plain)).then_some(parts)
}

/// The entries in the text of a dictionary: text of the key, place of the
/// value.
pub(crate) fn entries(text: &str) -> Option<Vec<(&str, Range<usize>)>> {
    if !text.starts_with('{') || !is_one_bracket(text) {
        return None;
    }
    let mut found = Vec::new();
    for part in parts(text) {
        let inner = &text[part.clone()];
        if has_word(inner, "for") {
            return None;
        }
        let mut depth = 0usize;
        let colon = Tokens::new(inner).find(|(token, at)| {
            match token {
                Token::Open => depth += 1,
                Token::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && &inner[at.clone()] == ":"
        });
        let (_, colon) = colon?;
        let value = inner[colon.end..].trim_start();
        found.push((
            inner[..colon.start].trim_end(),
            part.end - value.len()..part.end,
        ));
    }
    Some(found)
}

/// The names of the parameters of `def name(...)` in a file, those of the last
/// one if there are several.
pub(crate) fn parameters(source: &str, name: &str) -> Option<Vec<String>> {
    let mut found = None;
    let mut before: Option<(Token, Range<usize>)> = None;
    for (token, at) in Tokens::new(source) {
        let follows_def = before
            .as_ref()
            .is_some_and(|(token, at)| *token == Token::Name && &source[at.clone()] == "def");
        if follows_def && &source[at.clone()] == name {
            let signature = &source[at.start..];
            let names = parts(signature).into_iter().map(|part| {
                let part = &signature[part];
                let end = part.find(|c| !is_word(c)).unwrap_or(part.len());
                part[..end].to_owned()
            });
            found = Some(names.collect());
        }
        before = Some((token, at));
    }
    found
}

/// The last token that ends before a place, line ends aside.
pub(crate) fn last_before(source: &str, place: usize) -> Option<Range<usize>> {
    let tokens = Tokens::new(source).take_while(|(_, at)| at.end <= place);
    let tokens = tokens.filter(|(token, _)| !is_line_end(*token));
    tokens.last().map(|(_, at)| at)
}

/// What the commas of the first bracket in `text` separate, without the blanks
/// around it.
fn parts(text: &str) -> Vec<Range<usize>> {
    let mut depth = 0usize;
    let mut found = Vec::new();
    let mut part: Option<Range<usize>> = None;
    for (token, at) in Tokens::new(text) {
        match token {
            Token::Open => {
                depth += 1;
                if depth == 1 {
                    continue;
                }
            }
            Token::Close => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    break;
                }
            }
            Token::Comma if depth == 1 => {
                found.extend(part.take());
                continue;
            }
            Token::LineEnd { .. } => continue,
            _ => {}
        }
        if depth > 0 {
            part = Some(part.map_or(at.clone(), |p| p.start..at.end));
        }
    }
    found.extend(part);
    found
}

/// Does the bracket that begins the text end with it?
fn is_one_bracket(text: &str) -> bool {
    let mut depth = 0usize;
    for (token, at) in Tokens::new(text) {
        match token {
            Token::Open => depth += 1,
            Token::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at.end == text.len();
        }
    }
    false
}

fn has_word(text: &str, word: &str) -> bool {
    Tokens::new(text).any(|(token, at)| token == Token::Name && &text[at] == word)
}

/// Is it a name alone?
pub(crate) fn is_name(text: &str) -> bool {
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    !text.is_empty() && !digit && text.chars().all(is_word)
}

fn is_line_end(token: Token) -> bool {
    matches!(token, Token::LineEnd { .. })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Comma,
    /// A single `=`.
    Equals,
    /// A name, a keyword or a number.
    Name,
    /// With the width of the white space that begins the next line.
    LineEnd {
        indent: usize,
    },
    /// A string or any other sign.
    Other,
}

/// Splits text into tokens; never fails: what is no Starlark gives some tokens.
struct Tokens<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn new(source: &'a str) -> Tokens<'a> {
        Tokens { source, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        let mut trimmed = rest.trim_start_matches([' ', '\t', '\r']);
        if trimmed.starts_with('#') {
            trimmed = &trimmed[trimmed.find('\n').unwrap_or(trimmed.len())..];
        }
        self.at += rest.len() - trimmed.len();
    }

    /// Length of the string that begins here, if one does.
    fn string(&self) -> Option<usize> {
        let rest = self.rest();
        let prefix = rest
            .bytes()
            .take(2)
            .take_while(|b| matches!(b, b'r' | b'b' | b'f'))
            .count();
        let quote = rest[prefix..]
            .chars()
            .next()
            .filter(|c| matches!(c, '"' | '\''))?;
        let triple = quote.to_string().repeat(3);
        let long = rest[prefix..].starts_with(&triple);
        let end = if long { triple.as_str() } else { &triple[..1] };
        let mut at = prefix + end.len();
        while at < rest.len() {
            let here = &rest[at..];
            if here.starts_with(end) {
                return Some(at + end.len());
            }
            let mut chars = here.chars();
            match chars.next() {
                Some('\n') if !long => return Some(at),
                Some('\\') => drop(chars.next()),
                _ => {}
            }
            at = rest.len() - chars.as_str().len();
        }
        Some(rest.len())
    }

    fn token(&self) -> Option<(Token, usize)> {
        if let Some(bytes) = self.string() {
            return Some((Token::Other, bytes));
        }
        let rest = self.rest();
        let first = rest.chars().next()?;
        let one = |token| Some((token, first.len_utf8()));
        match first {
            '(' | '[' | '{' => one(Token::Open),
            ')' | ']' | '}' => one(Token::Close),
            ',' => one(Token::Comma),
            '\n' => {
                let line = rest[1..].trim_start_matches([' ', '\t']);
                let indent = rest.len() - 1 - line.len();
                Some((Token::LineEnd { indent }, 1))
            }
            '=' if !rest.starts_with("==") => one(Token::Equals),
            '=' | '!' | '<' | '>' if rest[1..].starts_with('=') => Some((Token::Other, 2)),
            c if is_word(c) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                Some((Token::Name, end))
            }
            _ => one(Token::Other),
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl Iterator for Tokens<'_> {
    type Item = (Token, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        self.skip_blanks();
        let (token, bytes) = self.token()?;
        let start = self.at;
        self.at += bytes;
        Some((token, start..self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(source: &str) -> String {
        check_limits(source).unwrap_err().message
    }

    #[test]
    fn depth_is_bounded_in_every_direction() {
        let at = |k: usize| format!("x = {}{}\n", "[".repeat(k), "]".repeat(k));
        assert_eq!(check_limits(&at(100)), Ok(()));
        assert!(refusal(&at(101)).contains("100 deep"));
        assert!(refusal(&"(".repeat(1 << 20)).contains("100 deep"));
        assert!(refusal(&format!("x = {}1", "-".repeat(4_000))).contains("4000 parts"));
        assert!(refusal(&format!("x = ({}1)", "1 +\n".repeat(4_000))).contains("4000 parts"));
        assert!(refusal(&format!("x = y{}", "[0]".repeat(4_000))).contains("4000 parts"));
        // Each level alone is short; together they are not.
        let mixed = format!("({}", "-".repeat(100)).repeat(60);
        assert!(refusal(&mixed).contains("4000 parts"));
        let blocks: String = (0..102)
            .map(|k| format!("{}if x:\n", " ".repeat(k)))
            .collect();
        assert!(refusal(&blocks).contains("blocks are nested"));
        assert!(refusal(&"elif x:\n y\n".repeat(1_001)).contains("1000 elif"));
    }

    #[test]
    fn length_without_depth_is_not() {
        let list = format!("x = [\n{}]\n", "(1, {2: 3}, -4),\n".repeat(20_000));
        assert_eq!(check_limits(&list), Ok(()));
        assert_eq!(check_limits(&"x = 1\n".repeat(100_000)), Ok(()));
        let strings = format!("x = '''{}''' # {}\n", "(".repeat(500), "(".repeat(500));
        assert_eq!(check_limits(&strings), Ok(()));
        let blocks = "if a:\n    if b:\n        x()\nif c:\n    y()\n".repeat(1_000);
        assert_eq!(check_limits(&blocks), Ok(()));
    }

    #[test]
    fn finds_arguments_where_a_person_would() {
        let call = "job(\n  # replicas = 1\n  'first',\n  name = 'a, replicas=2',\n  env = {\n    'replicas': str(replicas = 3),\n  },\n  fine = a == b, replicas=f(4), 5,\n  **rest)";
        let found = arguments(call);
        let text = |name: &str| {
            let named = |argument: &&Argument| {
                let at = argument.name.clone();
                at.is_some_and(|at| &call[at] == name)
            };
            let argument = found.iter().find(named)?;
            Some(&call[argument.value.clone()])
        };
        assert_eq!(text("name"), Some("'a, replicas=2'"));
        assert_eq!(text("replicas"), Some("f(4)"));
        assert_eq!(text("fine"), Some("a == b"));
        assert_eq!(text("rest"), None);
        assert_eq!(text("b"), None);
        assert!(text("env").unwrap().ends_with("  }"));
        let positional: Vec<&str> = found
            .iter()
            .filter(|argument| argument.name.is_none())
            .map(|argument| &call[argument.value.clone()])
            .collect();
        assert_eq!(positional, ["'first'", "5"]);
        assert_eq!(arguments("job(a=").len(), 1);
        assert_eq!(arguments("job"), []);
    }

    #[test]
    fn finds_elements_and_entries() {
        let list = |text| elements(text).map(|all| all.into_iter().map(|at| &text[at]).collect());
        assert_eq!(
            list("['a', f(1, 2),\n 3,]"),
            Some(vec!["'a'", "f(1, 2)", "3"])
        );
        assert_eq!(list("[]"), Some(vec![]));
        assert_eq!(list("[x for x in y]"), None);
        assert_eq!(list("[1] + [2]"), None);
        assert_eq!(list("names"), None);
        let dict =
            |text| entries(text).map(|all| all.into_iter().map(|(k, at)| (k, &text[at])).collect());
        assert_eq!(
            dict("{'a': 1, 'b' : {'c': 2}}"),
            Some(vec![("'a'", "1"), ("'b'", "{'c': 2}")])
        );
        assert_eq!(dict("{k: v for k, v in x}"), None);
        assert_eq!(dict("dict(a = 1)"), None);
    }

    #[test]
    fn finds_parameters() {
        let source = "def a(x): pass\ndef web(name, replicas = f(1, 2), *, cpu: int = 3, **more):\n  x(web)\n";
        assert_eq!(
            parameters(source, "web").unwrap()[..2],
            ["name".to_owned(), "replicas".to_owned()]
        );
        assert_eq!(parameters(source, "x"), None);
    }

    #[test]
    fn strings_end_where_starlark_ends_them() {
        for (text, kinds) in [
            (r#""a\"(" ("#, 2),
            (r"r'\'(' (", 2),
            ("\"\"\"a\"b\"\"\" (", 2),
            ("'open (\n(", 3),
            ("rb'('", 1),
            ("''", 1),
        ] {
            assert_eq!(Tokens::new(text).count(), kinds, "{text}");
        }
    }
}
