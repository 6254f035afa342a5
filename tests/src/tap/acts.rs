//! From what strace saw of one host and all below it to what that node did: who is who, and what each call was for.
//!
//! ```text
//!   verge-host --clone3(new namespaces)--> init --fork--> program: a face or an app   (a sandbox)
//!        \-----clone3(none)--------------> an import
//! ```
//! Processes of apps are looked at once, when their program starts: what they do afterwards they do inside their
//! sandbox, and whatever leaves it leaves through a face.

use std::collections::BTreeMap;

use policies::face::{Attachment, FromHost, ToBorder};
use policies::host::Face;
use policies::wire::{self, Kind};

use super::trace::{Call, Event, What, descriptor};
use super::{Act, Deed, Durably, Who};

/// Signals that say nothing but "are you there".
const NO_SIGNAL: &str = "0";

/// What a thread belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Host,
    Import,
    /// Pid 1 of a sandbox.
    Init(usize),
    /// Its program, once it runs.
    Program(usize),
}

/// A sandbox that host has made.
#[derive(Debug, Default)]
struct Sandbox {
    /// Its group below the node's: `faces/bus`, `driving/oem/lane`.
    place: String,
    runs: bool,
    ended: bool,
}

impl Sandbox {
    fn who(&self) -> Who {
        Who::at(&self.place)
    }
}

/// Reads the acts of one host's life out of a trace. `wall_to_node` is what to take from the wall clock to get the
/// node's clock, microseconds.
pub fn acts(events: &[Event], wall_to_node: u64) -> Vec<Act> {
    let mut reader = Reader { wall_to_node, ..Reader::default() };
    // Who made whom, first: a child's first line may stand before the end of the call that made it.
    let mut made: BTreeMap<i32, (usize, i32)> = BTreeMap::new();
    for (number, event) in events.iter().enumerate() {
        if let What::Call(call) = &event.what
            && is_making(&call.name)
            && call.succeeded()
            && let Some(child) = call.child()
        {
            made.insert(child, (number, event.pid));
        }
    }
    if let Some(first) = events.first() {
        reader.parts.insert(first.pid, Part::Host);
    }
    for event in events {
        reader.place_thread(event, events, &made);
        reader.take(event);
    }
    reader.acts
}

fn is_making(name: &str) -> bool {
    matches!(name, "clone" | "clone3" | "fork" | "vfork")
}

#[derive(Debug, Default)]
struct Reader {
    wall_to_node: u64,
    acts: Vec<Act>,
    parts: BTreeMap<i32, Part>,
    sandboxes: Vec<Sandbox>,
    /// Groups that host has opened, by descriptor.
    groups: BTreeMap<i32, String>,
    /// Sandboxes by the descriptor of their init.
    pidfds: BTreeMap<i32, usize>,
    /// The thread that opened the store, by the sandbox of the node.
    openers: BTreeMap<usize, i32>,
    /// Imports whose bundle is known.
    imports: Vec<i32>,
    /// Ends of channels between faces, by their socket, and whom each leads to.
    channels: BTreeMap<String, Face>,
}

impl Reader {
    fn act(&mut self, event: &Event, deed: Deed) {
        let at = event.at.saturating_sub(self.wall_to_node);
        self.acts.push(Act { at, deed, seen: event.line.clone() });
    }

    fn other(&mut self, event: &Event, why: &'static str) {
        self.act(event, Deed::Other { why });
    }

    /// Finds out what a thread belongs to that is seen for the first time.
    fn place_thread(&mut self, event: &Event, events: &[Event], made: &BTreeMap<i32, (usize, i32)>) {
        let Some((number, parent)) = made.get(&event.pid).filter(|_| !self.parts.contains_key(&event.pid))
        else {
            return;
        };
        let What::Call(call) = &events[*number].what else { return };
        let part = match self.parts.get(parent) {
            Some(Part::Host) if call.arguments.contains("CLONE_NEWPID") => {
                let group = call.field("cgroup").and_then(|fd| self.groups.get(&fd.parse().ok()?));
                let place = group.cloned().unwrap_or_default();
                self.sandboxes.push(Sandbox { place, ..Sandbox::default() });
                let sandbox = self.sandboxes.len() - 1;
                let pidfd = call.field("pidfd").and_then(|text| descriptor(text.trim_start_matches('[')));
                // The first `pidfd=` of clone3 is an address, the one that it has filled in comes after `=>`.
                let filled = call.arguments.split("=> {pidfd=[").nth(1).and_then(descriptor);
                if let Some((fd, _)) = filled.or(pidfd) {
                    self.pidfds.insert(fd, sandbox);
                }
                Part::Init(sandbox)
            }
            Some(Part::Host) => Part::Import,
            Some(Part::Init(sandbox)) => Part::Program(*sandbox),
            Some(part) => *part,
            None => return,
        };
        self.parts.insert(event.pid, part);
    }

