//! The road of the demo: which nodes there are, their files, their processes.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bus::Buses;
use super::leaks;
use super::script::{Halt, Stop};
use crate::cli::Failure;

/// Longest time that a node may take from start to its control socket, on a slow machine.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// Longest time that a node may take to end in order.
const DOWN_WITHIN: Duration = Duration::from_secs(15);

/// CPU pressure below which the gateway gives back what it took, in thousandths, in real time.
pub(super) const CPU_FALL: u16 = 200;

/// One node of the road.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Node id.
    pub(super) id: &'static str,
    /// Car id.
    pub(super) car: &'static str,
    /// `obu` or `edge`.
    pub(super) role: &'static str,
    /// Whether it has a bus.
    pub(super) bus: bool,
    /// Whether it has the dashcam.
    pub(super) camera: bool,
    /// Whether its policy lets it answer calls from the roadside.
    pub(super) answers: bool,
}

/// Car A's gateway, its second OBU, car B, the roadside edge element.
pub(super) const PLACES: [Place; 4] = [
    Place { id: "a1", car: "car-a", role: "obu", bus: true, camera: true, answers: true },
    Place { id: "a2", car: "car-a", role: "obu", bus: false, camera: false, answers: false },
    Place { id: "b1", car: "car-b", role: "obu", bus: true, camera: false, answers: false },
    Place { id: "e1", car: "roadside-1", role: "edge", bus: false, camera: false, answers: false },
];

/// Everything that the files of the road depend on.
#[derive(Debug)]
pub(super) struct Plan {
    /// Directory of this run.
    pub(super) root: PathBuf,
    /// Prepared material.
    pub(super) material: PathBuf,
    /// DBC and mapping of the drive.
    pub(super) dbc: PathBuf,
    /// VSS mapping of the drive.
    pub(super) mapping: PathBuf,
    /// Port of the effect server.
    pub(super) effects: u16,
    /// Ports: car A's realm, the roadside's.
    pub(super) ports: [u16; 2],
    /// The buses of car A and car B.
    pub(super) buses: Buses,
    /// How many times slower than real time everything runs.
    pub(super) time_scale: u32,
    /// Seed of the node's jitter.
    pub(super) seed: u64,
    /// Whether limits that cannot be enforced degrade instead of being refused.
    pub(super) degrade: bool,
}

