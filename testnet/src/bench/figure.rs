//! What was measured, as a row of a Markdown table.

use std::time::Duration;

/// The head of the table that [`Figure::row`] makes rows of.
pub(super) const HEAD: &str = "| what | target | measured | beside, same run | load | command |\n\
     |---|---|---|---|---|---|";

/// One figure.
#[derive(Debug)]
pub(super) struct Figure {
    /// What was measured.
    pub(super) what: &'static str,
    /// What the design asks for, if it does.
    pub(super) target: &'static str,
    /// What came out.
    pub(super) measured: String,
    /// A bound or a peer, measured in the same run.
    pub(super) beside: String,
}

impl Figure {
    /// The figure as a row, with the command that measures it.
    pub(super) fn row(&self, command: &str, load: &str) -> String {
        let Figure {
            what,
            target,
            measured,
            beside,
        } = self;
        format!("| {what} | {target} | {measured} | {beside} | {load} | `{command}` |")
    }
}

/// Repeated measurements, in short.
#[derive(Debug)]
pub(super) struct Spread(Vec<f64>);

impl Spread {
    /// Of durations, in milliseconds.
    pub(super) fn of_times(times: &[Duration]) -> Spread {
        Spread::of(times.iter().map(|time| time.as_secs_f64() * 1e3))
    }

    /// Of anything.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Spread(values)
    }

    /// The middle one; of an even number the upper of the two.
    pub(super) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// With its unit.
    pub(super) fn in_unit(&self, unit: &'static str) -> String {
        let (min, max) = (self.0.first(), self.0.last());
        let number = |value: Option<&f64>| short(value.copied().unwrap_or(f64::NAN));
        format!(
            "{} {unit} ({} to {}, n={})",
            short(self.median()),
            number(min),
            number(max),
            self.0.len()
        )
    }
}

/// Three digits are more than a noisy machine can tell.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_median_least_and_most() {
        let times = [30, 10, 200].map(Duration::from_millis);
        let text = Spread::of_times(&times).in_unit("ms");
        assert_eq!(text, "30.0 ms (10.0 to 200, n=3)");
    }

    #[test]
    fn a_row_has_as_many_cells_as_the_head() {
        let figure = Figure {
            what: "a",
            target: "b",
            measured: "c".into(),
            beside: "d".into(),
        };
        let cells = |line: &str| line.matches('|').count();
        let head = HEAD.lines().next().unwrap();
        assert_eq!(cells(&figure.row("e", "f")), cells(head));
    }
}