    fn take(&mut self, event: &Event) {
        let part = self.parts.get(&event.pid).copied();
        match (&event.what, part) {
            (What::Ended(how), Some(part)) => self.ended(event, part, how),
            (What::Call(call), Some(part)) => match part {
                Part::Host => self.host(event, call),
                Part::Import => self.import(event, call),
                Part::Init(sandbox) => self.init(event, call, sandbox),
                Part::Program(sandbox) => self.program(event, call, sandbox),
            },
            (What::Call(_), None) => self.other(event, "a process that nobody was seen to make"),
            (What::Ended(_), None) => {}
        }
    }

    fn ended(&mut self, event: &Event, part: Part, how: &str) {
        match part {
            Part::Host => self.act(event, Deed::HostEnded { killed: how.starts_with("killed") }),
            Part::Init(sandbox) => {
                self.sandboxes[sandbox].ended = true;
                let who = self.sandboxes[sandbox].who();
                self.act(event, Deed::Ended { who });
            }
            Part::Import | Part::Program(_) => {}
        }
    }

    fn host(&mut self, event: &Event, call: &Call) {
        match call.name.as_str() {
            "execve" => self.act(event, Deed::HostBegan),
            "openat" => {
                if let Some((fd, path)) = descriptor(&call.result)
                    && call.arguments.contains("O_PATH")
                    && let Some(place) = group(path)
                {
                    self.groups.insert(fd, place.to_owned());
                }
            }
            "write" => self.host_writes(event, call),
            "read" if call.descriptor().is_some_and(|(_, path)| path.contains("signalfd")) => {
                self.act(event, Deed::ToldToEnd);
            }
            "fsync" | "fdatasync" | "syncfs" => self.durable(event, call, None),
            "pidfd_send_signal" => {
                let target = call.descriptor().and_then(|(fd, _)| self.pidfds.get(&fd));
                let name = signal(&call.arguments);
                match target.map(|sandbox| self.sandboxes[*sandbox].who()) {
                    Some(to) => self.act(event, Deed::Signal { to, name, by_init: false }),
                    None => self.other(event, "a signal to a process that is no sandbox of this host"),
                }
            }
            "kill" | "tkill" | "tgkill" => self.other(event, "host signals by number"),
            "sendmsg" => self.handed_over(call),
            "sendto" | "clone3" | "clone" | "read" | "bind" | "writev" | "pwrite64" => {}
            _ => self.other(event, "a call that host has no business with"),
        }
    }

    /// Host hands a face its end of a channel. A message for an app names no tenant: that is told by whose border the
    /// channel leads to.
    fn handed_over(&mut self, call: &Call) {
        let said = call.bytes().and_then(|bytes| wire::decode(Kind::Face, &bytes).ok());
        let end = call.arguments.split("cmsg_data=[").nth(1).and_then(descriptor);
        if let (Some(FromHost::Attach(Attachment::Channel(face))), Some((_, socket))) = (said, end) {
            self.channels.insert(socket.to_owned(), face);
        }
    }

    fn host_writes(&mut self, event: &Event, call: &Call) {
        let Some((_, path)) = call.descriptor() else { return };
        let Some(group_file) = group(path) else { return };
        let value = call.bytes().map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        let (place, file) = group_file.rsplit_once('/').unwrap_or(("", group_file));
        let deed = match file {
            "cgroup.freeze" => Deed::Freeze { who: Who::at(place), frozen: value == "1" },
            "freezer.state" => Deed::Freeze { who: Who::at(place), frozen: value == "FROZEN" },
            "cgroup.kill" => Deed::KillGroup { place: place.to_owned() },
            "cpu.shares" | "cpu.weight" => {
                Deed::Share { place: place.to_owned(), file: file.to_owned(), value }
            }
            _ => Deed::Limit { place: place.to_owned(), file: file.to_owned() },
        };
        self.act(event, deed);
    }

