//! The node's configuration file, `node.toml`, as the node and the command line see it: every key of it.
//!
//! Host reads the same file and acts on `[node]`, `[host]` and `[control]`; those sections are host's own
//! types, so that there is one schema. Host hands each face its part of the file as text; a part reads like
//! the whole with sections left out, so every section but `[node]` may be missing here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use policies::grant::NodePolicy;
use policies::id::{BusName, CameraId, NodeId, ZoneId};
use policies::ladder::LadderPolicy;
use policies::placement::PlacementPolicy;
use policies::unit::Bytes;
use serde::Deserialize;

pub use obu_host::config::{ControlSection, HostSection, NodeSection, Role};
use obu_host::config::{Misfit, place};

mod misfit;

pub use crate::file_error::FileError;
use crate::file_error::{from_words, word_end};

/// Largest file: it travels to node inside one packet.
const FILE_LEN_MAX: u64 = 128 << 10;

const WHAT: &str = "read the configuration";

/// The whole file, or the part of it that one face gets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// Must be `verge/v1`; left out in the part that a face gets.
    #[serde(default, rename = "apiVersion")]
    pub api_version: Option<String>,
    /// Who this node is.
    pub node: NodeSection,
    /// What host may use.
    #[serde(default)]
    pub host: HostSection,
    /// What apps and tasks may use in sum.
    #[serde(default)]
    pub capacity: CapacitySection,
    /// Buses.
    #[serde(default)]
    pub bus: Vec<BusSection>,
    /// Cameras.
    #[serde(default)]
    pub camera: Vec<CameraSection>,
    /// The append-only effect server.
    pub effects: Option<EffectsSection>,
    /// The car realm; none for a node alone.
    pub car: Option<CarSection>,
    /// The outside realm; none for a node that only talks within its car.
    pub outside: Option<OutsideSection>,
    /// The control API.
    #[serde(default)]
    pub control: ControlSection,
    /// Who may have what.
    #[serde(default)]
    pub policy: NodePolicy,
    /// What counts how much when a task is placed.
    #[serde(default)]
    pub placement: PlacementPolicy,
    /// When the node squeezes and freezes, and when it gives back.
    #[serde(default)]
    pub ladder: LadderPolicy,
    /// Faults on purpose.
    #[serde(default)]
    pub faults: FaultsSection,
}

impl NodeFile {
    /// The node's role in the words of the machine.
    pub fn role(&self) -> v2e_core::message::Role {
        use v2e_core::message::Role as Machine;
        match self.node.role {
            Role::Obu => Machine::Obu,
            Role::Edge => Machine::Edge,
            Role::Cloud => Machine::Cloud,
        }
    }
}

/// `[capacity]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapacitySection {
    /// CPU cores that tasks may use; also how many calls run at a time. 1 to 1024; all if left out.
    pub cores: u16,
    /// Memory that apps may be promised in sum.
    pub memory: Bytes,
    /// Seeds every jitter of the node.
    pub seed: u64,
}

impl Default for CapacitySection {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { cores: u16::try_from(cores).unwrap_or(1024), memory: Bytes::mebi(512), seed: 1 }
    }
}

/// `[faults]`: what this node does wrong on purpose, so that one can see the others stand it. Weakens no check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultsSection {
    /// Every run of a `once` task goes to its worker twice, as over a network that duplicates.
    pub repeat_runs: bool,
    /// The effect port is asked again for every effect that was done, as by a node that has lost its memory.
    pub repeat_effects: bool,
}

/// One `[[bus]]`, checked: the keys that its kind needs are there, and no others.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "BusClaim")]
pub struct BusSection {
    /// Its name.
    pub name: BusName,
    /// What carries it.
    pub kind: BusKind,
    /// DBC file.
    pub dbc: Option<PathBuf>,
    /// Overlay from CAN signals to VSS paths.
    pub mapping: Option<PathBuf>,
    /// Frames that apps may send, and how fast.
    pub tx: Vec<TxRule>,
    /// Share of the bus that our own frames may fill, in percent.
    pub load_cap: u8,
}

