//! The bus process over real sockets: a multicast bus, channels to node and borders, an effect server.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use can_bridge::bus::Bus as _;
use can_bridge::face::{Attach, EffectStream};
use can_bridge::framed::Fill;
use can_bridge::multicast::Multicast;
use can_core::dbc;
use can_core::frame::CanFrame;
use policies::face::{FromBus, ToBorder, ToBus, TxFrame};
use policies::host::AppRef;
use policies::id::{AppName, Attempt, BusName, Incarnation, NodeId, TaskId, TenantId};
use policies::signal::{Signal, SignalPattern, Value};
use support::process::{Peer, Process};
use support::{id, open, own_dbc, receive, wait_for};

fn lane() -> AppRef {
    AppRef { tenant: TenantId::new("oem").unwrap(), app: AppName::new("lane").unwrap() }
}

fn route(pattern: &str) -> ToBus {
    ToBus::Route { app: lane(), signals: vec![SignalPattern::new(pattern).unwrap()] }
}

fn speed_frame(kmh: f64) -> CanFrame {
    let bytes = std::fs::read(own_dbc("verge-demo.dbc")).unwrap();
    let plan = dbc::compile("verge-demo.dbc", &bytes).unwrap();
    plan.message_named("Motion").unwrap().1.encode_named(&[("VehicleSpeed", kmh)]).unwrap()
}

fn send_speed(bus: &mut Multicast, kmh: f64) {
    bus.send(&speed_frame(kmh)).unwrap();
}

#[test]
fn a_frame_becomes_a_signal_at_the_border() {
    let mut process = Process::start(None, false);
    let mut border = process.border("oem");
    process.node.tell(&route("Vehicle.Speed"));
    process.stats();
    let mut car = open(process.group);
    send_speed(&mut car, 42.0);
    let ToBorder::Signals { app, samples } = border.hear() else { panic!("not signals") };
    assert_eq!(app, lane().app);
    let (Signal { path, value, unit, seq, .. }, age) = samples[0].clone();
    assert_eq!((path.as_str(), value, unit.as_str(), seq), ("Vehicle.Speed", Value::Number(42.0), "km/h", 1));
    assert!(age < 1_000_000, "{age} us");
    process
        .node
        .tell(&ToBus::Snapshot { request: 9, signals: vec![SignalPattern::new("Vehicle.*").unwrap()] });
    let FromBus::Snapshot { request: 9, samples } = process.node.hear() else { panic!("not a snapshot") };
    assert_eq!(samples[0].0.value, Value::Number(42.0));
    process.stop();
}

#[test]
fn an_app_sends_only_what_the_guard_passes() {
    let mut process = Process::start(None, false);
    let mut ecu = open(process.group);
    let bus = BusName::new("can0").unwrap();
    for (request, id) in [(1, 672), (2, 673)] {
        let frame = TxFrame { bus: bus.clone(), id, extended: false, data: vec![7] };
        process.node.tell(&ToBus::Transmit { request, app: lane(), frame });
    }
    assert_eq!(process.node.hear::<FromBus>(), FromBus::Transmitted { request: 1, result: Ok(()) });
    let FromBus::Transmitted { request: 2, result: Err(why) } = process.node.hear() else { panic!("passed") };
    assert!(why.starts_with("not-granted"), "{why}");
    assert_eq!(receive(&mut ecu, 1), [CanFrame::classic(id(672, false), &[7]).unwrap()]);
    let stats = process.stats();
    assert_eq!((stats.frames_out, stats.frames_in, stats.refused), (1, 0, vec![("not-granted".into(), 1)]));
    process.stop();
}

fn effect(number: u64, attempt: u32, line: &str) -> ToBus {
    let task = TaskId { owner: NodeId::new("a1").unwrap(), incarnation: Incarnation(1), number };
    ToBus::Effect { task, attempt: Attempt(attempt), line: line.into() }
}

