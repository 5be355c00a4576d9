//! The JSON Schema of a job as it is evaluated, for editors and for programs
//! that write jobs. Derived from the types themselves, defaults included, and
//! narrowed by `rules` to what makes sense where a schema can say it.
//!
//! Every job that [`check`](crate::validate::check) lets pass is valid by the
//! schema (a property holds it to that). The other way round it tells what
//! stands in one field: what fields mean together (a limit below its request,
//! a port that is not declared) only the checks know.

mod rules;

use crate::job::JobDraft;
use serde_json::Value;

/// The schema of a [`JobDraft`] in JSON.
pub fn of_a_job() -> Value {
    let mut schema: Value = schemars::schema_for!(JobDraft).into();
    for rule in rules::all() {
        rule.narrow(&mut schema);
    }
    bound_numbers(&mut schema);
    schema
}

/// What a definition of the schema holds beyond its types.
struct Rule {
    /// The definition; empty for the job itself.
    definition: &'static str,
    /// Fields without which it makes no sense.
    required: &'static [&'static str],
    /// Fields by their paths (empty for all of it), and what is added to them.
    fields: Vec<(&'static str, Value)>,
}

impl Rule {
    /// # Panics
    /// If the types have no such field: the table of rules is ours, and is
    /// read whole whenever a schema is made.
    fn narrow(self, schema: &mut Value) {
        let name = self.definition;
        let definition = match name {
            "" => schema,
            _ => &mut schema["$defs"][name],
        };
        for (path, more) in self.fields {
            let field = field(definition, path);
            merge(
                field.unwrap_or_else(|| panic!("{name} has no field {path}")),
                more,
            );
        }
        for path in self.required {
            let field = field(definition, path);
            let field = field.and_then(Value::as_object_mut);
            let field = field.unwrap_or_else(|| panic!("{name} has no field {path}"));
            // What stands there without it is refused.
            field.remove("default");
        }
        if !self.required.is_empty() {
            definition["required"] = self.required.into();
        }
    }
}

/// `http.path`: the properties of an object, or of the one of several forms
/// that has the property.
fn field<'a>(of: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut at = of;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        if at["properties"].get(name).is_none() {
            let forms = at.get_mut("oneOf")?.as_array_mut()?;
            at = forms
                .iter_mut()
                .find(|form| form["properties"].get(name).is_some())?;
        }
        at = at.get_mut("properties")?.get_mut(name)?;
    }
    Some(at)
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

/// Numbers are no larger than their type, which decoding would refuse.
fn bound_numbers(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let most: Option<u64> = match fields.get("format").and_then(Value::as_str) {
                Some("uint32") => Some(u32::MAX.into()),
                Some("uint64") => Some(u64::MAX),
                _ => None,
            };
            if let Some(most) = most {
                fields.entry("maximum").or_insert(most.into());
            }
            fields.values_mut().for_each(bound_numbers);
        }
        Value::Array(list) => list.iter_mut().for_each(bound_numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;
    use std::collections::BTreeSet;

    fn object(value: &Value) -> &Map<String, Value> {
        value.as_object().expect("an object")
    }

    /// Every schema within a schema.
    fn each(value: &Value, visit: &mut dyn FnMut(&Map<String, Value>)) {
        match value {
            Value::Object(fields) => {
                visit(fields);
                fields.values().for_each(|inner| each(inner, visit));
            }
            Value::Array(list) => list.iter().for_each(|inner| each(inner, visit)),
            _ => {}
        }
    }

    #[test]
    fn it_has_each_field_with_its_default_and_refuses_others() {
        let schema = of_a_job();
        let usual = serde_json::to_value(JobDraft::default()).unwrap();
        let properties = object(&schema["properties"]);
        let required = ["name", "package", "task"];
        for (name, default) in object(&usual) {
            match required.contains(&name.as_str()) {
                true => assert_eq!(properties[name].get("default"), None, "{name}"),
                false => assert_eq!(properties[name]["default"], *default, "{name}"),
            }
            assert!(properties[name]["description"].is_string(), "{name}");
        }
        assert_eq!(properties.len(), object(&usual).len());
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["required"], serde_json::json!(required));
    }

    #[test]
    fn what_it_refers_to_is_there() {
        let schema = of_a_job();
        let mut references = 0;
        each(&schema, &mut |fields| {
            let Some(reference) = fields.get("$ref").and_then(Value::as_str) else {
                return;
            };
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(schema.pointer(pointer).is_some(), "{reference}");
            references += 1;
        });
        assert!(references > 30, "{references}");
        for name in ["TaskTemplate", "HealthCheck", "Requirement", "StageSize"] {
            assert!(schema["$defs"].get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn each_definition_has_one_rule() {
        let mut names = BTreeSet::new();
        for rule in rules::all() {
            assert!(names.insert(rule.definition), "{}", rule.definition);
        }
    }

    /// A number or list without a bound is one that nobody thought of.
    #[test]
    fn every_number_and_list_is_bounded() {
        let schema = of_a_job();
        each(&schema, &mut |fields| {
            let is = |name: &str| match fields.get("type") {
                Some(Value::String(kind)) => kind == name,
                Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == name),
                _ => false,
            };
            if is("integer") {
                let both = fields.contains_key("minimum") && fields.contains_key("maximum");
                assert!(both, "{fields:?}");
            }
            if is("array") {
                assert!(fields.contains_key("maxItems"), "{fields:?}");
            }
            if is("object") && fields["additionalProperties"] != false {
                assert!(fields.contains_key("maxProperties"), "{fields:?}");
            }
        });
    }
}
