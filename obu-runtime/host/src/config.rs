//! The node's configuration file, as far as host itself acts on it. Everything else in the file is passed on as
//! text to the faces that it concerns.

mod misfit;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use policies::host::Face;
use policies::id::{BusName, CameraId, Digest, NodeId};
use serde::Deserialize;

use crate::cgroup::detect::Wanted;
use crate::fault::{Explain, FileError};

pub use misfit::{Misfit, misfit, place};

/// Largest configuration file. It travels to node inside one packet.
const CONFIG_LEN_MAX: u64 = 128 << 10;

/// Fewest uids that host can work with: faces, borders and workers of 64 tenants, and 128 apps.
pub const UIDS_MIN: u32 = 512;

/// What host knows after reading the file.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[node]`.
    pub node: NodeSection,
    /// `[host]`.
    pub host: HostSection,
    /// `[[bus]]`.
    pub buses: Vec<BusSection>,
    /// `[[camera]]`.
    pub cameras: Vec<CameraSection>,
    /// `[effects] server`.
    pub effects: Option<SocketAddr>,
    /// `[control]`.
    pub control: ControlSection,
    /// `ca`, `cert` and `key` of `[car]` and `[outside]`: attachment name to path.
    pub tls: BTreeMap<String, PathBuf>,
    /// Whether there is an `[outside]`.
    pub outside: bool,
    whole: toml::Table,
}

/// `[node]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// This node's id.
    pub id: NodeId,
    /// The car it belongs to.
    pub car: policies::id::CarId,
    /// What it is; sets defaults only.
    #[serde(default)]
    pub role: Role,
    /// Where sockets, islands and the spool are.
    pub run_dir: PathBuf,
    /// Where durable state is.
    pub state_dir: PathBuf,
    /// How many times slower than real time limits count.
    #[serde(default = "one")]
    pub time_scale: u32,
    /// Whether node records its inputs.
    #[serde(default)]
    pub record: bool,
    /// Whether plain connections between nodes are allowed.
    #[serde(default)]
    pub insecure: bool,
}

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// On-board unit.
    #[default]
    Obu,
    /// Roadside edge element.
    Edge,
    /// Cloud host.
    Cloud,
}

/// `[host]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSection {
    /// Ed25519 public keys whose bundles may start; paths are relative to the file.
    pub trusted_keys: Vec<PathBuf>,
    /// First uid for faces and apps (root only).
    pub uid_base: u32,
    /// How many there are.
    pub uid_count: u32,
    /// `auto`, `none`, or a path below each hierarchy's root.
    pub cgroup: String,
    /// Where unpacked bundles are kept.
    pub store_dir: Option<PathBuf>,
    /// What happens if a limit cannot be enforced.
    pub unenforceable: Unenforceable,
    /// Base layers by name.
    pub bases: BTreeMap<String, Digest>,
}

impl Default for HostSection {
    fn default() -> Self {
        Self {
            trusted_keys: Vec::new(),
            uid_base: 200_000,
            uid_count: 65_536,
            cgroup: "auto".into(),
            store_dir: None,
            unenforceable: Unenforceable::Refuse,
            bases: BTreeMap::new(),
        }
    }
}

/// What happens to an app whose limits this machine cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unenforceable {
    /// It is not started.
    #[default]
    Refuse,
    /// It is started with weaker means, and every report says so.
    Degrade,
}

/// One `[[bus]]`. Keys that concern only the bus face (`tx`, ...) are not looked at here.
#[derive(Clone, Debug, Deserialize)]
pub struct BusSection {
    /// Its name.
    pub name: BusName,
    /// What it is.
    #[serde(flatten)]
    pub kind: BusKind,
    /// DBC file.
    pub dbc: Option<PathBuf>,
    /// Mapping file.
    pub mapping: Option<PathBuf>,
}

/// What carries a bus.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum BusKind {
    /// The user-space bus that python-can speaks: UDP multicast on loopback.
    Multicast {
        /// Group address.
        group: std::net::Ipv4Addr,
        /// Port.
        port: u16,
    },
    /// The kernel's CAN.
    SocketCan {
        /// Such as `can0` or `vcan0`.
        interface: String,
    },
}

/// One `[[camera]]`.
#[derive(Clone, Debug, Deserialize)]
pub struct CameraSection {
    /// Its id.
    pub id: CameraId,
    /// `file:PATH`.
    pub source: String,
}

/// `[control]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlSection {
    /// Path; `run_dir/control.sock` if left out.
    pub socket: Option<PathBuf>,
    /// File mode in octal, such as `"0660"`.
    pub mode: Option<String>,
    /// Group id that owns the socket.
    pub group: Option<u32>,
}

