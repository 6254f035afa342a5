//! The outputs that are to have an act, each as a line of text, and those among them that failed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use obu_core::io::{Input, Output};
use obu_core::record::Record;
use policies::face::{FromBus, ToBorder, ToBus};
use policies::host::{HostCommand, HostEvent};
use policies::id::NodeId;
use policies::task::Class;

use super::Report;
use super::record::{inputs, outputs};

/// The outputs that are to have an act, as text: `stop oem/lane`.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Not taken yet: when each was recorded.
    pub(super) open: BTreeMap<String, VecDeque<u64>>,
    /// Taken.
    pub(super) taken: BTreeMap<String, usize>,
}

impl Book {
    pub(super) fn of(records: &[Record], by_weight: bool) -> Self {
        let mut book = Self::default();
        for (at, output) in outputs(records) {
            if let Some(claim) = claim(output, by_weight) {
                book.open.entry(claim).or_default().push_back(at);
            }
        }
        book
    }

    /// Takes the oldest output of this text that was recorded before `at`.
    pub(super) fn take(&mut self, claim: &str, at: u64) -> bool {
        let taken = self.open.get_mut(claim).is_some_and(|times| {
            times.front().is_some_and(|first| *first <= at) && times.pop_front().is_some()
        });
        if taken {
            *self.taken.entry(claim.to_owned()).or_default() += 1;
        }
        taken
    }

    /// Whether one is there to be taken.
    pub(super) fn has(&self, claim: &str, at: u64) -> bool {
        self.open.get(claim).and_then(VecDeque::front).is_some_and(|first| *first <= at)
    }
}

/// What an output's act will be called. `None` for what is not done to the world: words between the processes of a
/// node, decisions, and messages and replies, which have an accounting of their own.
fn claim(output: &Output, by_weight: bool) -> Option<String> {
    Some(match output {
        Output::Host(command) => return host_claim(command, by_weight),
        Output::Bus(ToBus::Transmit { frame, .. }) => {
            let data: String = frame.data.iter().map(|byte| format!("{byte:02X}")).collect();
            let id = frame.id;
            if frame.extended { format!("frame {id:08X}#{data}") } else { format!("frame {id:03X}#{data}") }
        }
        Output::Effect { task, attempt, line } => format!("effect task={task} attempt={} {line}", attempt.0),
        Output::Border { tenant, message: ToBorder::Open { app, .. } } => format!("island {tenant}/{app}"),
        Output::Persist { .. } => "persist".into(),
        _ => return None,
    })
}

fn host_claim(command: &HostCommand, by_weight: bool) -> Option<String> {
    Some(match command {
        HostCommand::Import { bundle } => format!("import {}", bundle.hex()),
        HostCommand::Start(start) => format!("start {} {}", start.app, start.command.join(" ")),
        HostCommand::Stop { app, .. } => format!("stop {app}"),
        HostCommand::Freeze { app } => format!("freeze {app}"),
        HostCommand::Thaw { app } => format!("thaw {app}"),
        HostCommand::Resize { app, .. } => format!("resize {app}"),
        HostCommand::SqueezeClass { class, share } => {
            format!("squeeze {class} {}", squeezed(*class, *share, by_weight))
        }
        HostCommand::StartFace { face } => format!("face {face}"),
        HostCommand::Shutdown { .. } => "shutdown".into(),
        HostCommand::Sample => return None,
    })
}

/// What a class's group gets in thousandths of its normal weight; written down a second time on purpose.
fn squeezed(class: Class, share: u16, by_weight: bool) -> u64 {
    let weight = match class {
        Class::Critical => 1000,
        Class::Driving => 400,
        Class::Comfort => 100,
        Class::Background => 20,
    };
    let share = u64::from(share);
    if by_weight { (weight * share / 1000).max(1) } else { (weight * 1024 / 100 * share / 1000).max(2) }
}

/// What somebody outside wrote down, a line each, against the outputs of all nodes: each line is one output of one node.
pub fn by_server(kind: &str, lines: &[String], nodes: &BTreeMap<NodeId, Vec<Record>>) -> Report {
    let mut report = Report::default();
    let mut books: Vec<Book> = nodes.values().map(|records| Book::of(records, false)).collect();
    for line in lines {
        let claim = format!("{kind} {line}");
        match books.iter_mut().any(|book| book.take(&claim, u64::MAX)) {
            true => *report.matched.entry(format!("{kind} by the server")).or_default() += 1,
            false => report.findings.push(format!("written down outside, and wanted by no node: {claim}")),
        }
    }
    report
}

/// What the node was told could not be done, as the beginning of the claim that it answers.
pub(super) fn failures(records: &[Record]) -> Vec<String> {
    let mut asked = BTreeMap::new();
    for (_, output) in outputs(records) {
        if let Output::Bus(ToBus::Transmit { request, .. }) = output {
            asked.insert(*request, claim(output, false).unwrap_or_default());
        }
    }
    // A repeat that the effect port refuses, of an effect that was done, is no failure of that effect.
    let done: BTreeSet<_> = inputs(records)
        .filter_map(|(_, input)| match input {
            Input::Bus(FromBus::EffectDone { task, attempt, result: Ok(()) }) => Some((task, attempt)),
            _ => None,
        })
        .collect();
    let failure = |input: &Input| match input {
        Input::Host(HostEvent::StartFailed { app, .. }) => Some(format!("start {app} ")),
        // The same words as the claims: `stop oem/lane`.
        Input::Host(HostEvent::Refused { command, .. }) => Some(command.clone()),
        Input::Host(HostEvent::ImportRefused { bundle, .. }) => Some(format!("import {}", bundle.hex())),
        Input::Bus(FromBus::EffectDone { task, attempt, result: Err(_) })
            if !done.contains(&(task, attempt)) =>
        {
            Some(format!("effect task={task} attempt={} ", attempt.0))
        }
        Input::Bus(FromBus::Transmitted { request, result: Err(_) }) => asked.get(request).cloned(),
        Input::Island { app, result: Err(_) } => Some(format!("island {app}")),
        Input::Persisted { result: Err(_), .. } => Some("persist".into()),
        _ => None,
    };
    inputs(records).filter_map(|(_, input)| failure(input)).collect()
}
