//! Stands in for `verge face NAME` in the tests.
//!
//! As node it passes everything on descriptor 3 on to the test and back, over an abstract socket that the test
//! listens on (node keeps the host's network, so it can reach it). As any other face it tells node, over their
//! channel, what it sees of the machine; unless its configuration holds the word `cannot-serve`: then it says why not,
//! and ends.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use obu_host::channel::{inherited, receive_from_host};
use policies::face::{Attachment, FromHost, ToHost};
use policies::host::Face;
use policies::wire::{Kind, decode, encode};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketType,
};

type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> Done {
    let host = inherited()?;
    let mut buffer = Vec::new();
    let Some((len, _)) = receive_from_host(host.as_fd(), &mut buffer)? else { return Ok(()) };
    let FromHost::Start { face, config, .. } = decode(Kind::Face, &buffer[..len])? else {
        return Err("the first message is not Start".into());
    };
    match face {
        Face::Node => relay(&host, &config, &buffer[..len]),
        face if config.contains("cannot-serve") => fail(&host, &face),
        face => look_around(&host, &face, &mut buffer),
    }
}

fn fail(host: &OwnedFd, face: &Face) -> Done {
    let why = format!("the {face} is\nout of order");
    let failed = ToHost::Failed { what: face.to_string(), why, fix: Some("mend it".into()) };
    pass_on(host.as_fd(), &encode(Kind::Face, &failed)?, None)
}

fn connect(config: &str) -> Result<OwnedFd, Box<dyn std::error::Error>> {
    let config: toml::Table = config.parse()?;
    let name = config["policy"]["test_socket"].as_str().ok_or("no test_socket")?;
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, 1 << 20)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    Ok(socket)
}

fn relay(host: &OwnedFd, config: &str, first: &[u8]) -> Done {
    let test = connect(config)?;
    pass_on(test.as_fd(), first, None)?;
    let mut buffer = Vec::new();
    loop {
        let mut ends = [PollFd::new(host, PollFlags::IN), PollFd::new(&test, PollFlags::IN)];
        poll(&mut ends, None)?;
        let [from_host, from_test] = ends.map(|end| !end.revents().is_empty());
        if from_host {
            let Some((len, descriptor)) = receive_from_host(host.as_fd(), &mut buffer)? else {
                return Ok(());
            };
            // The test may be gone already; host's word to end counts all the same.
            let _ = pass_on(test.as_fd(), &buffer[..len], descriptor);
            if matches!(decode(Kind::Face, &buffer[..len]), Ok(FromHost::Stop)) {
                return Ok(());
            }
        }
        if from_test {
            buffer.resize(1 << 20, 0);
            let (_, len) = rustix::net::recv(&test, buffer.as_mut_slice(), RecvFlags::empty())?;
            if len == 0 {
                return Ok(()); // the test wants node to die
            }
            pass_on(host.as_fd(), &buffer[..len], None)?;
        }
    }
}

fn pass_on(to: BorrowedFd<'_>, frame: &[u8], descriptor: Option<OwnedFd>) -> Done {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = descriptor.as_ref().map(|descriptor| [descriptor.as_fd()]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(to, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn look_around(host: &OwnedFd, face: &Face, buffer: &mut Vec<u8>) -> Done {
    let mut attached: Vec<String> = Vec::new();
    let mut kept = Vec::new();
    while let Some((len, descriptor)) = receive_from_host(host.as_fd(), buffer)? {
        match (decode::<FromHost>(Kind::Face, &buffer[..len])?, descriptor) {
            (FromHost::Attach(Attachment::Channel(Face::Node)), Some(channel)) => {
                let mut channel = File::from(channel);
                writeln!(channel, "{face} sees {}", sights(&attached))?;
                kept.push(OwnedFd::from(channel));
            }
            (FromHost::Attach(what), Some(descriptor)) => {
                attached.push(format!("{what:?}"));
                kept.push(descriptor);
            }
            (FromHost::Stop, _) => return Ok(()),
            _ => {}
        }
    }
    Ok(())
}

fn sights(attached: &[String]) -> String {
    let mut root: Vec<String> = std::fs::read_dir("/")
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    root.sort();
    let network = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).is_ok_and(|socket| {
        let somewhere = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 9);
        rustix::net::sendto(&socket, b"x", SendFlags::empty(), &somewhere).is_ok()
    });
    let can_write_root = File::create("/written").is_ok();
    format!(
        "root={root:?} network={network} write={can_write_root} pid={} attached={attached:?}",
        std::process::id()
    )
}