/// What carries a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusKind {
    /// UDP multicast on loopback, as python-can speaks it.
    Multicast {
        /// Group address.
        group: Ipv4Addr,
        /// Port.
        port: u16,
    },
    /// The kernel's CAN.
    SocketCan {
        /// Such as `can0` or `vcan0`.
        interface: String,
    },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindName {
    Multicast,
    SocketCan,
}

/// A bus as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BusClaim {
    name: BusName,
    kind: KindName,
    group: Option<Ipv4Addr>,
    #[serde(default, deserialize_with = "port")]
    port: Option<u16>,
    interface: Option<String>,
    dbc: Option<PathBuf>,
    mapping: Option<PathBuf>,
    #[serde(default)]
    tx: Vec<TxRule>,
    #[serde(default = "half")]
    load_cap: u8,
}

const fn half() -> u8 {
    50
}

/// A number that is no port is told so; the parser would speak of `u16`.
fn port<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    use serde::de::Error as _;
    let number = i64::deserialize(deserializer)?;
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    let why = || D::Error::custom(format!("{number} is not a port; write 1 to 65535"));
    port.ok_or_else(why).map(Some)
}

impl TryFrom<BusClaim> for BusSection {
    type Error = String;

    fn try_from(claim: BusClaim) -> Result<Self, String> {
        let BusClaim { name, kind, group, port, interface, dbc, mapping, tx, load_cap } = claim;
        let kind = match (kind, group, port, interface) {
            (KindName::Multicast, Some(group), Some(port), None) if group.is_multicast() => {
                BusKind::Multicast { group, port }
            }
            (KindName::Multicast, Some(group), Some(_), None) => {
                return Err(format!(
                    "bus {name}: {group} is not a multicast address; write 224.0.0.0 to 239.255.255.255"
                ));
            }
            (KindName::SocketCan, None, None, Some(interface)) => BusKind::SocketCan { interface },
            (KindName::Multicast, ..) => {
                return Err(format!(
                    "bus {name}: kind multicast needs group and port, and no interface; \
                     write group = \"239.74.163.2\" and port = 43113"
                ));
            }
            (KindName::SocketCan, ..) => {
                return Err(format!(
                    "bus {name}: kind socketcan needs interface, and no group or port; \
                     write interface = \"can0\""
                ));
            }
        };
        if !(1..=100).contains(&load_cap) {
            return Err(format!("bus {name}: load_cap is {load_cap}, no percentage; write 1 to 100"));
        }
        Ok(Self { name, kind, dbc, mapping, tx, load_cap })
    }
}

/// One frame that one app may send.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TxRule {
    /// `tenant/app`.
    pub app: String,
    /// CAN id, of 11 bits; of 29 with `extended`.
    pub id: u32,
    /// Whether it is a 29-bit id.
    #[serde(default)]
    pub extended: bool,
    /// Frames per second at the most.
    pub rate_per_s: u32,
}

/// One `[[camera]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CameraSection {
    /// Its id.
    pub id: CameraId,
    /// `file:PATH`: concatenated JPEGs.
    pub source: String,
    /// Frames per second, 1 to 240.
    #[serde(default = "ten")]
    pub fps: u32,
    /// Whether a file starts again at its end.
    #[serde(default = "yes", rename = "loop")]
    pub repeat: bool,
}

const fn ten() -> u32 {
    10
}

const fn yes() -> bool {
    true
}

/// `[effects]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EffectsSection {
    /// Address of the server.
    pub server: SocketAddr,
}

