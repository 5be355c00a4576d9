//! The JSON Schema of a job as it is evaluated, for editors and for programs
//! that write jobs. Derived from the types themselves, defaults included.
//!
//! It says what can be written down, not what makes sense: that is asked in
//! [`validate`](crate::validate).

use crate::job::JobDraft;
use serde_json::Value;

/// The schema of a [`JobDraft`] in JSON.
pub fn of_a_job() -> Value {
    schemars::schema_for!(JobDraft).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

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
        for (name, default) in object(&usual) {
            assert_eq!(properties[name]["default"], *default, "{name}");
            assert!(properties[name]["description"].is_string(), "{name}");
        }
        assert_eq!(properties.len(), object(&usual).len());
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema.get("required"), None, "each field has a default");
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
}
