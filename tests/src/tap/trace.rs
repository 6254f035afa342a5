//! What strace wrote, line by line, as calls in the order in which they began.
//!
//! ```text
//!   19341 1795430148.947907 clone3({flags=...} <unfinished ...>
//!   19341 1795430149.007252 <... clone3 resumed> => {pidfd=[32<anon_inode:[pidfd]>]}, 88) = 19382
//!   19377 1795430236.375600 +++ killed by SIGKILL +++
//! ```

use std::collections::BTreeMap;

/// The calls that are written down: everything by which a process reaches beyond itself, and what is needed to
/// tell who is who.
pub const CALLS: &str = "execve,execveat,clone,clone3,fork,vfork,kill,tkill,tgkill,pidfd_send_signal,\
     rt_sigqueueinfo,rt_tgsigqueueinfo,fsync,fdatasync,syncfs,sync,sync_file_range,bind,read,pwrite64,write,\
     writev,sendto,sendmsg,sendmmsg,openat";

/// Bytes of a buffer that are written down: enough for the head of every message.
pub const BYTES: &str = "512";

/// Something that strace saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The thread, as the tracer counts.
    pub pid: i32,
    /// When it began, microseconds of the wall clock.
    pub at: u64,
    /// What.
    pub what: What,
    /// The line, for people.
    pub line: String,
}

/// What strace saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A system call.
    Call(Call),
    /// The thread's end: `exited with 0`, `killed by SIGKILL`.
    Ended(String),
}

/// A system call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Its arguments, as strace prints them.
    pub arguments: String,
    /// Its result; empty for one that never returned.
    pub result: String,
}

impl Call {
    /// Whether it did what it was called for.
    pub fn succeeded(&self) -> bool {
        !self.result.is_empty() && !self.result.starts_with('-') && !self.result.starts_with('?')
    }

    /// The thread that it made, as the tracer counts.
    pub fn child(&self) -> Option<i32> {
        match self.result.split_once("/* ") {
            Some((_, outside)) => outside.split(' ').next()?.parse().ok(),
            None => self.result.trim().parse().ok(),
        }
    }

    /// The number of its first argument, a descriptor, and what that stands for: `7</sys/fs/...>`.
    pub fn descriptor(&self) -> Option<(i32, &str)> {
        descriptor(&self.arguments)
    }

    /// The bytes of its first quoted argument.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let begin = self.arguments.find('"')?;
        Some(unquote(&self.arguments[begin + 1..]).0)
    }

    /// All its quoted arguments, as text.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut rest = self.arguments.as_str();
        while let Some(begin) = rest.find('"') {
            let (bytes, used) = unquote(&rest[begin + 1..]);
            words.push(String::from_utf8_lossy(&bytes).into_owned());
            rest = &rest[begin + 1 + used..];
        }
        words
    }

    /// The value after `name=` in a structure that it was given or has filled in.
    pub fn field(&self, name: &str) -> Option<&str> {
        let begin = self.arguments.find(&format!("{name}="))? + name.len() + 1;
        let rest = &self.arguments[begin..];
        Some(&rest[..rest.find([',', '}', ' ', ')']).unwrap_or(rest.len())])
    }
}

/// `7</path>`: the number and the path.
pub fn descriptor(text: &str) -> Option<(i32, &str)> {
    let (number, rest) = text.split_once('<')?;
    let end = rest.find('>')?;
    Some((number.parse().ok()?, &rest[..end]))
}

/// Reads up to the closing quote. The bytes, and how much text they took with that quote.
fn unquote(text: &str) -> (Vec<u8>, usize) {
    let source = text.as_bytes();
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < source.len() && source[at] != b'"' {
        if source[at] != b'\\' {
            bytes.push(source[at]);
            at += 1;
            continue;
        }
        at += 1;
        let octal = source[at..].iter().take(3).take_while(|b| (b'0'..=b'7').contains(*b)).count();
        if octal > 0 {
            let digits = source[at..at + octal].iter();
            bytes.push(digits.fold(0u8, |n, digit| n.wrapping_mul(8).wrapping_add(digit - b'0')));
            at += octal;
        } else {
            let named = [(b'n', b'\n'), (b't', b'\t'), (b'r', b'\r'), (b'v', 11), (b'f', 12)];
            let byte = source.get(at).copied().unwrap_or(b'\\');
            bytes.push(named.iter().find(|(name, _)| *name == byte).map_or(byte, |(_, value)| *value));
            at += 1;
        }
    }
    (bytes, (at + 1).min(source.len()))
}

