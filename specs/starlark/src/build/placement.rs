//! Where a job's tasks may go, and how it changes.

use super::Builder;
use crate::call::Data;
use potluck_specs::{
    job::{
        Amount, AtMost, Change, Dependency, DependencyState, Exclusive, Level, Maintenance,
        Neighbour, Placement, Preference, Requirement, Stage, StageSize, Update,
        requirement::RequirementError,
    },
    suggestion::nearest,
};

impl Builder<'_> {
    pub(super) fn placement(&mut self) -> Placement {
        let call = self.call;
        let requirements = call.texts("require").into_iter().enumerate();
        Placement {
            requirements: requirements
                .filter_map(|(k, text)| self.requirement(&format!("require[{k}]"), &text))
                .collect(),
            preferences: self.preferences(),
            spread: levels(call.get("spread")),
            at_most: self.at_most(),
            apart_from: self.neighbours("apart_from"),
            together_with: self.neighbours("together_with"),
            bandwidth_heavy: call.flag("bandwidth_heavy"),
        }
    }

    /// One that can't be read leaves an empty one, so that the others keep
    /// their places; the job is refused anyway.
    fn requirement(&mut self, field: &str, text: &str) -> Option<Requirement> {
        match text.parse() {
            Ok(requirement) => Some(requirement),
            Err(error) => {
                let error: RequirementError = error;
                self.tell(
                    field,
                    error.to_string(),
                    "as in \"kernel >= 6.1\" or \"rack in [a, b]\"",
                );
                Some(Preference::default().requirement)
            }
        }
    }

    fn preferences(&mut self) -> Vec<Preference> {
        let mut preferences = Vec::new();
        for (k, data) in self.call.list("prefer").iter().enumerate() {
            let (text, weight) = match data {
                Data::Made(made) => (made.0.text("condition"), made.0.integer_if("weight")),
                other => (other.text().unwrap_or_default().to_owned(), None),
            };
            let field = match data {
                Data::Made(_) => format!("prefer[{k}].condition"),
                _ => format!("prefer[{k}]"),
            };
            if let Some(requirement) = self.requirement(&field, &text) {
                let usual = Preference::default();
                // Out of range either way: the checks tell.
                let weight = weight.map_or(usual.weight, |w| w.try_into().unwrap_or(i32::MAX));
                preferences.push(Preference {
                    requirement,
                    weight,
                });
            }
        }
        preferences
    }

    fn at_most(&mut self) -> Vec<AtMost> {
        let mut bounds = Vec::new();
        for (name, data) in self.call.map("at_most") {
            let Data::Whole(count) = data else { continue };
            match level(name) {
                Some(level) => bounds.push(AtMost {
                    level,
                    count: u32::try_from(*count).unwrap_or(u32::MAX),
                }),
                None => self.no_level(&format!("at_most.{name}"), name),
            }
        }
        bounds
    }

    fn no_level(&mut self, field: &str, name: &str) {
        let known = Level::ALL.map(Level::name);
        let hint = match nearest(name, known) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("there are {}", known.join(", ")),
        };
        self.tell(field, format!("there is no level {name:?}"), &hint);
    }

    fn neighbours(&self, name: &str) -> Vec<Neighbour> {
        let call = self.call;
        let mut neighbours = Vec::new();
        for job in call.texts(name) {
            neighbours.push(Neighbour {
                job: self.job_name(&job),
                level: Level::Node,
            });
        }
        for (job, data) in call.map(name) {
            neighbours.push(Neighbour {
                job: self.job_name(job),
                level: data.text().and_then(level).unwrap_or(Level::Node),
            });
        }
        neighbours
    }

    pub(super) fn change(&self) -> Change {
        Change {
            depends_on: self.depends_on(),
            budget: self.call.get("budget").and_then(amount),
            update: self.update(),
            maintenance: self.maintenance(),
            exclusive: match self.call.get("exclusive") {
                Some(Data::Made(made)) => Some(Exclusive {
                    lease_ms: made.0.ms("lease"),
                }),
                Some(Data::Flag(true)) => Some(Exclusive::default()),
                _ => None,
            },
        }
    }

    fn depends_on(&self) -> Vec<Dependency> {
        let mut dependencies = Vec::new();
        for data in self.call.list("depends_on") {
            dependencies.push(match data {
                Data::Made(made) => Dependency {
                    job: self.job_name(&made.0.text("job")),
                    state: match made.0.text("state").as_str() {
                        "started" => DependencyState::Started,
                        _ => DependencyState::Healthy,
                    },
                    at_least: made.0.count_if("at_least"),
                },
                other => Dependency {
                    job: self.job_name(other.text().unwrap_or_default()),
                    ..Dependency::default()
                },
            });
        }
        dependencies
    }

    fn update(&self) -> Update {
        let Some(call) = self.call.made("update") else {
            return Update::default();
        };
        let bake_ms = call.ms("bake");
        let stage = |data: &Data| match data {
            Data::Made(made) => Some(Stage {
                // One whose size was wrong keeps its place among the others;
                // nobody knows how many a rack has.
                size: made
                    .0
                    .get("size")
                    .and_then(stage_size)
                    .unwrap_or(StageSize::Rack),
                bake_ms: made.0.ms_if("bake").unwrap_or(bake_ms),
            }),
            size => Some(Stage {
                size: stage_size(size)?,
                bake_ms,
            }),
        };
        let mut stages: Vec<Stage> = call.list("stages").iter().filter_map(stage).collect();
        if stages.is_empty() && bake_ms > 0 {
            stages.push(Stage {
                bake_ms,
                ..Stage::default()
            });
        }
        Update {
            stages,
            health_deadline_ms: call.ms("health_deadline"),
            rollback: call.flag("rollback"),
        }
    }

    fn maintenance(&self) -> Maintenance {
        match self.call.made("maintenance") {
            Some(call) if call.function.name == "ride_out" => Maintenance::RideOut {
                up_to_ms: call.ms("up_to"),
            },
            Some(call) => Maintenance::Ask {
                port: call.text("port"),
                path: call.text("path"),
                up_to_ms: call.ms("up_to"),
            },
            None => Maintenance::Migrate,
        }
    }
}

fn level(name: &str) -> Option<Level> {
    Level::ALL.into_iter().find(|level| level.name() == name)
}

/// One level or several.
fn levels(data: Option<&Data>) -> Vec<Level> {
    match data {
        Some(Data::List(items)) => items
            .iter()
            .filter_map(|item| level(item.text()?))
            .collect(),
        Some(one) => one.text().and_then(level).into_iter().collect(),
        None => Vec::new(),
    }
}

fn amount(data: &Data) -> Option<Amount> {
    match data {
        Data::Whole(count) => Some(Amount::Count(u32::try_from(*count).ok()?)),
        Data::Percent(percent) => Some(Amount::Percent(*percent)),
        _ => None,
    }
}

fn stage_size(data: &Data) -> Option<StageSize> {
    match data {
        Data::Whole(count) => Some(StageSize::Count(u32::try_from(*count).ok()?)),
        Data::Percent(percent) => Some(StageSize::Percent(*percent)),
        other => Some(match other.text()? {
            "rack" => StageSize::Rack,
            "cluster" => StageSize::Cluster,
            "datacenter" => StageSize::Datacenter,
            "region" => StageSize::Region,
            _ => StageSize::All,
        }),
    }
}
