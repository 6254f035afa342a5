//! What stays the same while host runs: its configuration, its place in the cgroups, its directories, its uids,
//! its filters. Made once, before anything is started.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use policies::host::{Enforced, Face};
use policies::id::{Incarnation, TenantId};
use policies::task::Class;
use rustix::fs::FlockOperation;

use crate::bundle::{BundleError, key::Trusted};
use crate::cgroup::{Place, Tree, detect};
use crate::config::{Config, Unenforceable};
use crate::devices::{self, DeviceError};
use crate::fault::{Explain, FileError};
use crate::incarnation::{self, IncarnationError};
use crate::sandbox::Identity;
use crate::sandbox::libraries;
use crate::sandbox::readback::line;
use crate::sandbox::seccomp::{self, Profile};
use crate::store::Store;

/// Most tenants at a time: each may have a border and a worker.
pub const TENANTS_MAX: usize = 64;

/// Where the uids of apps begin, counted from the configured first one; below are the faces.
pub const APP_UIDS: u32 = 256;

/// Everything that stays the same.
#[derive(Debug)]
pub struct Ground {
    /// The configuration.
    pub config: Config,
    /// The program that is all faces.
    pub verge: PathBuf,
    /// The loader and libraries that it needs.
    pub libraries: Vec<PathBuf>,
    /// Whether we are root and every sandbox gets a uid of its own.
    pub privileged: bool,
    /// This life of the node.
    pub incarnation: Incarnation,
    /// Verified code.
    pub store: Store,
    /// Filter for apps.
    pub app_filter: Rc<[libc::sock_filter]>,
    /// Filter for faces.
    pub face_filter: Rc<[libc::sock_filter]>,
    control: UnixListener,
    cgroups: Option<detect::Owned>,
    /// Keeps a second host out of the run directory.
    _lock: File,
}

