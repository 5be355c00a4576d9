//! Quantities as people write them: `"64MiB"`, `"10s"`, `"500m"`, `"SIGTERM"`.

use nix::sys::signal::Signal;
use potluck_specs::suggestion::nearest;

/// What a suffix of a quantity is in its smallest unit.
pub(crate) type Units = &'static [(&'static str, u64)];

pub(crate) const MEMORY_UNITS: &[(&str, u64)] = &[
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

pub(crate) const TIME_UNITS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

pub(crate) const RATE_UNITS: &[(&str, u64)] = &[
    ("bit/s", 1),
    ("kbit/s", 1_000),
    ("Mbit/s", 1_000_000),
    ("Gbit/s", 1_000_000_000),
];

/// Bits a second in `"100Mbit/s"`.
pub(crate) fn bits_per_s(text: &str) -> Option<u64> {
    quantity(text, RATE_UNITS)
}

/// Bits a second as a person writes them.
pub(crate) fn show_rate(bits: u64) -> String {
    show(bits, RATE_UNITS)
}

/// Permission bits in `"0644"`: octal, as people write them.
pub(crate) fn mode(text: &str) -> Option<u32> {
    let octal = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    octal.then(|| u32::from_str_radix(text, 8).ok()).flatten()
}

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

/// How a person would have to write what they probably meant by a text that is
/// no quantity of ours.
pub(crate) fn meant_bytes(text: &str) -> Option<String> {
    let decimal: &[(&str, u64)] = &[
        ("k", 1_000),
        ("m", 1_000_000),
        ("g", 1_000_000_000),
        ("t", 1_000_000_000_000),
    ];
    let binary: &[(&str, u64)] = &[
        ("b", 1),
        ("ki", 1 << 10),
        ("mi", 1 << 20),
        ("gi", 1 << 30),
        ("ti", 1 << 40),
    ];
    let (number, unit) = loose(text)?;
    let unit = unit.to_lowercase();
    let unit = unit
        .strip_suffix('b')
        .filter(|left| !left.is_empty())
        .unwrap_or(&unit);
    if let Some(size) = of_unit(decimal, unit) {
        return Some(show(times(number, size)?, &MEMORY_UNITS[..5]));
    }
    Some(show_bytes(times(number, of_unit(binary, unit)?)?))
}

/// The same for durations: `"1h30m"`, `"1.5s"`.
pub(crate) fn meant_ms(text: &str) -> Option<String> {
    let mut left = text.trim();
    let mut ms = 0u64;
    while !left.is_empty() {
        let digits = left.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let rest = left[digits..].trim_start();
        let end = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let unit = match rest[..end].to_lowercase().as_str() {
            "ms" | "msec" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            _ => return None,
        };
        ms = ms.checked_add(times(left[..digits].parse().ok()?, unit)?)?;
        left = rest[end..].trim_start();
    }
    (!text.trim().is_empty()).then(|| show_ms(ms))
}

/// The same for rates, which others write in bytes.
pub(crate) fn meant_rate(text: &str) -> Option<String> {
    let (number, unit) = loose(text)?;
    let unit = unit
        .strip_suffix("/s")
        .or_else(|| unit.strip_suffix("ps"))
        .unwrap_or(unit);
    let (bytes, prefix) = match unit.strip_suffix('B') {
        Some(prefix) => (8, prefix),
        None => (
            1,
            unit.strip_suffix("bit")
                .or_else(|| unit.strip_suffix('b'))
                .unwrap_or(unit),
        ),
    };
    let sizes = &[
        ("", 1),
        ("k", 1_000),
        ("m", 1_000_000),
        ("g", 1_000_000_000),
    ];
    let size: u64 = of_unit(sizes, &prefix.to_lowercase())?;
    Some(show_rate(times(number, size * bytes)?))
}

/// A number, also with a fraction, and the unit behind it.
fn loose(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

fn of_unit(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    let found = units.iter().find(|(name, _)| *name == unit);
    found.map(|(_, size)| *size)
}

/// So many of a unit, if that is a whole number that floats hold exactly.
fn times(number: f64, size: u64) -> Option<u64> {
    let product = number * size as f64;
    let exact = product >= 0.0 && product <= (1u64 << 53) as f64;
    exact.then_some(product.round() as u64)
}

/// The names of all signals, as they may be written.
pub(crate) fn signal_names() -> Vec<&'static str> {
    let names = Signal::iterator().map(|signal| signal.as_str());
    let short = |name: &'static str| name.strip_prefix("SIG").unwrap_or(name);
    names.flat_map(|name| [name, short(name)]).collect()
}

/// The signal that was probably meant.
pub(crate) fn meant_signal(text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    let full = format!("sig{}", lower.strip_prefix("sig").unwrap_or(&lower));
    let names: Vec<String> = Signal::iterator()
        .map(|signal| signal.as_str().to_lowercase())
        .collect();
    let near = nearest(&full, names.iter().map(String::as_str))?;
    Some(format!("{:?}", near.to_uppercase()))
}

/// The number in `"25%"`.
pub(crate) fn percent(text: &str) -> Option<u32> {
    let number = whole_number(text.strip_suffix('%')?)?;
    u32::try_from(number).ok().filter(|percent| *percent <= 100)
}

/// The number of `"SIGTERM"` or `"TERM"`.
pub(crate) fn signal(text: &str) -> Option<i32> {
    let full = format!("SIG{}", text.strip_prefix("SIG").unwrap_or(text));
    full.parse::<Signal>().ok().map(|signal| signal as i32)
}

/// Bytes as a person writes them: the largest unit that says it exactly.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let binary = &MEMORY_UNITS[5..];
    show(bytes, &[&MEMORY_UNITS[..1], binary].concat())
}

