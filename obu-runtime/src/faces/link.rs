//! `verge link`: the outside realm's sessions, and nothing else.
//!
//! ```text
//!   node <== Realm messages ==> link --- router: cars dial this roadside element
//!                                    \-- visitor, one session per roadside element that is dialled
//! ```
//! Link decides nothing: it carries frames, under the node's alias where it has one. Its sessions set no
//! timestamps and no source information, and beside a message travel only the bytes that the message names.

use std::collections::BTreeMap;
use std::path::Path;

use policies::face::{Attachment, FromHost, Realm, ToHost};
use policies::host::Face;
use policies::id::NodeId;
use policies::limits::PEERS_MAX;
use tokio::sync::mpsc;
use v2e::alias;
use v2e::carrier::{Carrier, CarrierError, FromRealm};
use v2e::keys::RealmName;
use v2e::session::{Security, Session, Tls};

use crate::channel::{self, ChannelError, FaceStart, HostChannel, HostSays, Sender};
use crate::config::{FileError, OutsideSection};

/// Messages that wait for the loop; the carriers' own queues stand behind it.
const EVENTS_WAITING_MAX: usize = 64;

/// Roadside elements that one node dials.
const DIALLED_MAX: usize = 8;

/// Failures that end the link process.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Its section of the configuration.
    #[error(transparent)]
    Config(#[from] FileError),
    /// No section for it, or one that leads nowhere.
    #[error("cannot begin: {why}")]
    Section {
        /// What is missing.
        why: String,
    },
    /// A file of TLS material.
    #[error("cannot read {name}: {source}")]
    Material {
        /// Which.
        name: &'static str,
        /// The kernel's word.
        source: std::io::Error,
    },
    /// A session.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// The channel to node or host.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

impl LinkError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Section { .. } => {
                Some("give [outside] a zone and listen = [...] (roadside) or connect = [...] (car)".into())
            }
            Self::Material { .. } => Some("name ca, cert and key in [outside]; verge pki makes them".into()),
            Self::Carrier(error) => error.fix(),
            Self::Config(error) => error.fix(),
            Self::Channel(_) => None,
        }
    }
}

/// Serves until host says stop or is gone.
///
/// # Errors
/// What keeps it from serving; host has been told.
pub async fn run(start: FaceStart, host: HostChannel) -> Result<(), LinkError> {
    let result = serve(start, &host).await;
    if let Err(error) = &result {
        let failed = ToHost::Failed { what: "link".into(), why: error.to_string(), fix: error.fix() };
        // Host may be gone; then nobody is left to tell.
        let _ = host.send(&failed).await;
    }
    result
}

async fn serve(mut start: FaceStart, host: &HostChannel) -> Result<(), LinkError> {
    let (queue, mut events) = mpsc::channel(EVENTS_WAITING_MAX);
    let mut link = Link::open(&mut start, queue).await?;
    if let Some(fd) = start.take(|what| *what == Attachment::Channel(Face::Node)) {
        link.attach(fd)?;
    }
    host.send(&ToHost::Ready).await?;
    loop {
        tokio::select! {
            said = host.recv() => match said? {
                None | Some(HostSays::Face(FromHost::Stop, _)) => break,
                Some(HostSays::Face(FromHost::Attach(Attachment::Channel(Face::Node)), Some(fd))) => {
                    link.attach(fd)?;
                }
                Some(other) => tracing::warn!(?other, "not for a link"),
            },
            Some(event) = events.recv() => link.handle(event),
        }
    }
    link.close().await;
    Ok(())
}

enum Event {
    /// From node (`None`: the channel ended), in this life of it.
    Node(u64, Option<Realm>),
    /// From the carrier of that index.
    Realm(usize, FromRealm),
}

struct Link {
    node: NodeId,
    /// The name outside.
    me: NodeId,
    carriers: Vec<Carrier>,
    /// Through which carrier a peer was last heard, and its last advert, for a node that comes late.
    peers: BTreeMap<NodeId, (usize, Option<Vec<u8>>)>,
    to_node: Option<Sender<Realm>>,
    /// Counts the channels to node.
    life: u64,
    queue: mpsc::Sender<Event>,
}

impl Link {
    async fn open(start: &mut FaceStart, queue: mpsc::Sender<Event>) -> Result<Self, LinkError> {
        let file = crate::config::load(&start.config, Path::new("node.toml"))?;
        let missing = || LinkError::Section { why: "the configuration has no [outside]".into() };
        let outside = file.outside.ok_or_else(missing)?;
        let security = security(start, file.node.insecure)?;
        let sessions = sessions(&outside, &security, start.time_scale)?;
        let me = outside.alias.unwrap_or_else(|| start.node.clone());
        let mut carriers = Vec::new();
        for (index, session) in sessions.into_iter().enumerate() {
            let realm = RealmName::Outside(outside.zone.clone());
            let (carrier, mut said) = Carrier::open(session, realm, me.clone(), start.incarnation).await?;
            carriers.push(carrier);
            let queue = queue.clone();
            tokio::spawn(async move {
                while let Some(said) = said.recv().await {
                    if queue.send(Event::Realm(index, said)).await.is_err() {
                        return;
                    }
                }
            });
        }
        let node = start.node.clone();
        Ok(Self { node, me, carriers, peers: BTreeMap::new(), to_node: None, life: 0, queue })
    }