/// `[car]`: the car realm. Endpoints are written as Zenoh writes them, `tls/127.0.0.1:7447`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CarSection {
    /// Where this node listens (the gateway).
    pub listen: Vec<String>,
    /// Whom it connects to: the gateways in their order.
    pub connect: Vec<String>,
    /// The authority's certificate.
    pub ca: Option<PathBuf>,
    /// This node's certificate.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// `[outside]`: the outside realm of one zone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutsideSection {
    /// The zone.
    pub zone: ZoneId,
    /// The name under which this node appears there; its id if left out.
    #[serde(default)]
    pub alias: Option<NodeId>,
    /// Where this node listens (the roadside).
    #[serde(default)]
    pub listen: Vec<String>,
    /// Whom it connects to.
    #[serde(default)]
    pub connect: Vec<String>,
    /// The zone authority's certificate.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// This node's certificate there.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// Its private key.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

/// Parses a configuration, whole or in part. `path` is for messages.
///
/// # Errors
/// [`FileError`] with line, column and, where it can be guessed, what was meant.
pub fn load(text: &str, path: &Path) -> Result<NodeFile, FileError> {
    let file: NodeFile = toml::from_str(text).map_err(|error| toml_error(text, path, &error))?;
    if let Some(Misfit { key, why, fix }) = misfit::first(&file) {
        return Err(FileError::at(path, text, place(text, &key), WHAT, why).suggest(fix));
    }
    Ok(file)
}

/// Reads and parses the whole file; here `apiVersion` must be there.
///
/// # Errors
/// As [`load`], or that the file cannot be read.
pub fn load_file(path: &Path) -> Result<NodeFile, FileError> {
    let text = read_bounded(path, FILE_LEN_MAX, WHAT)?;
    let file = load(&text, path)?;
    if file.api_version.is_none() {
        let error = FileError::at(path, &text, 0..0, WHAT, "apiVersion is missing");
        return Err(error.suggest(Some("begin the file with: apiVersion = \"verge/v1\"".into())));
    }
    Ok(file)
}

/// Reads the whole file and looks into the files that it names: all that can be said about a node before it runs.
///
/// # Errors
/// As [`load_file`], or about the first file named in it that cannot be used.
pub fn check_file(path: &Path) -> Result<(), FileError> {
    check_buses(&load_file(path)?, path)
}

/// Checks what the file's buses name: that each DBC compiles and its overlay fits. Files that are not on this
/// machine are left to the one where the node will run.
fn check_buses(file: &NodeFile, path: &Path) -> Result<(), FileError> {
    let base = path.parent().unwrap_or(Path::new("."));
    let named = |name: &Option<PathBuf>| {
        let name = name.as_ref()?;
        let bytes = std::fs::read(base.join(name)).ok()?;
        Some(can_bridge::face::NamedBytes { name: name.display().to_string(), bytes })
    };
    for bus in &file.bus {
        let (dbc, mapping) = (named(&bus.dbc), named(&bus.mapping));
        if bus.dbc.is_some() != dbc.is_some() {
            continue;
        }
        can_bridge::face::decoder(&bus.name, dbc, mapping).map_err(|error| {
            FileError::whole(path, "use a file that it names", error.to_string()).suggest(error.fix())
        })?;
    }
    Ok(())
}

/// Reads a text file of at most `len_max` bytes.
pub(crate) fn read_bounded(path: &Path, len_max: u64, what: &'static str) -> Result<String, FileError> {
    use std::io::Read as _;
    let cannot = |error: std::io::Error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let fix = missing.then(|| "check the path; it is relative to where you are".to_owned());
        FileError::whole(path, what, error.to_string()).suggest(fix)
    };
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(len_max + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > len_max {
        return Err(FileError::whole(path, what, format!("it is longer than {len_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        FileError::whole(path, what, format!("it is not text: byte {at} is not valid UTF-8"))
    })
}

fn toml_error(text: &str, path: &Path, error: &toml::de::Error) -> FileError {
    let mut place = error.span().unwrap_or(0..0);
    // A whole table is no place to look at; its first word is.
    if text.get(place.clone()).is_some_and(|part| part.contains('\n')) {
        place.end = word_end(text, place.start);
    }
    let why = error.message().trim().replace('\n', "; ");
    FileError::at(path, text, place, WHAT, why).suggest(from_words(error.message()))
}

#[cfg(test)]
mod tests;
