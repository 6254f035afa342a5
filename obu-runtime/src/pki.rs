//! `verge pki`: authorities and certificates of the realms, and the key that signs bundles. For development
//! and tests: the authority's private key lies in a plain file beside the certificates.
//!
//! ```text
//!   car-a/ca.pem  car-a/ca.key.pem        the realm's authority
//!   car-a/a1.pem  car-a/a1.key.pem        one node of it
//!   dev.pub.pem   dev.key.pem             Ed25519, signs bundles
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use policies::id::{Digest, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};

/// What every command that makes keys says, and what stands at the head of each certificate file.
pub const NOTE: &str = "for development and tests";

/// How long a certificate holds.
const VALID: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How long before now it begins: clocks of boards without a battery lag.
const BACKDATED: Duration = Duration::from_secs(365 * 86_400);

/// Longest file that is read here.
const FILE_LEN_MAX: u64 = 64 << 10;

/// Why keys or certificates are not made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file that would be overwritten.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file operation.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// As a verb: `read`, `create`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// A file that is no authority of ours.
    #[error("{} is not an authority made here: {why}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A name that cannot stand in a certificate.
    #[error("{name:?} is not a host name or address: {source}")]
    Name {
        /// The name.
        name: String,
        /// The cause.
        source: rcgen::Error,
    },
    /// Making a key or a certificate failed.
    #[error("cannot make {what}: {source}")]
    Make {
        /// What.
        what: &'static str,
        /// The cause.
        source: rcgen::Error,
    },
    /// The signing key.
    #[error(transparent)]
    Key(#[from] obu_host::bundle::BundleError),
}

impl PkiError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<String> {
        use obu_host::fault::Explain as _;
        match self {
            Self::Exists { .. } => {
                Some("choose another directory, or say --force to replace it (its certificates end)".into())
            }
            Self::Io { source, path, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    Some(format!("make the authority first; {} is not there", path.display()))
                }
                io::ErrorKind::PermissionDenied => Some(format!("run as the owner of {}", path.display())),
                _ => None,
            },
            Self::Foreign { .. } => Some("make an authority with: verge pki authority".into()),
            Self::Key(error) => error.fix(),
            Self::Name { .. } | Self::Make { .. } => None,
        }
    }
}

fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::Io { operation, path, source }
}

fn make(what: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Make { what, source }
}

/// A certificate and its private key in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key, mode 0600.
    pub key: PathBuf,
}

/// The authority of one realm.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes the authority of `realm` in `dir` (made if need be): `ca.pem`, `ca.key.pem`.
    ///
    /// # Errors
    /// [`PkiError::Exists`] unless `overwrite`; [`PkiError::Io`].
    pub fn create(dir: &Path, realm: &str, overwrite: bool) -> Result<Self, PkiError> {
        fs::create_dir_all(dir).map_err(at("create", dir))?;
        let files = Files { ca: dir.join("ca.pem"), cert: dir.join("ca.pem"), key: dir.join("ca.key.pem") };
        refuse_existing(&files, overwrite)?;
        let key = KeyPair::generate().map_err(make("the authority's key"))?;
        let params = authority_params(realm);
        let cert = params.self_signed(&key).map_err(make("the authority's certificate"))?;
        let head = head(realm, &key);
        write(&files.key, key.serialize_pem().as_bytes(), 0o600, overwrite)?;
        write(&files.cert, format!("{head}{}", cert.pem()).as_bytes(), 0o644, overwrite)?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// Opens the authority in `dir`.
    ///
    /// # Errors
    /// [`PkiError::Io`] if it is not there, [`PkiError::Foreign`] if it is none of ours.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let (cert_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key.pem"));
        let cert = read(&cert_path)?;
        let foreign = |path: &Path, why: &str| PkiError::Foreign { path: path.into(), why: why.into() };
        let key = KeyPair::from_pem(&read(&key_path)?)
            .map_err(|error| PkiError::Foreign { path: key_path.clone(), why: error.to_string() })?;
        let realm = cert.lines().find_map(|line| line.strip_prefix("# realm: "));
        let realm = realm.ok_or_else(|| foreign(&cert_path, "it does not begin with `# realm:`"))?;
        if !cert.starts_with(&head(realm, &key)) {
            return Err(foreign(&cert_path, "ca.key.pem belongs to another certificate"));
        }
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(authority_params(realm), key) })
    }

    /// Makes a certificate for one node: common name is its id; valid for its id, `localhost`, `127.0.0.1`
    /// and `names` (host names or addresses), as server and as client.
    ///
    /// # Errors
    /// [`PkiError::Exists`] unless `overwrite`; [`PkiError::Name`]; [`PkiError::Io`].
    pub fn node(&self, node: &NodeId, names: &[String], overwrite: bool) -> Result<Files, PkiError> {
        let files = Files {
            ca: self.dir.join("ca.pem"),
            cert: self.dir.join(format!("{node}.pem")),
            key: self.dir.join(format!("{node}.key.pem")),
        };
        refuse_existing(&files, overwrite)?;
        let params = node_params(node, names)?;
        let key = KeyPair::generate().map_err(make("the node's key"))?;
        let cert = params.signed_by(&key, &self.issuer).map_err(make("the node's certificate"))?;
        write(&files.key, key.serialize_pem().as_bytes(), 0o600, overwrite)?;
        write(&files.cert, cert.pem().as_bytes(), 0o644, overwrite)?;
        Ok(files)
    }
}

