//! Everything that a face may not open itself: bus sockets, files that the configuration names, the control
//! listener. Opened afresh for each start of a face.

use std::fs::{self, File, Permissions};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use policies::face::Attachment;
use policies::host::Face;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::config::{BusKind, Config};
use crate::fault::{Explain, FileError};

/// Receive buffer of a bus: half a second of eight full CAN FD buses.
const BUS_BUFFER_LEN: usize = 4 << 20;

/// Why something cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A file.
    #[error("{wanted}: {source}")]
    File {
        /// What it is for.
        wanted: String,
        /// Why not.
        source: FileError,
    },
    /// A camera source of a kind that this release does not read.
    #[error("camera {camera}: source {got:?} is not file:PATH")]
    Source {
        /// The camera.
        camera: String,
        /// Its source.
        got: String,
    },
    /// The CAN interface.
    #[error("bus {bus}: cannot open CAN interface {interface}: {source}")]
    Can {
        /// The bus.
        bus: String,
        /// Its interface.
        interface: String,
        /// The cause.
        source: std::io::Error,
    },
    /// Another process serves the control socket.
    #[error("control socket {path} is served by another process")]
    ControlBusy {
        /// Its path.
        path: String,
    },
}

impl Explain for DeviceError {
    fn fix(&self) -> Option<String> {
        match self {
            Self::File { source, .. } => source.fix(),
            Self::Source { .. } => Some("write source = \"file:PATH\" with a file of JPEGs".into()),
            Self::Can { interface, source, .. } => Some(match source.raw_os_error() {
                Some(libc::ENODEV) => {
                    format!("bring it up: ip link add dev {interface} type vcan; ip link set up {interface}")
                }
                Some(libc::EAFNOSUPPORT) => {
                    "this kernel has no CAN: use kind = \"multicast\", or load the can modules".into()
                }
                _ => "run verge-host as root, or use kind = \"multicast\"".into(),
            }),
            Self::ControlBusy { .. } => Some("end it, or set [control] socket to another path".into()),
        }
    }
}

type Attached = Vec<(Attachment, OwnedFd)>;

/// Opens what `face` gets at its start, besides channels and its own state.
///
/// # Errors
/// The first thing that cannot be opened.
pub fn for_face(config: &Config, face: &Face) -> Result<Attached, DeviceError> {
    match face {
        Face::Bus => buses(config),
        Face::Camera => clips(config),
        Face::Node => tls(config, "car-"),
        Face::Link => tls(config, "outside-"),
        Face::Border(_) | Face::Worker(_) => Ok(Vec::new()),
    }
}

fn open(wanted: String, path: &Path) -> Result<(Attachment, OwnedFd), DeviceError> {
    match File::open(path) {
        Ok(file) => Ok((Attachment::File(wanted), file.into())),
        Err(error) => Err(DeviceError::File { wanted, source: FileError::at("open", path)(error) }),
    }
}

fn tls(config: &Config, prefix: &str) -> Result<Attached, DeviceError> {
    let wanted = config.tls.iter().filter(|(name, _)| name.starts_with(prefix));
    wanted.map(|(name, path)| open(name.clone(), path)).collect()
}

fn clips(config: &Config) -> Result<Attached, DeviceError> {
    let clip = |camera: &crate::config::CameraSection| match camera.source.strip_prefix("file:") {
        Some(path) => open(format!("clip:{}", camera.id), Path::new(path)),
        None => Err(DeviceError::Source { camera: camera.id.to_string(), got: camera.source.clone() }),
    };
    config.cameras.iter().map(clip).collect()
}

fn buses(config: &Config) -> Result<Attached, DeviceError> {
    let mut attached = Attached::new();
    for bus in &config.buses {
        let socket = match &bus.kind {
            BusKind::Multicast { group, port } => {
                multicast(*group, *port).map_err(|error| DeviceError::File {
                    wanted: format!("bus {}", bus.name),
                    source: FileError::at("join the multicast bus", format!("{group}:{port}"))(error),
                })?
            }
            BusKind::SocketCan { interface } => can(bus.name.as_str(), interface)?,
        };
        attached.push((Attachment::Bus(bus.name.clone()), socket));
        for (what, path) in [("dbc", &bus.dbc), ("mapping", &bus.mapping)] {
            if let Some(path) = path {
                attached.push(open(format!("{what}:{}", bus.name), path)?);
            }
        }
    }
    Ok(attached)
}