    /// Takes a (new) channel to node and tells it who is there.
    fn attach(&mut self, fd: std::os::fd::OwnedFd) -> Result<(), LinkError> {
        let (sender, receiver) = channel::channel::<Realm, Realm>(fd, "node")?;
        self.life += 1;
        let life = self.life;
        self.to_node = Some(sender);
        receiver.forward(self.queue.clone(), move |message| Event::Node(life, message));
        let known = self.peers.iter().filter_map(|(peer, (_, frame))| Some((peer.clone(), frame.clone()?)));
        for (peer, frame) in known {
            self.tell(&Realm::Advert { peer, frame });
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Node(life, _) if life != self.life => {}
            Event::Node(_, None) => self.to_node = None,
            Event::Node(_, Some(message)) => {
                if let Err(error) = self.send(message) {
                    tracing::warn!(%error, "not sent");
                }
            }
            Event::Realm(index, said) => self.hear(index, said),
        }
    }

    fn send(&self, message: Realm) -> Result<(), CarrierError> {
        match message {
            Realm::Message { peer, frame, payload } => {
                let frame = self.renamed(&peer, frame, &self.node, &self.me)?;
                let known = self.peers.get(&peer).map(|(index, _)| *index);
                // A peer that nobody heard of can only be behind the one session there is.
                match known.or((self.carriers.len() == 1).then_some(0)).and_then(|i| self.carriers.get(i)) {
                    Some(carrier) => carrier.send(&peer, frame, payload),
                    None => {
                        self.tell(&Realm::Silent { peer });
                        Ok(())
                    }
                }
            }
            Realm::Advert { frame, .. } => {
                let frame = self.renamed(&self.node, frame, &self.node, &self.me)?;
                self.carriers.iter().try_for_each(|carrier| carrier.advertise(frame.clone()))
            }
            // Only ever said by link.
            Realm::Gone { .. } | Realm::Silent { .. } => Ok(()),
        }
    }

    fn renamed(
        &self,
        peer: &NodeId,
        frame: Vec<u8>,
        from: &NodeId,
        to: &NodeId,
    ) -> Result<Vec<u8>, CarrierError> {
        if self.me == self.node {
            return Ok(frame);
        }
        alias::rename(&frame, from, to).map_err(|source| CarrierError::Message { peer: peer.clone(), source })
    }

    fn hear(&mut self, index: usize, said: FromRealm) {
        match said {
            FromRealm::Advert { peer, frame } => {
                self.note(&peer, index, Some(frame.clone()));
                self.tell(&Realm::Advert { peer, frame });
            }
            FromRealm::Message { peer, frame, payload } => {
                self.note(&peer, index, None);
                // The carrier has decoded the frame once; it does again.
                if let Ok(frame) = self.renamed(&peer, frame, &self.me, &self.node) {
                    self.tell(&Realm::Message { peer, frame, payload });
                }
            }
            FromRealm::Call { peer, frame } => {
                self.note(&peer, index, None);
                self.tell(&Realm::Message { peer, frame, payload: None });
            }
            FromRealm::Silent { peer, .. } => self.tell(&Realm::Silent { peer }),
            FromRealm::Gone { peer } => {
                // Seen through another session by now: it moved, it is not gone.
                if self.peers.get(&peer).is_none_or(|(at, _)| *at == index) {
                    self.peers.remove(&peer);
                    self.tell(&Realm::Gone { peer });
                }
            }
        }
    }

    fn note(&mut self, peer: &NodeId, index: usize, advert: Option<Vec<u8>>) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.0 = index;
            known.1 = advert.or(known.1.take());
        } else if self.peers.len() < PEERS_MAX {
            self.peers.insert(peer.clone(), (index, advert));
        }
    }

    /// Node's own timers stand behind whatever is dropped here.
    fn tell(&self, message: &Realm) {
        let Some(node) = &self.to_node else { return };
        if !node.offer(message).unwrap_or(false) {
            tracing::debug!("node lags or is away: message dropped");
        }
    }

    async fn close(self) {
        for carrier in self.carriers {
            carrier.close().await;
        }
    }
}

fn security(start: &mut FaceStart, insecure: bool) -> Result<Security, LinkError> {
    if insecure {
        return Ok(Security::Insecure);
    }
    let mut read = |name| start.read_file(name).map_err(|source| LinkError::Material { name, source });
    Ok(Security::Mutual(Tls {
        ca: read("outside-ca")?,
        cert: read("outside-cert")?,
        key: read("outside-key")?,
        verify_name: true,
    }))
}

/// One router if it listens, one visitor per element that it dials.
fn sessions(
    outside: &OutsideSection,
    security: &Security,
    time_scale: u32,
) -> Result<Vec<Session>, LinkError> {
    if outside.connect.len() > DIALLED_MAX {
        let why = format!("[outside] dials {} elements; {DIALLED_MAX} is the maximum", outside.connect.len());
        return Err(LinkError::Section { why });
    }
    let mut sessions = Vec::new();
    if !outside.listen.is_empty() {
        sessions.push(Session::roadside(&outside.listen, security.clone(), time_scale));
    }
    let dialled = outside.connect.iter();
    sessions.extend(dialled.map(|element| Session::visitor(element, security.clone(), time_scale)));
    if sessions.is_empty() {
        return Err(LinkError::Section { why: "[outside] neither listens nor connects".into() });
    }
    Ok(sessions)
}

#[cfg(test)]
mod tests;
