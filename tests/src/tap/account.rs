//! Holds one node's acts against what it recorded.

use std::collections::{BTreeMap, BTreeSet};

use obu_core::io::{Input, Output};
use obu_core::record::Record;
use policies::host::HostCommand;
use policies::task::Class;

use super::book::{Book, failures};
use super::record::{inputs, outputs};
use super::replies::Replies;
use super::ways::Ways;
use super::{Act, Deed, Durably, Exempt, Report, Who};

/// Before the end of a node that was killed, microseconds: what it recorded in this time may not have reached the
/// disk.
pub const CUT_OFF_US: u64 = 500_000;

/// Faces that host starts from its own file.
const OWN_FACES: [&str; 4] = ["node", "bus", "link", "camera"];

/// Accounts for all acts of one node. `acts` and `records` are in the order of time.
pub fn account(node: &str, acts: &[Act], records: &[Record]) -> Report {
    let by_weight =
        acts.iter().any(|act| matches!(&act.deed, Deed::Share { file, .. } if file == "cpu.weight"));
    let kills = acts.iter().filter(|act| act.deed == Deed::HostEnded { killed: true }).map(|act| act.at);
    let mut clerk = Clerk {
        node,
        records,
        book: Book::of(records, by_weight),
        replies: Replies::of(records),
        ways: Ways::of(records),
        cuts: kills.map(|at| at.saturating_sub(CUT_OFF_US)..=at).collect(),
        report: Report::default(),
        life: Life::default(),
    };
    for act in acts {
        clerk.take(act);
    }
    clerk.leftovers();
    clerk.report
}

/// What has happened since host began.
#[derive(Debug, Default)]
struct Life {
    told_to_end: bool,
    /// Programs begun and inits ended, by whose they are.
    starts: BTreeMap<Who, usize>,
    ends: BTreeMap<Who, usize>,
    /// When the process began that is whose now.
    began: BTreeMap<Who, u64>,
    /// Signals sent to the present sandbox, by name.
    sent: BTreeMap<(Who, String), usize>,
    /// Stops whose thaw and whose kill have been seen.
    stopping: BTreeMap<Who, Stopping>,
}

#[derive(Debug, Default)]
struct Stopping {
    thawed: bool,
    killed: bool,
}

struct Clerk<'a> {
    node: &'a str,
    records: &'a [Record],
    book: Book,
    replies: Replies,
    ways: Ways,
    cuts: Vec<std::ops::RangeInclusive<u64>>,
    report: Report,
    life: Life,
}