/// A loopback port that was free a moment ago.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Plan {
    /// Directory of one node.
    pub(super) fn dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Control socket of one node.
    pub(super) fn socket(&self, id: &str) -> PathBuf {
        self.dir(id).join("run/control.sock")
    }

    /// Writes the configuration file of one node.
    pub(super) fn write(&self, place: &Place) -> io::Result<PathBuf> {
        let dir = self.dir(place.id);
        fs::create_dir_all(&dir)?;
        // State and log of an earlier run; what it left running is host's to find and end.
        for old in ["state", "host.log"] {
            let old = dir.join(old);
            let _ = fs::remove_dir_all(&old).or_else(|_| fs::remove_file(&old));
        }
        let path = dir.join("node.toml");
        fs::write(&path, self.file(place))?;
        Ok(path)
    }

    fn file(&self, place: &Place) -> String {
        let mut text = self.head(place);
        if place.id == "a1" {
            // The gateway spares the car's battery: what may be done at the roadside is done there.
            text += "[placement]\nweights = { energy = 4000 }\n\n";
            // Four nodes share one small machine here: it is pressed sooner than a board of its own would be.
            // An emulated one is pressed all the time.
            let cpu = if self.time_scale == 1 {
                format!("raise = 330, fall = {CPU_FALL}")
            } else {
                "raise = 850, fall = 700".into()
            };
            text += &format!("[ladder]\ncpu = {{ {cpu} }}\ndescend_after = \"3s\"\n\n");
        }
        // Wrong on purpose, all the time: deduplication and fence have to stand it.
        text += "[faults]\nrepeat_runs = true\nrepeat_effects = true\n\n";
        if place.car == "car-a" {
            text += &self.car_realm(place);
        }
        if place.id != "a2" {
            text += &self.outside_realm(place);
        }
        if place.bus {
            text += &self.bus(place);
        }
        if place.camera {
            let clip = self.material.join("clip/street.mjpeg");
            text +=
                &format!("[[camera]]\nid = \"front\"\nsource = \"file:{}\"\nfps = 10\n\n", clip.display());
        }
        text + &policy(place)
    }

    fn head(&self, place: &Place) -> String {
        let index = PLACES.iter().position(|p| p == place).unwrap_or(0) as u32;
        let dir = self.dir(place.id);
        format!(
            "apiVersion = \"verge/v1\"\n\n[node]\nid = \"{id}\"\ncar = \"{car}\"\nrole = \"{role}\"\n\
             run_dir = \"{dir}/run\"\nstate_dir = \"{dir}/state\"\nrecord = true\ntime_scale = {time_scale}\n\n\
             [host]\ntrusted_keys = [\"{root}/keys/dev.pub.pem\"]\nuid_base = {uid}\nuid_count = 10000\n\
             unenforceable = \"{unenforceable}\"\nbases = {{ {bases} }}\n\n[capacity]\ncores = 2\nmemory = \"1Gi\"\nseed = {seed}\n\n\
             [effects]\nserver = \"127.0.0.1:{effects}\"\n\n",
            id = place.id,
            car = place.car,
            role = place.role,
            time_scale = self.time_scale,
            dir = dir.display(),
            root = self.root.display(),
            uid = 200_000 + index * 10_000,
            unenforceable = if self.degrade { "degrade" } else { "refuse" },
            bases = self.bases(),
            seed = self.seed,
            effects = self.effects,
        )
    }

    /// The Python base by name, so that an app of one's own can say `base: python`.
    fn bases(&self) -> String {
        let layout = obu_host::bundle::layout::Layout::open(&self.root.join("bundles/python"));
        let digest = layout.ok().and_then(|layout| layout.indexed().ok());
        digest.map(|digest| format!("python = \"{digest}\"")).unwrap_or_default()
    }

    fn keys(&self, authority: &str, id: &str) -> String {
        let keys = self.root.join("keys");
        format!(
            "ca = \"{keys}/{authority}/ca.pem\"\ncert = \"{keys}/{authority}/{id}.pem\"\nkey = \"{keys}/{authority}/{id}.key.pem\"\n\n",
            keys = keys.display()
        )
    }

    fn car_realm(&self, place: &Place) -> String {
        let port = self.ports[0];
        let end = if place.id == "a1" { "listen" } else { "connect" };
        format!("[car]\n{end} = [\"tls/127.0.0.1:{port}\"]\n") + &self.keys("car-a", place.id)
    }

    fn outside_realm(&self, place: &Place) -> String {
        let port = self.ports[1];
        let end = if place.role == "edge" { "listen" } else { "connect" };
        format!("[outside]\nzone = \"a10\"\n{end} = [\"tls/127.0.0.1:{port}\"]\n")
            + &self.keys("outside", place.id)
    }

    fn bus(&self, place: &Place) -> String {
        let kind = self.buses.section(usize::from(place.id != "a1"));
        format!(
            "[[bus]]\nname = \"can0\"\n{kind}dbc = \"{}\"\nmapping = \"{}\"\n\n",
            self.dbc.display(),
            self.mapping.display()
        )
    }
}

/// What the policy of each node says: grants by tenant, what leaves the car, which calls are answered.
fn policy(place: &Place) -> String {
    let answers = if place.answers { "\"road-sample\"" } else { "" };
    let exports = if place.car == "car-a" {
        "[[policy.exports]]\nid = \"vision-offload\"\ntasks = [\"lane\", \"toll\"]\n\n\
         [[policy.exports]]\nid = \"road-weather\"\n\
         signals = [\"Vehicle.Exterior.*\", \"Vehicle.CurrentLocation.*\", \"Vehicle.Speed\", \"Vehicle.Acceleration.*\"]\n\n"
    } else {
        ""
    };
    format!(
        "[policy]\nanswer_calls = [{answers}]\n\n{exports}\
         [[policy.tenants]]\ntenant = \"oem\"\nbest_class = \"critical\"\n\
         allow = {{ signals = [\"Vehicle.**\"], cameras = [{{ id = \"front\", fps = 10 }}], tasks = [\"lane\", \"toll\", \"road-sample\"] }}\n\n\
         [[policy.tenants]]\ntenant = \"default\"\nbest_class = \"driving\"\n\
         allow = {{ signals = [\"Vehicle.**\"], cameras = [{{ id = \"front\", fps = 10 }}], tasks = [\"lane\", \"toll\", \"weigh\", \"road-sample\"] }}\n\n\
         [[policy.tenants]]\ntenant = \"guest\"\nbest_class = \"background\"\n\
         allow = {{ signals = [\"Vehicle.Speed\"] }}\n"
    )
}

