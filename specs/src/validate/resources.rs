//! What a task asks for, and whether its bounds make sense together.

use super::{findings::Findings, limits::*};
use crate::{
    diff::{cores, size},
    job::{Adaptive, AdaptiveMode, Limits, Resources, TaskTemplate},
    path::FieldPath,
};

pub(super) fn check(task: &TaskTemplate, findings: &mut Findings) {
    let path = FieldPath::of("task");
    check_resources(&path.field("resources"), &task.resources, findings);
    check_limits(
        &path.field("limits"),
        &task.limits,
        &task.resources,
        findings,
    );
    check_devices(task, findings);
    check_adaptive(
        &path.field("adaptive"),
        &task.adaptive,
        &task.resources,
        findings,
    );
}

fn check_resources(path: &FieldPath, resources: &Resources, findings: &mut Findings) {
    let cpu = path.field("cpu_millis");
    if resources.cpu_millis == 0 {
        findings
            .error(&cpu, "a task needs at least 0.001 cores")
            .hint("cpu = 0.1 is a tenth of a core");
    }
    if resources.cpu_millis > RESOURCES_MAX.cpu_millis {
        findings.error(&cpu, "a task may ask for at most 1024 cores");
    }
    let memory = path.field("memory_bytes");
    if resources.memory_bytes < MEMORY_BYTES_MIN {
        findings
            .error(&memory, "a task needs at least 1 MiB of memory")
            .hint("a number counts bytes; write \"64MiB\"");
    }
    if resources.memory_bytes > RESOURCES_MAX.memory_bytes {
        findings.error(&memory, "a task may ask for at most 64 TiB of memory");
    }
    if (1..DISK_BYTES_MIN).contains(&resources.disk_bytes) {
        findings
            .error(
                &path.field("disk_bytes"),
                "a task that asks for disk needs at least 4 MiB",
            )
            .why("its log alone may have as much as a third of that")
            .hint("a number counts bytes; write \"64MiB\"");
    }
    if resources.disk_bytes > RESOURCES_MAX.disk_bytes {
        findings.error(
            &path.field("disk_bytes"),
            "a task may ask for at most 1 PiB of disk",
        );
    }
    if resources.uplink_bits_per_s > RESOURCES_MAX.uplink_bits_per_s {
        let path = path.field("uplink_bits_per_s");
        findings.error(&path, "a task may ask for at most 1 Tbit/s of uplink");
    }
}

fn check_limits(path: &FieldPath, limits: &Limits, need: &Resources, findings: &mut Findings) {
    if let Some(quota) = limits.cpu_millis
        && quota < need.cpu_millis
    {
        let (quota, need) = (cores(quota.into()), cores(need.cpu_millis.into()));
        findings
            .error(
                &path.field("cpu_millis"),
                format!("the quota of {quota} cores is below the request of {need}"),
            )
            .why("the task could never use what is set aside for it");
    }
    if let Some(limit) = limits.memory_bytes
        && limit < need.memory_bytes
    {
        let (limit, need) = (size(limit), size(need.memory_bytes));
        findings
            .error(
                &path.field("memory_bytes"),
                format!("the limit of {limit} is below the request of {need}"),
            )
            .why("the task would be killed before it used what is set aside for it");
    }
    check_burst(path, limits, findings);
    let counts = [
        ("pids", limits.pids, PIDS_MIN, PIDS_MAX, "processes"),
        (
            "io_weight",
            limits.io_weight.map(u32::from),
            1,
            IO_WEIGHT_MAX.into(),
            "the weight of disks",
        ),
    ];
    for (field, value, min, max, what) in counts {
        if value.is_some_and(|value| !(min..=max).contains(&value)) {
            let message = format!("{what} is a number from {min} to {max}");
            findings.error(&path.field(field), message);
        }
    }
    check_io(path, limits, findings);
}

