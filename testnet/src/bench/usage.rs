//! What the kernel says of a process and of this machine.

use std::{fs, io, path::Path};

/// Memory of a process, in mebibytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Resident, shared pages counted whole.
    pub(super) rss: f64,
    /// Resident, shared pages counted by the share.
    pub(super) pss: f64,
}

/// A process's memory.
///
/// # Errors
/// If there is no such process.
pub(super) fn memory(pid: i32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let mib = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0)
            .ok_or_else(|| io::Error::other(format!("no {key} in /proc/{pid}/smaps_rollup")))
    };
    Ok(Memory {
        rss: mib("Rss:")?,
        pss: mib("Pss:")?,
    })
}

/// Seconds of a core that a process has used so far.
///
/// # Errors
/// If there is no such process.
pub(super) fn cpu_seconds(pid: i32) -> io::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name stands in brackets and may hold blanks.
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    // utime and stime: fields 14 and 15 of proc(5), two of which are cut off.
    let ticks = |field: usize| {
        fields
            .get(field - 3)
            .and_then(|text| text.parse::<f64>().ok())
    };
    match ticks(14).zip(ticks(15)) {
        Some((user, system)) => Ok((user + system) / ticks_per_second()),
        None => Err(io::Error::other(format!("/proc/{pid}/stat has no times"))),
    }
}

fn ticks_per_second() -> f64 {
    // SAFETY: asks for a constant of the system; nothing is handed over.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    i32::try_from(ticks).map_or(100.0, f64::from)
}

/// The name that a process has given itself.
pub(super) fn name(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    text.trim().to_owned()
}

/// How busy the machine is: processes that ran or wanted to, one minute's mean.
pub(super) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

/// The machine in a line, for the table's foot.
pub(super) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let profile = std::env::current_exe().ok().and_then(|exe| {
        let folder = exe.parent().and_then(Path::file_name)?;
        Some(folder.to_string_lossy().into_owned())
    });
    format!(
        "{cores} cores ({model}), Linux {}, programs of target/{}",
        kernel.trim(),
        profile.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_uses_memory_and_time() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let memory = memory(pid).unwrap();
        assert!(memory.pss > 0.0 && memory.rss >= memory.pss, "{memory:?}");
        let before = cpu_seconds(pid).unwrap();
        let mut sum = 0_u64;
        while cpu_seconds(pid).unwrap() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
