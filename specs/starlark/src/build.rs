//! From what a call of `job` was given to the job that it means. What a value
//! alone can't show, such as a condition that can't be read, is told here with
//! the field that it is about; whether the whole makes sense is asked by
//! `potluck_specs::validate`.

mod condition;
mod placement;
mod task;

use crate::call::{Call, Data};
use potluck_specs::{
    JobName, PackageId,
    job::{Batch, DraftPackage, JobDraft, JobKind, PackageSource},
};

/// What was told while a job was built.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Remark {
    /// The argument, with the place in it: `require[2]`.
    pub(crate) field: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// Builds one job.
pub(crate) struct Builder<'c> {
    call: &'c Call,
    namespace: String,
    remarks: Vec<Remark>,
}

/// The job that a call means, and what is wrong with it already.
pub(crate) fn build(call: &Call) -> (JobDraft, Vec<Remark>) {
    let mut builder = Builder {
        call,
        namespace: call.text("namespace"),
        remarks: Vec::new(),
    };
    let draft = builder.draft();
    (draft, builder.remarks)
}

impl Builder<'_> {
    fn tell(&mut self, field: impl Into<String>, message: impl Into<String>, hint: &str) {
        self.remarks.push(Remark {
            field: field.into(),
            message: message.into(),
            hint: (!hint.is_empty()).then(|| hint.into()),
        });
    }

    fn draft(&mut self) -> JobDraft {
        let call = self.call;
        JobDraft {
            name: JobName {
                namespace: self.namespace.clone(),
                name: call.text("name"),
            },
            kind: self.kind(),
            package: self.package("package", call.get("package")),
            packages: self.packages(),
            task: self.task(),
            placement: self.placement(),
            change: self.change(),
            priority: call.count("priority"),
            owner: call.text("owner"),
            annotations: call.text_map("annotations"),
        }
    }

    fn kind(&mut self) -> JobKind {
        let call = self.call;
        let given: Vec<&str> = ["replicas", "per_node", "batch"]
            .into_iter()
            .filter(|name| call.is_written(name) && (*name != "per_node" || call.flag(name)))
            .collect();
        if let [first, second, ..] = given[..] {
            let hint = "replicas is for a service, per_node for one task on each node, \
                        batch for work that ends";
            self.tell(
                second,
                format!("{first} and {second} exclude each other"),
                hint,
            );
        }
        if let Some(batch) = call.made("batch") {
            return JobKind::Batch(Batch {
                completions: batch.count("completions"),
                parallelism: batch.count("parallelism"),
                retries: batch.count("retries"),
                deadline_ms: batch.ms_if("deadline"),
                array: batch.flag("array"),
                gang: batch.flag("gang"),
            });
        }
        match call.flag("per_node") {
            true => JobKind::PerNode,
            false => JobKind::service(call.count("replicas")),
        }
    }

    fn package(&mut self, field: &str, data: Option<&Data>) -> PackageSource {
        let nothing = PackageSource::Path("".into());
        match data {
            Some(Data::Text(path)) => PackageSource::Path(path.into()),
            Some(Data::Made(made)) if made.0.function.name == "oci" => {
                PackageSource::Oci(made.0.text("reference"))
            }
            Some(Data::Made(made)) => match PackageId::from_hex(&made.0.text("id")) {
                Some(id) => PackageSource::Id(id),
                None => {
                    let message = "this is not the id of a package: it has 64 hexadecimal digits";
                    self.tell(field, message, "`potluck packages` shows them");
                    nothing
                }
            },
            _ => nothing,
        }
    }

    fn packages(&mut self) -> Vec<DraftPackage> {
        let call = self.call;
        let entries = call.map("packages").iter();
        let packages = entries.map(|(at, source)| DraftPackage {
            at: at.clone(),
            source: self.package(&format!("packages.{at}"), Some(source)),
        });
        packages.collect()
    }

    /// A job by its name: of our own namespace, unless it names another.
    fn job_name(&self, text: &str) -> JobName {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (namespace, name),
            None => (self.namespace.as_str(), text),
        };
        JobName {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}