fn check_burst(path: &FieldPath, limits: &Limits, findings: &mut Findings) {
    let Some(burst) = limits.cpu_burst_millis else {
        return;
    };
    let path = path.field("cpu_burst_millis");
    match limits.cpu_millis {
        None => {
            findings
                .error(&path, "a burst needs a quota")
                .why("it is what of an unused quota may be used later")
                .hint("limits(cpu = 1, cpu_burst = 0.5)");
        }
        Some(quota) if burst > quota => {
            let (burst, quota) = (cores(burst.into()), cores(quota.into()));
            let message = format!("the burst of {burst} cores is above the quota of {quota}");
            findings
                .error(&path, message)
                .why("the kernel keeps no more than one period's quota");
        }
        Some(_) if burst == 0 => {
            findings
                .error(&path, "a burst is at least 0.001 cores")
                .hint("leave it out for none");
        }
        Some(_) => {}
    }
}

fn check_io(path: &FieldPath, limits: &Limits, findings: &mut Findings) {
    let bytes = [
        ("io_read_bytes_per_s", limits.io_read_bytes_per_s),
        ("io_write_bytes_per_s", limits.io_write_bytes_per_s),
    ];
    for (field, value) in bytes {
        if value.is_some_and(|value| !(IO_BYTES_PER_S_MIN..=IO_PER_S_MAX).contains(&value)) {
            findings
                .error(
                    &path.field(field),
                    "a disk is limited to 64 KiB to 1 TiB a second",
                )
                .hint("a number counts bytes; write \"10MiB\"");
        }
    }
    let ops = [
        ("io_read_ops_per_s", limits.io_read_ops_per_s),
        ("io_write_ops_per_s", limits.io_write_ops_per_s),
    ];
    for (field, value) in ops {
        if value.is_some_and(|value| !(IO_OPS_PER_S_MIN..=IO_PER_S_MAX).contains(&value)) {
            let message = format!(
                "operations a second of a disk are from {IO_OPS_PER_S_MIN} to {IO_PER_S_MAX}"
            );
            findings.error(&path.field(field), message);
        }
    }
}

fn check_devices(task: &TaskTemplate, findings: &mut Findings) {
    let map = FieldPath::of("task.devices");
    findings.at_most(&map, "kinds of devices", task.devices.len(), ENTRIES_MAX);
    for (kind, count) in &task.devices {
        let path = map.key(kind);
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
        if kind.is_empty() || kind.len() > WORD_BYTES_MAX || !kind.bytes().all(allowed) {
            findings
                .error(&path, format!("{kind:?} is not a kind of device"))
                .hint("write letters, digits, '-', '_', '.' and '/': \"nvidia.com/gpu\"");
        }
        if !(1..=DEVICES_MAX).contains(count) {
            let message = format!("devices are counted from 1 to {DEVICES_MAX}");
            findings.error(&path, message);
        }
    }
}

fn check_adaptive(
    path: &FieldPath,
    adaptive: &Adaptive,
    need: &Resources,
    findings: &mut Findings,
) {
    if adaptive.mode == AdaptiveMode::Off {
        let usual = Adaptive::default();
        if *adaptive != usual {
            findings
                .warning(path, "floor and ceiling have no use while the mode is off")
                .hint("set the mode to \"recommend\" or \"auto\"");
        }
        return;
    }
    let cpu = |millis: u32| u64::from(millis);
    let (cpu_min, cpu_max) = (
        adaptive.cpu_millis_min.map(cpu),
        adaptive.cpu_millis_max.map(cpu),
    );
    let (memory_min, memory_max) = (adaptive.memory_bytes_min, adaptive.memory_bytes_max);
    let need_cpu = need.cpu_millis.into();
    check_range(
        &path.field("cpu_millis_min"),
        [cpu_min, cpu_max],
        need_cpu,
        cores,
        findings,
    );
    let memory = path.field("memory_bytes_min");
    check_range(
        &memory,
        [memory_min, memory_max],
        need.memory_bytes,
        size,
        findings,
    );
}

fn check_range(
    path: &FieldPath,
    [min, max]: [Option<u64>; 2],
    need: u64,
    show: fn(u64) -> String,
    findings: &mut Findings,
) {
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        let message = format!(
            "the floor of {} is above the ceiling of {}",
            show(min),
            show(max)
        );
        findings.error(path, message);
        return;
    }
    let below = min.is_some_and(|min| need < min);
    let above = max.is_some_and(|max| need > max);
    if below || above {
        let message = format!(
            "the request of {} is not between floor and ceiling",
            show(need)
        );
        findings
            .error(path, message)
            .why("it is what the task begins with");
    }
}
