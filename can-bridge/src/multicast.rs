//! A bus in user space: python-can's `udp_multicast`, for machines without CAN in the kernel, and for python-can
//! itself.
//!
//! The format names no sender and the group sends everything back, so our own datagrams are recognised by their
//! bytes: the time stamp makes each one unique. There is no arbitration and no bit rate on this bus; the guard's
//! load cap is all that bounds us.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use can_core::frame::{BusIndex, CanFrame, TimedFrame};
use can_core::hub::SendFailure;
use can_core::multicast::{self, DATAGRAM_LEN_MAX, DEFAULT_GROUP, DEFAULT_PORT, Datagram};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};

use crate::bus::{BATCH, Bus, BusIoError, Received, send_failure};
use crate::clock::Reading;
use crate::socketcan::grow_receive_buffer;
use crate::sys::{self, Batch};

/// Most of our datagrams awaited back at once. What does not come back (loopback off) is forgotten in order.
const ECHOES_MAX: usize = 1_024;

/// Where a multicast bus is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Group and port.
    pub address: SocketAddrV4,
    /// Routers passed: 0 stays on this machine, 1 in this network.
    pub hops: u8,
    /// Interface to join on; `UNSPECIFIED` leaves it to the routes, as python-can does.
    pub interface: Ipv4Addr,
}

impl Default for Group {
    /// python-can's group and port, on this machine only.
    fn default() -> Self {
        let address = SocketAddrV4::new(Ipv4Addr::from(DEFAULT_GROUP), DEFAULT_PORT);
        Self { address, hops: 0, interface: Ipv4Addr::UNSPECIFIED }
    }
}

/// A multicast bus.
#[derive(Debug)]
pub struct Multicast {
    socket: UdpSocket,
    group: SocketAddrV4,
    batch: Batch,
    dropped: u32,
    scratch: Vec<u8>,
    echoes: VecDeque<u64>,
    last_stamp: f64,
}

impl Multicast {
    /// Opens a socket and joins the group.
    ///
    /// # Errors
    /// [`BusIoError::Open`] names the step.
    pub fn open(group: Group) -> Result<Self, BusIoError> {
        let address = group.address;
        let failed =
            |step, source: io::Error| BusIoError::Open { bus: format!("multicast {address}"), step, source };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket::socket(AddressFamily::Inet, SockType::Datagram, flags, None)
            .map_err(|e| failed("open a UDP socket", e.into()))?;
        for option in [libc::SO_REUSEADDR, libc::SO_REUSEPORT] {
            sys::set_option(fd.as_fd(), libc::SOL_SOCKET, option, 1)
                .map_err(|e| failed("share the port", e))?;
        }
        // Bound to the group, not to any address: unicast datagrams to the port are none of ours.
        socket::bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(address))
            .map_err(|e| failed("bind", e.into()))?;
        let socket = UdpSocket::from(fd);
        join(&socket, &group).map_err(|e| failed("join the group", e))?;
        socket.set_multicast_ttl_v4(group.hops.into()).map_err(|e| failed("set the hop limit", e))?;
        Self::from_fd(socket.into(), address)
    }

    /// Takes a socket that somebody else has bound and joined to the group.
    ///
    /// # Errors
    /// [`BusIoError::Open`] if it is no UDP socket.
    pub fn from_fd(fd: OwnedFd, group: SocketAddrV4) -> Result<Self, BusIoError> {
        let name = format!("multicast {group}");
        let failed = |step, source| BusIoError::Open { bus: name.clone(), step, source };
        let set = |option| sys::set_option(fd.as_fd(), libc::SOL_SOCKET, option, 1);
        set(libc::SO_RXQ_OVFL).map_err(|e| failed("count losses", e))?;
        set(libc::SO_TIMESTAMPNS).map_err(|e| failed("enable timestamps", e))?;
        grow_receive_buffer(fd.as_fd(), &name);
        let socket = UdpSocket::from(fd);
        socket.set_nonblocking(true).map_err(|e| failed("set non-blocking", e))?;
        Ok(Self {
            socket,
            group,
            batch: Batch::new(DATAGRAM_LEN_MAX),
            dropped: 0,
            scratch: Vec::with_capacity(256),
            echoes: VecDeque::with_capacity(ECHOES_MAX),
            last_stamp: 0.0,
        })
    }

    /// A wall-clock stamp that no earlier datagram of ours bears.
    fn stamp(&mut self) -> f64 {
        let now = Reading::take().wall_seconds();
        self.last_stamp = if now > self.last_stamp { now } else { self.last_stamp.next_up() };
        self.last_stamp
    }
}

/// Joins on the interface asked for. Without a route to the group (a fresh network namespace) the loopback
/// interface is used, since the bus then cannot leave the machine anyway.
fn join(socket: &UdpSocket, group: &Group) -> io::Result<()> {
    let on = |interface: &Ipv4Addr| socket.join_multicast_v4(group.address.ip(), interface);
    let send_on = |interface: &Ipv4Addr| {
        let address = u32::from_ne_bytes(interface.octets());
        sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MULTICAST_IF, address)
    };
    if group.interface != Ipv4Addr::UNSPECIFIED {
        return on(&group.interface).and_then(|()| send_on(&group.interface));
    }
    match on(&Ipv4Addr::UNSPECIFIED) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
            on(&Ipv4Addr::LOCALHOST).and_then(|()| send_on(&Ipv4Addr::LOCALHOST))
        }
        result => result,
    }
}

impl Bus for Multicast {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(
        &mut self,
        clock: Reading,
        bus: BusIndex,
        out: &mut Vec<TimedFrame>,
    ) -> Result<Received, BusIoError> {
        let mut received = Received::default();
        match self.batch.receive(self.socket.as_fd()) {
            Ok(count) => received.more = count == BATCH,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(received),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Ok(Received { more: true, ..received });
            }
            Err(source) => return Err(BusIoError::Down { bus: self.describe(), source }),
        }
        for (bytes, item) in self.batch.messages() {
            if let Some(dropped) = item.dropped {
                received.lost += u64::from(dropped.wrapping_sub(self.dropped));
                self.dropped = dropped;
            }
            if !self.echoes.is_empty() {
                let hash = fnv1a(bytes);
                if let Some(at) = self.echoes.iter().position(|echo| *echo == hash) {
                    self.echoes.remove(at);
                    received.echoes += 1;
                    continue;
                }
            }
            let at = item.kernel_ns.map_or(clock.now, |ns| clock.place(ns));
            match multicast::decode(bytes) {
                Ok(datagram) if !item.truncated => {
                    out.push(TimedFrame { bus, at, frame: datagram.frame });
                }
                _ => received.bad += 1,
            }
        }
        Ok(received)
    }

    fn send(&mut self, frame: &CanFrame) -> Result<(), SendFailure> {
        let timestamp = self.stamp();
        multicast::encode(&Datagram { timestamp, frame: *frame }, &mut self.scratch);
        self.socket.send_to(&self.scratch, self.group).map_err(|error| send_failure(&error))?;
        if self.echoes.len() == ECHOES_MAX {
            self.echoes.pop_front();
        }
        self.echoes.push_back(fnv1a(&self.scratch));
        Ok(())
    }

    fn describe(&self) -> String {
        format!("multicast {} (user space)", self.group)
    }
}

/// FNV-1a: enough to tell our own datagrams; a forger only makes us ignore its own frame.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}
