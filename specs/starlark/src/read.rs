//! Reads a call by the definition of its function. Every problem is collected
//! with its place, and the call goes on without the value, so that a person
//! sees all of them at once.

use crate::{
    call::{Call, Data, GATHERED, Item, Made, default},
    collect::{Collector, TooMany},
    define::{Default, Function, Kind, Param},
    finding::{Finding, FindingKind},
    place::{CallPlace, Step, ValuePlace},
    units,
    unknown::Unknown,
};
use potluck_specs::suggestion::nearest;
use starlark::{
    eval::{Arguments, Evaluator},
    values::{
        UnpackValue, Value, dict::DictRef, float::UnpackFloat, list::ListRef, tuple::TupleRef,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Most arguments that are listed when none of them seems to be meant: more
/// hide what is wrong.
const NAMES_TOLD_MAX: usize = 12;

/// Most elements of a list or dictionary in a job: far beyond any good one,
/// and its bytes are bounded anyway.
const ELEMENTS_MAX: usize = 10_000;

/// How much of a value a message shows.
const SHOWN_CHARS_MAX: usize = 40;

type Done = Result<(), TooMany>;

/// Reads one call.
pub(crate) fn read<'v>(
    function: &'static Function,
    arguments: &Arguments<'v, '_>,
    eval: &Evaluator<'v, '_, '_>,
) -> starlark::Result<Call> {
    let mut reader = Reader {
        function,
        collector: Collector::of(eval),
        place: CallPlace::of(eval),
        values: BTreeMap::new(),
        wrong: BTreeSet::new(),
        wrong_at: Vec::new(),
        dropped: Vec::new(),
    };
    let positional: Vec<Value> = arguments.positions(eval.heap())?.collect();
    reader.take_positional(&positional)?;
    for (name, value) in arguments.names_map()? {
        reader.take_named(name.as_str(), value)?;
    }
    reader.fill_in()?;
    Ok(Call {
        function,
        place: Some(reader.place),
        values: reader.values,
        wrong: reader.wrong,
        wrong_at: reader.wrong_at,
        dropped: reader.dropped,
    })
}

struct Reader<'c> {
    function: &'static Function,
    collector: &'c Collector,
    place: CallPlace,
    values: BTreeMap<&'static str, Item>,
    wrong: BTreeSet<&'static str>,
    wrong_at: Vec<Vec<Step>>,
    dropped: Vec<(&'static str, usize)>,
}

/// Where in an argument a value stands.
struct At<'a> {
    param: &'static Param,
    steps: &'a [Step],
}

impl At<'_> {
    /// `args[2]`.
    fn shown(&self) -> String {
        let steps = self.steps.iter().map(|step| match step {
            Step::Element(index) => format!("[{index}]"),
            Step::Entry(key) => format!("[{key:?}]"),
        });
        steps.fold(self.param.name.to_owned(), |shown, step| shown + &step)
    }
}

