//! The arguments of one call: known or not, of the right type or not. Every
//! problem is collected with its place, and the call goes on without the
//! value, so that a person sees all of them at once.

use crate::{
    ProblemKind,
    collect::{Collector, TooMany},
    units,
};
use potluck_specs::suggestion::nearest;
use starlark::{
    collections::SmallMap,
    eval::Evaluator,
    values::{
        UnpackValue, Value, dict::DictRef, float::UnpackFloat, list::ListRef, structs::StructRef,
        tuple::TupleRef,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// What a function takes.
pub(crate) struct Signature {
    pub(crate) function: &'static str,
    /// Every argument.
    pub(crate) arguments: &'static [&'static str],
    /// How many of them may be given by position.
    pub(crate) positional: usize,
    /// Arguments that are planned, and refused until something executes them.
    pub(crate) not_yet: &'static [&'static str],
    /// What people who come from elsewhere call some of them.
    pub(crate) elsewhere: &'static [(&'static str, &'static str)],
}

/// The arguments that a call was given.
pub(crate) struct Arguments<'v, 'c> {
    signature: &'static Signature,
    collector: &'c Collector,
    place: Range<usize>,
    given: BTreeMap<String, Value<'v>>,
    /// Arguments about which something was said.
    wrong: BTreeSet<String>,
    /// Was anything said at all?
    told: bool,
}

/// What a function of the language made: its kind, and its fields.
pub(crate) type Made<'v> = (&'v str, BTreeMap<&'v str, Value<'v>>);

type Done = Result<(), TooMany>;

impl<'v, 'c> Arguments<'v, 'c> {
    pub(crate) fn read<'e>(
        signature: &'static Signature,
        positional: &[Value<'v>],
        named: &SmallMap<&str, Value<'v>>,
        eval: &Evaluator<'v, 'c, 'e>,
    ) -> Result<Arguments<'v, 'c>, TooMany> {
        let mut arguments = Arguments {
            signature,
            collector: Collector::of(eval),
            place: Collector::call_place(eval),
            given: BTreeMap::new(),
            wrong: BTreeSet::new(),
            told: false,
        };
        arguments.take_positional(positional)?;
        for (name, value) in named {
            arguments.take_named(name, *value)?;
        }
        Ok(arguments)
    }

    fn take_positional(&mut self, values: &[Value<'v>]) -> Done {
        let Signature {
            function,
            arguments,
            positional,
            ..
        } = self.signature;
        if values.len() > *positional {
            let message = match positional {
                0 => format!("{function}() takes named arguments only"),
                _ => format!("{function}() takes at most {positional} arguments without a name"),
            };
            let next = arguments.get(*positional);
            let hint = next.map(|name| format!("write {name} = ..."));
            self.whole(ProblemKind::Invalid, message, hint)?;
        }
        for (name, value) in arguments.iter().zip(values).take(*positional) {
            self.given.insert((*name).into(), *value);
        }
        Ok(())
    }

    fn take_named(&mut self, name: &str, value: Value<'v>) -> Done {
        if !self.signature.arguments.contains(&name) {
            return self.unknown(name);
        }
        if self.given.contains_key(name) {
            return self.invalid(name, format!("{name} is given twice"), None);
        }
        // None stands for "not given", so that wrappers can pass it through.
        if !value.is_none() {
            self.given.insert(name.into(), value);
        }
        Ok(())
    }

    fn unknown(&mut self, name: &str) -> Done {
        let Signature {
            function,
            arguments,
            not_yet,
            elsewhere,
            ..
        } = self.signature;
        if not_yet.contains(&name) {
            let message = format!("{name} is not yet supported");
            let hint = Some("this version would not carry it out; leave it away".into());
            return self.named(name, ProblemKind::NotYetSupported, message, hint);
        }
        let known = arguments.iter().chain(*not_yet).copied();
        let meant = elsewhere.iter().find(|(theirs, _)| *theirs == name);
        let meant = meant
            .map(|(_, ours)| *ours)
            .or_else(|| nearest(name, known));
        let hint = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("{function}() takes {}", arguments.join(", ")),
        };
        let message = format!("{function}() has no argument {name}");
        self.named(name, ProblemKind::UnknownArgument, message, Some(hint))
    }

    /// A problem with the name of an argument.
    fn named(
        &mut self,
        name: &str,
        kind: ProblemKind,
        message: String,
        hint: Option<String>,
    ) -> Done {
        let place = self.collector.argument_place(&self.place, name);
        let place = place.map_or(self.place.clone(), |argument| argument.name);
        self.wrong.insert(name.into());
        self.told = true;
        self.collector.add_problem(place, kind, message, hint)
    }

    /// A problem with the value of an argument.
    pub(crate) fn invalid(&mut self, name: &str, message: String, hint: Option<String>) -> Done {
        let place = self.collector.argument_place(&self.place, name);
        let place = place.map_or(self.place.clone(), |argument| argument.value);
        self.wrong.insert(name.into());
        self.told = true;
        self.collector
            .add_problem(place, ProblemKind::Invalid, message, hint)
    }

