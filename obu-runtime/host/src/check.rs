//! What every command must be, before anything is looked up or touched. Node is not trusted: types rule out bad
//! names and digests, this file rules out the rest.

use policies::host::{Face, HostCommand, HostRefusal, StartApp};
use policies::manifest::Resources;
use policies::unit::Bytes;

use crate::fault::{refuse, shorten};

/// Most bytes of program and arguments.
const COMMAND_LEN_MAX: usize = 64 << 10;

/// Most bytes of environment.
const ENVIRONMENT_LEN_MAX: usize = 64 << 10;

/// Most words in a command or an environment.
const WORDS_MAX: usize = 1024;

/// Checks a command by itself.
///
/// # Errors
/// What is wrong with it.
pub fn command(command: &HostCommand) -> Result<(), HostRefusal> {
    match command {
        HostCommand::Start(start) => start_app(start),
        HostCommand::Resize { resources, app } => limits(&format!("resize {app}"), resources),
        HostCommand::SqueezeClass { share, .. } => squeeze(*share),
        HostCommand::StartFace { face } => match face {
            Face::Border(_) | Face::Worker(_) => Ok(()),
            Face::Node | Face::Bus | Face::Link | Face::Camera => {
                Err(refuse(format!("start {face}"), "host starts this face by itself", None))
            }
        },
        HostCommand::Import { .. }
        | HostCommand::Stop { .. }
        | HostCommand::Freeze { .. }
        | HostCommand::Thaw { .. }
        | HostCommand::Sample
        | HostCommand::Shutdown { .. } => Ok(()),
    }
}

/// A command as text for reports, cut to a bounded length.
pub fn describe(command: &HostCommand) -> String {
    shorten(match command {
        HostCommand::Import { bundle } => format!("import {bundle}"),
        HostCommand::Start(start) => format!("start {} ({})", start.app, start.instance),
        HostCommand::Stop { app, .. } => format!("stop {app}"),
        HostCommand::Freeze { app } => format!("freeze {app}"),
        HostCommand::Thaw { app } => format!("thaw {app}"),
        HostCommand::Resize { app, .. } => format!("resize {app}"),
        HostCommand::SqueezeClass { class, share } => format!("squeeze {class} to {share}"),
        HostCommand::StartFace { face } => format!("start {face}"),
        HostCommand::Sample => "sample".into(),
        HostCommand::Shutdown { .. } => "shut down".into(),
    })
}

fn squeeze(share: u16) -> Result<(), HostRefusal> {
    if (1..=1000).contains(&share) {
        return Ok(());
    }
    Err(refuse("squeeze a class", format!("share {share} is not between 1 and 1000 thousandths"), None))
}

fn start_app(start: &StartApp) -> Result<(), HostRefusal> {
    let what = format!("start {}", start.app);
    let wrong = |why: &str| Err(refuse(what.clone(), why, None));
    let bytes = |words: &[String]| words.iter().map(|word| word.len() + 1).sum::<usize>();
    let Some(program) = start.command.first() else {
        return wrong("the command is empty");
    };
    if !program.starts_with('/') {
        return wrong("the program is not an absolute path inside the app's root");
    }
    if start.command.len() > WORDS_MAX || start.env.len() > WORDS_MAX {
        return wrong("more than 1024 words in command or environment");
    }
    if bytes(&start.command) > COMMAND_LEN_MAX || bytes(&start.env) > ENVIRONMENT_LEN_MAX {
        return wrong("command or environment is longer than 64 KiB");
    }
    if start.command.iter().chain(&start.env).any(|word| word.contains('\0')) {
        return wrong("a NUL character stands in command or environment");
    }
    if !start.env.iter().all(|word| is_assignment(word)) {
        return wrong("an environment entry is not NAME=value");
    }
    limits(&what, &start.resources)
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

fn limits(what: &str, resources: &Resources) -> Result<(), HostRefusal> {
    let Resources { cpu, memory, pids, nofile, tmp } = resources;
    let wrong = |why: String| Err(refuse(what, why, None));
    if cpu.get() < 10 {
        return wrong(format!("cpu {cpu} is below 10m"));
    }
    if *memory < Bytes::mebi(1) {
        return wrong(format!("memory {memory} is below 1Mi"));
    }
    if !(1..=32_768).contains(pids) {
        return wrong(format!("pids {pids} is not between 1 and 32768"));
    }
    if !(8..=1_048_576).contains(nofile) {
        return wrong(format!("nofile {nofile} is not between 8 and 1048576"));
    }
    if tmp > memory {
        return wrong(format!("tmp {tmp} is more than memory {memory}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::host::AppRef;
    use policies::id::{AppName, Digest, TenantId};
    use policies::task::Class;
    use policies::unit::CpuMilli;

    fn good() -> StartApp {
        StartApp {
            app: AppRef { tenant: TenantId::new("oem").unwrap(), app: AppName::new("lane").unwrap() },
            instance: 1,
            bundle: Digest::of(b"bundle"),
            base: None,
            command: vec!["/app/main".into(), "--fast".into()],
            env: vec!["A=b".into()],
            class: Class::Comfort,
            resources: Resources::default(),
            island: false,
        }
    }

    #[test]
    fn every_rule_has_a_case() {
        type Harm = fn(&mut StartApp);
        let cases: [(Harm, &str); 13] = [
            (|s| s.command.clear(), "empty"),
            (|s| s.command[0] = "main".into(), "absolute"),
            (|s| s.command[1] = "a\0b".into(), "NUL"),
            (|s| s.command.push("x".repeat(64 << 10)), "64 KiB"),
            (|s| s.command = vec!["/x".into(); 1025], "1024 words"),
            (|s| s.env.push("LD_PRELOAD".into()), "NAME=value"),
            (|s| s.env.push("=x".into()), "NAME=value"),
            (|s| s.env.push("A=\0".into()), "NUL"),
            (|s| s.resources.cpu = CpuMilli::default(), "10m"),
            (|s| s.resources.memory = Bytes::new(1).unwrap(), "1Mi"),
            (|s| s.resources.pids = 0, "pids"),
            (|s| s.resources.nofile = u32::MAX, "nofile"),
            (|s| s.resources.tmp = Bytes::MAX, "tmp"),
        ];
        assert_eq!(command(&HostCommand::Start(good())), Ok(()));
        for (harm, expected) in cases {
            let mut start = good();
            harm(&mut start);
            let refusal = command(&HostCommand::Start(start)).unwrap_err();
            assert!(refusal.why.contains(expected), "{expected}: {refusal}");
        }
    }

    #[test]
    fn faces_that_host_starts_itself_cannot_be_asked_for() {
        for face in [Face::Node, Face::Bus, Face::Link, Face::Camera] {
            assert!(command(&HostCommand::StartFace { face }).is_err());
        }
        let border = Face::Border(TenantId::new("oem").unwrap());
        assert_eq!(command(&HostCommand::StartFace { face: border }), Ok(()));
        for share in [0, 1001, u16::MAX] {
            assert!(command(&HostCommand::SqueezeClass { class: Class::Comfort, share }).is_err());
        }
    }
}
