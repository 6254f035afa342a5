//! A node under test: described in a few words, started as real processes, asked by the real command line, and
//! gone without a trace at the end.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;

use crate::app::App;
use crate::console::Console;
use crate::leaks::{Marks, command_line, tree};
use crate::road::{Road, Said};
use crate::root;
use crate::wait::{until, within};

/// How long a node may take to end in order.
const DOWN: std::time::Duration = std::time::Duration::from_secs(30);

/// A node that is not started yet.
#[derive(Debug)]
pub struct NodeBuilder<'a> {
    road: &'a Road,
    id: String,
    uid_base: u32,
    user: Option<u32>,
    unenforceable: &'static str,
    disk: Option<&'static str>,
    sections: Vec<String>,
    tenants: Vec<(String, String)>,
}

impl<'a> NodeBuilder<'a> {
    pub(crate) fn new(road: &'a Road, id: String, uid_base: u32) -> Self {
        let everything = "signals = [\"Vehicle.**\"], tasks = [\"lane\", \"toll\"], \
                          cameras = [{ id = \"front\", fps = 10 }]";
        let tenants = vec![("oem".into(), everything.into())];
        Self {
            road,
            id,
            uid_base,
            user: None,
            unenforceable: "refuse",
            disk: None,
            sections: Vec::new(),
            tenants,
        }
    }

    /// With the bus of the road.
    #[must_use]
    pub fn with_bus(self) -> Self {
        let can = root().join("can-bridge/dbc/verge-demo");
        let mut node = self.with_bus_of(&can.with_extension("dbc"));
        if let Some(bus) = node.sections.last_mut() {
            *bus += &format!("mapping = \"{}.vss.json\"\n", can.display());
        }
        node
    }

    /// With the bus of the road, described by this DBC file alone.
    #[must_use]
    pub fn with_bus_of(mut self, dbc: &Path) -> Self {
        let Road { group, port, .. } = self.road;
        self.sections.push(format!(
            "[[bus]]\nname = \"can0\"\nkind = \"multicast\"\ngroup = \"{group}\"\nport = {port}\ndbc = \"{}\"\n",
            dbc.display(),
        ));
        self
    }

    /// With the bus of the road, on which this app may put frames of this id, a few a second.
    #[must_use]
    pub fn with_bus_open_to(self, app: &str, id: u32) -> Self {
        let mut node = self.with_bus();
        if let Some(bus) = node.sections.last_mut() {
            *bus += &format!("tx = [{{ app = \"{app}\", id = {id}, rate_per_s = 20 }}]\n");
        }
        node
    }

    /// With the clip as its camera `front`.
    #[must_use]
    pub fn with_camera(mut self) -> Self {
        let clip = self.road.programs.material("clip/street.mjpeg");
        self.sections
            .push(format!("[[camera]]\nid = \"front\"\nsource = \"file:{}\"\nfps = 10\n", clip.display()));
        self
    }

    /// Listening for its car on this port, with certificates of the road's own authority.
    #[must_use]
    pub fn listening(self, port: u16) -> Self {
        self.in_realm("car", "", port)
    }

    /// Listening in a zone outside on this port, which is what the process `link` is for.
    #[must_use]
    pub fn with_link(self, port: u16) -> Self {
        self.in_realm("outside", "zone = \"a10\"\n", port)
    }

    fn in_realm(mut self, realm: &str, more: &str, port: u16) -> Self {
        let authority = self.road.path().join(realm);
        let dir = authority.to_string_lossy().into_owned();
        if !authority.is_dir() {
            self.road.run(&["pki", "authority", &dir, "--realm", realm]);
        }
        self.road.run(&["pki", "node", &dir, &self.id]);
        self.sections.push(format!(
            "[{realm}]\n{more}listen = [\"tls/127.0.0.1:{port}\"]\nca = \"{dir}/ca.pem\"\ncert = \"{dir}/{id}.pem\"\nkey = \"{dir}/{id}.key.pem\"\n",
            id = self.id
        ));
        self
    }

    /// Another tenant, with what policy allows it, in TOML.
    #[must_use]
    pub fn allowing(mut self, tenant: &str, allow: &str) -> Self {
        self.tenants.retain(|(other, _)| other != tenant);
        self.tenants.push((tenant.into(), allow.into()));
        self
    }

