//! The loop: drain the hub, wait for one thing, feed it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::TryRecvError;

use can_core::effect;
use can_core::frame::{BusIndex, TimedFrame};
use can_core::hub::{Hub, Input, Output};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::{TimeSpec, TimeValLike as _};
use policies::face::{FromBus, ToBorder, ToBus};
use policies::id::TenantId;
use policies::limits::MESSAGE_LEN_MAX;
use policies::time::micros;
use policies::wire::Kind;

use super::ledger::Ledger;
use super::{Attach, AttachReceiver, BusError, EffectStream};
use crate::bus::{BATCH, Bus, BusIoError};
use crate::clock::{self, Reading};
use crate::framed::{Fill, FramedReader, FramedWriter};

/// Bytes kept for a border that lags: about two seconds of every signal of a rich bus.
const BORDER_BUFFER: usize = 1 << 20;

/// Bytes kept for node: two of the largest messages.
const NODE_BUFFER: usize = 2 * MESSAGE_LEN_MAX;

/// Reads of one bus in a row before the others get their turn.
const READS_IN_A_ROW: usize = 16;

/// A stream with what waits to go out on it.
#[derive(Debug)]
struct Channel {
    stream: UnixStream,
    writer: FramedWriter,
}

impl Channel {
    fn new(stream: UnixStream, limit: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, writer: FramedWriter::new(limit) })
    }

    /// What to poll it for: hang-ups and bytes always, room only while something waits.
    fn interest(&self) -> PollFlags {
        if self.writer.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT }
    }
}

/// One thing that became ready.
#[derive(Clone, Debug)]
enum Ready {
    Attach,
    Node,
    Ledger,
    Bus(usize),
    Border(TenantId),
}

/// The bus process with its sockets.
#[derive(Debug)]
pub(super) struct Driver {
    hub: Hub,
    ports: Vec<Box<dyn Bus>>,
    /// Whether a bus was reported down and has not been heard since.
    down: Vec<bool>,
    node: Option<(Channel, FramedReader)>,
    attach: Option<AttachReceiver>,
    borders: BTreeMap<TenantId, Channel>,
    ledger: Ledger,
    frames: Vec<TimedFrame>,
    settled: Vec<effect::Input>,
    stop: bool,
}

impl Driver {
    pub(super) fn new(
        hub: Hub,
        ports: Vec<Box<dyn Bus>>,
        channel: UnixStream,
        attach: AttachReceiver,
        (effect, acks): (Option<EffectStream>, bool),
    ) -> Result<Self, BusError> {
        let mut driver = Self {
            hub,
            down: vec![false; ports.len()],
            ports,
            node: None,
            attach: Some(attach),
            borders: BTreeMap::new(),
            ledger: Ledger::new(acks),
            frames: Vec::with_capacity(BATCH),
            settled: Vec::new(),
            stop: false,
        };
        driver
            .attached(Attach::Node(channel))
            .map_err(|source| BusError::Socket { step: "use the channel to node", source })?;
        if let Some(stream) = effect {
            driver.ledger.connect(stream, &mut driver.settled);
        }
        Ok(driver)
    }

    pub(super) fn run(mut self) -> Result<(), BusError> {
        self.drain();
        while !self.stop && (self.node.is_some() || self.attach.is_some()) {
            self.flush();
            let ready =
                self.wait().map_err(|source| BusError::Socket { step: "wait for sockets", source })?;
            for ready in ready {
                self.serve(ready);
                self.drain();
            }
            if self.hub.next_wake().is_some_and(|(at, _why)| at <= clock::now()) {
                self.feed(Input::Tick);
            }
        }
        self.flush();
        Ok(())
    }

    /// Feeds the hub and does what it wants done, before it is fed again.
    fn feed(&mut self, input: Input) {
        self.hub.handle(clock::now(), input);
        self.drain();
    }

    /// Performs the hub's outputs until it has none.
    fn drain(&mut self) {
        loop {
            for input in self.settled.drain(..) {
                self.hub.handle(clock::now(), Input::Effect(input));
            }
            let Some(output) = self.hub.poll() else { return };
            match output {
                Output::ToNode(message) => self.tell_node(&message),
                Output::ToBorder { tenant, message } => self.tell_border(&tenant, &message),
                Output::Append { task, attempt, line } => {
                    self.ledger.append(task, attempt, line, &mut self.settled);
                }
                Output::Send { request, bus, frame } => {
                    let Some(port) = self.ports.get_mut(usize::from(bus.0)) else { continue };
                    let result = port.send(&frame);
                    self.hub.handle(clock::now(), Input::Sent { request, result });
                }
                Output::Alarm(alarm) => tracing::error!(alarm = alarm.name, "{}", alarm.detail),
            }
        }
    }

    fn tell_node(&mut self, message: &FromBus) {
        let Some((channel, _)) = &mut self.node else { return };
        if let Err(error) = channel.writer.push(Kind::Face, message) {
            tracing::error!("cannot encode a message to node: {error}");
        }
    }

    fn tell_border(&mut self, tenant: &TenantId, message: &ToBorder) {
        let Some(channel) = self.borders.get_mut(tenant) else { return };
        let before = channel.writer.dropped();
        if let Err(error) = channel.writer.push(Kind::Face, message) {
            tracing::error!(%tenant, "cannot encode a message to the border: {error}");
        }
        let messages = channel.writer.dropped() - before;
        if messages > 0 {
            self.hub.handle(clock::now(), Input::Dropped { messages });
        }
    }

