//! The course of the demo: what is started when, which faults come when, and what must be seen.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use policies::host::AppRef;
use policies::id::{AppName, TenantId};
use policies::signal::SignalPattern;

use super::bus::Buses;
use super::drive::Drive;
use super::road::{self, Node, PLACES, Plan};
use super::summary::Findings;
use super::tally::Tally;
use super::{DemoArgs, ledger::Ledger, once, prepare, recordings};
use crate::cli::{Failure, line};

/// How long the demo waits for a task at the roadside after it came back.
const USED_AGAIN_WITHIN_S: f64 = 20.0;

/// Set by Ctrl-C, SIGTERM and the end of the terminal.
pub(super) type Stop = Arc<AtomicBool>;

/// Why the course of the demo ends early.
#[derive(Debug)]
pub(super) enum Halt {
    /// Somebody asked for it.
    Interrupted,
    /// It cannot go on.
    Failed(Failure),
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Listens for signals from now on.
pub(super) fn on_signals() -> Result<Stop, Failure> {
    let stop = Stop::default();
    let set = stop.clone();
    std::thread::spawn(move || {
        crate::cli::block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut int), Ok(mut term), Ok(mut hangup)) = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
                signal(SignalKind::hangup()),
            ) else {
                return;
            };
            loop {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hangup.recv() => {} }
                set.store(true, Ordering::SeqCst);
            }
        });
    });
    Ok(stop)
}

/// When things happen, seconds after the road is up. Drawn from the seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    pub(super) hostile: f64,
    pub(super) hostile_ends: f64,
    pub(super) edge_dies: f64,
    pub(super) sibling_freezes: f64,
    pub(super) sibling_thaws: f64,
    pub(super) edge_returns: f64,
    pub(super) call: f64,
    pub(super) end: f64,
}

impl Timeline {
    fn new(seed: u64, time_scale: u32) -> Self {
        // SplitMix64: eight numbers are drawn, once; a crate for that would be more to read.
        let mut state = seed;
        let mut jitter = |most_ms: u64| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            Duration::from_millis((z ^ (z >> 31)) % most_ms).as_secs_f64()
        };
        let by = f64::from(time_scale);
        Self {
            hostile: by * (9.0 + jitter(1000)),
            hostile_ends: by * (38.0 + jitter(1000)),
            edge_dies: by * (46.0 + jitter(2000)),
            sibling_freezes: by * (54.0 + jitter(2000)),
            sibling_thaws: by * (61.0 + jitter(1500)),
            edge_returns: by * (66.0 + jitter(1500)),
            call: by * (76.0 + jitter(1000)),
            end: by * 81.0,
        }
    }
}

/// When the faults really came: a moment of the timeline is the earliest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    pub(super) edge_died: f64,
    pub(super) sibling_froze: f64,
    pub(super) sibling_thawed: f64,
    pub(super) edge_returned: f64,
}

/// The road in motion.
pub(super) struct Road<'a> {
    pub(super) plan: &'a Plan,
    pub(super) nodes: Vec<Node>,
    pub(super) players: Vec<Child>,
    pub(super) tally: Tally,
    pub(super) findings: Findings,
    pub(super) stop: &'a Stop,
    pub(super) host: PathBuf,
    pub(super) verge: PathBuf,
    pub(super) t0: f64,
    /// Until when the console has shown the road.
    pub(super) shown: Cell<f64>,
    /// Frames that the gateway read, at the last look.
    pub(super) frames_in: u64,
}

