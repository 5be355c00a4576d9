//! The form in which the functions of the language are defined: one table from
//! which calls are read, defaults are taken, `spec show` is printed, and the
//! reference is written, so that none of them can drift from another.

/// A function of the language.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    /// What it is for: sentences.
    pub(crate) doc: &'static str,
    /// Its parameters, in groups that belong together.
    pub(crate) groups: &'static [&'static Group],
    /// How many of the parameters may be given by position.
    pub(crate) positional: usize,
    /// It gathers arguments for another function, which asks for what is
    /// required.
    pub(crate) gathers: bool,
    /// What people who come from elsewhere call some of them.
    pub(crate) elsewhere: &'static [(&'static str, &'static str)],
    /// One call as an expert would write it.
    pub(crate) example: &'static str,
}

/// Parameters that belong together.
#[derive(Debug)]
pub(crate) struct Group {
    /// A heading for the reference; empty for a function with one group.
    pub(crate) title: &'static str,
    pub(crate) params: &'static [Param],
}

/// A parameter of a function.
#[derive(Debug)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: Default,
    /// What it means: sentences.
    pub(crate) doc: &'static str,
}

/// What a call does when an argument is left away.
#[derive(Debug)]
pub(crate) enum Default {
    /// It is told as a problem.
    Required,
    /// Nothing is set; the text says what that means.
    Absent(&'static str),
    /// This value, as it would be written in a spec.
    Is(&'static str),
}

/// The form of a value.
#[derive(Debug)]
pub(crate) enum Kind {
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    Flag,
    /// A whole number, zero or more.
    Count,
    /// A whole number that may be below zero.
    Integer,
    /// 0 to 65535.
    Port,
    /// Thousandths of a core: `0.5` or `"500m"`.
    Cpu,
    /// `"64MiB"`, or a number of bytes.
    Bytes,
    /// `"100Mbit/s"`.
    Rate,
    /// Permission bits: `0o644` or `"0644"`.
    Mode,
    /// `"10s"`.
    Duration,
    /// `"SIGTERM"` or its number.
    Signal,
    /// `"25%"`.
    Percent,
    List(&'static Kind),
    /// A dictionary with names as keys.
    Map(&'static Kind),
    /// What one of these functions makes.
    Made(&'static [&'static Function]),
    /// The first of these that fits.
    Either(&'static [Kind]),
}

impl Function {
    pub(crate) fn params(&self) -> impl Iterator<Item = &'static Param> + use<> {
        self.groups.iter().flat_map(|group| group.params)
    }

    pub(crate) fn param(&self, name: &str) -> Option<&'static Param> {
        self.params().find(|param| param.name == name)
    }

    /// The index of a parameter that may be given without its name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        let mut unnamed = self.params().take(self.positional);
        unnamed.position(|param| param.name == name)
    }
}

impl Kind {
    /// What is told to a person who wrote something else: "… must be".
    pub(crate) fn wanted(&self) -> String {
        match self {
            Kind::Text => "a string".into(),
            Kind::Word(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                or(&words)
            }
            Kind::Flag => "True or False".into(),
            Kind::Count => "a whole number, zero or more".into(),
            Kind::Integer => "a whole number".into(),
            Kind::Port => "a number up to 65535, or 0 for one that the node chooses".into(),
            Kind::Cpu => "a number of cores (0.5) or a string (\"500m\")".into(),
            Kind::Bytes => "a size (\"64MiB\", \"1GiB\") or a number of bytes".into(),
            Kind::Rate => "a rate (\"100Mbit/s\")".into(),
            Kind::Mode => "permission bits (\"0644\" or 0o644)".into(),
            Kind::Duration => "a duration (\"250ms\", \"10s\", \"5m\")".into(),
            Kind::Signal => "a signal (\"SIGTERM\") or its number".into(),
            Kind::Percent => "a percentage (\"25%\")".into(),
            Kind::List(kind) => format!("a list of {}", kind.plural()),
            Kind::Map(kind) => format!("a dictionary of {}", kind.plural()),
            Kind::Made(functions) => {
                let calls: Vec<String> = functions
                    .iter()
                    .map(|f| format!("{}(...)", f.name))
                    .collect();
                or(&calls)
            }
            Kind::Either(kinds) => {
                let kinds: Vec<String> = kinds.iter().map(Kind::wanted).collect();
                or(&kinds)
            }
        }
    }

    fn plural(&self) -> String {
        match self {
            Kind::Text => "strings".into(),
            Kind::Port => "port numbers".into(),
            Kind::Duration => "durations".into(),
            Kind::Bytes => "sizes".into(),
            Kind::Count | Kind::Integer => "whole numbers".into(),
            other => other.wanted(),
        }
    }

    /// Its name in the reference.
    pub(crate) fn name(&self) -> String {
        match self {
            Kind::Text => "string".into(),
            Kind::Word(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                words.join(" or ")
            }
            Kind::Flag => "bool".into(),
            Kind::Count | Kind::Integer => "int".into(),
            Kind::Port => "port".into(),
            Kind::Cpu => "cores".into(),
            Kind::Bytes => "size".into(),
            Kind::Rate => "rate".into(),
            Kind::Mode => "mode".into(),
            Kind::Duration => "duration".into(),
            Kind::Signal => "signal".into(),
            Kind::Percent => "percent".into(),
            Kind::List(kind) => format!("list of {}", kind.name()),
            Kind::Map(kind) => format!("dict of {}", kind.name()),
            Kind::Made(functions) => {
                let names: Vec<String> =
                    functions.iter().map(|f| format!("{}()", f.name)).collect();
                names.join(" or ")
            }
            Kind::Either(kinds) => {
                let names: Vec<String> = kinds.iter().map(Kind::name).collect();
                names.join(" or ")
            }
        }
    }
}

/// "a, b or c".
pub(crate) fn or(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