/// A running node: verge-host and, below it, everything else.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// Starts `verge-host` in a process group of its own; its output goes to a file of the run.
    pub(super) fn start(place: Place, config: PathBuf, host: &Path, verge: &Path) -> io::Result<Self> {
        let log = config.with_file_name("host.log");
        let mut node = Self { place, config, log, child: None };
        node.restart(host, verge)?;
        Ok(node)
    }

    /// Starts it (again).
    pub(super) fn restart(&mut self, host: &Path, verge: &Path) -> io::Result<()> {
        use std::os::unix::process::CommandExt as _;
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = Command::new(host)
            .arg("--config")
            .arg(&self.config)
            .arg("--verge")
            .arg(verge)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// Process id of its host.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw)
    }

    /// All processes below its host, host first, by their parents.
    pub(super) fn tree(&self) -> Vec<Pid> {
        let Some(root) = self.pid() else { return Vec::new() };
        let mut tree = vec![root];
        let mut next = 0;
        while next < tree.len() {
            tree.extend(children(tree[next]));
            next += 1;
        }
        tree
    }

    /// Sends a signal to every process of the node, as a power cut or a hang of the whole board would.
    pub(super) fn signal_all(&self, signal: Signal) {
        for pid in self.tree() {
            // A process that ended a moment ago cannot be signalled; that is what was wanted.
            let _ = kill(pid, signal);
        }
    }

    /// Waits until the control socket answers, `time_scale` times as long as on a real machine.
    pub(super) fn wait_up(&mut self, socket: &Path, time_scale: u32, stop: &Stop) -> Result<(), Halt> {
        let until = Instant::now() + UP_WITHIN * time_scale;
        while Instant::now() < until {
            if std::os::unix::net::UnixStream::connect(socket).is_ok() {
                return Ok(());
            }
            if stop.load(Ordering::SeqCst) {
                return Err(Halt::Interrupted);
            }
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().ok()).flatten() {
                return Err(self.failed(&format!("ended at once ({status})")).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(self.failed("did not open its control socket").into())
    }

    fn failed(&self, why: &str) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(12).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Failure::new(format!("node {} {why}; the end of its log:\n{}", self.place.id, tail.join("\n")))
    }

    /// SIGTERM, then SIGKILL if it does not end.
    ///
    /// # Errors
    /// How else it ended than in order.
    pub(super) fn stop(&mut self, time_scale: u32) -> Result<(), String> {
        // It may stand still, if somebody ended the demo just then.
        self.signal_all(Signal::SIGCONT);
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Ok(pid) = i32::try_from(child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let (id, wait) = (self.place.id, DOWN_WITHIN * time_scale);
        let until = Instant::now() + wait;
        while Instant::now() < until {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("{id}: {status}")),
                Err(error) => return Err(format!("{id}: {error}")),
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(format!("{id}: killed, it had not ended {wait:?} after SIGTERM"))
    }

    /// Takes note that the node was killed from outside.
    pub(super) fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

/// Children of a process, as the kernel lists them.
fn children(pid: Pid) -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<i32>>())
        .map(Pid::from_raw)
        .collect()
}

/// Ends what a killed run left running: programs that were started with a path of the run's own directory.
/// Hosts end their faces and apps in order.
pub(super) fn end_leftovers(root: &Path) {
    let until = Instant::now() + DOWN_WITHIN;
    let mut signal = Signal::SIGTERM;
    loop {
        let left = of_run(root);
        if left.is_empty() {
            return;
        }
        for pid in &left {
            // One that stands still ends only after it was continued.
            let _ = kill(*pid, Signal::SIGCONT);
            let _ = kill(*pid, signal);
        }
        if Instant::now() > until {
            if signal == Signal::SIGKILL {
                return;
            }
            signal = Signal::SIGKILL;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Our programs whose arguments name a file of the run's directory, this one left out.
fn of_run(root: &Path) -> Vec<Pid> {
    let root = root.to_string_lossy();
    let own = Pid::this();
    let names_it = |pid: &Pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        leaks::is_of_run(&String::from_utf8_lossy(&words), &root)
    };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    pids.filter(|pid| *pid != own).filter(names_it).collect()
}