/// Makes the Ed25519 key that signs bundles: `{name}.key.pem` (PKCS#8, mode 0600) and `{name}.pub.pem` in
/// `dir` (made if need be). Returns the two files and the key's id.
///
/// # Errors
/// [`PkiError::Exists`] unless `overwrite`; [`PkiError::Io`]; [`PkiError::Key`].
pub fn signing_key(dir: &Path, name: &str, overwrite: bool) -> Result<(SigningFiles, String), PkiError> {
    fs::create_dir_all(dir).map_err(at("create", dir))?;
    let files = SigningFiles {
        private: dir.join(format!("{name}.key.pem")),
        public: dir.join(format!("{name}.pub.pem")),
    };
    for path in [&files.private, &files.public] {
        match (path.symlink_metadata(), overwrite) {
            (Err(_), _) => {}
            (Ok(_), true) => fs::remove_file(path).map_err(at("replace", path))?,
            (Ok(_), false) => return Err(PkiError::Exists { path: path.clone() }),
        }
    }
    let id = obu_host::bundle::key::generate(&files.private, &files.public)?;
    Ok((files, id))
}

/// A signing key in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningFiles {
    /// The private key, mode 0600.
    pub private: PathBuf,
    /// The public key: what `[host] trusted_keys` names.
    pub public: PathBuf,
}

/// What stands before the certificate: readers of PEM pass over it, people do not.
fn head(realm: &str, key: &KeyPair) -> String {
    let key = Digest::of(key.der_bytes()).hex();
    format!("# A Verge authority {NOTE}. Its private key is a plain file.\n# realm: {realm}\n# key: {key}\n")
}

fn dates(params: &mut CertificateParams) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + VALID).into();
}

