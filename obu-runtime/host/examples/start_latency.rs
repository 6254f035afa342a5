//! Measures app starts from where they are asked for: run by a real `verge-host` in the place of node, it stamps
//! the clock, writes the command to host's socket, and reads the app's own stamp from its log pipe.
//!
//! The bench writes `[policy] bench = ["LABEL IDLE_MS COUNT DIGEST", ...]` into the node's file and puts the
//! bundle (a program `/app/stamp` that prints CLOCK_MONOTONIC in nanoseconds first of all) into the spool.
//! One line per start goes to standard error, which is host's:
//! `start LABEL NS_TO_FIRST_INSTRUCTION NS_TO_STARTED_EVENT TOOK_US ahead|spot`, then `start done`.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use obu_host::channel::{inherited, receive_from_host};
use policies::face::{Attachment, FromHost, ToHost};
use policies::host::{AppRef, Face, HostCommand, HostEvent, StartApp};
use policies::id::{AppName, Digest, TenantId};
use policies::manifest::Resources;
use policies::task::Class;
use policies::wire::{Kind, decode, encode};
use rustix::net::SendFlags;
use rustix::time::{ClockId, clock_gettime};

type Done<T> = Result<T, Box<dyn Error>>;

/// Starts before the first that counts: page cache, host's own first times.
const WARM_UP: u64 = 5;

/// What host sends.
enum Message {
    Face(FromHost, Option<OwnedFd>),
    Event(HostEvent),
}

/// Node's end of the host channel.
struct Host {
    socket: OwnedFd,
    buffer: Vec<u8>,
    instance: u64,
}

impl Host {
    fn next(&mut self) -> Done<Message> {
        let Some((len, descriptor)) = receive_from_host(self.socket.as_fd(), &mut self.buffer)? else {
            return Err("host is gone".into());
        };
        let frame = &self.buffer[..len];
        Ok(if frame.get(3) == Some(&(Kind::HostEvent as u8)) {
            Message::Event(decode(Kind::HostEvent, frame)?)
        } else {
            Message::Face(decode(Kind::Face, frame)?, descriptor)
        })
    }

    fn send(&self, frame: &[u8]) -> Done<()> {
        rustix::net::send(&self.socket, frame, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn command(&self, command: HostCommand) -> Done<Vec<u8>> {
        Ok(encode(Kind::Face, &ToHost::Command(command))?)
    }

    /// Waits for the event that `pick` picks; a refusal of any kind ends the run.
    fn event<T>(&mut self, mut pick: impl FnMut(&HostEvent) -> Option<T>) -> Done<T> {
        loop {
            let Message::Event(event) = self.next()? else { continue };
            if let Some(picked) = pick(&event) {
                return Ok(picked);
            }
            if let HostEvent::StartFailed { refusal, .. }
            | HostEvent::ImportRefused { refusal, .. }
            | HostEvent::Refused { refusal, .. } = event
            {
                return Err(Box::new(refusal));
            }
        }
    }

    /// The bench puts the bundle there once host has emptied the spool.
    fn import(&mut self, bundle: Digest) -> Done<()> {
        while !Path::new("/spool").join(bundle.hex()).exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.send(&self.command(HostCommand::Import { bundle })?)?;
        self.event(|event| {
            matches!(event, HostEvent::Imported { bundle: b, .. } if *b == bundle).then_some(())
        })
    }

    /// One start, from the command's bytes on the socket to the end of the app. Nanoseconds to the app's first
    /// instruction and to the event, host's own figure in microseconds, and whether the sandbox was made ahead.
    fn start(&mut self, bundle: Digest) -> Done<(u64, u64, u64, bool)> {
        self.instance += 1;
        let app = AppRef { tenant: TenantId::new("bench")?, app: AppName::new("stamp")? };
        let frame = self.command(HostCommand::Start(StartApp {
            app: app.clone(),
            instance: self.instance,
            bundle,
            base: None,
            command: vec!["/app/stamp".into()],
            env: Vec::new(),
            class: Class::Comfort,
            resources: Resources::default(),
            island: false,
        }))?;
        let asked = now_ns();
        self.send(&frame)?;
        let log = loop {
            if let Message::Face(FromHost::Attach(Attachment::Log(_)), Some(log)) = self.next()? {
                break log;
            }
        };
        let (took, ahead) = self.event(|event| match event {
            HostEvent::Started { took_us, enforced, .. } => {
                Some((*took_us, enforced.iter().any(|line| line.value == "made ahead")))
            }
            _ => None,
        })?;
        let started = now_ns();
        self.event(|event| matches!(event, HostEvent::Exited { .. }).then_some(()))?;
        // The app is gone, so all that it wrote is there and the non-blocking end reads to its end.
        let mut line = String::new();
        BufReader::new(File::from(log)).read_line(&mut line)?;
        let first: u64 = line.trim().parse()?;
        Ok((first.saturating_sub(asked), started.saturating_sub(asked), took, ahead))
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// One line of the plan.
fn series(host: &mut Host, line: &str) -> Done<()> {
    let [label, idle_ms, count, digest] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("{line:?} is not LABEL IDLE_MS COUNT DIGEST").into());
    };
    let (idle, count) = (Duration::from_millis(idle_ms.parse()?), count.parse::<u64>()?);
    let bundle: Digest = digest.parse()?;
    host.import(bundle)?;
    for number in 0..WARM_UP + count {
        std::thread::sleep(idle);
        let (first, started, took, ahead) = host.start(bundle)?;
        if number >= WARM_UP {
            let origin = if ahead { "ahead" } else { "spot" };
            eprintln!("start {label} {first} {started} {took} {origin}");
        }
    }
    Ok(())
}

fn run(host: &mut Host) -> Done<()> {
    let mut plan = Vec::new();
    loop {
        match host.next()? {
            Message::Face(FromHost::Start { face, config, .. }, _) if face == Face::Node => {
                let config: toml::Table = config.parse()?;
                plan = config["policy"]["bench"].clone().try_into::<Vec<String>>()?;
            }
            Message::Face(FromHost::Stop, _) => return Ok(()),
            Message::Event(HostEvent::Hello { .. }) => break,
            Message::Face(..) | Message::Event(_) => {}
        }
    }
    host.send(&encode(Kind::Face, &ToHost::Ready)?)?;
    for line in &plan {
        series(host, line)?;
    }
    eprintln!("start done");
    loop {
        if let Message::Face(FromHost::Stop, _) = host.next()? {
            return Ok(());
        }
    }
}

fn main() -> Done<()> {
    let mut host = Host { socket: inherited()?, buffer: Vec::new(), instance: 0 };
    run(&mut host).inspect_err(|error| eprintln!("start failed {error}"))
}
