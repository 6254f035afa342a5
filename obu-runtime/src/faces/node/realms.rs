//! The realms this node takes part in: the car realm by its own Zenoh session, the outside realm through the
//! link process. Both speak the same messages; the machine sees one kind of input.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use obu_core::io::Input;
use policies::face::Realm as LinkMessage;
use policies::id::NodeId;
use tokio::sync::mpsc;
use v2e::carrier::{Carrier, FromRealm};
use v2e::keys::RealmName;
use v2e::session::{Security, Session, Tls};
use v2e_core::message::{Advert, Envelope, Message};
use v2e_core::report::Realm;

use super::{Driver, Event, NodeError};
use crate::channel::{FaceStart, Sender, channel};
use crate::config::NodeFile;

/// What a realm says.
#[derive(Debug)]
pub(super) struct RealmEvent {
    realm: Realm,
    said: Said,
}

#[derive(Debug)]
enum Said {
    Frame { peer: NodeId, frame: Vec<u8>, payload: Option<Vec<u8>> },
    Gone { peer: NodeId },
    Silent { peer: NodeId },
}

/// The realms of the moment.
#[derive(Debug, Default)]
pub(super) struct Realms {
    car: Option<Carrier>,
    link: Option<Sender<LinkMessage>>,
}

impl Realms {
    /// Opens the car realm, if the configuration has one.
    pub(super) async fn open(
        start: &mut FaceStart,
        file: &NodeFile,
        inbox: mpsc::Sender<Event>,
    ) -> Result<Self, NodeError> {
        let Some(car) = &file.car else { return Ok(Self::default()) };
        let security = security(start, file.node.insecure)?;
        let session = Session::car(&car.listen, &car.connect, security, start.time_scale);
        let realm = RealmName::Car(file.node.car.clone());
        let opened = Carrier::open(session, realm, start.node.clone(), start.incarnation).await;
        let (carrier, mut said) =
            opened.map_err(|e| NodeError::Realm { why: e.to_string(), fix: e.fix() })?;
        tokio::spawn(async move {
            while let Some(said) = said.recv().await {
                let said = match said {
                    FromRealm::Message { peer, frame, payload } => Said::Frame { peer, frame, payload },
                    FromRealm::Advert { peer, frame } | FromRealm::Call { peer, frame } => {
                        Said::Frame { peer, frame, payload: None }
                    }
                    FromRealm::Gone { peer } => Said::Gone { peer },
                    FromRealm::Silent { peer, .. } => Said::Silent { peer },
                };
                if inbox.send(Event::Realm(RealmEvent { realm: Realm::Car, said })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { car: Some(carrier), link: None })
    }

    /// Takes the channel to the link process.
    pub(super) fn attach_link(&mut self, fd: OwnedFd, inbox: mpsc::Sender<Event>) -> Result<(), NodeError> {
        let (sender, receiver) = channel::<LinkMessage, LinkMessage>(fd, "link")?;
        receiver.forward(inbox, |message| {
            let said = match message {
                None => return Event::Ended(policies::host::Face::Link),
                Some(LinkMessage::Message { peer, frame, payload }) => Said::Frame { peer, frame, payload },
                Some(LinkMessage::Advert { peer, frame }) => Said::Frame { peer, frame, payload: None },
                Some(LinkMessage::Gone { peer }) => Said::Gone { peer },
                Some(LinkMessage::Silent { peer }) => Said::Silent { peer },
            };
            Event::Realm(RealmEvent { realm: Realm::Outside, said })
        });
        self.link = Some(sender);
        Ok(())
    }

    /// Sends a message to a peer. What cannot be sent stays unanswered, as on a real network.
    pub(super) fn send(&self, realm: Realm, to: NodeId, message: &Message, payload: Option<Arc<[u8]>>) {
        let frame = match message.encode() {
            Ok(frame) => frame,
            Err(error) => return tracing::warn!(%to, %error, "message not sent"),
        };
        match (realm, &self.car, &self.link) {
            (Realm::Car, Some(car), _) => {
                if let Err(error) = car.send(&to, frame, payload.map(|p| p.to_vec())) {
                    tracing::warn!(%to, %error, "message not sent");
                }
            }
            (Realm::Outside, _, Some(link)) => {
                let message = LinkMessage::Message { peer: to, frame, payload: payload.map(|p| p.to_vec()) };
                if !link.offer(&message).unwrap_or(false) {
                    tracing::warn!("the link process lags or is away: message dropped");
                }
            }
            _ => tracing::debug!(%to, ?realm, "no such realm"),
        }
    }

    /// Tells a realm what this node is.
    pub(super) fn announce(&self, realm: Realm, advert: Envelope<Advert>) {
        let peer = advert.sender.clone();
        let frame = match Message::Advert(advert).encode() {
            Ok(frame) => frame,
            Err(error) => return tracing::warn!(%error, "advert not sent"),
        };
        match (realm, &self.car, &self.link) {
            (Realm::Car, Some(car), _) => {
                if let Err(error) = car.advertise(frame) {
                    tracing::warn!(%error, "advert not sent");
                }
            }
            (Realm::Outside, _, Some(link)) => {
                // The next advert replaces a lost one.
                let _ = link.offer(&LinkMessage::Advert { peer, frame });
            }
            _ => {}
        }
    }

    /// Leaves the car realm.
    pub(super) async fn close(&mut self) {
        if let Some(car) = self.car.take() {
            car.close().await;
        }
    }
}

/// Mutual TLS by the files that host attached, or none where the configuration says so.
fn security(start: &mut FaceStart, insecure: bool) -> Result<Security, NodeError> {
    if insecure {
        return Ok(Security::Insecure);
    }
    let mut read = |name: &str| {
        start.read_file(name).map_err(|e| NodeError::Realm {
            why: format!("{name}: {e}"),
            fix: Some("name ca, cert and key in [car]; verge pki makes them".into()),
        })
    };
    Ok(Security::Mutual(Tls {
        ca: read("car-ca")?,
        cert: read("car-cert")?,
        key: read("car-key")?,
        verify_name: true,
    }))
}

impl Driver {
    /// What a realm said, as an input. Frames that do not decode are counted and dropped.
    pub(super) fn from_realm(&mut self, event: RealmEvent) -> Option<Input> {
        let RealmEvent { realm, said } = event;
        match said {
            Said::Gone { peer } => Some(Input::PeerGone { realm, peer }),
            Said::Silent { peer } => Some(Input::Silent { realm, peer }),
            Said::Frame { peer, frame, payload } => match Message::decode(&frame) {
                Ok(message) => {
                    let payload = match payload {
                        Some(bytes) => Some(self.blobs.put(self.clock.now(), bytes)?),
                        None => None,
                    };
                    Some(Input::Received { realm, from: peer, message, payload })
                }
                Err(error) => {
                    self.stats.garbage += 1;
                    tracing::debug!(%peer, %error, "a peer sent garbage");
                    None
                }
            },
        }
    }
}
