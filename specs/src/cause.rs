//! An error's causes in one line, for people: each level tells only its own.

use std::error::Error;

/// The error and all its causes, outermost first.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The innermost cause: for errors of libraries whose outer levels say less.
pub fn root(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outside")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn each_cause_stands_once() {
        let error = Outer("x".parse::<u8>().unwrap_err());
        assert_eq!(chain(&error), "outside: invalid digit found in string");
        assert_eq!(root(&error), "invalid digit found in string");
    }
}