const fn one() -> u32 {
    1
}

/// Why a file is not a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is too long.
    #[error("{} has {got} bytes; {CONFIG_LEN_MAX} are allowed", path.display())]
    Long {
        /// The file.
        path: PathBuf,
        /// Its length.
        got: u64,
    },
    /// It is not TOML, lacks a key, has one that host does not know, or a value that cannot be.
    #[error("{}:{line}:{column}: {why}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        why: String,
        /// What to write instead, if that can be guessed.
        fix: Option<String>,
    },
}

impl Explain for ConfigError {
    fn fix(&self) -> Option<String> {
        match self {
            Self::File(error) => error.fix(),
            Self::Text { fix, .. } => fix.clone(),
            Self::Long { .. } => None,
        }
    }
}

/// The parts of the file that host reads, before checks across keys.
#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "apiVersion")]
    api_version: String,
    node: NodeSection,
    #[serde(default)]
    host: HostSection,
    #[serde(default)]
    bus: Vec<BusSection>,
    #[serde(default)]
    camera: Vec<CameraSection>,
    effects: Option<Effects>,
    #[serde(default)]
    control: ControlSection,
    car: Option<Tls>,
    outside: Option<Tls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Effects {
    server: SocketAddr,
}

#[derive(Deserialize)]
struct Tls {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Config {
    /// Reads and checks the file. Paths inside are relative to its directory.
    ///
    /// # Errors
    /// [`ConfigError`] with line and column.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let len = std::fs::metadata(path).map_err(FileError::at("read", path))?.len();
        if len > CONFIG_LEN_MAX {
            return Err(ConfigError::Long { path: path.to_owned(), got: len });
        }
        let text = std::fs::read_to_string(path).map_err(FileError::at("read", path))?;
        Self::parse(&text, path)
    }

    /// As [`Self::load`], with the text at hand.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let at = |error: toml::de::Error| text_error(path, text, &error);
        let raw: Raw = toml::from_str(text).map_err(at)?;
        let whole: toml::Table = toml::from_str(text).map_err(at)?;
        if let Some(Misfit { key, why, fix }) =
            misfit(Some(&raw.api_version), &raw.node, &raw.host, &raw.control)
        {
            return Err(error_at(path, text, place(text, &key).start, why, fix));
        }
        let base = path.parent().unwrap_or(Path::new("."));
        let mut config = Self {
            tls: tls_files([("car", &raw.car), ("outside", &raw.outside)], base),
            outside: raw.outside.is_some(),
            node: raw.node,
            host: raw.host,
            buses: raw.bus,
            cameras: raw.camera,
            effects: raw.effects.map(|effects| effects.server),
            control: raw.control,
            whole,
        };
        config.make_absolute(base);
        Ok(config)
    }

    fn make_absolute(&mut self, base: &Path) {
        let absolute = |path: &mut PathBuf| *path = base.join(&*path);
        absolute(&mut self.node.run_dir);
        absolute(&mut self.node.state_dir);
        self.host.trusted_keys.iter_mut().for_each(absolute);
        self.host.store_dir.iter_mut().for_each(absolute);
        self.control.socket.iter_mut().for_each(absolute);
        for bus in &mut self.buses {
            bus.dbc.iter_mut().chain(bus.mapping.iter_mut()).for_each(absolute);
        }
        for camera in &mut self.cameras {
            if let Some(file) = camera.source.strip_prefix("file:") {
                camera.source = format!("file:{}", base.join(file).display());
            }
        }
    }

    /// Where the cgroup tree is wanted.
    pub fn cgroup(&self) -> Wanted {
        match self.host.cgroup.as_str() {
            "auto" => Wanted::Auto,
            "none" => Wanted::None,
            path => Wanted::Below(path.into()),
        }
    }

    /// Where unpacked bundles are kept.
    pub fn store_dir(&self) -> PathBuf {
        self.host.store_dir.clone().unwrap_or_else(|| self.node.state_dir.join("store"))
    }

    /// Where the control socket is.
    pub fn control_socket(&self) -> PathBuf {
        self.control.socket.clone().unwrap_or_else(|| self.node.run_dir.join("control.sock"))
    }

    /// The part of the file that concerns `face`, as TOML.
    pub fn section_for(&self, face: &Face) -> String {
        let wanted: &[&str] = match face {
            Face::Node => return self.whole.to_string(),
            Face::Bus => &["node", "bus", "effects"],
            Face::Camera => &["node", "camera"],
            Face::Link => &["node", "outside"],
            Face::Border(_) | Face::Worker(_) => &["node"],
        };
        let part = self.whole.iter().filter(|(name, _)| wanted.contains(&name.as_str()));
        part.map(|(name, value)| (name.clone(), value.clone())).collect::<toml::Table>().to_string()
    }
}

