//! Each rule with the shortest story that breaks it, beside the story that does not.

use obu_core::io::{CallEnd, ControlCall, JobInput};
use policies::alarm::Alarm;
use policies::grant::{ExportRule, NodePolicy};
use policies::host::HostCommand;
use policies::id::{CarId, Incarnation};
use policies::task::BlobRef;
use v2e_core::message::Run;
use v2e_core::report::Phases;

use super::*;
use crate::fleet::{LANE, TOLL, fleet, name};

const INPUT: &[u8] = b"frame";

fn boot(exports: bool) -> Entry {
    let mut config = NodeConfig::new(name!(NodeId, "a1"), name!(CarId, "a"), Role::Obu);
    let rule =
        ExportRule { id: "r1".into(), tasks: vec![name!(FunctionName, LANE.name)], signals: Vec::new() };
    config.policy =
        NodePolicy { exports: exports.then_some(rule).into_iter().collect(), ..NodePolicy::default() };
    Entry::Input(Input::Boot(Boot {
        config,
        incarnation: Incarnation(1),
        desired: None,
        records: Vec::new(),
    }))
}

fn run_task(request: u64) -> Entry {
    Entry::Input(Input::Control {
        request,
        call: ControlCall::RunTask {
            function: name!(FunctionName, LANE.name),
            deadline_us: 100_000,
            class: Class::Driving,
            effect: None,
            input: BlobRef::of(INPUT).unwrap(),
        },
    })
}

fn id(number: u64) -> TaskId {
    TaskId { owner: name!(NodeId, "a1"), incarnation: Incarnation(1), number }
}

fn reply(request: u64, number: u64, effect: Effect, outcome: Outcome) -> Entry {
    let report = TaskReport {
        task: id(number),
        function: name!(FunctionName, if effect == Effect::Once { TOLL.name } else { LANE.name }),
        tenant: name!(TenantId, "oem"),
        class: Class::Driving,
        effect,
        outcome,
        node: None,
        attempts: 1,
        hedged: false,
        phases: Phases::default(),
        submitted: Timestamp::ZERO,
        ended: Timestamp::ZERO,
        deadline: Timestamp::ZERO,
    };
    Entry::Output(Output::Reply { request, reply: ControlReply::Task(report) })
}

fn done() -> Outcome {
    let result = LANE.result(&Digest::of(INPUT));
    Outcome::Done { result: BlobRef::of(&result).unwrap() }
}

fn wrong() -> Outcome {
    Outcome::Done { result: BlobRef::of(b"something else").unwrap() }
}

fn missed() -> Outcome {
    Outcome::Missed { why: String::new() }
}

fn unknown() -> Outcome {
    Outcome::Indeterminate { why: String::new() }
}

fn applied(number: u64, attempt: u32) -> Entry {
    Entry::Applied { task: id(number), attempt: Attempt(attempt) }
}

fn call(job: u64) -> Entry {
    Entry::Output(Output::RunJob {
        job,
        tenant: name!(TenantId, "oem"),
        module: Digest::of(b"lane"),
        input: JobInput::Blob(BlobRef::of(INPUT).unwrap()),
        budget_us: 1,
    })
}

fn call_ended(job: u64) -> Entry {
    let end = CallEnd::Failed { code: 1, why: String::new() };
    Entry::Input(Input::Job(JobEvent::Ended { job, end, took_us: 1 }))
}

fn send_out() -> Entry {
    let body = ToWorker::Run(Run {
        task: id(1),
        attempt: Attempt(1),
        life: Incarnation(1),
        tenant: name!(TenantId, "oem"),
        function: name!(FunctionName, LANE.name),
        bundle: Digest::of(b"lane"),
        effect: Effect::Pure,
        class: Class::Driving,
        deadline_us: 1,
        lease_us: 1,
        input: BlobRef::of(INPUT).unwrap(),
    });
    let sender = name!(NodeId, "a1");
    let message = Message::ToWorker(Envelope { sender, incarnation: Incarnation(1), body });
    Entry::Output(Output::Send { realm: Realm::Outside, to: name!(NodeId, "e1"), message })
}

/// From another node: an attempt at a `once` task with a lease of 100 ms.
fn run() -> Entry {
    let Entry::Output(Output::Send {
        message: Message::ToWorker(Envelope { body: ToWorker::Run(run), .. }),
        ..
    }) = send_out()
    else {
        panic!("a run");
    };
    received(ToWorker::Run(Run { task: foreign(), effect: Effect::Once, lease_us: 100_000, ..run }))
}

fn renew() -> Entry {
    received(ToWorker::Renew { task: foreign(), attempt: Attempt(1), lease_us: 100_000 })
}

fn effect() -> Entry {
    Entry::Output(Output::Effect { task: foreign(), attempt: Attempt(1), line: String::new() })
}

fn foreign() -> TaskId {
    TaskId { owner: name!(NodeId, "b1"), ..id(1) }
}

fn received(body: ToWorker) -> Entry {
    let from = name!(NodeId, "b1");
    let message = Message::ToWorker(Envelope { sender: from.clone(), incarnation: Incarnation(1), body });
    Entry::Input(Input::Received { realm: Realm::Car, from, message, payload: None })
}

fn squeeze(class: Class) -> Entry {
    Entry::Output(Output::Host(HostCommand::SqueezeClass { class, share: 100 }))
}

fn tick() -> Entry {
    Entry::Input(Input::Tick)
}

