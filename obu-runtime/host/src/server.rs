//! The loop: wait for one thing, act on it, say what came of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use policies::face::{Attachment, ToHost};
use policies::host::{Face, HostCommand, HostEvent};
use policies::id::Digest;
use policies::unit::Span;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::apps::{self, Apps};
use crate::channel::Received;
use crate::check;
use crate::devices::{self, DeviceError};
use crate::effects::Effects;
use crate::faces::{self, Faces};
use crate::fault::{Explain, FileError, one_line};
use crate::ground::Ground;
use crate::import::Imports;
use crate::outbox::{Outbox, Say};
use crate::pressure::Gauge;
use crate::sys;

/// Most messages taken from one face before the others get their turn.
const MESSAGES_PER_TURN: usize = 64;

/// How long host sits idle before it makes something ahead.
const IDLE: Duration = Duration::from_millis(5);

/// Time apps get when host is told to end by a signal.
const GRACE: Span = Span::from_millis(2_000);

/// Signals that end host in order.
const SIGNALS: [i32; 2] = [libc::SIGTERM, libc::SIGINT];

/// Something the loop waits on.
#[derive(Clone, Debug)]
enum Token {
    Signal,
    Face(faces::Waits),
    App(apps::Waits),
    Import(Digest),
    Effects,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    StoppingApps,
    StoppingFaces,
}

/// Why host cannot serve, or could not end in order.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file or descriptor.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something that the configuration names.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl Explain for ServeError {
    fn fix(&self) -> Option<String> {
        match self {
            Self::File(error) => error.fix(),
            Self::Device(error) => error.fix(),
        }
    }
}

/// Everything that changes while host runs.
#[derive(Debug)]
struct Server {
    ground: Ground,
    faces: Faces,
    apps: Apps,
    imports: Imports,
    effects: Option<Effects>,
    gauge: Gauge,
    signals: OwnedFd,
    stage: Stage,
    out: Outbox,
    buffer: Vec<u8>,
    /// Messages from faces that were none.
    garbage: u64,
}

/// Serves until told to end; then nothing of ours is left.
///
/// # Errors
/// What keeps host from beginning, or from clearing up at the end.
pub fn run(ground: Ground) -> Result<(), ServeError> {
    sys::block_signals(&SIGNALS);
    let signals = sys::signal_fd(&SIGNALS).map_err(FileError::at("make", "a signal descriptor"))?;
    let now = Instant::now();
    let effects = ground.config.effects.map(|server| Effects::new(server, now));
    let mut server = Server {
        faces: Faces::default(),
        apps: Apps::default(),
        imports: Imports::default(),
        effects,
        gauge: Gauge::new(std::path::Path::new("/proc")),
        signals,
        stage: Stage::Serving,
        out: Outbox::default(),
        buffer: Vec::new(),
        garbage: 0,
        ground,
    };
    server.begin(now)?;
    while !server.is_done() {
        server.turn()?;
    }
    server.imports.cancel();
    server.ground.leave()?;
    Ok(())
}

impl Server {
    /// Takes over what an earlier host left, and wants the faces that the configuration asks for.
    fn begin(&mut self, now: Instant) -> Result<(), ServeError> {
        self.apps.adopt(&self.ground);
        self.apps.clear_islands(&self.ground);
        self.clear_leftovers()?;
        let config = &self.ground.config;
        let wanted = [
            (Face::Node, true),
            (Face::Bus, !config.buses.is_empty() || config.effects.is_some()),
            (Face::Camera, !config.cameras.is_empty()),
            (Face::Link, config.outside),
        ];
        for (face, wanted) in wanted {
            if wanted {
                // Opened once before anything starts, so that a missing file is an error and not a loop.
                devices::for_face(&self.ground.config, &face)?;
                self.faces.want_own(&face, now);
            }
        }
        Ok(())
    }