impl Clerk<'_> {
    fn exempt(&mut self, why: Exempt) {
        *self.report.exempt.entry(why).or_default() += 1;
    }

    fn entailed(&mut self, by: &str) {
        *self.report.entailed.entry(by.to_owned()).or_default() += 1;
    }

    fn finding(&mut self, act: &Act, looked_for: &str) {
        if self.cuts.iter().any(|cut| cut.contains(&act.at)) {
            return self.exempt(Exempt::CutOff);
        }
        let Self { node, .. } = self;
        self.report
            .findings
            .push(format!("{node}: act without its output; looked for {looked_for}: {}", act.seen));
    }

    /// The act is this output's, or a finding.
    fn claim(&mut self, act: &Act, claim: &str) -> bool {
        let taken = self.book.take(claim, act.at);
        if taken {
            let kind = claim.split(' ').next().unwrap_or(claim);
            *self.report.matched.entry(kind.to_owned()).or_default() += 1;
        } else {
            self.finding(act, &format!("the output {claim:?}"));
        }
        taken
    }

    fn take(&mut self, act: &Act) {
        match &act.deed {
            Deed::HostBegan => self.life = Life::default(),
            Deed::ToldToEnd => self.life.told_to_end = true,
            Deed::HostEnded { .. } => {}
            Deed::Started { who, command } => self.started(act, who, command),
            Deed::Ended { who } => {
                *self.life.ends.entry(who.clone()).or_default() += 1;
                self.life.sent.retain(|(to, _), _| to != who);
            }
            Deed::Signal { to, name, by_init } => self.signal(act, to, name, *by_init),
            Deed::Freeze { who, frozen } => self.freeze(act, who, *frozen),
            Deed::KillGroup { place } => self.kill_group(act, place),
            Deed::Share { place, value, .. } => self.share(act, place, value),
            Deed::Limit { place, file } => self.limit(act, place, file),
            Deed::Imported { bundle } => {
                self.claim(act, &format!("import {bundle}"));
            }
            Deed::Durable { what } => self.durable(act, what),
            Deed::Frame { frame } => {
                self.claim(act, &format!("frame {frame}"));
            }
            Deed::Effect { line } => {
                self.claim(act, &format!("effect {line}"));
            }
            Deed::Reply { connection, bytes } => self.reply(act, connection, bytes),
            Deed::Island { app } => {
                self.claim(act, &format!("island {app}"));
            }
            Deed::Data { by, app, what } => self.data(act, by, app, what),
            Deed::Other { why } => self.finding(act, &format!("a rule ({why})")),
        }
    }

    fn running(&self, who: &Who) -> bool {
        let count = |counts: &BTreeMap<Who, usize>| counts.get(who).copied().unwrap_or(0);
        count(&self.life.starts) > count(&self.life.ends)
    }

    fn started(&mut self, act: &Act, who: &Who, command: &[String]) {
        let before = self.life.starts.get(who).copied().unwrap_or(0);
        let ended = self.life.ends.get(who).copied().unwrap_or(0);
        *self.life.starts.entry(who.clone()).or_default() += 1;
        self.life.began.insert(who.clone(), act.at);
        self.life.stopping.remove(who);
        if let Who::Face(_) = who {
            // What was sent to the process that had this place before counts for that one.
            self.life.sent.retain(|(to, _), _| to != who);
        }
        match who {
            Who::App(app) => {
                self.claim(act, &format!("start {app} {}", command.join(" ")));
            }
            Who::Face(face) if *command != ["/verge", "face", face] => {
                self.finding(act, "the program of that face");
            }
            Who::Face(_) if before > 0 && ended >= before => self.exempt(Exempt::FaceAgain),
            Who::Face(face) if before == 0 && OWN_FACES.contains(&face.as_str()) => {
                self.exempt(Exempt::OwnFile)
            }
            Who::Face(face) => {
                self.claim(act, &format!("face {face}"));
            }
            Who::Place(_) => self.finding(act, "an app or a face in whose group it runs"),
        }
    }

    fn signal(&mut self, act: &Act, to: &Who, name: &str, by_init: bool) {
        let sent = |life: &Life| life.sent.get(&(to.clone(), name.to_owned())).copied().unwrap_or(0);
        if by_init {
            // Host's signal to init is the act; that init hands it on once is the same act.
            let passed = (to.clone(), format!("{name} passed on"));
            let before = self.life.sent.get(&passed).copied().unwrap_or(0);
            *self.life.sent.entry(passed).or_default() += 1;
            return match before < sent(&self.life) {
                true => self.entailed("stop"),
                false => self.finding(act, "a signal of host's to that init"),
            };
        }
        let before = sent(&self.life);
        *self.life.sent.entry((to.clone(), name.to_owned())).or_default() += 1;
        let wanted = matches!(to, Who::App(app) if self.book.has(&format!("stop {app}"), act.at));
        match (to, name) {
            _ if self.life.told_to_end && before == 0 && !wanted => self.exempt(Exempt::ToldToEnd),
            (Who::App(app), "SIGTERM") => {
                if self.claim(act, &format!("stop {app}")) {
                    self.life.stopping.entry(to.clone()).or_default();
                }
            }
            (Who::App(_), "SIGKILL") => self.entailed_by_stop(act, to),
            (Who::Face(_), "SIGKILL") if before == 0 => self.exempt(Exempt::FaceLeft),
            _ => self.finding(act, "an output that wants this signal, once"),
        }
    }

    /// The kill after the time of grace, once.
    fn entailed_by_stop(&mut self, act: &Act, who: &Who) {
        match self.life.stopping.get_mut(who) {
            Some(stopping) if !stopping.killed => {
                stopping.killed = true;
                self.entailed("stop");
            }
            _ => self.finding(act, &format!("a stop of {who} that has not come to its end")),
        }
    }

    fn freeze(&mut self, act: &Act, who: &Who, frozen: bool) {
        let Who::App(app) = who else { return self.finding(act, "an app that is frozen or thawed") };
        let (thaw, stop) = (format!("thaw {app}"), format!("stop {app}"));
        if frozen {
            self.claim(act, &format!("freeze {app}"));
        } else if self.life.told_to_end {
            self.exempt(Exempt::ToldToEnd);
        } else if self.book.has(&thaw, act.at) {
            self.claim(act, &thaw);
        } else if self.book.has(&stop, act.at) && !self.life.stopping.get(who).is_some_and(|s| s.thawed) {
            // A frozen process does not see a signal: a stop begins with a thaw.
            self.life.stopping.entry(who.clone()).or_default().thawed = true;
            self.entailed("stop");
        } else {
            self.finding(act, &format!("the output {thaw:?} or {stop:?}"));
        }
    }

    fn kill_group(&mut self, act: &Act, place: &str) {
        let who = Who::at(place);
        let began = !self.life.starts.is_empty();
        match &who {
            _ if !began => self.exempt(Exempt::HostBegins),
            _ if self.life.told_to_end => self.exempt(Exempt::ToldToEnd),
            // Nobody is left in it: the group is cleared before it is removed.
            Who::App(_) if !self.running(&who) => self.entailed("start"),
            Who::Face(_) if !self.running(&who) => self.exempt(Exempt::FaceLeft),
            Who::App(_) => self.entailed_by_stop(act, &who),
            Who::Face(_) | Who::Place(_) => self.finding(act, "the end of those in the group"),
        }
    }

    fn share(&mut self, act: &Act, place: &str, value: &str) {
        if self.life.starts.is_empty() || place == "faces" {
            return self.exempt(Exempt::HostBegins);
        }
        self.claim(act, &format!("squeeze {place} {value}"));
    }

    /// Limits are a part of the start, or a resize, of an app.
    fn limit(&mut self, act: &Act, place: &str, file: &str) {
        let who = Who::at(place);
        let Who::App(app) = &who else {
            return match place {
                "" | "faces" => self.exempt(Exempt::HostBegins),
                _ if Class::parse(place.split('/').next().unwrap_or_default()).is_some() => {
                    self.entailed("start")
                }
                _ if place.starts_with("faces/") => self.exempt(Exempt::HostBegins),
                _ => self.finding(act, "an app or a face whose limit that is"),
            };
        };
        let starts = format!("start {app} ");
        let is_starting = self
            .book
            .open
            .iter()
            .any(|(claim, times)| claim.starts_with(&starts) && times.iter().any(|t| *t <= act.at));
        let resize = format!("resize {app}");
        if is_starting && !self.running(&who) {
            self.entailed("start");
        } else if file.starts_with("cpu.") && file != "cpu.cfs_quota_us" && self.book.has(&resize, act.at) {
            self.claim(act, &resize);
        } else if self.book.taken.contains_key(&resize) || self.book.has(&resize, act.at) {
            self.entailed("resize");
        } else {
            self.finding(act, &format!("a start or a resize of {app}"));
        }
    }

    fn durable(&mut self, act: &Act, what: &Durably) {
        match what {
            Durably::Incarnation if self.life.starts.is_empty() => self.exempt(Exempt::HostBegins),
            Durably::Incarnation => self.finding(act, "the beginning of a host"),
            Durably::Import => self.entailed("import"),
            Durably::Upload { bundle } => self.upload(act, bundle),
            Durably::Store { opener: true } | Durably::Commit { opener: true } => self.opener(act),
            // The last one marks the store as closed in order.
            Durably::Commit { opener: false }
                if self.life.told_to_end && !self.book.has("persist", act.at) =>
            {
                self.exempt(Exempt::ToldToEnd);
            }
            Durably::Commit { opener: false } => {
                self.claim(act, "persist");
            }
            Durably::Store { opener: false } if self.life.told_to_end => self.exempt(Exempt::ToldToEnd),
            Durably::Store { opener: false } => match self.persisting(act.at) {
                true => self.entailed("persist"),
                false => self.finding(act, "a persist that is under way"),
            },
        }
    }

    /// Whether something was being persisted at that time.
    fn persisting(&self, at: u64) -> bool {
        let mut under_way = BTreeSet::new();
        for record in self.records.iter().take_while(|record| record.at.as_micros() <= at) {
            match &record.entry {
                obu_core::record::Entry::Output(Output::Persist { ticket, .. }) => {
                    under_way.insert(*ticket);
                }
                obu_core::record::Entry::Input(Input::Persisted { ticket, .. }) => {
                    under_way.remove(ticket);
                }
                obu_core::record::Entry::Input(Input::Boot(_)) => under_way.clear(),
                _ => {}
            }
        }
        !under_way.is_empty()
    }

    /// The thread that drives the machine: it opens the store, and keeps a module that is to be loaded.
    fn opener(&mut self, act: &Act) {
        let before = |at: &u64| *at <= act.at;
        let boots = inputs(self.records).filter(|(at, input)| before(at) && matches!(input, Input::Boot(_)));
        let booted = boots.count() > 0 && self.node_booted(act.at);
        let loads = outputs(self.records)
            .filter(|(at, output)| before(at) && matches!(output, Output::LoadModule { .. }))
            .count();
        match (booted, loads) {
            (false, _) => self.exempt(Exempt::OpensStore),
            (true, 0) => self.finding(act, "an output that loads a module"),
            (true, _) => self.entailed("module"),
        }
    }

    /// Whether the machine had booted in the node process of that time.
    fn node_booted(&self, at: u64) -> bool {
        let starts = self.life.starts.get(&Who::Face("node".into())).copied().unwrap_or(0);
        let boots =
            inputs(self.records).filter(|(t, input)| *t <= at && matches!(input, Input::Boot(_))).count();
        // Every node process boots once; lives before this one are counted by their hosts.
        boots >= starts
    }

    fn upload(&mut self, act: &Act, bundle: &str) {
        let named = outputs(self.records).any(|(_, output)| match output {
            Output::Host(HostCommand::Import { bundle: digest }) => digest.hex() == bundle,
            Output::LoadModule { module, .. } => module.hex() == bundle,
            _ => false,
        });
        match named {
            true => self.exempt(Exempt::Upload),
            false => self.finding(act, &format!("an output that names bundle {bundle}")),
        }
    }

    /// The way that this data takes is open to that tenant's app at that time.
    fn data(&mut self, act: &Act, by: &str, app: &str, what: &str) {
        let began = self.life.began.get(&Who::Face(by.to_owned()));
        match began.is_some_and(|began| self.ways.open(by, *began, app, what, act.at)) {
            true => self.entailed("route"),
            false => self.finding(act, &format!("a route of the {by} in force that leads {what} to {app}")),
        }
    }

    /// An answer on the control API is the recorded answer to one request.
    fn reply(&mut self, act: &Act, connection: &str, bytes: &[u8]) {
        match self.replies.take(connection, bytes, act.at) {
            Ok(()) => *self.report.matched.entry("reply".into()).or_default() += 1,
            Err(looked_for) => self.finding(act, &looked_for),
        }
    }

    /// Every output that no act has taken must have failed, and said so.
    fn leftovers(&mut self) {
        let failures = failures(self.records);
        let open = std::mem::take(&mut self.book.open);
        for (claim, times) in open {
            let kind = claim.split(' ').next().unwrap_or(&claim).to_owned();
            let failed = failures.iter().filter(|failure| claim.starts_with(failure.as_str())).count();
            // Asked for again what is there: by a node that came back.
            let done_before =
                self.book.taken.contains_key(&claim) && matches!(kind.as_str(), "face" | "import" | "island");
            for (number, at) in times.iter().enumerate() {
                if number < failed || done_before {
                    *self.report.failed.entry(kind.clone()).or_default() += 1;
                } else {
                    self.undone(&claim, *at);
                }
            }
        }
        for reply in self.replies.left() {
            self.undone(&format!("reply to request {}", reply.request), reply.at);
        }
    }

    /// An output that nothing was seen of.
    fn undone(&mut self, claim: &str, at: u64) {
        if self.cuts.iter().any(|cut| cut.contains(&at)) {
            return self.exempt(Exempt::CutOff);
        }
        let node = self.node;
        self.report.findings.push(format!("{node}: output without its act: {claim} (at {at} us)"));
    }
}

#[cfg(test)]
mod tests;