/// Why host cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum GroundError {
    /// A file operation.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another host works in the run directory.
    #[error("another verge-host works in {}", path.display())]
    Busy {
        /// The run directory.
        path: PathBuf,
    },
    /// The boot counter.
    #[error(transparent)]
    Incarnation(#[from] IncarnationError),
    /// The cgroups.
    #[error(transparent)]
    Cgroup(#[from] detect::DetectError),
    /// The control socket.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A key.
    #[error(transparent)]
    Key(#[from] BundleError),
}

impl Explain for GroundError {
    fn fix(&self) -> Option<String> {
        match self {
            Self::File(error) => error.fix(),
            Self::Busy { .. } => Some("end it first, or give this node another run_dir".into()),
            Self::Incarnation(error) => error.fix(),
            Self::Cgroup(error) => error.fix(),
            Self::Device(error) => error.fix(),
            Self::Key(error) => error.fix(),
        }
    }
}

impl Ground {
    /// Makes the directories, takes the locks, issues the incarnation.
    ///
    /// # Errors
    /// What is in the way, and how to get it out of it.
    pub fn prepare(config: Config, verge: PathBuf) -> Result<Self, GroundError> {
        let privileged = rustix::process::geteuid().is_root();
        let run = config.node.run_dir.clone();
        make_dir(&run, 0o711)?;
        make_dir(&config.node.state_dir, 0o711)?;
        let lock = lock(&run)?;
        let cgroups = detect::find(config.node.id.as_str(), &config.cgroup())?;
        if let Some(owned) = &cgroups {
            for class in Class::ALL {
                owned.tree.create(&Place::Class(class))?;
                owned.tree.squeeze(class, 1000)?;
            }
        }
        let store = Store::open(&config.store_dir(), Trusted::load(&config.host.trusted_keys)?)?;
        let control = devices::control(&config)?;
        let incarnation = incarnation::issue(&config.node.state_dir)?;
        let ground = Self {
            config,
            libraries: libraries::needed(&verge)?,
            verge,
            privileged,
            incarnation,
            store,
            app_filter: seccomp::filter(Profile::App).into(),
            face_filter: seccomp::filter(Profile::Face).into(),
            control,
            cgroups,
            _lock: lock,
        };
        for dir in ["apps", "islands", "faces"] {
            make_dir(&ground.run(dir), 0o700)?;
        }
        ground.make_spool()?;
        Ok(ground)
    }

    /// A path below the run directory.
    pub fn run(&self, name: impl AsRef<Path>) -> PathBuf {
        self.config.node.run_dir.join(name)
    }

    /// The listening control socket, for one more node process.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn control(&self) -> Result<OwnedFd, FileError> {
        self.control.try_clone().map(Into::into).map_err(FileError::at("copy", self.config.control_socket()))
    }

    /// The cgroup tree, where there is one.
    pub fn tree(&self) -> Option<&dyn Tree> {
        self.cgroups.as_ref().map(|owned| owned.tree.as_ref())
    }

    /// Who the sandbox with this number is.
    pub fn identity(&self, number: u32) -> Identity {
        if self.privileged { Identity::Own(self.config.host.uid_base + number) } else { Identity::Shared }
    }

    /// The number of a face. `slot` is its tenant's.
    pub fn face_number(face: &Face, slot: u32) -> u32 {
        match face {
            Face::Node => 0,
            Face::Bus => 1,
            Face::Link => 2,
            Face::Camera => 3,
            Face::Border(_) => 16 + 2 * slot,
            Face::Worker(_) => 17 + 2 * slot,
        }
    }

    /// Gives a path to a sandbox's uid.
    ///
    /// # Errors
    /// Names the path.
    pub fn give_to(&self, path: &Path, number: u32) -> Result<(), FileError> {
        match self.identity(number) {
            Identity::Own(id) => {
                std::os::unix::fs::chown(path, Some(id), Some(id)).map_err(FileError::at("give away", path))
            }
            Identity::Shared => Ok(()),
        }
    }

    /// The directory with a tenant's islands, one below the other by app.
    pub fn islands_of(&self, tenant: &TenantId) -> PathBuf {
        self.run("islands").join(tenant.as_str())
    }

    /// Whether an app that needs a limit we cannot hold is refused.
    pub fn refuses_unenforceable(&self) -> bool {
        self.config.host.unenforceable == Unenforceable::Refuse
    }

    /// Where node puts bundles. It outlives host and power cuts: an app that was acknowledged a moment before
    /// must still be imported afterwards.
    pub fn spool(&self) -> PathBuf {
        self.config.node.state_dir.join("spool")
    }

    /// The spool, which belongs to node; what is in it stays.
    fn make_spool(&self) -> Result<(), FileError> {
        let spool = self.spool();
        make_dir(&spool, 0o755)?;
        self.give_to(&spool, Self::face_number(&Face::Node, 0))
    }

    /// What this machine offers, for `verge doctor`.
    pub fn machine(&self) -> Vec<Enforced> {
        let kernel = rustix::system::uname();
        let mut lines = vec![
            line("kernel", "uname", kernel.release().to_string_lossy(), false),
            match self.privileged {
                true => line("privileges", "uid", "root: every app and face has a uid of its own", false),
                false => line("privileges", "uid", "none: all apps and faces share one uid outside", true),
            },
        ];
        match self.tree() {
            Some(tree) => lines.extend(tree.describe()),
            None => lines.push(line(
                "cgroup",
                "rlimits, nice, SIGSTOP by the init",
                "no cgroup that we may write: limits are weaker",
                true,
            )),
        }
        lines.push(match crate::pressure::has_psi(Path::new("/proc")) {
            true => line("pressure", "PSI", "yes", false),
            false => {
                line("pressure", "/proc/stat, /proc/meminfo", "no PSI: CPU and memory in use stand in", true)
            }
        });
        lines
    }

    /// Removes what we made: our cgroups, and everything of ours in the run directory.
    ///
    /// # Errors
    /// Names what could not be removed.
    pub fn leave(&self) -> Result<(), FileError> {
        if let Some(tree) = self.tree() {
            tree.clear()?;
        }
        for dir in ["apps", "islands", "faces"] {
            let path = self.run(dir);
            if path.exists() {
                fs::remove_dir_all(&path).map_err(FileError::at("remove", &path))?;
            }
        }
        for file in [self.config.control_socket(), self.run("lock")] {
            let _ = fs::remove_file(file);
        }
        // Only if nobody put anything else there.
        let _ = fs::remove_dir(&self.config.node.run_dir);
        Ok(())
    }
}

/// Makes a directory with exactly this mode; its parents with the usual one.
///
/// # Errors
/// Names the path.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::at("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(FileError::at("set the mode of", path))
}

/// How long a start waits for the lock of a host that is gone, and how often it looks.
const LOCK_WAIT: std::time::Duration = std::time::Duration::from_secs(2);
const LOCK_RETRY: std::time::Duration = std::time::Duration::from_millis(20);

fn lock(run: &Path) -> Result<File, GroundError> {
    let path = run.join("lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(FileError::at("open", &path))?;
    // A child that a killed host was about to start holds the lock for a moment longer.
    let until = std::time::Instant::now() + LOCK_WAIT;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(_) if std::time::Instant::now() < until => std::thread::sleep(LOCK_RETRY),
            Err(_) => return Err(GroundError::Busy { path: run.to_owned() }),
        }
    }
}
