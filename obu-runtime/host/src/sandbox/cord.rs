//! The cord between host and a sandbox that is being made: what the sandbox still needs goes down as descriptors,
//! then the word to go. Host's end closes when host dies, which ends whatever waits at the other.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::Equipment;
use crate::fault::FileError;

/// Most descriptors in one message: log, exit file, and a `tasks` file per hierarchy of cgroup version 1.
const DESCRIPTORS_MAX: usize = 16;

/// The lowest number that the program's own descriptors are not placed at.
const FIRST_FREE: i32 = 4;

/// A cord: host's end and the sandbox's.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), FileError> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(FileError::at("make", "a socket pair"))
}

/// Sends everything down that a sandbox needs besides its description.
pub(super) fn equip(cord: &OwnedFd, equipment: &Equipment) -> Result<(), FileError> {
    let tasks = equipment.tasks.iter().map(AsFd::as_fd);
    let all: Vec<BorrowedFd<'_>> =
        [equipment.output.as_fd(), equipment.exit_file.as_fd()].into_iter().chain(tasks).collect();
    send(cord, &all).map_err(FileError::at("send descriptors to", "a new sandbox"))
}

/// Lets what waits at the other end go on.
pub(super) fn say_go(cord: &OwnedFd) -> Result<(), FileError> {
    send(cord, &[]).map_err(FileError::at("write to", "a new sandbox"))
}

fn send(cord: &OwnedFd, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOBIG);
    }
    sendmsg(cord, &[IoSlice::new(b".")], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Waits for [`equip`].
pub(super) fn wait_for_equipment(cord: &OwnedFd) -> io::Result<Equipment> {
    let mut descriptors = receive(cord)?.into_iter();
    let (Some(output), Some(exit)) = (descriptors.next(), descriptors.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let raised = |descriptor| rustix::io::fcntl_dupfd_cloexec(descriptor, FIRST_FREE);
    Ok(Equipment {
        output: raised(output)?,
        exit_file: raised(exit)?.into(),
        tasks: descriptors.map(Into::into).collect(),
    })
}

/// Waits for [`say_go`].
pub(super) fn wait_for_go(cord: &OwnedFd) -> io::Result<()> {
    receive(cord).map(drop)
}

/// Waits until host closes its end.
pub(super) fn wait_for_end(cord: &OwnedFd) {
    while receive(cord).is_ok() {}
}

fn receive(cord: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0u8; 1];
        match recvmsg(cord, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) if message.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                let descriptors = control.drain().filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                    _ => None,
                });
                return Ok(descriptors.flatten().collect());
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