/// Plays the demo to its end, or to Ctrl-C.
pub(super) fn play(
    args: &DemoArgs,
    root: &Path,
    drive: &Drive,
    seed: u64,
    stop: &Stop,
) -> Result<Findings, Halt> {
    let material = super::absolute(&args.material)?;
    let buses = Buses::make([free_port()?, free_port()?]);
    let mut ledger = Ledger::start(root, &args.project, &material, &buses.ledger_words())?;
    let plan = Plan {
        root: root.to_owned(),
        material,
        dbc: drive.dbc.clone(),
        mapping: drive.mapping.clone(),
        effects: ledger.port,
        ports: [free_port()?, free_port()?],
        buses,
        time_scale: args.time_scale,
        seed,
        degrade: !nix::unistd::geteuid().is_root(),
    };
    let mut road = Road {
        plan: &plan,
        nodes: Vec::new(),
        players: Vec::new(),
        tally: Tally::new(),
        findings: Findings::default(),
        stop,
        host: crate::cli::host_binary()?,
        verge: std::env::current_exe().map_err(|e| Failure::new(format!("cannot find myself: {e}")))?,
        t0: 0.0,
        shown: Cell::new(0.0),
        frames_in: 0,
    };
    let result = road.go(args, drive, seed);
    if args.keep && result.is_ok() {
        road.keep();
    }
    if result.is_ok() {
        road.look();
    }
    road.close();
    let booked = ledger.end()?;
    result?;
    road.judge(&booked);
    road.judge_repeats();
    road.replay();
    Ok(road.findings)
}

fn free_port() -> Result<u16, Failure> {
    road::free_port().map_err(|e| Failure::new(format!("no free loopback port: {e}")))
}

