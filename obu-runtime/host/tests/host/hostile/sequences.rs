//! Sequences written by hand, each message with what host must answer to it. Ids cannot hold a path by their type, so
//! what is no id comes as bytes, in frames whose length and checksum are right.

use policies::face::{FromHost, ToHost};
use policies::host::{AppRef, Face, HostCommand, StartApp};
use policies::id::{AppName, Digest, TenantId};
use policies::manifest::Resources;
use policies::task::Class;
use policies::unit::{Bytes, CpuMilli, Span};
use policies::wire::{Kind, encode};
use serde::Serialize;

/// A message, and the answers to it in their order: each begins, or holds, these words. Then host answers nothing more.
pub(crate) struct Step {
    pub(crate) bytes: Vec<u8>,
    pub(crate) answers: Vec<&'static str>,
}

/// Steps that belong together.
pub(crate) struct Sequence {
    pub(crate) name: &'static str,
    pub(crate) steps: Vec<Step>,
}

/// Bundles in the spool that are none.
pub(crate) const PLANTED: [&[u8]; 4] =
    [b"a link out of it", b"a link to nowhere", b"a file", b"an empty directory"];

/// How long an app may take to end when it is asked: longer than any waits.
const GRACE: Span = Span::from_millis(10_000);

/// All of them. A packet may be `longest` bytes.
pub(crate) fn all(bundle: Digest, longest: usize) -> Vec<Sequence> {
    let raw = [broken_frames(), cut_frames(), flipped_frames(), foreign_words(), names_that_are_none()];
    let commands = [starts_twice(bundle), bundles_that_are_not_there(bundle), imports(bundle)];
    let words = [commands_that_are_none(bundle), programs_that_are_none(bundle), environments(bundle)];
    let rest = [limits(bundle), strangers(bundle), classes(), faces(), too_long(bundle, longest)];
    raw.into_iter().chain(commands).chain(words).chain(rest).collect()
}

fn app(tenant: &str, name: &str) -> AppRef {
    AppRef { tenant: TenantId::new(tenant).unwrap(), app: AppName::new(name).unwrap() }
}

fn frame(command: &HostCommand) -> Vec<u8> {
    encode(Kind::Face, &ToHost::Command(command.clone())).unwrap()
}

