//! Building, signing, verifying, and every way a bundle can be wrong.

use std::fs;
use std::path::PathBuf;

use super::*;
use tempfile::TempDir;

struct Case {
    dir: TempDir,
    key: SigningKey,
}

impl Case {
    fn new() -> Self {
        let case = Self { dir: tempfile::tempdir().unwrap(), key: SigningKey::from_bytes(&[7; 32]) };
        let source = case.dir.path().join("app");
        fs::create_dir_all(source.join("lib")).unwrap();
        fs::write(source.join("main"), "#!/bin/sh\n").unwrap();
        fs::write(source.join("lib/data"), [0u8; 100]).unwrap();
        std::os::unix::fs::symlink("lib/data", source.join("link")).unwrap();
        build(&source, &case.layout()).unwrap();
        sign(&case.layout(), &case.key).unwrap();
        case
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn verify(&self) -> Result<Digest, String> {
        let trusted = key::Trusted::from_iter([self.key.verifying_key()]);
        verify(&self.layout(), &trusted).map_err(|error| error.to_string())
    }
}

#[test]
fn a_signed_bundle_verifies_and_building_again_gives_the_same_digest() {
    let (one, two) = (Case::new(), Case::new());
    assert_eq!(one.verify().unwrap(), two.verify().unwrap());
}

#[test]
fn whatever_is_wrong_is_named() {
    type Harm = fn(&Case);
    let cases: [(&str, Harm, &str); 6] = [
        ("no signature", |case| fs::remove_file(case.layout().join(SIGNATURE_FILE)).unwrap(), "cannot open"),
        (
            "foreign key",
            |case| {
                sign(&case.layout(), &SigningKey::from_bytes(&[8; 32])).unwrap();
            },
            "not trusted here",
        ),
        (
            "changed bytes",
            |case| {
                for blob in fs::read_dir(case.layout().join("blobs/sha256")).unwrap() {
                    let path = blob.unwrap().path();
                    let mut bytes = fs::read(&path).unwrap();
                    if bytes.len() > 2000 {
                        bytes[600] ^= 1;
                        fs::write(path, bytes).unwrap();
                    }
                }
            },
            "holds bytes with digest",
        ),
        (
            "other manifest under the old signature",
            |case| {
                let signature = fs::read(case.layout().join(SIGNATURE_FILE)).unwrap();
                let source = case.dir.path().join("app");
                fs::write(source.join("main"), "something else").unwrap();
                build(&source, &case.layout()).unwrap();
                fs::write(case.layout().join(SIGNATURE_FILE), signature).unwrap();
            },
            "does not match bundle",
        ),
        (
            "signature is a link",
            |case| {
                let signature = case.layout().join(SIGNATURE_FILE);
                fs::rename(&signature, case.dir.path().join("elsewhere")).unwrap();
                std::os::unix::fs::symlink(case.dir.path().join("elsewhere"), signature).unwrap();
            },
            "cannot open",
        ),
        (
            "signature is huge",
            |case| fs::write(case.layout().join(SIGNATURE_FILE), vec![b' '; 5000]).unwrap(),
            "the maximum is 4096",
        ),
    ];
    for (name, harm, expected) in cases {
        let case = Case::new();
        harm(&case);
        let error = case.verify().unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn keys_survive_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let (private, public) = (dir.path().join("dev.pem"), dir.path().join("dev.pub.pem"));
    let id = key::generate(&private, &public).unwrap();
    assert_eq!(key::id(&key::public(&public).unwrap()), id);
    assert_eq!(key::id(&key::private(&private).unwrap().verifying_key()), id);
    assert!(key::generate(&private, &public).is_err(), "a private key is never overwritten");
    fs::write(&public, hex::encode(key::private(&private).unwrap().verifying_key().as_bytes())).unwrap();
    assert_eq!(key::id(&key::public(&public).unwrap()), id, "raw hexadecimal");
    fs::write(&public, "nonsense").unwrap();
    assert!(key::public(&public).is_err());
}
