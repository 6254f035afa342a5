//! The faces of the node: starting them, connecting them with each other, starting them again when they die.
//!
//! Any two faces that talk do so over a socket pair made here, so the channel itself says who is speaking. When
//! one of the two is started anew, both get a new pair.

mod spec;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use policies::face::{Attachment, FromHost};
use policies::host::{Exit, Face, HostEvent, HostRefusal};
use policies::id::TenantId;
use policies::manifest::Resources;
use policies::unit::{Bytes, CpuMilli};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::cgroup::Place;
use crate::channel::Channel;
use crate::devices;
use crate::fault::{one_line, refusal, refuse};
use crate::ground::{Ground, TENANTS_MAX};
use crate::outbox::Outbox;
use crate::sandbox::{Outcome, SandboxError, Spawned, begin, outcome};

/// First wait before a dead face is started again; doubled each time.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);

/// Longest wait.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// A face that has lived this long starts with the first wait again.
const SETTLED: Duration = Duration::from_secs(30);

/// How long faces get between `Stop` and SIGKILL.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// CPU of a tenant's border, thousandths of a core: forwarding a camera at 30 frames/s takes a tenth of this.
const BORDER_CPU_MILLI: u32 = 500;

/// Memory of a tenant's border: 128 islands at 0.3 MB above 40 MB, and as much again for what is under way.
const BORDER_MEMORY: Bytes = Bytes::mebi(192);

/// Threads of a tenant's border.
const BORDER_PIDS: u32 = 512;

/// A face's process.
#[derive(Debug)]
pub struct Process {
    /// Host's end of its channel.
    pub channel: Channel,
    pidfd: OwnedFd,
    start: Option<(OwnedFd, OwnedFd, Vec<u8>)>,
    born: Instant,
    ending: bool,
    /// Why it cannot serve, in its own words or those of its start.
    failed: Option<String>,
}

impl Process {
    /// Keeps why it cannot serve, for the report of its end.
    pub fn fails(&mut self, why: String) {
        self.failed = Some(why);
    }

    /// Ends it at once. It is told once: until the kernel has taken it down its closed channel says the same thing
    /// again and again.
    pub fn end(&mut self) {
        if !self.ending {
            self.ending = true;
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }
}

/// A face that should be there.
#[derive(Debug, Default)]
struct Slot {
    process: Option<Process>,
    again_at: Option<Instant>,
    back_off: Duration,
    /// How the last process ended and why, or why none could be started; until one is up again.
    lost: Option<(Exit, Option<String>)>,
}

/// All faces.
#[derive(Debug, Default)]
pub struct Faces {
    slots: BTreeMap<Face, Slot>,
    tenants: Vec<TenantId>,
    stop_by: Option<Instant>,
}

/// A descriptor of a face's that the loop waits on.
#[derive(Clone, Debug)]
pub enum Waits {
    /// Its host channel.
    Channel(Face),
    /// Its start.
    Status(Face),
    /// Its end.
    End(Face),
}

/// Whether two faces talk to each other.
fn talk(a: &Face, b: &Face) -> bool {
    let one_way = |a: &Face, b: &Face| {
        matches!(
            (a, b),
            (Face::Node, Face::Bus | Face::Link | Face::Camera | Face::Border(_) | Face::Worker(_))
                | (Face::Bus | Face::Camera, Face::Border(_))
        )
    };
    one_way(a, b) || one_way(b, a)
}

impl Faces {
    /// The face's process, if it has one.
    pub fn get(&mut self, face: &Face) -> Option<&mut Process> {
        self.slots.get_mut(face)?.process.as_mut()
    }

    /// Faces that are up.
    pub fn running(&self) -> Vec<Face> {
        let up = |slot: &Slot| slot.process.as_ref().is_some_and(|process| process.start.is_none());
        self.slots.iter().filter(|(_, slot)| up(slot)).map(|(face, _)| face.clone()).collect()
    }

    /// Faces that should be there and are away, as they were reported.
    pub fn lost(&self) -> impl Iterator<Item = HostEvent> {
        self.slots.iter().filter_map(|(face, slot)| {
            let (exit, why) = slot.lost.clone()?;
            Some(HostEvent::FaceExited { face: face.clone(), exit, why })
        })
    }

    /// Whether any process is left.
    pub fn any_left(&self) -> bool {
        self.slots.values().any(|slot| slot.process.is_some())
    }

    /// What the loop waits on, and whether it also waits to write.
    pub fn waits(&self) -> impl Iterator<Item = (Waits, std::os::fd::BorrowedFd<'_>, bool)> {
        self.slots.iter().flat_map(|(face, slot)| {
            slot.process.iter().flat_map(move |process| {
                let channel =
                    (Waits::Channel(face.clone()), process.channel.fd(), process.channel.wants_to_send());
                // A face that is being ended says nothing any more that counts; its closed channel would never rest.
                let channel = (!process.ending).then_some(channel);
                let end = (Waits::End(face.clone()), process.pidfd.as_fd(), false);
                let status = process
                    .start
                    .iter()
                    .map(|(status, ..)| (Waits::Status(face.clone()), status.as_fd(), false));
                channel.into_iter().chain([end]).chain(status)
            })
        })
    }

