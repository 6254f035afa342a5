//! Hardened Zenoh configurations, one per place where Verge opens a session.
//!
//! ```text
//!   car       peer     listens for siblings, dials those that stand before it in the order of gateways
//!   roadside  router   listens for cars, dials nobody
//!   visitor   client   dials one roadside element
//!   island    router   a Unix socket that only one app's mount namespace contains; dials nobody
//! ```
//!
//! What is turned down and why: scouting and gossip (peers are configured, nobody else is looked for), the
//! admin space, compression (its decoder), message size (4 MiB, before anything is decoded), the number of
//! sessions and half-open links, and all waits. The on-board units of a car are a mesh of peers, not routers:
//! a message takes one hop, no unit's death parts two others, and two routers of Zenoh 1.10.2 that are linked
//! to each other lost our declarations and panicked on closing (measured). Peers do not relay: each unit
//! must be able to dial all that stand before it.
//!
//! Links go one way only: two nodes that dial each other can end with a half-dead session. A connecting side
//! of Zenoh trusts the public web's authorities besides ours, so `verify_name` stays on in the car and
//! outside, and [`crate::carrier`] holds the name in the certificate against the names of nodes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use policies::face::ZENOH_THREADS;
use policies::limits::MESSAGE_LEN_MAX;
use serde_json::{Value, json};
use zenoh::Wait as _;

/// Links that a roadside element serves at a time.
const ROADSIDE_SESSIONS_MAX: u32 = 256;

/// Links of an on-board unit: the siblings of one car, twice, because an old link may still be dying.
const CAR_SESSIONS_MAX: u32 = 32;

/// Links of an island: one app, with a few processes of its own.
const ISLAND_SESSIONS_MAX: u32 = 16;

/// Handshakes under way at a time; more wait in the kernel's queue.
const ACCEPT_PENDING_MAX: u32 = 16;

/// Silence after which a link counts as dead. Long, because an idle link costs a keep-alive per quarter of
/// it; a peer with work outstanding is watched by the offload protocol's own, faster lease.
const LEASE: Duration = Duration::from_secs(5);

/// Longest time a link may take to open: TCP, TLS and Zenoh need six round trips.
const OPEN_MAX: Duration = Duration::from_secs(2);

/// First and longest pause between two attempts to dial.
const REDIAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// How long a message may wait for a congested link before it is dropped; a fragmented one.
const DROP_AFTER: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// How long a declaration may wait for a congested link before the link is closed.
const CLOSE_AFTER: Duration = Duration::from_millis(800);

/// What a query waits if it names no time of its own.
const QUERY_WAIT: Duration = Duration::from_secs(2);

/// Protocols between nodes that keep what is said to themselves, and those that do not.
const PROTECTED: &[&str] = &["tls", "quic"];
const UNPROTECTED: &[&str] = &["tcp"];

/// A session that cannot be configured or opened.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// An endpoint that is not spelled as Zenoh does, or not allowed here.
    #[error("endpoint {got:?} cannot be used here: {why}")]
    Endpoint {
        /// As configured.
        got: String,
        /// Why not.
        why: &'static str,
    },
    /// A file of TLS material that is not what its name says.
    #[error("{what} holds no {expected}")]
    Material {
        /// Which.
        what: &'static str,
        /// What was looked for.
        expected: &'static str,
    },
    /// The island's folder has a path that cannot be an endpoint.
    #[error("path {path:?} cannot be part of an endpoint")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// Zenoh's threads would break TLS.
    #[error("{} is {got:?}: Zenoh would read and write a TLS link in several threads at once", ZENOH_THREADS.0)]
    Threads {
        /// What the environment says.
        got: String,
    },
    /// Zenoh refused the configuration.
    #[error("Zenoh refuses the configuration: {why}")]
    Config {
        /// Its words.
        why: String,
    },
    /// The session did not open.
    #[error("cannot open a session on {endpoints}: {why}")]
    Open {
        /// Where it was to listen and to connect.
        endpoints: String,
        /// Zenoh's words.
        why: String,
    },
}

