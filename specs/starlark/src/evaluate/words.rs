//! The interpreter's messages in the words of specs: without its own terms,
//! with how to mend what people get wrong most.

/// What is said instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// A message of the interpreter, which begins with a small letter, in ours; as
/// it is, if it is none of the usual ones.
pub(super) fn plain(message: &str) -> Words {
    let found = of_syntax(message)
        .or_else(|| of_operations(message))
        .or_else(|| of_calls(message));
    let (message, hint) = found.unwrap_or_else(|| (message.to_owned(), None));
    Words { message, hint }
}

type Plain = Option<(String, Option<String>)>;

fn told(message: impl Into<String>, hint: &str) -> Plain {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    Some((message.into(), hint))
}

/// What stands between `before` and `after`, if the text has that form.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.strip_prefix(before)?.strip_suffix(after)
}

fn of_syntax(message: &str) -> Plain {
    if let Some(word) = between(message, "cannot use reserved keyword `", "`") {
        let hint = match word {
            "while" => "go through a range: for k in range(10):",
            "class" => "values that belong together are a struct(a = 1, b = 2)",
            "import" | "from" => "other files are loaded: load(\"//lib/web.star\", \"web\")",
            "try" | "except" | "raise" | "finally" | "assert" => {
                "nothing is caught: ask with if, and end with fail(\"why\")"
            }
            "global" | "nonlocal" => "a function returns what it makes",
            _ => "choose another name",
        };
        return told(format!("{word} is no word of this language"), hint);
    }
    match message {
        "unfinished string literal" => told(
            "the string does not end on its line",
            "close it with the quote that began it; \"\"\"...\"\"\" may have several lines",
        ),
        "`return` cannot be used outside of a `def` function" => {
            told("return stands outside of a function", "")
        }
        "unexpected new line, expected expression" => told(
            "the line ends before its expression does",
            "put brackets around what goes over several lines",
        ),
        "unexpected new line, expected symbol ':'" => {
            told("a ':' is missing at the line's end", "")
        }
        _ => {
            if let Some(symbol) = between(message, "unexpected new line, expected symbol '", "'") {
                return told(
                    format!("the bracket that '{symbol}' closes is still open here"),
                    &format!("add '{symbol}'"),
                );
            }
            if let Some(symbol) = between(message, "unexpected symbol '", "', expected new line")
                && matches!(symbol, ")" | "]" | "}")
            {
                return told(format!("'{symbol}' closes nothing"), "");
            }
            if message.starts_with("unexpected new indentation block") {
                return told(
                    "the line is indented, but nothing above it begins a block",
                    "begin it where the line above begins",
                );
            }
            None
        }
    }
}

fn of_operations(message: &str) -> Plain {
    if let Some(rest) = message.strip_prefix("operation `") {
        if let Some((sign, types)) = rest.split_once("` not supported for types `") {
            let (left, right) = types.trim_end_matches('`').split_once("` and `")?;
            let hint = match (left, right) {
                ("string", "int" | "float") | ("int" | "float", "string") => {
                    "make the number a text: str(...)"
                }
                _ => "",
            };
            return told(format!("{left} {sign} {right} has no meaning"), hint);
        }
        let (what, kind) = rest.split_once("` not supported on type `")?;
        let kind = kind.trim_end_matches('`');
        return match what {
            "(iter)" => {
                let hint = if kind == "int" {
                    "range(n) goes from 0 to n - 1"
                } else {
                    ""
                };
                told(
                    format!("a list or dictionary is needed, this is {kind}"),
                    hint,
                )
            }
            "call()" => told(
                format!("this is {kind} and no function"),
                "is a comma or an operator missing before the bracket?",
            ),
            "len()" => told(format!("{kind} has no length"), ""),
            what => told(format!("{kind} does not do {what}"), ""),
        };
    }
    if let Some(key) = between(message, "key `", "` was not found") {
        return told(
            format!("there is no key {key}"),
            "x.get(key, default) asks for one that may be missing",
        );
    }
    if let Some(index) = between(message, "index `", "` is out of bound") {
        return told(
            format!("there is no element {index}"),
            "they are numbered from 0",
        );
    }
    if let Some(text) = between(message, "cannot parse `", "` as an integer in base 10") {
        return told(format!("{text:?} is no whole number"), "");
    }
    if let Some(rest) = message.strip_prefix("object of type `") {
        let (kind, rest) = rest.split_once("` has no attribute `")?;
        let (name, meant) = rest.split_once('`')?;
        let meant = between(meant, ", did you mean `", "`?");
        let hint = meant.map_or_else(String::new, |meant| format!("did you mean {meant}?"));
        return told(format!("{kind} has no {name}"), &hint);
    }
    None
}