    /// When [`Self::tick`] has something to do.
    pub fn next_wake(&self) -> Option<Instant> {
        self.slots.values().filter_map(|slot| slot.again_at).chain(self.stop_by).min()
    }

    /// Wants a face from now on. It is no error if it is there already.
    ///
    /// # Errors
    /// If there are too many tenants.
    pub fn want(&mut self, face: &Face, now: Instant) -> Result<(), HostRefusal> {
        if let Face::Border(tenant) | Face::Worker(tenant) = face
            && !self.tenants.contains(tenant)
        {
            if self.tenants.len() >= TENANTS_MAX {
                let why = format!("{TENANTS_MAX} tenants have faces, the most a node holds");
                return Err(refuse(format!("start {face}"), why, None));
            }
            self.tenants.push(tenant.clone());
        }
        self.want_own(face, now);
        Ok(())
    }

    /// As [`Self::want`], for the faces that belong to no tenant.
    pub fn want_own(&mut self, face: &Face, now: Instant) {
        let slot = self.slots.entry(face.clone()).or_default();
        if slot.process.is_none() && slot.again_at.is_none() {
            slot.again_at = Some(now);
        }
    }

    /// Starts faces that are due, and kills those that hang.
    pub fn tick(&mut self, now: Instant, ground: &Ground, out: &mut Outbox) {
        let due = |slot: &Slot| slot.again_at.is_some_and(|at| at <= now);
        let due: Vec<Face> =
            self.slots.iter().filter(|(_, slot)| due(slot)).map(|(face, _)| face.clone()).collect();
        for face in due {
            if self.stop_by.is_none() {
                self.start(&face, now, ground, out);
            }
        }
        let overdue = self.stop_by.is_some_and(|by| by <= now);
        for process in self.slots.values_mut().filter_map(|slot| slot.process.as_mut()) {
            if !process.ending && (overdue || process.channel.is_broken()) {
                process.end();
            }
        }
        if overdue {
            self.stop_by = None;
        }
    }

    /// Asks all faces to end; [`Self::any_left`] says when that is done. Those that do not are killed after
    /// two seconds, times the node's time scale.
    pub fn stop_all(&mut self, now: Instant, ground: &Ground) {
        self.stop_by = Some(now + STOP_WAIT * ground.config.node.time_scale);
        for slot in self.slots.values_mut() {
            slot.again_at = None;
            if let Some(process) = &mut slot.process {
                process.channel.say(&FromHost::Stop);
            }
        }
    }

    fn start(&mut self, face: &Face, now: Instant, ground: &Ground, out: &mut Outbox) {
        let slot = self.tenant_slot(face);
        match launch(face, slot, now, ground) {
            Ok(process) => {
                let entry = self.slots.entry(face.clone()).or_default();
                entry.process = Some(process);
                entry.again_at = None;
                self.connect(face, out);
                if let Some(process) = self.get(face) {
                    process.channel.say(&FromHost::Go);
                }
            }
            Err(refusal) => {
                let why = format!("{refusal}{}", fix_text(&refusal));
                eprintln!("verge-host: cannot start {face}: {why}");
                self.schedule(face, now, now);
                self.lose(face, Exit::Unknown, Some(one_line(why)), out);
            }
        }
    }

    fn tenant_slot(&self, face: &Face) -> u32 {
        let (Face::Border(tenant) | Face::Worker(tenant)) = face else { return 0 };
        let place = self.tenants.iter().position(|known| known == tenant).unwrap_or(0);
        u32::try_from(place).unwrap_or(0)
    }

    /// Gives the face a new channel with every face that it talks to.
    fn connect(&mut self, face: &Face, out: &mut Outbox) {
        let others: Vec<Face> = self.slots.keys().filter(|other| talk(face, other)).cloned().collect();
        for other in others {
            if self.get(&other).is_none() {
                continue; // it will be connected when it starts
            }
            let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
            let Ok((one, two)) = pair else {
                eprintln!("verge-host: no descriptors left for a channel between {face} and {other}");
                continue;
            };
            if let Some(process) = self.get(face) {
                process.channel.attach(Attachment::Channel(other.clone()), one);
            }
            out.attach(&other, Attachment::Channel(face.clone()), two);
        }
    }

    /// Plans the next start of a face that was born at `born`.
    fn schedule(&mut self, face: &Face, born: Instant, now: Instant) {
        let slot = self.slots.entry(face.clone()).or_default();
        let settled = now.duration_since(born) >= SETTLED;
        slot.back_off =
            if settled { BACK_OFF_MIN } else { (slot.back_off * 2).clamp(BACK_OFF_MIN, BACK_OFF_MAX) };
        slot.again_at = self.stop_by.is_none().then_some(now + slot.back_off);
    }

