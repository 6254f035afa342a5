//! A test's own stretch of road: its directory, its keys, its bus, its effect server, and the nodes on it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::app::App;
use crate::node::NodeBuilder;
use crate::root;

/// Where the programs and the prepared material are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Directory of `verge`, `verge-host` and `verge-sim`.
    pub bin: PathBuf,
    /// What `scripts/material.sh` made.
    pub material: PathBuf,
}

impl Programs {
    /// `VERGE_BIN_DIR`, else `debug` of `CARGO_TARGET_DIR`, else the workspace's `target/debug`; the material is
    /// `VERGE_MATERIAL`, else beside it, else the workspace's.
    pub fn find() -> Self {
        let named = |name| std::env::var_os(name).map(PathBuf::from).map(|p| root().join(p));
        let ours = root().join("target");
        let targets = [named("CARGO_TARGET_DIR"), Some(ours.clone())];
        let mut bins = named("VERGE_BIN_DIR")
            .into_iter()
            .chain(targets.iter().flatten().map(|target| target.join("debug")));
        let bin = bins.find(|dir| dir.join("verge-host").is_file()).unwrap_or(ours.join("debug"));
        let beside = bin.parent().map(|target| target.join("material")).filter(|dir| dir.is_dir());
        let material = named("VERGE_MATERIAL").or(beside).unwrap_or(ours.join("material"));
        Self { bin, material }
    }

    /// Path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Path of one piece of the material.
    pub fn material(&self, name: &str) -> PathBuf {
        self.material.join(name)
    }
}

/// Whether the programs are built.
///
/// # Errors
/// What is missing.
pub fn programs() -> Result<(), String> {
    let programs = Programs::find();
    for name in ["verge", "verge-host", "verge-sim"] {
        if !programs.program(name).is_file() {
            return Err(format!("{} is not built", programs.program(name).display()));
        }
    }
    Ok(())
}

/// Whether the test runs as root.
///
/// # Errors
/// That it does not.
pub fn superuser() -> Result<(), String> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err("needs root".into()) }
}

/// Whether these pieces of the material exist.
///
/// # Errors
/// The one that does not.
pub fn material(names: &[&str]) -> Result<(), String> {
    let programs = Programs::find();
    let missing = names.iter().map(|name| programs.material(name)).find(|path| !path.exists());
    missing
        .map_or(Ok(()), |path| Err(format!("{} is missing (scripts/material.sh makes it)", path.display())))
}

/// Numbers the nodes of this process, for ids and uids.
static NODES: AtomicU32 = AtomicU32::new(0);

/// A test's road. Its directory goes with it.
#[derive(Debug)]
pub struct Road {
    dir: TempDir,
    /// Where the programs are.
    pub programs: Programs,
    /// Multicast group of its bus.
    pub group: String,
    /// Port of its bus.
    pub port: u16,
    /// Port of its effect server, if it was started.
    effects: Option<u16>,
    /// What is started for `verge-host`, if not the program itself.
    host: Option<PathBuf>,
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a free port").port()
}

impl Road {
    /// A directory with a signing key, and a bus of its own.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("verge-e2e-").tempdir().expect("a directory");
        // Ordinary users of rootless tests pass through; what is inside is protected by itself.
        let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(dir.path(), open).expect("permissions");
        let port = free_port();
        let [high, low] = port.to_be_bytes();
        let road = Self {
            dir,
            programs: Programs::find(),
            group: format!("239.74.{}.{}", high.max(1), low.max(1)),
            port,
            effects: None,
            host: None,
        };
        road.key("dev");
        road
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a signing key; returns the private and the public file.
    pub fn key(&self, name: &str) -> (PathBuf, PathBuf) {
        let private = self.path().join(format!("{name}.key.pem"));
        if !private.exists() {
            self.run(&["pki", "key", &self.path().to_string_lossy(), "--name", name]);
        }
        (private, self.path().join(format!("{name}.pub.pem")))
    }

