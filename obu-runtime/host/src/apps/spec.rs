//! From a checked start command to a sandbox: what the app sees, who it is, what it may use.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use policies::host::{HostRefusal, StartApp};
use policies::manifest::Resources;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::Resource;

use super::weak;
use crate::fault::{FileError, refusal, refuse};
use crate::ground::Ground;
use crate::sandbox::view::{Item, Source};
use crate::sandbox::{Eagerness, Origin, Spec};

/// Most entries at the top of a base layer.
const BASE_ENTRIES_MAX: usize = 64;

/// Names at the root that are ours, whatever a base layer has there.
const OURS: [&str; 6] = ["app", "dev", "proc", "sys", "tmp", "run"];

/// Builds the sandbox's description.
pub(super) fn of(
    ground: &Ground,
    start: &StartApp,
    number: u32,
    origin: Origin,
) -> Result<Spec, HostRefusal> {
    let refuse_file = |error: FileError| refusal(format!("start {}", start.app), &error);
    let has_tree = ground.tree().is_some();
    let mut rlimits = vec![(Resource::Nofile, u64::from(start.resources.nofile)), (Resource::Core, 0)];
    if !has_tree {
        rlimits.extend(weak::rlimits(&start.resources));
    }
    let own = own_view(ground, start)?.into_iter().collect::<Result<Vec<_>, _>>().map_err(refuse_file)?;
    let view = match origin {
        Origin::New(_) => common_view().into_iter().chain(own).collect(),
        Origin::Prepared(_) => own,
    };
    Ok(Spec {
        name: start.app.app.to_string(),
        command: words(&start.command)?,
        environment: words(&environment(start))?,
        identity: ground.identity(number),
        view,
        origin,
        rlimits,
        eagerness: if has_tree { Eagerness::default() } else { weak::eagerness(start.class) },
        filter: ground.app_filter.clone(),
        channel: None,
        dies_with_host: false,
        umask: 0o022,
    })
}

fn words(words: &[String]) -> Result<Vec<CString>, HostRefusal> {
    let words = words.iter().map(|word| CString::new(word.as_str()));
    words.collect::<Result<_, _>>().map_err(|error| refuse("read the command", error.to_string(), None))
}

/// The app's own environment, and the few variables that programs expect.
fn environment(start: &StartApp) -> Vec<String> {
    let mut words = start.env.clone();
    for default in ["PATH=/app:/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"] {
        let name = &default[..=default.find('=').unwrap_or(0)];
        if !words.iter().any(|word| word.starts_with(name)) {
            words.push(default.into());
        }
    }
    words
}

type Items = Vec<Result<Item, FileError>>;

/// What every app sees, and what is made ahead therefore.
pub(super) fn common_view() -> Vec<Item> {
    let tmp = Item::Tmpfs { at: "tmp".into(), size: Resources::default().tmp.get() };
    let mut items = vec![Item::Dir("app".into()), Item::Dir("run".into()), Item::Devices, tmp];
    for (at, to) in [
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
        ("dev/shm", "/tmp"),
    ] {
        items.push(Item::Link { at: at.into(), to: to.into() });
    }
    items
}

/// What only this app sees, or only once it has processes.
fn own_view(ground: &Ground, start: &StartApp) -> Result<Items, HostRefusal> {
    let mut items: Items = Vec::with_capacity(16);
    if let Some(base) = start.base {
        let root = stored(ground, start, base, "base layer")?;
        items.extend(base_items(&root, ground.privileged));
    }
    let bundle = stored(ground, start, start.bundle, "bundle")?;
    items.push(Source::at(&bundle, ground.privileged).map(|source| Item::read_only(source, "app")));
    items.push(Ok(Item::Proc));
    if start.resources.tmp != Resources::default().tmp {
        // On top of the one that every app has.
        items.push(Ok(Item::Tmpfs { at: "tmp".into(), size: start.resources.tmp.get() }));
    }
    if start.island {
        items.push(island(ground, start).map(|source| Item::read_only(source, "run/verge")));
    }
    Ok(items)
}

fn stored(
    ground: &Ground,
    start: &StartApp,
    digest: policies::id::Digest,
    what: &str,
) -> Result<PathBuf, HostRefusal> {
    ground.store.root_of(digest).ok_or_else(|| {
        refuse(
            format!("start {}", start.app),
            format!("{what} {digest} is not in the store, or its signing key is not trusted"),
            Some("import it first (verge apply does), signed by a key in [host] trusted_keys"),
        )
    })
}

/// Everything at the top of a base layer, bound or copied one by one onto a root of our own.
fn base_items(root: &Path, privileged: bool) -> Items {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) => return vec![Err(FileError::at("list", root)(error))],
    };
    let mut items = Items::new();
    for entry in entries.flatten().take(BASE_ENTRIES_MAX) {
        let name = PathBuf::from(entry.file_name());
        if OURS.iter().any(|ours| Path::new(ours) == name) {
            continue;
        }
        let path = entry.path();
        items.push(match entry.file_type() {
            Ok(kind) if kind.is_symlink() => std::fs::read_link(&path)
                .map(|to| Item::Link { at: name, to })
                .map_err(FileError::at("read the link", &path)),
            Ok(kind) if kind.is_dir() => {
                Source::at(&path, privileged).map(|source| Item::read_only(source, name))
            }
            Ok(_) => Source::at(&path, privileged).map(|source| Item::file(source, name)),
            Err(error) => Err(FileError::at("look at", &path)(error)),
        });
    }
    items
}

/// The app's island: a directory that its tenant's border fills. The border is hostile until proven otherwise,
/// so a link in its place is not followed.
fn island(ground: &Ground, start: &StartApp) -> Result<Source, FileError> {
    let islands = ground.islands_of(&start.app.tenant);
    let name = start.app.app.as_str();
    let shown = islands.join(name);
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let parent = rustix::fs::open(&islands, flags, Mode::empty()).map_err(FileError::at("open", &islands))?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        // The border has opened the island before its app starts; otherwise it will find this one.
        Ok(()) => give_island(ground, &parent, start)?,
        Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(FileError::at("create", &shown)(error)),
    }
    if !ground.privileged {
        return Ok(Source::Path(shown));
    }
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let dir = rustix::fs::openat2(&parent, name, flags, Mode::empty(), below)
        .map_err(FileError::at("open", &shown))?;
    let tree =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&dir, "", tree).map(Source::Tree).map_err(FileError::at("detach a view of", &shown))
}

fn give_island(ground: &Ground, parent: &OwnedFd, start: &StartApp) -> Result<(), FileError> {
    if !ground.privileged {
        return Ok(());
    }
    let islands = rustix::fs::fstat(parent).map_err(FileError::at("look at", "the islands"))?;
    let owner = (rustix::fs::Uid::from_raw(islands.st_uid), rustix::fs::Gid::from_raw(islands.st_gid));
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(parent, start.app.app.as_str(), Some(owner.0), Some(owner.1), flags)
        .map_err(FileError::at("give away", start.app.app.as_str()))
}
