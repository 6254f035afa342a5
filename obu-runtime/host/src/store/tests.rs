//! Imports, and every hostile archive of CONFINEMENT's list: nothing outside the store changes, ever.

use super::*;
use crate::bundle::{self, layout::Descriptor};
use ed25519_dalek::SigningKey;
use policies::id::Digest;
use proptest::prelude::*;
use std::io::Write as _;
use tempfile::TempDir;

struct Case {
    dir: TempDir,
    store: Store,
    key: SigningKey,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::from_bytes(&[3; 32]);
        let trusted = Trusted::from_iter([key.verifying_key()]);
        let store = Store::open(&dir.path().join("store"), trusted).unwrap();
        fs::create_dir(dir.path().join("spool")).unwrap();
        fs::write(dir.path().join("precious"), "untouched").unwrap();
        Self { dir, store, key }
    }

    /// Puts a layout around a layer of any bytes, signed.
    fn spool_layer(&self, layer: &[u8]) -> Digest {
        let draft = self.dir.path().join("draft");
        let _ = fs::remove_dir_all(&draft);
        fs::create_dir_all(draft.join("in")).unwrap();
        bundle::build(&draft.join("in"), &draft.join("out")).unwrap();
        let layout = Layout::open(&draft.join("out")).unwrap();
        let mut manifest = layout.manifest(layout.indexed().unwrap()).unwrap();
        let put = |bytes: &[u8], kind: &str| {
            let digest = Digest::of(bytes);
            fs::write(draft.join("out").join(bundle::layout::blob_path(digest)), bytes).unwrap();
            Descriptor { media_type: kind.into(), digest, size: bytes.len() as u64 }
        };
        manifest.layers = vec![put(layer, bundle::layout::LAYER_TYPE)];
        let manifest =
            put(&serde_json::to_vec(&manifest).unwrap(), "application/vnd.oci.image.manifest.v1+json");
        let digest = manifest.digest;
        let index = bundle::layout::Index { schema_version: 2, manifests: vec![manifest] };
        fs::write(draft.join("out/index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
        bundle::sign(&draft.join("out"), &self.key).unwrap();
        let place = self.dir.path().join("spool").join(digest.hex());
        let _ = fs::remove_dir_all(&place);
        fs::rename(draft.join("out"), place).unwrap();
        digest
    }

    fn import(&self, digest: Digest) -> Result<String, String> {
        let spool = File::open(self.dir.path().join("spool")).unwrap().into();
        self.store.import(&spool, digest).map_err(|error| error.to_string())
    }

    /// What must hold after any import: the file outside is as it was, and nothing half-made is left.
    fn assert_unharmed(&self) {
        assert_eq!(fs::read_to_string(self.dir.path().join("precious")).unwrap(), "untouched");
        assert!(!self.dir.path().join("escaped").exists());
        for entry in fs::read_dir(self.store.dir()).unwrap() {
            assert!(!entry.unwrap().file_name().to_string_lossy().starts_with(NEW));
        }
    }
}

/// A tar entry with a name that the builder itself would refuse.
fn raw_entry(tar: &mut Vec<u8>, name: &str, kind: u8, link: &str, body: &[u8]) {
    let mut header = tar::Header::new_ustar();
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[156] = kind;
    bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_size(body.len() as u64);
    header.set_mode(0o4755);
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(body);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

type Entry = (&'static str, u8, &'static str, &'static str);

fn layer(entries: &[Entry]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, kind, link, body) in entries {
        raw_entry(&mut tar, name, *kind, link, body.as_bytes());
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

#[test]
fn a_good_bundle_is_unpacked_readable_for_everybody_and_without_setuid() {
    use std::os::unix::fs::PermissionsExt;
    let case = Case::new();
    let digest = case.spool_layer(&layer(&[
        ("bin/tool", b'0', "", "program"),
        ("bin/same", b'1', "bin/tool", ""),
        ("sh", b'2', "/bin/tool", ""),
        ("bin/tool", b'0', "", "replaced"),
    ]));
    assert_eq!(case.import(digest).unwrap(), bundle::key::id(&case.key.verifying_key()));
    let root = case.store.root_of(digest).unwrap();
    assert_eq!(fs::read_to_string(root.join("bin/tool")).unwrap(), "replaced");
    assert_eq!(fs::read_to_string(root.join("bin/same")).unwrap(), "program");
    assert_eq!(fs::metadata(root.join("bin/tool")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(root.join("sh")).unwrap(), Path::new("/bin/tool"));
    case.assert_unharmed();
}

#[test]
fn hostile_archives_are_refused_whole() {
    let cases: [(&str, &[Entry], &str); 9] = [
        ("parent", &[("../escaped", b'0', "", "x")], "leads out"),
        ("parent inside", &[("a/../../escaped", b'0', "", "x")], "leads out"),
        ("absolute", &[("/tmp/verge-escaped", b'0', "", "x")], "absolute"),
        ("through a link", &[("d", b'2', "..", ""), ("d/escaped", b'0', "", "x")], "d"),
        ("hard link out", &[("h", b'1', "../../../precious", "")], "leads out"),
        ("hard link through a link", &[("d", b'2', "../../..", ""), ("h", b'1', "d/precious", "")], "d"),
        ("device", &[("null", b'3', "", "")], "no place in a bundle"),
        ("pipe", &[("fifo", b'6', "", "")], "no place in a bundle"),
        ("whiteout", &[(".wh.passwd", b'0', "", "")], "flatten"),
    ];
    for (name, entries, expected) in cases {
        let case = Case::new();
        let digest = case.spool_layer(&layer(entries));
        let error = case.import(digest).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(case.store.root_of(digest).is_none(), "{name}");
        case.assert_unharmed();
    }
}

#[test]
fn only_what_is_signed_and_whole_gets_in() {
    let case = Case::new();
    let good = layer(&[("x", b'0', "", "x")]);
    let digest = case.spool_layer(&good);
    let place = case.dir.path().join("spool").join(digest.hex());
    let blob = place.join(bundle::layout::blob_path(Digest::of(&good)));
    File::options().append(true).open(&blob).unwrap().write_all(b"more").unwrap();
    assert!(case.import(digest).unwrap_err().contains("maximum"), "longer than the manifest says");
    fs::write(&blob, &good[..600]).unwrap();
    assert!(case.import(digest).unwrap_err().contains("holds bytes with digest"));
    assert!(case.import(Digest::of(b"nothing")).unwrap_err().contains("the node has no bundle sha256:"));
    case.assert_unharmed();
    fs::write(&blob, &good).unwrap();
    case.import(digest).unwrap();
    let stranger = Trusted::from_iter([SigningKey::from_bytes(&[9; 32]).verifying_key()]);
    let reopened = Store::open(case.store.dir(), stranger).unwrap();
    assert!(reopened.root_of(digest).is_none(), "a key that is no longer trusted takes its bundles along");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_archive_at_all_reaches_outside(entries in prop::collection::vec(
        ("(\\.\\./|/|d/|a/|\\./){0,3}(d|a|f|precious|escaped)", prop::sample::select(b"01256357gL".to_vec()),
         "(\\.\\./|/|d/){0,3}(d|a|precious|escaped)?"), 0..12), noise: Vec<u8>) {
        let case = Case::new();
        let mut tar = Vec::new();
        for (name, kind, link) in &entries {
            raw_entry(&mut tar, name, *kind, link, b"body");
        }
        tar.extend(noise);
        let _ = case.import(case.spool_layer(&tar));
        case.assert_unharmed();
    }
}
