//! A bus of the kernel: raw CAN with FD, error reports, kernel timestamps and an exact count of losses.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use can_core::frame::{BusIndex, CanFrame, CanId, EXTENDED_MAX, FrameError, FrameKind, TimedFrame};
use can_core::hub::SendFailure;

use crate::bus::{BATCH, Bus, BusIoError, Received, send_failure};
use crate::clock::Reading;
use crate::sys::{self, Batch};

/// Receive buffer: a second of a full 1 Mbit/s bus. The kernel's default holds 278 frames, 31 ms of it.
const RECEIVE_BUFFER: u32 = 4 << 20;

/// `sizeof(struct can_frame)` and `sizeof(struct canfd_frame)`.
const CLASSIC_SIZE: usize = 16;
const FD_SIZE: usize = 72;

/// Flags in a kernel id.
const EXTENDED: u32 = 0x8000_0000;
const REMOTE: u32 = 0x4000_0000;
const ERROR: u32 = 0x2000_0000;

/// Flags of an FD frame.
const BIT_RATE_SWITCH: u8 = 1;
const ERROR_STATE: u8 = 2;

/// A raw CAN socket.
#[derive(Debug)]
pub struct SocketCan {
    fd: OwnedFd,
    name: String,
    batch: Batch,
    dropped: u32,
}

impl SocketCan {
    /// Opens an interface by name.
    ///
    /// # Errors
    /// [`BusIoError::Open`] names the step.
    pub fn open(interface: &str) -> Result<Self, BusIoError> {
        let failed = |step, source| BusIoError::Open { bus: interface.into(), step, source };
        let index = nix::net::if_::if_nametoindex(interface).map_err(|e| failed("find it", e.into()))?;
        let fd = sys::open_can(index).map_err(|e| failed("open a raw CAN socket", e))?;
        Self::from_fd(fd, interface)
    }

    /// Takes a bound raw CAN socket that somebody with more rights has opened. `name` is for messages.
    ///
    /// # Errors
    /// [`BusIoError::Open`] if it is no CAN socket.
    pub fn from_fd(fd: OwnedFd, name: &str) -> Result<Self, BusIoError> {
        let failed = |step, source| BusIoError::Open { bus: name.into(), step, source };
        let set = |level, option, value| sys::set_option(fd.as_fd(), level, option, value);
        set(libc::SOL_CAN_RAW, libc::CAN_RAW_FD_FRAMES, 1).map_err(|e| failed("enable CAN FD", e))?;
        set(libc::SOL_CAN_RAW, libc::CAN_RAW_ERR_FILTER, EXTENDED_MAX)
            .map_err(|e| failed("enable error reports", e))?;
        set(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1).map_err(|e| failed("count losses", e))?;
        set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1).map_err(|e| failed("enable timestamps", e))?;
        grow_receive_buffer(fd.as_fd(), name);
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(flags))
            .map_err(|e| failed("set non-blocking", e.into()))?;
        Ok(Self { fd, name: name.into(), batch: Batch::new(FD_SIZE), dropped: 0 })
    }
}

/// Asks for a big receive buffer; beyond the system's limit only root may. Less only means more loss under
/// load, and loss is counted.
pub(crate) fn grow_receive_buffer(fd: BorrowedFd<'_>, name: &str) {
    let set = |option| sys::set_option(fd, libc::SOL_SOCKET, option, RECEIVE_BUFFER);
    if set(libc::SO_RCVBUFFORCE).or_else(|_| set(libc::SO_RCVBUF)).is_err() {
        tracing::warn!(bus = name, "receive buffer stays small: bursts may be lost (and counted)");
    }
}

impl Bus for SocketCan {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn receive(
        &mut self,
        clock: Reading,
        bus: BusIndex,
        out: &mut Vec<TimedFrame>,
    ) -> Result<Received, BusIoError> {
        let mut received = Received::default();
        match self.batch.receive(self.fd.as_fd()) {
            Ok(count) => received.more = count == BATCH,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(received),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Ok(Received { more: true, ..received });
            }
            Err(source) => return Err(BusIoError::Down { bus: self.name.clone(), source }),
        }
        for (bytes, item) in self.batch.messages() {
            let at = item.kernel_ns.map_or(clock.now, |ns| clock.place(ns));
            match parse(bytes) {
                Ok(frame) => out.push(TimedFrame { bus, at, frame }),
                Err(_) => received.bad += 1,
            }
            if let Some(dropped) = item.dropped {
                received.lost += u64::from(dropped.wrapping_sub(self.dropped));
                self.dropped = dropped;
            }
        }
        Ok(received)
    }

    fn send(&mut self, frame: &CanFrame) -> Result<(), SendFailure> {
        let mut bytes = [0; FD_SIZE];
        let size = format(frame, &mut bytes);
        match nix::unistd::write(&self.fd, bytes.get(..size).unwrap_or(&bytes)) {
            Ok(_) => Ok(()),
            Err(errno) => Err(send_failure(&errno.into())),
        }
    }

    fn describe(&self) -> String {
        format!("{} (SocketCAN)", self.name)
    }
}