fn step(command: HostCommand, answers: &[&'static str]) -> Step {
    Step { bytes: frame(&command), answers: answers.to_vec() }
}

fn unanswered(bytes: Vec<u8>) -> Step {
    Step { bytes, answers: Vec::new() }
}

/// A body that is no message of ours, in a frame that is right.
fn body<T: Serialize>(body: &T) -> Step {
    unanswered(encode(Kind::Face, body).unwrap())
}

fn start(bundle: Digest, name: &str, instance: u64, arguments: &[&str]) -> StartApp {
    let command = std::iter::once("/app/app").chain(arguments.iter().copied()).map(str::to_owned).collect();
    StartApp {
        app: app("oem", name),
        instance,
        bundle,
        base: None,
        command,
        env: Vec::new(),
        class: Class::Comfort,
        resources: Resources::default(),
        island: false,
    }
}

/// A start that is changed in one thing.
fn changed(start: &StartApp, change: impl FnOnce(&mut StartApp), answers: &[&'static str]) -> Step {
    let mut start = start.clone();
    change(&mut start);
    step(HostCommand::Start(start), answers)
}

/// A command that would be answered if it were believed.
fn stop() -> HostCommand {
    HostCommand::Stop { app: app("oem", "stranger"), grace: GRACE }
}

fn broken_frames() -> Sequence {
    let good = frame(&stop());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        unanswered(bytes)
    };
    let mut long = good.clone();
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let steps = vec![
        unanswered(b"v".to_vec()),
        unanswered(b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        unanswered(vec![0; 4096]),
        unanswered(vec![0xFF; 4096]),
        with(0, b'V'),
        with(2, 0),
        with(2, 2),
        with(2, 255),
        with(3, 0),
        with(3, Kind::HostCommand as u8),
        with(3, Kind::Record as u8),
        with(4, 0),
        with(8, good[8].wrapping_add(1)),
        unanswered(long),
        unanswered([good.clone(), good.clone()].concat()),
        unanswered([good.clone(), vec![0]].concat()),
        unanswered(encode(Kind::HostCommand, &stop()).unwrap()),
        unanswered(encode(Kind::Record, &ToHost::Command(stop())).unwrap()),
        unanswered(encode(Kind::HostEvent, &ToHost::Command(stop())).unwrap()),
        step(stop(), &["refused stop oem/stranger"]),
    ];
    Sequence { name: "frames that are broken", steps }
}

fn cut_frames() -> Sequence {
    let good = frame(&stop());
    let steps = (1..good.len()).map(|len| unanswered(good[..len].to_vec())).collect();
    Sequence { name: "a frame cut at every place", steps }
}

fn flipped_frames() -> Sequence {
    let good = frame(&stop());
    let flipped = |bit: usize| {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        unanswered(bytes)
    };
    Sequence { name: "a frame with each bit flipped", steps: (0..good.len() * 8).map(flipped).collect() }
}

/// Variant 2 of what a face says is a command; of those 1 is `Start`, 3 `Freeze`.
fn foreign_words() -> Sequence {
    let failed =
        ToHost::Failed { what: "\x1b[2J\n".repeat(1000), why: "\0".into(), fix: Some("rm -rf /".into()) };
    let steps = vec![
        body(&FromHost::Stop),
        body(&FromHost::Go),
        body(&ToHost::Ready),
        body(&ToHost::Ready),
        body(&failed),
        body(&(200u8,)),
        body(&(2u8, 200u8)),
        body(&(2u8, 3u8)),
        body(&(2u8, 1u8, u64::MAX)),
        body(&(2u8, 3u8, "oem", "stranger", "and more")),
    ];
    Sequence { name: "words that are none of node's", steps }
}

fn names_that_are_none() -> Sequence {
    let long = "a".repeat(300);
    let names = [
        "", ".", "..", "../..", "/", "/etc", "a/b", "a\0", "a b", "A", "-a", "_a", "\u{fc}", "a\n", "*",
        &long,
    ];
    let freeze = |tenant: &str, name: &str| body(&(2u8, 3u8, tenant, name));
    let steps = names.iter().flat_map(|name| [freeze(name, "stranger"), freeze("oem", name)]);
    // What shows that it is the names that are wrong.
    let right = Step { answers: vec!["refused freeze oem/stranger"], ..freeze("oem", "stranger") };
    Sequence { name: "names that are none", steps: steps.chain([right]).collect() }
}

fn starts_twice(bundle: Digest) -> Sequence {
    let stop = |name: &str| HostCommand::Stop { app: app("oem", name), grace: GRACE };
    let ticks = |instance| HostCommand::Start(start(bundle, "twice", instance, &["tick"]));
    let ends = |instance| HostCommand::Start(start(bundle, "ends", instance, &["exit", "5"]));
    let steps = vec![
        step(ticks(1), &["started oem/twice 1"]),
        step(ticks(1), &["failed oem/twice 1: start oem/twice: it is running already"]),
        step(ticks(2), &["failed oem/twice 2: start oem/twice: it is running already"]),
        step(stop("twice"), &["exited oem/twice 1: Signal(15)"]),
        step(stop("twice"), &["refused stop oem/twice"]),
        step(ticks(1), &["failed oem/twice 1: start oem/twice: its instance 1 has been used"]),
        step(ends(u64::MAX), &["started oem/ends", "exited oem/ends 18446744073709551615: Code(5)"]),
        step(ends(u64::MAX), &["has been used"]),
        step(ends(0), &["started oem/ends 0", "exited oem/ends 0: Code(5)"]),
    ];
    Sequence { name: "started twice, and with an instance that was used", steps }
}

fn bundles_that_are_not_there(bundle: Digest) -> Sequence {
    let good = start(bundle, "absent", 1, &["tick"]);
    let steps = vec![
        changed(&good, |s| s.bundle = Digest::of(b"unknown"), &["failed oem/absent 1"]),
        changed(&good, |s| s.bundle = Digest([0; 32]), &["is not in the store"]),
        changed(&good, |s| s.base = Some(Digest::of(b"unknown")), &["base layer"]),
        changed(&good, |s| s.base = Some(Digest([0xFF; 32])), &["is not in the store"]),
        changed(&good, |s| s.island = true, &["tenant oem has no border"]),
    ];
    Sequence { name: "bundles, bases and borders that are not there", steps }
}

fn imports(bundle: Digest) -> Sequence {
    let import = |bundle| HostCommand::Import { bundle };
    let planted = PLANTED.iter().map(|content| step(import(Digest::of(content)), &["import refused"]));
    let others = [
        step(import(Digest::of(b"unknown")), &["import refused"]),
        step(import(Digest([0; 32])), &["import refused"]),
        step(import(bundle), &["imported"]),
    ];
    Sequence { name: "bundles in the spool that are none", steps: planted.chain(others).collect() }
}

fn commands_that_are_none(bundle: Digest) -> Sequence {
    let good = start(bundle, "words", 1, &["tick"]);
    let steps = vec![
        changed(&good, |s| s.command.clear(), &["the command is empty"]),
        changed(&good, |s| s.command[0] = String::new(), &["not an absolute path"]),
        changed(&good, |s| s.command[0] = "app".into(), &["not an absolute path"]),
        changed(&good, |s| s.command[0] = "../../bin/sh".into(), &["not an absolute path"]),
        changed(&good, |s| s.command[0] = "/app/app\0/bin/sh".into(), &["NUL"]),
        changed(&good, |s| s.command[1] = "\0".into(), &["NUL"]),
        changed(&good, |s| s.command = vec!["/app/app".into(); 1025], &["1024 words"]),
        changed(&good, |s| s.command[1] = "x".repeat(64 << 10), &["64 KiB"]),
        changed(&good, |s| s.command[1] = "x".repeat(100 << 10), &["64 KiB"]),
    ];
    Sequence { name: "commands that are none", steps }
}

fn programs_that_are_none(bundle: Digest) -> Sequence {
    let programs = [
        ("/", "execute /:"),
        ("/app", "execute /app:"),
        ("/app/nothing", "execute /app/nothing: No such file"),
        ("/bin/sh", "execute /bin/sh: No such file"),
        ("/app/../../../bin/sh", "No such file"),
        ("/proc/1/root/bin/sh", "execute /proc/1/root/bin/sh:"),
        ("/proc/1/exe", "execute /proc/1/exe: Permission denied"),
        ("/dev/null", "execute /dev/null: Permission denied"),
        ("/tmp", "execute /tmp: Permission denied"),
    ];
    let good = start(bundle, "program", 1, &[]);
    let steps = programs.iter().zip(1..).map(|((program, answer), instance)| {
        let change = |s: &mut StartApp| (s.command, s.instance) = (vec![(*program).to_owned()], instance);
        changed(&good, change, &[answer])
    });
    Sequence { name: "programs that are none", steps: steps.collect() }
}

fn environments(bundle: Digest) -> Sequence {
    let good = start(bundle, "env", 1, &["exit"]);
    let env =
        |word: &str, answers: &[&'static str]| changed(&good, |s| s.env = vec![word.to_owned()], answers);
    let many = |s: &mut StartApp| s.env = vec!["A=b".into(); 1025];
    let loader = |s: &mut StartApp| {
        let words = ["LD_PRELOAD=/tmp/x.so", "LD_LIBRARY_PATH=/tmp", "LD_AUDIT=/tmp/x.so", "PATH=/tmp"];
        (s.env, s.instance) = (words.map(str::to_owned).to_vec(), 2);
    };
    let steps = vec![
        env("", &["not NAME=value"]),
        env("PATH", &["not NAME=value"]),
        env("=x", &["not NAME=value"]),
        env("A B=c", &["not NAME=value"]),
        env("A\n=c", &["not NAME=value"]),
        env("A=\0", &["NUL"]),
        env(&format!("A={}", "x".repeat(64 << 10)), &["64 KiB"]),
        changed(&good, many, &["1024 words"]),
        // These are the app's own, and nobody else's.
        changed(&good, loader, &["started oem/env 2", "exited oem/env 2: Code(0)"]),
    ];
    Sequence { name: "environments", steps }
}

fn limits(bundle: Digest) -> Sequence {
    let good = start(bundle, "limits", 1, &["tick"]);
    let most = Resources {
        cpu: CpuMilli::MAX,
        memory: Bytes::MAX,
        pids: u32::MAX,
        nofile: u32::MAX,
        tmp: Bytes::MAX,
    };
    let nothing = Resources {
        cpu: CpuMilli::default(),
        memory: Bytes::default(),
        pids: 0,
        nofile: 0,
        tmp: Bytes::default(),
    };
    let resize = |resources| HostCommand::Resize { app: app("oem", "limits"), resources };
    let steps = vec![
        changed(&good, |s| s.resources = most, &["failed oem/limits 1"]),
        changed(&good, |s| s.resources = nothing, &["failed oem/limits 1"]),
        changed(&good, |s| s.resources.cpu = CpuMilli::new(9).unwrap(), &["below 10m"]),
        changed(&good, |s| s.resources.memory = Bytes::default(), &["below 1Mi"]),
        changed(&good, |s| s.resources.pids = 0, &["pids 0 is not between"]),
        changed(&good, |s| s.resources.pids = 32_769, &["pids 32769 is not between"]),
        changed(&good, |s| s.resources.nofile = 7, &["nofile 7 is not between"]),
        changed(&good, |s| s.resources.nofile = u32::MAX, &["nofile 4294967295 is not between"]),
        changed(&good, |s| s.resources.tmp = Bytes::MAX, &["is more than memory"]),
        step(resize(nothing), &["refused resize oem/limits: resize oem/limits: cpu"]),
        step(resize(most), &["refused resize oem/limits: resize oem/limits: pids"]),
        step(resize(Resources::default()), &["refused resize oem/limits: find oem/limits: no such app"]),
    ];
    Sequence { name: "limits that are none", steps }
}

/// Apps that never were, of another tenant, with the names of host's own groups, and one that has ended.
fn strangers(bundle: Digest) -> Sequence {
    let mut steps =
        vec![step(HostCommand::Start(start(bundle, "known", 1, &["tick"])), &["started oem/known 1"])];
    for (tenant, name) in
        [("oem", "never"), ("x", "known"), ("faces", "node"), ("comfort", "oem"), ("oem", "comfort")]
    {
        let app = app(tenant, name);
        let none = &["no such app is running here"][..];
        steps.extend([
            step(HostCommand::Freeze { app: app.clone() }, none),
            step(HostCommand::Thaw { app: app.clone() }, none),
            step(HostCommand::Stop { app: app.clone(), grace: Span::default() }, none),
            step(HostCommand::Stop { app: app.clone(), grace: Span::MAX }, none),
            step(HostCommand::Resize { app, resources: Resources::default() }, none),
        ]);
    }
    let known = app("oem", "known");
    steps.extend([
        step(HostCommand::Freeze { app: known.clone() }, &["frozen oem/known"]),
        step(HostCommand::Freeze { app: known.clone() }, &["frozen oem/known"]),
        step(HostCommand::Stop { app: known.clone(), grace: GRACE }, &["exited oem/known 1: Signal(15)"]),
        step(HostCommand::Thaw { app: known }, &["refused thaw oem/known: find oem/known: no such app"]),
    ]);
    Sequence { name: "strangers", steps }
}

fn classes() -> Sequence {
    let squeeze = |class, share, answer| step(HostCommand::SqueezeClass { class, share }, &[answer]);
    let steps = Class::ALL.into_iter().flat_map(|class| {
        [
            squeeze(class, 0, "share 0 is not between 1 and 1000"),
            squeeze(class, 1001, "share 1001 is not between 1 and 1000"),
            squeeze(class, u16::MAX, "share 65535 is not between 1 and 1000"),
            squeeze(class, 1, "squeezed"),
            squeeze(class, 1000, "squeezed"),
        ]
    });
    Sequence { name: "shares of each class", steps: steps.collect() }
}

fn faces() -> Sequence {
    let ask = |face, answers: &[&'static str]| step(HostCommand::StartFace { face }, answers);
    let tenant = || TenantId::new("x").unwrap();
    let steps = vec![
        ask(Face::Node, &["refused start node: start node: host starts this face by itself"]),
        ask(Face::Bus, &["host starts this face by itself"]),
        ask(Face::Link, &["host starts this face by itself"]),
        ask(Face::Camera, &["host starts this face by itself"]),
        ask(Face::Border(tenant()), &["face border-x"]),
        ask(Face::Border(tenant()), &[]),
        ask(Face::Worker(tenant()), &["face worker-x"]),
        ask(Face::Worker(tenant()), &[]),
    ];
    Sequence { name: "each kind of face", steps }
}

/// A command of more than a packet of host's may hold is none, whole or cut to what the kernel takes at all.
fn too_long(bundle: Digest, longest: usize) -> Sequence {
    let of = |len: usize| {
        let mut start = start(bundle, "long", 1, &["tick"]);
        start.env = vec![format!("A={}", "x".repeat(len))];
        let mut bytes = frame(&HostCommand::Start(start));
        bytes.truncate(longest);
        bytes
    };
    let steps = vec![
        Step { bytes: of(200 << 10), answers: vec!["64 KiB"] },
        unanswered(of(300 << 10)),
        unanswered(of(1 << 20)),
    ];
    Sequence { name: "strings of up to a megabyte", steps }
}
