//! What is wrong with a file that somebody wrote by hand: file, line, column, what, why, and what they
//! probably meant. One form for the configuration (TOML) and for manifests (YAML).

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// Longest text that is kept to show the place in it.
const SHOWN_LEN_MAX: usize = 256 << 10;

/// How alike two words must be for one to be suggested for the other (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.75;

/// Known words that are listed when none of them is alike; more would bury the message.
const LISTED_MAX: usize = 24;

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
pub struct FileError {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0 if no place in the file is meant.
    pub line: u32,
    /// Column in characters, from 1; 0 if no place in the file is meant.
    pub column: u32,
    /// What cannot be done: `read the configuration`.
    pub what: &'static str,
    /// Why.
    pub why: String,
    /// What to write instead, if that can be guessed.
    pub suggestion: Option<String>,
    shown: Option<Box<Shown>>,
}

/// The text and the place in it.
#[derive(Debug)]
struct Shown {
    source: NamedSource<String>,
    place: Range<usize>,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": cannot {}: {}", self.what, self.why)
    }
}

impl Diagnostic for FileError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.suggestion.as_ref().map(|text| Box::new(text) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.shown.as_ref().map(|shown| &shown.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.shown.as_ref()?.place.clone();
        Some(Box::new(std::iter::once(LabeledSpan::at(place, "here"))))
    }
}

impl FileError {
    /// The file as a whole is wrong, or cannot be read. Where the reason ends in what to write instead (`...; write
    /// 300m`), that is the suggestion.
    pub fn whole(file: &Path, what: &'static str, why: impl Into<String>) -> Self {
        let (why, suggestion) = advice(why.into());
        Self { file: file.into(), line: 0, column: 0, what, why, suggestion, shown: None }
    }

    /// The bytes `place` of `text` are wrong. A place beyond the end means the end.
    pub fn at(
        file: &Path,
        text: &str,
        place: Range<usize>,
        what: &'static str,
        why: impl Into<String>,
    ) -> Self {
        let start = floor(text, place.start);
        let end = floor(text, place.end).max(start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut error = Self::whole(file, what, why);
        error.line = count(before.matches('\n').count() + 1);
        error.column = count(before[line_start..].chars().count() + 1);
        if text.len() <= SHOWN_LEN_MAX {
            let source = NamedSource::new(file.display().to_string(), text.to_owned());
            error.shown = Some(Box::new(Shown { source, place: start..end }));
        }
        error
    }

    /// With this suggestion, if there is one.
    #[must_use]
    pub fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion.or(self.suggestion);
        self
    }

    /// What the author can do about it.
    pub fn fix(&self) -> Option<String> {
        self.suggestion.clone()
    }
}

/// Parts a reason from the advice at its end. Types that are read from files say both in one text, because a parser
/// passes on nothing else.
fn advice(why: String) -> (String, Option<String>) {
    match why.split_once("; write ") {
        Some((why, instead)) => (why.to_owned(), Some(format!("write {instead}"))),
        None => (why, None),
    }
}

/// The character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The byte at which `line` and `column` (both from 1, column in characters) stand in `text`.
pub(crate) fn offset(text: &str, line: u64, column: u64) -> usize {
    let line = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    let column = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = text.get(start..).unwrap_or("");
    let line = rest.split('\n').next().unwrap_or("");
    start + line.char_indices().nth(column).map_or(line.len(), |(at, _)| at)
}

/// The end of the word that begins at `start`: where a marker under it stops.
pub(crate) fn word_end(text: &str, start: usize) -> usize {
    let rest = text.get(start..).unwrap_or("");
    let stop = |c: char| c.is_whitespace() || matches!(c, ':' | ',' | '=' | '[' | ']' | '{' | '}');
    start + rest.find(stop).unwrap_or(rest.len()).max(usize::from(!rest.is_empty()))
}