/// Milliseconds as a person writes them.
pub(crate) fn show_ms(ms: u64) -> String {
    if ms == 0 {
        return "\"0s\"".into();
    }
    show(ms, TIME_UNITS)
}

/// Thousandths of a core as a person writes them.
pub(crate) fn show_cpu(millis: u32) -> String {
    match millis % 1_000 {
        0 => (millis / 1_000).to_string(),
        rest => {
            let text = format!("{}.{rest:03}", millis / 1_000);
            text.trim_end_matches('0').to_owned()
        }
    }
}

/// A signal's name, or its number if it has none.
pub(crate) fn show_signal(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => format!("{:?}", signal.as_str()),
        Err(_) => number.to_string(),
    }
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    let exact = |(_, size): &&(&str, u64)| value >= *size && value.is_multiple_of(*size);
    let (unit, size) = units.iter().rev().find(exact).unwrap_or(&units[0]);
    format!("\"{}{unit}\"", value / size)
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
    fn what_others_write_has_a_word_of_ours() {
        for (text, meant) in [
            ("1.5GiB", Some("\"1536MiB\"")),
            ("256Mi", Some("\"256MiB\"")),
            ("256 MiB", Some("\"256MiB\"")),
            ("64mib", Some("\"64MiB\"")),
            ("64", None),
            ("64M", Some("\"64MB\"")),
            ("1500kb", Some("\"1500kB\"")),
            ("2G", Some("\"2GB\"")),
            ("lots", None),
            ("-1MiB", None),
            ("1e400GiB", None),
        ] {
            assert_eq!(meant_bytes(text).as_deref(), meant, "{text}");
        }
        for (text, meant) in [
            ("1h30m", Some("\"90m\"")),
            ("1.5s", Some("\"1500ms\"")),
            ("10 seconds", Some("\"10s\"")),
            ("10", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(meant_ms(text).as_deref(), meant, "{text}");
        }
        for (text, meant) in [
            ("10MB/s", Some("\"80Mbit/s\"")),
            ("10G", Some("\"10Gbit/s\"")),
            ("1gbps", Some("\"1Gbit/s\"")),
            ("fast", None),
        ] {
            assert_eq!(meant_rate(text).as_deref(), meant, "{text}");
        }
        assert_eq!(meant_signal("SIGTREM").as_deref(), Some("\"SIGTERM\""));
        assert_eq!(meant_signal("int").as_deref(), Some("\"SIGINT\""));
        // Each is one of ours.
        assert!(memory_bytes("1536MiB").is_some() && bits_per_s("80Mbit/s").is_some());
    }

    #[test]
    fn shown_as_written() {
        for text in ["64MiB", "1GiB", "1000B", "0B", "3KiB"] {
            let bytes = memory_bytes(text).unwrap();
            assert_eq!(show_bytes(bytes), format!("{text:?}"));
        }
        for text in ["250ms", "90s", "5m", "1h", "0s", "7d"] {
            assert_eq!(show_ms(duration_ms(text).unwrap()), format!("{text:?}"));
        }
        assert_eq!(
            [500, 2_000, 1, 1_250].map(show_cpu),
            ["0.5", "2", "0.001", "1.25"]
        );
        assert_eq!([15, 64].map(show_signal), ["\"SIGTERM\"", "64"]);
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
