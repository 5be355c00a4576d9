//! Traces as text: CSV with two lines of header and strict rows.
//!
//! ```text
//! potluck-trace,1
//! time_ms,event,name,rack,cpu_millis,memory_mib,tasks,priority
//! 0,machine-up,m0,r0,16000,65536,,
//! 250,job-start,web,,500,1024,3,50
//! 90000,machine-down,m0,,,,,
//! 95000,job-end,web,,,,,
//! ```
//!
//! Times never fall. A column that an event has no use for is empty. Names are
//! DNS labels. Answers for refusing everything else, with its line and column.

use super::{Event, Line, Trace};
use potluck_specs::{
    ids::check_name,
    job::{PRIORITY_MAX, Resources},
};
use std::{collections::BTreeMap, fmt::Write as _};

/// The first line: what the file is, and which version of the format.
const FIRST: &str = "potluck-trace,1";

/// The columns, in order.
const COLUMNS: [&str; 8] = [
    "time_ms",
    "event",
    "name",
    "rack",
    "cpu_millis",
    "memory_mib",
    "tasks",
    "priority",
];

/// Lines of a trace: a month of a cell of a thousand machines has some million.
pub const LINES_MAX: usize = 4_000_000;

/// Machines of a trace: as many as a cluster has members.
pub const MACHINES_MAX: usize = 1_000;

/// Tasks of a job: as many as the log takes.
pub const TASKS_MAX: u64 = 10_000;

/// Milliseconds of a trace: a year, so that no sum of times overflows.
const TIME_MAX_MS: u64 = 366 * 24 * 3_600_000;

/// Machines at the begin: fewer have no quorum to lose.
pub const MACHINES_FIRST: usize = 3;

