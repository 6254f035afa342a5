//! The bus process as a thread, with our end of its channels.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use can_bridge::face::{
    Attach, AttachSender, BusEntry, BusError, BusSetup, EffectStream, NamedBytes, attach_channel, run,
};
use can_bridge::framed::{Fill, FramedReader, FramedWriter};
use can_bridge::multicast::Group;
use policies::face::{BusStats, FromBus, ToBus};
use policies::id::{BusName, NodeId, TenantId};
use policies::wire::Kind;

use super::{open, own_dbc, own_group, wait_for};

pub const GUARD: &str = r#"{"buses": [{"bus": "can0", "load_permille": 1000}], "rules": [
    {"tenant": "oem", "app": "lane", "bus": "can0", "id": 672, "while_moving": true, "burst": 5}]}"#;

/// Our end of a channel to the process under test.
pub struct Peer {
    pub stream: UnixStream,
    pub reader: FramedReader,
}

impl Peer {
    pub fn pair() -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Self { stream: ours, reader: FramedReader::default() }, theirs)
    }

    pub fn tell(&mut self, message: &ToBus) {
        let mut writer = FramedWriter::new(1 << 20);
        writer.push(Kind::Face, message).unwrap();
        wait_for("the channel to take a message", || {
            writer.flush(&mut self.stream).unwrap();
            writer.is_empty().then_some(())
        });
    }

    pub fn hear<T: serde::de::DeserializeOwned>(&mut self) -> T {
        wait_for("a message", || {
            if let Some(message) = self.reader.next(Kind::Face).unwrap() {
                return Some(message);
            }
            assert_ne!(self.reader.fill(&mut self.stream).unwrap(), Fill::Closed, "channel closed");
            None
        })
    }
}

/// The process under test, as a thread, with a bus of its own.
pub struct Process {
    pub node: Peer,
    pub attach: AttachSender,
    pub group: Group,
    pub thread: JoinHandle<Result<(), BusError>>,
}

impl Process {
    pub fn start(effect: Option<EffectStream>, effect_acks: bool) -> Self {
        let group = own_group();
        let (node, channel) = Peer::pair();
        let (attach, receiver) = attach_channel().unwrap();
        let named =
            |name: &str| NamedBytes { name: name.into(), bytes: std::fs::read(own_dbc(name)).unwrap() };
        let entry = BusEntry {
            name: BusName::new("can0").unwrap(),
            port: Box::new(open(group)),
            dbc: Some(named("verge-demo.dbc")),
            mapping: Some(named("verge-demo.vss.json")),
        };
        let setup = BusSetup {
            node: NodeId::new("a1").unwrap(),
            buses: vec![entry],
            guard: serde_json::from_str(GUARD).unwrap(),
            effect,
            effect_acks,
            channel,
            attach: receiver,
        };
        let thread = std::thread::spawn(move || run(setup));
        Self { node, attach, group, thread }
    }

    pub fn stop(self) {
        assert!(self.attach.send(Attach::Stop));
        self.thread.join().unwrap().unwrap();
    }

    /// Asks for counters: the answer proves that everything told before has been handled.
    pub fn stats(&mut self) -> BusStats {
        self.node.tell(&ToBus::Stats);
        match self.node.hear() {
            FromBus::Stats(stats) => stats,
            other => panic!("{other:?}"),
        }
    }

    pub fn border(&self, tenant: &str) -> Peer {
        let (peer, theirs) = Peer::pair();
        assert!(self.attach.send(Attach::Border(TenantId::new(tenant).unwrap(), theirs)));
        peer
    }
}