impl SessionError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Endpoint { .. } => Some(
                "write tls/ADDRESS:PORT or quic/ADDRESS:PORT (tcp/ADDRESS:PORT only with insecure = true)"
                    .into(),
            ),
            Self::Material { .. } => Some("give a PEM file, as `verge pki` writes it".into()),
            Self::Path { .. } => Some("use a folder whose path has no '#', '?' or ';'".into()),
            Self::Open { .. } => {
                Some("see whether the address is this machine's and the port is free".into())
            }
            Self::Threads { .. } => {
                Some(format!("start the process with {}='{}'", ZENOH_THREADS.0, ZENOH_THREADS.1))
            }
            Self::Config { .. } => None,
        }
    }
}

/// Certificates and key of one node in one realm, PEM.
#[derive(Clone)]
pub struct Tls {
    /// The realm's authority.
    pub ca: Vec<u8>,
    /// This node's certificate; its common name is the node's name in the realm. Used on both sides, so it
    /// must allow server and client authentication.
    pub cert: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// Whether the host in a dialled endpoint must stand in the other side's certificate. Only off in tests.
    pub verify_name: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("verify_name", &self.verify_name).finish_non_exhaustive()
    }
}

/// How links are protected.
#[derive(Clone, Debug)]
pub enum Security {
    /// Mutual TLS.
    Mutual(Tls),
    /// Plain TCP. Shown by every command while it is so.
    Insecure,
}

/// Where the session stands.
#[derive(Clone, Debug)]
enum Place {
    Unit { listen: Vec<String>, dial: Vec<String> },
    Roadside { listen: Vec<String> },
    Visitor { roadside: String },
    Island { socket: String },
}

/// A session to be opened.
#[derive(Clone, Debug)]
pub struct Session {
    place: Place,
    security: Security,
    time_scale: u32,
}

impl Session {
    /// An on-board unit in its car: `listen` for siblings, `dial` those before it in the order of gateways
    /// (none for the first).
    pub fn car(listen: &[String], dial: &[String], security: Security, time_scale: u32) -> Self {
        Self { place: Place::Unit { listen: listen.to_vec(), dial: dial.to_vec() }, security, time_scale }
    }

    /// A roadside element that cars dial.
    pub fn roadside(listen: &[String], security: Security, time_scale: u32) -> Self {
        Self { place: Place::Roadside { listen: listen.to_vec() }, security, time_scale }
    }

    /// A car at one roadside element. Several elements are several sessions, so that no car ever joins the
    /// networks of two of them.
    pub fn visitor(roadside: &str, security: Security, time_scale: u32) -> Self {
        Self { place: Place::Visitor { roadside: roadside.into() }, security, time_scale }
    }

    /// The island of one app, on a Unix socket.
    ///
    /// # Errors
    /// [`SessionError::Path`] if the path cannot be spelled as an endpoint.
    pub fn island(socket: &Path, time_scale: u32) -> Result<Self, SessionError> {
        let text = socket.to_str().filter(|t| !t.contains(['#', '?', ';']));
        let socket = text.ok_or_else(|| SessionError::Path { path: socket.into() })?.to_owned();
        Ok(Self { place: Place::Island { socket }, security: Security::Insecure, time_scale })
    }

    /// Whether opening waits until the other side is there.
    pub const fn waits_for_peer(&self) -> bool {
        matches!(self.place, Place::Visitor { .. })
    }

    /// Whether links carry certificates.
    pub const fn is_mutual(&self) -> bool {
        matches!(self.security, Security::Mutual(_))
    }

    /// How many times slower than real time waits count; at least 1.
    pub fn time_scale(&self) -> u32 {
        self.time_scale.max(1)
    }

    /// `duration` as it counts here.
    pub fn scaled(&self, duration: Duration) -> Duration {
        duration * self.time_scale()
    }

