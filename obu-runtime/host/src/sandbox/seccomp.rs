//! Seccomp filters as a binary tree over ranges of system call numbers.
//!
//! The shape is what a start pays for: the kernel checks and compiles every instruction. A linear list of 320
//! numbers costs about 395 us to install, the same list as ranges under a tree about 60 us.
//!
//! ```text
//!   foreign architecture -> kill          a number beyond all that we know -> ENOSYS (libraries fall back)
//!   x32 number           -> ENOSYS        a number that is not in the list -> EPERM
//!   clone3               -> ENOSYS (its flags cannot be seen); clone by flags; socket by family
//! ```

use libc::sock_filter;

use super::syscalls;

/// `AUDIT_ARCH_*` of this build.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
/// `AUDIT_ARCH_*` of this build.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;

/// Flags that make new namespaces: refused in `clone`.
const CLONE_NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP)
    .cast_unsigned();

/// Where `seccomp_data` holds its parts. Arguments are 64 bits, of which the lower half is looked at first.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

const fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number.cast_unsigned()
}

/// Who the filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// An app: Unix, IPv4 and IPv6 sockets (its network namespace is empty).
    App,
    /// A face: the same, and route netlink, by which network libraries list interfaces.
    Face,
}

/// What happens to one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// This action.
    Plain(u32),
    /// It depends on arguments.
    Clone,
    Socket,
    Personality,
}

/// A run of numbers that share a verdict: from `first` up to the next run's `first`.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u32,
    verdict: Verdict,
}

/// The filter of a profile, ready to be installed.
pub fn filter(profile: Profile) -> Vec<sock_filter> {
    let mut code = vec![
        load(OFFSET_ARCHITECTURE),
        jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
        ret(KILL),
        load(OFFSET_NUMBER),
    ];
    tree(&runs(), profile, &mut code);
    code
}

/// The whole number line as runs.
fn runs() -> Vec<Run> {
    let mut numbers: Vec<u32> =
        syscalls::ALLOWED.iter().filter_map(|number| u32::try_from(*number).ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let beyond = syscalls::BEYOND;
    let mut runs: Vec<Run> = Vec::new();
    for number in 0..beyond {
        let verdict = verdict(number, &numbers);
        if runs.last().is_none_or(|run| run.verdict != verdict) {
            runs.push(Run { first: number, verdict });
        }
    }
    runs.push(Run { first: beyond, verdict: Verdict::Plain(errno(libc::ENOSYS)) });
    runs
}

fn verdict(number: u32, allowed: &[u32]) -> Verdict {
    let is = |syscall: libc::c_long| u32::try_from(syscall).is_ok_and(|n| n == number);
    if is(libc::SYS_clone3) {
        Verdict::Plain(errno(libc::ENOSYS))
    } else if is(libc::SYS_clone) {
        Verdict::Clone
    } else if is(libc::SYS_socket) {
        Verdict::Socket
    } else if is(libc::SYS_personality) {
        Verdict::Personality
    } else if allowed.binary_search(&number).is_ok() {
        Verdict::Plain(ALLOW)
    } else {
        Verdict::Plain(errno(libc::EPERM))
    }
}

/// Appends code that decides among `runs`, with the number in the accumulator.
fn tree(runs: &[Run], profile: Profile, code: &mut Vec<sock_filter>) {
    if let [only] = runs {
        return leaf(only.verdict, profile, code);
    }
    let (low, high) = runs.split_at(runs.len() / 2);
    let at = code.len();
    code.push(ret(KILL)); // overwritten below, once the length of the lower half is known
    tree(low, profile, code);
    let skip = code.len() - at - 1;
    let pivot = high[0].first;
    match u8::try_from(skip) {
        Ok(skip) => code[at] = jump(libc::BPF_JGE, pivot, skip, 0),
        Err(_) => {
            // A conditional jump reaches 255 instructions; beyond that a long jump stands behind it.
            code[at] = jump(libc::BPF_JGE, pivot, 0, 1);
            code.insert(at + 1, long_jump(skip));
        }
    }
    tree(high, profile, code);
}

fn leaf(verdict: Verdict, profile: Profile, code: &mut Vec<sock_filter>) {
    match verdict {
        Verdict::Plain(action) => code.push(ret(action)),
        Verdict::Clone => code.extend([
            load(OFFSET_ARGUMENTS),
            jump(libc::BPF_JSET, CLONE_NAMESPACES, 0, 1),
            ret(errno(libc::EPERM)),
            ret(ALLOW),
        ]),
        Verdict::Socket => socket(profile, code),
        // Linux, Linux with 32-bit uname, and the question what it is now.
        Verdict::Personality => code.extend([
            load(OFFSET_ARGUMENTS),
            jump(libc::BPF_JEQ, 0, 3, 0),
            jump(libc::BPF_JEQ, 8, 2, 0),
            jump(libc::BPF_JEQ, u32::MAX, 1, 0),
            ret(errno(libc::EPERM)),
            ret(ALLOW),
        ]),
    }
}

fn socket(profile: Profile, code: &mut Vec<sock_filter>) {
    let family = |family: i32, yes: u8| jump(libc::BPF_JEQ, family.cast_unsigned(), yes, 0);
    code.push(load(OFFSET_ARGUMENTS));
    match profile {
        Profile::App => code.extend([
            family(libc::AF_UNIX, 3),
            family(libc::AF_INET, 2),
            family(libc::AF_INET6, 1),
            ret(errno(libc::EAFNOSUPPORT)),
            ret(ALLOW),
        ]),
        Profile::Face => code.extend([
            family(libc::AF_UNIX, 6),
            family(libc::AF_INET, 5),
            family(libc::AF_INET6, 4),
            jump(libc::BPF_JEQ, libc::AF_NETLINK.cast_unsigned(), 0, 2),
            load(OFFSET_ARGUMENTS + 16),
            jump(libc::BPF_JEQ, libc::NETLINK_ROUTE.cast_unsigned(), 1, 0),
            ret(errno(libc::EAFNOSUPPORT)),
            ret(ALLOW),
        ]),
    }
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k }
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

fn jump(test: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    instruction(libc::BPF_JMP | test | libc::BPF_K, yes, no, k)
}

fn long_jump(skip: usize) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, u32::try_from(skip).unwrap_or(u32::MAX))
}

fn ret(action: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

#[cfg(test)]
mod tests;
