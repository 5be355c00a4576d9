//! Quantities as people write them: `"64MiB"`, `"10s"`, `"500m"`, `"SIGTERM"`.

use nix::sys::signal::Signal;

const MEMORY_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const TIME_UNITS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Bytes in `"64MiB"`.
pub(crate) fn memory_bytes(text: &str) -> Option<u64> {
    quantity(text, MEMORY_UNITS)
}

/// Milliseconds in `"10s"`.
pub(crate) fn duration_ms(text: &str) -> Option<u64> {
    quantity(text, TIME_UNITS)
}

/// Thousandths of a core in `"500m"`.
pub(crate) fn cpu_millis_of_text(text: &str) -> Option<u32> {
    whole_number(text.strip_suffix('m')?)?.try_into().ok()
}

/// Thousandths of a core in a number of cores.
pub(crate) fn cpu_millis_of_cores(cores: f64) -> Option<u32> {
    let millis = (cores * 1_000.0).round();
    // Bounds first: a float cast saturates, and NaN compares false.
    (millis >= 0.0 && millis <= f64::from(u32::MAX)).then_some(millis as u32)
}

/// The number of `"SIGTERM"` or `"TERM"`.
pub(crate) fn signal(text: &str) -> Option<i32> {
    let full = format!("SIG{}", text.strip_prefix("SIG").unwrap_or(text));
    full.parse::<Signal>().ok().map(|signal| signal as i32)
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, size) = units.iter().find(|(name, _)| *name == unit)?;
    whole_number(number)?.checked_mul(*size)
}

fn whole_number(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, bytes) in [
            ("64MiB", Some(64 << 20)),
            ("1GiB", Some(1 << 30)),
            ("2MB", Some(2_000_000)),
            ("0B", Some(0)),
            ("18446744073709551615B", Some(u64::MAX)),
            ("18446744073709551616B", None),
            ("99999999999TiB", None),
            ("64", None),
            ("MiB", None),
            ("64 MiB", None),
            ("64mib", None),
            ("-1MiB", None),
            ("1.5GiB", None),
            ("", None),
        ] {
            assert_eq!(memory_bytes(text), bytes, "{text}");
        }
        for (text, ms) in [
            ("250ms", Some(250)),
            ("10s", Some(10_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("10", None),
            ("1m30s", None),
        ] {
            assert_eq!(duration_ms(text), ms, "{text}");
        }
    }

    #[test]
    fn cores() {
        assert_eq!(cpu_millis_of_text("500m"), Some(500));
        assert_eq!(cpu_millis_of_text("+5m"), None);
        assert_eq!(cpu_millis_of_text("0.5"), None);
        assert_eq!(cpu_millis_of_text("4294967296m"), None);
        assert_eq!(cpu_millis_of_cores(0.1), Some(100));
        assert_eq!(cpu_millis_of_cores(2.0), Some(2_000));
        for bad in [-1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert_eq!(cpu_millis_of_cores(bad), None, "{bad}");
        }
    }

    #[test]
    fn signals() {
        assert_eq!(signal("SIGTERM"), Some(15));
        assert_eq!(signal("INT"), Some(2));
        assert_eq!(signal("sigterm"), None);
        assert_eq!(signal("SIGSIGTERM"), None);
    }
}
