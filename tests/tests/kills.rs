//! Kills: whichever process of a node dies at whatever moment, the node answers again and has kept its word.
//!
//! ```text
//!   traffic (a thread) --- task run, apply, delete ---> node <--- SIGKILL --- the test
//!          |                                             |
//!          +--> Word: what was acknowledged <-- compare -+-- get apps, the ledger
//! ```
//! `VERGE_KILLS` says how many kills (`make soak`: 1000), `VERGE_KILLS_SEED` repeats their order and moments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value as Json;
use sim::chance::Chance;
use tests::app::App;
use tests::console::Console;
use tests::needs;
use tests::node::NodeUnderTest;
use tests::road::{Ledger, Road, free_port, material, programs, superuser};
use tests::wait::until;

/// Every process of a node that has all of them.
const PROCESSES: [&str; 7] = ["host", "node", "bus", "camera", "link", "border-oem", "worker-oem"];

/// Kills if nobody says how many: each process twice.
const KILLS: u64 = 14;

/// Latest moment of a kill, milliseconds after the process before was back: some are killed while others still begin.
const MOMENT_MS_MAX: u64 = 400;

/// Apps that come and go.
const APPS: usize = 4;

/// Tasks between two changes of what runs.
const TASKS: usize = 3;

/// What is known of one app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kept {
    /// Changes that were asked for.
    changes: u64,
    /// Whether it is kept; unknown while a change is under way, and after one whose answer was lost.
    here: Option<bool>,
}

/// What the node has acknowledged.
#[derive(Clone, Debug, Default)]
struct Word {
    apps: BTreeMap<String, Kept>,
    /// Changes that were acknowledged.
    changes: usize,
    /// Tasks that were reported as done.
    done: Vec<String>,
    /// Tasks that were reported as over without an effect.
    nothing: Vec<String>,
}

fn locked(word: &Mutex<Word>) -> MutexGuard<'_, Word> {
    word.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody who works with the node, whatever dies meanwhile.
#[derive(Debug)]
struct Traffic<'a> {
    console: Console,
    key: PathBuf,
    passage: PathBuf,
    /// Names and manifests.
    apps: Vec<(String, PathBuf)>,
    word: &'a Mutex<Word>,
}

impl<'a> Traffic<'a> {
    fn new(road: &Road, console: Console, word: &'a Mutex<Word>) -> Self {
        let passage = road.file("passage.json", r#"{"gantry": "A10-7", "plate_hash": "9f86d081"}"#);
        let app = |number| App::heartbeat().named(&format!("kept-{number}"));
        let apps = (0..APPS).map(app).map(|app| (app.full_name(), road.manifest(&app))).collect();
        Self { console, key: road.key("dev").0, passage, apps, word }
    }

    fn flow(&self, mut chance: Chance, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            (0..TASKS).for_each(|_| self.task());
            self.change(&mut chance);
        }
    }

    fn task(&self) {
        let passage = self.passage.to_string_lossy();
        let said = self.console.verge(&["task", "run", "toll", "-i", &passage, "-d", "2s", "-o", "json"]);
        // Whoever dies before it has answered has claimed nothing.
        let Ok(outcome) = serde_json::from_str::<Json>(&said.out) else { return self.wait() };
        let Some(task) = outcome["task"].as_str().map(str::to_owned) else { return self.wait() };
        let mut word = locked(self.word);
        match outcome["outcome"].as_str() {
            Some("done") => word.done.push(task),
            Some("indeterminate") => {}
            _ => word.nothing.push(task),
        }
    }

    fn change(&self, chance: &mut Chance) {
        let (app, manifest) = &self.apps[chance.index(self.apps.len())];
        let coin = chance.index(2) == 0;
        let was = self.asked(app);
        let delete = was == Some(true) && coin;
        let (manifest, key) = (manifest.to_string_lossy(), self.key.to_string_lossy());
        let said = match delete {
            true => self.console.verge(&["delete", app]),
            false => self.console.verge(&["apply", "-f", &manifest, "--key", &key]),
        };
        if said.code != 0 {
            return self.wait();
        }
        let mut word = locked(self.word);
        word.changes += 1;
        word.apps.entry(app.clone()).or_default().here = Some(!delete);
    }

    /// A change of the app is on its way; returns what was known of it.
    fn asked(&self, app: &str) -> Option<bool> {
        let mut word = locked(self.word);
        let kept = word.apps.entry(app.to_owned()).or_default();
        kept.changes += 1;
        kept.here.take()
    }

    fn wait(&self) {
        until("the node answers its users", || {
            (self.console.verge(&["get", "nodes"]).code == 0).then_some(())
        });
    }
}

