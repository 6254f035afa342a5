//! A roadside link and a car's link on loopback, with stand-ins for host and node.

use std::os::fd::OwnedFd;
use std::time::Duration;

use policies::id::{Attempt, CarId, Incarnation, TaskId};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use v2e_core::message::{Advert, Envelope, Load, Message, Role, ToRequester, ToWorker};

use super::*;
use crate::channel::Receiver;

/// Longest wait for anything that must come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

fn node(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

fn file(name: &str, text: &str) -> (Attachment, OwnedFd) {
    use std::io::{Seek as _, Write as _};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    (Attachment::File(name.into()), file.into())
}

impl Authority {
    fn files(&self, name: &str) -> Vec<(Attachment, OwnedFd)> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        vec![
            file("outside-ca", &self.pem),
            file("outside-cert", &cert),
            file("outside-key", &key.serialize_pem()),
        ]
    }
}

struct Bench {
    node: Sender<Realm>,
    from_link: Receiver<Realm>,
    _host: OwnedFd,
}

fn link(name: &str, outside: &str, mut attachments: Vec<(Attachment, OwnedFd)>) -> Bench {
    let (host, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let (ours, node_fd) = std::os::unix::net::UnixStream::pair().unwrap();
    attachments.push((Attachment::Channel(Face::Node), node_fd.into()));
    let (to_link, from_link) = channel::channel::<Realm, Realm>(ours.into(), "link").unwrap();
    let start = FaceStart {
        face: Face::Link,
        node: node(name),
        incarnation: Incarnation(1),
        config: format!(
            "[node]\nid = \"{name}\"\ncar = \"car-{name}\"\nrun_dir = \"/run/none\"\nstate_dir = \"/run/none\"\n[outside]\nzone = \"north\"\n\
             ca = \"ca.pem\"\ncert = \"cert.pem\"\nkey = \"key.pem\"\n{outside}"
        ),
        time_scale: 1,
        attachments,
    };
    tokio::spawn(async move { run(start, HostChannel::new(theirs)?).await });
    Bench { node: to_link, from_link, _host: host }
}

impl Bench {
    async fn until(&mut self, wanted: impl Fn(&Realm) -> bool) -> Realm {
        let search = async {
            loop {
                let said = self.from_link.recv().await.unwrap().expect("link ended");
                if wanted(&said) {
                    return said;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("link never said it")
    }
}

fn advert(name: &str) -> Realm {
    let body = Advert {
        seq: 1,
        car: CarId::new(&format!("car-{name}")).unwrap(),
        role: Role::Obu,
        cores: 1,
        functions: Vec::new(),
        load: Load::default(),
    };
    let envelope = Envelope { sender: node(name), incarnation: Incarnation(1), body };
    Realm::Advert { peer: node(name), frame: Message::Advert(envelope).encode().unwrap() }
}

fn status(owner: &str) -> Message {
    let task = TaskId { owner: node(owner), incarnation: Incarnation(1), number: 7 };
    let body = ToWorker::Status { task, attempt: Attempt(1) };
    Message::ToWorker(Envelope { sender: node(owner), incarnation: Incarnation(1), body })
}

fn began(sender: &str, owner: &str) -> Message {
    let task = TaskId { owner: node(owner), incarnation: Incarnation(1), number: 7 };
    let body = ToRequester::Began { task, attempt: Attempt(1) };
    Message::ToRequester(Envelope { sender: node(sender), incarnation: Incarnation(1), body })
}

fn message(peer: &str, message: &Message) -> Realm {
    Realm::Message { peer: node(peer), frame: message.encode().unwrap(), payload: None }
}

/// A car that calls itself `x9` outside: the roadside never reads `a1`, and node never reads `x9`.
#[tokio::test(flavor = "multi_thread")]
async fn a_car_is_heard_under_its_alias_and_answered_under_its_name() {
    let authority = authority();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let at = format!("[\"tls/127.0.0.1:{port}\"]");
    let mut car = link("a1", &format!("alias = \"x9\"\nconnect = {at}\n"), authority.files("x9"));
    car.node.send(&advert("a1")).await.unwrap();
    car.node.send(&message("e1", &status("a1"))).await.unwrap();
    car.until(|said| *said == Realm::Silent { peer: node("e1") }).await;
    let mut roadside = link("e1", &format!("listen = {at}\n"), authority.files("e1"));
    roadside.node.send(&advert("e1")).await.unwrap();
    let heard = roadside.until(|said| matches!(said, Realm::Advert { .. })).await;
    let Realm::Advert { peer, frame } = heard else { unreachable!() };
    let Message::Advert(envelope) = Message::decode(&frame).unwrap() else { panic!("no advert") };
    assert_eq!((peer.as_str(), envelope.body.car.as_str()), ("x9", "x9"));
    car.until(|said| matches!(said, Realm::Advert { peer, .. } if *peer == node("e1"))).await;
    car.node.send(&message("e1", &status("a1"))).await.unwrap();
    let asked = message("x9", &status("x9"));
    roadside.until(|said| *said == asked).await;
    roadside.node.send(&message("x9", &began("e1", "x9"))).await.unwrap();
    let answer = message("e1", &began("e1", "a1"));
    car.until(|said| *said == answer).await;
    drop(roadside);
    car.until(|said| *said == Realm::Gone { peer: node("e1") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_with_a_remedy() {
    for (outside, files, part) in [
        ("", true, "neither listens nor connects"),
        ("listen = [\"tcp/127.0.0.1:1\"]\n", true, "protocol does not fit"),
        ("listen = [\"tls/127.0.0.1:1\"]\n", false, "outside-ca"),
    ] {
        let attachments = if files { authority().files("e1") } else { Vec::new() };
        let (host, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let start = FaceStart {
            face: Face::Link,
            node: node("e1"),
            incarnation: Incarnation(1),
            config: format!(
                "[node]\nid = \"e1\"\ncar = \"e1\"\nrun_dir = \"/run/none\"\nstate_dir = \"/run/none\"\n[outside]\nzone = \"north\"\n\
             ca = \"ca.pem\"\ncert = \"cert.pem\"\nkey = \"key.pem\"\n{outside}"
            ),
            time_scale: 1,
            attachments,
        };
        let error = run(start, HostChannel::new(theirs).unwrap()).await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.fix().is_some(), "{error}");
        drop(host);
    }
}