    /// As an ordinary user, who has this uid.
    #[must_use]
    pub fn as_user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// Limits that cannot be enforced are dropped, visibly.
    #[must_use]
    pub fn degrading(mut self) -> Self {
        self.unenforceable = "degrade";
        self
    }

    /// With a state directory on a disk of this size (as `mount` words it), which goes with the node.
    #[must_use]
    pub fn with_disk_of(mut self, size: &'static str) -> Self {
        self.disk = Some(size);
        self
    }

    /// The path of the file, written.
    fn write(&self, dir: &Path) -> PathBuf {
        let mut text = format!(
            "apiVersion = \"verge/v1\"\n\n[node]\nid = \"{id}\"\ncar = \"{id}\"\nrun_dir = \"{dir}/run\"\n\
             state_dir = \"{dir}/state\"\nrecord = true\n\n[host]\ntrusted_keys = [\"{root}/dev.pub.pem\"]\n\
             uid_base = {uid}\nuid_count = 1000\nunenforceable = \"{unenforceable}\"\n\n\
             [capacity]\ncores = 2\nmemory = \"1Gi\"\n\n",
            id = self.id,
            dir = dir.display(),
            root = self.road.path().display(),
            uid = self.uid_base,
            unenforceable = self.unenforceable,
        );
        if let Some(port) = self.road.effects() {
            text += &format!("[effects]\nserver = \"127.0.0.1:{port}\"\n\n");
        }
        for section in &self.sections {
            text += &format!("{section}\n");
        }
        for (tenant, allow) in &self.tenants {
            text += &format!(
                "[[policy.tenants]]\ntenant = \"{tenant}\"\nbest_class = \"driving\"\nallow = {{ {allow} }}\n\n"
            );
        }
        let path = dir.join("node.toml");
        fs::write(&path, text).expect("node.toml");
        path
    }

    /// Starts it and waits until it answers.
    pub fn start(self) -> NodeUnderTest<'a> {
        let mut node = self.ready();
        node.start_again();
        node
    }

    /// Starts it and waits until its log holds these words.
    pub fn start_waiting_for(self, words: &str) -> NodeUnderTest<'a> {
        let mut node = self.ready();
        node.spawn();
        until(&format!("the node says {words:?}"), || node.host_log().contains(words).then_some(()));
        node
    }

    fn ready(self) -> NodeUnderTest<'a> {
        let dir = self.road.path().join(&self.id);
        fs::create_dir_all(&dir).expect("a directory");
        let config = self.write(&dir);
        if let Some(uid) = self.user {
            std::os::unix::fs::chown(&dir, Some(uid), Some(uid)).expect("a directory of the user's own");
        }
        let uids = self.user.map_or(self.uid_base..self.uid_base + 1000, |uid| uid..uid + 1);
        let marks = Marks { id: self.id.clone(), dir: dir.clone(), uids };
        let (user, disk) = (self.user, self.disk);
        NodeUnderTest { road: self.road, id: self.id, dir, config, user, disk, host: None, marks }
    }
}

/// A node that runs, or ran.
#[derive(Debug)]
pub struct NodeUnderTest<'a> {
    road: &'a Road,
    /// Its id.
    pub id: String,
    dir: PathBuf,
    config: PathBuf,
    user: Option<u32>,
    disk: Option<&'static str>,
    host: Option<Child>,
    marks: Marks,
}

