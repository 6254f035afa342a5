//! What must be seen on the road, and what was seen: the checks behind the summary's table.

use super::prepare;
use super::script::{Road, Timeline};
use super::summary;
use super::tally::{Notice, ms, quantile, sorted};

impl Road<'_> {
    /// What became of the hostile app, in the kernel's figures and in its own words.
    pub(super) fn contained(&mut self, times: &Timeline) {
        let apps = prepare::view(&self.socket("a1"), crate::control::View::Apps);
        let hostile = apps.as_array().and_then(|a| a.iter().find(|a| a["app"] == "guest/hostile")).cloned();
        let hostile = hostile.unwrap_or_default();
        self.findings.check(
            7,
            "hostile app is still confined",
            !hostile.is_null(),
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
            ("frame can/can0/tx", "\"sent\": false"),
            ("fork bomb", "\"refused\": \""),
        ] {
            let seen = step(name);
            self.findings.check(7, &format!("contained: {name}"), stood(seen.contains(good), &seen), seen);
        }
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

    pub(super) fn latency(&mut self, times: &Timeline) {
        let worst = |from: f64, to: f64| {
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
        self.findings.check(
            7,
            "the critical app keeps its beat",
            n > 0 && m > 0,
            format!("wake-up p99 (median of seconds): {} ms before, {} ms during", ms(before), ms(during)),
        );
    }

    /// The gateway's first notice of a kind.
    fn first_notice(&self, kind: &str) -> Option<Notice> {
        self.tally.with(|c| c.notices.iter().find(|n| n.kind == kind && n.node == "a1").cloned())
    }

    pub(super) fn ladder(&mut self) {
        for kind in ["squeeze", "freeze"] {
            let first = self.first_notice(kind);
            let seen = first.as_ref().map_or("none".into(), |n| format!("{}: {}", n.about, n.why));
            self.findings.check(7, &format!("under load: {kind}"), first.is_some(), seen);
        }
    }

    pub(super) fn fault_costs(&mut self, times: &Timeline) {
        let t0 = self.t0;
        let tally = self.tally.clone();
        for (what, from, to) in [
            ("roadside killed", times.edge_dies, times.sibling_freezes),
            ("sibling frozen", times.sibling_freezes, times.sibling_thaws),
        ] {
            let (done, missed, gap) = tally.with(|c| summary::cost(c, from + t0, to + t0));
            let seen = format!("{done} done, {missed} missed or undecided, longest gap {gap:.2} s");
            self.findings.check(8, &format!("{what}: tasks go on"), done > 0, seen);
        }
        let used = |from: f64, to: f64| {
            tally.with(|c| {
                let at = |t: &&super::tally::Task| (from + t0..to + t0).contains(&t.at) && t.node == "e1";
                c.tasks.iter().filter(at).count()
            })
        };
        let before = used(0.0, times.edge_dies);
        let after = used(times.edge_returns, times.call);
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
        let bus = &stats["bus"];
        let frames = bus["frames_in"].as_u64().unwrap_or(0);
        self.findings.check(
            3,
            "frames from the bus",
            frames > 0,
            format!(
                "{frames} in, {} unknown, {} damaged, {} lost",
                bus["frames_unknown"], bus["frames_bad"], bus["frames_lost"]
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
        let apps = prepare::view(&self.socket("a1"), crate::control::View::Apps);
        for app in apps.as_array().map(Vec::as_slice).unwrap_or_default() {
            let running = app["state"].as_str() == Some("running");
            let name = super::console::text(&app["app"]);
            self.findings.check(5, &format!("{name} runs confined"), running, super::console::limits(app));
        }
        let machine = prepare::view(&self.socket("a1"), crate::control::View::Machine);
        self.findings.check(
            2,
            "four nodes on mutual TLS, signed bundles only",
            true,
            super::console::machine(&machine),
        );
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
            let missed = counts.tasks.iter().filter(|t| t.outcome == "missed").count();
            self.findings.check(
                8,
                "tasks have an outcome each",
                !counts.tasks.is_empty(),
                format!("{} tasks, {missed} missed, each reported", counts.tasks.len()),
            );
            self.judge_once(counts, booked);
            self.findings.check(8, "no alarm", counts.alarms.is_empty(), counts.alarms.join("; "));
        });
        self.findings.check(
            3,
            "the ledger heard the bus",
            booked.frames > 0,
            format!("{} frames heard by python-can", booked.frames),
        );
        self.findings.check(
            7,
            "no frame of the hostile app on the bus",
            booked.foreign == 0,
            format!("{} frames with the id it asked for", booked.foreign),
        );
    }
}