    /// Ends what is in our cgroups and is no adopted app: processes of a host that was killed.
    fn clear_leftovers(&self) -> Result<(), ServeError> {
        let Some(tree) = self.ground.tree() else { return Ok(()) };
        for place in tree.places() {
            if !self.apps.owns(&place) {
                tree.kill(&place)?;
                crate::cgroup::detect::retry_busy(|| tree.remove(&place))?;
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.stage == Stage::StoppingFaces && !self.faces.any_left()
    }

    /// One turn: wait, act, tick, speak.
    fn turn(&mut self) -> Result<(), ServeError> {
        for token in self.wait()? {
            self.ready(token);
        }
        let now = Instant::now();
        self.faces.tick(now, &self.ground, &mut self.out);
        self.apps.tick(now, &self.ground, &mut self.out);
        if let Some(effects) = &mut self.effects {
            effects.tick(now);
        }
        if self.stage == Stage::StoppingApps && self.apps.is_empty() {
            self.stage = Stage::StoppingFaces;
            self.deliver();
            self.faces.stop_all(now, &self.ground);
        }
        self.deliver();
        Ok(())
    }

    fn wait(&mut self) -> Result<Vec<Token>, ServeError> {
        let now = Instant::now();
        let timeout = self.timeout(now);
        let waits = self.waits();
        let mut fds: Vec<PollFd<'_>> =
            waits.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let limit = timeout.map(|wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        });
        let count = match poll(&mut fds, limit.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(FileError::at("wait for", "events")(error).into()),
        };
        let hit = |(fd, (token, ..)): (&PollFd<'_>, &(Token, BorrowedFd<'_>, PollFlags))| {
            (!fd.revents().is_empty()).then(|| token.clone())
        };
        let ready: Vec<Token> = fds.iter().zip(&waits).filter_map(hit).collect();
        drop(fds);
        drop(waits);
        if count == 0 && self.stage == Stage::Serving {
            self.apps.prepare(&self.ground);
        }
        Ok(ready)
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        let effects = self.effects.as_ref().and_then(Effects::next_wake);
        let wakes = [self.faces.next_wake(), self.apps.next_wake(now), effects];
        let until = wakes.into_iter().flatten().min().map(|at| at.saturating_duration_since(now));
        match self.apps.wants_preparing(&self.ground) {
            true => Some(until.map_or(IDLE, |until| until.min(IDLE))),
            false => until,
        }
    }

    fn waits(&self) -> Vec<(Token, BorrowedFd<'_>, PollFlags)> {
        let mut waits = vec![(Token::Signal, self.signals.as_fd(), PollFlags::IN)];
        waits.extend(self.faces.waits().map(|(what, fd, writes)| {
            let flags = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            (Token::Face(what), fd, flags)
        }));
        waits.extend(self.apps.waits().map(|(what, fd)| (Token::App(what), fd.as_fd(), PollFlags::IN)));
        waits.extend(self.imports.waits().map(|(what, fd)| (Token::Import(what), fd.as_fd(), PollFlags::IN)));
        waits.extend(
            self.effects.iter().filter_map(Effects::waits).map(|(fd, flags)| (Token::Effects, fd, flags)),
        );
        waits
    }

    fn ready(&mut self, token: Token) {
        match token {
            Token::Signal => {
                let mut information = [0u8; 128];
                let _ = rustix::io::read(&self.signals, &mut information);
                self.shut_down(GRACE);
            }
            Token::Face(what) => self.face_ready(&what),
            Token::App(what) => {
                self.apps.ready(&what, &self.ground, &mut self.out);
                if matches!(what, apps::Waits::Status(_)) {
                    // While the app that took one begins its work is the best time to replace it.
                    self.deliver();
                    self.apps.prepare(&self.ground);
                }
            }
            Token::Import(bundle) => self.imports.ready(bundle, &self.ground, &mut self.out),
            Token::Effects => {
                let stream = self.effects.as_mut().and_then(|effects| effects.ready(Instant::now()));
                if let Some(stream) = stream {
                    self.out.attach(&Face::Bus, Attachment::EffectServer, stream);
                }
            }
        }
    }

    fn face_ready(&mut self, what: &faces::Waits) {
        match what {
            faces::Waits::Channel(face) => self.listen_to(face),
            faces::Waits::End(face) => self.faces.ended(face, Instant::now(), &self.ground, &mut self.out),
            faces::Waits::Status(face) => {
                if self.faces.status(face, &mut self.out) {
                    self.welcome(face);
                }
            }
        }
    }

