//! How results and failures are printed. The one place of the package that writes to standard output.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value as Json, json};

use super::Format;
use crate::config::FileError;

/// A failure as the user sees it: what, why, how to fix it.
#[derive(Debug)]
pub struct Failure {
    what: String,
    fix: Option<String>,
    /// A diagnostic with its place in a file, printed instead of `what`.
    diagnostic: Option<miette::Report>,
}

impl Failure {
    /// A failure without a known fix.
    pub fn new(what: impl Display) -> Self {
        Self { what: what.to_string(), fix: None, diagnostic: None }
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<Option<String>>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Prints to standard error, as JSON where results are JSON.
    #[expect(clippy::print_stderr, reason = "this is where failures become text")]
    pub fn print(&self, output: Format) {
        match (output, &self.diagnostic) {
            (Format::Json, _) => return eprintln!("{}", self.json()),
            (Format::Table, Some(diagnostic)) => eprintln!("{diagnostic:?}"),
            (Format::Table, None) => eprintln!("error: {}", self.what),
        }
        if let Some(fix) = &self.fix {
            eprintln!("  fix: {fix}");
        }
    }

    /// `error` and `fix`; of a file also `file`, `line` and `column`.
    pub(super) fn json(&self) -> Json {
        let in_file = self.diagnostic.as_ref().and_then(|diagnostic| diagnostic.downcast_ref::<FileError>());
        match in_file {
            Some(error) => json!({
                "error": self.what, "fix": error.fix(),
                "file": error.file, "line": error.line, "column": error.column,
            }),
            None => json!({ "error": self.what, "fix": self.fix }),
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<crate::control::ControlError> for Failure {
    fn from(error: crate::control::ControlError) -> Self {
        Self::new(&error).fix(error.fix())
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self { what: error.to_string(), fix: None, diagnostic: Some(miette::Report::new(error)) }
    }
}

/// Exit code when nobody reads any more, as of a program that SIGPIPE ended.
const READER_GONE: i32 = 141;

/// Whether the command goes on when nobody reads any more.
static OUTLIVES_READER: AtomicBool = AtomicBool::new(false);

/// From now on the command goes on when nobody reads any more: it has something to clear away at its end.
pub(crate) fn outlive_reader() {
    OUTLIVES_READER.store(true, Ordering::Relaxed);
}

/// Prints a line. When nobody reads any more, as after `| head`, the command ends.
pub(crate) fn line(text: impl Display) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    if written.is_err() && !OUTLIVES_READER.load(Ordering::Relaxed) {
        std::process::exit(READER_GONE);
    }
}

/// Prints a result: `text` for people, `json` for programs.
pub(crate) fn result(output: Format, text: impl Display, json: &Json) {
    match output {
        Format::Table => line(text),
        Format::Json => line(json),
    }
}

/// Writes raw bytes (a task's result) to standard output.
pub(crate) fn bytes(bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Prints a table with a head.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    line(table.trim_fmt());
}
