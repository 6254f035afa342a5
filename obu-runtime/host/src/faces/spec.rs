//! From a face's name to its sandbox: what it sees, who it is, what network it has.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use policies::face::ZENOH_THREADS;
use policies::host::{Exit, Face};
use rustix::process::Resource;

use crate::apps::record::parse_exit;
use crate::fault::FileError;
use crate::ground::{Ground, make_dir};
use crate::sandbox::view::{Item, Source};
use crate::sandbox::{Eagerness, Ends, Network, Origin, Spec};

/// Where every face finds its own program.
const VERGE: &str = "verge";

/// Open files of a face: a border with 128 islands and their clients.
const FILES_MAX: u64 = 4096;

/// Room for a face's temporary files.
const TMP_LEN: u64 = 16 << 20;

/// What name resolution needs, for the two faces that have a network.
const NETWORK_FILES: [&str; 3] = ["/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf"];

/// Builds the sandbox's description. `channel` becomes descriptor 3.
pub(super) fn of(ground: &Ground, face: &Face, slot: u32, channel: OwnedFd) -> Result<Spec, FileError> {
    let number = Ground::face_number(face, slot);
    Ok(Spec {
        name: face.to_string(),
        command: vec![
            CString::from(c"/verge"),
            CString::from(c"face"),
            CString::new(face.to_string()).unwrap_or_default(),
        ],
        environment: environment(face),
        identity: ground.identity(number),
        view: view(ground, face, number)?,
        origin: Origin::New(if has_network(face) { Network::Host } else { Network::Empty }),
        rlimits: vec![(Resource::Nofile, FILES_MAX), (Resource::Core, 0)],
        eagerness: Eagerness::default(),
        filter: ground.face_filter.clone(),
        channel: Some(channel),
        dies_with_host: true,
        // A border's sockets are for apps, whose uids differ from its own.
        umask: if matches!(face, Face::Border(_)) { 0 } else { 0o077 },
    })
}

/// Where its output and its end go.
pub(super) fn ends(ground: &Ground, face: &Face) -> Result<Ends, FileError> {
    let exit = exit_path(ground, face);
    let output = std::io::stderr().as_fd().try_clone_to_owned().map_err(FileError::at("copy", "stderr"))?;
    Ok(Ends { output, exit_file: File::create(&exit).map_err(FileError::at("create", &exit))? })
}

fn has_network(face: &Face) -> bool {
    matches!(face, Face::Node | Face::Link)
}

fn environment(face: &Face) -> Vec<CString> {
    let passed_on = ["RUST_LOG", "RUST_BACKTRACE"].into_iter().filter_map(|name| {
        let value = std::env::var(name).ok()?;
        Some(format!("{name}={value}"))
    });
    let own = ["PATH=/".into(), "HOME=/".into(), format!("VERGE_FACE={face}")];
    // The other faces have no links over TLS.
    let (name, one) = ZENOH_THREADS;
    let threads = has_network(face).then(|| format!("{name}={one}"));
    own.into_iter().chain(threads).chain(passed_on).filter_map(|word| CString::new(word).ok()).collect()
}

fn view(ground: &Ground, face: &Face, number: u32) -> Result<Vec<Item>, FileError> {
    let source = |path: &Path| Source::at(path, ground.privileged);
    let mut items = vec![Item::Devices, Item::Tmpfs { at: "tmp".into(), size: TMP_LEN }];
    items.push(Item::file(source(&ground.verge)?, VERGE));
    for library in &ground.libraries {
        items.push(Item::file(source(library)?, inside(library)));
    }
    if has_network(face) {
        for file in NETWORK_FILES.map(Path::new).into_iter().filter(|file| file.is_file()) {
            // Bound from where links lead: resolv.conf is one on most systems.
            let real = std::fs::canonicalize(file).map_err(FileError::at("resolve", file))?;
            items.push(Item::file(source(&real)?, inside(file)));
        }
    }
    match face {
        Face::Node => items.push(Item::writable(source(&ground.spool())?, "spool")),
        Face::Border(tenant) => {
            let islands = ground.islands_of(tenant);
            remake_islands(ground, &islands, number)?;
            items.push(Item::writable(source(&islands)?, "islands"));
        }
        Face::Bus | Face::Link | Face::Camera | Face::Worker(_) => {}
    }
    if let Some(dir) = state_path(ground, face, number)? {
        // The descriptor alone would not do: the file fence asks whether the place is one of the view's.
        items.push(Item::writable(source(&dir)?, "state"));
    }
    Ok(items)
}

/// A path of the host's as a path below the sandbox's root.
fn inside(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

/// The islands directory of a tenant, all of it owned by the border's uid. Apps that run keep their directories:
/// a new border makes new sockets in them.
fn remake_islands(ground: &Ground, islands: &Path, number: u32) -> Result<(), FileError> {
    make_dir(islands, 0o755)?;
    ground.give_to(islands, number)?;
    for entry in std::fs::read_dir(islands).map_err(FileError::at("list", islands))?.flatten() {
        // Only directories, which a former border may have filled; a link is not ours to follow.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            ground.give_to(&entry.path(), number)?;
        }
    }
    Ok(())
}

/// The directory that is the face's own durable state, made if need be; the tenants' faces have none.
fn state_path(ground: &Ground, face: &Face, number: u32) -> Result<Option<PathBuf>, FileError> {
    if matches!(face, Face::Border(_) | Face::Worker(_)) {
        return Ok(None);
    }
    let dir = ground.config.node.state_dir.join(face.to_string());
    make_dir(&dir, 0o700)?;
    ground.give_to(&dir, number)?;
    Ok(Some(dir))
}

/// Opens the directory that is the face's own durable state.
pub(super) fn state_dir(ground: &Ground, face: &Face, slot: u32) -> Result<Option<OwnedFd>, FileError> {
    let Some(dir) = state_path(ground, face, Ground::face_number(face, slot))? else { return Ok(None) };
    File::open(&dir).map(|dir| Some(dir.into())).map_err(FileError::at("open", &dir))
}

fn exit_path(ground: &Ground, face: &Face) -> PathBuf {
    ground.run("faces").join(format!("{face}.exit"))
}

/// How the face's program ended, as its init wrote it down.
pub(super) fn exit_of(ground: &Ground, face: &Face) -> Option<Exit> {
    parse_exit(&std::fs::read_to_string(exit_path(ground, face)).ok()?)
}