    /// A face is up: what it gets that is not part of every start.
    fn welcome(&mut self, face: &Face) {
        match face {
            Face::Node => {
                self.out.event(HostEvent::Hello {
                    node: self.ground.config.node.id.clone(),
                    incarnation: self.ground.incarnation,
                    machine: self.ground.machine(),
                    adopted: self.apps.running(),
                });
                self.apps.tell_confinement(&self.ground, &mut self.out);
                // Who was up before node came (or came back) is news to this node, and counts from its Hello on.
                for face in self.faces.running().into_iter().filter(|face| *face != Face::Node) {
                    self.out.event(HostEvent::FaceStarted { face });
                }
                // So is who is away, and why.
                self.faces.lost().for_each(|event| self.out.event(event));
                self.apps.hand_over(&self.ground, &mut self.out);
            }
            Face::Bus => {
                if let Some(effects) = &mut self.effects {
                    effects.renew(Instant::now());
                }
            }
            _ => {}
        }
    }

    fn listen_to(&mut self, face: &Face) {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(process) = self.faces.get(face) else { return };
            process.channel.flush();
            match process.channel.receive(&mut self.buffer) {
                Received::Nothing => return,
                Received::Closed => return process.end(),
                Received::Garbage(why) => {
                    self.garbage = self.garbage.saturating_add(1);
                    // Each doubling once: a hostile face must not fill the journal.
                    if self.garbage.is_power_of_two() {
                        eprintln!(
                            "verge-host: {face} sent garbage: {why} ({} messages so far)",
                            self.garbage
                        );
                    }
                }
                Received::Message(message) => self.heard(face, message),
            }
        }
    }

    fn heard(&mut self, face: &Face, message: ToHost) {
        match message {
            ToHost::Command(command) if *face == Face::Node => self.obey(command),
            // Only node may command; a face that tries is as good as one that sends noise.
            ToHost::Command(_) => self.garbage = self.garbage.saturating_add(1),
            ToHost::Ready => {}
            ToHost::Failed { what, why, fix } => {
                let fix = fix.map(|fix| format!("; fix: {fix}")).unwrap_or_default();
                eprintln!("verge-host: {face} cannot serve: {}", one_line(format!("{what}: {why}{fix}")));
                if let Some(process) = self.faces.get(face) {
                    process.fails(one_line(format!("{why}{fix}")));
                }
            }
        }
    }

    fn obey(&mut self, command: HostCommand) {
        let asked = Instant::now();
        if self.stage != Stage::Serving {
            return;
        }
        if let Err(refusal) = check::command(&command) {
            return match command {
                HostCommand::Start(start) => {
                    self.out.event(HostEvent::StartFailed {
                        app: start.app,
                        instance: start.instance,
                        refusal,
                    });
                }
                command => self.out.refused(check::describe(&command), refusal),
            };
        }
        let (ground, out) = (&self.ground, &mut self.out);
        match command {
            HostCommand::Import { bundle } => self.imports.begin(bundle, ground, out),
            HostCommand::Start(start) => self.apps.start(&start, asked, ground, out),
            HostCommand::Stop { app, grace } => self.apps.stop(&app, grace, ground, out),
            HostCommand::Freeze { app } => self.apps.freeze(&app, true, ground, out),
            HostCommand::Thaw { app } => self.apps.freeze(&app, false, ground, out),
            HostCommand::Resize { app, resources } => self.apps.resize(&app, &resources, ground, out),
            HostCommand::SqueezeClass { class, share } => self.apps.squeeze(class, share, ground, out),
            HostCommand::StartFace { face } => {
                if let Err(refusal) = self.faces.want(&face, asked) {
                    out.refused(format!("start {face}"), refusal);
                }
            }
            HostCommand::Sample => {
                let (apps, pressure) = (self.apps.usage(ground), self.gauge.read());
                out.event(HostEvent::Sampled { apps, pressure });
            }
            HostCommand::Shutdown { grace } => self.shut_down(grace),
        }
    }

    fn shut_down(&mut self, grace: Span) {
        if self.stage == Stage::Serving {
            self.stage = Stage::StoppingApps;
            self.out.event(HostEvent::Ending { grace });
            self.apps.stop_all(grace, &self.ground);
        }
    }

    /// Says everything that has collected.
    fn deliver(&mut self) {
        for say in std::mem::take(&mut self.out.0) {
            match say {
                Say::Event(event) => {
                    if let Some(node) = self.faces.get(&Face::Node) {
                        node.channel.report(&event);
                    }
                }
                Say::Attach(face, what, descriptor) => {
                    if let Some(process) = self.faces.get(&face) {
                        process.channel.attach(what, descriptor);
                    }
                }
            }
        }
    }
}
