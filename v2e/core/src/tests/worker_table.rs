//! What a worker answers to each message in each state of an attempt.

use super::*;
use crate::message::Run;

/// What the worker is brought to before the message arrives.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    Running,
    Done,
    Refused,
    Stopped,
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Run(u32),
    Status(u32),
    Renew(u32),
    Cancel(u32),
}

fn run(attempt: u32, effect: Effect) -> Run {
    Run {
        task: task(),
        attempt: Attempt(attempt),
        life: Incarnation(1),
        tenant: TenantId::new("oem").unwrap(),
        function: FunctionName::new("f").unwrap(),
        bundle: Digest::of(b"code"),
        effect,
        class: Class::Comfort,
        deadline_us: 500 * MS,
        lease_us: 400 * MS,
        input: blob(),
    }
}

fn task() -> TaskId {
    TaskId { owner: node("a1"), incarnation: Incarnation(9), number: 1 }
}

fn terms() -> Result<Terms, String> {
    Ok(Terms { tenant: TenantId::new("oem").unwrap(), cost_us: 10 * MS })
}

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

fn prepare(before: Before) -> Worker {
    let mut worker = Worker::new(Incarnation(1), 1);
    let mut handle = |input| worker.handle(NOW, input);
    let from = node("a1");
    let arrive = |terms| worker::Input::Run { from: from.clone(), run: run(2, Effect::Idempotent), terms };
    match before {
        Before::Nothing => {}
        Before::Refused => handle(arrive(Err("policy".into()))),
        Before::Running => handle(arrive(terms())),
        Before::Done | Before::Stopped => {
            handle(arrive(terms()));
            let end = match before {
                Before::Done => CallEnd::Returned { result: blob(), effect: None },
                _ => CallEnd::Lost { why: "gone".into() },
            };
            handle(worker::Input::Ended { job: 1, end, took_us: 5 });
        }
    }
    while worker.poll().is_some() {}
    worker
}

fn answer(worker: &mut Worker, message: Message) -> (String, bool) {
    let from = node("a1");
    let control = |message| worker::Input::Control { from: from.clone(), message };
    let attempt = |n| Attempt(n);
    worker.handle(
        NOW,
        match message {
            Message::Run(n) => {
                worker::Input::Run { from: from.clone(), run: run(n, Effect::Idempotent), terms: terms() }
            }
            Message::Status(n) => control(ToWorker::Status { task: task(), attempt: attempt(n) }),
            Message::Renew(n) => control(ToWorker::Renew { task: task(), attempt: attempt(n), lease_us: 1 }),
            Message::Cancel(n) => control(ToWorker::Cancel { task: task(), attempt: attempt(n) }),
        },
    );
    let (mut words, mut started) = (Vec::new(), false);
    while let Some(output) = worker.poll() {
        match output {
            worker::Output::Send { body, .. } => words.push(word(&body)),
            worker::Output::Start { .. } => started = true,
            _ => {}
        }
    }
    (words.join(" "), started)
}

fn word(body: &ToRequester) -> String {
    use crate::message::JobEnd;
    match body {
        ToRequester::Accepted { .. } => "accepted".into(),
        ToRequester::Rejected { .. } => "rejected".into(),
        ToRequester::Busy { .. } => "busy".into(),
        ToRequester::Began { .. } => "began".into(),
        ToRequester::Ended { end: JobEnd::Done { .. }, .. } => "done".into(),
        ToRequester::Ended { end: JobEnd::Stopped { .. }, .. } => "stopped".into(),
        ToRequester::Ended { .. } => "ended".into(),
        ToRequester::Partial { .. } => "partial".into(),
    }
}

/// Attempt 2 is the one that the state before is about.
#[test]
#[rustfmt::skip]
fn answer_table() {
    if cfg!(feature = "testing-no-dedup") {
        return;
    }
    //    before            message             answer       runs
    check(Before::Nothing,  Message::Run(2),    "accepted",  true);
    check(Before::Nothing,  Message::Status(2), "rejected",  false);
    check(Before::Nothing,  Message::Renew(2),  "rejected",  false);
    check(Before::Nothing,  Message::Cancel(2), "rejected",  false);
    check(Before::Running,  Message::Run(2),    "began",     false);
    check(Before::Running,  Message::Run(1),    "rejected",  false);
    check(Before::Running,  Message::Run(3),    "busy",      false);
    check(Before::Running,  Message::Status(2), "began",     false);
    check(Before::Running,  Message::Renew(2),  "began",     false);
    check(Before::Running,  Message::Status(3), "rejected",  false);
    check(Before::Running,  Message::Cancel(2), "began",     false);
    check(Before::Done,     Message::Run(2),    "done",      false);
    check(Before::Done,     Message::Run(1),    "rejected",  false);
    check(Before::Done,     Message::Run(3),    "done",      false);
    check(Before::Done,     Message::Status(2), "done",      false);
    check(Before::Done,     Message::Status(3), "done",      false);
    check(Before::Done,     Message::Cancel(2), "done",      false);
    check(Before::Refused,  Message::Run(2),    "rejected",  false);
    check(Before::Refused,  Message::Run(3),    "accepted",  true);
    check(Before::Stopped,  Message::Run(2),    "stopped",   false);
    check(Before::Stopped,  Message::Run(3),    "accepted",  true);
    check(Before::Stopped,  Message::Status(2), "stopped",   false);
}