    /// Runs `verge` without a node; it must succeed. Returns its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        let said = Said::of(Command::new(self.programs.program("verge")).args(arguments));
        assert_eq!(said.code, 0, "verge {}: {}", arguments.join(" "), said.err);
        said.out
    }

    /// A node to be described and started.
    pub fn node(&self) -> NodeBuilder<'_> {
        let n = NODES.fetch_add(1, Ordering::Relaxed);
        let run = std::process::id();
        NodeBuilder::new(
            self,
            format!("e2e-{run}-{n}"),
            1_000_000 + (run % 1000) * 100_000 + (n % 100) * 1000,
        )
    }

    /// Starts the effect server of the ledger; nodes described after it use it.
    pub fn ledger(&mut self) -> Ledger {
        let ledger = Ledger::start(self, None);
        self.effects = Some(ledger.port);
        ledger
    }

    /// As [`Self::ledger`]; it also listens on the bus and writes frames of this id into `frames.log`.
    pub fn ledger_on_bus(&mut self, id: u32) -> Ledger {
        let ledger = Ledger::start(self, Some(id));
        self.effects = Some(ledger.port);
        ledger
    }

    /// Hosts of nodes that are started from now on run below strace.
    pub fn tapped(&mut self) {
        let path = self.path().join("verge-host");
        crate::tap::stand::host_below_strace(&path, None);
        self.host = Some(path);
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.host.clone().unwrap_or_else(|| self.programs.program("verge-host"))
    }

    pub(crate) fn effects(&self) -> Option<u16> {
        self.effects
    }

    /// Lets the car drive: python-can puts frames onto the bus until the guard is dropped.
    pub fn drive(&self) -> Running {
        let dbc = root().join("can-bridge/dbc/verge-demo.dbc");
        let script = root().join("tests/e2e/py/drive.py");
        let mut command = Command::new(python());
        command.arg(script).arg(&self.group).arg(self.port.to_string()).arg(dbc);
        command.env("PYTHONPATH", self.programs.material("pylib"));
        Running(command.stdin(Stdio::null()).spawn().expect("python-can"))
    }

    /// Throws bytes at the group of the bus, as a foreign program might.
    pub fn throw_at_bus(&self, bytes: &[u8]) {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a socket");
        // The multicast interface follows the route of the group unless the source says otherwise.
        socket.set_multicast_ttl_v4(0).expect("hop limit");
        socket.send_to(bytes, (self.group.as_str(), self.port)).expect("sent");
    }

    /// The manifest of an app, written with all that it names.
    pub fn manifest(&self, app: &App) -> PathBuf {
        app.write(&self.path().join("apps"), &self.programs)
    }

    /// One frame of the clip.
    pub fn frame(&self) -> PathBuf {
        let clip = fs::read(self.programs.material("clip/street.mjpeg")).expect("the clip");
        let start = find(&clip, &[0xff, 0xd8]).expect("a first frame");
        let end = start + find(&clip[start..], &[0xff, 0xd9]).expect("its end") + 2;
        self.file("frame.jpg", &clip[start..end])
    }

    /// A file of the road.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }
}

impl Default for Road {
    fn default() -> Self {
        Self::new()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The interpreter for host-side tools: `PYTHON`, else `python3`.
pub fn python() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| "python3".into())
}

/// A process of the test itself; ended with the guard.
#[derive(Debug)]
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Runs a command to its end; one that hangs is ended after a minute and fails the test.
    ///
    /// # Panics
    /// If it hangs.
    pub fn of(command: &mut Command) -> Self {
        let mut bounded = Command::new("timeout");
        bounded.args(["-k", "2", "60"]).arg(command.get_program()).args(command.get_args());
        bounded.env("COLUMNS", "200").stdin(Stdio::null());
        if let Some(dir) = command.get_current_dir() {
            bounded.current_dir(dir);
        }
        let output = bounded.output().expect("timeout of coreutils");
        let code = output.status.code().unwrap_or(-1);
        assert!(code != 124 && code != 137, "{command:?} hangs");
        Self {
            code,
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It failed with exit code 1, and said all of these words.
    ///
    /// # Panics
    /// If it did not.
    pub fn refused(&self, words: &[&str]) {
        assert_eq!(self.code, 1, "should have been refused: {self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is missing in {:?}", self.err);
        }
    }

    /// It succeeded.
    ///
    /// # Panics
    /// If it did not.
    pub fn done(&self) -> &Self {
        assert_eq!(self.code, 0, "failed: {self:?}");
        self
    }
}

/// The independent ledger of effects.
#[derive(Debug)]
pub struct Ledger {
    process: Child,
    port: u16,
    lines: PathBuf,
}

impl Ledger {
    fn start(road: &Road, watched: Option<u32>) -> Self {
        let lines = road.path().join("effects.log");
        let mut command = Command::new(python());
        command
            .arg(root().join("scripts/ledger.py"))
            .args(["--effects".as_ref(), lines.as_os_str()])
            .args(["--summary".as_ref(), road.path().join("ledger.json").as_os_str()]);
        if let Some(id) = watched {
            command.args(["--multicast", &road.group, "--port", &road.port.to_string()]);
            command.args(["--watch", &format!("{id:X}"), "--frames"]).arg(road.path().join("frames.log"));
            command.env("PYTHONPATH", road.programs.material("pylib"));
        }
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("scripts/ledger.py");
        let mut first = String::new();
        BufReader::new(process.stdout.take().expect("its output")).read_line(&mut first).expect("its port");
        let port = first.trim().parse().expect("its port");
        Self { process, port, lines }
    }

    /// The task ids of all effects so far, in order of arrival.
    pub fn tasks(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.lines).unwrap_or_default();
        text.lines()
            .map(|line| {
                let task = line.split(' ').find_map(|word| word.strip_prefix("task="));
                task.unwrap_or_else(|| panic!("an effect without a task: {line}")).to_owned()
            })
            .collect()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.process.wait();
    }
}