    /// Reports that a face is away, and keeps it for the next node process.
    fn lose(&mut self, face: &Face, exit: Exit, why: Option<String>, out: &mut Outbox) {
        if let Some(slot) = self.slots.get_mut(face) {
            slot.lost = Some((exit, why.clone()));
        }
        out.event(HostEvent::FaceExited { face: face.clone(), exit, why });
    }

    /// A face's process has ended.
    pub fn ended(&mut self, face: &Face, now: Instant, ground: &Ground, out: &mut Outbox) {
        let Some(process) = self.slots.get_mut(face).and_then(|slot| slot.process.take()) else { return };
        let _ = waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED);
        if let Some(tree) = ground.tree() {
            let place = Place::Face(face.clone());
            let _ = tree.kill(&place);
            let _ = crate::cgroup::detect::retry_busy(|| tree.remove(&place));
        }
        let exit = spec::exit_of(ground, face).unwrap_or(Exit::Unknown);
        eprintln!("verge-host: {face} ended: {exit:?}");
        self.schedule(face, process.born, now);
        self.lose(face, exit, process.failed, out);
    }

    /// A face's start has said something. Whether it now runs.
    pub fn status(&mut self, face: &Face, out: &mut Outbox) -> bool {
        let Some(slot) = self.slots.get_mut(face) else { return false };
        let Some(process) = &mut slot.process else { return false };
        let Some((status, _, said)) = &mut process.start else { return false };
        let mut buffer = [0u8; 4096];
        match rustix::io::read(status, &mut buffer) {
            Ok(len) if len > 0 => {
                said.extend_from_slice(&buffer[..len]);
                return false;
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return false,
            _ => {}
        }
        let outcome = outcome(said);
        process.start = None;
        match outcome {
            Outcome::Running => {
                slot.lost = None;
                out.event(HostEvent::FaceStarted { face: face.clone() });
                true
            }
            Outcome::Failed(refusal) => {
                let why = format!("{refusal}{}", fix_text(&refusal));
                eprintln!("verge-host: {face} did not start: {why}");
                process.fails(one_line(why));
                process.end();
                false
            }
        }
    }
}

fn fix_text(refusal: &HostRefusal) -> String {
    refusal.fix.as_ref().map(|fix| format!("; fix: {fix}")).unwrap_or_default()
}

/// Starts the process and sends it what it needs before `Go`, except its channels to other faces.
fn launch(face: &Face, tenant_slot: u32, now: Instant, ground: &Ground) -> Result<Process, HostRefusal> {
    let what = format!("start {face}");
    let attached = devices::for_face(&ground.config, face).map_err(|error| refusal(&what, &error))?;
    let (mut channel, theirs) = Channel::new().map_err(|error| refusal(&what, &error))?;
    channel.say(&FromHost::Start {
        face: face.clone(),
        node: ground.config.node.id.clone(),
        incarnation: ground.incarnation,
        config: ground.config.section_for(face),
        time_scale: ground.config.node.time_scale,
    });
    if let Some(dir) = spec::state_dir(ground, face, tenant_slot).map_err(|error| refusal(&what, &error))? {
        channel.attach(Attachment::StateDir, dir);
    }
    if *face == Face::Node {
        let control = ground.control().map_err(|error| refusal(&what, &error))?;
        channel.attach(Attachment::Control, control);
    }
    for (attachment, descriptor) in attached {
        channel.attach(attachment, descriptor);
    }
    let spawned = run(face, tenant_slot, theirs, ground).map_err(|error| refusal(&what, &error))?;
    let Spawned { pidfd, status, cord, .. } = spawned;
    let start = Some((status, cord, Vec::new()));
    Ok(Process { channel, pidfd, start, born: now, ending: false, failed: None })
}

/// What a tenant's border may use: its apps drive it, so it is held as they are.
fn border_limits(time_scale: u32) -> Resources {
    let cpu = CpuMilli::new(BORDER_CPU_MILLI.saturating_mul(time_scale)).unwrap_or(CpuMilli::MAX);
    Resources { cpu, memory: BORDER_MEMORY, pids: BORDER_PIDS, ..Resources::default() }
}

fn run(face: &Face, tenant_slot: u32, channel: OwnedFd, ground: &Ground) -> Result<Spawned, SandboxError> {
    let spec = spec::of(ground, face, tenant_slot, channel)?;
    let (born_in, tasks) = match ground.tree() {
        Some(tree) => {
            let place = Place::Face(face.clone());
            tree.create(&place)?;
            if let Face::Border(_) = face {
                tree.limit(&place, &border_limits(ground.config.node.time_scale))?;
            }
            (tree.birthplace(&place)?, tree.tasks(&place)?)
        }
        None => (None, Vec::new()),
    };
    let ends = spec::ends(ground, face)?;
    let begun = begin(&spec, born_in.as_ref())?;
    begun.join(&tasks)?;
    begun.go(&ends)
}