impl Reader<'_> {
    fn take_positional(&mut self, values: &[Value]) -> Done {
        let Function {
            name, positional, ..
        } = self.function;
        if values.len() > *positional {
            let message = match positional {
                0 => format!("{name}() takes named arguments only"),
                1 => format!("{name}() takes at most 1 argument without a name"),
                n => format!("{name}() takes at most {n} arguments without a name"),
            };
            let mut finding = self.finding(self.place.call(), FindingKind::Invalid, message);
            if let Some(next) = self.function.params().nth(*positional) {
                finding = finding.hint(format!("write {} = ...", next.name));
            }
            self.collector.tell(finding)?;
        }
        for (param, value) in self.function.params().zip(values).take(*positional) {
            self.take(param, *value)?;
        }
        Ok(())
    }

    fn take_named(&mut self, name: &str, value: Value) -> Done {
        let Some(param) = self.function.param(name) else {
            return self.unknown(name);
        };
        if self.values.contains_key(param.name) {
            let place = self.place.argument(name, None, true);
            let message = format!("{name} is given twice");
            let finding = self.finding(place, FindingKind::Invalid, message);
            return self.wrong(&At { param, steps: &[] }, finding);
        }
        self.take(param, value)
    }

    fn take(&mut self, param: &'static Param, value: Value) -> Done {
        // None stands for "not given", so that wrappers can pass it through.
        if value.is_none() {
            return Ok(());
        }
        if let Some(data) = self.data(&param.kind, value, &At { param, steps: &[] })? {
            let item = Item {
                data,
                written: true,
            };
            self.values.insert(param.name, item);
        }
        Ok(())
    }

    fn unknown(&mut self, name: &str) -> Done {
        let Function {
            name: function,
            elsewhere,
            ..
        } = self.function;
        let known = || self.function.params().map(|param| param.name);
        let meant = elsewhere.iter().find(|(theirs, _)| *theirs == name);
        let meant = meant
            .map(|(_, ours)| *ours)
            .or_else(|| nearest(name, known()));
        let hint = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None if known().count() > NAMES_TOLD_MAX => {
                format!("`potluck spec schema functions` lists what {function}() takes")
            }
            None => format!(
                "{function}() takes {}",
                known().collect::<Vec<_>>().join(", ")
            ),
        };
        let place = self.place.argument(name, None, true);
        let message = format!("{function}() has no argument {name}");
        let finding = self.finding(place, FindingKind::UnknownArgument, message);
        self.collector.tell(finding.hint(hint))
    }

    /// Defaults, and what is missing.
    fn fill_in(&mut self) -> Done {
        let mut missing = Vec::new();
        for param in self.function.params() {
            if self.values.contains_key(param.name) {
                continue;
            }
            if let Some(data) = default(param) {
                let item = Item {
                    data,
                    written: false,
                };
                self.values.insert(param.name, item);
            } else if self.must_have(param) && self.wrong.insert(param.name) {
                self.wrong_at.push(vec![Step::Entry(param.name.into())]);
                missing.push(param.name);
            }
        }
        let [.., last] = missing[..] else {
            return Ok(());
        };
        let function = self.function;
        let needs = format!("{}() needs {}", function.name, and(&missing));
        let param = function.param(last);
        let finding = self.finding(self.place.call(), FindingKind::Invalid, needs);
        let finding = match missing[..] {
            [_] => finding.why(param.map_or("", |param| first_sentence(param.doc))),
            _ => finding,
        };
        self.collector
            .tell(finding.hint(format!("as in: {}", function.example)))
    }

    fn must_have(&self, param: &Param) -> bool {
        let gathered = self.values.get(GATHERED).and_then(|item| item.data.made());
        matches!(param.default, Default::Required)
            && !self.function.gathers
            && !gathered
                .is_some_and(|call| call.is_written(param.name) || call.wrong.contains(param.name))
    }

    fn finding(&self, place: ValuePlace, kind: FindingKind, message: String) -> Finding {
        Finding::at_value(place, self.function.name, kind, message)
    }

    fn wrong(&mut self, at: &At, finding: Finding) -> Done {
        self.mark(at);
        self.collector.tell(finding)
    }

    /// Something is wrong there, and told.
    fn mark(&mut self, at: &At) {
        self.wrong.insert(at.param.name);
        let first = Step::Entry(at.param.name.into());
        self.wrong_at.push([&[first], at.steps].concat());
    }

    /// A value by its form; none if it was wrong, which is told.
    fn data(&mut self, kind: &Kind, value: Value, at: &At) -> Result<Option<Data>, TooMany> {
        // Its name was told.
        if Unknown::is(value) {
            self.mark(at);
            return Ok(None);
        }
        match kind {
            Kind::List(inner) => self.list(kind, inner, value, at),
            Kind::Map(inner) => self.map(kind, inner, value, at),
            Kind::Either(kinds) => {
                let simple = |kind: &&Kind| simple(kind, value).is_some() || shape(kind, value);
                match kinds.iter().find(simple) {
                    Some(kind) => self.data(kind, value, at),
                    None => self.misfit(kind, value, at),
                }
            }
            Kind::Made(_) => {
                let Some(data) = simple(kind, value) else {
                    return self.misfit(kind, value, at);
                };
                // What is wrong inside was told. That call knows which of its
                // arguments it is; the others are judged.
                if data.made().is_some_and(|call| !call.wrong.is_empty()) {
                    self.wrong.insert(at.param.name);
                }
                Ok(Some(data))
            }
            _ => match simple(kind, value) {
                Some(data) => Ok(Some(data)),
                None => self.misfit(kind, value, at),
            },
        }
    }

    fn list(
        &mut self,
        kind: &Kind,
        inner: &Kind,
        value: Value,
        at: &At,
    ) -> Result<Option<Data>, TooMany> {
        let items = match (ListRef::from_value(value), TupleRef::from_value(value)) {
            (Some(list), _) => list.content(),
            (_, Some(tuple)) => tuple.content(),
            _ => return self.misfit(kind, value, at),
        };
        if items.len() > ELEMENTS_MAX {
            return self.too_many(at);
        }
        let mut data = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let steps = [at.steps, &[Step::Element(index)]].concat();
            let at = At {
                param: at.param,
                steps: &steps,
            };
            match self.data(inner, *item, &at)? {
                Some(item) => data.push(item),
                None if at.steps.len() == 1 => self.dropped.push((at.param.name, index)),
                None => {}
            }
        }
        Ok(Some(Data::List(data)))
    }

    fn map(
        &mut self,
        kind: &Kind,
        inner: &Kind,
        value: Value,
        at: &At,
    ) -> Result<Option<Data>, TooMany> {
        let Some(dict) = DictRef::from_value(value) else {
            return self.misfit(kind, value, at);
        };
        if dict.len() > ELEMENTS_MAX {
            return self.too_many(at);
        }
        let mut data = Vec::with_capacity(dict.len());
        for (key, value) in dict.iter() {
            let Some(key) = key.unpack_str() else {
                let message = format!(
                    "{}'s names must be strings, this is {}",
                    at.shown(),
                    type_or_number(key)
                );
                let place = self.value_place(at);
                let finding = self.finding(place, FindingKind::Invalid, message);
                self.wrong(at, finding)?;
                continue;
            };
            let steps = [at.steps, &[Step::Entry(key.into())]].concat();
            let at = At {
                param: at.param,
                steps: &steps,
            };
            if let Some(value) = self.data(inner, value, &at)? {
                data.push((key.to_owned(), value));
            }
        }
        Ok(Some(Data::Map(data)))
    }

    fn too_many(&mut self, at: &At) -> Result<Option<Data>, TooMany> {
        let message = format!("{} has more than {ELEMENTS_MAX} elements", at.shown());
        let finding = self.finding(self.value_place(at), FindingKind::Limit, message);
        self.wrong(at, finding)?;
        Ok(None)
    }

    fn value_place(&self, at: &At) -> ValuePlace {
        let position = self.function.position(at.param.name);
        self.place.inside(at.param.name, position, at.steps)
    }

    fn misfit(&mut self, kind: &Kind, value: Value, at: &At) -> Result<Option<Data>, TooMany> {
        let told = match value.unpack_str() {
            Some(text) if !matches!(kind, Kind::List(_) | Kind::Map(_)) => {
                format!("{:?}", cut(text))
            }
            _ => type_or_number(value),
        };
        let message = format!("{} must be {}, this is {told}", at.shown(), kind.wanted());
        let place = self.value_place(at);
        let mut finding = self.finding(place, FindingKind::Invalid, message);
        if let Some(hint) = mend(kind, value) {
            finding = finding.hint(hint);
        }
        self.wrong(at, finding)?;
        Ok(None)
    }
}