fn alarm() -> Entry {
    Entry::Output(Output::Alarm(Alarm { name: "n".into(), detail: String::new() }))
}

#[test]
#[rustfmt::skip]
fn rule_table() {
    use Effect::{Once, Pure};
    use Rule::*;
    // Times in milliseconds; the task's deadline is 100 ms after it was asked for.
    check("one task, one answer",      None,    vec![(0, run_task(7)), (90, reply(7, 1, Pure, done()))]);
    check("a second answer",           Some(AnsweredTwice), vec![(0, run_task(7)), (1, reply(7, 1, Pure, done())), (2, reply(7, 1, Pure, done()))]);
    check("an answer nobody asked for", Some(AnsweredTwice), vec![(1, reply(7, 1, Pure, done()))]);
    check("a task reported twice",     Some(ReportedTwice), vec![(0, run_task(7)), (0, run_task(8)), (1, reply(7, 1, Pure, done())), (2, reply(8, 1, Pure, done()))]);
    check("never answered",            Some(Lost), vec![(0, run_task(7)), (1_200, tick()), (1_500, tick())]);
    check("answered on waking up late", None,   vec![(0, run_task(7)), (9_000, tick()), (9_000, reply(7, 1, Pure, missed())), (9_500, tick())]);
    check("nothing owed after a new life", None, vec![(0, run_task(7)), (5, boot(true)), (1_200, tick()), (1_500, tick())]);
    check("another result",            Some(WrongResult), vec![(0, run_task(7)), (1, reply(7, 1, Pure, wrong()))]);
    check("done with its effect",      None,    vec![(0, run_task(7)), (1, applied(1, 1)), (2, reply(7, 1, Once, done()))]);
    check("done without its effect",   Some(DoneWithoutEffect), vec![(0, run_task(7)), (2, reply(7, 1, Once, done()))]);
    check("the effect twice",          Some(EffectTwice), vec![(0, run_task(7)), (1, applied(1, 1)), (2, applied(1, 2))]);
    check("missed after its effect",   Some(EffectDenied), vec![(0, run_task(7)), (1, applied(1, 1)), (2, reply(7, 1, Once, missed()))]);
    check("effect after missed",       Some(EffectDenied), vec![(0, run_task(7)), (1, reply(7, 1, Once, missed())), (2, applied(1, 1))]);
    check("nobody knows, and it did",  None,    vec![(0, run_task(7)), (1, reply(7, 1, Once, unknown())), (2, applied(1, 1))]);
    check("long after nobody knew",    Some(EffectBehindBack), vec![(0, run_task(7)), (1, reply(7, 1, Once, unknown())), (6_600, applied(1, 1))]);
    check("an effect within its lease", None,   vec![(0, run()), (99, effect())]);
    check("an effect after its lease", Some(EffectAfterLease), vec![(0, run()), (100, effect())]);
    check("a renewed lease",           None,    vec![(0, run()), (90, renew()), (180, effect())]);
    check("a renewal that is late",    Some(EffectAfterLease), vec![(0, run()), (110, renew()), (120, effect())]);
    check("a copy renews nothing",     Some(EffectAfterLease), vec![(0, run()), (90, run()), (110, effect())]);
    check("two calls on two cores",    None,    vec![(0, call(1)), (0, call(2))]);
    check("three calls on two cores",  Some(TooManyCalls), vec![(0, call(1)), (0, call(2)), (0, call(3))]);
    check("the third after the first", None,    vec![(0, call(1)), (0, call(2)), (1, call_ended(1)), (1, call(3))]);
    check("a call's number again",     Some(TooManyCalls), vec![(0, call(1)), (0, call(1))]);
    check("export by a rule",          None,    vec![(0, send_out())]);
    check("export without",            Some(ExportWithoutRule), vec![(0, boot(false)), (0, send_out())]);
    check("background squeezed",       None,    vec![(0, squeeze(Class::Background))]);
    check("critical squeezed",         Some(CriticalTouched), vec![(0, squeeze(Class::Critical))]);
    check("an alarm",                  Some(Alarm), vec![(0, alarm())]);
}

#[track_caller]
fn check(story: &str, expected: Option<Rule>, entries: Vec<(u64, Entry)>) {
    let mut checker = Checker::new(true);
    let begin = [(0, boot(true))];
    let mut broken = None;
    for (ms, entry) in begin.into_iter().chain(entries) {
        assert_eq!(broken, None, "{story}: broken before its end");
        let at = Timestamp::from_micros(ms * 1000);
        broken = checker
            .saw(&Record { node: name!(NodeId, "a1"), at, entry })
            .err()
            .map(|violation| violation.rule);
    }
    assert_eq!(broken, expected, "{story}");
}

#[test]
fn a_critical_app_is_never_frozen() {
    let manifest = fleet(1, 2)[1].manifest.clone();
    let freeze = |app: &policies::manifest::App| {
        let app = app.app_ref();
        Entry::Output(Output::Host(HostCommand::Freeze { app }))
    };
    let apply =
        Entry::Input(Input::Control { request: 1, call: ControlCall::Apply { manifest: manifest.clone() } });
    let critical = manifest.apps.iter().find(|app| app.class == Class::Critical).unwrap();
    let other = manifest.apps.iter().find(|app| app.class != Class::Critical).unwrap();
    check("another app", None, vec![(0, apply.clone()), (1, freeze(other))]);
    check("the critical app", Some(Rule::CriticalTouched), vec![(0, apply), (1, freeze(critical))]);
}