fn outcome(process: &mut Process) -> Result<(), String> {
    match process.node.hear() {
        FromBus::EffectDone { result, .. } => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_effect_reaches_the_server_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut process = Process::start(Some(EffectStream::Tcp(stream)), false);
    for (number, attempt, line) in [(1, 1, "toll 1"), (1, 2, "toll 1"), (2, 1, "toll 2")] {
        process.node.tell(&effect(number, attempt, line));
    }
    assert_eq!(outcome(&mut process), Ok(()));
    let repeat = outcome(&mut process);
    let fenced = !cfg!(feature = "testing-no-fence");
    assert_eq!(repeat, if fenced { Err("already done".into()) } else { Ok(()) });
    assert_eq!(outcome(&mut process), Ok(()));
    process.stop();
    let mut ledger = String::new();
    listener.accept().unwrap().0.read_to_string(&mut ledger).unwrap();
    assert_eq!(ledger, if fenced { "toll 1\ntoll 2\n" } else { "toll 1\ntoll 1\ntoll 2\n" });
}

#[test]
fn an_effect_without_an_acknowledgement_is_never_repeated() {
    let (mut server, stream) = UnixStream::pair().unwrap();
    let mut process = Process::start(Some(EffectStream::Unix(stream)), true);
    process.node.tell(&effect(1, 1, "toll 1"));
    let mut line = [0; 7];
    server.read_exact(&mut line).unwrap();
    server.write_all(b"ok\n").unwrap();
    assert_eq!(outcome(&mut process), Ok(()));
    process.node.tell(&effect(2, 1, "toll 2"));
    server.read_exact(&mut line).unwrap();
    drop(server);
    assert_eq!(outcome(&mut process), Err("outcome unknown".into()));
    process.node.tell(&effect(3, 1, "toll 3"));
    assert_eq!(outcome(&mut process), Err("server unreachable".into()));
    let (mut server, stream) = UnixStream::pair().unwrap();
    assert!(process.attach.send(Attach::Effect(EffectStream::Unix(stream))));
    // The queue of attachments and node's channel are two: ask until the new server is in use.
    wait_for("the new server to be in use", || {
        process.node.tell(&effect(3, 2, "toll 3"));
        process.node.tell(&ToBus::Stats);
        match process.node.hear() {
            FromBus::EffectDone { result: Err(why), .. } if why == "server unreachable" => {
                let _: FromBus = process.node.hear();
                None
            }
            _ => Some(()),
        }
    });
    server.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"toll 3\n");
    process.stop();
}

#[test]
fn a_slow_border_loses_the_oldest_and_nobody_waits() {
    let mut process = Process::start(None, false);
    let (slow, theirs) = UnixStream::pair().unwrap();
    assert!(process.attach.send(Attach::Border(TenantId::new("oem").unwrap(), theirs)));
    process.node.tell(&route("Vehicle.**"));
    // Opening and closing the route sends every known value again: messages without waiting for time to pass.
    let mut car = open(process.group);
    send_speed(&mut car, 1.0);
    wait_for("the first frame", || (process.stats().frames_in == 1).then_some(()));
    wait_for("messages to be dropped", || {
        for _ in 0..200 {
            process.node.tell(&ToBus::Route { app: lane(), signals: vec![] });
            process.node.tell(&route("Vehicle.**"));
        }
        (process.stats().dropped > 0).then_some(())
    });
    send_speed(&mut car, 99.0);
    drop(slow);
    wait_for("the bus to read on", || (process.stats().frames_in == 2).then_some(()));
    process.stop();
}

#[test]
fn node_may_die_and_come_back_and_a_border_that_talks_is_cut_off() {
    let mut process = Process::start(None, false);
    let mut border = process.border("oem");
    process.node.tell(&route("Vehicle.Speed"));
    process.stats();
    let (node, theirs) = Peer::pair();
    process.node = node;
    assert!(process.attach.send(Attach::Node(theirs)));
    process.stats();
    let mut car = open(process.group);
    send_speed(&mut car, 5.0);
    let message: ToBorder = border.hear();
    assert!(matches!(message, ToBorder::Signals { .. }), "routes outlive node");
    border.stream.write_all(b"let me in").unwrap();
    wait_for("the channel to be closed", || {
        matches!(border.reader.fill(&mut border.stream), Ok(Fill::Closed) | Err(_)).then_some(())
    });
    let Process { node, attach, thread, .. } = process;
    drop((node, attach));
    thread.join().unwrap().unwrap();
}
