//! Manifest files: YAML in, checked [`Manifest`] out, every mistake with line, column and a suggestion.
//!
//! ```text
//!   text --parse--> ManifestClaim --resolve (bundle: ./dir, base: python)--> digests --> Manifest
//!                        |                          |                                     |
//!                        +------- FileError --------+------ FileError at the key ---------+
//! ```

mod place;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use policies::id::Digest;
use policies::manifest::{Manifest, ManifestClaim, ManifestError};
use serde_saphyr::Error as Yaml;
use serde_saphyr::budget::BudgetBreach;

use crate::config::read_bounded;
use crate::file_error::{FileError, did_you_mean, from_words, offset, word_end};

/// Largest manifest: a thousand apps are a tenth of it.
const FILE_LEN_MAX: u64 = 1 << 20;

const WHAT: &str = "read the manifest";

/// Bounds on what a YAML document may make the parser do: nothing of ours nests deeper than eight or
/// repeats itself by reference more than a few times.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 24,
            flow_nesting_limit: 24,
            max_events: 200_000,
            max_nodes: 100_000,
            max_aliases: 200,
            max_anchors: 200,
            max_documents: 1,
            max_recorded_anchor_events: 20_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 20_000,
            max_replay_stack_depth: 8,
            max_alias_expansions_per_anchor: 200,
        },
        strict_booleans: true,
        with_snippet: false,
    }
}

/// A manifest as its author wrote it, with its text for messages. Proves that it has the right shape, no more.
#[derive(Debug)]
pub struct ManifestFile {
    /// What it says.
    pub claim: ManifestClaim,
    text: String,
    path: PathBuf,
}

/// Reads and parses a manifest.
///
/// # Errors
/// As [`load`], or that the file cannot be read.
pub fn load_file(path: &Path) -> Result<ManifestFile, FileError> {
    load(read_bounded(path, FILE_LEN_MAX, WHAT)?, path)
}

/// Parses a manifest. `path` is for messages.
///
/// # Errors
/// [`FileError`] with line, column and, where it can be guessed, what was meant.
pub fn load(text: String, path: &Path) -> Result<ManifestFile, FileError> {
    if text.len() as u64 > FILE_LEN_MAX {
        return Err(FileError::whole(path, WHAT, format!("it is longer than {FILE_LEN_MAX} bytes")));
    }
    match serde_saphyr::from_str_with_options(&text, options()) {
        Ok(claim) => Ok(ManifestFile { claim, text, path: path.to_owned() }),
        Err(error) => Err(yaml_error(&text, path, &error)),
    }
}

impl ManifestFile {
    /// Turns every bundle and base that is not a digest yet into one, by `bundle` (a directory, a file or a
    /// built bundle beside the manifest) and `base` (a name), and checks the rest.
    ///
    /// # Errors
    /// What the two say, or a [`FileError`] at the key that is wrong.
    pub fn resolve<E: From<FileError>>(
        mut self,
        mut bundle: impl FnMut(&str) -> Result<Digest, E>,
        mut base: impl FnMut(&str) -> Result<Digest, E>,
    ) -> Result<Manifest, E> {
        for app in self.claim.apps.values_mut() {
            replace(&mut app.bundle, &mut bundle)?;
            if let Some(name) = &mut app.base {
                replace(name, &mut base)?;
            }
        }
        for function in self.claim.functions.values_mut() {
            replace(&mut function.bundle, &mut bundle)?;
        }
        self.check().map_err(E::from)
    }

    /// Checks everything but bundles and bases, for which any digest stands.
    ///
    /// # Errors
    /// [`FileError`] at the key that is wrong.
    pub fn check_alone(self) -> Result<Manifest, FileError> {
        let any = |_: &str| Ok::<_, FileError>(Digest([0; 32]));
        self.resolve(any, any)
    }

    /// An error that points at the key with this path, such as `["apps", "speedometer", "bundle"]`.
    pub fn error_at(&self, key: &[&str], why: impl Into<String>) -> FileError {
        FileError::at(&self.path, &self.text, place::of(&self.text, key), WHAT, why)
    }

    fn check(self) -> Result<Manifest, FileError> {
        let names: Vec<String> = self.claim.apps.keys().chain(self.claim.functions.keys()).cloned().collect();
        let Self { claim, text, path } = self;
        Manifest::try_from(claim).map_err(|error| {
            let key = place::split(place_of(&error), &names);
            FileError::at(&path, &text, place::of(&text, &key), WHAT, error.to_string()).suggest(error.fix())
        })
    }
}

fn replace<E>(text: &mut String, look_up: &mut impl FnMut(&str) -> Result<Digest, E>) -> Result<(), E> {
    if text.parse::<Digest>().is_err() {
        *text = look_up(text)?.to_string();
    }
    Ok(())
}

fn place_of(error: &ManifestError) -> &str {
    match error {
        ManifestError::ApiVersion { .. } => "apiVersion",
        ManifestError::Name { place, .. }
        | ManifestError::Unresolved { place, .. }
        | ManifestError::Value { place, .. } => place,
        ManifestError::TooMany { what, .. } => what,
    }
}

