//! The functions of the language as values of the interpreter: each reads its
//! call by its definition; `job` and `param` leave something behind, the
//! others make a value.

use crate::{
    build,
    call::{Call, Made, Origin, steps},
    collect::{Collector, Declared, TooMany},
    define::Function,
    fields,
    finding::{Finding, FindingKind, Severity, Spot},
    functions, param,
    place::Step,
    read, together,
};
use allocative::Allocative;
use potluck_specs::{
    job::{JobDraft, JobKind, PortSpec},
    validate,
};
use starlark::{
    any::ProvidesStaticType,
    environment::GlobalsBuilder,
    eval::{Arguments, Evaluator},
    starlark_simple_value,
    values::{NoSerialize, StarlarkValue, Value, starlark_value},
};
use std::{fmt, sync::Arc};

/// A function of the language.
#[derive(Debug, ProvidesStaticType, NoSerialize)]
struct Builtin(&'static Function);

impl Allocative for Builtin {
    // Only profiles of the interpreter's heap ask.
    fn visit<'a, 'b: 'a>(&self, visitor: &'a mut allocative::Visitor<'b>) {
        visitor.enter_self_sized::<Builtin>().exit();
    }
}

impl fmt::Display for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

starlark_simple_value!(Builtin);

#[starlark_value(type = "spec_function")]
impl<'v> StarlarkValue<'v> for Builtin {
    fn invoke(
        &self,
        _me: Value<'v>,
        arguments: &Arguments<'v, '_>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let call = read::read(self.0, arguments, eval)?;
        let collector = Collector::of(eval);
        match self.0.name {
            "job" | "param" if collector.is_library => {
                outside(&call, collector)?;
                Ok(Value::new_none())
            }
            "job" => {
                job(call, collector)?;
                Ok(Value::new_none())
            }
            "param" => Ok(param::declare(&call, collector, eval.heap())?),
            _ => Ok(eval.heap().alloc(Made(Arc::new(call)))),
        }
    }
}

/// Adds the functions to what a spec file sees.
pub(crate) fn language(builder: &mut GlobalsBuilder) {
    for function in functions::ALL.iter().chain([&&param::PARAM]) {
        builder.set(function.name, Builtin(function));
    }
}

/// What a loaded file does would count once for each file that loads it, or
/// not at all.
fn outside(call: &Call, collector: &Collector) -> Result<(), TooMany> {
    let (message, hint) = match call.function.name {
        "job" => (
            "a loaded file declares no job by itself",
            "put it into a function, and call that from the spec file",
        ),
        _ => (
            "a loaded file declares no param",
            "let its functions take the value as an argument",
        ),
    };
    let finding = at(call, &[], FindingKind::Invalid, message.into());
    collector.tell(finding.hint(hint))
}

fn job(call: Call, collector: &Collector) -> Result<(), TooMany> {
    let mut refused = !call.wrong.is_empty();
    let (draft, remarks) = build::build(&call);
    for remark in &remarks {
        refused = true;
        let field = steps(&remark.field);
        let mut finding = at(&call, &field, FindingKind::Invalid, remark.message.clone());
        finding.hint = remark.hint.clone();
        collector.tell(finding)?;
    }
    let told = |field: &[Step]| {
        let same = |remark: &build::Remark| {
            let remark = steps(&remark.field);
            let shared = remark.len().min(field.len());
            remark[..shared] == field[..shared]
        };
        call.is_wrong(field) || remarks.iter().any(same)
    };
    let (judged, knows_ports) = with_wrong_ports(&draft, &call);
    let findings = match together::is_count_unknown(told) {
        true => together::whatever_its_count(&judged),
        false => validate::check(&judged),
    };
    for found in findings {
        if !knows_ports && together::is_about_ports(&found) {
            continue;
        }
        let field = fields::argument(&found.path, &call);
        // A value that only stands in for a wrong one is not judged.
        if told(&field) || together::with(&field).iter().any(|other| told(other)) {
            continue;
        }
        // The check that stands for none asks a service's port: the services
        // are told about already.
        if !call.is_written("health") && field.first() == steps("health").first() {
            continue;
        }
        let finding = finding_of(&call, &field, FindingKind::Invalid, &found);
        refused |= finding.is_error();
        collector.tell(finding)?;
    }
    if !call.is_wrong(&steps("name")) && !collector.name(&draft.name) {
        let message = format!("job {} stands twice", draft.name);
        return collector.tell(at(&call, &steps("name"), FindingKind::Invalid, message));
    }
    if !refused {
        return collector.declare(Declared { draft, call });
    }
    if !call.is_wrong(&steps("name")) {
        let draft = known_by_others(draft);
        collector.refuse(Declared { draft, call });
    }
    Ok(())
}

/// What other jobs see of a refused one: its name, and whom it waits for. How
/// many tasks it has, and which ports, is not known.
fn known_by_others(draft: JobDraft) -> JobDraft {
    let mut known = JobDraft {
        name: draft.name,
        kind: JobKind::PerNode,
        ..JobDraft::default()
    };
    known.change.depends_on = draft.change.depends_on;
    known
}

/// The draft with the ports whose numbers are wrong: their names are known all
/// the same. And whether all names are.
fn with_wrong_ports(draft: &JobDraft, call: &Call) -> (JobDraft, bool) {
    let mut judged = draft.clone();
    let Some(names) = call.wrong_names("ports") else {
        return (judged, false);
    };
    let wrong = names.into_iter().map(|name| PortSpec {
        name: name.into(),
        number: None,
    });
    judged.task.ports.extend(wrong);
    (judged, true)
}

/// A finding of the checks, at the argument that it is about.
pub(crate) fn finding_of(
    call: &Call,
    field: &[Step],
    kind: FindingKind,
    found: &potluck_specs::finding::Finding,
) -> Finding {
    let mut finding = at(call, field, kind, found.message.clone());
    finding.why = found.why.clone().or(finding.why);
    let meant = found.suggestion.as_ref();
    let meant = meant.map(|word| format!("did you mean {word:?}?"));
    finding.hint = match (meant, found.hint.clone()) {
        (Some(meant), Some(hint)) => Some(format!("{meant} Else: {hint}")),
        (meant, hint) => meant.or(hint),
    };
    if found.severity == potluck_specs::finding::Severity::Warning {
        finding.severity = Severity::Warning;
    }
    finding
}

/// A finding about a field of a call, or about what the field stands in.
pub(crate) fn at(call: &Call, field: &[Step], kind: FindingKind, message: String) -> Finding {
    let parts = (0..=field.len()).rev().map(|count| &field[..count]);
    let place = parts.into_iter().find_map(|part| match call.origin(part) {
        Origin::Written(place) => Some(place),
        Origin::Default => None,
    });
    match place {
        Some(place) => Finding::at_value(place, call.function.name, kind, message),
        None => Finding::error(Spot::nowhere(), kind, message),
    }
}
