//! The order of versions as people write them: kernels, distributions,
//! numbered models.

use std::cmp::Ordering;

/// Longest text that is compared; what is beyond is not looked at, so that a
/// node's attribute can't make a comparison long.
const CHARS_MAX: usize = 128;

/// Words that come before the version that they belong to.
const BEFORE: &[&str] = &["alpha", "beta", "dev", "pre", "preview", "rc"];

/// Which of two versions is earlier.
///
/// A version is a row of numbers and words; anything else only separates them.
/// Numbers compare as numbers, and a version goes on with zeros: `6.1` is
/// `6.1.0`, and before `6.10`. A word is just after a zero (`6.1-amd64` is
/// between `6.1` and `6.1.1`), except for `rc` and the like, which are before
/// it. Letters' case does not matter.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (a, b) = (parts(a), parts(b));
    let zero = Part::number("0");
    for position in 0..a.len().max(b.len()) {
        let of = |parts: &[Part]| parts.get(position).unwrap_or(&zero).clone();
        let order = of(&a).cmp(&of(&b));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Does the text begin like a version?
pub fn is_version(text: &str) -> bool {
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Variants and fields are in the order of comparison.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Before(String),
    /// A number without leading zeros, its length first so that it compares
    /// as a number of any size; then the word that stands just after a zero.
    At {
        digits: usize,
        number: String,
        word: String,
    },
}

impl Part {
    fn number(digits: &str) -> Part {
        let number = digits.trim_start_matches('0');
        Part::At {
            digits: number.len(),
            number: number.into(),
            word: String::new(),
        }
    }

    fn word(word: &str) -> Part {
        let word = word.to_ascii_lowercase();
        match BEFORE.contains(&word.as_str()) {
            true => Part::Before(word),
            false => Part::At {
                digits: 0,
                number: String::new(),
                word,
            },
        }
    }
}

fn parts(text: &str) -> Vec<Part> {
    let text: String = text.chars().take(CHARS_MAX).collect();
    let text = match is_version(&text) {
        true => text.trim_start_matches(['v', 'V']),
        false => &text,
    };
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digit = first.is_ascii_digit();
        let alike = |c: char| match digit {
            true => c.is_ascii_digit(),
            false => c.is_alphanumeric() && !c.is_ascii_digit(),
        };
        let end = rest.find(|c| !alike(c)).unwrap_or(rest.len());
        match &rest[..end] {
            "" => {}
            digits if digit => parts.push(Part::number(digits)),
            word => parts.push(Part::word(word)),
        }
        rest = &rest[end.max(first.len_utf8())..];
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn in_the_order_that_people_mean() {
        for ordered in [
            &[
                "5.4",
                "5.15.0-113-generic",
                "6.1-rc7",
                "6.1",
                "6.1-amd64",
                "6.1.1",
                "6.10",
                "6.100",
            ][..],
            &[
                "1.0-alpha",
                "1.0-beta",
                "1.0-rc1",
                "1.0-rc2",
                "1.0",
                "1.0.1",
            ],
            &["6.1.0", "6.1.0-13-amd64", "6.1.0-21-amd64", "6.1.1"],
            &["9", "18446744073709551616", "99999999999999999999999"],
            &["a10", "a100", "h100"],
        ] {
            for pair in ordered.windows(2) {
                assert_eq!(
                    compare_versions(pair[0], pair[1]),
                    Ordering::Less,
                    "{pair:?}"
                );
                assert_eq!(
                    compare_versions(pair[1], pair[0]),
                    Ordering::Greater,
                    "{pair:?}"
                );
            }
        }
        for (a, b) in [
            ("6.1", "6.1.0"),
            ("v1.2", "1.2"),
            ("01.2", "1.02"),
            ("A1", "a-1"),
            ("", "0"),
        ] {
            assert_eq!(compare_versions(a, b), Ordering::Equal, "{a} {b}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_an_order(texts in prop::array::uniform3("[0-2a-bv.\\-]{0,6}|[0-9]{1,2}(\\.(rc|0|1|x)){0,3}")) {
            let [a, b, c] = &texts;
            prop_assert_eq!(compare_versions(a, b), compare_versions(b, a).reverse());
            prop_assert_eq!(compare_versions(a, a), Ordering::Equal);
            if compare_versions(a, b).is_le() && compare_versions(b, c).is_le() {
                prop_assert!(compare_versions(a, c).is_le());
            }
        }

        #[test]
        fn any_text_can_be_compared(a in "\\PC{0,40}", b in "\\PC{0,40}") {
            compare_versions(&a, &b);
        }
    }
}