    fn import(&mut self, event: &Event, call: &Call) {
        let named = call.arguments.split(".new-").nth(1).and_then(|rest| rest.get(..64));
        if let Some(bundle) = named.filter(|_| !self.imports.contains(&event.pid)) {
            self.imports.push(event.pid);
            self.act(event, Deed::Imported { bundle: bundle.to_owned() });
        }
        match call.name.as_str() {
            "fsync" | "fdatasync" | "syncfs" => {
                let known = self.imports.contains(&event.pid);
                self.durable(event, call, known.then_some("import"));
            }
            "openat" | "write" | "read" | "clone" | "clone3" | "writev" => {}
            _ => self.other(event, "a call that an import has no business with"),
        }
    }

    fn init(&mut self, event: &Event, call: &Call, sandbox: usize) {
        match call.name.as_str() {
            "kill" if signal(&call.arguments) != NO_SIGNAL => {
                let to = self.sandboxes[sandbox].who();
                self.act(event, Deed::Signal { to, name: signal(&call.arguments), by_init: true });
            }
            // Until the program runs, this is host's own code that builds the sandbox.
            "openat" | "write" | "read" | "clone" | "clone3" | "kill" | "fork" => {
                if self.sandboxes[sandbox].place.is_empty()
                    && let Some(place) = call.descriptor().and_then(|(_, path)| group(path))
                    && let Some((place, _)) = place.rsplit_once('/')
                {
                    self.sandboxes[sandbox].place = place.to_owned();
                }
            }
            _ => self.other(event, "a call that an init has no business with"),
        }
    }

    fn program(&mut self, event: &Event, call: &Call, sandbox: usize) {
        let who = self.sandboxes[sandbox].who();
        if call.name == "execve" && !self.sandboxes[sandbox].runs {
            if call.succeeded() || call.result.is_empty() {
                self.sandboxes[sandbox].runs = true;
                let end = call.arguments.rfind("], ").unwrap_or(call.arguments.len());
                let list = Call { arguments: call.arguments[..end].to_owned(), ..Call::default() };
                let command = list.words().split_off(1);
                self.act(event, Deed::Started { who, command });
            }
            return;
        }
        if let Who::Face(face) = who
            && self.sandboxes[sandbox].runs
        {
            self.face(event, call, sandbox, &face);
        }
    }

    fn face(&mut self, event: &Event, call: &Call, sandbox: usize, face: &str) {
        let stores = call.descriptor().is_some_and(|(_, path)| path.ends_with("/node.redb"));
        match call.name.as_str() {
            "fdatasync" | "pwrite64" if face == "node" && stores => self.store(event, call, sandbox),
            "fsync" | "fdatasync" | "syncfs" | "sync" => self.durable(event, call, Some(face)),
            "bind" if face.starts_with("border-") => {
                let path = call.words().into_iter().next().unwrap_or_default();
                let app = path.split('/').rev().nth(1).unwrap_or_default().to_owned();
                let tenant = face.trim_start_matches("border-").to_owned();
                self.act(event, Deed::Island { app: format!("{tenant}/{app}") });
            }
            "write" | "sendto" | "sendmsg" => self.sent(event, call, face),
            "clone" | "clone3" if call.arguments.contains("CLONE_THREAD") => {}
            // The answer of a filter that forbids it; the C library then asks by the old call.
            "clone3" if call.result.contains("ENOSYS") => {}
            "clone" | "clone3" | "fork" | "vfork" | "execve" | "execveat" => {
                self.other(event, "a face starts a process");
            }
            "kill" | "tkill" | "tgkill" | "pidfd_send_signal" | "rt_sigqueueinfo" | "rt_tgsigqueueinfo" => {
                self.other(event, "a face sends a signal");
            }
            _ => {}
        }
    }

    /// Something that a face wrote: messages are told by their head, effects and frames by what they are.
    fn sent(&mut self, event: &Event, call: &Call, face: &str) {
        let Some(bytes) = call.bytes() else { return };
        let kind = bytes.get(3).filter(|_| bytes.starts_with(b"vg")).copied();
        let body = bytes.get(wire::HEADER_LEN..).unwrap_or_default();
        let socket = call.descriptor().map(|(_, socket)| socket.to_owned()).unwrap_or_default();
        if face == "bus" && call.name == "sendto" && call.arguments.contains("sa_family=AF_INET") {
            let frame = can_core::multicast::decode(&bytes).map(|d| super::frame_text(&d.frame));
            self.act(event, Deed::Frame { frame: frame.unwrap_or_else(|_| "not a frame".into()) });
        } else if face == "bus" && bytes.starts_with(b"task=") {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            self.act(event, Deed::Effect { line });
        } else if face == "node" && kind == Some(Kind::Control as u8) && body.first() == Some(&0) {
            self.act(event, Deed::Reply { connection: socket, bytes });
        } else if matches!(face, "bus" | "camera")
            && kind == Some(Kind::Face as u8)
            && self.channels.get(&socket) != Some(&Face::Node)
        {
            let tenant = match self.channels.get(&socket) {
                Some(Face::Border(tenant)) => tenant.to_string(),
                _ => "?".to_owned(),
            };
            for (app, what) in data(&bytes) {
                self.act(event, Deed::Data { by: face.to_owned(), app: format!("{tenant}/{app}"), what });
            }
        }
    }