fn yaml_error(text: &str, path: &Path, error: &Yaml) -> FileError {
    let error = error.without_snippet();
    let Some(location) = error.location().filter(|location| location.line() > 0) else {
        return FileError::whole(path, WHAT, words(error)).suggest(hint(text, error));
    };
    let start = match error {
        // What is missing at the top is missing from the top.
        Yaml::SerdeMissingField { field: "apiVersion", .. } => 0,
        // The scanner stops at the word before the tab.
        Yaml::ExternalMessage { .. } if indenting_tab(text).is_some() => indenting_tab(text).unwrap_or(0),
        _ => offset(text, location.line(), location.column()),
    };
    FileError::at(path, text, start..word_end(text, start), WHAT, words(error)).suggest(hint(text, error))
}

/// What is wrong, without the place.
fn words(error: &Yaml) -> String {
    match error {
        Yaml::SerdeUnknownField { field, .. } => format!("unknown key `{field}`"),
        Yaml::SerdeUnknownVariant { variant, .. } => format!("unknown value `{variant}`"),
        Yaml::SerdeMissingField { field, .. } => format!("`{field}` is missing"),
        Yaml::DuplicateMappingKey { key: Some(key), .. } => format!("the key `{key}` stands here twice"),
        Yaml::SerdeInvalidType { unexpected, expected, .. } => {
            format!("this is {unexpected}, expected {expected}")
        }
        Yaml::Message { msg, .. } | Yaml::ExternalMessage { msg, .. } => msg.clone(),
        Yaml::InvalidScalar { ty, .. } => format!("this is not {}", kind_of(ty)),
        Yaml::Unexpected { expected: "mapping start", .. } => {
            "this is not a map; write `key: value` lines below it, or {}".into()
        }
        Yaml::Unexpected { expected: "sequence start", .. } => "this is not a list; write [one, two]".into(),
        Yaml::Budget { breach: BudgetBreach::Documents { .. }, .. } | Yaml::MultipleDocuments { .. } => {
            "a second document begins here; write one manifest per file".into()
        }
        Yaml::Budget { breach, .. } => format!("it is bigger or deeper than a manifest may be ({breach:?})"),
        // The rest say it in one line, followed by the place.
        other => {
            let all = other.to_string();
            if all.starts_with(NULL) {
                return "there is no value here".into();
            }
            let line = all.lines().next().unwrap_or_default();
            line.split(" at line ").next().unwrap_or_default().to_owned()
        }
    }
}

/// How the parser begins to say that a key has no value.
const NULL: &str = "cannot deserialize null";

/// What to do about a key that stands elsewhere than its siblings.
const COLUMN: &str = "begin the keys of one map in one column; put text that has a colon in quotes";

/// What the parser says, and what was most likely slipped.
const SLIPS: [(&str, &str); 7] = [
    ("did not find expected key", COLUMN),
    (NULL, "write one behind the colon"),
    ("illegal placement of ':'", "close the bracket or the quote above it"),
    ("simple key expected", "write a space after the colon, as in `class: driving`"),
    ("mapping values are not allowed", COLUMN),
    ("anchor or alias", "put text that begins with * or & in quotes"),
    ("unexpected end of input", "begin the file with: apiVersion: verge/v1"),
];

/// Keys that must be there, as they are written.
const EXAMPLES: [(&str, &str); 9] = [
    ("bundle", "bundle: ./dir"),
    ("command", "command: [/usr/bin/python3, main.py]"),
    ("resources", "resources: {cpu: 300m, memory: 96Mi, pids: 32}"),
    ("cpu", "cpu: 300m"),
    ("memory", "memory: 96Mi"),
    ("pids", "pids: 32"),
    ("id", "id: front"),
    ("fps", "fps: 10"),
    ("bus", "bus: can0"),
];

/// A type's name in words for people.
fn kind_of(rust_type: &str) -> &'static str {
    match rust_type {
        "bool" => "true or false",
        "f32" | "f64" => "a number",
        "char" => "a single character",
        _ => "a whole number that fits here",
    }
}

/// The byte of the first tab that indents a line.
fn indenting_tab(text: &str) -> Option<usize> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let spaces = line.len() - line.trim_start_matches(' ').len();
        if line[spaces..].starts_with('\t') {
            return Some(start + spaces);
        }
        start += line.len();
    }
    None
}

/// What was probably meant.
fn hint(text: &str, error: &Yaml) -> Option<String> {
    match error {
        Yaml::SerdeUnknownField { field, expected, .. } => did_you_mean(field, expected.iter().copied()),
        Yaml::SerdeUnknownVariant { variant, expected, .. } => {
            did_you_mean(variant, expected.iter().copied())
        }
        Yaml::SerdeMissingField { field: "apiVersion", .. } => {
            Some("begin the file with: apiVersion: verge/v1".into())
        }
        Yaml::SerdeMissingField { field, .. } => {
            let example = EXAMPLES.iter().find(|(key, _)| key == field);
            Some(example.map_or_else(|| format!("write `{field}: ...`"), |(_, text)| format!("write {text}")))
        }
        Yaml::Message { msg, .. } => from_words(msg),
        Yaml::ExternalMessage { .. } if indenting_tab(text).is_some() => {
            Some("indent with spaces; YAML does not take tabs".into())
        }
        other => {
            let said = other.to_string();
            SLIPS.iter().find(|(words, _)| said.contains(words)).map(|(_, fix)| (*fix).to_owned())
        }
    }
}