/// Reads a whole trace.
///
/// # Panics
/// If a line is none of strace's: half a trace would prove nothing.
pub fn read(text: &str) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut open: BTreeMap<i32, usize> = BTreeMap::new();
    for line in text.lines() {
        let (pid, at, rest) = head(line).unwrap_or_else(|| panic!("not a line of strace: {line:?}"));
        let mut add = |what| events.push(Event { pid, at, what, line: line.to_owned() });
        if let Some(end) = rest.strip_prefix("+++ ") {
            add(What::Ended(end.trim_end_matches(" +++").to_owned()));
        } else if rest.starts_with("--- ") {
            // A signal that arrives; what sends it is a call of somebody.
        } else if let Some(rest) = rest.strip_prefix("<... ") {
            let begun = open.remove(&pid).and_then(|at| events.get_mut(at));
            if let (Some(Event { what: What::Call(call), line: whole, .. }), Some((_, rest))) =
                (begun, rest.split_once(" resumed>"))
            {
                whole.push_str(rest);
                finish(call, rest);
            }
        } else if rest.starts_with("???(") {
            // The process was killed before strace could read what it asks for: nothing came of it.
        } else if let Some((name, rest)) = rest.split_once('(') {
            let mut call = Call { name: name.to_owned(), ..Call::default() };
            match rest.strip_suffix(" <unfinished ...>") {
                Some(arguments) => {
                    call.arguments = arguments.to_owned();
                    open.insert(pid, events.len());
                }
                None => finish(&mut call, rest),
            }
            events.push(Event { pid, at, what: What::Call(call), line: line.to_owned() });
        } else {
            panic!("not a line of strace: {line:?}");
        }
    }
    events
}

fn head(line: &str) -> Option<(i32, u64, &str)> {
    let (pid, rest) = line.trim_start().split_once(' ')?;
    let (at, rest) = rest.trim_start().split_once(' ')?;
    let (secs, micros) = at.split_once('.')?;
    Some((pid.parse().ok()?, secs.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?, rest))
}

/// Takes the rest of the arguments and the result: `..., 88) = 19382`.
fn finish(call: &mut Call, rest: &str) {
    let Some((arguments, result)) = rest.rsplit_once(" = ") else {
        return call.arguments.push_str(rest);
    };
    let arguments = arguments.trim_end();
    call.arguments.push_str(arguments.strip_suffix(')').unwrap_or(arguments));
    call.result = result.trim().to_owned();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_in_two_halves_is_one_call_at_its_beginning() {
        let events = read(
            "7 10.000001 clone3({flags=CLONE_NEWPID, cgroup=24} <unfinished ...>\n\
             8 10.000002 kill(2 /* 99 in strace's PID NS */, SIGTERM) = 0\n\
             7 10.000003 <... clone3 resumed> => {pidfd=[33<anon_inode:[pidfd]>]}, 88) = 12\n\
             8 10.000004 ???( <unfinished ...>\n\
             8 10.000005 <... ??? resumed>) = ?\n\
             8 10.000006 +++ killed by SIGKILL +++\n",
        );
        let What::Call(call) = &events[0].what else { panic!("{events:?}") };
        assert_eq!((call.child(), call.field("cgroup"), events[0].at), (Some(12), Some("24"), 10_000_001));
        assert_eq!(call.field("pidfd"), Some("[33<anon_inode:[pidfd]>]"));
        assert_eq!(events[2].what, What::Ended("killed by SIGKILL".into()));
        assert_eq!(events.len(), 3);
    }

    #[test]
    #[rustfmt::skip]
    fn buffer_table() {
        for (printed, bytes) in [
            (r#"5</a b>, "1", 1"#,            &b"1"[..]),
            (r#"5<socket:[1]>, "vg\1\0036\0", 6"#, b"vg\x01\x036\0"),
            (r#"5, "a\"b\\\n\tc"..., 9"#,     b"a\"b\\\n\tc"),
            (r#"5, "\377\v\1779", 4"#,        b"\xff\x0b\x7f9"),
        ] {
            let call = Call { arguments: printed.into(), ..Call::default() };
            assert_eq!(call.bytes().as_deref(), Some(bytes), "{printed}");
        }
    }
}
