//! The system calls that no safe wrapper offers. The only file of this package with `unsafe`.

#![allow(unsafe_code, reason = "raw system calls: clone3, seccomp, mount_setattr, signals, exec")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use rustix::thread::UnshareFlags;

/// The flag of clone3 that puts the new process into a cgroup; too wide for the type that libc gives it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a [`clone3`] the caller is on.
#[derive(Debug)]
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new process's id and a descriptor that names it for ever.
    Parent {
        /// Process id, as the caller's pid namespace counts.
        pid: i32,
        /// Readable once the process has ended.
        pidfd: OwnedFd,
    },
}

/// Copies this process, optionally into new namespaces (`CLONE_NEW*` bits) and into a cgroup v2.
///
/// # Errors
/// The kernel's, and `EDEADLK` if this process has more than one thread: a copy would inherit locks that
/// nobody will ever release.
pub(crate) fn clone3(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    if std::fs::metadata("/proc/self/task").is_ok_and(|task| task.nlink() != 3) {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    let mut pidfd: libc::c_int = -1;
    // SAFETY: `clone_args` is plain integers; all zero is its documented default.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(namespaces.cast_unsigned()) | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    if let Some(group) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = group.as_raw_fd().cast_unsigned().into();
    }
    // SAFETY: without CLONE_VM the child has its own copy of all memory, and with one thread (checked above)
    // no lock is held by anybody else; `args` and `pidfd` outlive the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: the kernel stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid: i32::try_from(pid).unwrap_or(i32::MAX), pidfd })
        }
    }
}

/// Stack of what runs between [`spawn`] and exec.
const SPAWN_STACK_LEN: usize = 64 << 10;

/// Runs `child` in a new process that shares this one's memory until it calls exec or returns, and waits until
/// then: nothing is copied only to be thrown away. By the old call, which filters can see through: clone3 is not
/// to be had inside a sandbox.
///
/// # Errors
/// The kernel's.
pub(crate) fn spawn(child: &mut dyn FnMut()) -> io::Result<i32> {
    extern "C" fn run(child: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the pointer that `spawn` passed, to a closure that lives in its frame while it waits.
        let child = unsafe { &mut *child.cast::<&mut dyn FnMut()>() };
        child();
        127
    }
    let mut child = child;
    let mut stack = vec![0u128; SPAWN_STACK_LEN / size_of::<u128>()];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the new process has a stack of its own that outlives it, because CLONE_VFORK suspends this (its only)
    // thread until the memory is no longer shared; descriptors and signal handlers are copies. A panic ends it at
    // `extern "C"`.
    let pid =
        unsafe { libc::clone(run, stack.as_mut_ptr_range().end.cast(), flags, (&raw mut child).cast()) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

/// Ends this process at once: no destructors, no buffers.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: always sound; it does not return.
    unsafe { libc::_exit(code) }
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before it is used; sigaddset takes any number.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Blocks exactly these signals; an empty list unblocks all.
pub(crate) fn block_signals(signals: &[i32]) {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

/// Undoes what the Rust runtime does to SIGPIPE, so that programs started from here see the default.
pub(crate) fn restore_sigpipe() {
    // SAFETY: SIG_DFL is always a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// A non-blocking descriptor that becomes readable when one of these (blocked) signals is pending.
///
/// # Errors
/// The kernel's.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; -1 asks for a new descriptor, which nobody else owns.
    unsafe {
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Waits for one of these (blocked) signals and returns its number; 0 if the wait was interrupted.
pub(crate) fn wait_signal(signals: &[i32]) -> i32 {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; no information about the sender is asked for.
    unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) }.max(0)
}

/// Sends a signal to every process of this pid namespace but the caller (who must be its pid 1).
pub(crate) fn signal_namespace(signal: i32) {
    // SAFETY: plain integers. As pid 1 of a namespace, -1 reaches that namespace and nothing else.
    unsafe { libc::kill(-1, signal) };
}

/// Copies `from` onto the descriptor number `to`, without close-on-exec.
///
/// # Errors
/// The kernel's.
pub(crate) fn place_fd(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: whatever was at `to` is given up by the caller: only called between fork and exec.
    let done = unsafe {
        if from.as_raw_fd() == to {
            libc::fcntl(to, libc::F_SETFD, 0)
        } else {
            libc::dup2(from.as_raw_fd(), to)
        }
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A new descriptor for what number `fd` stands for, if that is open.
///
/// # Errors
/// The kernel's; `EBADF` if it is not open.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the number is only copied, whoever owns it; the copy is owned by nobody else.
    unsafe {
        let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 4);
        if copy < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(copy)) }
    }
}

/// Closes every descriptor but those in `keep`. Only for a process that will not return from its main
/// function: other owners of the closed numbers must never run again.
///
/// # Errors
/// The kernel's.
pub(crate) fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.cast_unsigned()).collect();
    keep.sort_unstable();
    let mut first = 0;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if first < fd {
            close_range(first, fd.saturating_sub(u32::from(fd != u32::MAX)), 0)?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Marks every descriptor from `first` on as closed by exec.
///
/// # Errors
/// The kernel's.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    close_range(first.cast_unsigned(), u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, last: u32, flags: u32) -> io::Result<()> {
    // SAFETY: plain integers; see the callers for who owns the descriptors.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Replaces this process by a program. Returns only if that failed.
pub(crate) fn exec(program: &CString, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |words: &[CString]| -> Vec<*const libc::c_char> {
        words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer, and the strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Adds mount attributes (`MOUNT_ATTR_*`) to the one mount that `mount` is the root of.
///
/// # Errors
/// The kernel's.
pub(crate) fn add_mount_attributes(mount: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a NUL-terminated empty string; `attr` outlives the call and its size is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves the calling process into new namespaces.
///
/// # Errors
/// The kernel's.
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES), "descriptors stay shared");
    // SAFETY: what is unsafe about unshare is giving up the shared descriptor table, which no caller asks for.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.map_err(Into::into)
}

/// Puts a seccomp filter on this process and its children, for ever. Needs no_new_privs.
///
/// # Errors
/// The kernel's: a malformed filter, no_new_privs not set, or a kernel without seccomp filters.
pub(crate) fn install_filter(filter: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `program` describes `filter`, which outlives the call; the kernel only reads it.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets this process run only when nothing else wants the processor.
///
/// # Errors
/// The kernel's.
pub(crate) fn schedule_idle() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameter` outlives the call.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A non-blocking raw CAN socket with FD frames, bound to `interface`.
///
/// # Errors
/// The kernel's: no CAN in the kernel, no such interface, no right to open it.
pub(crate) fn can_socket(interface: &str) -> io::Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: `name` is NUL-terminated; the new descriptor is owned by nobody else; `address` and `on` are
    // plain values that outlive the calls and whose sizes are given.
    unsafe {
        let index = libc::if_nametoindex(name.as_ptr());
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::socket(libc::AF_CAN, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 1);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let on: libc::c_int = 1;
        let on_len = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(fd, libc::SOL_CAN_RAW, libc::CAN_RAW_FD_FRAMES, (&raw const on).cast(), on_len);
        let mut address: libc::sockaddr_can = std::mem::zeroed();
        address.can_family = libc::AF_CAN as u16;
        address.can_ifindex = index.cast_signed();
        let len = size_of::<libc::sockaddr_can>() as libc::socklen_t;
        if libc::bind(fd, (&raw const address).cast(), len) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }
}
