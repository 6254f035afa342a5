//! The cord between host and a sandbox that is being made. Down it go the groups to join and then, with the word to
//! go, what the program's output and end are written to: all as descriptors. Host's end closes when host dies, which ends whatever waits at the other.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::Ends;
use crate::fault::FileError;

/// Most descriptors in one message: a `tasks` file per hierarchy of cgroup version 1.
const DESCRIPTORS_MAX: usize = 16;

/// The lowest number that the program's own descriptors are not placed at.
const FIRST_FREE: i32 = 4;

/// A cord: host's end and the sandbox's.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), FileError> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(FileError::at("make", "a socket pair"))
}

/// Sends the `tasks` files of the groups that the sandbox is to join.
pub(super) fn say_join(cord: &OwnedFd, tasks: &[File]) -> Result<(), FileError> {
    let tasks: Vec<BorrowedFd<'_>> = tasks.iter().map(AsFd::as_fd).collect();
    send(cord, &tasks).map_err(FileError::at("send groups to", "a new sandbox"))
}

/// Lets the sandbox's program go, with these two ends.
pub(super) fn say_go(cord: &OwnedFd, ends: &Ends) -> Result<(), FileError> {
    send(cord, &[ends.output.as_fd(), ends.exit_file.as_fd()])
        .map_err(FileError::at("send log and exit file to", "a new sandbox"))
}

fn send(cord: &OwnedFd, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOBIG);
    }
    sendmsg(cord, &[IoSlice::new(b".")], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Waits for [`say_join`].
pub(super) fn wait_for_groups(cord: &OwnedFd) -> io::Result<Vec<File>> {
    Ok(receive(cord)?.into_iter().map(Into::into).collect())
}

/// Waits for [`say_go`].
pub(super) fn wait_for_go(cord: &OwnedFd) -> io::Result<Ends> {
    let mut descriptors = receive(cord)?.into_iter();
    let (Some(output), Some(exit)) = (descriptors.next(), descriptors.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let raised = |descriptor| rustix::io::fcntl_dupfd_cloexec(descriptor, FIRST_FREE);
    Ok(Ends { output: raised(output)?, exit_file: raised(exit)?.into() })
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