fn of_calls(message: &str) -> Plain {
    if message.starts_with("error unpacking value for parameter") {
        return told(
            "an argument has the wrong type, or is too large for this function",
            "",
        );
    }
    // Functions are named with their file.
    let function = |text: &str| {
        let name = text.trim_matches('`');
        name.rsplit('.').next().unwrap_or(name).to_owned()
    };
    if let Some(rest) = message.strip_prefix("missing parameter `") {
        let (name, of) = rest.split_once("` for call to ")?;
        return told(format!("{}() needs {name}", function(of)), "");
    }
    if let Some(rest) = message.strip_prefix("found ") {
        if let Some((count, of)) = rest.split_once(" extra positional argument(s) for call to ") {
            let more = if count == "1" {
                "one argument"
            } else {
                "arguments"
            };
            return told(format!("{}() is given {more} too many", function(of)), "");
        }
        let (names, of) = rest.split_once(" extra named parameter(s) for call to ")?;
        let names = names.replace('`', "");
        return told(format!("{}() has no argument {names}", function(of)), "");
    }
    if let Some(rest) = message.strip_prefix("type of parameter `") {
        let (name, rest) = rest.split_once("` doesn't match, expected `")?;
        let (wanted, rest) = rest.split_once("`, actual `")?;
        let kind = rest.split([' ', '`']).next()?;
        return told(
            format!(
                "{name} must be {}, this is {kind}",
                wanted.replace(" | ", " or ")
            ),
            "",
        );
    }
    if let Some(rest) = message.strip_prefix("value `") {
        let (_, rest) = rest.split_once("` of type `")?;
        let (kind, rest) = rest.split_once("` does not match the type annotation `")?;
        let (wanted, rest) = rest.split_once('`')?;
        let what = between(rest, " for argument `", "`").unwrap_or("this");
        return told(format!("{what} must be {wanted}, and is {kind}"), "");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn nothing_of_the_interpreter_is_left() {
        for (theirs, ours) in [
            (
                "error unpacking value for parameter `a1` of type `int",
                "wrong type, or is too large",
            ),
            (
                "operation `(iter)` not supported on type `int`",
                "needed, this is int",
            ),
            (
                "operation `+` not supported for types `string` and `int`",
                "string + int has no meaning",
            ),
            (
                "operation `call()` not supported on type `int`",
                "no function",
            ),
            (
                "missing parameter `a` for call to `//m.star.f`",
                "f() needs a",
            ),
            (
                "found 1 extra positional argument(s) for call to //n.star.f",
                "f() is given one argument too many",
            ),
            (
                "found `b` extra named parameter(s) for call to //o.star.f",
                "f() has no argument b",
            ),
            (
                "type of parameter `sep` doesn't match, expected `None | str`, actual `int (repr: 3)`",
                "sep must be None or str, this is int",
            ),
            (
                "value `x` of type `string` does not match the type annotation `int` for argument `a`",
                "a must be int, and is string",
            ),
            (
                "object of type `list` has no attribute `nope`, did you mean `pop`?",
                "list has no nope",
            ),
            (
                "cannot use reserved keyword `while`",
                "while is no word of this language",
            ),
            (
                "unexpected symbol ')', expected new line",
                "')' closes nothing",
            ),
            (
                "unexpected new line, expected symbol ']'",
                "']' closes is still open",
            ),
        ] {
            let said = plain(theirs).message;
            assert!(said.contains(ours), "{theirs}: {said}");
            assert!(!said.contains('`'), "{said}");
        }
        assert_eq!(plain("something new").message, "something new");
    }

    #[test]
    fn what_people_try_first_has_a_hint() {
        for message in [
            "cannot use reserved keyword `class`",
            "cannot use reserved keyword `import`",
            "cannot use reserved keyword `try`",
            "unfinished string literal",
            "key `\"a\"` was not found",
            "object of type `list` has no attribute `nope`, did you mean `pop`?",
        ] {
            assert!(plain(message).hint.is_some(), "{message}");
        }
    }
}