    /// A problem with the call as a whole.
    pub(crate) fn whole(
        &mut self,
        kind: ProblemKind,
        message: String,
        hint: Option<String>,
    ) -> Done {
        self.told = true;
        self.collector
            .add_problem(self.place.clone(), kind, message, hint)
    }

    pub(crate) fn collector(&self) -> &'c Collector {
        self.collector
    }

    /// The arguments about which something was said.
    pub(crate) fn wrong(&self) -> &BTreeSet<String> {
        &self.wrong
    }

    /// Was nothing said at all?
    pub(crate) fn all_well(&self) -> bool {
        !self.told
    }

    fn wrong_type<T>(
        &mut self,
        name: &str,
        wanted: &str,
        value: Value<'v>,
    ) -> Result<Option<T>, TooMany> {
        let message = format!("{name} must be {wanted}, this is {}", type_or_number(value));
        self.invalid(name, message, None)?;
        Ok(None)
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, TooMany> {
        let Some(value) = self.given.get(name).copied() else {
            return Ok(None);
        };
        match value.unpack_str() {
            Some(text) => Ok(Some(text.into())),
            None => self.wrong_type(name, "a string", value),
        }
    }

    /// A text that must be given. An empty one stands for it if it is missing,
    /// and a problem is noted.
    pub(crate) fn required_text(&mut self, name: &str) -> Result<String, TooMany> {
        if !self.given.contains_key(name) && !self.wrong.contains(name) {
            let function = self.signature.function;
            self.wrong.insert(name.into());
            self.whole(
                ProblemKind::Invalid,
                format!("{function}() needs {name}"),
                None,
            )?;
        }
        Ok(self.text(name)?.unwrap_or_default())
    }

    pub(crate) fn texts(&mut self, name: &str) -> Result<Vec<String>, TooMany> {
        let Some(value) = self.given.get(name).copied() else {
            return Ok(Vec::new());
        };
        let items = match (ListRef::from_value(value), TupleRef::from_value(value)) {
            (Some(list), _) => list.content(),
            (_, Some(tuple)) => tuple.content(),
            _ => {
                let nothing = self.wrong_type(name, "a list of strings", value)?;
                return Ok(nothing.unwrap_or_default());
            }
        };
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match item.unpack_str() {
                Some(text) => texts.push(text.into()),
                None => self.wrong_item(name, &format!("[{index}]"), "a string", *item)?,
            }
        }
        Ok(texts)
    }

    fn wrong_item(&mut self, name: &str, at: &str, wanted: &str, value: Value<'v>) -> Done {
        let message = format!(
            "{name}{at} must be {wanted}, this is {}",
            type_or_number(value)
        );
        let number =
            wanted == "a string" && UnpackFloat::unpack_value(value).ok().flatten().is_some();
        let hint = number.then(|| format!("put it in quotes: \"{}\"", cut(&value.to_string())));
        self.invalid(name, message, hint)
    }

    /// A dictionary's entries in the order in which they are written.
    fn entries(&mut self, name: &str, wanted: &str) -> Result<Vec<(String, Value<'v>)>, TooMany> {
        let Some(value) = self.given.get(name).copied() else {
            return Ok(Vec::new());
        };
        let Some(dict) = DictRef::from_value(value) else {
            let nothing = self.wrong_type(name, wanted, value)?;
            return Ok(nothing.unwrap_or_default());
        };
        let mut entries = Vec::with_capacity(dict.len());
        for (key, value) in dict.iter() {
            match key.unpack_str() {
                Some(key) => entries.push((key.to_owned(), value)),
                None => self.wrong_item(name, "'s names", "strings", key)?,
            }
        }
        Ok(entries)
    }

    /// `{"name": "text"}`.
    pub(crate) fn text_map(&mut self, name: &str) -> Result<Vec<(String, String)>, TooMany> {
        let mut texts = Vec::new();
        for (key, value) in self.entries(name, "a dictionary of strings")? {
            match value.unpack_str() {
                Some(text) => texts.push((key, text.to_owned())),
                None => self.wrong_item(name, &format!("[{key:?}]"), "a string", value)?,
            }
        }
        Ok(texts)
    }

    /// `{"name": 8080}`.
    pub(crate) fn number_map(&mut self, name: &str) -> Result<Vec<(String, u16)>, TooMany> {
        let mut numbers = Vec::new();
        for (key, value) in self.entries(name, "a dictionary of port numbers")? {
            match whole_number(value).and_then(|n| u16::try_from(n).ok()) {
                Some(number) => numbers.push((key, number)),
                None => {
                    let at = format!("[{key:?}]");
                    let wanted = "a number up to 65535, or 0 for one that the node chooses";
                    self.wrong_item(name, &at, wanted, value)?;
                }
            }
        }
        Ok(numbers)
    }

    /// A number of things.
    pub(crate) fn count(&mut self, name: &str) -> Result<Option<u32>, TooMany> {
        let Some(value) = self.given.get(name).copied() else {
            return Ok(None);
        };
        match whole_number(value).map(u32::try_from) {
            Some(Ok(count)) => Ok(Some(count)),
            Some(Err(_)) => {
                self.invalid(name, format!("{name} can't be {}", shown(value)), None)?;
                Ok(None)
            }
            None => self.wrong_type(name, "a whole number", value),
        }
    }

    /// Thousandths of a core, from `0.5` or `"500m"`.
    pub(crate) fn cpu_millis(&mut self, name: &str) -> Result<Option<u32>, TooMany> {
        self.quantity(
            name,
            "a number of cores (0.5) or a string (\"500m\")",
            |value| match value.unpack_str() {
                Some(text) => units::cpu_millis_of_text(text),
                None => units::cpu_millis_of_cores(UnpackFloat::unpack_value(value).ok()??.0),
            },
        )
    }

    /// Bytes, from a number or `"64MiB"`.
    pub(crate) fn memory_bytes(&mut self, name: &str) -> Result<Option<u64>, TooMany> {
        self.quantity(
            name,
            "a size (\"64MiB\", \"1GiB\") or a number of bytes",
            |value| match value.unpack_str() {
                Some(text) => units::memory_bytes(text),
                None => whole_number(value)?.try_into().ok(),
            },
        )
    }

    /// Milliseconds, from `"10s"`.
    pub(crate) fn duration_ms(&mut self, name: &str) -> Result<Option<u64>, TooMany> {
        self.quantity(name, "a duration (\"250ms\", \"10s\", \"5m\")", |value| {
            units::duration_ms(value.unpack_str()?)
        })
    }

    /// A signal's number, from `"SIGTERM"` or 15.
    pub(crate) fn signal(&mut self, name: &str) -> Result<Option<i32>, TooMany> {
        self.quantity(
            name,
            "a signal (\"SIGTERM\") or its number",
            |value| match value.unpack_str() {
                Some(text) => units::signal(text),
                None => whole_number(value)?.try_into().ok(),
            },
        )
    }

    fn quantity<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl Fn(Value<'v>) -> Option<T>,
    ) -> Result<Option<T>, TooMany> {
        let Some(value) = self.given.get(name).copied() else {
            return Ok(None);
        };
        if let Some(read) = read(value) {
            return Ok(Some(read));
        }
        let simple = value.unpack_str().is_some()
            || UnpackFloat::unpack_value(value).ok().flatten().is_some();
        if !simple {
            return self.wrong_type(name, wanted, value);
        }
        let message = format!("{name} must be {wanted}, this is {}", shown(value));
        self.invalid(name, message, None)?;
        Ok(None)
    }

    /// What one of the language's own functions made: its kind and its fields.
    pub(crate) fn made_by(
        &mut self,
        name: &str,
        kinds: &[&str],
    ) -> Result<Option<Made<'v>>, TooMany> {
        let Some(value) = self.given.get(name).copied() else {
            return Ok(None);
        };
        let fields: Option<BTreeMap<&str, Value>> = StructRef::from_value(value)
            .map(|made| made.iter().map(|(k, v)| (k.as_str(), v)).collect());
        let kind = |fields: &BTreeMap<&str, Value<'v>>| fields.get(KIND)?.unpack_str();
        match fields.map(|fields| (kind(&fields), fields)) {
            Some((Some(kind), fields)) if kinds.contains(&kind) => Ok(Some((kind, fields))),
            _ => {
                let wanted: Vec<String> = kinds.iter().map(|kind| format!("{kind}(...)")).collect();
                self.wrong_type(name, &wanted.join(" or "), value)
            }
        }
    }
}

/// The field that says which function made a value.
pub(crate) const KIND: &str = "made_by";

pub(crate) fn whole_number(value: Value) -> Option<i64> {
    i64::unpack_value(value).ok().flatten()
}

/// A value in a message: itself if that is short and telling.
fn shown(value: Value) -> String {
    match value.unpack_str() {
        Some(text) => format!("{:?}", cut(text)),
        None => type_or_number(value),
    }
}

/// What a value of the wrong type is.
fn type_or_number(value: Value) -> String {
    match value.get_type() {
        "int" | "float" | "bool" => cut(&value.to_string()),
        _ => type_name(value).into(),
    }
}

fn cut(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    match cut.len() < text.len() {
        true => cut + "...",
        false => cut,
    }
}

/// How much of a value a message shows.
const SHOWN_CHARS_MAX: usize = 40;

fn type_name(value: Value) -> &'static str {
    match value.get_type() {
        "string" => "a string",
        "list" => "a list",
        "tuple" => "a tuple",
        "dict" => "a dictionary",
        "NoneType" => "None",
        "function" | "native_function" => "a function",
        "struct" => "what another function made",
        other => other,
    }
}
