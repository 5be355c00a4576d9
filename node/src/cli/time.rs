//! Points in time and spans, for people.

use potluck_specs::Millis;
use std::{
    str::FromStr,
    time::{Duration, UNIX_EPOCH},
};

/// Unix time as RFC 3339 in UTC, to the millisecond.
pub(super) fn rfc3339(at: Millis) -> String {
    // Later than the year 9999 is shown as its end.
    let at = at.0.min(253_402_300_799_999);
    let at = UNIX_EPOCH + Duration::from_millis(at);
    humantime::format_rfc3339_millis(at).to_string()
}

/// A point in time as people say it: how long ago, or when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// So long before now.
    Ago(Duration),
    /// Then, Unix time.
    At(Millis),
}

impl When {
    /// The point in time, if it is `now`.
    pub(super) fn before(self, now: Millis) -> Millis {
        match self {
            When::Ago(span) => {
                let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                Millis(now.0.saturating_sub(span))
            }
            When::At(at) => at,
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<When, String> {
        if let Ok(span) = humantime::parse_duration(text) {
            return Ok(When::Ago(span));
        }
        let at = humantime::parse_rfc3339_weak(text).ok();
        let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let since = since.and_then(|since| u64::try_from(since.as_millis()).ok());
        since.map(|ms| When::At(Millis(ms))).ok_or_else(|| {
            "say how long ago, as in 90s, 10m or 2h 30m, or when, as in \
             2026-11-22T16:00:00Z"
                .into()
        })
    }
}

/// The same to the second, with a space: for tables.
pub(super) fn short(at: Millis) -> String {
    rfc3339(at)[..19].replace('T', " ")
}

/// A span in its two largest units.
pub(super) fn span(span: Millis) -> String {
    let seconds = span.0 / 1_000;
    match seconds {
        0 if span.0 > 0 => format!("{} ms", span.0),
        0..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

fn two(large: u64, of: &str, small: u64, unit: &str) -> String {
    match small {
        0 => format!("{large} {of}"),
        _ => format!("{large} {of} {small} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_709_164_800_123, "2024-02-29T00:00:00.123Z"),
            (1_795_363_200_000, "2026-11-22T16:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(Millis(at)), text);
        }
        assert_eq!(short(Millis(1_795_363_200_000)), "2026-11-22 16:00:00");
    }

    #[test]
    fn points_in_time_are_read() {
        let now = Millis(1_795_363_200_000);
        for (text, at) in [
            ("0s", now.0),
            ("90s", now.0 - 90_000),
            ("2h 30m", now.0 - 9_000_000),
            ("2026-11-22T16:00:00Z", now.0),
            ("2026-11-22T16:00:00.250Z", now.0 + 250),
            ("2026-11-22 16:00:00", now.0),
            ("99999999999d", 0),
        ] {
            let when: When = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(when.before(now), Millis(at), "{text}");
        }
        for text in [
            "",
            "10",
            "yesterday",
            "-5m",
            "16:00",
            "1960-01-01T00:00:00Z",
        ] {
            assert!(text.parse::<When>().is_err(), "{text}");
        }
        assert_eq!(rfc3339(Millis(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn spans_are_short() {
        for (ms, text) in [
            (0, "0 s"),
            (40, "40 ms"),
            (12_345, "12 s"),
            (90_000, "1 min 30 s"),
            (3_600_000, "1 h"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(span(Millis(ms)), text);
        }
    }
}
