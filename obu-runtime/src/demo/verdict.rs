//! What must be seen on the road, and what was seen: the checks behind the summary's table.

use std::time::{Duration, Instant};

use super::prepare;
use super::road::PLACES;
use super::script::{Moments, Road, Timeline, app_ref};
use super::summary;
use super::tally::{Notice, ms, quantile, sorted};

/// What the ladder's decisions call the class of the hostile app.
const HOSTILE_CLASS: &str = "class background";

/// Share of the seconds under load in which the critical app must have beaten.
const BEATS: f64 = 0.8;

/// Latest that it may wake up in the median second under load: it does so every 10 ms, and three beats in a row
/// must not be lost.
const BEAT_LATE_US: u64 = 30_000;

/// Longest time without any task done that still counts as going on.
const GAP_S: f64 = 2.0;

/// Share of the frames that the ledger heard which the gateway must have read. It is asked first.
const HEARD: f64 = 0.95;

/// Who must hear whom.
const HEARERS: [(&str, &[&str]); 4] =
    [("a1", &["a2", "e1"]), ("a2", &["a1"]), ("b1", &["e1"]), ("e1", &["a1", "b1"])];

/// How long that may take at the end of the demo.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Share of the frames that the gateway read which the ledger must have heard until its later end.
const BOOKED: f64 = 0.95;

/// The apps that the gateway must be running at the end.
const APPS: [(&str, &str); 6] = [
    ("guest", "radio"),
    ("oem", "dashcam"),
    ("oem", "heartbeat"),
    ("oem", "speedometer"),
    ("oem", "surround"),
    ("oem", "tollgate"),
];

