//! Pid 1 of a sandbox: reaps, forwards signals, writes down how the program ended. Nothing else.
//!
//! It outlives host on purpose: only a parent can wait for a process, so a host that comes back reads the exit
//! file instead.

use std::fs::File;
use std::io::Write;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use crate::sys;

/// What init listens to: SIGTERM goes to the program; SIGUSR1 stops and SIGUSR2 continues everything in the
/// sandbox (freezing where there is no cgroup).
pub(super) const SIGNALS: [i32; 4] = [libc::SIGTERM, libc::SIGCHLD, libc::SIGUSR1, libc::SIGUSR2];

/// Serves until the program with this pid has ended; then ends, and the kernel kills whatever is left.
pub(super) fn run(program: i32, exit_file: &File) -> ! {
    let program = Pid::from_raw(program);
    loop {
        match sys::wait_signal(&SIGNALS) {
            libc::SIGTERM => {
                if let Some(program) = program {
                    let _ = rustix::process::kill_process(program, Signal::TERM);
                }
            }
            libc::SIGUSR1 => sys::signal_namespace(libc::SIGSTOP),
            libc::SIGUSR2 => sys::signal_namespace(libc::SIGCONT),
            libc::SIGCHLD => {
                if let Some(status) = reap(program) {
                    write_down(status, exit_file);
                    sys::exit(0);
                }
            }
            _ => {}
        }
    }
}

/// Takes in every dead child; the program's status if it was among them.
fn reap(program: Option<Pid>) -> Option<WaitStatus> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if Some(pid) == program {
            ended = Some(status);
        }
    }
    ended
}

fn write_down(status: WaitStatus, mut exit_file: &File) {
    let line = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("code {code}\n"),
        (None, Some(signal)) => format!("signal {signal}\n"),
        (None, None) => return,
    };
    let _ = exit_file.write_all(line.as_bytes());
}
