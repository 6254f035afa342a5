//! Building a bundle: the same directory gives the same digest, wherever and whenever it is built.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use policies::id::Digest;
use serde::Serialize;

use super::BundleError;
use super::layout::{Descriptor, Index, LAYER_TYPE, Manifest, blob_path};
use crate::fault::FileError;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// Name of the one file in a function's bundle.
pub const MODULE_FILE: &str = "module.wasm";

/// Writes a layout to `out` (made if need be): a directory's content, or one file (`*.wasm` becomes
/// [`MODULE_FILE`], any other keeps its name).
///
/// # Errors
/// If something cannot be read or written, or has no place in a bundle (a device, a socket).
pub fn build(source: &Path, out: &Path) -> Result<Digest, BundleError> {
    let blobs = out.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(FileError::at("create", &blobs))?;
    let layer = archive(source)?;
    let diff_id = Digest::of(&layer);
    let config = serde_json::json!({
        "architecture": architecture(), "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST_TYPE.into()),
        config: put(out, CONFIG_TYPE, &to_json(&config)?)?,
        layers: vec![put(out, LAYER_TYPE, &layer)?],
    };
    let manifest = put(out, MANIFEST_TYPE, &to_json(&manifest)?)?;
    let digest = manifest.digest;
    let index = Index { schema_version: 2, manifests: vec![manifest] };
    write(&out.join("index.json"), &to_json(&index)?)?;
    write(&out.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(digest)
}

/// The architecture as OCI spells it. A bundle of scripts or Wasm carries it too; nothing depends on it.
fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, BundleError> {
    serde_json::to_vec(value)
        .map_err(|error| BundleError::Document { name: "a document".into(), why: error.to_string() })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    fs::write(path, bytes).map_err(FileError::at("write", path))
}

fn put(out: &Path, media_type: &str, bytes: &[u8]) -> Result<Descriptor, FileError> {
    let digest = Digest::of(bytes);
    write(&out.join(blob_path(digest)), bytes)?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Ok(Descriptor { media_type: media_type.into(), digest, size })
}

fn archive(source: &Path) -> Result<Vec<u8>, BundleError> {
    let mut tar = tar::Builder::new(Vec::new());
    let meta = fs::metadata(source).map_err(FileError::at("read", source))?;
    if meta.is_dir() {
        for path in walk(source)? {
            append(&mut tar, source, &path)?;
        }
    } else {
        let is_module = source.extension().is_some_and(|extension| extension == "wasm");
        let name =
            if is_module { MODULE_FILE.into() } else { source.file_name().unwrap_or_default().to_owned() };
        append_file(&mut tar, source, Path::new(&name))?;
    }
    tar.into_inner().map_err(|error| FileError::at("archive", source)(error).into())
}

/// Everything below `root`, parents before children, in byte order.
fn walk(root: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).map_err(FileError::at("list", &dir))? {
            let path = entry.map_err(FileError::at("list", &dir))?.path();
            if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

type Tar = tar::Builder<Vec<u8>>;

fn append(tar: &mut Tar, root: &Path, path: &Path) -> Result<(), BundleError> {
    let name = path.strip_prefix(root).unwrap_or(path);
    let meta = path.symlink_metadata().map_err(FileError::at("read", path))?;
    if meta.is_dir() {
        let mut header = header(tar::EntryType::Directory, 0, true);
        tar.append_data(&mut header, name, std::io::empty()).map_err(FileError::at("archive", path))?;
    } else if meta.is_symlink() {
        let target = fs::read_link(path).map_err(FileError::at("read", path))?;
        let mut header = header(tar::EntryType::Symlink, 0, true);
        tar.append_link(&mut header, name, target).map_err(FileError::at("archive", path))?;
    } else if meta.is_file() {
        append_file(tar, path, name)?;
    } else {
        let why = "only plain files, directories and symbolic links can be in a bundle".into();
        return Err(BundleError::Entry { entry: name.display().to_string(), why });
    }
    Ok(())
}

fn append_file(tar: &mut Tar, path: &Path, name: &Path) -> Result<(), BundleError> {
    let bytes = fs::read(path).map_err(FileError::at("read", path))?;
    let mode = fs::metadata(path).map_err(FileError::at("read", path))?.permissions().mode();
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let mut header = header(tar::EntryType::Regular, size, mode & 0o100 != 0);
    tar.append_data(&mut header, name, bytes.as_slice()).map_err(FileError::at("archive", path))?;
    Ok(())
}

/// A header that depends on nothing but kind, size and whether it can be executed.
fn header(kind: tar::EntryType, size: u64, executable: bool) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
