//! Any sequence of inputs: no panic, no alarm, tables bounded, one answer per request.

use super::*;
use alloc::boxed::Box;
use policies::face::TxFrame;
use policies::id::{Attempt, BusName, TaskId};
use policies::limits;
use proptest::prelude::*;
use v2e_core::message::{CallForTask, Envelope, JobEnd, Run, ToRequester, ToWorker};

const APPS: [&str; 3] = ["speedo", "games", "nobody"];
const FUNCTIONS: [&str; 4] = ["lane", "toll", "road-sample", "unknown"];
const PEERS: [&str; 4] = ["a2", "e1", "b1", "a1"];

fn task() -> impl Strategy<Value = TaskId> + Clone {
    (0usize..4, 0u64..3, 0u64..20).prop_map(|(owner, life, number)| TaskId {
        owner: node_id(PEERS[owner]),
        incarnation: Incarnation(life),
        number,
    })
}

fn pick(names: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(names)
}

fn host_event() -> impl Strategy<Value = HostEvent> {
    let exit =
        prop_oneof![Just(Exit::Code(0)), Just(Exit::Code(3)), Just(Exit::OutOfMemory), Just(Exit::Unknown)];
    let face = prop_oneof![
        Just(Face::Bus),
        Just(Face::Camera),
        Just(Face::Border(tenant())),
        Just(Face::Worker(tenant()))
    ];
    let instance = (0u64..3, 0u64..4).prop_map(|(life, n)| (life << 24) + n);
    prop_oneof![
        (pick(&APPS), instance.clone(), exit.clone()).prop_map(|(app, instance, exit)| HostEvent::Exited {
            app: app_ref(app),
            instance,
            exit
        }),
        (pick(&APPS), instance.clone()).prop_map(|(app, instance)| HostEvent::Started {
            app: app_ref(app),
            instance,
            took_us: 1,
            enforced: Vec::new()
        }),
        face.clone().prop_map(|face| HostEvent::FaceStarted { face }),
        (face, exit).prop_map(|(face, exit)| HostEvent::FaceExited { face, exit, why: None }),
        (pick(&APPS), any::<bool>()).prop_map(|(app, frozen)| HostEvent::FreezeChanged {
            app: app_ref(app),
            frozen,
            by: "x".into()
        }),
        (any::<bool>(), 0u16..1000, 0u16..1000).prop_map(|(psi, cpu, memory)| HostEvent::Sampled {
            apps: Vec::new(),
            pressure: Pressure {
                cpu: psi.then_some(cpu),
                memory: psi.then_some(memory),
                memory_used: memory,
                cpu_used: cpu
            }
        }),
        (pick(&APPS), instance).prop_map(|(app, instance)| HostEvent::Hello {
            node: node_id("a1"),
            incarnation: Incarnation(1),
            machine: Vec::new(),
            adopted: vec![(app_ref(app), instance)]
        }),
        pick(&["speedo", "lane", "toll"]).prop_map(|name| HostEvent::Imported {
            bundle: Digest::of(name.as_bytes()),
            signed_by: "k".into()
        }),
    ]
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    let run = (task(), 0u32..4, 0u64..3, pick(&FUNCTIONS), 0usize..3, any::<u32>());
    let attempt = (task(), 0u32..4);
    prop_oneof![
        run.prop_map(|(task, attempt, life, name, effect, us)| ToWorker::Run(Run {
            task,
            attempt: Attempt(attempt),
            life: Incarnation(life),
            tenant: tenant(),
            function: function(name),
            bundle: Digest::of(name.as_bytes()),
            effect: [Effect::Pure, Effect::Idempotent, Effect::Once][effect],
            class: Class::Comfort,
            deadline_us: u64::from(us) % 600_000_000,
            lease_us: u64::from(us) % 1_000_000,
            input: blob(),
        })),
        attempt.clone().prop_map(|(task, n)| ToWorker::Status { task, attempt: Attempt(n) }),
        attempt.clone().prop_map(|(task, n)| ToWorker::Cancel { task, attempt: Attempt(n) }),
        attempt.clone().prop_map(|(task, n)| ToWorker::Renew { task, attempt: Attempt(n), lease_us: 1_000 }),
        attempt.prop_map(|(task, n)| ToWorker::Ack { task, attempt: Attempt(n) }),
        (task(), pick(&FUNCTIONS), any::<u32>()).prop_map(|(call, name, us)| ToWorker::Call(CallForTask {
            call,
            function: function(name),
            want: "x".into(),
            area: None,
            deadline_us: u64::from(us) % 600_000_000,
        })),
    ]
}

fn to_requester() -> impl Strategy<Value = ToRequester> {
    let attempt = (task(), 0u32..4);
    prop_oneof![
        attempt.clone().prop_map(|(task, n)| ToRequester::Accepted {
            task,
            attempt: Attempt(n),
            eta_us: 5,
            lease_us: 5
        }),
        attempt.clone().prop_map(|(task, n)| ToRequester::Rejected {
            task,
            attempt: Attempt(n),
            why: "full".into(),
            eta_us: None
        }),
        attempt.clone().prop_map(|(task, n)| ToRequester::Began { task, attempt: Attempt(n) }),
        (attempt, 0usize..3).prop_map(|((task, n), how)| ToRequester::Ended {
            task,
            attempt: Attempt(n),
            end: [
                JobEnd::Done { result: blob() },
                JobEnd::Stopped { why: "x".into() },
                JobEnd::Unknown { why: "x".into() }
            ][how]
                .clone(),
            queued_us: 1,
            exec_us: 1,
        }),
        (task(), any::<i64>(), any::<u32>()).prop_map(|(call, value_micro, n)| ToRequester::Partial {
            call,
            reading: Reading { value_micro, n }
        }),
    ]
}

