//! The texts of a task with their names filled in: `${slot.index}` and its
//! like, which are known when the task starts and no sooner.
//!
//! Answers for which texts are filled in and for how long they may get. What
//! the names are is the job language's to say.

use potluck_helper::{
    TASK_FOLDER_AT,
    description::{DESCRIPTION_BYTES_MAX, Hook, WrittenFile},
};
use potluck_specs::job::{
    self, TaskTemplate,
    interpolation::{ExpandError, Values, expand},
};
use std::collections::BTreeMap;

/// All texts together: the other half of the description is left for what is
/// not filled in, of which a job has no more than this either.
const TEXTS_BYTES_MAX: usize = DESCRIPTION_BYTES_MAX / 2;

/// What a task is started with, as it is to be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Texts {
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) files: Vec<WrittenFile>,
    pub(super) setup: Vec<Hook>,
    pub(super) teardown: Vec<Hook>,
}

/// A text that can't be filled in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum TextError {
    #[error("{field}: {source}")]
    Expand { field: String, source: ExpandError },
    #[error(
        "{field}: all texts together are longer than {TEXTS_BYTES_MAX} bytes once their names are filled in"
    )]
    TooLong { field: String },
}

impl Texts {
    /// `values` has the task's folder as the host sees it: the helper, which
    /// alone knows how the task does, puts that in its place. Files are
    /// written in the task's own root only.
    pub(super) fn of(task: &TaskTemplate, values: &Values) -> Result<Texts, TextError> {
        let mut left = TEXTS_BYTES_MAX;
        let inside = Values {
            task_dir: TASK_FOLDER_AT,
            ..values.clone()
        };
        let mut fill = |field: String, text: &str, values: &Values| match expand(text, values) {
            Err(source) => Err(TextError::Expand { field, source }),
            Ok(text) => match left.checked_sub(text.len()) {
                None => Err(TextError::TooLong { field }),
                Some(rest) => {
                    left = rest;
                    Ok(text)
                }
            },
        };
        let mut list = |name: &str, texts: &[String]| -> Result<Vec<String>, TextError> {
            let texts = texts.iter().enumerate();
            texts
                .map(|(index, text)| fill(format!("{name}[{index}]"), text, values))
                .collect()
        };
        let args = list("task.args", &task.args)?;
        let mut hooks = |name: &str, hooks: &[job::Hook]| -> Result<Vec<Hook>, TextError> {
            let hooks = hooks.iter().enumerate();
            hooks
                .map(|(index, hook)| {
                    Ok(Hook {
                        command: hook.command.clone(),
                        args: list(&format!("task.{name}[{index}].args"), &hook.args)?,
                        timeout_ms: hook.timeout_ms,
                    })
                })
                .collect()
        };
        let setup = hooks("setup", &task.setup)?;
        let teardown = hooks("teardown", &task.teardown)?;
        let mut env = BTreeMap::new();
        for (name, value) in &task.env {
            let value = fill(format!("task.env[{name:?}]"), value, values)?;
            env.insert(name.clone(), value);
        }
        let mut files = Vec::new();
        for file in &task.files {
            files.push(WrittenFile {
                path: file.path.clone(),
                contents: fill(
                    format!("task.files[{:?}]", file.path),
                    &file.content,
                    &inside,
                )?,
                mode: file.mode,
            });
        }
        Ok(Texts {
            args,
            env,
            files,
            setup,
            teardown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::{NodeId, NodeName, job::RenderedFile};

    fn filled(task: &TaskTemplate) -> Result<Texts, TextError> {
        let ports = BTreeMap::from([("http".to_owned(), 20_000)]);
        let values = Values {
            slot: &"shop/web[3]".parse().unwrap(),
            version: 12,
            node: &NodeName("n1".into()),
            node_id: NodeId([7; 32]),
            address: "10.0.0.1",
            topology: &"eu/dc1/main/r2".parse().unwrap(),
            task_dir: "/data/work",
            ports: &ports,
        };
        Texts::of(task, &values)
    }

    fn task() -> TaskTemplate {
        TaskTemplate {
            args: vec![
                "--listen=${node.address}:${port.http}".into(),
                "$HOME".into(),
            ],
            env: [("SHARD".into(), "${slot.index}".into())].into(),
            files: vec![RenderedFile {
                path: "conf".into(),
                content: "dir ${task.dir} $${slot.index}".into(),
                mode: 0o600,
            }],
            setup: vec![job::Hook {
                command: "mk".into(),
                args: vec!["${task.dir}/x".into()],
                timeout_ms: 5,
            }],
            ..TaskTemplate::default()
        }
    }

    #[test]
    fn every_text_is_filled_in() {
        let texts = filled(&task()).unwrap();
        assert_eq!(texts.args, ["--listen=10.0.0.1:20000", "$HOME"]);
        assert_eq!(texts.env["SHARD"], "3");
        assert_eq!(texts.files[0].contents, "dir /task ${slot.index}");
        assert_eq!((texts.files[0].mode, texts.setup[0].timeout_ms), (0o600, 5));
        assert_eq!(
            texts.setup[0].args,
            ["/data/work/x"],
            "the helper's to tell"
        );
    }

    #[test]
    fn what_stands_for_nothing_is_told_with_its_place() {
        let mut wrong = task();
        wrong.setup[0].args.push("${port.admin}".into());
        let error = filled(&wrong).unwrap_err().to_string();
        assert_eq!(
            error,
            "task.setup[0].args[1]: ${port.admin} stands for nothing"
        );
    }

    #[test]
    fn short_texts_do_not_fill_the_memory() {
        let mut long = task();
        long.args = vec!["${node.id}".repeat(1_000); 20];
        let error = filled(&long).unwrap_err();
        assert_eq!(
            error,
            TextError::TooLong {
                field: "task.args[8]".into()
            }
        );
    }
}
