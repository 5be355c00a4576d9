//! What a call of the language's functions was given, read by the function's
//! definition: every parameter with its value or its default, and where it is
//! written.

use crate::{
    define::{Default, Function, Kind, Param},
    place::{CallPlace, Step, ValuePlace},
    units,
};
use allocative::Allocative;
use starlark::{
    any::ProvidesStaticType,
    starlark_simple_value,
    values::{NoSerialize, StarlarkValue, starlark_value},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// A call, read.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: &'static Function,
    /// None if the call itself is a default.
    pub(crate) place: Option<CallPlace>,
    /// Every parameter that has a value.
    pub(crate) values: BTreeMap<&'static str, Item>,
    /// Parameters about which something was told already.
    pub(crate) wrong: BTreeSet<&'static str>,
    /// Where in them: as written.
    pub(crate) wrong_at: Vec<Vec<Step>>,
    /// Elements of lists that have no value, since they are wrong.
    pub(crate) dropped: Vec<(&'static str, usize)>,
}

/// A value, and whether it was written or left to the default.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) data: Data,
    pub(crate) written: bool,
}

/// A value in our own terms, with its unit gone.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    Text(String),
    Flag(bool),
    Whole(i64),
    Cpu(u32),
    Bytes(u64),
    /// Bits a second.
    Rate(u64),
    Mode(u32),
    Ms(u64),
    Signal(i32),
    Percent(u32),
    List(Vec<Data>),
    Map(Vec<(String, Data)>),
    Made(Made),
}

/// What one of the language's functions makes, as a value of Starlark.
#[derive(Clone, Debug, ProvidesStaticType, NoSerialize)]
pub(crate) struct Made(pub(crate) Arc<Call>);

impl Allocative for Made {
    // Only profiles of the interpreter's heap ask.
    fn visit<'a, 'b: 'a>(&self, visitor: &'a mut allocative::Visitor<'b>) {
        visitor.enter_self_sized::<Made>().exit();
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = self.0.values.iter().filter(|(_, item)| item.written);
        let arguments: Vec<String> = written
            .map(|(name, item)| format!("{name} = {}", item.data))
            .collect();
        write!(f, "{}({})", self.0.function.name, arguments.join(", "))
    }
}

starlark_simple_value!(Made);

#[starlark_value(type = "spec_value")]
impl<'v> StarlarkValue<'v> for Made {}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::Text(text) => write!(f, "{text:?}"),
            Data::Flag(true) => f.write_str("True"),
            Data::Flag(false) => f.write_str("False"),
            Data::Whole(number) => write!(f, "{number}"),
            Data::Cpu(millis) => f.write_str(&units::show_cpu(*millis)),
            Data::Bytes(bytes) => f.write_str(&units::show_bytes(*bytes)),
            Data::Rate(bits) => f.write_str(&units::show_rate(*bits)),
            Data::Mode(mode) => write!(f, "0o{mode:o}"),
            Data::Ms(ms) => f.write_str(&units::show_ms(*ms)),
            Data::Signal(number) => f.write_str(&units::show_signal(*number)),
            Data::Percent(percent) => write!(f, "\"{percent}%\""),
            Data::List(items) => {
                let items: Vec<String> = items.iter().map(Data::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Data::Map(entries) => {
                let entries: Vec<String> = entries
                    .iter()
                    .map(|(key, value)| format!("{key:?}: {value}"))
                    .collect();
                write!(f, "{{{}}}", entries.join(", "))
            }
            Data::Made(made) => write!(f, "{made}"),
        }
    }
}

/// The parameter that takes what was gathered before.
pub(crate) const GATHERED: &str = "task";

/// Where a field of a job is written.
#[derive(Debug)]
pub(crate) enum Origin {
    Written(ValuePlace),
    /// Left away.
    Default,
}