#[track_caller]
fn check(before: Before, message: Message, expected: &str, runs: bool) {
    let mut worker = prepare(before);
    assert_eq!(answer(&mut worker, message), (expected.into(), runs), "{before:?} {message:?}");
}

#[test]
fn an_attempt_that_was_asked_about_too_early_never_starts() {
    let mut worker = prepare(Before::Nothing);
    assert_eq!(answer(&mut worker, Message::Status(2)), ("rejected".into(), false));
    if cfg!(not(feature = "testing-no-dedup")) {
        assert_eq!(answer(&mut worker, Message::Run(2)), ("rejected".into(), false));
    }
    assert_eq!(answer(&mut worker, Message::Run(3)), ("accepted".into(), true));
}

#[test]
fn a_run_meant_for_another_life_is_refused() {
    let mut worker = Worker::new(Incarnation(5), 1);
    assert_eq!(answer(&mut worker, Message::Run(1)), ("rejected".into(), false));
}

#[test]
fn strangers_cannot_touch_a_job() {
    let mut worker = prepare(Before::Running);
    for message in [
        ToWorker::Cancel { task: task(), attempt: Attempt(2) },
        ToWorker::Status { task: task(), attempt: Attempt(2) },
        ToWorker::Ack { task: task(), attempt: Attempt(2) },
    ] {
        worker.handle(NOW, worker::Input::Control { from: node("mallory"), message });
        assert_eq!(worker.poll(), None);
    }
    assert_eq!(worker.sizes().0, 1);
}

#[test]
fn an_overloaded_worker_rejects_at_once_with_an_eta() {
    let mut worker = Worker::new(Incarnation(1), 1);
    let mut verdicts = Vec::new();
    for number in 1..=60 {
        let mut run = run(1, Effect::Pure);
        run.task.number = number;
        worker.handle(NOW, worker::Input::Run { from: node("a1"), run, terms: terms() });
        while let Some(output) = worker.poll() {
            if let worker::Output::Send { body: ToRequester::Rejected { eta_us, .. }, .. } = output {
                verdicts.push(eta_us);
            }
        }
    }
    // 70 % of 500 ms for class comfort hold 35 jobs of 10 ms.
    assert_eq!(verdicts.len(), 25);
    assert!(verdicts.iter().all(Option::is_some));
}

#[test]
fn a_pure_function_that_names_an_effect_fails() {
    let mut worker = prepare(Before::Running);
    let end = CallEnd::Returned { result: blob(), effect: Some("toll".into()) };
    worker.handle(NOW, worker::Input::Ended { job: 1, end, took_us: 1 });
    let outputs: Vec<_> = core::iter::from_fn(|| worker.poll()).collect();
    assert!(!outputs.iter().any(|output| matches!(output, worker::Output::Effect { .. })));
    let failed =
        |o: &worker::Output| matches!(o, worker::Output::Send { body: ToRequester::Ended { .. }, .. });
    assert!(outputs.iter().any(failed));
}

#[test]
fn records_are_bounded_and_expire() {
    let mut worker = Worker::new(Incarnation(1), 1);
    for number in 1..=u64::try_from(policies::limits::RECORDS_MAX).unwrap() + 100 {
        let task = TaskId { number, ..task() };
        let message = ToWorker::Status { task, attempt: Attempt(1) };
        worker.handle(NOW, worker::Input::Control { from: node("a1"), message });
        while worker.poll().is_some() {}
    }
    assert_eq!(worker.sizes().1, policies::limits::RECORDS_MAX);
    let (at, _) = worker.next_wake().unwrap();
    worker.handle(at, worker::Input::Tick);
    assert_eq!(worker.sizes().1, 0);
}

#[test]
fn a_once_job_that_returns_after_its_lease_has_no_effect() {
    if cfg!(feature = "testing-no-lease") {
        return;
    }
    let mut worker = Worker::new(Incarnation(1), 1);
    let run = run(1, Effect::Once);
    worker.handle(NOW, worker::Input::Run { from: node("a1"), run, terms: terms() });
    let (task, attempt, result) = (task(), Attempt(1), Ok(()));
    worker.handle(NOW, worker::Input::Persisted { task, attempt, result });
    let late = NOW + core::time::Duration::from_millis(450);
    let end = CallEnd::Returned { result: blob(), effect: Some("toll".into()) };
    worker.handle(late, worker::Input::Ended { job: 1, end, took_us: 1 });
    let outputs: Vec<_> = core::iter::from_fn(|| worker.poll()).collect();
    assert!(!outputs.iter().any(|output| matches!(output, worker::Output::Effect { .. })), "{outputs:?}");
    let stopped = |output: &worker::Output| match output {
        worker::Output::Send { body, .. } => word(body) == "stopped",
        _ => false,
    };
    assert!(outputs.iter().any(stopped), "{outputs:?}");
}