/// "did you mean `x`?", if one of `known` looks like `wrong`; else the list of them, if it is short.
pub(crate) fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let lower = wrong.to_lowercase();
    let known: Vec<&str> = known.into_iter().collect();
    let likeness = |word: &str| strsim::jaro_winkler(&lower, &word.to_lowercase());
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    let one_slip = |word: &&&str| strsim::damerau_levenshtein(&lower, &word.to_lowercase()) <= 1;
    let alike = known.iter().find(one_slip).or((likeness(best) >= ALIKE).then_some(best));
    match alike {
        Some(word) => Some(format!("did you mean `{word}`?")),
        None => (known.len() <= LISTED_MAX).then(|| format!("one of: {}", known.join(", "))),
    }
}

/// A suggestion from serde's own words: "unknown field `x`, expected one of `a`, `b`".
pub(crate) fn from_words(message: &str) -> Option<String> {
    let mut words = message.split('`').skip(1).step_by(2);
    let names_one = ["unknown field `", "unknown variant `"].iter().any(|start| message.contains(start));
    if let Some(wrong) = words.next().filter(|_| names_one) {
        return did_you_mean(wrong, words);
    }
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        return Some(format!("write {field} = ..."));
    }
    let expected = message.rsplit_once("expected ")?.1.trim_end();
    KINDS.iter().find(|(kinds, _)| kinds.contains(&expected)).map(|(_, fix)| (*fix).to_owned())
}

/// What serde calls the kinds of values, and how one is written.
const KINDS: [(&[&str], &str); 5] = [
    (&["a boolean"], "write true or false"),
    (&["a sequence"], "write a list: [\"one\", \"two\"]"),
    (&["u8", "u16", "u32", "u64", "usize"], "write a whole number that is not negative"),
    (&["a string", "path string", "a path string"], "write it in quotes"),
    (&["a map"], "write a table: { key = value }"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_place_has_line_column_and_a_picture() {
        let text = "a: 1\nä: zwei\n";
        let at = text.find("zwei").unwrap();
        let error = FileError::at(Path::new("x.yaml"), text, at..at + 4, "read", "it is not a number");
        assert_eq!(error.to_string(), "x.yaml:2:4: cannot read: it is not a number");
        let report = format!("{:?}", miette::Report::new(error.suggest(Some("write 2".into()))));
        assert!(report.contains("zwei") && report.contains("write 2"), "{report}");
    }

    #[test]
    fn advice_at_the_end_of_a_reason_is_the_suggestion() {
        let error = FileError::whole(Path::new("x.yaml"), "read", "\"300q\" is not a CPU share; write 300m");
        assert_eq!(error.to_string(), "x.yaml: cannot read: \"300q\" is not a CPU share");
        assert_eq!(error.fix().as_deref(), Some("write 300m"));
        let error = error.suggest(None);
        assert_eq!(error.fix().as_deref(), Some("write 300m"));
        assert_eq!(error.suggest(Some("write 400m".into())).fix().as_deref(), Some("write 400m"));
    }

    #[test]
    #[rustfmt::skip]
    fn suggestion_table() {
        check("interfce",  &["interface", "group", "port"], Some("did you mean `interface`?"));
        check("Driving",   &["critical", "driving"],        Some("did you mean `driving`?"));
        check("oub",       &["obu", "edge", "cloud"],       Some("did you mean `obu`?"));
        check("zzz",       &["critical", "driving"],        Some("one of: critical, driving"));
        check("zzz",       &[],                             None);
        check("zzz",       &["a"; 25],                      None);
    }

    #[track_caller]
    fn check(wrong: &str, known: &[&str], expected: Option<&str>) {
        assert_eq!(did_you_mean(wrong, known.iter().copied()).as_deref(), expected, "{wrong}");
    }

    proptest! {
        #[test]
        fn no_place_is_out_of_bounds(text in "\\PC{0,40}\n\\PC{0,40}", from: usize, to: usize) {
            FileError::at(Path::new("x"), &text, from..to, "read", "");
        }

        #[test]
        fn line_and_column_find_their_byte_again(text in "[aä\n]{0,60}", place: prop::sample::Index) {
            let chars: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let at = chars[place.index(chars.len())];
            let error = FileError::at(Path::new("x"), &text, at..at, "read", "");
            prop_assert_eq!(offset(&text, u64::from(error.line), u64::from(error.column)), at);
        }
    }
}