    /// A commit is the write of the store's head that makes a change the valid one, and what is synced around it.
    fn store(&mut self, event: &Event, call: &Call, sandbox: usize) {
        let opener = *self.openers.entry(sandbox).or_insert(event.pid) == event.pid;
        if call.name == "fdatasync" {
            self.act(event, Deed::Durable { what: Durably::Store { opener } });
        } else if call.arguments.ends_with(", 0") {
            self.act(event, Deed::Durable { what: Durably::Commit { opener } });
        }
    }

    fn durable(&mut self, event: &Event, call: &Call, by: Option<&str>) {
        let path = call.descriptor().map(|(_, path)| path).unwrap_or_default();
        let what = match (by, path) {
            (None, path) if path.ends_with("/incarnation.new") || path.ends_with("/state") => {
                Durably::Incarnation
            }
            (Some("import"), _) => Durably::Import,
            (Some("node"), path) if path.starts_with("/spool/") => {
                Durably::Upload { bundle: path.split('/').nth(2).unwrap_or_default().to_owned() }
            }
            _ => return self.other(event, "a file that nothing is said to make durable"),
        };
        self.act(event, Deed::Durable { what });
    }
}

/// The place below a node's own group: `/sys/fs/cgroup/cpu/verge-a1/faces/bus` is `faces/bus`.
fn group(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/sys/fs/cgroup/")?;
    let (_, rest) = rest.split_once("verge-")?;
    rest.split_once('/').map(|(_, place)| place)
}

/// The name of the signal in `33<anon_inode:[pidfd]>, SIGTERM, NULL, 0` or `2 /* ... */, SIGTERM`.
fn signal(arguments: &str) -> String {
    let names = arguments.split(", ").filter(|word| word.starts_with("SIG") || *word == NO_SIGNAL);
    names.map(str::to_owned).next().unwrap_or_default()
}

/// Which app a message to a border carries data for, and of what: `Vehicle.Speed`, `camera front`. Of a message that
/// is longer than what was written down, as much as can be read.
fn data(bytes: &[u8]) -> Vec<(String, String)> {
    match wire::decode::<ToBorder>(Kind::Face, bytes) {
        Ok(ToBorder::Signals { app, samples }) => {
            samples.into_iter().map(|(signal, _)| (app.to_string(), signal.path.to_string())).collect()
        }
        Ok(ToBorder::Frame { app, frame }) => vec![(app.to_string(), format!("camera {}", frame.camera))],
        Ok(_) => Vec::new(),
        Err(_) => head_of_data(bytes.get(wire::HEADER_LEN..).unwrap_or_default()).unwrap_or_default(),
    }
}

/// Variant 2 is `Signals`, 3 is `Frame`; both begin with the app's name, a length and its bytes.
fn head_of_data(body: &[u8]) -> Option<Vec<(String, String)>> {
    let (variant, rest) = body.split_first()?;
    let (app, rest) = name(rest)?;
    match variant {
        2 => Some(paths(rest).into_iter().map(|path| (app.clone(), path)).collect()),
        3 => name(rest).map(|(camera, _)| vec![(app, format!("camera {camera}"))]),
        _ => None,
    }
}

fn name(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (len, rest) = bytes.split_first()?;
    let text = rest.get(..usize::from(*len)).filter(|text| !text.is_empty())?;
    let is_name = text.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    is_name.then(|| (String::from_utf8_lossy(text).into_owned(), &rest[usize::from(*len)..]))
}

/// Whole VSS paths in the bytes: each stands behind its length.
fn paths(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for at in 1..bytes.len() {
        let text =
            bytes.get(at..at + usize::from(bytes[at - 1])).filter(|text| text.starts_with(b"Vehicle."));
        found.extend(text.map(|text| String::from_utf8_lossy(text).into_owned()));
    }
    found
}

#[cfg(test)]
mod tests;
