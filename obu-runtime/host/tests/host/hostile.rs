//! Node replaced by a program that owns its channel and sends whatever it likes: 10^5 generated messages, and all
//! sequences written by hand, each with what must be answered. Host serves on, and outside its own directories, cgroups
//! and uids nothing changes: no file, no mount, no group, no device; a thread looks all the while at who its processes
//! are, what they hold and where they stand. That no CAN frame leaves is the guard's part: `can-bridge/tests/hostile.rs`.
//!
//! `VERGE_HOSTILE_COMMANDS` asks for more or fewer messages, `VERGE_HOSTILE_SEED` for a run that was seen before.

mod generate;
mod sequences;

use std::fs;
use std::time::Instant;

use policies::host::{Face, HostCommand, HostEvent};
use policies::id::{Digest, TenantId};
use policies::unit::Span;

use crate::rig::{PATIENCE, Rig, app, needs_root};
use crate::watch::{Guarded, Seen, Surroundings, Watch};
use generate::{Dice, Known};
use sequences::Sequence;

/// Messages that are generated. Most are refused at once; about one in a hundred starts a process.
const COMMANDS: usize = 100_000;

/// Messages between two proofs that host is there.
const BATCH: usize = 20;

/// Messages between two looks at what must not change.
const MESSAGES_BETWEEN_LOOKS: usize = 10_000;

/// Answers to other questions for which the answer to a start is waited for.
const ANSWERS_WAITED_FOR: usize = 50;

/// Borders and workers that a node may have, by tenant.
const TENANTS_MAX: usize = obu_host::ground::TENANTS_MAX;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A host, and everything that is watched.
struct Scene {
    rig: Rig,
    guarded: Guarded,
    bundle: Digest,
    before: Surroundings,
    watch: Watch,
}

impl Scene {
    fn begin() -> Self {
        let (mut rig, guarded) = (Rig::start(""), Guarded::new());
        let bundle = rig.import_app();
        let (before, watch) = (Surroundings::take(&rig, &guarded), Watch::begin(&rig));
        let mut scene = Self { rig, guarded, bundle, before, watch };
        scene.serves();
        scene
    }

    /// Host answers; what it said before is gone through by `hear`.
    fn hear_all(&mut self, hear: impl FnMut(&HostEvent)) {
        self.rig.send(HostCommand::Sample);
        self.rig.wait("an answer", |event| matches!(event, HostEvent::Sampled { .. }).then_some(()));
        self.rig.events.drain(..).collect::<Vec<_>>().iter().for_each(hear);
        self.rig.attached.clear();
    }

    fn serves(&mut self) {
        self.hear_all(|_| ());
    }

    /// The next thing that host says.
    fn next(&mut self) -> String {
        self.rig.wait("an answer", told)
    }

    fn assert_unchanged(&self) {
        self.before.assert_unchanged(&self.rig, &self.guarded);
    }

    /// Ends host in order; see [`Self::ended`].
    fn end(self) -> Seen {
        let _ = rustix::process::kill_process(self.rig.pid(), rustix::process::Signal::TERM);
        self.ended(|_| ())
    }

    /// Waits for the end of host. Nothing has changed, nobody was where he must not be, and nothing is left.
    fn ended(mut self, hear: impl FnMut(&HostEvent)) -> Seen {
        assert!(self.rig.join().success());
        let seen = self.watch.end();
        assert!(seen.faults.is_empty(), "{:#?}", seen.faults);
        self.before.assert_unchanged(&self.rig, &self.guarded);
        assert!(self.rig.cgroups().is_empty());
        assert!(!self.rig.dir.path().join("run").exists());
        self.rig.drain();
        self.rig.events.iter().for_each(hear);
        seen
    }
}

/// What host says, in short.
fn told(event: &HostEvent) -> Option<String> {
    Some(match event {
        HostEvent::Hello { .. } => return None,
        HostEvent::Imported { .. } => "imported".into(),
        HostEvent::ImportRefused { refusal, .. } => format!("import refused: {refusal}"),
        HostEvent::Started { app, instance, .. } => format!("started {app} {instance}"),
        HostEvent::StartFailed { app, instance, refusal } => format!("failed {app} {instance}: {refusal}"),
        HostEvent::Exited { app, instance, exit } => format!("exited {app} {instance}: {exit:?}"),
        HostEvent::FreezeChanged { app, frozen: true, .. } => format!("frozen {app}"),
        HostEvent::FreezeChanged { app, frozen: false, .. } => format!("thawed {app}"),
        HostEvent::Confined { app, .. } => format!("confined {app}"),
        HostEvent::Squeezed { class, share, .. } => format!("squeezed {class} {share}"),
        HostEvent::Refused { command, refusal } => format!("refused {command}: {refusal}"),
        HostEvent::FaceStarted { face } => format!("face {face}"),
        HostEvent::FaceExited { face, exit, .. } => format!("face {face} ended: {exit:?}"),
        HostEvent::Sampled { .. } => "sampled".into(),
        HostEvent::Ending { .. } => "ending".into(),
    })
}