/// Tells the traffic to stop, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The node serves: from now on a task is done, and a change is made.
fn serves(word: &Mutex<Word>) {
    let count = || {
        let word = locked(word);
        (word.done.len(), word.changes)
    };
    let (done, changes) = count();
    until("a task is done and a change is made", || {
        let now = count();
        (now.0 > done && now.1 > changes).then_some(())
    });
}

/// What was acknowledged is so: no app came or went by itself, every effect is in the ledger, none of them twice.
fn word_is_kept(node: &NodeUnderTest<'_>, ledger: &Ledger, word: &Mutex<Word>) {
    let before = locked(word).clone();
    let rows = node.json(&["get", "apps"]);
    let after = locked(word).apps.clone();
    let names: BTreeSet<&str> =
        rows.as_array().into_iter().flatten().filter_map(|row| row["app"].as_str()).collect();
    assert!(names.contains("oem/heartbeat"), "the first app is gone: {rows}");
    for (app, kept) in &before.apps {
        // What was changed while we looked is looked at the next time.
        if let (Some(here), true) = (kept.here, after.get(app) == Some(kept)) {
            let was = if here { "applied" } else { "deleted" };
            assert_eq!(
                names.contains(app.as_str()),
                here,
                "{app} was {was}, and that was acknowledged: {rows}"
            );
        }
    }
    let lines = ledger.tasks();
    let effects: BTreeSet<&String> = lines.iter().collect();
    assert_eq!(effects.len(), lines.len(), "an effect happened twice: {:?}", twice(&lines));
    assert_eq!(twice(&before.done), BTreeSet::new(), "two tasks had one id");
    let lost: Vec<_> = before.done.iter().filter(|task| !effects.contains(task)).collect();
    assert!(lost.is_empty(), "reported as done, but not in the ledger: {lost:?}");
    let wrong: Vec<_> = before.nothing.iter().filter(|task| effects.contains(task)).collect();
    assert!(wrong.is_empty(), "reported as over without an effect, but in the ledger: {wrong:?}");
}

fn twice(tasks: &[String]) -> BTreeSet<&String> {
    let mut seen = BTreeSet::new();
    tasks.iter().filter(|task| !seen.insert(*task)).collect()
}

/// All processes, in an order of chance.
fn shuffled(chance: &mut Chance) -> Vec<&'static str> {
    let mut left = PROCESSES.to_vec();
    (0..left.len()).map(|_| left.swap_remove(chance.index(left.len()))).collect()
}

fn kill_all(
    node: &mut NodeUnderTest<'_>,
    ledger: &Ledger,
    word: &Mutex<Word>,
    kills: u64,
    mut chance: Chance,
) {
    let mut victims = Vec::new();
    for number in 1..=kills {
        if victims.is_empty() {
            serves(word);
            victims = shuffled(&mut chance);
        }
        let victim = victims.pop().expect("a victim");
        let moment = Duration::from_millis(chance.below(MOMENT_MS_MAX));
        eprintln!("kill {number} of {kills}: {victim}, {} ms after the last", moment.as_millis());
        // Nothing is waited for: this is the moment that the seed has drawn.
        std::thread::sleep(moment);
        if victim == "host" {
            node.kill_host();
            node.start_again();
        } else {
            node.kill_face(victim);
        }
        word_is_kept(node, ledger, word);
    }
    serves(word);
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| u64::from(since.subsec_micros()))
}

// tests: P1-22
#[test]
fn whatever_is_killed_at_whatever_moment_a_node_keeps_its_word() {
    let name = "whatever_is_killed_at_whatever_moment_a_node_keeps_its_word";
    needs!(name, programs(), superuser(), material(&["wasm/toll.wasm", "apps/heartbeat", "clip"]));
    let kills = setting("VERGE_KILLS").unwrap_or(KILLS);
    let seed = setting("VERGE_KILLS_SEED").unwrap_or_else(fresh_seed);
    eprintln!("{kills} kills, seed {seed} (repeat with VERGE_KILLS={kills} VERGE_KILLS_SEED={seed})");
    let mut road = Road::new();
    let ledger = road.ledger();
    let mut node = road.node().with_bus().with_camera().with_link(free_port()).start();
    node.serve(&[("toll", "once")]);
    node.run(&App::heartbeat().granted("signals: [Vehicle.Speed]"));
    let (word, stop) = (Mutex::new(Word::default()), AtomicBool::new(false));
    let traffic = Traffic::new(&road, node.console(), &word);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| traffic.flow(Chance::new(seed, "traffic"), &stop));
        kill_all(&mut node, &ledger, &word, kills, Chance::new(seed, "kills"));
    });
    word_is_kept(&node, &ledger, &word);
    let apps = locked(&word).apps.clone();
    let here = apps.iter().filter(|(_, kept)| kept.here == Some(true)).map(|(app, _)| app.as_str());
    for app in here.chain(["oem/heartbeat"]) {
        node.wait_state(app, "running");
    }
    node.stop();
}
