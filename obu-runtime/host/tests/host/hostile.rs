//! Node replaced by a program that sends whatever it likes. Host serves on, and nothing outside its own
//! directories, cgroups and uids changes.

use std::collections::BTreeSet;
use std::fs;

use policies::face::ToHost;
use policies::host::{AppRef, Face, HostCommand, HostEvent, StartApp};
use policies::id::{AppName, Digest, TenantId};
use policies::manifest::Resources;
use policies::task::Class;
use policies::unit::{Bytes, CpuMilli, Span};
use policies::wire::{Kind, encode};

use crate::rig::{Rig, needs_root};

/// Commands sent in one run, unless `VERGE_HOSTILE_COMMANDS` says otherwise.
const COMMANDS: usize = 3_000;

/// Longest message that the kernel's default buffers take from the test.
const SENDABLE_MAX: usize = 128 << 10;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
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

fn app(dice: &mut Dice) -> AppRef {
    let name = dice.pick(&["a", "b", "lane", "0", "host", "node", "cgroup-kill"]);
    let tenant = dice.pick(&["oem", "faces", "x"]);
    AppRef { tenant: TenantId::new(tenant).unwrap(), app: AppName::new(name).unwrap() }
}

fn word(dice: &mut Dice) -> String {
    let words = [
        "/app/app",
        "/",
        "",
        "..",
        "../../bin/sh",
        "/proc/self/exe",
        "/proc/1/root/bin/sh",
        "exit",
        "spin",
        "a\0b",
        "/dev/null",
        "/app/../../etc/shadow",
        "LD_PRELOAD=/tmp/x",
        "=",
        "PATH",
    ];
    match dice.roll(20) {
        0 => "x".repeat(70_000),
        _ => dice.pick(&words).into(),
    }
}

fn words(dice: &mut Dice, max: u64) -> Vec<String> {
    (0..dice.roll(max)).map(|_| word(dice)).collect()
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

fn command(dice: &mut Dice, known: Digest) -> HostCommand {
    let class = dice.pick(&Class::ALL);
    let digest = dice.pick(&[known, Digest::of(b"unknown"), Digest([0; 32])]);
    let grace = dice.pick(&[Span::default(), Span::from_millis(5), Span::MAX]);
    let tenant = dice.pick(&["oem", "x"]);
    match dice.roll(12) {
        0 => HostCommand::Import { bundle: digest },
        1..=4 => HostCommand::Start(StartApp {
            app: app(dice),
            instance: dice.roll(4),
            bundle: digest,
            base: dice.pick(&[None, None, Some(known), Some(Digest([1; 32]))]),
            command: if dice.roll(2) == 0 { vec!["/app/app".into(), "exit".into()] } else { words(dice, 4) },
            env: words(dice, 3),
            class,
            resources: if dice.roll(2) == 0 { Resources::default() } else { resources(dice) },
            island: dice.roll(4) == 0,
        }),
        5 => HostCommand::Stop { app: app(dice), grace },
        6 => HostCommand::Freeze { app: app(dice) },
        7 => HostCommand::Thaw { app: app(dice) },
        8 => HostCommand::Resize { app: app(dice), resources: resources(dice) },
        9 => HostCommand::SqueezeClass { class, share: dice.pick(&[0, 1, 1000, u16::MAX]) },
        10 => HostCommand::StartFace {
            face: dice.pick(&[
                Face::Node,
                Face::Bus,
                Face::Link,
                Face::Worker(TenantId::new(tenant).unwrap()),
                Face::Border(TenantId::new(tenant).unwrap()),
            ]),
        },
        _ => HostCommand::Sample,
    }
}

/// Bytes that are no command: noise, cut frames, other kinds.
fn noise(dice: &mut Dice, known: Digest) -> Vec<u8> {
    let mut frame = encode(Kind::Face, &ToHost::Command(command(dice, known))).unwrap();
    match dice.roll(4) {
        0 => (0..dice.roll(300) + 1).map(|_| dice.roll(256) as u8).collect(),
        1 => {
            let at = dice.roll(frame.len() as u64) as usize;
            frame[at] ^= 1 << dice.roll(8);
            frame
        }
        2 => frame[..=dice.roll(frame.len() as u64 - 1) as usize].to_vec(),
        _ => encode(Kind::HostCommand, &command(dice, known)).unwrap(),
    }
}

/// What must not change: mounts, cgroups and files that are not this host's.
fn surroundings(rig: &Rig) -> (String, BTreeSet<String>, BTreeSet<String>) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut groups = BTreeSet::new();
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    for hierarchy in hierarchies {
        for group in fs::read_dir(hierarchy.path()).into_iter().flatten().flatten() {
            let name = group.path().display().to_string();
            // Groups of tests that run beside this one come and go.
            if !name.contains("/verge-t") && group.path().is_dir() {
                groups.insert(name);
            }
        }
    }
    let beside = fs::read_dir(rig.dir.path()).unwrap();
    let files = beside.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    (mounts, groups, files)
}

/// Uids outside of everything that host has started, itself excepted.
fn uids_of_descendants(rig: &Rig) -> BTreeSet<u32> {
    let mut uids = BTreeSet::new();
    for pid in obu_host::procfs::descendants(rig.pid().as_raw_nonzero().get()) {
        if let Some(line) = obu_host::procfs::status_field(pid, "Uid") {
            uids.extend(line.split_ascii_whitespace().filter_map(|uid| uid.parse::<u32>().ok()));
        }
    }
    uids
}

#[test]
fn whatever_node_sends_host_keeps_to_its_own() {
    if needs_root() {
        return;
    }
    // Printed, so that a failing run can be had again with `VERGE_HOSTILE_SEED`.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = setting("VERGE_HOSTILE_SEED").unwrap_or(now.as_nanos() as u64) | 1;
    let commands = setting("VERGE_HOSTILE_COMMANDS").map_or(COMMANDS, |count| count as usize);
    eprintln!("seed {seed}");
    let mut dice = Dice(seed);
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    let before = surroundings(&rig);
    for count in 0..commands {
        let bytes = match dice.roll(5) {
            0 => noise(&mut dice, bundle),
            _ => encode(Kind::Face, &ToHost::Command(command(&mut dice, bundle))).unwrap(),
        };
        if bytes.len() > SENDABLE_MAX {
            continue;
        }
        rig.send_raw(&bytes);
        if count % 20 == 0 {
            // An answer proves that host is there, and drains what it had to say.
            rig.send(HostCommand::Sample);
            rig.wait("an answer", |event| matches!(event, HostEvent::Sampled { .. }).then_some(()));
            rig.events.clear();
            rig.attached.clear();
        }
    }
    // A process on its way into its sandbox is still root for a moment: that passes.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut uids = uids_of_descendants(&rig);
    while !uids.iter().all(|uid| (200_000..265_536).contains(uid)) {
        assert!(std::time::Instant::now() < until, "{uids:?}");
        uids = uids_of_descendants(&rig);
    }
    assert_eq!(surroundings(&rig), before);
    assert!(rig.terminate().success());
    assert!(rig.cgroups().is_empty());
}
