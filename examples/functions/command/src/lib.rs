//! A function as a WASI command: standard input to one line on standard output.
//!
//! Exit codes (`sysexits.h`): 0 done; 65 (`EX_DATAERR`) for bad input, with one line on standard error; 74
//! (`EX_IOERR`) when the pipes fail.

use std::io::{Read, Write};
use std::process::ExitCode;

/// The input is bad.
pub const EX_DATAERR: u8 = 65;
/// A pipe failed.
pub const EX_IOERR: u8 = 74;

/// Reads at most `max_bytes`, hands them to `answer`, writes its line or its complaint.
pub fn run(name: &str, max_bytes: u64, answer: impl FnOnce(&[u8]) -> Result<String, String>) -> ExitCode {
    let (out, code) = turn(std::io::stdin().lock(), max_bytes, answer);
    let written = match &out {
        Ok(line) => writeln!(std::io::stdout(), "{line}"),
        // If standard error is gone as well, the exit code still tells.
        Err(message) => writeln!(std::io::stderr(), "{name}: {message}").or(Ok(())),
    };
    ExitCode::from(if written.is_ok() { code } else { EX_IOERR })
}

fn turn(
    input: impl Read,
    max_bytes: u64,
    answer: impl FnOnce(&[u8]) -> Result<String, String>,
) -> (Result<String, String>, u8) {
    let mut bytes = Vec::new();
    if let Err(error) = input.take(max_bytes + 1).read_to_end(&mut bytes) {
        return (Err(format!("standard input: {error}")), EX_IOERR);
    }
    if bytes.len() as u64 > max_bytes {
        return (Err(format!("the input is longer than {max_bytes} bytes")), EX_DATAERR);
    }
    match answer(&bytes) {
        Ok(line) => (Ok(line), 0),
        Err(message) => (Err(message), EX_DATAERR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe that breaks.
    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("gone"))
        }
    }

    #[test]
    fn good_bad_long_and_broken_input_end_with_their_codes() {
        let echo = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "no text".to_owned());
        assert_eq!(turn(&b"abc"[..], 3, echo), (Ok("abc".into()), 0));
        assert_eq!(turn(&b"\xff"[..], 3, echo), (Err("no text".into()), EX_DATAERR));
        assert_eq!(turn(&b"abcd"[..], 3, echo), (Err("the input is longer than 3 bytes".into()), EX_DATAERR));
        assert_eq!(turn(Broken, 3, echo), (Err("standard input: gone".into()), EX_IOERR));
    }
}
