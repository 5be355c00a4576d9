//! What each slot of a job runs.

use super::{Builder, condition};
use crate::call::{Call, Data};
use potluck_specs::job::{
    Adaptive, AdaptiveMode, HealthAction, HealthCheck, Hook, Isolation, Limits, LogPolicy,
    MetricThreshold, Mount, MountSource, PortSpec, Probe, RenderedFile, Resources, RestartOn,
    RestartPolicy, ServiceSpec, StopPolicy, TaskTemplate, WhenFull,
};

impl Builder<'_> {
    pub(super) fn task(&mut self) -> TaskTemplate {
        let call = self.call;
        let services = services(call);
        TaskTemplate {
            command: call.text("command"),
            args: call.texts("args"),
            env: call.text_map("env"),
            files: call.all_made("files").map(file).collect(),
            resources: Resources {
                cpu_millis: call.cpu_if("cpu").unwrap_or_default(),
                memory_bytes: call.bytes_if("memory").unwrap_or_default(),
                disk_bytes: call.bytes_if("disk").unwrap_or_default(),
                uplink_bits_per_s: call.rate_if("uplink").unwrap_or_default(),
            },
            limits: limits(call),
            devices: devices(call),
            adaptive: adaptive(call),
            ports: ports(call),
            health: health(call, &services),
            services,
            metrics: self.metrics(),
            setup: call.list("setup").iter().map(hook).collect(),
            teardown: call.list("teardown").iter().map(hook).collect(),
            restart: restart(call),
            logs: logs(call),
            stop: stop(call),
            mounts: call.all_made("mounts").map(mount).collect(),
            user: call.text_if("user"),
            isolation: match call.text("isolation").as_str() {
                "strict" => Isolation::Strict,
                "none" => Isolation::None,
                _ => Isolation::Default,
            },
        }
    }

    fn metrics(&mut self) -> Vec<MetricThreshold> {
        let mut metrics = Vec::new();
        for (k, call) in self.call.all_made("metrics").enumerate() {
            let when = match condition::metric(&call.text("when")) {
                Ok(when) => when,
                // That it is missing was told.
                Err(_) if call.wrong.contains("when") => condition::stand_in(),
                Err(message) => {
                    let hint = "as in \"queue_depth > 1000\"";
                    self.tell(format!("metrics[{k}].when"), message, hint);
                    // So that what is found in the others has its place.
                    condition::stand_in()
                }
            };
            metrics.push(MetricThreshold {
                port: call.text("port"),
                path: call.text("path"),
                metric: when.metric,
                labels: when.labels,
                comparison: when.comparison,
                threshold: when.threshold,
                interval_ms: call.ms("interval"),
                for_ms: call.ms("during"),
                action: action(call),
            });
        }
        metrics
    }
}

fn ports(call: &Call) -> Vec<PortSpec> {
    let named = call
        .texts("ports")
        .into_iter()
        .map(|name| PortSpec { name, number: None });
    let numbered = call.map("ports").iter().map(|(name, data)| PortSpec {
        name: name.clone(),
        number: match data {
            Data::Whole(number) => u16::try_from(*number).ok().filter(|number| *number != 0),
            _ => None,
        },
    });
    named.chain(numbered).collect()
}

fn services(call: &Call) -> Vec<ServiceSpec> {
    let tagged = call.all_made("services").map(|service| ServiceSpec {
        name: service.text("name"),
        port: service.text("port"),
        tags: service.texts("tags"),
    });
    let plain = call.map("services").iter();
    let plain = plain.map(|(name, data)| ServiceSpec::new(name, data.text().unwrap_or_default()));
    tagged.chain(plain).collect()
}

/// Whoever is offered to clients should at least accept connections: without a
/// word about health, the first service's port is asked.
fn health(call: &Call, services: &[ServiceSpec]) -> Vec<HealthCheck> {
    match call.get("health") {
        Some(Data::List(checks)) => checks.iter().filter_map(Data::made).map(check).collect(),
        Some(one) => one.made().map(check).into_iter().collect(),
        None => {
            let first = services.first();
            first
                .map(|service| HealthCheck::tcp(&service.port))
                .into_iter()
                .collect()
        }
    }
}

fn check(call: &Call) -> HealthCheck {
    HealthCheck {
        probe: match call.function.name {
            "http" => Probe::Http {
                port: call.text("port"),
                path: call.text("path"),
            },
            "exec" => Probe::Exec {
                command: call.text("command"),
                args: call.texts("args"),
            },
            "grpc" => Probe::Grpc {
                port: call.text("port"),
                service: call.text("service"),
            },
            _ => Probe::Tcp {
                port: call.text("port"),
            },
        },
        interval_ms: call.ms("interval"),
        timeout_ms: call.ms("timeout"),
        healthy_after: call.count("healthy_after"),
        unhealthy_after: call.count("unhealthy_after"),
        start_period_ms: call.ms("start_period"),
        action: action(call),
    }
}

