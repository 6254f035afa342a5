//! The filters, run by an interpreter of the few instructions they use.

use super::*;

/// Runs `code` on one system call and returns the action.
fn run(code: &[sock_filter], architecture: u32, number: u32, arguments: [u32; 3]) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let sock_filter { code: op, jt, jf, k } = code[at];
        let op = u32::from(op);
        let branch = |yes: bool| usize::from(if yes { jt } else { jf });
        at += 1;
        if op == libc::BPF_RET | libc::BPF_K {
            return k;
        } else if op == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
            accumulator = match k {
                OFFSET_NUMBER => number,
                OFFSET_ARCHITECTURE => architecture,
                _ => arguments[((k - OFFSET_ARGUMENTS) / 8) as usize],
            };
        } else if op == libc::BPF_JMP | libc::BPF_JA {
            at += k as usize;
        } else if op == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K {
            at += branch(accumulator == k);
        } else if op == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K {
            at += branch(accumulator >= k);
        } else if op == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K {
            at += branch(accumulator & k != 0);
        } else {
            panic!("unknown instruction {op:#x}");
        }
    }
}

fn number(syscall: libc::c_long) -> u32 {
    u32::try_from(syscall).unwrap()
}

#[test]
fn every_number_gets_what_the_list_says() {
    for profile in [Profile::App, Profile::Face] {
        let code = filter(profile);
        for n in 0..2048u32 {
            let special = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_socket, libc::SYS_personality];
            if special.contains(&libc::c_long::from(n)) {
                continue;
            }
            let expected = match n {
                n if syscalls::ALLOWED.contains(&libc::c_long::from(n)) => ALLOW,
                n if n >= syscalls::BEYOND => errno(libc::ENOSYS),
                _ => errno(libc::EPERM),
            };
            assert_eq!(run(&code, ARCHITECTURE, n, [0; 3]), expected, "{profile:?} {n}");
        }
    }
}

#[test]
fn what_depends_on_arguments() {
    let eperm = errno(libc::EPERM);
    let no_family = errno(libc::EAFNOSUPPORT);
    let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND).cast_unsigned();
    let netlink = [libc::AF_NETLINK.cast_unsigned(), 3, libc::NETLINK_ROUTE.cast_unsigned()];
    let audit = [libc::AF_NETLINK.cast_unsigned(), 3, libc::NETLINK_AUDIT.cast_unsigned()];
    let family = |family: i32| [family.cast_unsigned(), 1, 0];
    let cases = [
        (libc::SYS_clone, [17, 0, 0], ALLOW, ALLOW),
        (libc::SYS_clone, [thread, 0, 0], ALLOW, ALLOW),
        (libc::SYS_clone, [libc::CLONE_NEWUSER.cast_unsigned() | 17, 0, 0], eperm, eperm),
        (libc::SYS_clone, [libc::CLONE_NEWNET.cast_unsigned(), 0, 0], eperm, eperm),
        (libc::SYS_clone3, [0; 3], errno(libc::ENOSYS), errno(libc::ENOSYS)),
        (libc::SYS_socket, family(libc::AF_UNIX), ALLOW, ALLOW),
        (libc::SYS_socket, family(libc::AF_INET6), ALLOW, ALLOW),
        (libc::SYS_socket, family(libc::AF_CAN), no_family, no_family),
        (libc::SYS_socket, family(libc::AF_VSOCK), no_family, no_family),
        (libc::SYS_socket, family(libc::AF_ALG), no_family, no_family),
        (libc::SYS_socket, family(libc::AF_PACKET), no_family, no_family),
        (libc::SYS_socket, netlink, no_family, ALLOW),
        (libc::SYS_socket, audit, no_family, no_family),
        (libc::SYS_personality, [0; 3], ALLOW, ALLOW),
        (libc::SYS_personality, [u32::MAX, 0, 0], ALLOW, ALLOW),
        (libc::SYS_personality, [0x0004_0000, 0, 0], eperm, eperm),
        (libc::SYS_unshare, [0; 3], eperm, eperm),
        (libc::SYS_mount, [0; 3], eperm, eperm),
        (libc::SYS_bpf, [0; 3], eperm, eperm),
        (libc::SYS_io_uring_setup, [0; 3], eperm, eperm),
        (libc::SYS_ptrace, [0; 3], eperm, eperm),
    ];
    for (syscall, arguments, app, face) in cases {
        for (profile, expected) in [(Profile::App, app), (Profile::Face, face)] {
            let got = run(&filter(profile), ARCHITECTURE, number(syscall), arguments);
            assert_eq!(got, expected, "{profile:?} {syscall} {arguments:?}");
        }
    }
}

#[test]
fn foreign_architectures_and_x32_are_refused() {
    let code = filter(Profile::App);
    assert_eq!(run(&code, 0x4000_0003, 1, [0; 3]), KILL, "i386");
    assert_eq!(run(&code, ARCHITECTURE, 0x4000_0000 | 1, [0; 3]), errno(libc::ENOSYS), "x32 write");
}

#[test]
fn the_filter_is_short() {
    let len = filter(Profile::App).len();
    assert!(len < 200, "{len} instructions");
}