impl Road<'_> {
    fn go(&mut self, args: &DemoArgs, drive: &Drive, seed: u64) -> Result<(), Halt> {
        line("keys, certificates, bundles (Ed25519-signed), node files");
        prepare::keys(self.plan)?;
        self.may_go_on()?;
        let bundles = prepare::bundles(self.plan, &args.project)?;
        self.start_nodes()?;
        self.knock(&args.project)?;
        self.start_apps(&bundles)?;
        self.refuse_stranger(&bundles)?;
        self.start_drive(drive)?;
        self.t0 = self.tally.at();
        self.shown.set(self.t0);
        let times = Timeline::new(seed, self.plan.time_scale);
        line(format!(
            "faults: roadside killed at {:.1} s, back at {:.1} s; sibling frozen at {:.1} s, thawed at {:.1} s",
            times.edge_dies, times.edge_returns, times.sibling_freezes, times.sibling_thaws
        ));
        self.until(times.hostile)?;
        self.hostile(&bundles, &times)?;
        self.faults(&times)?;
        self.until(times.call)?;
        self.call();
        self.until(times.end)
    }

    /// Nothing, until somebody asks for the end.
    pub(super) fn may_go_on(&self) -> Result<(), Halt> {
        if self.stop.load(Ordering::SeqCst) { Err(Halt::Interrupted) } else { Ok(()) }
    }

    /// The recordings of all nodes.
    pub(super) fn recordings(&self) -> Vec<PathBuf> {
        PLACES.iter().flat_map(|place| recordings::files(&self.plan.dir(place.id))).collect()
    }

    pub(super) fn socket(&self, id: &str) -> PathBuf {
        self.plan.socket(id)
    }

    fn start_nodes(&mut self) -> Result<(), Halt> {
        line("the road: car A with gateway a1 and second OBU a2, car B with b1, roadside element e1");
        // The roadside and the gateway listen; the others dial. Order only shortens the first seconds.
        for id in ["e1", "a1", "a2", "b1"] {
            let place = PLACES.into_iter().find(|p| p.id == id).expect("PLACES names all four");
            let config = self.plan.write(&place).map_err(|e| Failure::new(format!("node {id}: {e}")))?;
            let node = Node::start(place, config, &self.host, &self.verge)
                .map_err(|e| Failure::new(format!("cannot start node {id}: {e}")))?;
            self.nodes.push(node);
        }
        for node in &mut self.nodes {
            let id = node.place.id;
            node.wait_up(&self.plan.socket(id), self.plan.time_scale, self.stop)?;
            self.tally.follow(id, self.plan.socket(id));
        }
        line(format!("all four are up after {:.1} s", self.tally.at()));
        Ok(())
    }

    fn start_apps(&mut self, bundles: &prepare::Bundles) -> Result<(), Halt> {
        for id in ["a1", "a2", "e1", "b1"] {
            let functions = if id == "a1" { &bundles.gateway } else { &bundles.functions };
            prepare::apply(&self.socket(id), functions, &bundles.key)?;
        }
        prepare::apply(&self.socket("a1"), &bundles.apps, &bundles.key)?;
        for app in ["speedometer", "dashcam", "surround", "heartbeat", "tollgate"] {
            self.tally.follow_log(self.socket("a1"), app_ref("oem", app));
        }
        self.wait_for("apps of car A run", 40.0, |road| {
            let apps = prepare::view(&road.socket("a1"), crate::control::View::Apps);
            apps.as_array().is_some_and(|apps| {
                apps.len() >= 5 && apps.iter().all(|app| app["state"].as_str() == Some("running"))
            })
        })?;
        self.wait_for("car A sees its sibling and the roadside", 20.0, |road| {
            let nodes = prepare::view(&road.socket("a1"), crate::control::View::Nodes).to_string();
            nodes.contains("\"a2\"") && nodes.contains("\"e1\"")
        })
    }

    fn start_drive(&mut self, drive: &Drive) -> Result<(), Failure> {
        line(format!("the drive: {}", drive.log.display()));
        for car in 0..2 {
            let player = Command::new(&self.verge)
                .args(["can", "replay", "--loop"])
                .args(self.plan.buses.replay_words(car))
                .args(["--speed", &(1.0 / f64::from(self.plan.time_scale)).to_string()])
                .arg(&drive.log)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .map_err(|e| Failure::new(format!("cannot start the drive: {e}")))?;
            self.players.push(player);
        }
        Ok(())
    }

    /// This moment, on the timeline.
    fn now(&self) -> f64 {
        self.tally.at() - self.t0
    }

    /// Waits for a moment of the timeline, showing the road once a second.
    fn until(&self, at: f64) -> Result<(), Halt> {
        while self.now() < at {
            self.may_go_on()?;
            std::thread::sleep(Duration::from_millis(50));
            let shown = self.shown.get();
            if self.tally.at() - shown >= 1.0 {
                super::console::second(&self.tally, shown, self.t0, &self.socket("a1"));
                self.shown.set(shown + 1.0);
            }
        }
        Ok(())
    }

    pub(super) fn wait_for(&self, what: &str, secs: f64, ready: impl Fn(&Self) -> bool) -> Result<(), Halt> {
        let secs = secs * f64::from(self.plan.time_scale);
        let until = Instant::now() + Duration::from_secs_f64(secs);
        while Instant::now() < until {
            self.may_go_on()?;
            if ready(self) {
                line(format!("{what} ({:.1} s)", self.tally.at()));
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let apps = prepare::view(&self.socket("a1"), crate::control::View::Apps);
        let what = format!("not within {secs} s: {what}; apps: {apps}");
        Err(Failure::new(what).fix(format!("look at the logs in {}", self.plan.root.display())).into())
    }

    fn hostile(&mut self, bundles: &prepare::Bundles, times: &Timeline) -> Result<(), Halt> {
        line("a hostile app arrives in the background class");
        prepare::apply(&self.socket("a1"), &bundles.hostile, &bundles.key)?;
        for app in ["hostile", "radio"] {
            self.tally.follow_log(self.socket("a1"), app_ref("guest", app));
        }
        self.until(times.hostile_ends)?;
        self.contained(times);
        line("the hostile app is taken away");
        Ok(prepare::delete(&self.socket("a1"), app_ref("guest", "hostile"))?)
    }

    fn node(&mut self, id: &str) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.place.id == id).expect("PLACES names all four")
    }

    fn faults(&mut self, times: &Timeline) -> Result<(), Halt> {
        self.until(times.edge_dies)?;
        line("** the roadside is killed (SIGKILL to all its processes)");
        self.node("e1").signal_all(Signal::SIGKILL);
        self.node("e1").reap();
        let edge_died = self.now();
        self.until(times.sibling_freezes)?;
        self.weigh_at_sibling()?;
        line("** the sibling is frozen (SIGSTOP to all its processes)");
        self.node("a2").signal_all(Signal::SIGSTOP);
        let sibling_froze = self.now();
        self.until(
            times.sibling_thaws.max(sibling_froze + once::STANDSTILL_S * f64::from(self.plan.time_scale)),
        )?;
        line("** the sibling is thawed");
        let sibling_thawed = self.now();
        self.node("a2").signal_all(Signal::SIGCONT);
        self.until(times.edge_returns)?;
        line("** the roadside comes back");
        let edge_returned = self.now();
        let (host, verge) = (self.host.clone(), self.verge.clone());
        self.node("e1").restart(&host, &verge).map_err(|e| Failure::new(format!("node e1: {e}")))?;
        let socket = self.socket("e1");
        let time_scale = self.plan.time_scale;
        let stop = self.stop.clone();
        self.node("e1").wait_up(&socket, time_scale, &stop)?;
        self.tally.follow("e1", socket);
        self.until(times.call - 1.0)?;
        let moments = Moments { edge_died, sibling_froze, sibling_thawed, edge_returned };
        self.used_again(&moments)?;
        self.fault_costs(&moments);
        Ok(())
    }

    /// The roadside is used again sooner or later: at once here, after a while on an emulated machine that is pressed.
    fn used_again(&mut self, moments: &Moments) -> Result<(), Halt> {
        let latest = self.now() + USED_AGAIN_WITHIN_S * f64::from(self.plan.time_scale);
        while self.done_at("e1", moments.edge_returned, f64::MAX) == 0 && self.now() < latest {
            self.until(self.now() + 1.0)?;
        }
        Ok(())
    }

    /// Tasks done at a node in that time of the timeline.
    pub(super) fn done_at(&self, node: &str, from: f64, to: f64) -> usize {
        let is_one = |t: &&super::tally::Task| {
            t.outcome == "done" && t.node == node && (from..to).contains(&(t.at - self.t0))
        };
        self.tally.with(|counts| counts.tasks.iter().filter(is_one).count())
    }

    fn call(&mut self) {
        // A recorded drive may know nothing of the weather; every one knows how fast the traffic moves.
        let weather =
            SignalPattern::new("Vehicle.Exterior.*").map(|p| crate::control::View::Signals(vec![p]));
        let known = weather.is_ok_and(|view| {
            prepare::view(&self.socket("a1"), view).as_array().is_some_and(|rows| !rows.is_empty())
        });
        let want = if known { "road_temperature" } else { "traffic_speed" };
        line(format!("the roadside calls for {want} in its zone"));
        let called = prepare::call(&self.socket("e1"), want);
        let (ok, seen) = match called {
            // Both were asked, or silence would be no answer.
            Ok(json) => {
                (json["answered"] == serde_json::json!(["a1"]) && json["asked"] == 2, json.to_string())
            }
            Err(error) => (false, error.to_string()),
        };
        self.findings.check(9, "car A answers, car B stays silent", ok, seen);
    }

    fn keep(&self) {
        line("the drive goes on; Ctrl-C ends it and prints the table. In another terminal:");
        line(format!("  export VERGE_SOCKET={}", self.socket("a1").display()));
        line(format!("  export VERGE_KEY={}", self.plan.root.join("keys/dev.key.pem").display()));
        line(format!("  {} get apps", self.verge.display()));
        self.stop.store(false, Ordering::SeqCst);
        while !self.stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn close(&mut self) {
        for player in &mut self.players {
            let _ = player.kill();
            let _ = player.wait();
        }
        self.players.clear();
        let mut nodes = std::mem::take(&mut self.nodes);
        let time_scale = self.plan.time_scale;
        let ends: Vec<_> = std::thread::scope(|scope| {
            let stops: Vec<_> = nodes.iter_mut().map(|node| scope.spawn(|| node.stop(time_scale))).collect();
            stops.into_iter().map(|stop| stop.join().unwrap_or_else(|_| Err("not known".into()))).collect()
        });
        let wrong: Vec<_> = ends.into_iter().filter_map(Result::err).collect();
        self.findings.check(
            11,
            "nodes end in order when they are told to",
            wrong.is_empty(),
            wrong.join("; "),
        );
    }
}

pub(super) fn app_ref(tenant: &str, app: &str) -> AppRef {
    AppRef { tenant: TenantId::new(tenant).expect("a literal"), app: AppName::new(app).expect("a literal") }
}
