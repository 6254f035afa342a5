//! Sequences of commands, drawn: mostly such as host refuses at once, so that many can be sent; among them whole lives of
//! apps, which cost a thousand times as much.

use policies::face::ToHost;
use policies::host::{AppRef, Face, HostCommand, StartApp};
use policies::id::{AppName, Digest, TenantId};
use policies::manifest::Resources;
use policies::task::Class;
use policies::unit::{Bytes, CpuMilli, Span};
use policies::wire::{Kind, encode};

/// Seeded chance: xorshift.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let count = from.len() as u64;
        from[self.roll(count) as usize].clone()
    }
}

/// What the generator may name.
pub(crate) struct Known {
    /// The test app's bundle.
    pub(crate) bundle: Digest,
    /// Paths that nothing of the node may touch.
    pub(crate) targets: Vec<String>,
}

/// A message for host.
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    /// Whether host owes it an answer that says started or not.
    pub(crate) is_start: bool,
    /// Whether that answer is waited for a while before anything more is sent.
    pub(crate) is_waited_for: bool,
}

impl Message {
    fn of(command: HostCommand) -> Self {
        let is_start = matches!(command, HostCommand::Start(_));
        let bytes = encode(Kind::Face, &ToHost::Command(command)).unwrap();
        Self { bytes, is_start, is_waited_for: false }
    }
}

/// One sequence.
pub(crate) fn sequence(dice: &mut Dice, known: &Known) -> Vec<Message> {
    let many = 2 + dice.roll(20);
    let draw: fn(&mut Dice, &Known) -> Message = match dice.roll(32) {
        0..=4 => return life(dice, known),
        5..=6 => |dice, known| Message::of(anything(dice, known)),
        7..=12 => |dice, known| noise(dice, known),
        13..=19 => |dice, _| Message::of(to_a_stranger(dice)),
        20..=26 => |dice, known| Message::of(spoilt_start(dice, known)),
        27..=30 => |dice, _| Message::of(class_or_face(dice)),
        _ => return repeated(dice, known),
    };
    (0..many).map(|_| draw(dice, known)).collect()
}

fn app(dice: &mut Dice) -> AppRef {
    let name = dice.pick(&["a", "b", "lane", "0", "host", "node", "cgroup-kill"]);
    let tenant = dice.pick(&["oem", "faces", "x"]);
    AppRef { tenant: TenantId::new(tenant).unwrap(), app: AppName::new(name).unwrap() }
}

fn word(dice: &mut Dice, known: &Known) -> String {
    let words = [
        "/app/app",
        "/",
        "",
        "..",
        "../../bin/sh",
        "/proc/self/exe",
        "/proc/1/root/bin/sh",
        "exit",
        "a\0b",
        "/dev/null",
        "/app/../../etc/shadow",
        "LD_PRELOAD=/tmp/x",
        "=",
        "PATH",
    ];
    match dice.roll(100) {
        0 => "x".repeat(70_000),
        1..=20 => dice.pick(&known.targets),
        _ => dice.pick(&words).into(),
    }
}

fn words(dice: &mut Dice, known: &Known, max: u64) -> Vec<String> {
    (0..dice.roll(max)).map(|_| word(dice, known)).collect()
}

fn resources(dice: &mut Dice) -> Resources {
    let bytes = |dice: &mut Dice| dice.pick(&[Bytes::default(), Bytes::mebi(1), Bytes::mebi(64), Bytes::MAX]);
    Resources {
        cpu: dice.pick(&[CpuMilli::default(), CpuMilli::new(10).unwrap(), CpuMilli::MAX]),
        memory: bytes(dice),
        pids: dice.pick(&[0, 1, 4, 32_768, u32::MAX]),
        nofile: dice.pick(&[0, 8, 64, u32::MAX]),
        tmp: bytes(dice),
    }
}

/// A start that nothing is wrong with.
fn good_start(app: AppRef, instance: u64, known: &Known, arguments: &[&str]) -> StartApp {
    let words = std::iter::once("/app/app").chain(arguments.iter().copied());
    StartApp {
        app,
        instance,
        bundle: known.bundle,
        base: None,
        command: words.map(str::to_owned).collect(),
        env: Vec::new(),
        class: Class::Critical,
        resources: Resources::default(),
        island: false,
    }
}

/// A start with one thing wrong that host sees before it makes anything.
fn spoilt_start(dice: &mut Dice, known: &Known) -> HostCommand {
    let (app, instance) = (app(dice), dice.roll(4));
    let mut start = good_start(app, instance, known, &["tick"]);
    let foreign = dice.pick(&[Digest::of(b"unknown"), Digest([0; 32]), Digest([0xFF; 32])]);
    match dice.roll(12) {
        0 => start.command.clear(),
        1 => start.command[0] = dice.pick(&["app", "", "../app", "./app", "~"]).into(),
        2 => start.command.push("a\0b".into()),
        3 => start.command = vec!["/app/app".into(); 1025],
        4 => start.env.push(dice.pick(&["PATH", "=x", "A B=c", "LD_PRELOAD", "A=\0", "\n=x"]).into()),
        5 => start.resources.cpu = CpuMilli::default(),
        6 => start.resources.memory = Bytes::default(),
        7 => start.resources.pids = dice.pick(&[0, 32_769, u32::MAX]),
        8 => start.resources.nofile = dice.pick(&[0, 7, u32::MAX]),
        9 => start.resources.tmp = Bytes::MAX,
        10 => start.bundle = foreign,
        _ => start.base = Some(foreign),
    }
    HostCommand::Start(start)
}