impl Call {
    /// A call without arguments, for a default.
    pub(crate) fn of_defaults(function: &'static Function) -> Call {
        let values = function.params().filter_map(|param| {
            let data = default(param)?;
            let item = Item {
                data,
                written: false,
            };
            Some((param.name, item))
        });
        Call {
            function,
            place: None,
            values: values.collect(),
            wrong: BTreeSet::new(),
            wrong_at: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// A field's place among what was written: elements that were dropped
    /// stand there, too.
    fn as_written(&self, field: &[Step]) -> Vec<Step> {
        let mut written = field.to_vec();
        if let [Step::Entry(name), Step::Element(index), ..] = &mut written[..] {
            for (param, dropped) in &self.dropped {
                if param == name && dropped <= index {
                    *index += 1;
                }
            }
        }
        written
    }

    /// The value of a parameter: as written in this call, else as written in
    /// the `task(...)` that it was given, else the default.
    pub(crate) fn item(&self, name: &str) -> Option<&Item> {
        let own = self.values.get(name);
        if own.is_some_and(|item| item.written) {
            return own;
        }
        let gathered = self.gathered().and_then(|call| call.values.get(name));
        gathered.filter(|item| item.written).or(own)
    }

    /// The call of a function that gathered arguments for this one.
    fn gathered(&self) -> Option<&Call> {
        let made = self.values.get(GATHERED)?.data.made();
        made.filter(|call| call.function.gathers)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Data> {
        debug_assert!(self.function.param(name).is_some(), "{name}");
        self.item(name).map(|item| &item.data)
    }

    /// Was a value written for the parameter?
    pub(crate) fn is_written(&self, name: &str) -> bool {
        self.item(name).is_some_and(|item| item.written)
    }

    /// A text; an empty one stands for what is missing or wrong, about which
    /// something was told already.
    pub(crate) fn text(&self, name: &str) -> String {
        self.text_if(name).unwrap_or_default()
    }

    pub(crate) fn text_if(&self, name: &str) -> Option<String> {
        self.get(name).and_then(Data::text).map(str::to_owned)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Data::Flag(true)))
    }

    /// A number of things.
    pub(crate) fn count(&self, name: &str) -> u32 {
        self.count_if(name).unwrap_or_default()
    }

    pub(crate) fn count_if(&self, name: &str) -> Option<u32> {
        match self.get(name)? {
            Data::Whole(number) => u32::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(crate) fn integer_if(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Data::Whole(number) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn ms(&self, name: &str) -> u64 {
        self.ms_if(name).unwrap_or_default()
    }

    pub(crate) fn ms_if(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Data::Ms(ms) => Some(*ms),
            _ => None,
        }
    }

    pub(crate) fn bytes_if(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Data::Bytes(bytes) => Some(*bytes),
            _ => None,
        }
    }

    pub(crate) fn rate_if(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Data::Rate(bits) => Some(*bits),
            _ => None,
        }
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        match self.get(name) {
            Some(Data::Mode(mode)) => *mode,
            _ => 0,
        }
    }

    pub(crate) fn cpu_if(&self, name: &str) -> Option<u32> {
        match self.get(name)? {
            Data::Cpu(millis) => Some(*millis),
            _ => None,
        }
    }

    pub(crate) fn signal(&self, name: &str) -> i32 {
        match self.get(name) {
            Some(Data::Signal(number)) => *number,
            _ => 0,
        }
    }

    pub(crate) fn list(&self, name: &str) -> &[Data] {
        match self.get(name) {
            Some(Data::List(items)) => items,
            _ => &[],
        }
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let texts = self.list(name).iter().filter_map(Data::text);
        texts.map(str::to_owned).collect()
    }

    pub(crate) fn map(&self, name: &str) -> &[(String, Data)] {
        match self.get(name) {
            Some(Data::Map(entries)) => entries,
            _ => &[],
        }
    }

    pub(crate) fn text_map<M: FromIterator<(String, String)>>(&self, name: &str) -> M {
        let entries = self.map(name).iter();
        let texts = entries.filter_map(|(key, data)| Some((key.clone(), data.text()?.to_owned())));
        texts.collect()
    }

    pub(crate) fn made(&self, name: &str) -> Option<&Call> {
        self.get(name)?.made()
    }

    /// The calls in a list of them.
    pub(crate) fn all_made(&self, name: &str) -> impl Iterator<Item = &Call> {
        self.list(name).iter().filter_map(Data::made)
    }

    /// Was something told already about this field, or about what it stands
    /// in?
    pub(crate) fn is_wrong(&self, field: &[Step]) -> bool {
        let Some((name, rest)) = first_name(field) else {
            return false;
        };
        let own = self.values.get(name).is_some_and(|item| item.written);
        let written = self.as_written(field);
        let touches = |wrong: &Vec<Step>| {
            let shared = wrong.len().min(written.len());
            wrong[..shared] == written[..shared]
        };
        if self.wrong_at.iter().any(touches) {
            return true;
        }
        if let Some(gathered) = self.gathered().filter(|_| !own)
            && gathered.is_wrong(field)
        {
            return true;
        }
        match self.inner(name, rest) {
            Some((call, [])) => !call.wrong.is_empty(),
            Some((call, rest)) => call.is_wrong(rest),
            None => false,
        }
    }

    /// The names in a dictionary whose values are wrong; none if it is wrong in
    /// another way, and so unknown.
    pub(crate) fn wrong_names(&self, name: &str) -> Option<Vec<&str>> {
        let call = self.lender(name).unwrap_or(self);
        let begins = |wrong: &&Vec<Step>| first_name(wrong).is_some_and(|(known, _)| known == name);
        let wrong = call.wrong_at.iter().filter(begins);
        let names = wrong.map(|wrong| match &wrong[..] {
            [_, Step::Entry(name), ..] => Some(name.as_str()),
            _ => None,
        });
        names.collect()
    }

    /// Where a field is written.
    pub(crate) fn origin(&self, field: &[Step]) -> Origin {
        let known = first_name(field).and_then(|(name, rest)| {
            let param = self.function.param(name)?;
            Some((param, rest))
        });
        let Some((param, rest)) = known else {
            return match &self.place {
                Some(place) => Origin::Written(place.call()),
                None => Origin::Default,
            };
        };
        if let Some(gathered) = self.lender(param.name) {
            return gathered.origin(field);
        }
        let written = self.values.get(param.name).is_none_or(|item| item.written);
        let Some(place) = self.place.as_ref().filter(|_| written) else {
            return Origin::Default;
        };
        if let Some((inner, rest)) = self.inner(param.name, rest)
            && !rest.is_empty()
        {
            return inner.origin(rest);
        }
        let position = self.function.position(param.name);
        let written = self.as_written(field);
        Origin::Written(place.inside(param.name, position, &written[1..]))
    }

    /// The `task(...)` that gave the value of a parameter.
    fn lender(&self, name: &str) -> Option<&Call> {
        let own = self.values.get(name).is_some_and(|item| item.written);
        let gathered = self.gathered().filter(|_| !own)?;
        gathered.is_written(name).then_some(gathered)
    }

    /// The call that a field of this one holds, with what is left of the
    /// field.
    fn inner<'a>(&self, name: &str, mut rest: &'a [Step]) -> Option<(&Call, &'a [Step])> {
        let mut data = self.values.get(name).map(|item| &item.data)?;
        loop {
            if let Some(call) = data.made() {
                // One is as good as a list of one.
                if let [Step::Element(0), left @ ..] = rest {
                    rest = left;
                }
                return Some((call, rest));
            }
            let (step, left) = rest.split_first()?;
            data = match (step, data) {
                (Step::Element(index), Data::List(items)) => items.get(*index)?,
                (Step::Entry(key), Data::Map(entries)) => {
                    &entries.iter().find(|(known, _)| known == key)?.1
                }
                _ => return None,
            };
            rest = left;
        }
    }
}

