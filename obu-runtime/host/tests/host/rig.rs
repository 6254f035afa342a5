//! Runs a real `verge-host` with the test in the place of node: the test sends commands and reads events.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use obu_host::bundle;
use obu_host::channel::receive_from_host;
use policies::face::{Attachment, FromHost, ToHost};
use policies::host::{AppRef, HostCommand, HostEvent, StartApp};
use policies::id::{AppName, Digest, TenantId};
use policies::manifest::Resources;
use policies::task::Class;
use policies::wire::{Kind, decode, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of the longest packet that the stand-in passes on.
const STAND_IN_PACKET_LEN: usize = 1 << 20;

/// A running host and the test's end of node's channel.
pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    pub(crate) node: String,
    listener: OwnedFd,
    socket: Option<OwnedFd>,
    host: Option<Child>,
    pub(crate) events: VecDeque<HostEvent>,
    pub(crate) attached: Vec<(Attachment, OwnedFd)>,
    key: PathBuf,
    user: Option<u32>,
    next_instance: u64,
}

/// Whether a test cannot run because the user is not root. Says so in the words that `scripts/test.sh` counts, past the
/// harness that swallows the output of passing tests.
pub(crate) fn needs_root() -> bool {
    let missing = !rustix::process::geteuid().is_root();
    if missing {
        let thread = std::thread::current();
        // Without a standard error there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {}: needs root", thread.name().unwrap_or("a test"));
    }
    missing
}

pub(crate) fn app(name: &str) -> AppRef {
    AppRef { tenant: TenantId::new("oem").unwrap(), app: AppName::new(name).unwrap() }
}

fn wait_readable(fd: &OwnedFd, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)).unwrap() > 0
}