fn received() -> impl Strategy<Value = Input> {
    let body = prop_oneof![to_worker().prop_map(Ok), to_requester().prop_map(Err)];
    (0usize..4, 0u64..3, body, any::<bool>(), any::<bool>()).prop_map(|(peer, life, body, whole, car)| {
        let (sender, incarnation) = (node_id(PEERS[peer]), Incarnation(life));
        let from = sender.clone();
        let message = match body {
            Ok(body) => Message::ToWorker(Envelope { sender, incarnation, body }),
            Err(body) => Message::ToRequester(Envelope { sender, incarnation, body }),
        };
        let payload = message.payload().filter(|_| whole);
        let realm = if car { Realm::Car } else { Realm::Outside };
        Input::Received { realm, from, message, payload }
    })
}

fn control() -> impl Strategy<Value = ControlCall> {
    prop_oneof![
        Just(ControlCall::Apply { manifest: manifest() }),
        pick(&APPS).prop_map(|app| ControlCall::Delete { app: app_ref(app) }),
        pick(&FUNCTIONS).prop_map(|name| ControlCall::DeleteFunction { function: function(name) }),
        pick(&APPS).prop_map(|app| ControlCall::Freeze { app: app_ref(app) }),
        pick(&APPS).prop_map(|app| ControlCall::Thaw { app: app_ref(app) }),
        pick(&APPS).prop_map(|app| ControlCall::Restart { app: app_ref(app) }),
        task().prop_map(|task| ControlCall::Cancel { task }),
        (pick(&FUNCTIONS), 0u64..2_000_000).prop_map(|(name, deadline_us)| ControlCall::RunTask {
            function: function(name),
            deadline_us,
            class: Class::Comfort,
            effect: None,
            input: blob()
        }),
    ]
}

fn ask() -> impl Strategy<Value = AppAsk> {
    prop_oneof![
        (pick(&FUNCTIONS), 0u64..2_000).prop_map(|(name, ms)| run_task(name, ms)),
        any::<u32>().prop_map(|id| AppAsk::SendFrame(TxFrame {
            bus: BusName::new("can0").unwrap(),
            id,
            extended: false,
            data: vec![0; 8]
        })),
        any::<String>().prop_map(|key| AppAsk::Denied { key }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Feed(Box<Input>),
    Ask(&'static str, AppAsk),
    Control(ControlCall),
    Wait(u64),
    Reboot,
}

fn feed(input: Input) -> Step {
    Step::Feed(Box::new(input))
}

fn step() -> impl Strategy<Value = Step> {
    let job = (0u64..30, any::<bool>());
    prop_oneof![
        4 => received().prop_map(feed),
        2 => host_event().prop_map(|event| feed(Input::Host(event))),
        3 => (pick(&APPS), ask()).prop_map(|(app, ask)| Step::Ask(app, ask)),
        2 => control().prop_map(Step::Control),
        3 => (0u64..700_000).prop_map(Step::Wait),
        1 => pick(&PEERS).prop_map(|peer| feed(Input::Silent { realm: Realm::Car, peer: node_id(peer) })),
        1 => pick(&PEERS).prop_map(|peer| feed(Input::PeerGone { realm: Realm::Car, peer: node_id(peer) })),
        1 => job.prop_map(|(job, good)| {
            let end = if good {
                CallEnd::Returned { result: blob(), effect: Some("toll".into()), reading: None }
            } else {
                CallEnd::Failed { code: 3, why: "no".into() }
            };
            feed(Input::Job(JobEvent::Ended { job, end, took_us: 7 }))
        }),
        1 => (0u64..40, any::<bool>()).prop_map(|(ticket, good)| {
            let result = if good { Ok(()) } else { Err("full".into()) };
            feed(Input::Persisted { ticket, result })
        }),
        1 => (0u64..10).prop_map(|request| {
            feed(Input::Bus(FromBus::Snapshot { request: request | 1 << 63, samples: snapshot() }))
        }),
        1 => Just(Step::Reboot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn no_panic_no_alarm_bounded_tables_one_answer(steps in prop::collection::vec(step(), 1..80)) {
        let mut rig = Rig::new(&["a1", "a2", "e1"]);
        rig.wild = true;
        let mut asked = Vec::new();
        for step in steps {
            match step {
                Step::Feed(input) => rig.feed("a1", *input),
                Step::Ask(app, ask) => asked.push(rig.ask("a1", app, ask)),
                Step::Control(call) => {
                    let request = rig.request();
                    rig.feed("a1", Input::Control { request, call });
                }
                Step::Wait(us) => rig.run_for(us),
                Step::Reboot => {
                    asked.clear();
                    rig.boot("a1");
                }
            }
            let answered_twice = asked.iter().find(|request| rig.answers("a1", **request).len() > 1);
            prop_assert_eq!(answered_twice, None);
        }
        rig.run_for(15_000 * MS);
        let now = Timestamp::from_micros(rig.now);
        let site = rig.site("a1");
        let view = site.node.status(now).unwrap();
        prop_assert_eq!(view.open_tasks, 0);
        prop_assert!(site.node.apps().len() <= limits::APPS_MAX);
        prop_assert!(site.node.peers(now).len() <= limits::PEERS_MAX);
        prop_assert!(site.node.tasks().len() <= limits::STORIES_MAX);
    }
}