impl Road<'_> {
    /// Whether an app is there with all that must confine it. Whether a frozen class was thawed in time is a check of its
    /// own.
    fn runs_confined(&self, app: &serde_json::Value) -> bool {
        matches!(app["state"].as_str(), Some("running" | "frozen"))
            && super::console::confined(app, self.plan.degrade)
    }

    /// What became of the hostile app, in the kernel's figures and in its own words.
    pub(super) fn contained(&mut self, times: &Timeline) {
        let hostile = self.app(&app_ref("guest", "hostile"));
        self.findings.check(
            7,
            "hostile app is still confined",
            self.runs_confined(&hostile),
            super::console::limits(&hostile),
        );
        let said = self.tally.with(|c| c.lines.get("hostile").cloned().unwrap_or_default());
        // On a machine that is busy anyway it is frozen before it comes to its worst.
        let frozen = self.first_notice("freeze");
        let not_reached = frozen.as_ref().map_or(summary::NOT_REACHED.to_owned(), |n| {
            format!(
                "{}: frozen {:.1} s before ({})",
                summary::NOT_REACHED,
                times.hostile_ends + self.t0 - n.at,
                n.why
            )
        });
        let step = |name: &str| {
            let line = said.iter().map(|(_, l)| l.as_str()).find(|l| l.contains(name));
            line.map_or(not_reached.clone(), str::to_owned)
        };
        let stood = |good: bool, seen: &str| good || (frozen.is_some() && seen == not_reached);
        for (name, good) in [
            ("subscribe **", "\"keys\": [\"vss/Vehicle/Speed\"]"),
            ("liveliness **", "\"count\": 0"),
            ("queryable vss/**", "\"queries\": 0"),
            ("frame can/can0/tx", "not granted to this app"),
            ("fork bomb", "\"refused\": \""),
        ] {
            let seen = step(name);
            self.findings.check(7, &format!("contained: {name}"), stood(seen.contains(good), &seen), seen);
        }
        self.shown_to_others();
        let memory = step("\"hostile\": \"memory\"");
        self.findings.check(
            7,
            "contained: memory",
            stood(memory.contains("killed") || memory.contains("refused"), &memory),
            memory,
        );
        self.latency(times);
        self.ladder();
    }

    /// There was something to find: the speedometer declares a token, and its questions are answered.
    fn shown_to_others(&mut self) {
        let lines = self.tally.with(|c| c.lines.get("speedometer").cloned().unwrap_or_default());
        let token = lines.iter().find(|(_, line)| line.contains("token "));
        let known = lines.last().and_then(|(_, line)| line.rsplit_once("last values known: "));
        let known = known.and_then(|(_, n)| n.trim().parse::<u64>().ok()).unwrap_or(0);
        let token = token.map_or("no token", |(_, line)| line.as_str());
        let good = token != "no token" && known > 0;
        let seen = format!("{token}; {known} last values known to it");
        self.findings.check(7, "a neighbour declares and asks", good, seen);
    }

    pub(super) fn latency(&mut self, times: &Timeline) {
        let worst = |from: f64, to: f64| {
            let to = to.max(from);
            let lines = self.tally.with(|c| c.lines.get("heartbeat").cloned().unwrap_or_default());
            let p99 = lines
                .iter()
                .filter(|(at, _)| (from..to).contains(&(at - self.t0)))
                .filter_map(|(_, l)| serde_json::from_str::<serde_json::Value>(l).ok()?["p99_us"].as_u64());
            let p99 = sorted(p99);
            (p99.len(), quantile(&p99, 500))
        };
        let (n, before) = worst(0.0, times.hostile);
        let (m, during) = worst(times.hostile + 2.0, times.hostile_ends);
        // It reports once a second of its own time, and has nothing to report in a second in which it did not run.
        let seconds = times.hostile_ends - times.hostile - 2.0;
        let kept = m as f64 >= BEATS * seconds.floor() && n > 0;
        let late = BEAT_LATE_US * u64::from(self.plan.time_scale);
        self.findings.check(
            7,
            "the critical app keeps its beat",
            kept && during < late,
            format!(
                "it beat in {m} of {seconds:.0} s; wake-up p99 (median of seconds): {} ms before, {} ms during",
                ms(before),
                ms(during)
            ),
        );
    }

    /// The gateway's first notice of a kind about the class of the hostile app.
    fn first_notice(&self, kind: &str) -> Option<Notice> {
        let is_it = |n: &&Notice| n.kind == kind && n.node == "a1" && n.about == HOSTILE_CLASS;
        self.tally.with(|c| c.notices.iter().find(is_it).cloned())
    }

    pub(super) fn ladder(&mut self) {
        let mut before = f64::MIN;
        for kind in ["squeeze", "freeze"] {
            let first = self.first_notice(kind);
            let seen = first.as_ref().map_or("none".into(), |n| format!("{}: {}", n.about, n.why));
            let in_order = first.as_ref().is_some_and(|n| n.at >= before);
            self.findings.check(7, &format!("under load: {kind}"), in_order, seen);
            before = first.map_or(before, |n| n.at);
        }
    }

    /// The innocent app of the class that was frozen: silent until the thaw, and heard after it.
    fn thawed(&mut self, stats: &serde_json::Value) {
        let (frozen, thaw, last) = self.tally.with(|c| {
            let of = |kind: &str| {
                c.notices.iter().rfind(|n| n.node == "a1" && n.kind == kind && n.about == HOSTILE_CLASS)
            };
            let last = c.lines.get("radio").and_then(|lines| lines.last()).map(|(at, _)| *at);
            (of("freeze").map(|n| n.at), of("thaw").cloned(), last)
        });
        let state = super::console::text(&self.app(&app_ref("guest", "radio"))["state"]);
        let after = thaw.as_ref().filter(|thaw| frozen.is_some_and(|frozen| frozen < thaw.at));
        let heard = after.is_some_and(|thaw| last.is_some_and(|last| last > thaw.at));
        let pressure = &stats["node"]["pressure"]["pressure"];
        let over = |measure: &str, fall: u64| pressure[measure].as_u64().map(|value| value >= fall);
        let without_psi = policies::ladder::LadderPolicy::default().cpu_used.fall;
        let pressed = over("cpu", super::road::CPU_FALL.into())
            .or_else(|| over("cpu_used", without_psi.into()))
            .unwrap_or(false);
        let (good, seen) = match after {
            Some(thaw) => {
                (heard && state == "running", format!("{}; the class's other app is {state}", thaw.why))
            }
            // Something else on this machine takes its time.
            None if pressed => {
                (true, format!("{}: the pressure did not fall: {pressure}", summary::NOT_REACHED))
            }
            None => (false, format!("still frozen, at a pressure of {pressure}")),
        };
        self.findings.check(7, "after the load: thaw", good, seen);
    }

    pub(super) fn fault_costs(&mut self, moments: &Moments) {
        let t0 = self.t0;
        let tally = self.tally.clone();
        for (what, from, to) in [
            ("roadside killed", moments.edge_died, moments.sibling_froze),
            ("sibling frozen", moments.sibling_froze, moments.sibling_thawed),
        ] {
            let (done, missed, gap) = tally.with(|c| summary::cost(c, from + t0, to + t0));
            let seen = format!("{done} done, {missed} missed or undecided, longest gap {gap:.2} s");
            let goes_on = done > 0 && gap < GAP_S * f64::from(self.plan.time_scale);
            self.findings.check(8, &format!("{what}: tasks go on"), goes_on, seen);
        }
        let before = self.done_at("e1", 0.0, moments.edge_died);
        let after = self.done_at("e1", moments.edge_returned, f64::MAX);
        self.findings.check(
            8,
            "the roadside is used again",
            after > 0,
            format!("{before} tasks before, {after} after"),
        );
    }

    /// The last look at the running road.
    pub(super) fn look(&mut self) {
        let stats = prepare::view(&self.socket("a1"), crate::control::View::Stats);
        self.thawed(&stats);
        let bus = &stats["bus"];
        let frames = bus["frames_in"].as_u64().unwrap_or(0);
        self.frames_in = frames;
        self.findings.check(
            3,
            "frames from the bus",
            frames > 0,
            format!(
                "{frames} in, {} out, {} unknown, {} damaged, {} lost",
                bus["frames_out"], bus["frames_unknown"], bus["frames_bad"], bus["frames_lost"]
            ),
        );
        let signals = bus["signals"].as_u64().unwrap_or(0);
        self.findings.check(
            4,
            "signals under VSS paths",
            signals > 0,
            format!("{signals} decoded, {} published to apps", bus["published"]),
        );
        let camera = &stats["camera"];
        let captured = camera["captured"].as_u64().unwrap_or(0);
        self.findings.check(
            4,
            "camera frames",
            captured > 0,
            format!("{captured} captured, {} delivered", camera["delivered"]),
        );
        for (tenant, app) in APPS {
            let row = self.app(&app_ref(tenant, app));
            let confined = self.runs_confined(&row);
            let seen = super::console::limits(&row);
            self.findings.check(5, &format!("{tenant}/{app} runs confined"), confined, seen);
        }
        self.see_each_other();
        let deaf: Vec<_> = PLACES.iter().map(|p| p.id).filter(|id| !self.tally.follows(id)).collect();
        let seen = if deaf.is_empty() { "to the end".into() } else { format!("not those of {deaf:?}") };
        self.findings.check(8, "every node's events were followed", deaf.is_empty(), seen);
        let machine = prepare::view(&self.socket("a1"), crate::control::View::Machine);
        let up = self.nodes.iter().filter(|node| {
            let rows = prepare::view(&self.socket(node.place.id), crate::control::View::Nodes);
            rows[0]["state"] == "up"
        });
        let up = up.count();
        let seen = format!("{up} up; {}", super::console::machine(&machine));
        self.findings.check(2, "four nodes", up == PLACES.len(), seen);
    }

    /// Each node hears those that it must hear, by its own account.
    fn see_each_other(&mut self) {
        let until = Instant::now() + SEEN_WITHIN * self.plan.time_scale;
        let mut missing = self.unheard();
        while !missing.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
            missing = self.unheard();
        }
        let seen = if missing.is_empty() {
            "within car A, and cars and roadside".into()
        } else {
            missing.join("; ")
        };
        self.findings.check(2, "nodes hear each other", missing.is_empty(), seen);
    }

    fn unheard(&self) -> Vec<String> {
        let unheard = |(node, peers): (&str, &[&str])| {
            let rows = prepare::view(&self.socket(node), crate::control::View::Nodes);
            let hears = |peer: &str| {
                let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
                rows.iter().any(|row| row["node"] == peer && row["state"] != "silent")
            };
            peers
                .iter()
                .filter(|peer| !hears(peer))
                .map(|peer| format!("{node} does not hear {peer}"))
                .collect()
        };
        HEARERS.into_iter().flat_map(|pair| -> Vec<String> { unheard(pair) }).collect()
    }

    /// What the ledger counted against what the nodes reported.
    pub(super) fn judge(&mut self, booked: &super::ledger::Booked) {
        let tally = self.tally.clone();
        tally.with(|counts| {
            summary::print_tasks(counts);
            let places: std::collections::BTreeSet<&str> =
                counts.tasks.iter().filter(|t| t.outcome == "done").map(|t| t.node.as_str()).collect();
            self.findings.check(
                6,
                "tasks ran in more than one place",
                places.len() > 1,
                format!("{places:?}"),
            );
            summary::print_refusals(counts);
            self.judge_claims(counts);
            self.judge_once(counts, booked);
            self.findings.check(8, "no alarm", counts.alarms.is_empty(), counts.alarms.join("; "));
        });
        self.findings.check(
            3,
            "the ledger heard the bus",
            booked.frames > 0
                && self.frames_in as f64 >= HEARD * booked.frames as f64
                && booked.frames as f64 >= BOOKED * self.frames_in as f64,
            format!(
                "{} frames heard by python-can, {} by the gateway a moment before",
                booked.frames, self.frames_in
            ),
        );
        self.findings.check(
            8,
            "every effect in the ledger names its task",
            booked.without_task == 0,
            format!("{} without", booked.without_task),
        );
        self.findings.check(
            7,
            "no frame of the hostile app on the bus",
            booked.foreign == 0,
            format!("{} frames with the id it asked for", booked.foreign),
        );
    }
}