/// Reads `fd` until `wanted` has come, and returns all of it.
pub(crate) fn read_until(fd: &OwnedFd, wanted: &str) -> String {
    let (mut text, until) = (String::new(), Instant::now() + PATIENCE);
    while !text.contains(wanted) {
        assert!(wait_readable(fd, until), "waited for {wanted:?}, got {text:?}");
        let mut bytes = [0u8; 4096];
        let len = rustix::io::read(fd, &mut bytes).unwrap_or(0);
        assert!(len > 0, "ended before {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&bytes[..len]));
    }
    text
}

impl Rig {
    /// Starts a host as whoever runs the test; `extra` is appended to the configuration.
    pub(crate) fn start(extra: &str) -> Self {
        Self::start_as(None, &[], extra)
    }

    /// As [`Self::start`], with files beside the configuration.
    pub(crate) fn start_with_files(files: &[(&str, &str)], extra: &str) -> Self {
        Self::start_as(None, files, extra)
    }

    /// As [`Self::start`], as another user if the test is root.
    pub(crate) fn start_as(user: Option<u32>, files: &[(&str, &str)], extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let unique = dir.path().file_name().unwrap().to_string_lossy().to_lowercase();
        let unique: String = unique.chars().filter(char::is_ascii_alphanumeric).collect();
        let node = format!("t{unique}");
        let key = dir.path().join("dev.pem");
        bundle::key::generate(&key, &dir.path().join("dev.pub.pem")).unwrap();
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new_abstract_name(unique.as_bytes()).unwrap()).unwrap();
        rustix::net::listen(&listener, 4).unwrap();
        let config = format!(
            "apiVersion = \"verge/v1\"\n[node]\nid = \"{node}\"\ncar = \"car-a\"\nrun_dir = \"run\"\nstate_dir = \"state\"\n\
             [policy]\ntest_socket = \"{unique}\"\n[host]\ntrusted_keys = [\"dev.pub.pem\"]\n{extra}"
        );
        fs::write(dir.path().join("node.toml"), config).unwrap();
        if let Some(user) = user {
            for path in [dir.path().to_owned(), dir.path().join("node.toml"), dir.path().join("dev.pub.pem")]
            {
                std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
            }
        }
        let mut rig = Self {
            dir,
            node,
            listener,
            socket: None,
            host: None,
            events: VecDeque::new(),
            attached: Vec::new(),
            key,
            user,
            next_instance: 1,
        };
        rig.start_host();
        rig
    }

    /// Starts (or starts again) the host and waits until its node has called.
    pub(crate) fn start_host(&mut self) {
        self.events.clear();
        self.attached.clear();
        let programs = Path::new(env!("CARGO_BIN_EXE_verge-host"));
        let stand_in = Path::new(env!("CARGO_BIN_EXE_verge-host-stand-in")).to_owned();
        let (programs, stand_in) = self.programs(programs, &stand_in);
        let mut command = Command::new(programs);
        command.arg("--config").arg(self.dir.path().join("node.toml")).arg("--verge").arg(stand_in);
        if let Some(user) = self.user {
            use std::os::unix::process::CommandExt;
            command.uid(user).gid(user);
        }
        self.host = Some(command.stdin(Stdio::null()).spawn().unwrap());
        self.accept();
    }

    /// Starts another host on the same configuration, which must not work.
    pub(crate) fn try_second_host(&self) -> std::process::Output {
        let program = env!("CARGO_BIN_EXE_verge-host");
        let mut command = Command::new(program);
        command.arg("--config").arg(self.dir.path().join("node.toml"));
        command.arg("--verge").arg(env!("CARGO_BIN_EXE_verge-host-stand-in")).output().unwrap()
    }

    /// Copies of the programs that any user can run.
    fn programs(&self, host: &Path, stand_in: &Path) -> (PathBuf, PathBuf) {
        if self.user.is_none() {
            return (host.to_owned(), stand_in.to_owned());
        }
        let copy = |from: &Path| {
            let to = self.dir.path().join(from.file_name().unwrap());
            if !to.exists() {
                fs::copy(from, &to).unwrap();
            }
            to
        };
        (copy(host), copy(stand_in))
    }

    /// Waits for the (next) node to call.
    pub(crate) fn accept(&mut self) {
        assert!(wait_readable(&self.listener, Instant::now() + PATIENCE), "no node called");
        let socket = rustix::net::accept(&self.listener).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, STAND_IN_PACKET_LEN).unwrap();
        self.socket = Some(socket);
    }

    /// The longest packet that the kernel takes from us and from the stand-in.
    pub(crate) fn longest(&self) -> usize {
        let buffer = rustix::net::sockopt::socket_send_buffer_size(self.socket.as_ref().unwrap()).unwrap();
        // The kernel keeps something of it for itself.
        (buffer - 4096).min(STAND_IN_PACKET_LEN)
    }

    /// Lets node die.
    pub(crate) fn kill_node(&mut self) {
        self.socket = None;
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.host.as_ref().unwrap())
    }

    /// SIGKILL to host, as the worst that can happen.
    pub(crate) fn kill_host(&mut self) {
        let mut host = self.host.take().unwrap();
        host.kill().unwrap();
        host.wait().unwrap();
        self.socket = None;
    }

    /// Tells host to end, and waits until it has.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        let _ = rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM);
        self.join()
    }

    /// Waits until host has ended.
    pub(crate) fn join(&mut self) -> std::process::ExitStatus {
        let mut host = self.host.take().unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = host.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > until {
                host.kill().unwrap();
                host.wait().unwrap();
                panic!("host did not end");
            }
            // Its channel has to be drained, or its node could not end.
            self.read_one(Instant::now() + Duration::from_millis(20));
        }
    }

    /// Sends any bytes as one message. While there is no room, it reads: the other side may be waiting to be read.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        while let Err(error) = rustix::net::send(self.socket.as_ref().unwrap(), bytes, flags) {
            assert_eq!(error, rustix::io::Errno::AGAIN, "sending {} bytes", bytes.len());
            self.read_one(Instant::now() + Duration::from_millis(10));
        }
    }

    pub(crate) fn send(&mut self, command: HostCommand) {
        let frame = encode(Kind::Face, &ToHost::Command(command)).unwrap();
        self.send_raw(&frame);
    }

    fn read_one(&mut self, until: Instant) -> bool {
        let Some(socket) = &self.socket else { return false };
        if !wait_readable(socket, until) {
            return false;
        }
        let mut buffer = Vec::new();
        let Ok(Some((len, descriptor))) = receive_from_host(socket.as_fd(), &mut buffer) else {
            self.socket = None;
            return false;
        };
        let frame = &buffer[..len];
        if frame[3] == Kind::HostEvent as u8 {
            self.events.push_back(decode(Kind::HostEvent, frame).unwrap());
        } else if let (FromHost::Attach(what), Some(descriptor)) =
            (decode(Kind::Face, frame).unwrap(), descriptor)
        {
            self.attached.push((what, descriptor));
        }
        true
    }

    /// Takes in what was said before the end.
    pub(crate) fn drain(&mut self) {
        while self.read_one(Instant::now()) {}
    }

    /// Waits for the event that `pick` picks; others stay for later.
    pub(crate) fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(&HostEvent) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.events.iter().position(|event| pick(event).is_some()) {
                let event = self.events.remove(at).unwrap();
                return pick(&event).unwrap();
            }
            assert!(self.read_one(until), "waited for {what}; have {:#?}", self.events);
        }
    }

    /// Waits for an attachment and takes it.
    pub(crate) fn attachment(&mut self, wanted: &Attachment) -> OwnedFd {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.attached.iter().position(|(what, _)| what == wanted) {
                return self.attached.remove(at).1;
            }
            assert!(self.read_one(until), "waited for {wanted:?}; have {:?}", self.attached);
        }
    }

    /// Builds, signs and imports a bundle of this directory.
    pub(crate) fn import(&mut self, source: &Path) -> Digest {
        let out = self.dir.path().join("layout");
        let _ = fs::remove_dir_all(&out);
        let digest = bundle::build(source, &out).unwrap();
        bundle::sign(&out, &bundle::key::private(&self.key).unwrap()).unwrap();
        let place = self.dir.path().join("state/spool").join(digest.hex());
        let _ = fs::remove_dir_all(&place);
        assert!(Command::new("cp").arg("-r").arg(&out).arg(&place).status().unwrap().success());
        if let Some(user) = self.user {
            assert!(
                Command::new("chown").arg("-R").arg(user.to_string()).arg(&place).status().unwrap().success()
            );
        }
        self.send(HostCommand::Import { bundle: digest });
        self.wait("the import", |event| match event {
            HostEvent::Imported { bundle, .. } if *bundle == digest => Some(()),
            HostEvent::ImportRefused { refusal, .. } => panic!("{refusal}"),
            _ => None,
        });
        digest
    }

    /// Compiles and imports the test app.
    pub(crate) fn import_app(&mut self) -> Digest {
        let source = self.dir.path().join("app");
        fs::create_dir_all(&source).unwrap();
        let code = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/app.c");
        let done = Command::new("cc")
            .args(["-static", "-O1", "-w", "-o"])
            .arg(source.join("app"))
            .arg(code)
            .status();
        assert!(done.unwrap().success(), "a C compiler that links statically is needed");
        self.import(&source)
    }

    /// A start command for the test app.
    pub(crate) fn start_app(&mut self, name: &str, bundle: Digest, arguments: &[&str]) -> StartApp {
        let instance = self.next_instance;
        self.next_instance += 1;
        let command =
            std::iter::once("/app/app").chain(arguments.iter().copied()).map(str::to_owned).collect();
        StartApp {
            app: app(name),
            instance,
            bundle,
            base: None,
            command,
            env: vec![],
            class: Class::Comfort,
            resources: Resources::default(),
            island: false,
        }
    }

    /// Starts an app and waits until it runs; returns what confines it, its log, and the microseconds it took.
    pub(crate) fn run(&mut self, start: StartApp) -> (Vec<policies::host::Enforced>, OwnedFd, u64) {
        let name = start.app.clone();
        self.send(HostCommand::Start(start));
        let (enforced, took) = self.wait("the start", |event| match event {
            HostEvent::Started { app, enforced, took_us, .. } if *app == name => {
                Some((enforced.clone(), *took_us))
            }
            HostEvent::StartFailed { app, refusal, .. } if *app == name => panic!("{refusal:?}"),
            _ => None,
        });
        (enforced, self.attachment(&Attachment::Log(name)), took)
    }

    /// Waits until an app has ended.
    pub(crate) fn exit(&mut self, name: &AppRef) -> policies::host::Exit {
        self.wait("the exit", |event| match event {
            HostEvent::Exited { app, exit, .. } if app == name => Some(*exit),
            _ => None,
        })
    }

    /// Namespaces that host holds by a descriptor, such as `net:[4026532465]`.
    pub(crate) fn namespaces_of_host(&self) -> BTreeSet<String> {
        namespaces_held(&format!("/proc/{}/fd", self.pid().as_raw_nonzero())).collect()
    }

    /// Processes that hold one of these namespaces by a descriptor or live in it.
    /// Only those among `family` and forks of this host count: the kernel gives the number of a namespace that is gone
    /// to the next one, which may be another test's.
    pub(crate) fn holders(&self, namespaces: &BTreeSet<String>, family: &[String]) -> Vec<String> {
        let is_holder = |process: &String| {
            ["fd", "ns"].iter().any(|dir| {
                namespaces_held(&format!("/proc/{process}/{dir}")).any(|held| namespaces.contains(&held))
            })
        };
        let config = self.dir.path().join("node.toml");
        let is_ours = |process: &String| {
            let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            let is_fork =
                words.split(|byte| *byte == 0).any(|word| word == config.as_os_str().as_encoded_bytes());
            is_fork || family.contains(process)
        };
        processes().filter(is_ours).filter(is_holder).collect()
    }

    /// The host's process and those below it, now.
    pub(crate) fn family(&self) -> Vec<String> {
        let mut family = vec![self.pid().as_raw_nonzero().to_string()];
        let mut next = 0;
        while next < family.len() {
            let is_child = |process: &String| {
                let parent = process.parse().ok().and_then(|pid| obu_host::procfs::status_field(pid, "PPid"));
                parent.is_some_and(|parent| parent == family[next])
            };
            let children: Vec<_> = processes().filter(is_child).collect();
            family.extend(children);
            next += 1;
        }
        family
    }

    /// What these processes are called.
    pub(crate) fn describe(&self, processes: &[String]) -> Vec<String> {
        let name = |pid: &String| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        processes.iter().map(name).collect()
    }

    /// The pids of a running app of class comfort, its init among them, by its cgroup.
    pub(crate) fn pids_of(&self, name: &AppRef) -> Vec<i32> {
        let group = self.cgroups()[0].join(format!("comfort/{}/{}", name.tenant, name.app));
        let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        procs.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Every cgroup folder on this machine that carries this node's name.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let name = format!("verge-{}", self.node);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let points =
            mounts.lines().filter(|line| line.contains(" cgroup")).filter_map(|line| line.split(' ').nth(1));
        points.map(|point| Path::new(point).join(&name)).filter(|path| path.exists()).collect()
    }
}

/// What the links of this directory of /proc say, as far as they are namespaces.
fn namespaces_held(dir: &str) -> impl Iterator<Item = String> {
    let links = fs::read_dir(dir).into_iter().flatten().flatten();
    let read = links.filter_map(|link| fs::read_link(link.path()).ok()?.to_str().map(str::to_owned));
    read.filter(|link| {
        ["user:[", "net:[", "ipc:[", "uts:[", "mnt:["].iter().any(|kind| link.starts_with(kind))
    })
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut host) = self.host.take() {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_child(&host),
                rustix::process::Signal::TERM,
            );
            self.socket = None;
            let _ = host.wait();
        }
    }
}

/// All processes of this machine, by number.
fn processes() -> impl Iterator<Item = String> {
    let names =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}
