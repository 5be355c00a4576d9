//! Changes that many rows make.

use super::*;

pub(super) fn batch(draft: &mut JobDraft, edit: impl Fn(&mut Batch)) {
    let mut batch = Batch {
        completions: 5,
        parallelism: 2,
        ..Batch::default()
    };
    edit(&mut batch);
    draft.kind = JobKind::Batch(batch);
}

pub(super) fn package(at: &str) -> DraftPackage {
    DraftPackage {
        at: at.into(),
        source: PackageSource::Path("more".into()),
    }
}

pub(super) fn env(draft: &mut JobDraft, name: &str, value: &str) {
    draft.task.env.insert(name.into(), value.into());
}

pub(super) fn file(path: &str, content: &str, mode: u32) -> RenderedFile {
    let (path, content) = (path.into(), content.into());
    RenderedFile {
        path,
        content,
        mode,
    }
}

pub(super) fn hook(command: &str, timeout_ms: u64) -> Hook {
    Hook {
        command: command.into(),
        timeout_ms,
        ..Hook::default()
    }
}

pub(super) fn adapt(draft: &mut JobDraft, edit: impl Fn(&mut Adaptive)) {
    draft.task.adaptive.mode = AdaptiveMode::Auto;
    edit(&mut draft.task.adaptive);
}

pub(super) fn probe(draft: &mut JobDraft, probe: Probe) {
    draft.task.health = vec![HealthCheck::of(probe)];
}

pub(super) fn metric(draft: &mut JobDraft, edit: impl Fn(&mut MetricThreshold)) {
    let mut metric = MetricThreshold {
        port: "http".into(),
        metric: "queue_length".into(),
        threshold: "-0.5".into(),
        ..MetricThreshold::default()
    };
    edit(&mut metric);
    draft.task.metrics = vec![metric];
}

pub(super) fn mount(draft: &mut JobDraft, at: &str, source: MountSource) {
    draft.task.mounts.push(Mount {
        at: at.into(),
        source,
        read_only: false,
    });
}

pub(super) fn tmpfs(bytes: u64) -> MountSource {
    MountSource::Tmpfs { bytes }
}

pub(super) fn require(draft: &mut JobDraft, text: &str) {
    draft.placement.requirements.push(text.parse().unwrap());
}

pub(super) fn preference(weight: i32) -> Preference {
    Preference {
        requirement: "label.ssd exists".parse().unwrap(),
        weight,
    }
}

pub(super) fn at_most(draft: &mut JobDraft, level: Level, count: u32) {
    draft.placement.at_most.push(AtMost { level, count });
}

pub(super) fn neighbour(job: &str, level: Level) -> Neighbour {
    Neighbour {
        job: JobName::in_default(job),
        level,
    }
}

pub(super) fn depend(draft: &mut JobDraft, on: &str, at_least: Option<u32>) {
    draft.change.depends_on.push(Dependency {
        job: JobName::in_default(on),
        at_least,
        ..Dependency::default()
    });
}

pub(super) fn stages(draft: &mut JobDraft, sizes: &[StageSize]) {
    let stage = |size: &StageSize| Stage {
        size: *size,
        bake_ms: 0,
    };
    draft.change.update.stages = sizes.iter().map(stage).collect();
}