    /// Writes what the channels take now; a channel that fails is closed.
    fn flush(&mut self) {
        if let Some((channel, _)) = &mut self.node
            && let Err(error) = channel.writer.flush(&mut channel.stream)
        {
            tracing::warn!("node's channel is gone: {error}");
            self.node = None;
        }
        self.borders.retain(|tenant, channel| match channel.writer.flush(&mut channel.stream) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%tenant, "border's channel is gone: {error}");
                false
            }
        });
    }

    /// Sleeps until a socket is ready or the hub wants a tick.
    fn wait(&self) -> io::Result<Vec<Ready>> {
        let (reads, writes) = (PollFlags::POLLIN, PollFlags::POLLIN | PollFlags::POLLOUT);
        let mut whose = Vec::new();
        let mut polled = Vec::new();
        let mut add = |ready, fd, flags| {
            whose.push(ready);
            polled.push(PollFd::new(fd, flags));
        };
        for (number, port) in self.ports.iter().enumerate() {
            add(Ready::Bus(number), port.fd(), reads);
        }
        if let Some((channel, _)) = &self.node {
            add(Ready::Node, channel.stream.as_fd(), channel.interest());
        }
        if let Some(attach) = &self.attach {
            add(Ready::Attach, attach.fd(), reads);
        }
        if let Some(fd) = self.ledger.fd() {
            add(Ready::Ledger, fd, if self.ledger.wants_to_write() { writes } else { reads });
        }
        for (tenant, channel) in &self.borders {
            add(Ready::Border(tenant.clone()), channel.stream.as_fd(), channel.interest());
        }
        let timeout = self.hub.next_wake().map(|(at, _why)| {
            let left = micros(at.since(clock::now()));
            TimeSpec::microseconds(i64::try_from(left).unwrap_or(i64::MAX))
        });
        match ppoll(&mut polled, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let ready = whose.into_iter().zip(&polled).filter(|(_, fd)| is_ready(fd)).map(|(ready, _)| ready);
        Ok(ready.collect())
    }

    fn serve(&mut self, ready: Ready) {
        match ready {
            Ready::Bus(number) => self.read_bus(number),
            Ready::Node => self.read_node(),
            Ready::Attach => self.read_attachments(),
            Ready::Ledger => {
                self.ledger.read(&mut self.settled);
                self.ledger.write(&mut self.settled);
            }
            Ready::Border(tenant) => self.read_border(&tenant),
        }
    }

    fn read_bus(&mut self, number: usize) {
        // The hub refuses more than 16 buses.
        let bus = BusIndex(number as u16);
        for _ in 0..READS_IN_A_ROW {
            let (Some(port), Some(down)) = (self.ports.get_mut(number), self.down.get_mut(number)) else {
                return;
            };
            self.frames.clear();
            let clock = Reading::take();
            let received = match port.receive(clock, bus, &mut self.frames) {
                Ok(received) => received,
                Err(error) => return self.bus_is_down(number, &error),
            };
            if *down && !self.frames.is_empty() {
                *down = false;
                self.feed(Input::Bus { bus, up: true });
            }
            if received.bad + received.lost > 0 {
                self.feed(Input::Trouble { bad: received.bad, lost: received.lost });
            }
            self.hub.frames(clock.now, bus, &self.frames);
            self.drain();
            if !received.more {
                return;
            }
        }
    }

    fn bus_is_down(&mut self, number: usize, error: &BusIoError) {
        let Some(down) = self.down.get_mut(number) else { return };
        if !core::mem::replace(down, true) {
            let fix = error.fix().unwrap_or_default();
            tracing::error!(fix, "{error}");
            self.feed(Input::Bus { bus: BusIndex(number as u16), up: false });
        }
    }

    fn read_node(&mut self) {
        let Some((channel, reader)) = &mut self.node else { return };
        let mut close = match reader.fill(&mut channel.stream) {
            Ok(Fill::Closed) | Err(_) => true,
            Ok(Fill::Data | Fill::Empty) => false,
        };
        // What the last messages before the end ask for is done; the answers have nobody to go to.
        while let Some((_, reader)) = &mut self.node {
            match reader.next::<ToBus>(Kind::Face) {
                Ok(Some(message)) => self.feed(Input::FromNode(message)),
                Ok(None) => break,
                Err(error) => {
                    tracing::error!("node's channel cannot be followed: {error}");
                    close = true;
                    break;
                }
            }
        }
        if close {
            self.node = None;
        }
    }

    /// A border has nothing to say here; whatever it says closes its channel.
    fn read_border(&mut self, tenant: &TenantId) {
        let Some(channel) = self.borders.get_mut(tenant) else { return };
        match FramedReader::default().fill(&mut channel.stream) {
            Ok(Fill::Empty) => {}
            Ok(Fill::Closed) | Err(_) => drop(self.borders.remove(tenant)),
            Ok(Fill::Data) => {
                tracing::error!(%tenant, "border spoke on a channel that only listens; closed");
                self.borders.remove(tenant);
            }
        }
    }

    fn read_attachments(&mut self) {
        let Some(attach) = &mut self.attach else { return };
        let mut open = attach.acknowledge();
        let mut taken = Vec::new();
        loop {
            match attach.next() {
                Ok(item) => taken.push(item),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        for item in taken {
            if let Err(error) = self.attached(item) {
                tracing::error!("cannot use an attached channel: {error}");
            }
        }
        if !open {
            self.attach = None;
        }
    }

    fn attached(&mut self, item: Attach) -> io::Result<()> {
        match item {
            Attach::Border(tenant, stream) => {
                self.borders.insert(tenant, Channel::new(stream, BORDER_BUFFER)?);
            }
            Attach::Node(stream) => {
                self.node = Some((Channel::new(stream, NODE_BUFFER)?, FramedReader::default()));
            }
            Attach::Effect(stream) => self.ledger.connect(stream, &mut self.settled),
            Attach::Stop => self.stop = true,
        }
        Ok(())
    }
}