fn action(call: &Call) -> HealthAction {
    match call.text("action").as_str() {
        "restart" => HealthAction::Restart,
        "migrate" => HealthAction::Migrate,
        _ => HealthAction::Withdraw,
    }
}

fn limits(call: &Call) -> Limits {
    let Some(limits) = call.made("limits") else {
        return Limits::default();
    };
    let count = |name| limits.count_if(name).map(u64::from);
    Limits {
        cpu_millis: limits.cpu_if("cpu"),
        memory_bytes: limits.bytes_if("memory"),
        cpu_burst_millis: limits.cpu_if("cpu_burst"),
        pids: limits.count_if("pids"),
        io_weight: limits
            .count_if("io_weight")
            .map(|weight| weight.try_into().unwrap_or(u16::MAX)),
        io_read_bytes_per_s: limits.bytes_if("io_read"),
        io_write_bytes_per_s: limits.bytes_if("io_write"),
        io_read_ops_per_s: count("io_read_ops"),
        io_write_ops_per_s: count("io_write_ops"),
    }
}

fn devices(call: &Call) -> std::collections::BTreeMap<String, u32> {
    let entries = call.map("devices").iter();
    let counted = entries.map(|(kind, data)| match data {
        Data::Whole(count) => (kind.clone(), u32::try_from(*count).unwrap_or(u32::MAX)),
        _ => (kind.clone(), 0),
    });
    counted.collect()
}

fn adaptive(call: &Call) -> Adaptive {
    let Some(call) = call.made("adaptive") else {
        return Adaptive::default();
    };
    Adaptive {
        mode: match call.text("mode").as_str() {
            "recommend" => AdaptiveMode::Recommend,
            "auto" => AdaptiveMode::Auto,
            _ => AdaptiveMode::Off,
        },
        cpu_millis_min: call.cpu_if("cpu_min"),
        cpu_millis_max: call.cpu_if("cpu_max"),
        memory_bytes_min: call.bytes_if("memory_min"),
        memory_bytes_max: call.bytes_if("memory_max"),
    }
}

fn hook(data: &Data) -> Hook {
    match data.made() {
        Some(call) => Hook {
            command: call.text("command"),
            args: call.texts("args"),
            timeout_ms: call.ms("timeout"),
        },
        None => Hook {
            command: data.text().unwrap_or_default().into(),
            ..Hook::default()
        },
    }
}

fn restart(call: &Call) -> RestartPolicy {
    let Some(call) = call.made("restart") else {
        return RestartPolicy::default();
    };
    RestartPolicy {
        backoff_ms: call.ms("backoff"),
        backoff_max_ms: call.ms("backoff_max"),
        on: match call.text("on").as_str() {
            "failure" => RestartOn::Failure,
            "never" => RestartOn::Never,
            _ => RestartOn::Always,
        },
        attempts: call.count_if("attempts"),
    }
}

fn logs(call: &Call) -> LogPolicy {
    let Some(call) = call.made("logs") else {
        return LogPolicy::default();
    };
    LogPolicy {
        when_full: match call.text("when_full").as_str() {
            "drop" => WhenFull::Drop,
            _ => WhenFull::Block,
        },
        keep_bytes: call.bytes_if("keep").unwrap_or_default(),
        keep_ms: call.ms_if("keep_for"),
    }
}

fn stop(call: &Call) -> StopPolicy {
    let Some(call) = call.made("stop") else {
        return StopPolicy::default();
    };
    StopPolicy {
        signal: call.signal("signal"),
        grace_ms: call.ms("grace"),
    }
}

fn file(call: &Call) -> RenderedFile {
    RenderedFile {
        path: call.text("path"),
        content: call.text("content"),
        mode: call.mode("mode"),
    }
}

fn mount(call: &Call) -> Mount {
    Mount {
        at: call.text("at"),
        source: match call.function.name {
            "bind" => MountSource::Bind {
                path: call.text("path"),
            },
            "volume" => MountSource::Volume {
                name: call.text("name"),
            },
            _ => MountSource::Tmpfs {
                bytes: call.bytes_if("size").unwrap_or_default(),
            },
        },
        read_only: call.function.name != "tmpfs" && call.flag("read_only"),
    }
}
