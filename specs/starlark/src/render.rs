//! Findings as a person reads them: quoted, underlined, with how to mend them.

use crate::finding::{Finding, Severity, Spot};
use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError,
    MietteSpanContents, SourceCode, SourceSpan, SpanContents,
};
use std::fmt;

/// How findings are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// With colours, for a terminal.
    pub colours: bool,
    /// Columns to wrap messages at.
    pub width: usize,
}

impl Look {
    /// For files, pipes and snapshots.
    pub const PLAIN: Look = Look {
        colours: false,
        width: 100,
    };
}

/// All findings, ready to be printed.
pub fn render(findings: &[Finding], look: Look) -> String {
    let theme = match look.colours {
        true => GraphicalTheme::unicode(),
        false => GraphicalTheme::unicode_nocolor(),
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_width(look.width)
        .with_context_lines(1)
        .with_links(false);
    let mut text = String::new();
    for finding in findings {
        let drawn = Drawn::of(finding);
        if handler.render_report(&mut text, &drawn).is_err() {
            // A string takes everything; the library failed to draw.
            text += &format!("{}: {}\n", finding.at, finding.message);
        }
        text.push('\n');
    }
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// A text of which a terminal obeys nothing: each character that would move,
/// colour or turn what is shown is one that only shows that it is there.
fn harmless(text: &str) -> String {
    let shown = |c: char| match c {
        '\t' => c,
        // The pictures of control characters stand in their order.
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{feff}' => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// The same of a message, which may have lines.
fn lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(harmless).collect();
    lines.join("\n")
}

/// A finding in the library's terms.
#[derive(Debug)]
struct Drawn {
    message: String,
    severity: miette::Severity,
    help: Option<String>,
    source: Option<Quotation>,
    label: Option<String>,
    related: Vec<Drawn>,
}

impl Drawn {
    fn of(finding: &Finding) -> Drawn {
        let at = &finding.at;
        // Without a quotation the place goes into the message.
        let message = match (at.quoted.is_empty(), at.file.is_empty()) {
            (true, false) => format!("{}: {}", at, finding.message),
            _ => finding.message.clone(),
        };
        Drawn {
            message: lines(&message),
            severity: match finding.severity {
                Severity::Error => miette::Severity::Error,
                Severity::Warning => miette::Severity::Warning,
            },
            help: finding.hint.as_deref().map(lines),
            source: Quotation::of(at),
            label: finding.why.as_deref().map(lines),
            related: finding.through.iter().filter_map(Drawn::call).collect(),
        }
    }

    fn call(spot: &Spot) -> Option<Drawn> {
        Some(Drawn {
            message: lines(&format!("reached through {spot}")),
            severity: miette::Severity::Advice,
            help: None,
            source: Some(Quotation::of(spot)?),
            label: Some("called here".into()),
            related: Vec::new(),
        })
    }
}

impl fmt::Display for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Drawn {}

impl Diagnostic for Drawn {
    fn severity(&self) -> Option<miette::Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.help.as_ref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        let source = self.source.as_ref()?;
        Some(source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let source = self.source.as_ref()?;
        let label = LabeledSpan::new_with_span(self.label.clone(), source.span);
        Some(Box::new(std::iter::once(label)))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        let related = self.related.iter().map(|drawn| drawn as &dyn Diagnostic);
        (!self.related.is_empty()).then(|| Box::new(related) as _)
    }
}

/// The one line that is quoted, with its place in the file.
#[derive(Debug)]
struct Quotation {
    file: String,
    /// From 0.
    line: usize,
    text: String,
    /// Characters before `text`.
    skips: usize,
    span: SourceSpan,
}

impl Quotation {
    fn of(spot: &Spot) -> Option<Quotation> {
        if spot.line == 0 || spot.quoted.is_empty() {
            return None;
        }
        let text = &harmless(&spot.quoted);
        let skips = spot.quoted_skips;
        let byte = |column: u32| {
            let mut chars = text.char_indices();
            let found = chars.nth(column.saturating_sub(1 + skips) as usize);
            found.map_or(text.len(), |(byte, _)| byte)
        };
        let start = byte(spot.column);
        let end = match spot.end_line == spot.line {
            true => byte(spot.end_column),
            false => text.len(),
        };
        Some(Quotation {
            file: harmless(&spot.file),
            line: spot.line as usize - 1,
            text: text.clone(),
            skips: skips as usize,
            span: (start, end.saturating_sub(start)).into(),
        })
    }
}

impl SourceCode for Quotation {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        _after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        // Without context it is asked where the span begins, for the heading;
        // else for the line to draw.
        let column = match before {
            0 => {
                let before = &self.text[..span.offset().min(self.text.len())];
                self.skips + before.chars().count()
            }
            _ => 0,
        };
        Ok(Box::new(MietteSpanContents::new_named(
            self.file.clone(),
            self.text.as_bytes(),
            (0, self.text.len()).into(),
            self.line,
            column,
            1,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::FindingKind;

    fn spot(quoted: &str, column: u32, end_column: u32) -> Spot {
        Spot {
            file: "a.star".into(),
            line: 7,
            column,
            end_line: 7,
            end_column,
            quoted: quoted.into(),
            quoted_skips: 0,
        }
    }

    #[test]
    fn a_long_line_is_cut_to_the_place() {
        let mut spot = spot("…yyyyWRONGzzzz…", 1_006, 1_011);
        spot.quoted_skips = 1_000;
        let finding = Finding::error(spot, FindingKind::Invalid, "wrong").why("here");
        let text = render(&[finding], Look::PLAIN);
        assert!(text.contains("a.star:7:1006"), "{text}");
        let column = |part: &str| {
            let line = text.lines().find(|line| line.contains(part));
            let (before, _) = line.unwrap().split_once(part).unwrap();
            before.chars().count()
        };
        assert_eq!(column("WRONG"), column("──┬──"), "{text}");
    }

    #[test]
    fn any_place_can_be_drawn() {
        for quoted in ["é", "", "\t x = (", "日本"] {
            for column in 0..8 {
                for end in 0..8 {
                    let spot = spot(quoted, column, end);
                    let finding = Finding::error(spot, FindingKind::Invalid, "wrong");
                    let text = render(&[finding], Look::PLAIN);
                    assert!(text.contains("wrong"), "{text}");
                    assert!(text.contains("a.star:7"), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_terminal_obeys_nothing_of_a_spec() {
        let evil = "x = \"\u{1b}[31m\u{9b}31m\u{202e}\u{7f}\r\"";
        let mut spot = spot(evil, 5, 9);
        spot.file = format!("{evil}.star");
        let finding = Finding::error(spot.clone(), FindingKind::Invalid, evil)
            .why(evil)
            .hint(format!("one\n{evil}"));
        let without_quotation = Finding::error(Spot::file(evil), FindingKind::Load, evil);
        let text = render(&[finding, without_quotation], Look::PLAIN);
        let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(obeyed), "{text:?}");
        assert!(text.contains("\u{241b}[31m"), "it is shown: {text}");
    }

    #[test]
    fn colours_only_when_asked_for() {
        let finding = Finding::error(spot("x", 1, 2), FindingKind::Invalid, "wrong");
        let look = |colours| Look { colours, width: 80 };
        assert!(!render(std::slice::from_ref(&finding), look(false)).contains('\u{1b}'));
        assert!(render(&[finding], look(true)).contains('\u{1b}'));
    }
}
