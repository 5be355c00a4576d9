//! Conditions on metrics as people write them:
//! `queue_depth{queue="mail"} > 1000`.

use potluck_specs::job::Comparison;
use std::collections::BTreeMap;

/// Longer signs first: `<=` begins with `<`.
const COMPARISONS: &[(&str, Comparison)] = &[
    // People who program write two.
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
    ("=", Comparison::Equal),
];

/// A condition on a metric.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MetricCondition {
    pub(super) metric: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) comparison: Comparison,
    pub(super) threshold: String,
}

/// What stands in for a condition that can't be read, so that the rest of its
/// metric is looked at.
pub(super) fn stand_in() -> MetricCondition {
    MetricCondition {
        metric: "unknown".into(),
        labels: BTreeMap::new(),
        comparison: Comparison::Greater,
        threshold: "0".into(),
    }
}

/// Reads a condition on a metric.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn metric(text: &str) -> Result<MetricCondition, String> {
    let wrong = |why: &str| format!("the expression {text:?} {why}");
    let trimmed = text.trim();
    let end = trimmed
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')))
        .unwrap_or(trimmed.len());
    let (name, rest) = trimmed.split_at(end);
    if name.is_empty() {
        return Err(wrong("does not begin with the name of a metric"));
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest).ok_or_else(|| wrong("has labels that can't be read"))?,
        None => (BTreeMap::new(), rest),
    };
    let rest = rest.trim_start();
    let (comparison, number) = COMPARISONS
        .iter()
        .find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?)))
        .ok_or_else(|| wrong("has no =, !=, <, <=, > or >= after the metric"))?;
    let number = number.trim();
    if !is_decimal(number) {
        return Err(wrong("does not end with a number"));
    }
    Ok(MetricCondition {
        metric: name.into(),
        labels,
        comparison,
        threshold: number.into(),
    })
}

/// `queue="mail", kind="a"} …`: the labels, and what follows them.
fn labels(text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    let mut rest = text.trim_start();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = after.trim_start().strip_prefix('"')?.split_once('"')?;
        labels.insert(name.trim().to_owned(), value.to_owned());
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
}

/// `0.95`, `-3`, `100`.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    number(whole) && number(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_as_prometheus_writes_them() {
        let read = metric("queue_depth{queue=\"mail\", kind = \"a\"} > 1000").unwrap();
        assert_eq!(read.metric, "queue_depth");
        assert_eq!(read.labels["queue"], "mail");
        assert_eq!(read.labels["kind"], "a");
        assert_eq!(read.comparison, Comparison::Greater);
        assert_eq!(read.threshold, "1000");
        for equal in ["up==0", "up = 0"] {
            assert_eq!(metric(equal).unwrap().comparison, Comparison::Equal);
        }
        assert_eq!(metric("x{} <= -0.5").unwrap().threshold, "-0.5");
        for (text, why) in [
            ("> 1", "does not begin"),
            ("x", "has no ="),
            ("x > high", "does not end with a number"),
            ("x > 1e9", "does not end with a number"),
            ("x{a=b} > 1", "labels"),
            ("x{a=\"b\" > 1", "labels"),
        ] {
            let error = metric(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