impl NodeUnderTest<'_> {
    fn command(&self) -> Command {
        let host = self.road.host();
        let mut command = match (self.user, self.disk) {
            (None, None) => Command::new(host),
            (None, Some(size)) => {
                let mut command = Command::new("unshare");
                let script =
                    "mkdir -p state && mount -t tmpfs -o mode=755,size=$0 tmpfs state && exec \"$@\"";
                command.args(["--mount", "sh", "-c", script, size]).arg(host);
                command
            }
            (Some(uid), _) => {
                let mut command = Command::new("setpriv");
                let uid = uid.to_string();
                command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]).arg(host);
                command
            }
        };
        command.arg("--config").arg(&self.config).arg("--verge").arg(self.road.programs.program("verge"));
        command.current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    /// Starts `verge-host` (again) and waits until the node answers.
    pub fn start_again(&mut self) {
        self.spawn();
        until("the node answers", || {
            let ended = self.host.as_mut().and_then(|host| host.try_wait().ok()).flatten();
            assert!(ended.is_none(), "verge-host ended at once ({ended:?}): {}", self.host_log());
            (self.verge(&["get", "nodes"]).code == 0).then_some(())
        });
    }

    fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("host.log"));
        let log = log.expect("a log");
        let mut command = self.command();
        command.env("RUST_LOG", "warn").stdout(log.try_clone().expect("a log")).stderr(log);
        self.host = Some(command.process_group(0).spawn().expect("verge-host"));
    }

    /// Starts a second `verge-host` on the same file; returns what it said when it ended.
    pub fn second(&self) -> Said {
        Said::of(&mut self.command())
    }

    /// What host and the processes of the node wrote.
    pub fn host_log(&self) -> String {
        fs::read_to_string(self.dir.join("host.log")).unwrap_or_default()
    }

    /// Runs `verge` at this node.
    pub fn verge(&self, arguments: &[&str]) -> Said {
        self.console().verge(arguments)
    }

    /// Its command line, for whoever must not hold the node itself.
    pub fn console(&self) -> Console {
        Console { program: self.road.programs.program("verge"), socket: self.socket() }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/control.sock")
    }

    /// Runs `verge ... -o json` at this node, which must succeed.
    pub fn json(&self, arguments: &[&str]) -> Json {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let said = self.verge(&all);
        serde_json::from_str(&said.done().out)
            .unwrap_or_else(|e| panic!("{all:?} is not JSON ({e}): {said:?}"))
    }

    /// Applies an app, signed with the key that the node trusts.
    pub fn apply(&self, app: &App) -> Said {
        self.apply_signed(app, "dev")
    }

    /// Applies an app, signed with another key of the road.
    pub fn apply_signed(&self, app: &App, key: &str) -> Said {
        self.apply_with(app, key, &[])
    }

    /// Applies an app, signed with a key of the road, with further arguments.
    pub fn apply_with(&self, app: &App, key: &str, more: &[&str]) -> Said {
        let manifest = self.road.manifest(app);
        let (private, _) = self.road.key(key);
        let arguments = ["apply", "-f", &manifest.to_string_lossy(), "--key", &private.to_string_lossy()];
        self.verge(&[&arguments, more].concat())
    }

    /// Applies an app and waits until it runs.
    pub fn run(&self, app: &App) {
        self.apply(app).done();
        self.wait_state(&app.full_name(), "running");
    }

    /// Applies functions of the material, and waits until they are ready.
    pub fn serve(&self, functions: &[(&str, &str)]) {
        let mut text = String::from("apiVersion: verge/v1\nfunctions:\n");
        for (name, effect) in functions {
            let module = self.road.programs.material(&format!("wasm/{name}.wasm"));
            text += &format!(
                "  {name}: {{tenant: oem, bundle: {}, effect: {effect}, service_time: 15ms, memory: 32Mi}}\n",
                module.display()
            );
        }
        let manifest = self.road.file("functions.yaml", text);
        let (private, _) = self.road.key("dev");
        self.verge(&["apply", "-f", &manifest.to_string_lossy(), "--key", &private.to_string_lossy()]).done();
        until("all functions are ready", || {
            let rows = self.json(&["get", "functions"]);
            let ready = rows.as_array()?.iter().filter(|row| row["state"] == "ready").count();
            (ready == functions.len()).then_some(())
        });
    }

    /// The row of one app in `verge get apps`; null if there is none.
    pub fn app(&self, name: &str) -> Json {
        let rows = self.json(&["get", "apps"]);
        let found = rows.as_array().and_then(|rows| rows.iter().find(|row| row["app"] == name));
        found.cloned().unwrap_or_default()
    }

    /// Waits until the app is in this state.
    pub fn wait_state(&self, name: &str, state: &str) -> Json {
        let mut last = Json::Null;
        let what = format!("{name} is {state}");
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(&what, || {
                last = self.app(name);
                (last["state"] == state).then(|| last.clone())
            })
        }))
        .unwrap_or_else(|_| panic!("waited in vain until {what}; last seen: {last}; {:?}", self.log(name)))
    }

    /// The last lines that an app printed.
    pub fn log(&self, name: &str) -> Vec<String> {
        self.verge(&["logs", name, "-n", "1000"]).out.lines().map(str::to_owned).collect()
    }

    /// The last line of an app that is JSON and holds this key.
    pub fn told(&self, name: &str, key: &str) -> Option<Json> {
        let lines = self.log(name);
        lines
            .iter()
            .rev()
            .filter_map(|line| serde_json::from_str(line).ok())
            .find(|j: &Json| !j[key].is_null())
    }

    /// Waits until the last JSON line of an app that holds `key` is as wanted; returns it.
    pub fn wait_told(&self, name: &str, key: &str, wanted: impl Fn(&Json) -> bool) -> Json {
        let mut last = None;
        let what = format!("{name} tells {key:?} as wanted");
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(&what, || {
                last = self.told(name, key);
                last.clone().filter(|json| wanted(json))
            })
        }))
        .unwrap_or_else(|_| panic!("waited in vain until {what}; last told: {last:?}; {:?}", self.tail(name)))
    }

    fn tail(&self, name: &str) -> Vec<String> {
        let lines = self.log(name);
        lines[lines.len().saturating_sub(8)..].to_vec()
    }

    /// The process of a face (`node`, `bus`, `border-oem`), if there is exactly one.
    pub fn face(&self, name: &str) -> Option<Pid> {
        let faces = self.faces();
        let mut ours = faces.iter().filter(|(_, face)| face == name);
        ours.next().filter(|_| ours.next().is_none()).map(|(pid, _)| *pid)
    }

    /// All processes of faces below this node's host, with their names.
    pub fn faces(&self) -> Vec<(Pid, String)> {
        let below = self.pid().map(tree).unwrap_or_default();
        let face = |pid: Pid| match command_line(pid).as_slice() {
            [_, word, name] if word == "face" => Some((pid, name.clone())),
            _ => None,
        };
        below.into_iter().filter_map(face).collect()
    }

    /// Kills a face with SIGKILL and waits until another process has its place.
    pub fn kill_face(&self, name: &str) {
        let old = until(&format!("there is a face {name}"), || self.face(name));
        kill(old, Signal::SIGKILL).expect("SIGKILL");
        until(&format!("face {name} is back"), || self.face(name).filter(|new| *new != old));
        until("the node answers again", || (self.verge(&["get", "nodes"]).code == 0).then_some(()));
    }

    /// Process id of its host.
    pub fn pid(&self) -> Option<Pid> {
        self.host.as_ref().and_then(|host| i32::try_from(host.id()).ok()).map(Pid::from_raw)
    }

    /// SIGKILL for `verge-host` alone.
    pub fn kill_host(&mut self) {
        if let Some(mut host) = self.host.take() {
            host.kill().expect("SIGKILL");
            host.wait().expect("its end");
        }
    }

    /// Its recording of this life (the first is 1).
    pub fn recording(&self, life: u32) -> PathBuf {
        self.dir.join(format!("state/node/record-{life}.vrec"))
    }

    /// What it has left, or still has.
    pub fn traces(&self) -> Vec<String> {
        self.marks.found()
    }

    /// SIGTERM; it must end with exit code 0 and leave nothing behind.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(mut self) {
        let status = self.terminate().expect("it runs");
        assert!(status.success(), "verge-host ended with {status}: {}", self.host_log());
        // What the kernel still takes down a moment after the last wait is not left behind.
        let mut left = Vec::new();
        let gone = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            within(std::time::Duration::from_secs(3), "nothing is left", || {
                left = self.traces();
                left.is_empty().then_some(())
            });
        }));
        assert!(gone.is_ok(), "left behind:\n{}", left.join("\n"));
        assert!(!self.socket().exists(), "the control socket is left");
    }

    fn terminate(&mut self) -> Option<ExitStatus> {
        let pid = self.pid()?;
        let mut host = self.host.take()?;
        kill(pid, Signal::SIGTERM).ok()?;
        within(DOWN, "verge-host ends", || host.try_wait().ok().flatten()).into()
    }
}

impl Drop for NodeUnderTest<'_> {
    fn drop(&mut self) {
        if let Some(mut host) = self.host.take() {
            // Only a test that failed comes here with a host; what it left must not disturb the next one.
            let _ = host.kill();
            let _ = host.wait();
        }
        self.marks.sweep();
        if std::thread::panicking() {
            let log = self.host_log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- host.log of {} ---\n{}",
                self.id,
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
    }
}