/// A value that holds no others.
fn simple(kind: &Kind, value: Value) -> Option<Data> {
    let text = value.unpack_str();
    Some(match kind {
        Kind::Text => Data::Text(text?.into()),
        Kind::Word(words) => {
            Data::Text(words.iter().find(|word| Some(**word) == text)?.to_string())
        }
        Kind::Flag => Data::Flag(value.unpack_bool()?),
        Kind::Count => Data::Whole(whole(value).filter(|n| u32::try_from(*n).is_ok())?),
        Kind::Integer => Data::Whole(whole(value)?),
        Kind::Port => Data::Whole(whole(value).filter(|n| u16::try_from(*n).is_ok())?),
        Kind::Cpu => Data::Cpu(match text {
            Some(text) => units::cpu_millis_of_text(text)?,
            None => units::cpu_millis_of_cores(UnpackFloat::unpack_value(value).ok()??.0)?,
        }),
        Kind::Bytes => Data::Bytes(match text {
            Some(text) => units::memory_bytes(text)?,
            None => whole(value)?.try_into().ok()?,
        }),
        Kind::Rate => Data::Rate(units::bits_per_s(text?)?),
        Kind::Mode => Data::Mode(match text {
            Some(text) => units::mode(text)?,
            None => whole(value)?.try_into().ok()?,
        }),
        Kind::Duration => Data::Ms(units::duration_ms(text?)?),
        Kind::Signal => Data::Signal(match text {
            Some(text) => units::signal(text)?,
            None => whole(value)?.try_into().ok()?,
        }),
        Kind::Percent => Data::Percent(units::percent(text?)?),
        Kind::Made(functions) => {
            let made = Made::from_value(value)?;
            let fits = functions
                .iter()
                .any(|function| function.name == made.0.function.name);
            Data::Made(fits.then(|| made.clone())?)
        }
        Kind::List(_) | Kind::Map(_) | Kind::Either(_) => return None,
    })
}