    /// Opens it. A router returns as soon as it listens; a visitor when it is connected, or could not be at
    /// the first attempt.
    ///
    /// # Errors
    /// [`SessionError`] if an endpoint, the TLS material or a port cannot be used, or nobody is there.
    pub async fn open(&self) -> Result<zenoh::Session, SessionError> {
        let config = self.config()?;
        self.check_threads()?;
        let failed = |why: String| SessionError::Open { endpoints: self.endpoints().join(", "), why };
        // Opening blocks its thread, whatever its future promises.
        let opening = tokio::task::spawn_blocking(move || zenoh::open(config).wait());
        match opening.await {
            Ok(opened) => opened.map_err(|error| failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Zenoh would go on without a word.
    fn check_threads(&self) -> Result<(), SessionError> {
        let got = std::env::var(ZENOH_THREADS.0).unwrap_or_default();
        let is_tls = self.endpoints().iter().any(|endpoint| endpoint.starts_with("tls/"));
        if is_tls && got != ZENOH_THREADS.1 { Err(SessionError::Threads { got }) } else { Ok(()) }
    }

    /// First and longest pause before a visitor's next attempt.
    pub(crate) fn redial(&self) -> (Duration, Duration) {
        (self.scaled(REDIAL.0), self.scaled(REDIAL.1))
    }

    /// The configuration as Zenoh takes it.
    ///
    /// # Errors
    /// [`SessionError`] if an endpoint or the TLS material cannot be used.
    pub fn config(&self) -> Result<zenoh::Config, SessionError> {
        self.check_endpoints()?;
        let (mode, listen, dial) = match &self.place {
            Place::Unit { listen, dial } => ("peer", listen.clone(), dial.clone()),
            Place::Roadside { listen } => ("router", listen.clone(), Vec::new()),
            Place::Visitor { roadside } => ("client", Vec::new(), vec![roadside.clone()]),
            Place::Island { socket } => ("router", vec![format!("unixsock-stream/{socket}")], Vec::new()),
        };
        let text = json!({
            "mode": mode,
            "listen": { "endpoints": listen, "exit_on_failure": true, "timeout_ms": 0 },
            "connect": {
                "endpoints": dial, "exit_on_failure": false,
                // A router dials in the background for ever. A visitor would do so before it opens; it tries
                // once, and who opened it tries again.
                "timeout_ms": if self.waits_for_peer() { 0 } else { -1 },
                "retry": {
                    "period_init_ms": self.ms(REDIAL.0),
                    "period_max_ms": self.ms(REDIAL.1),
                    "period_increase_factor": 2,
                },
            },
            "open": { "return_conditions": { "connect_scouted": false, "declares": false } },
            "scouting": {
                "timeout": 0, "delay": 0,
                "multicast": { "enabled": false },
                "gossip": { "enabled": false },
            },
            "timestamping": { "enabled": false },
            "queries_default_timeout": self.ms(QUERY_WAIT),
            "adminspace": { "enabled": false, "permissions": { "read": false, "write": false } },
            "transport": { "unicast": self.unicast(), "link": self.link()? },
        })
        .to_string();
        zenoh::Config::from_json5(&text).map_err(|error| SessionError::Config { why: error.to_string() })
    }

    fn unicast(&self) -> Value {
        let sessions_max = match self.place {
            Place::Unit { .. } => CAR_SESSIONS_MAX,
            Place::Roadside { .. } => ROADSIDE_SESSIONS_MAX,
            Place::Visitor { .. } => 1,
            Place::Island { .. } => ISLAND_SESSIONS_MAX,
        };
        json!({
            "open_timeout": self.ms(OPEN_MAX),
            "accept_timeout": self.ms(OPEN_MAX),
            "accept_pending": ACCEPT_PENDING_MAX,
            "max_sessions": sessions_max,
            "max_links": 1,
            "lowlatency": false,
            "compression": { "enabled": false },
        })
    }

    fn link(&self) -> Result<Value, SessionError> {
        let micros = |d: Duration| u64::try_from(self.scaled(d).as_micros()).unwrap_or(u64::MAX);
        let mut link = json!({
            "protocols": self.protocols(),
            "tx": {
                "lease": self.ms(LEASE), "keep_alive": 4,
                "queue": {
                    // More places than the default for what carries inputs and results: a megabyte is
                    // sixteen batches. Memory is taken when used.
                    "size": {
                        "control": 2, "real_time": 2, "interactive_high": 4, "interactive_low": 2,
                        "data_high": 16, "data": 16, "data_low": 4, "background": 2,
                    },
                    "congestion_control": {
                        "drop": {
                            "wait_before_drop": micros(DROP_AFTER.0),
                            "max_wait_before_drop_fragments": micros(DROP_AFTER.1),
                        },
                        "block": { "wait_before_close": micros(CLOSE_AFTER) },
                    },
                    "allocation": { "mode": "lazy" },
                },
            },
            "rx": { "max_message_size": MESSAGE_LEN_MAX },
        });
        if let Security::Mutual(tls) = &self.security {
            link["tls"] = tls_section(tls)?;
        }
        Ok(link)
    }

    fn protocols(&self) -> &'static [&'static str] {
        match (&self.place, &self.security) {
            (Place::Island { .. }, _) => &["unixsock-stream"],
            (_, Security::Mutual(_)) => PROTECTED,
            (_, Security::Insecure) => UNPROTECTED,
        }
    }

    fn endpoints(&self) -> Vec<String> {
        match &self.place {
            Place::Unit { listen, dial } => listen.iter().chain(dial).cloned().collect(),
            Place::Roadside { listen } => listen.clone(),
            Place::Visitor { roadside } => vec![roadside.clone()],
            Place::Island { socket } => vec![format!("unixsock-stream/{socket}")],
        }
    }

    fn check_endpoints(&self) -> Result<(), SessionError> {
        let options = matches!(self.place, Place::Island { .. });
        self.endpoints().iter().try_for_each(|endpoint| check_endpoint(endpoint, self.protocols(), options))
    }

    fn ms(&self, duration: Duration) -> u64 {
        u64::try_from(self.scaled(duration).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Checks an endpoint between nodes as it stands in a configuration, before there is a session.
///
/// # Errors
/// [`SessionError::Endpoint`].
pub fn check_between_nodes(endpoint: &str, insecure: bool) -> Result<(), SessionError> {
    check_endpoint(endpoint, if insecure { UNPROTECTED } else { PROTECTED }, false)
}

fn check_endpoint(endpoint: &str, protocols: &[&str], options: bool) -> Result<(), SessionError> {
    let bad = |why| Err(SessionError::Endpoint { got: endpoint.to_owned(), why });
    let Some((protocol, address)) = endpoint.split_once('/') else { return bad("it names no protocol") };
    // Options after `#` could switch protection off again.
    if !options && address.contains(['#', '?', ';']) {
        return bad("it carries options");
    }
    if !protocols.contains(&protocol) {
        return bad("its protocol does not fit the protection that is configured");
    }
    Ok(())
}

fn tls_section(tls: &Tls) -> Result<Value, SessionError> {
    let material = |what, pem: &[u8], expected: &'static str| {
        let found = pem.windows(expected.len()).any(|window| window == expected.as_bytes());
        if found { Ok(STANDARD.encode(pem)) } else { Err(SessionError::Material { what, expected }) }
    };
    let ca = material("the authority's file", &tls.ca, "BEGIN CERTIFICATE")?;
    let cert = material("the node's certificate file", &tls.cert, "BEGIN CERTIFICATE")?;
    let key = material("the node's key file", &tls.key, "PRIVATE KEY")?;
    Ok(json!({
        "root_ca_certificate_base64": ca,
        "listen_certificate_base64": cert,
        "listen_private_key_base64": key,
        "connect_certificate_base64": cert,
        "connect_private_key_base64": key,
        "enable_mtls": true,
        "verify_name_on_connect": tls.verify_name,
        "close_link_on_expiration": true,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls() -> Security {
        let pem =
            |label: &str| format!("-----BEGIN {label}-----\nAA==\n-----END {label}-----\n").into_bytes();
        Security::Mutual(Tls {
            ca: pem("CERTIFICATE"),
            cert: pem("CERTIFICATE"),
            key: pem("PRIVATE KEY"),
            verify_name: true,
        })
    }

    fn text(list: &[&str]) -> Vec<String> {
        list.iter().map(|t| (*t).to_owned()).collect()
    }

    /// What Zenoh really took over, whatever was asked of it.
    #[test]
    #[rustfmt::skip]
    fn effective_settings_table() {
        let car = Session::car(&text(&["tls/127.0.0.1:7601"]), &text(&["tls/127.0.0.1:7600"]), tls(), 3);
        let config = car.config().unwrap();
        for (key, value) in [
            ("mode",                                       "\"peer\""),
            ("scouting/multicast/enabled",                 "false"),
            ("scouting/gossip/enabled",                    "false"),
            ("scouting/delay",                             "0"),
            ("connect/exit_on_failure",                    "false"),
            ("connect/timeout_ms",                         "-1"),
            ("timestamping/enabled",                       "false"),
            ("adminspace/enabled",                         "false"),
            ("queries_default_timeout",                    "6000"),
            ("transport/unicast/open_timeout",             "6000"),
            ("transport/unicast/max_sessions",             "32"),
            ("transport/unicast/accept_pending",           "16"),
            ("transport/unicast/compression/enabled",      "false"),
            ("transport/unicast/lowlatency",               "false"),
            ("transport/link/protocols",                   "[\"tls\",\"quic\"]"),
            ("transport/link/tx/lease",                    "15000"),
            ("transport/link/tx/queue/congestion_control/block/wait_before_close", "2400000"),
            ("transport/link/rx/max_message_size",         "4194304"),
            ("transport/link/tls/enable_mtls",             "true"),
            ("transport/link/tls/verify_name_on_connect",  "true"),
            ("transport/link/tls/close_link_on_expiration","true"),
        ] {
            assert_eq!(config.get_json(key).unwrap(), value, "{key}");
        }
        assert!(!format!("{config:?}").contains("LS0tLS1CRUdJTiBQUklW"), "the key is not shown");
    }

    #[test]
    #[rustfmt::skip]
    fn endpoint_table() {
        //    endpoint                              with TLS  insecure
        check("tls/127.0.0.1:1",                    true,     false);
        check("quic/127.0.0.1:1",                   true,     false);
        check("tcp/127.0.0.1:1",                    false,    true);
        check("udp/127.0.0.1:1",                    false,    false);
        check("tls/127.0.0.1:1#enable_mtls=false",  false,    false);
        check("tls/127.0.0.1:1?rel=0",              false,    false);
        check("127.0.0.1:1",                        false,    false);
        check("unixsock-stream//run/x",             false,    false);
    }

    #[track_caller]
    fn check(endpoint: &str, with_tls: bool, insecure: bool) {
        let ok = |security| match Session::visitor(endpoint, security, 1).config() {
            Ok(_) => true,
            Err(error) => {
                assert!(error.fix().is_some(), "{error}");
                false
            }
        };
        assert_eq!((ok(tls()), ok(Security::Insecure)), (with_tls, insecure), "{endpoint}");
    }

    #[test]
    fn what_is_no_pem_is_named() {
        let Security::Mutual(mut material) = tls() else { unreachable!() };
        material.key = b"hello".to_vec();
        let session = Session::visitor("tls/127.0.0.1:1", Security::Mutual(material), 1);
        let error = session.config().unwrap_err();
        assert_eq!(error.to_string(), "the node's key file holds no PRIVATE KEY");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_port_in_use_is_said_with_its_endpoint() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("tcp/{}", taken.local_addr().unwrap());
        let session = Session::roadside(std::slice::from_ref(&endpoint), Security::Insecure, 1);
        let error = session.open().await.unwrap_err();
        assert!(error.to_string().contains(&endpoint), "{error}");
    }

    #[test]
    fn an_island_dials_nobody() {
        let config = Session::island(Path::new("/run/x/island.sock"), 1).unwrap().config().unwrap();
        assert_eq!(config.get_json("connect/endpoints").unwrap(), "[]");
        assert_eq!(config.get_json("listen/endpoints").unwrap(), "[\"unixsock-stream//run/x/island.sock\"]");
        assert!(Session::island(Path::new("/run/x#y"), 1).is_err());
    }
}