/// Something about an app that most likely does not run.
fn to_a_stranger(dice: &mut Dice) -> HostCommand {
    let (app, resources) = (app(dice), resources(dice));
    match dice.roll(4) {
        0 => HostCommand::Stop { app, grace: dice.pick(&[Span::default(), Span::from_millis(5), Span::MAX]) },
        1 => HostCommand::Freeze { app },
        2 => HostCommand::Thaw { app },
        _ => HostCommand::Resize { app, resources },
    }
}

fn class_or_face(dice: &mut Dice) -> HostCommand {
    let tenant = TenantId::new(dice.pick(&["oem", "x"])).unwrap();
    let face = dice.pick(&[
        Face::Node,
        Face::Bus,
        Face::Link,
        Face::Camera,
        Face::Worker(tenant.clone()),
        Face::Border(tenant),
    ]);
    match dice.roll(3) {
        0 => HostCommand::StartFace { face },
        1 => HostCommand::Sample,
        _ => {
            let class = dice.pick(&Class::ALL);
            // The class of those that are waited for keeps its share: squeezed, on a busy machine, it takes minutes.
            let least = if class == Class::Critical { 1000 } else { 1 };
            HostCommand::SqueezeClass { class, share: dice.pick(&[0, least, 1000, 1001, u16::MAX]) }
        }
    }
}

/// Any command with anything in it.
fn anything(dice: &mut Dice, known: &Known) -> HostCommand {
    let digest = dice.pick(&[known.bundle, Digest::of(b"unknown"), Digest([0; 32])]);
    match dice.roll(8) {
        0 => HostCommand::Import { bundle: digest },
        1..=4 => HostCommand::Start(StartApp {
            app: app(dice),
            instance: dice.roll(4),
            bundle: digest,
            base: dice.pick(&[None, None, Some(known.bundle), Some(Digest([1; 32]))]),
            command: match dice.roll(2) {
                0 => vec!["/app/app".into(), "exit".into()],
                _ => words(dice, known, 4),
            },
            env: words(dice, known, 3),
            class: dice.pick(&Class::ALL),
            resources: if dice.roll(2) == 0 { Resources::default() } else { resources(dice) },
            island: dice.roll(4) == 0,
        }),
        5..=6 => to_a_stranger(dice),
        _ => class_or_face(dice),
    }
}

/// An app that really starts, what may happen to it, and its end.
fn life(dice: &mut Dice, known: &Known) -> Vec<Message> {
    let name = dice.pick(&["la", "lb", "lc", "ld", "le", "lf", "lg", "lh"]);
    let app = AppRef { tenant: TenantId::new("oem").unwrap(), app: AppName::new(name).unwrap() };
    let targets: Vec<&str> = known.targets.iter().map(String::as_str).collect();
    let reach: Vec<&str> = std::iter::once("reach").chain(targets).collect();
    let does = dice.pick(&[&["exit", "3"][..], &["tick"], &["deaf"], &["fork"], &["abort"], &reach]);
    let start = good_start(app.clone(), dice.roll(u64::MAX), known, does);
    let mut life = vec![Message::of(HostCommand::Start(start.clone()))];
    // Some are handled while they still start.
    life[0].is_waited_for = dice.roll(4) > 0;
    for _ in 0..dice.roll(6) {
        let (app, resources) = (app.clone(), Resources { pids: 8, ..Resources::default() });
        life.push(match dice.roll(6) {
            0 => Message::of(HostCommand::Freeze { app }),
            1 => Message::of(HostCommand::Thaw { app }),
            2 => Message::of(HostCommand::Resize { app, resources }),
            3 => Message::of(HostCommand::Start(start.clone())),
            4 => Message::of(class_or_face(dice)),
            _ => noise(dice, known),
        });
    }
    life.push(Message::of(HostCommand::Stop { app, grace: Span::from_millis(dice.roll(6) as u32) }));
    life
}

/// The same command many times over.
fn repeated(dice: &mut Dice, known: &Known) -> Vec<Message> {
    let command = anything(dice, known);
    (0..20).map(|_| Message::of(command.clone())).collect()
}

/// Bytes that are no command: noise, cut frames, frames with a bit flipped or of another kind.
fn noise(dice: &mut Dice, known: &Known) -> Message {
    let command = anything(dice, known);
    let mut frame = encode(Kind::Face, &ToHost::Command(command.clone())).unwrap();
    let bytes = match dice.roll(4) {
        0 => (0..=dice.roll(300)).map(|_| dice.roll(256) as u8).collect(),
        1 => {
            let at = dice.roll(frame.len() as u64) as usize;
            frame[at] ^= 1 << dice.roll(8);
            frame
        }
        2 => frame[..=dice.roll(frame.len() as u64 - 1) as usize].to_vec(),
        _ => encode(Kind::HostCommand, &command).unwrap(),
    };
    Message { bytes, is_start: false, is_waited_for: false }
}
