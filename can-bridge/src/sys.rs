//! The system calls that no safe wrapper at hand offers: CAN addresses, socket options by number, and reading
//! many messages with their kernel timestamps in one call. All `unsafe` of this crate is here.
#![allow(unsafe_code, reason = "the one module of can-bridge that calls the kernel directly")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// Messages read in one call.
const BATCH: usize = crate::bus::BATCH;

/// Room for the control messages of one datagram: a timestamp (32 bytes) and a drop counter (24 bytes).
const CONTROL_WORDS: usize = 16;

/// Opens a raw CAN socket bound to the interface with this index; non-blocking.
pub(crate) fn open_can(index: u32) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes integers only.
    let raw = unsafe {
        libc::socket(libc::PF_CAN, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, libc::CAN_RAW)
    };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` is a descriptor that was just opened and that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: sockaddr_can is plain data; all zeros is a valid value of it.
    let mut address: libc::sockaddr_can = unsafe { std::mem::zeroed() };
    address.can_family = libc::AF_CAN as libc::sa_family_t;
    address.can_ifindex = index as libc::c_int;
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    let rc = unsafe {
        let pointer = (&raw const address).cast::<libc::sockaddr>();
        libc::bind(fd.as_raw_fd(), pointer, size_of::<libc::sockaddr_can>() as libc::socklen_t)
    };
    if rc == 0 { Ok(fd) } else { Err(io::Error::last_os_error()) }
}

/// Sets an integer socket option.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: u32,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let rc = unsafe {
        let pointer = (&raw const value).cast::<libc::c_void>();
        libc::setsockopt(fd.as_raw_fd(), level, name, pointer, size_of::<u32>() as libc::socklen_t)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What came with one message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Item {
    /// Bytes received.
    pub(crate) len: usize,
    /// Whether the message was longer than its buffer.
    pub(crate) truncated: bool,
    /// Kernel's receive time, nanoseconds since 1970.
    pub(crate) kernel_ns: Option<u64>,
    /// Messages that this socket has dropped since it was opened (wraps).
    pub(crate) dropped: Option<u32>,
}

/// Buffers for reading up to [`BATCH`] messages at once; made once per socket.
#[derive(Debug)]
pub(crate) struct Batch {
    size: usize,
    buffers: Vec<u8>,
    controls: Vec<[u64; CONTROL_WORDS]>,
    items: Vec<Item>,
}

impl Batch {
    /// Buffers for messages of up to `size` bytes.
    pub(crate) fn new(size: usize) -> Self {
        let controls = vec![[0; CONTROL_WORDS]; BATCH];
        Self { size, buffers: vec![0; size * BATCH], controls, items: Vec::with_capacity(BATCH) }
    }

    /// Reads what is there without waiting; the number of messages, at most [`BATCH`].
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.items.clear();
        // SAFETY: iovec and mmsghdr are plain data; all zeros is a valid value (null pointers, length 0).
        let mut vectors: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        let places = self.buffers.chunks_exact_mut(self.size).zip(&mut self.controls);
        for ((header, vector), (buffer, control)) in headers.iter_mut().zip(&mut vectors).zip(places) {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = buffer.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
        }
        // SAFETY: every header points to its own vector, buffer and control block with their true lengths; all
        // of them live in `self` or in this frame, longer than the call; there is no timeout.
        let count = unsafe {
            let no_timeout = std::ptr::null_mut();
            libc::recvmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                no_timeout,
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        self.items.extend(headers.iter().take(count).map(item));
        Ok(self.items.len())
    }

    /// The messages of the last [`Self::receive`].
    pub(crate) fn messages(&self) -> impl Iterator<Item = (&[u8], Item)> {
        let buffers = self.buffers.chunks_exact(self.size);
        self.items.iter().zip(buffers).map(|(item, buffer)| (buffer.get(..item.len).unwrap_or(buffer), *item))
    }
}

/// Reads a header that the kernel has filled in.
fn item(header: &libc::mmsghdr) -> Item {
    let mut item = Item {
        len: header.msg_len as usize,
        truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        ..Item::default()
    };
    // SAFETY: the kernel wrote the control block that msg_control points to and set msg_controllen to what it
    // wrote; the macros stay within it. The block is aligned to 8, as cmsghdr needs.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&header.msg_hdr) };
    while !at.is_null() {
        // SAFETY: not null, so it points to a whole cmsghdr within the control block.
        let message = unsafe { &*at };
        // SAFETY: the data of a control message follows its header; reads are unaligned and of the size that
        // the kernel documents for the type.
        unsafe {
            let data = libc::CMSG_DATA(at);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time = data.cast::<libc::timespec>().read_unaligned();
                    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
                    item.kernel_ns = Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanos));
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    item.dropped = Some(data.cast::<u32>().read_unaligned());
                }
                _ => {}
            }
        }
        // SAFETY: `at` is a message of this header's control block.
        at = unsafe { libc::CMSG_NXTHDR(&header.msg_hdr, at) };
    }
    item
}