fn authority_params(realm: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("Verge {realm}, {NOTE}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    dates(&mut params);
    params
}

fn node_params(node: &NodeId, names: &[String]) -> Result<CertificateParams, PkiError> {
    let mut all = vec![node.to_string(), "localhost".to_owned(), "127.0.0.1".to_owned()];
    for name in names {
        // Each on its own first, so that the error can say which.
        CertificateParams::new(vec![name.clone()])
            .map_err(|source| PkiError::Name { name: name.clone(), source })?;
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    let mut params = CertificateParams::new(all).map_err(make("the node's names"))?;
    params.distinguished_name.push(DnType::CommonName, node.to_string());
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    dates(&mut params);
    Ok(params)
}

/// Both files are looked at before either is written: half a pair helps nobody.
fn refuse_existing(files: &Files, overwrite: bool) -> Result<(), PkiError> {
    let there = [&files.cert, &files.key].into_iter().find(|path| path.symlink_metadata().is_ok());
    match there {
        Some(path) if !overwrite => Err(PkiError::Exists { path: path.clone() }),
        _ => Ok(()),
    }
}

/// Writes a new file beside the old one and then takes its place, so that no reader sees half of it.
fn write(path: &Path, bytes: &[u8], mode: u32, overwrite: bool) -> Result<(), PkiError> {
    let target = if overwrite { path.with_extension("new") } else { path.to_owned() };
    if overwrite && target.symlink_metadata().is_ok() {
        fs::remove_file(&target).map_err(at("replace", &target))?;
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&target)
        .map_err(at("create", &target))?;
    file.write_all(bytes).map_err(at("write", &target))?;
    if overwrite { fs::rename(&target, path).map_err(at("replace", path)) } else { Ok(()) }
}

fn read(path: &Path) -> Result<String, PkiError> {
    use io::Read as _;
    let mut text = String::new();
    let file = File::open(path).map_err(at("read", path))?;
    file.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(at("read", path))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn node(id: &str) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn an_authority_is_made_once_and_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("car-a");
        Authority::create(&ca, "car-a", false).unwrap();
        assert!(matches!(Authority::create(&ca, "car-a", false), Err(PkiError::Exists { .. })));
        let files = Authority::open(&ca).unwrap().node(&node("a1"), &["10.0.0.7".into()], false).unwrap();
        assert_eq!((mode(&files.key), mode(&ca.join("ca.key.pem"))), (0o600, 0o600));
        let again = Authority::open(&ca).unwrap().node(&node("a1"), &[], false).unwrap_err();
        assert!(matches!(&again, PkiError::Exists { path } if path.ends_with("a1.pem")));
        assert!(again.fix().unwrap().contains("--force"));
        let before = fs::read(&files.cert).unwrap();
        Authority::open(&ca).unwrap().node(&node("a1"), &[], true).unwrap();
        assert_ne!(before, fs::read(&files.cert).unwrap());
        assert_eq!(mode(&files.key), 0o600);
    }

    #[test]
    fn what_is_no_authority_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        assert!(matches!(Authority::open(&a), Err(PkiError::Io { .. })));
        Authority::create(&a, "a", false).unwrap();
        Authority::create(&b, "b", false).unwrap();
        fs::copy(b.join("ca.key.pem"), a.join("ca.key.pem")).unwrap();
        assert!(matches!(Authority::open(&a), Err(PkiError::Foreign { .. })));
        fs::write(a.join("ca.key.pem"), "junk").unwrap();
        assert!(matches!(Authority::open(&a), Err(PkiError::Foreign { .. })));
        let name = Authority::open(&b).unwrap().node(&node("b1"), &["münchen".into()], false);
        assert!(matches!(name, Err(PkiError::Name { .. })));
        assert!(!b.join("b1.key.pem").exists());
    }

    #[test]
    fn a_signing_key_signs_what_its_public_key_verifies() {
        use obu_host::bundle::key;
        let dir = tempfile::tempdir().unwrap();
        let (files, id) = signing_key(dir.path(), "dev", false).unwrap();
        assert_eq!(mode(&files.private), 0o600);
        assert_eq!(key::id(&key::public(&files.public).unwrap()), id);
        assert_eq!(key::id(&key::private(&files.private).unwrap().verifying_key()), id);
        assert!(matches!(signing_key(dir.path(), "dev", false), Err(PkiError::Exists { .. })));
        let (_, new) = signing_key(dir.path(), "dev", true).unwrap();
        assert_ne!(id, new);
    }

    /// Two Zenoh sessions of one authority talk over mutual TLS; one of another authority is not let in.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nodes_of_one_authority_meet_and_strangers_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let ours = Authority::create(&dir.path().join("ours"), "ours", false).unwrap();
        let theirs = Authority::create(&dir.path().join("theirs"), "theirs", false).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let end = format!("tls/127.0.0.1:{port}");
        let gateway = ours.node(&node("a1"), &[], false).unwrap();
        let _gateway = zenoh::open(session("listen", &end, &gateway)).await.unwrap();
        let sibling = ours.node(&node("a2"), &[], false).unwrap();
        let sibling = zenoh::open(session("connect", &end, &sibling)).await.unwrap();
        assert_eq!(sibling.info().routers_zid().await.count() + sibling.info().peers_zid().await.count(), 1);
        let mut stranger = theirs.node(&node("x1"), &[], false).unwrap();
        stranger.ca = gateway.ca;
        assert!(zenoh::open(session("connect", &end, &stranger)).await.is_err());
    }

    fn session(role: &str, end: &str, files: &Files) -> zenoh::Config {
        let mut config = zenoh::Config::default();
        for (key, value) in [
            ("mode", serde_json::json!("peer")),
            ("scouting/multicast/enabled", serde_json::json!(false)),
            ("scouting/gossip/enabled", serde_json::json!(false)),
            (&*format!("{role}/endpoints"), serde_json::json!([end])),
            (if role == "listen" { "connect/endpoints" } else { "listen/endpoints" }, serde_json::json!([])),
            ("connect/timeout_ms", serde_json::json!(5000)),
            ("connect/exit_on_failure", serde_json::json!(true)),
            ("transport/link/tls/root_ca_certificate", serde_json::json!(files.ca)),
            ("transport/link/tls/listen_certificate", serde_json::json!(files.cert)),
            ("transport/link/tls/listen_private_key", serde_json::json!(files.key)),
            ("transport/link/tls/connect_certificate", serde_json::json!(files.cert)),
            ("transport/link/tls/connect_private_key", serde_json::json!(files.key)),
            ("transport/link/tls/enable_mtls", serde_json::json!(true)),
            ("transport/link/tls/verify_name_on_connect", serde_json::json!(true)),
        ] {
            config.insert_json5(key, &value.to_string()).unwrap();
        }
        config
    }
}