/// Why a text is no trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A line is wrong in one of its columns.
    #[error("line {line}, column {column}: {why}")]
    Column {
        /// Counts from 1.
        line: usize,
        /// Its name.
        column: &'static str,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A line is wrong as a whole.
    #[error("line {line}: {why}")]
    Line {
        /// Counts from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

fn wrong(line: usize, why: impl Into<String>) -> TraceError {
    let why = why.into();
    TraceError::Line { line, why }
}

/// Reads a trace and checks it.
///
/// # Errors
/// The first line that is wrong.
pub fn read(text: &str) -> Result<Trace, TraceError> {
    let mut rows = text.lines().enumerate();
    let mut header = |expected: &str, line: usize| match rows.next() {
        Some((_, row)) if row == expected => Ok(()),
        Some((_, row)) => Err(wrong(line, format!("is '{}', not '{expected}'", cut(row)))),
        None => Err(wrong(line, format!("is missing: '{expected}'"))),
    };
    header(FIRST, 1)?;
    header(&COLUMNS.join(","), 2)?;
    let mut lines = Vec::new();
    for (at, row) in rows {
        let line = at + 1;
        if lines.len() == LINES_MAX {
            return Err(wrong(line, format!("more than {LINES_MAX} events")));
        }
        lines.push(Row::split(line, row)?.line()?);
    }
    let trace = Trace { lines };
    check(&trace)?;
    Ok(trace)
}

/// Text for an error, of any length.
fn cut(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    text.chars().take(SHOWN_MAX).collect()
}

/// One row with its number.
struct Row<'a> {
    line: usize,
    cells: [&'a str; COLUMNS.len()],
}

impl<'a> Row<'a> {
    fn split(line: usize, row: &'a str) -> Result<Row<'a>, TraceError> {
        let cells: Vec<&str> = row.split(',').collect();
        let count = cells.len();
        let cells = cells.try_into().map_err(|_| {
            let columns = COLUMNS.len();
            wrong(line, format!("has {count} columns, not {columns}"))
        })?;
        Ok(Row { line, cells })
    }

    fn bad(&self, column: usize, why: impl Into<String>) -> TraceError {
        TraceError::Column {
            line: self.line,
            column: COLUMNS[column],
            why: why.into(),
        }
    }

    fn line(&self) -> Result<Line, TraceError> {
        let at_ms = self.number(0, 0, TIME_MAX_MS)?;
        let name = self.name(2)?;
        let event = match self.cells[1] {
            "machine-up" => Event::MachineUp {
                name,
                rack: self.name(3)?,
                total: self.resources()?,
            },
            "job-start" => Event::JobStart {
                name,
                each: self.resources()?,
                tasks: self.number(6, 1, TASKS_MAX)? as u32,
                priority: self.number(7, 0, PRIORITY_MAX.into())? as u32,
            },
            "machine-down" => Event::MachineDown { name },
            "job-end" => Event::JobEnd { name },
            other => {
                let known = "machine-up, machine-down, job-start or job-end";
                return Err(self.bad(1, format!("'{}' is none of {known}", cut(other))));
            }
        };
        let unused: &[usize] = match event {
            Event::MachineUp { .. } => &[6, 7],
            Event::JobStart { .. } => &[3],
            Event::MachineDown { .. } | Event::JobEnd { .. } => &[3, 4, 5, 6, 7],
        };
        for column in unused {
            if !self.cells[*column].is_empty() {
                return Err(self.bad(*column, format!("is to be empty for {}", self.cells[1])));
            }
        }
        Ok(Line { at_ms, event })
    }

    fn number(&self, column: usize, least: u64, most: u64) -> Result<u64, TraceError> {
        let text = self.cells[column];
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        let number = number.filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| {
            let why = format!("'{}' is no number from {least} to {most}", cut(text));
            self.bad(column, why)
        })
    }

    fn name(&self, column: usize) -> Result<String, TraceError> {
        let name = self.cells[column];
        match check_name(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(error) => Err(self.bad(column, error.to_string())),
        }
    }

    fn resources(&self) -> Result<Resources, TraceError> {
        const CPU_MAX: u64 = 1_000_000;
        const MIB_MAX: u64 = 64 << 20;
        let cpu = self.number(4, 1, CPU_MAX)?;
        let memory = self.number(5, 1, MIB_MAX)?;
        Ok(Resources::new(cpu as u32, memory << 20))
    }
}

/// Is what happens possible, line after line?
///
/// # Errors
/// The first line that is not.
pub fn check(trace: &Trace) -> Result<(), TraceError> {
    /// Lines of the header.
    const HEADER: usize = 2;
    let mut before = 0;
    // Whether it is up, by machine.
    let mut machines: BTreeMap<&str, (bool, &Event)> = BTreeMap::new();
    let mut jobs: BTreeMap<&str, bool> = BTreeMap::new();
    for (at, line) in trace.lines.iter().enumerate() {
        let number = at + HEADER + 1;
        let bad = |column: usize, why: String| TraceError::Column {
            line: number,
            column: COLUMNS[column],
            why,
        };
        if line.at_ms < before {
            let why = format!("{} is before {before} of the line above", line.at_ms);
            return Err(bad(0, why));
        }
        before = line.at_ms;
        match &line.event {
            Event::MachineUp { name, .. } => {
                let same = |was: &Event| was == &line.event;
                match machines.insert(name, (true, &line.event)) {
                    Some((true, _)) => return Err(bad(2, format!("{name} is up already"))),
                    Some((false, was)) if !same(was) => {
                        let why = format!("{name} comes back with another rack or size");
                        return Err(bad(2, why));
                    }
                    _ if machines.len() > MACHINES_MAX => {
                        return Err(bad(2, format!("more than {MACHINES_MAX} machines")));
                    }
                    _ => {}
                }
            }
            Event::MachineDown { name } => match machines.get_mut(name.as_str()) {
                Some((up, _)) if *up => *up = false,
                _ => return Err(bad(2, format!("{name} is not up"))),
            },
            Event::JobStart { name, .. } => {
                if jobs.insert(name, true) == Some(true) {
                    return Err(bad(2, format!("{name} is asked for already")));
                }
            }
            Event::JobEnd { name } => {
                if jobs.insert(name, false) != Some(true) {
                    return Err(bad(2, format!("{name} is not asked for")));
                }
            }
        }
    }
    let first = trace.lines.iter().take_while(|line| line.at_ms == 0);
    let first = first.filter(|line| matches!(line.event, Event::MachineUp { .. }));
    if first.count() < MACHINES_FIRST {
        let why = format!("fewer than {MACHINES_FIRST} machines come up at 0");
        return Err(wrong(HEADER + 1, why));
    }
    Ok(())
}

/// Writes a trace as [`read`] reads it.
pub fn write(trace: &Trace) -> String {
    let mut text = format!("{FIRST}\n{}\n", COLUMNS.join(","));
    for Line { at_ms, event } in &trace.lines {
        let size = |of: &Resources| format!("{},{}", of.cpu_millis, of.memory_bytes >> 20);
        let rest = match event {
            Event::MachineUp { name, rack, total } => {
                format!("machine-up,{name},{rack},{},,", size(total))
            }
            Event::MachineDown { name } => format!("machine-down,{name},,,,,"),
            Event::JobStart {
                name,
                each,
                tasks,
                priority,
            } => format!("job-start,{name},,{},{tasks},{priority}", size(each)),
            Event::JobEnd { name } => format!("job-end,{name},,,,,"),
        };
        writeln!(text, "{at_ms},{rest}").expect("a string takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{rng::Rng, traces::borg};

    const GOOD: &str = "potluck-trace,1
time_ms,event,name,rack,cpu_millis,memory_mib,tasks,priority
0,machine-up,m0,r0,16000,65536,,
0,machine-up,m1,r0,16000,65536,,
0,machine-up,m2,r1,8000,32768,,
250,job-start,web,,500,1024,3,50
90000,machine-down,m0,,,,,
95000,job-end,web,,,,,
95000,machine-up,m0,r0,16000,65536,,
";

    #[test]
    fn what_is_read_is_written_the_same() {
        assert_eq!(write(&read(GOOD).unwrap()), GOOD);
        let made = borg::Cell::named('d').unwrap();
        let made = made.trace(20, 3_600_000, &mut Rng::new(3));
        assert_eq!(read(&write(&made)).unwrap(), made);
    }

    #[test]
    fn bad_lines_are_refused_with_line_and_column() {
        // Which line, what instead (nothing: the text ends before it), error.
        let table: &[(usize, &str, &str)] = &[
            (1, "", "line 1: is missing: 'potluck-trace,1'"),
            (
                1,
                "potluck-trace,2",
                "line 1: is 'potluck-trace,2', not 'potluck-trace,1'",
            ),
            (
                2,
                "time_ms,event",
                "line 2: is 'time_ms,event', not 'time_ms,event,name,rack,cpu_millis,memory_mib,tasks,priority'",
            ),
            (5, "", "line 3: fewer than 3 machines come up at 0"),
            (4, "0,machine-up,m1", "line 4: has 3 columns, not 8"),
            (4, "", "line 3: fewer than 3 machines come up at 0"),
            (
                4,
                ",machine-up,m1,r0,1,1,,",
                "line 4, column time_ms: '' is no number from 0 to 31622400000",
            ),
            (
                4,
                "+1,machine-up,m1,r0,1,1,,",
                "line 4, column time_ms: '+1' is no number from 0 to 31622400000",
            ),
            (
                4,
                "99999999999,machine-up,m1,r0,1,1,,",
                "line 4, column time_ms: '99999999999' is no number from 0 to 31622400000",
            ),
            (
                4,
                "0,machine-on,m1,r0,1,1,,",
                "line 4, column event: 'machine-on' is none of machine-up, machine-down, job-start or job-end",
            ),
            (
                4,
                "0,machine-up,m_1,r0,1,1,,",
                "line 4, column name: \"m_1\" is not a valid name",
            ),
            (
                4,
                "0,machine-up,m1,,1,1,,",
                "line 4, column rack: \"\" is not a valid name",
            ),
            (
                4,
                "0,machine-up,m1,r0,0,1,,",
                "line 4, column cpu_millis: '0' is no number from 1 to 1000000",
            ),
            (
                4,
                "0,machine-up,m1,r0,1,1.5,,",
                "line 4, column memory_mib: '1.5' is no number from 1 to 67108864",
            ),
            (
                4,
                "0,machine-up,m1,r0,1,1,3,",
                "line 4, column tasks: is to be empty for machine-up",
            ),
            (
                4,
                "0,machine-up,m0,r0,1,1,,",
                "line 4, column name: m0 is up already",
            ),
            (
                6,
                "250,job-start,web,r0,500,1024,3,50",
                "line 6, column rack: is to be empty for job-start",
            ),
            (
                6,
                "250,job-start,web,,500,1024,0,200",
                "line 6, column tasks: '0' is no number from 1 to 10000",
            ),
            (
                6,
                "250,job-start,web,,500,1024,3,99999999",
                "line 6, column priority: '99999999' is no number from 0 to",
            ),
            (
                7,
                "249,machine-down,m0,,,,,",
                "line 7, column time_ms: 249 is before 250 of the line above",
            ),
            (
                7,
                "90000,machine-down,m9,,,,,",
                "line 7, column name: m9 is not up",
            ),
            (
                7,
                "90000,job-start,web,,1,1,1,1",
                "line 7, column name: web is asked for already",
            ),
            (
                8,
                "95000,job-end,api,,,,,",
                "line 8, column name: api is not asked for",
            ),
            (
                8,
                "95000,job-end,web,,,,1,",
                "line 8, column tasks: is to be empty for job-end",
            ),
            (
                9,
                "95000,machine-up,m0,r1,16000,65536,,",
                "line 9, column name: m0 comes back with another rack or size",
            ),
        ];
        for (line, instead, expected) in table {
            let mut lines: Vec<&str> = GOOD.lines().collect();
            match instead.is_empty() {
                true => lines.truncate(line - 1),
                false => lines[line - 1] = instead,
            }
            let error = read(&lines.join("\n")).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}\n{expected}");
        }
    }

    #[test]
    fn arbitrary_text_is_refused_and_no_more() {
        let mut rng = Rng::new(9);
        for _ in 0..2_000 {
            let mut bytes = GOOD.as_bytes().to_vec();
            for _ in 0..rng.between(1, 4) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = rng.below(128) as u8;
            }
            let text = String::from_utf8(bytes).unwrap();
            if let Ok(trace) = read(&text) {
                assert_eq!(read(&write(&trace)), Ok(trace));
            }
        }
    }
}
