//! Points in time and spans, for people.

use potluck_specs::Millis;

const DAY: u64 = 86_400_000;

/// Unix time as RFC 3339 in UTC, to the millisecond.
pub(super) fn rfc3339(at: Millis) -> String {
    let (year, month, day) = date(at.0 / DAY);
    let ms = at.0 % DAY;
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        ms % 1_000
    )
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

/// Year, month and day of a day since 1 January 1970. Years are counted from
/// 1 March, so that the day of a leap year comes last; 146,097 days make 400
/// years.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year + era * 400 + u64::from(month <= 2), month, day)
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
    fn days_follow_each_other() {
        let mut last = (1969, 12, 31);
        for day in 0..80_000 {
            let next = date(day);
            let same_month = next.0 == last.0 && next.1 == last.1 && next.2 == last.2 + 1;
            let same_year = next.0 == last.0 && next.1 == last.1 + 1 && next.2 == 1;
            let new_year = next == (last.0 + 1, 1, 1) && last.1 == 12;
            assert!(same_month || same_year || new_year, "{last:?}, {next:?}");
            last = next;
        }
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