/// Reads a `can_frame` or `canfd_frame`.
fn parse(bytes: &[u8]) -> Result<CanFrame, FrameError> {
    let unfit = FrameError::Length { got: bytes.len(), max: FD_SIZE };
    let (Some((id, rest)), CLASSIC_SIZE | FD_SIZE) = (bytes.split_first_chunk::<4>(), bytes.len()) else {
        return Err(unfit);
    };
    let [len, flags, _, _, data @ ..] = rest else { return Err(unfit) };
    let raw = u32::from_ne_bytes(*id);
    let extended = raw & (EXTENDED | ERROR) != 0;
    let id = CanId::new(raw & EXTENDED_MAX, extended)?;
    let payload = data.get(..usize::from(*len)).ok_or(unfit)?;
    match (bytes.len() == FD_SIZE, raw & ERROR != 0, raw & REMOTE != 0) {
        (true, ..) => {
            let (bit_rate_switch, error_state) = (flags & BIT_RATE_SWITCH != 0, flags & ERROR_STATE != 0);
            CanFrame::new(id, FrameKind::Fd { bit_rate_switch, error_state }, payload)
        }
        (false, true, _) => CanFrame::new(id, FrameKind::Error, payload),
        (false, false, true) => CanFrame::remote(id, usize::from(*len)),
        (false, false, false) => CanFrame::classic(id, payload),
    }
}

/// Writes a `can_frame` or `canfd_frame`; its size.
fn format(frame: &CanFrame, bytes: &mut [u8; FD_SIZE]) -> usize {
    let extended = if frame.id().is_extended() { EXTENDED } else { 0 };
    let (kind, flags) = match frame.kind() {
        FrameKind::Classic => (0, 0),
        FrameKind::Remote => (REMOTE, 0),
        FrameKind::Error => (ERROR, 0),
        FrameKind::Fd { bit_rate_switch, error_state } => {
            let switch = if bit_rate_switch { BIT_RATE_SWITCH } else { 0 };
            (0, switch | if error_state { ERROR_STATE } else { 0 })
        }
    };
    // An error report has the flag of its own instead of the one for 29 bits.
    let extended = if kind == ERROR { 0 } else { extended };
    bytes[..4].copy_from_slice(&(frame.id().value() | extended | kind).to_ne_bytes());
    bytes[4] = frame.len() as u8;
    bytes[5] = flags;
    for (place, byte) in bytes.iter_mut().skip(8).zip(frame.data()) {
        *place = *byte;
    }
    if frame.is_fd() { FD_SIZE } else { CLASSIC_SIZE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn kernel_frames_come_back_as_they_went(id in 0u32..0x2000_0000, kind in 0u8..4, data: Vec<u8>) {
            let extended = id > 0x7FF || kind == 3;
            let id = CanId::new(id, extended).unwrap();
            let fd = FrameKind::Fd { bit_rate_switch: data.len() % 2 == 0, error_state: data.len() % 3 == 0 };
            let data = &data[..data.len().min(if kind == 1 { 64 } else { 8 })];
            let frame = match kind {
                0 => CanFrame::classic(id, data),
                1 => CanFrame::new(id, fd, data),
                2 => CanFrame::remote(id, data.len()),
                _ => CanFrame::new(id, FrameKind::Error, data),
            }.unwrap();
            let mut bytes = [0; FD_SIZE];
            let size = format(&frame, &mut bytes);
            prop_assert_eq!(parse(&bytes[..size]), Ok(frame));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn opening_what_is_not_there_says_what_to_do() {
        let error = SocketCan::open("nosuchbus0").unwrap_err();
        assert!(error.to_string().contains("nosuchbus0"), "{error}");
        assert!(error.fix().is_some());
    }
}
