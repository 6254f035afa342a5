//! The `verge bus` process: opens what host attached, and hands it to the loop of [`can_bridge::face`].

use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use can_bridge::bus::{Bus, BusIoError};
use can_bridge::face::{Attach, AttachSender, BusEntry, BusSetup, EffectStream, NamedBytes, attach_channel};
use can_bridge::multicast::Multicast;
use can_bridge::socketcan::SocketCan;
use can_core::guard::{BusClaim, GuardClaim, TxRuleClaim};
use policies::face::{Attachment, FromHost, ToHost};
use policies::host::Face;

use crate::channel::{ChannelError, FaceStart, HostChannel, HostSays};
use crate::config::{BusKind, BusSection, FileError, NodeFile, TxRule};

/// Bit rate that the guard's load cap counts with, until the configuration tells it.
const BITRATE: u32 = 500_000;

/// Why the process cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum BusFaceError {
    /// Its part of the configuration.
    #[error(transparent)]
    Config(#[from] FileError),
    /// The channel to host.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Host attached less than the configuration names.
    #[error("host attached no {what}")]
    Missing {
        /// What.
        what: String,
    },
    /// A file that host attached.
    #[error("cannot read {what}: {source}")]
    Read {
        /// Which.
        what: String,
        /// The kernel's word.
        source: std::io::Error,
    },
    /// A rule for the transmit guard.
    #[error("[[bus]] {bus}: tx rule for {app:?}: {why}")]
    Rule {
        /// The bus.
        bus: String,
        /// The app as written.
        app: String,
        /// What is wrong.
        why: String,
    },
    /// A bus.
    #[error(transparent)]
    Open(#[from] BusIoError),
    /// The loop.
    #[error(transparent)]
    Loop(#[from] can_bridge::face::BusError),
}

impl BusFaceError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Loop(error) => error.fix(),
            Self::Open(error) => error.fix(),
            Self::Rule { .. } => {
                Some("write tx = [{ app = \"tenant/app\", id = 0x2A0, rate_per_s = 10 }]".into())
            }
            Self::Missing { .. } => Some("use the verge-host of the same release".into()),
            Self::Config(error) => error.fix(),
            Self::Channel(_) | Self::Read { .. } => None,
        }
    }
}

/// Runs the process until host says stop or is gone.
///
/// # Errors
/// What keeps it from serving; host has been told.
pub async fn run(start: FaceStart, host: HostChannel) -> Result<(), BusFaceError> {
    let result = serve(start, &host).await;
    if let Err(error) = &result {
        let failed = ToHost::Failed { what: "bus".into(), why: error.to_string(), fix: error.fix() };
        // Host may be gone; then nobody is left to tell.
        let _ = host.send(&failed).await;
    }
    result
}

async fn serve(mut start: FaceStart, host: &HostChannel) -> Result<(), BusFaceError> {
    let file = crate::config::load(&start.config, Path::new("node.toml"))?;
    let io = |source| BusFaceError::Read { what: "attachments".into(), source };
    let (sender, attach) = attach_channel().map_err(io)?;
    let setup = BusSetup {
        node: start.node.clone(),
        buses: file.bus.iter().map(|bus| entry(&mut start, bus)).collect::<Result<_, _>>()?,
        guard: guard(&file)?,
        effect: start.take(|what| *what == Attachment::EffectServer).map(effect),
        effect_acks: true,
        channel: UnixStream::from(take(&mut start, &Attachment::Channel(Face::Node), "channel to node")?),
        attach,
    };
    for (what, fd) in std::mem::take(&mut start.attachments) {
        hand_over(&sender, what, fd);
    }
    let mut done = tokio::task::spawn_blocking(move || can_bridge::face::run(setup));
    host.send(&ToHost::Ready).await?;
    loop {
        tokio::select! {
            ended = &mut done => {
                return ended.map_err(|e| BusFaceError::Missing { what: format!("loop ({e})") })?.map_err(Into::into);
            }
            said = host.recv() => match said? {
                Some(HostSays::Face(FromHost::Attach(what), Some(fd))) => hand_over(&sender, what, fd),
                Some(HostSays::Face(FromHost::Stop, _)) | None => {
                    sender.send(Attach::Stop);
                }
                Some(_) => {}
            },
        }
    }
}

fn take(start: &mut FaceStart, what: &Attachment, name: &str) -> Result<OwnedFd, BusFaceError> {
    start.take(|other| other == what).ok_or_else(|| BusFaceError::Missing { what: name.into() })
}

fn effect(fd: OwnedFd) -> EffectStream {
    EffectStream::Tcp(TcpStream::from(fd))
}

/// Passes an attachment on to the loop.
fn hand_over(sender: &AttachSender, what: Attachment, fd: OwnedFd) {
    let attach = match what {
        Attachment::Channel(Face::Border(tenant)) => Attach::Border(tenant, UnixStream::from(fd)),
        Attachment::Channel(Face::Node) => Attach::Node(UnixStream::from(fd)),
        Attachment::EffectServer => Attach::Effect(effect(fd)),
        other => return tracing::debug!(?other, "attachment not used"),
    };
    sender.send(attach);
}

fn entry(start: &mut FaceStart, bus: &BusSection) -> Result<BusEntry, BusFaceError> {
    let fd = take(start, &Attachment::Bus(bus.name.clone()), &format!("socket of bus {}", bus.name))?;
    let port: Box<dyn Bus> = match &bus.kind {
        BusKind::Multicast { group, port } => {
            Box::new(Multicast::from_fd(fd, SocketAddrV4::new(*group, *port))?)
        }
        BusKind::SocketCan { interface } => Box::new(SocketCan::from_fd(fd, interface)?),
    };
    let mut read = |kind: &str, path: &Option<std::path::PathBuf>| {
        let Some(path) = path else { return Ok(None) };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match start.read_file(&format!("{kind}:{}", bus.name)) {
            Ok(bytes) => Ok(Some(NamedBytes { name, bytes })),
            Err(source) => Err(BusFaceError::Read { what: name, source }),
        }
    };
    Ok(BusEntry {
        name: bus.name.clone(),
        port,
        dbc: read("dbc", &bus.dbc)?,
        mapping: read("mapping", &bus.mapping)?,
    })
}

/// The guard's rules, from host's own file and from nowhere else.
fn guard(file: &NodeFile) -> Result<GuardClaim, BusFaceError> {
    let mut claim = GuardClaim::default();
    for bus in file.bus.iter().filter(|bus| !bus.tx.is_empty()) {
        let load_permille = u16::from(bus.load_cap) * 10;
        claim.buses.push(BusClaim {
            bus: bus.name.clone(),
            bitrate: BITRATE,
            data_bitrate: 0,
            load_permille,
        });
        for rule in &bus.tx {
            claim.rules.push(tx_rule(bus, rule)?);
        }
    }
    Ok(claim)
}

fn tx_rule(bus: &BusSection, rule: &TxRule) -> Result<TxRuleClaim, BusFaceError> {
    let app = crate::cli::app_ref(&rule.app).map_err(|why| BusFaceError::Rule {
        bus: bus.name.to_string(),
        app: rule.app.clone(),
        why: why.to_string(),
    })?;
    Ok(TxRuleClaim {
        tenant: app.tenant,
        app: app.app,
        bus: bus.name.clone(),
        id: rule.id,
        extended: rule.extended,
        len_min: 0,
        len_max: 8,
        per_second: rule.rate_per_s,
        burst: 1,
        while_moving: true,
        shared: false,
        signals: Vec::new(),
    })
}
