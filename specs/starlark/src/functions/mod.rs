//! The functions of the language, by subject: their definitions alone. What
//! they mean as a job says `build`.

mod change;
mod checks;
mod files;
mod job;
mod placement;
mod task;

use crate::define::{Default, Function, Kind, Param};

/// Every function, in the order of the reference.
pub(crate) static ALL: &[&Function] = &[
    &job::JOB,
    &task::TASK,
    &job::BUILT,
    &job::OCI,
    &job::BATCH,
    &task::LIMITS,
    &task::ADAPTIVE,
    &task::SERVICE,
    &checks::HTTP,
    &checks::TCP,
    &checks::EXEC,
    &checks::GRPC,
    &checks::METRIC,
    &task::HOOK,
    &task::RESTART,
    &task::LOGS,
    &task::STOP,
    &files::FILE,
    &files::BIND,
    &files::TMPFS,
    &files::VOLUME,
    &placement::PREFER,
    &change::DEPENDS,
    &change::UPDATE,
    &change::STAGE,
    &change::RIDE_OUT,
    &change::ASK,
    &change::EXCLUSIVE,
];

const fn param(name: &'static str, kind: Kind, default: Default, doc: &'static str) -> Param {
    Param {
        name,
        kind,
        default,
        doc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call, define::Kind};
    use std::collections::BTreeSet;

    #[test]
    fn definitions_are_whole() {
        let mut names = BTreeSet::new();
        for function in ALL {
            assert!(
                names.insert(function.name),
                "{} stands twice",
                function.name
            );
            assert!(function.doc.ends_with('.'), "{}", function.name);
            assert!(
                function.example.starts_with(function.name),
                "{}",
                function.name
            );
            let mut params = BTreeSet::new();
            for param in function.params() {
                let what = format!("{}({})", function.name, param.name);
                assert!(params.insert(param.name), "{what} stands twice");
                assert!(param.doc.ends_with(['.', '?']), "{what}");
                if let Default::Is(text) = param.default {
                    let data = call::literal(&param.kind, text);
                    assert!(data.is_some(), "{what}: {text} can't be read");
                }
                makers(&param.kind, &mut |maker| {
                    assert!(ALL.iter().any(|known| known.name == maker.name), "{what}");
                });
            }
            assert!(function.positional <= params.len(), "{}", function.name);
            for (theirs, ours) in function.elsewhere {
                assert!(!params.contains(theirs), "{}: {theirs}", function.name);
                assert!(params.contains(ours), "{}: {ours}", function.name);
            }
        }
    }

    /// Every function but the outermost is good for something.
    #[test]
    fn every_function_is_taken_by_another() {
        let mut taken = BTreeSet::from(["job"]);
        for param in ALL.iter().flat_map(|function| function.params()) {
            makers(&param.kind, &mut |maker| {
                taken.insert(maker.name);
            });
        }
        let all: BTreeSet<&str> = ALL.iter().map(|function| function.name).collect();
        assert_eq!(taken, all);
    }

    fn makers(kind: &Kind, seen: &mut dyn FnMut(&Function)) {
        match kind {
            Kind::Made(functions) => functions.iter().for_each(|function| seen(function)),
            Kind::List(inner) | Kind::Map(inner) => makers(inner, seen),
            Kind::Either(kinds) => kinds.iter().for_each(|kind| makers(kind, seen)),
            _ => {}
        }
    }
}