/// Has the value the outer form of the kind, whatever it holds?
fn shape(kind: &Kind, value: Value) -> bool {
    match kind {
        Kind::List(_) => {
            ListRef::from_value(value).is_some() || TupleRef::from_value(value).is_some()
        }
        Kind::Map(_) => DictRef::from_value(value).is_some(),
        _ => false,
    }
}

/// How a value of the wrong form becomes right, where that is plain.
fn mend(kind: &Kind, value: Value) -> Option<String> {
    let number = || {
        let number = UnpackFloat::unpack_value(value).ok().flatten();
        number.map(|_| cut(&value.to_string()))
    };
    match kind {
        Kind::Text => Some(format!("put it in quotes: \"{}\"", number()?)),
        Kind::Duration => match value.unpack_str() {
            Some(text) => Some(write(units::meant_ms(text)?)),
            None => Some(format!("with its unit: \"{}s\"", number()?)),
        },
        Kind::Word(words) => {
            let near = nearest(value.unpack_str()?, words.iter().copied())?;
            Some(format!("did you mean {near:?}?"))
        }
        Kind::Bytes if whole(value).is_none() && value.unpack_str().is_none() => {
            let number = UnpackFloat::unpack_value(value).ok().flatten()?.0;
            Some(match number > (1u64 << 53) as f64 {
                true => "that is more than any node has".into(),
                false => "whole bytes, or with a unit: \"64MiB\"".into(),
            })
        }
        Kind::Bytes => Some(write(units::meant_bytes(value.unpack_str()?)?)),
        Kind::Rate => Some(write(units::meant_rate(value.unpack_str()?)?)),
        Kind::Signal => {
            let near = units::meant_signal(value.unpack_str()?)?;
            Some(format!("did you mean {near}?"))
        }
        Kind::Cpu => {
            let cores: f64 = value.unpack_str()?.trim().parse().ok()?;
            units::cpu_millis_of_cores(cores)?;
            Some(format!("a number of cores has no quotes: {cores}"))
        }
        Kind::Either(kinds) => kinds.iter().find_map(|kind| mend(kind, value)),
        Kind::List(inner) => {
            simple(inner, value)?;
            Some("put it in brackets: [...]".into())
        }
        _ => None,
    }
}

fn write(quantity: String) -> String {
    format!("write {quantity}")
}

pub(crate) fn whole(value: Value) -> Option<i64> {
    i64::unpack_value(value).ok().flatten()
}

/// What a value of the wrong type is.
pub(crate) fn type_or_number(value: Value) -> String {
    match value.get_type() {
        "int" | "float" | "bool" => cut(&value.to_string()),
        "string" => "a string".into(),
        "list" => "a list".into(),
        "tuple" => "a tuple".into(),
        "dict" => "a dictionary".into(),
        "NoneType" => "None".into(),
        "function" | "native_function" | "spec_function" => "a function".into(),
        "struct" => "a struct".into(),
        "spec_value" => match Made::from_value(value) {
            Some(made) => format!("{}(...)", made.0.function.name),
            None => "what another function made".into(),
        },
        other => other.into(),
    }
}

fn cut(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    match cut.len() < text.len() {
        true => cut + "...",
        false => cut,
    }
}

/// "a, b and c".
fn and(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn first_sentence(doc: &str) -> &str {
    doc.split_once(". ")
        .map_or(doc, |(first, _)| first)
        .trim_end_matches('.')
}
