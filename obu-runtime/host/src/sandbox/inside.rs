//! The new process's own part of a start: from a copy of host with all rights over empty namespaces to an init
//! with none. Runs in the child; ends in [`super::init::run`] or reports through the status pipe.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use policies::host::HostRefusal;
use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::CapabilitySet;

use super::prepared::Prepared;
use super::{Ends, Identity, Origin, SandboxError, Spec, cord, fence, init, prepared, view};
use crate::fault::{refusal, refuse};
use crate::sys;

/// Runs in the child, for ever.
pub(super) fn run(spec: &Spec, cord: &OwnedFd, status: &OwnedFd) -> ! {
    let Err(reason) = prepare(spec, cord, status).and_then(|ends| split(spec, &ends, status));
    report(status, &reason);
    sys::exit(127)
}

fn report(status: &OwnedFd, reason: &HostRefusal) {
    let text = serde_json::to_vec(reason).unwrap_or_default();
    let _ = rustix::io::write(status, &text);
}

/// For `map_err`: names the step that failed.
fn step<E: std::fmt::Display>(
    what: &'static str,
    fix: Option<&'static str>,
) -> impl FnOnce(E) -> HostRefusal {
    move |error| refuse(what, error.to_string(), fix)
}

/// Makes a sandbox ahead, in a process that ends with it. See [`super::prepared`].
pub(super) fn make(items: &[view::Item], identity: Identity, cord: &OwnedFd, status: &OwnedFd) -> ! {
    let made = sys::close_all_but(&[cord.as_raw_fd(), status.as_raw_fd()])
        .and_then(|()| cord::wait_for_groups(cord).map(drop))
        .and_then(|()| become_root_inside(identity))
        .map_err(SandboxError::Clone)
        .and_then(|()| prepared::build(items));
    match made {
        Ok(()) => prepared::offer(status, cord),
        Err(error) => {
            let _ = rustix::io::write(status, error.to_string().as_bytes());
        }
    }
    sys::exit(0)
}

fn prepare(spec: &Spec, cord: &OwnedFd, status: &OwnedFd) -> Result<Ends, HostRefusal> {
    sys::block_signals(&init::SIGNALS);
    close_foreign(spec, cord, status).map_err(step("close inherited descriptors", None))?;
    match &spec.origin {
        Origin::New(_) => build_new(spec, cord)?,
        Origin::Prepared(prepared) => complete(spec, prepared, cord)?,
    }
    fence::give_up_rights(CapabilitySet::empty()).map_err(step("drop all capabilities", None))?;
    fence::restrict_files(&[Path::new("/")], &spec.writable_places());
    sys::install_filter(&spec.filter)
        .map_err(step("install the seccomp filter", Some("use a kernel with CONFIG_SECCOMP_FILTER")))?;
    cord::wait_for_go(cord).map_err(step("wait for host", None))
}

/// Everything in namespaces of its own that are still empty.
fn build_new(spec: &Spec, cord: &OwnedFd) -> Result<(), HostRefusal> {
    // Its uid is mapped by the time that this comes.
    join_groups(cord)?;
    settle(spec)?;
    if spec.dies_with_host {
        die_with_host(cord).map_err(step("tie its life to host's", None))?;
    }
    view::enter(&spec.view).map_err(|error| refusal("build the sandbox's file system", &error))
}

/// What is left to do where namespaces and root were made ahead. Host makes the cgroups meanwhile.
fn complete(spec: &Spec, prepared: &Prepared, cord: &OwnedFd) -> Result<(), HostRefusal> {
    // As root of the machine: the pid namespace is owned by its user namespace, not by the app's.
    let proc = view::new_proc().map_err(|error| refusal("mount the sandbox's /proc", &error))?;
    prepared.enter().map_err(step("enter the namespaces made ahead", None))?;
    settle(spec)?;
    view::complete(&spec.view, &proc).map_err(|error| refusal("build the sandbox's file system", &error))?;
    join_groups(cord)
}

fn join_groups(cord: &OwnedFd) -> Result<(), HostRefusal> {
    for mut tasks in cord::wait_for_groups(cord).map_err(step("wait for host", None))? {
        tasks
            .write_all(b"0")
            .map_err(step("join a cgroup", Some("see verge doctor for what cgroups allow here")))?;
    }
    // After joining: a namespace made earlier would show the host's path of the group.
    sys::unshare(rustix::thread::UnshareFlags::NEWCGROUP).map_err(step("make a cgroup namespace", None))
}

fn settle(spec: &Spec) -> Result<(), HostRefusal> {
    become_root_inside(spec.identity).map_err(step("take on the sandbox's uid", None))?;
    rustix::system::sethostname(spec.name.as_bytes()).map_err(step("set the host name", None))
}