fn can(bus: &str, interface: &str) -> Result<OwnedFd, DeviceError> {
    let failed = |source| DeviceError::Can { bus: bus.into(), interface: interface.into(), source };
    let socket = crate::sys::can_socket(interface).map_err(failed)?;
    enlarge(&socket);
    Ok(socket)
}

/// As large as the kernel lets us: by force as root, up to its limit otherwise.
fn enlarge(socket: &OwnedFd) {
    if sockopt::set_socket_recv_buffer_size_force(socket, BUS_BUFFER_LEN).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, BUS_BUFFER_LEN);
    }
}

/// The socket of the user-space bus. Bound to the group, so that nothing but the group's traffic comes in; joined
/// and sending on loopback alone, so that nothing leaves the machine.
fn multicast(group: Ipv4Addr, port: u16) -> std::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &std::net::SocketAddrV4::new(group, port))?;
    sockopt::set_ip_add_membership(&socket, &group, &Ipv4Addr::LOCALHOST)?;
    sockopt::set_ip_multicast_if(&socket, &Ipv4Addr::LOCALHOST)?;
    sockopt::set_ip_multicast_loop(&socket, true)?;
    sockopt::set_ip_multicast_ttl(&socket, 0)?;
    enlarge(&socket);
    Ok(socket)
}

/// The control listener. A socket that a dead host left is replaced; one that is served is not.
///
/// # Errors
/// [`DeviceError`] with the path.
pub fn control(config: &Config) -> Result<UnixListener, DeviceError> {
    let path = config.control_socket();
    let failed = |what| {
        let path = path.clone();
        move |error| DeviceError::File {
            wanted: "control socket".into(),
            source: FileError::at(what, path)(error),
        }
    };
    if fs::symlink_metadata(&path).is_ok_and(|meta| meta.file_type().is_socket()) {
        // In our run directory we hold the lock, so whoever still listens there belongs to a dead host.
        let ours = path.starts_with(&config.node.run_dir);
        if !ours && UnixStream::connect(&path).is_ok() {
            return Err(DeviceError::ControlBusy { path: path.display().to_string() });
        }
        fs::remove_file(&path).map_err(failed("replace"))?;
    }
    let listener = UnixListener::bind(&path).map_err(failed("bind to"))?;
    let mode =
        config.control.mode.as_deref().and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(0o660);
    fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(failed("set the mode of"))?;
    if let Some(group) = config.control.group {
        std::os::unix::fs::chown(&path, None, Some(group)).map_err(failed("give away"))?;
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_space_bus_carries_datagrams_between_two_sockets() {
        let group = Ipv4Addr::new(239, 74, 163, 77);
        let receiver = multicast(group, 43_177).unwrap();
        let sender = multicast(group, 43_177).unwrap();
        let to = std::net::SocketAddrV4::new(group, 43_177);
        rustix::net::sendto(&sender, b"frame", rustix::net::SendFlags::empty(), &to).unwrap();
        let mut wait = [rustix::event::PollFd::new(&receiver, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut wait, Some(&limit)).unwrap(), 1);
        let mut bytes = [0u8; 16];
        let (_, len) = rustix::net::recv(&receiver, &mut bytes[..], rustix::net::RecvFlags::empty()).unwrap();
        assert_eq!(&bytes[..len], b"frame");
    }

    #[test]
    fn a_missing_interface_or_clip_says_how_to_get_it() {
        let error = can("can0", "verge-none0").unwrap_err();
        assert!(error.fix().is_some_and(|fix| fix.contains("vcan") || fix.contains("multicast")), "{error}");
    }
}
