//! Imports, each in a process of its own: copying, hashing and unpacking foreign bytes takes time, which host has
//! not, and rights, which that process gives up first.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use policies::host::{HostEvent, HostRefusal};
use policies::id::Digest;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, WaitId, WaitIdOptions, waitid};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::fault::{FileError, refusal, refuse};
use crate::ground::Ground;
use crate::outbox::Outbox;
use crate::sandbox::{fence, seccomp};
use crate::sys::{self, Forked};

/// Most imports at once: they are bound by the disk.
const ACTIVE_MAX: usize = 2;

/// Most imports that wait. Beyond it the answer is a refusal.
const WAITING_MAX: usize = 64;

/// Memory of one import: a tar's long names are the largest thing it holds.
const MEMORY_MAX: u64 = 512 << 20;

/// Most bytes of an answer.
const ANSWER_LEN_MAX: usize = 16 << 10;

/// What an import process says at its end.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Imported { signed_by: String },
    Refused(HostRefusal),
}

/// One that is under way.
#[derive(Debug)]
struct Active {
    bundle: Digest,
    pidfd: OwnedFd,
    answer: OwnedFd,
    said: Vec<u8>,
}

/// All imports.
#[derive(Debug, Default)]
pub struct Imports {
    active: Vec<Active>,
    waiting: VecDeque<Digest>,
}

impl Imports {
    /// Takes a bundle into the store; the answer comes as an event.
    pub fn begin(&mut self, bundle: Digest, ground: &Ground, out: &mut Outbox) {
        if let Some(signed_by) = ground.store.signed_by(bundle) {
            return out.event(HostEvent::Imported { bundle, signed_by });
        }
        if self.active.iter().any(|active| active.bundle == bundle) || self.waiting.contains(&bundle) {
            return; // the answer to the first request answers this one too
        }
        if self.waiting.len() >= WAITING_MAX {
            let refusal = refuse(format!("import {bundle}"), "too many imports wait already", None);
            return out.event(HostEvent::ImportRefused { bundle, refusal });
        }
        self.waiting.push_back(bundle);
        self.next(ground, out);
    }

    fn next(&mut self, ground: &Ground, out: &mut Outbox) {
        while self.active.len() < ACTIVE_MAX {
            let Some(bundle) = self.waiting.pop_front() else { return };
            match start(bundle, ground) {
                Ok(active) => self.active.push(active),
                Err(error) => {
                    let refusal = refusal(format!("import {bundle}"), &error);
                    out.event(HostEvent::ImportRefused { bundle, refusal });
                }
            }
        }
    }

    /// What the loop waits on.
    pub fn waits(&self) -> impl Iterator<Item = (Digest, &OwnedFd)> {
        self.active.iter().map(|active| (active.bundle, &active.answer))
    }

    /// An import has said something, or ended.
    pub fn ready(&mut self, bundle: Digest, ground: &Ground, out: &mut Outbox) {
        let Some(at) = self.active.iter().position(|active| active.bundle == bundle) else { return };
        let mut buffer = [0u8; 4096];
        let active = &mut self.active[at];
        match rustix::io::read(&active.answer, &mut buffer) {
            Ok(len) if len > 0 && active.said.len() < ANSWER_LEN_MAX => {
                active.said.extend_from_slice(&buffer[..len]);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            _ => {
                let done = self.active.swap_remove(at);
                finish(&done, out);
                self.next(ground, out);
            }
        }
    }

    /// Ends what is under way.
    pub fn cancel(&mut self) {
        self.waiting.clear();
        for active in self.active.drain(..) {
            let _ = rustix::process::pidfd_send_signal(&active.pidfd, rustix::process::Signal::KILL);
            reap(&active.pidfd);
        }
    }
}

fn reap(pidfd: &OwnedFd) {
    let _ = waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(pidfd)), WaitIdOptions::EXITED);
}

fn finish(done: &Active, out: &mut Outbox) {
    reap(&done.pidfd);
    let bundle = done.bundle;
    out.event(match serde_json::from_slice(&done.said) {
        Ok(Answer::Imported { signed_by }) => HostEvent::Imported { bundle, signed_by },
        Ok(Answer::Refused(refusal)) => HostEvent::ImportRefused { bundle, refusal },
        Err(_) => {
            let why = "the process that unpacks it died (out of memory or disk?)";
            HostEvent::ImportRefused { bundle, refusal: refuse(format!("import {bundle}"), why, None) }
        }
    });
}

fn start(bundle: Digest, ground: &Ground) -> Result<Active, FileError> {
    let (answer, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(FileError::at("make", "a pipe"))?;
    match sys::clone3(0, None).map_err(FileError::at("make", "a process"))? {
        Forked::Child => {
            drop(answer);
            let answer = work(bundle, ground);
            let text = serde_json::to_vec(&answer).unwrap_or_default();
            let _ = rustix::io::write(&write, &text);
            sys::exit(0)
        }
        Forked::Parent { pidfd, .. } => Ok(Active { bundle, pidfd, answer, said: Vec::new() }),
    }
}

/// Runs in the import's own process.
fn work(bundle: Digest, ground: &Ground) -> Answer {
    let what = format!("import {bundle}");
    if let Err(error) = confine(ground) {
        return Answer::Refused(refuse(what, error.to_string(), None));
    }
    let spool = ground.spool();
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let spool = match rustix::fs::open(&spool, flags, Mode::empty()) {
        Ok(spool) => spool,
        Err(error) => return Answer::Refused(refusal(what, &FileError::at("open", &spool)(error))),
    };
    match ground.store.import(&spool, bundle) {
        Ok(signed_by) => Answer::Imported { signed_by },
        Err(error) => Answer::Refused(refusal(what, &error)),
    }
}

/// Leaves the right to read the spool and to write the store; no network, no exec of anything useful, little
/// memory. If host dies, so does it.
fn confine(ground: &Ground) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let limit = Some(MEMORY_MAX);
    rustix::process::setrlimit(Resource::As, Rlimit { current: limit, maximum: limit })?;
    let keep = if ground.privileged { CapabilitySet::DAC_READ_SEARCH } else { CapabilitySet::empty() };
    fence::give_up_rights(keep)?;
    fence::restrict_files(&[&ground.spool()], &[ground.store.dir().to_owned()]);
    sys::install_filter(&seccomp::filter(seccomp::Profile::App))
}