fn close_foreign(spec: &Spec, cord: &OwnedFd, status: &OwnedFd) -> io::Result<()> {
    let mut keep: Vec<RawFd> = vec![cord.as_raw_fd(), status.as_raw_fd()];
    keep.extend(spec.channel.iter().map(AsRawFd::as_raw_fd));
    keep.extend(spec.view.iter().filter_map(view::Item::descriptor));
    if let Origin::Prepared(prepared) = &spec.origin {
        keep.extend(prepared.descriptors());
    }
    sys::close_all_but(&keep)
}

fn become_root_inside(identity: Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    if matches!(identity, Identity::Own(_)) {
        rustix::thread::set_thread_groups(&[])?;
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // Nobody inside may look into init (its /proc/1/exe is host's own binary: CVE-2019-5736).
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn die_with_host(cord: &OwnedFd) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // If host died just before, no signal will come; but then nobody holds the other end of the cord.
    let mut ends = [rustix::event::PollFd::new(cord, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut ends, Some(&now))?;
    if ends[0].revents().contains(rustix::event::PollFlags::HUP) {
        sys::exit(1);
    }
    Ok(())
}

/// Splits into init (this process) and the program.
fn split(spec: &Spec, ends: &Ends, status: &OwnedFd) -> Result<Infallible, HostRefusal> {
    let mut failure = None;
    let pid = sys::spawn(&mut || failure = Some(become_program(spec, ends)))
        .map_err(step("make the program's process", Some("raise resources.pids")))?;
    // Its memory was ours until exec, so what went wrong before stands here. Said only now: waking host any earlier
    // takes the processor from the program.
    if let Some(reason) = failure {
        return Err(reason);
    }
    let _ = rustix::io::write(status, b"x");
    // Ends the status pipe. What init keeps is the exit file, and the log, so that the pipe lives as long as the
    // sandbox.
    let keep = [ends.exit_file.as_raw_fd(), ends.output.as_raw_fd()];
    if sys::close_all_but(&keep).is_err() {
        sys::exit(1);
    }
    init::run(pid, &ends.exit_file)
}

fn become_program(spec: &Spec, ends: &Ends) -> HostRefusal {
    match arrange(spec, ends) {
        Ok(()) => {
            let Some(program) = spec.command.first() else {
                return refuse("start the program", "the command is empty", None);
            };
            let error = sys::exec(program, &spec.command, &spec.environment);
            exec_refusal(program, &error)
        }
        Err(error) => step("set up the program's process", None)(error),
    }
}

fn exec_refusal(program: &std::ffi::CStr, error: &io::Error) -> HostRefusal {
    let fix = match error.raw_os_error() {
        Some(libc::ENOENT) => {
            "check the path in `command` (the bundle is at /app) and that the base has the program's interpreter"
        }
        Some(libc::EACCES) => "make the program executable (chmod +x) before building the bundle",
        Some(libc::ENOEXEC) => {
            "build the program for this machine's architecture, or begin the script with #!"
        }
        _ => "check the program in `command`",
    };
    refuse(format!("execute {}", program.to_string_lossy()), error.to_string(), Some(fix))
}

fn arrange(spec: &Spec, ends: &Ends) -> io::Result<()> {
    rustix::process::setsid()?;
    // Above the numbers that are placed below: opened at 0 it would be closed again with its owner.
    let null = rustix::io::fcntl_dupfd_cloexec(File::open("/dev/null")?, 4)?;
    sys::place_fd(null.as_fd(), 0)?;
    sys::place_fd(ends.output.as_fd(), 1)?;
    sys::place_fd(ends.output.as_fd(), 2)?;
    let first_closed = match &spec.channel {
        Some(channel) => {
            sys::place_fd(channel.as_fd(), 3)?;
            4
        }
        None => 3,
    };
    sys::close_on_exec_from(first_closed)?;
    rustix::process::chdir(view::home())?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(spec.umask));
    // Host may run at a lower priority itself, and only root may raise it.
    if spec.eagerness.nice > rustix::process::getpriority_process(None)? {
        rustix::process::setpriority_process(None, spec.eagerness.nice)?;
    }
    if spec.eagerness.idle {
        sys::schedule_idle()?;
    }
    for (resource, limit) in &spec.rlimits {
        set_limit(*resource, *limit)?;
    }
    sys::restore_sigpipe();
    sys::block_signals(&[]);
    Ok(())
}

/// Sets both limits to `limit`, or to the present maximum where that is lower: raising it takes a right that
/// nobody in a sandbox has.
fn set_limit(resource: Resource, limit: u64) -> io::Result<()> {
    let maximum = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX).min(limit);
    let limit = Some(limit.min(maximum));
    rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit })?;
    Ok(())
}