fn tls_files(sections: [(&str, &Option<Tls>); 2], base: &Path) -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    for (name, tls) in sections {
        let Some(Tls { ca, cert, key }) = tls else { continue };
        for (what, path) in [("ca", ca), ("cert", cert), ("key", key)] {
            if let Some(path) = path {
                files.insert(format!("{name}-{what}"), base.join(path));
            }
        }
    }
    files
}

fn text_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let why = error.message().to_owned();
    let fix = suggestion(&why).map(|key| format!("did you mean `{key}`?"));
    error_at(path, text, error.span().map_or(0, |span| span.start), why, fix)
}

/// What is wrong at this byte of the text.
fn error_at(path: &Path, text: &str, at: usize, why: String, fix: Option<String>) -> ConfigError {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    ConfigError::Text { path: path.to_owned(), line, column, why, fix }
}

/// The known key that looks most like the unknown one, both taken from the parser's message.
fn suggestion(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `")?;
    let mut words = rest.split('`');
    let unknown = words.next()?;
    let known = words.skip(1).step_by(2);
    let best =
        known.max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)))?;
    (strsim::jaro_winkler(unknown, best) > 0.7).then(|| best.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
apiVersion = "verge/v1"
[node]
id = "a1"
car = "car-a"
run_dir = "run"
state_dir = "/var/lib/verge/a1"
[host]
trusted_keys = ["dev.pub.pem"]
[[bus]]
name = "can0"
kind = "multicast"
group = "239.74.163.2"
port = 43113
dbc = "car.dbc"
tx = [{ id = 291 }]
[[camera]]
id = "front"
source = "file:clip.mjpeg"
fps = 10
[effects]
server = "127.0.0.1:7001"
[outside]
connect = ["quic/127.0.0.1:7447"]
ca = "ca.pem"
[policy]
unenforceable = "refuse"
"#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/verge/node.toml"))
            .map_err(|error| format!("{error} [{}]", error.fix().unwrap_or_default()))
    }

    #[test]
    fn a_good_file_is_read_and_its_paths_start_at_the_file() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.node.run_dir, Path::new("/etc/verge/run"));
        assert_eq!(config.buses[0].dbc.as_deref(), Some(Path::new("/etc/verge/car.dbc")));
        assert_eq!(config.tls["outside-ca"], Path::new("/etc/verge/ca.pem"));
        assert_eq!(config.cameras[0].source, "file:/etc/verge/clip.mjpeg");
        assert_eq!(config.host.uid_base, 200_000);
    }

    #[test]
    fn a_face_gets_its_own_part_only() {
        let config = parse(GOOD).unwrap();
        let bus = config.section_for(&Face::Bus);
        assert!(bus.contains("can0") && bus.contains("7001") && !bus.contains("trusted_keys"), "{bus}");
        let border = config.section_for(&Face::Border(policies::id::TenantId::new("oem").unwrap()));
        assert!(border.contains("a1") && !border.contains("can0"), "{border}");
        assert!(config.section_for(&Face::Node).contains("[policy]"));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (from, to, expected) in [
            ("trusted_keys", "trusted_kyes", "9:1: unknown field `trusted_kyes`"),
            ("trusted_keys", "trusted_kyes", "did you mean `trusted_keys`?"),
            ("state_dir", "stat_dir", "did you mean `state_dir`?"),
            ("\"a1\"", "\"A1\"", "4:6"),
            ("\"multicast\"", "\"canopen\"", "canopen"),
            ("verge/v1", "verge/v2", "2:1: apiVersion is \"verge/v2\""),
            ("[[bus]]", "uid_base = 10\n[[bus]]", "10:1: uid_base is 10"),
            ("[[bus]]", "uid_base = 10\n[[bus]]", "200000"),
            ("[node]", "[nod]", "missing field `node`"),
            ("port = 43113", "port = 431130", "16 bit"),
            ("[node]", "[node", "3:"),
        ] {
            let error = parse(&GOOD.replacen(from, to, 1)).unwrap_err();
            let close = error.contains(expected) || expected == "16 bit" && error.contains("431130");
            assert!(close, "{expected:?} in {error:?}");
        }
    }
}