// tests: P1-20
#[test]
fn whatever_node_sends_host_keeps_to_its_own() {
    if needs_root() {
        return;
    }
    // Printed, so that a failing run can be had again.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = setting("VERGE_HOSTILE_SEED").unwrap_or(now.as_nanos() as u64) | 1;
    let commands = setting("VERGE_HOSTILE_COMMANDS").map_or(COMMANDS, |count| count as usize);
    eprintln!("seed {seed}");
    let (mut scene, mut dice) = (Scene::begin(), Dice(seed));
    let known = Known { bundle: scene.bundle, targets: scene.guarded.targets() };
    let (mut sent, mut asked, mut tally) = (0, 0, Tally::default());
    while sent < commands {
        for message in generate::sequence(&mut dice, &known) {
            scene.rig.send_raw(&message.bytes);
            sent += 1;
            asked += usize::from(message.is_start);
            let waits = if message.is_waited_for { ANSWERS_WAITED_FOR } else { 0 };
            for _ in 0..waits {
                if tally.answered < asked {
                    scene.hear_all(|event| tally.take(event));
                }
            }
            if sent % BATCH == 0 {
                scene.hear_all(|event| tally.take(event));
            }
            if sent % MESSAGES_BETWEEN_LOOKS == 0 {
                scene.assert_unchanged();
            }
        }
    }
    // Some starts are still under way.
    let until = Instant::now() + PATIENCE;
    while tally.answered < asked && Instant::now() < until {
        scene.hear_all(|event| tally.take(event));
    }
    assert_eq!(tally.answered, asked, "every start is answered once");
    scene.assert_unchanged();
    let seen = scene.end();
    let (started, programs) = (tally.started, seen.programs.len());
    eprintln!(
        "{sent} messages, {started} of {asked} starts took place, {programs} seen in {} looks",
        seen.looks
    );
    assert!(
        started * 400 > sent && programs > 0,
        "{started} starts, {programs} seen: too few to prove anything"
    );
}

/// How starts were answered.
#[derive(Default)]
struct Tally {
    started: usize,
    answered: usize,
}

impl Tally {
    fn take(&mut self, event: &HostEvent) {
        let started = matches!(event, HostEvent::Started { .. });
        self.started += usize::from(started);
        self.answered += usize::from(started || matches!(event, HostEvent::StartFailed { .. }));
    }
}

// tests: P1-20
#[test]
fn every_sequence_written_by_hand_is_answered_as_it_must_be() {
    if needs_root() {
        return;
    }
    let mut scene = Scene::begin();
    let spool = scene.rig.dir.path().join("state/spool");
    let place = |content: &[u8]| spool.join(Digest::of(content).hex());
    let [outside, nowhere, file, empty] = sequences::PLANTED.map(place);
    std::os::unix::fs::symlink(scene.guarded.path(), outside).unwrap();
    std::os::unix::fs::symlink("/nowhere", nowhere).unwrap();
    fs::write(file, "no bundle").unwrap();
    fs::create_dir(empty).unwrap();
    let longest = scene.rig.longest();
    for Sequence { name, steps } in sequences::all(scene.bundle, longest) {
        for (number, step) in steps.into_iter().enumerate() {
            scene.rig.send_raw(&step.bytes);
            for answer in step.answers {
                let told = scene.next();
                assert!(told.contains(answer), "{name}, step {number}: {told:?} instead of {answer:?}");
            }
            scene.rig.send(HostCommand::Sample);
            assert_eq!(scene.next(), "sampled", "{name}, step {number}: nothing more is answered");
        }
        scene.rig.attached.clear();
        scene.assert_unchanged();
    }
    assert!(scene.end().looks > 0);
}

#[test]
fn a_thousand_borders_are_as_many_as_a_node_may_have() {
    if needs_root() {
        return;
    }
    let mut scene = Scene::begin();
    for number in 0..1000 {
        let face = Face::Border(TenantId::new(&format!("t{number}")).unwrap());
        scene.rig.send(HostCommand::StartFace { face });
    }
    let (mut up, mut refused) = (0, 0);
    while up + refused < 1000 {
        let told = scene.next();
        match told.contains("tenants have faces, the most a node holds") {
            true => refused += 1,
            false if told.starts_with("face border-t") && !told.contains("ended") => up += 1,
            false => panic!("{told:?}"),
        }
    }
    assert_eq!((up, refused), (TENANTS_MAX, 1000 - TENANTS_MAX));
    scene.end();
}

#[test]
fn a_shutdown_in_the_midst_ends_all_and_what_comes_after_it_is_nothing() {
    if needs_root() {
        return;
    }
    let mut scene = Scene::begin();
    for (name, how) in [("deaf", "deaf"), ("frozen", "tick")] {
        let start = scene.rig.start_app(name, scene.bundle, &[how]);
        scene.rig.send(HostCommand::Start(start));
        assert!(scene.next().starts_with("started"));
    }
    let starting = scene.rig.start_app("starting", scene.bundle, &["tick"]);
    let late = scene.rig.start_app("late", scene.bundle, &["tick"]);
    let worker = Face::Worker(TenantId::new("late").unwrap());
    for command in [
        HostCommand::Freeze { app: app("frozen") },
        HostCommand::Start(starting),
        HostCommand::Import { bundle: Digest::of(b"unknown") },
        HostCommand::Shutdown { grace: Span::from_millis(300) },
        HostCommand::Start(late),
        HostCommand::StartFace { face: worker },
        HostCommand::Freeze { app: app("deaf") },
        HostCommand::Shutdown { grace: Span::MAX },
        HostCommand::Sample,
    ] {
        scene.rig.send(command);
    }
    scene.rig.send_raw(b"noise");
    let mut said = Vec::new();
    scene.ended(|event| said.extend(told(event)));
    let after: Vec<&String> = said.iter().skip_while(|told| *told != "ending").collect();
    assert!(!after.is_empty(), "{said:?}");
    // What was asked before may still be answered.
    let is_new = |told: &str| told.contains("late") || ["sampled", "frozen oem/deaf"].contains(&told);
    assert_eq!(after.iter().find(|told| is_new(told)), None, "{said:?}");
    for name in ["deaf", "frozen"] {
        assert!(after.iter().any(|told| told.starts_with(&format!("exited oem/{name}"))), "{said:?}");
    }
}
