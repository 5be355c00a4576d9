//! Every value of a job after defaults, and where each comes from.

use crate::{
    call::{Call, Data, Item, Origin, steps},
    define::{Default, Param},
    finding::Spot,
};
use potluck_specs::job::{JobDraft, Probe};
use serde::{Deserialize, Serialize};

/// A value of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The argument, with the place in it: `restart.backoff`, `health[0].port`.
    pub field: String,
    /// As it would be written in a spec; none where nothing is set.
    pub value: Option<String>,
    /// What it means that nothing is set.
    pub meaning: Option<String>,
    /// Where it is written; none for a default.
    pub at: Option<Spot>,
}

/// All values of a job, in the order of the reference.
pub(crate) fn values(call: &Call, draft: &JobDraft) -> Vec<Shown> {
    let mut shown = Vec::new();
    call_values(call, call, "", &mut shown);
    if call.get("health").is_none() {
        derived_health(draft, &mut shown);
    }
    shown
}

/// What stands for `health` when nothing is said about it.
fn derived_health(draft: &JobDraft, shown: &mut [Shown]) {
    let Some(check) = draft.task.health.first() else {
        return;
    };
    let health = shown.iter_mut().find(|shown| shown.field == "health");
    if let (Some(health), Probe::Tcp { port }) = (health, &check.probe) {
        health.value = Some(format!("tcp({port:?})"));
        health.meaning = None;
    }
}

fn call_values(root: &Call, call: &Call, prefix: &str, shown: &mut Vec<Shown>) {
    for param in call.function.params() {
        let field = format!("{prefix}{}", param.name);
        // Its arguments are shown as the job's own.
        if prefix.is_empty() && param.name == crate::call::GATHERED {
            continue;
        }
        match call.item(param.name) {
            Some(item) => item_values(root, item, field, shown),
            None => shown.push(absent(param, field)),
        }
    }
}

fn absent(param: &Param, field: String) -> Shown {
    let meaning = match param.default {
        Default::Absent(meaning) => Some(meaning.to_owned()),
        _ => None,
    };
    Shown {
        field,
        value: None,
        meaning,
        at: None,
    }
}

fn item_values(root: &Call, item: &Item, field: String, shown: &mut Vec<Shown>) {
    match &item.data {
        Data::Made(made) if is_structure(&made.0) => {
            push(
                root,
                &field,
                format!("{}(...)", made.0.function.name),
                shown,
            );
            call_values(root, &made.0, &format!("{field}."), shown);
        }
        Data::List(items) if items.iter().any(|item| item.made().is_some()) => {
            for (k, data) in items.iter().enumerate() {
                let inner = Item {
                    data: data.clone(),
                    written: item.written,
                };
                item_values(root, &inner, format!("{field}[{k}]"), shown);
            }
        }
        data => push(root, &field, data.to_string(), shown),
    }
}

/// Worth a line for each of its values?
fn is_structure(call: &Call) -> bool {
    call.function.params().count() > 1
}

fn push(root: &Call, field: &str, value: String, shown: &mut Vec<Shown>) {
    shown.push(Shown {
        field: field.into(),
        value: Some(value),
        meaning: None,
        at: match root.origin(&steps(field)) {
            Origin::Written(place) => Some(place.at),
            Origin::Default => None,
        },
    });
}