/// The parameter that a field begins with.
fn first_name(field: &[Step]) -> Option<(&str, &[Step])> {
    match field {
        [Step::Entry(name), rest @ ..] => Some((name, rest)),
        _ => None,
    }
}

/// A field as it is written: `ports.http`, `require[2]`.
pub(crate) fn steps(field: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in field.split(['.', '[']).filter(|part| !part.is_empty()) {
        let index = part.strip_suffix(']').and_then(|index| index.parse().ok());
        steps.push(match index {
            Some(index) => Step::Element(index),
            None => Step::Entry(part.into()),
        });
    }
    steps
}

impl Data {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn made(&self) -> Option<&Call> {
        match self {
            Data::Made(made) => Some(&made.0),
            _ => None,
        }
    }
}

/// The value of a parameter that is left away.
pub(crate) fn default(param: &Param) -> Option<Data> {
    match param.default {
        Default::Required | Default::Absent(_) => None,
        Default::Is(text) => {
            let data = literal(&param.kind, text);
            Some(data.expect("a test reads every default of every definition"))
        }
    }
}

/// A value as it stands in a definition: a number, a string, an empty
/// collection, or a call without arguments.
pub(crate) fn literal(kind: &Kind, text: &str) -> Option<Data> {
    let quoted = || text.strip_prefix('"')?.strip_suffix('"');
    match kind {
        Kind::Text | Kind::Word(_) => Some(Data::Text(quoted()?.into())),
        Kind::Flag => Some(Data::Flag(text == "True")),
        Kind::Count | Kind::Integer | Kind::Port => Some(Data::Whole(text.parse().ok()?)),
        Kind::Cpu => Some(Data::Cpu(match quoted() {
            Some(text) => units::cpu_millis_of_text(text)?,
            None => units::cpu_millis_of_cores(text.parse().ok()?)?,
        })),
        Kind::Bytes => Some(Data::Bytes(units::memory_bytes(quoted()?)?)),
        Kind::Rate => Some(Data::Rate(units::bits_per_s(quoted()?)?)),
        Kind::Mode => Some(Data::Mode(units::mode(quoted()?)?)),
        Kind::Duration => Some(Data::Ms(units::duration_ms(quoted()?)?)),
        Kind::Signal => Some(Data::Signal(units::signal(quoted()?)?)),
        Kind::Percent => Some(Data::Percent(units::percent(quoted()?)?)),
        Kind::List(inner) => match text {
            "[]" => Some(Data::List(Vec::new())),
            _ => {
                let one = text.strip_prefix('[')?.strip_suffix(']')?;
                let items = one.split(", ").map(|item| literal(inner, item));
                Some(Data::List(items.collect::<Option<_>>()?))
            }
        },
        Kind::Map(_) => (text == "{}").then(|| Data::Map(Vec::new())),
        Kind::Made(functions) => {
            let name = text.strip_suffix("()")?;
            let function = functions.iter().find(|function| function.name == name)?;
            Some(Data::Made(Made(Arc::new(Call::of_defaults(function)))))
        }
        Kind::Either(kinds) => kinds.iter().find_map(|kind| literal(kind, text)),
    }
}
