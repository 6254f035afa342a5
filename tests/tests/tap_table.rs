//! The tap can fail: made-up traces and recordings with one thing wrong each.

use std::collections::BTreeMap;

use can_core::frame::{CanFrame, CanId};
use can_core::multicast::{self, Datagram};
use obu_core::io::{Input, Output};
use obu_core::record::{Entry, Record};
use policies::face::{ToBus, TxFrame};
use policies::host::{AppRef, HostCommand, StartApp};
use policies::id::{Attempt, Incarnation, NodeId, TaskId};
use policies::manifest::Resources;
use policies::task::Class;
use policies::time::Timestamp;
use policies::unit::Span;
use tests::tap::account::account;
use tests::tap::acts::acts;
use tests::tap::book::by_server;
use tests::tap::realm::{Heard, between_nodes, by_ear};
use tests::tap::trace;
use v2e::keys::{Key, RealmName};
use v2e_core::message::{Envelope, Message, ToWorker};
use v2e_core::report::Realm;

/// A host that starts an app and a bus face, and stops the app. The bus sends a frame and an effect.
const TRACE: &str = r#"
100 10.000001 execve("/v/verge-host", ["/v/verge-host", "--config", "a1/node.toml"], 0x7 /* 3 vars */) = 0
100 10.000002 fsync(6</v/a1/state/incarnation.new>) = 0
100 10.000010 openat(AT_FDCWD</v>, "/sys/fs/cgroup/unified/verge-a1/faces/bus", O_RDONLY|O_PATH|O_DIRECTORY) = 20</sys/fs/cgroup/unified/verge-a1/faces/bus>
100 10.000011 clone3({flags=CLONE_PIDFD|CLONE_NEWPID|CLONE_INTO_CGROUP, pidfd=0x7f, cgroup=20} <unfinished ...>
100 10.000012 <... clone3 resumed> => {pidfd=[30<anon_inode:[pidfd]>]}, 88) = 110
110 10.000013 clone(child_stack=NULL, flags=SIGCHLD) = 2 /* 111 in strace's PID NS */
111 10.000014 execve("/verge", ["/verge", "face", "bus"], 0x5 /* 5 vars */) = 0
100 10.000110 openat(AT_FDCWD</v>, "/sys/fs/cgroup/unified/verge-a1/driving/oem/lane", O_RDONLY|O_PATH|O_DIRECTORY) = 21</sys/fs/cgroup/unified/verge-a1/driving/oem/lane>
100 10.000111 clone3({flags=CLONE_PIDFD|CLONE_NEWPID, pidfd=0x7f, cgroup=21} => {pidfd=[31<anon_inode:[pidfd]>]}, 88) = 120
120 10.000112 clone(child_stack=NULL, flags=SIGCHLD) = 2 /* 121 in strace's PID NS */
121 10.000113 execve("/app/lane", ["/app/lane", "-v"], 0x5 /* 3 vars */) = 0
111 10.000130 sendto(7<UDP:[1]>, "FRAME", 20, MSG_NOSIGNAL, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("239.0.0.1")}, 16) = 20
111 10.000140 sendto(8<TCP:[2]>, "task=a1.1.7 attempt=1 toll A\n", 29, MSG_NOSIGNAL, NULL, 0) = 29
100 10.000201 write(9</sys/fs/cgroup/unified/verge-a1/driving/oem/lane/cgroup.freeze>, "0", 1) = 1
100 10.000202 pidfd_send_signal(31<anon_inode:[pidfd]>, SIGTERM, NULL, 0) = 0
120 10.000203 kill(2 /* 121 in strace's PID NS */, SIGTERM) = 0
120 10.000204 +++ exited with 0 +++
100 10.000205 write(9</sys/fs/cgroup/unified/verge-a1/driving/oem/lane/cgroup.kill>, "1", 1) = 1
"#;

/// The trace, with the frame as python-can puts it on the bus.
fn good() -> String {
    let id = CanId::new(0x101, false).unwrap();
    let datagram = Datagram { timestamp: 1.0, frame: CanFrame::classic(id, &[1, 2]).unwrap() };
    let mut bytes = Vec::new();
    multicast::encode(&datagram, &mut bytes);
    let text: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
    TRACE.trim().replace("FRAME", &text)
}

fn node(id: &str) -> NodeId {
    NodeId::new(id).unwrap()
}

fn lane() -> AppRef {
    AppRef { tenant: "oem".parse().unwrap(), app: "lane".parse().unwrap() }
}

fn output(at: u64, output: Output) -> Record {
    Record { node: node("a1"), at: Timestamp::from_micros(at), entry: Entry::Output(output) }
}

fn task() -> TaskId {
    TaskId { owner: node("a1"), incarnation: Incarnation(1), number: 7 }
}

/// What the node recorded: a start, a frame, an effect, a stop.
fn records() -> Vec<Record> {
    let start = StartApp {
        app: lane(),
        instance: 1,
        bundle: policies::id::Digest::of(b"lane"),
        base: None,
        command: vec!["/app/lane".into(), "-v".into()],
        env: Vec::new(),
        class: Class::Driving,
        resources: Resources::default(),
        island: false,
    };
    let frame = TxFrame { bus: "can0".parse().unwrap(), id: 0x101, extended: false, data: vec![1, 2] };
    let stop = HostCommand::Stop { app: lane(), grace: Span::from_millis(100) };
    vec![
        output(10_000_100, Output::Host(HostCommand::Start(start))),
        output(10_000_120, Output::Bus(ToBus::Transmit { request: 1, app: lane(), frame })),
        output(10_000_120, Output::Effect { task: task(), attempt: Attempt(1), line: "toll A".into() }),
        output(10_000_200, Output::Host(stop)),
    ]
}

fn findings(trace: &str, records: &[Record]) -> Vec<String> {
    account("a1", &acts(&trace::read(trace), 0), records).findings
}

/// A trace with a further line at its place in time.
fn with(line: &str) -> String {
    let good = good();
    let mut lines: Vec<&str> = good.lines().chain([line]).collect();
    lines.sort_by_key(|line| line.split(' ').nth(1).map(str::to_owned));
    lines.join("\n")
}

fn without(part: &str) -> String {
    good().lines().filter(|line| !line.contains(part)).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_recorded_and_done_leaves_no_finding() {
    assert_eq!(findings(&good(), &records()), Vec::<String>::new());
}

#[test]
#[rustfmt::skip]
fn acts_that_nobody_recorded() {
    for (line, part) in [
        (r#"100 10.000206 pidfd_send_signal(31<anon_inode:[pidfd]>, SIGTERM, NULL, 0) = 0"#,                              "stop oem/lane"),
        (r#"120 10.0002035 kill(2 /* 121 in strace's PID NS */, SIGTERM) = 0"#,                                           "a signal of host's"),
        (r#"100 10.000150 write(9</sys/fs/cgroup/unified/verge-a1/driving/oem/lane/cgroup.freeze>, "1", 1) = 1"#,         "freeze oem/lane"),
        (r#"100 10.000150 write(9</sys/fs/cgroup/unified/verge-a1/driving/oem/lane/cgroup.kill>, "1", 1) = 1"#,           "a stop of app oem/lane"),
        (r#"100 10.000150 write(9</sys/fs/cgroup/cpu/verge-a1/driving/cpu.shares>, "2048", 4) = 4"#,                      "squeeze driving 2048"),
        (r#"100 10.000150 write(9</sys/fs/cgroup/memory/verge-a1/driving/oem/lane/memory.limit_in_bytes>, "1", 1) = 1"#,  "a resize of oem/lane"),
        (r#"100 10.000150 fsync(6</v/a1/state/incarnation.new>) = 0"#,                                                    "the beginning of a host"),
        (r#"111 10.000150 fdatasync(6</state/effects>) = 0"#,                                                             "to make durable"),
        (r#"111 10.000150 kill(1, SIGKILL) = 0"#,                                                                         "a face sends a signal"),
        (r#"111 10.000150 clone(child_stack=NULL, flags=SIGCHLD) = 9"#,                                                   "a face starts a process"),
        (r#"111 10.000150 execve("/bin/sh", ["/bin/sh"], 0x5 /* 5 vars */) = 0"#,                                         "a face starts a process"),
        (r#"111 10.000150 sendto(8<TCP:[2]>, "task=a1.1.7 attempt=1 toll A\n", 29, MSG_NOSIGNAL, NULL, 0) = 29"#,         "effect task=a1.1.7"),
        (r#"111 10.000150 sendto(7<UDP:[1]>, "junk", 4, MSG_NOSIGNAL, {sa_family=AF_INET, sin_port=htons(9)}, 16) = 4"#,   "frame not a frame"),
        (r#"111 10.000150 sendto(5<UNIX:[3]>, "vg\1\3\0\0\0\0\0\0\0\0\2\4lane\1\rVehicle.Speed", 32, 0, NULL, 0) = 32"#,   "a route of the bus in force that leads Vehicle.Speed to ?/lane"),
        (r#"555 10.000150 kill(1, SIGKILL) = 0"#,                                                                         "nobody was seen to make"),
    ] {
        let found = findings(&with(line), &records());
        assert!(found.len() == 1 && found[0].contains(part), "{line}: {found:?}");
    }
}

#[test]
#[rustfmt::skip]
fn outputs_that_nobody_performed() {
    for (part, claim) in [
        ("AF_INET",                  "frame 101#0102"),
        ("task=",                    "effect task=a1.1.7 attempt=1 toll A"),
        ("execve(\"/app/lane\"",     "start oem/lane /app/lane -v"),
    ] {
        let found = findings(&without(part), &records());
        assert!(found.iter().any(|f| f.contains("output without its act") && f.contains(claim)), "{part}: {found:?}");
    }
}

#[test]
fn an_act_of_another_node_another_program_or_before_its_output() {
    let of_another_node = findings(&good(), &[]);
    assert_eq!(of_another_node.len(), 5, "thaw, signal, start, frame and effect: {of_another_node:?}");
    let other = good().replace(r#"["/app/lane", "-v"]"#, r#"["/app/lane", "-x"]"#);
    assert_eq!(findings(&other, &records()).len(), 2, "an act without output, and an output without act");
    let mut late = records();
    late[0].at = Timestamp::from_micros(10_000_114);
    assert_eq!(findings(&good(), &late).len(), 2, "started before it was wanted");
    let line = ["task=a1.1.7 attempt=1 toll A".to_owned()];
    let nodes = BTreeMap::from([(node("a1"), records())]);
    assert!(by_server("effect", &line, &nodes).findings.is_empty());
    assert_eq!(by_server("effect", &[line[0].clone(), line[0].clone()], &nodes).findings.len(), 1, "twice");
}

fn ack(sender: &str) -> Message {
    let body = ToWorker::Ack { task: task(), attempt: Attempt(1) };
    Message::ToWorker(Envelope { sender: node(sender), incarnation: Incarnation(1), body })
}

fn sends(at: u64, to: &str) -> Record {
    output(at, Output::Send { realm: Realm::Car, to: node(to), message: ack("a1") })
}

fn receives(at: u64) -> Record {
    let message = ack("a1");
    let input = Input::Received { realm: Realm::Car, from: node("a1"), message, payload: None };
    Record { node: node("a2"), at: Timestamp::from_micros(at), entry: Entry::Input(input) }
}

#[test]
#[rustfmt::skip]
fn message_table() {
    for (name, sent, received, findings) in [
        ("as it should be",        vec![sends(10, "a2"), sends(20, "a2")], vec![receives(11), receives(21)],               0),
        ("once too often",         vec![sends(10, "a2")],                  vec![receives(11), receives(12)],               1),
        ("never sent",             vec![],                                 vec![receives(11)],                             1),
        ("before it was sent",     vec![sends(10, "a2")],                  vec![receives(9)],                              2),
        ("meant for another node", vec![sends(10, "a3")],                  vec![receives(11)],                             2),
        ("never received",         vec![sends(10, "a2")],                  vec![],                                         1),
    ] {
        let nodes = BTreeMap::from([(node("a1"), sent), (node("a2"), received)]);
        let report = between_nodes(&nodes, &[]);
        assert_eq!(report.findings.len(), findings, "{name}: {report}");
    }
}

#[test]
fn what_is_heard_in_a_realm_was_sent_by_whom_its_key_names() {
    let realm = RealmName::Car("car-a".parse().unwrap());
    let nodes = BTreeMap::from([(node("a1"), vec![sends(10, "a2")])]);
    let heard = |from: &str, message: &Message, at| {
        let key = Key::Ctl { node: node("a2"), incarnation: Incarnation(1), task: task(), from: node(from) };
        let (key, frame) = (key.spell(&realm), message.encode().unwrap());
        Heard { at, realm: Realm::Car, query: true, key, frame, beside: None }
    };
    let judge = |heard: &[Heard]| {
        by_ear(heard, &BTreeMap::from([(Realm::Car, realm.clone())]), &nodes, &[]).findings.len()
    };
    let right = heard("a1", &ack("a1"), 11);
    assert_eq!(judge(std::slice::from_ref(&right)), 0);
    assert_eq!(judge(&[right.clone(), right.clone()]), 1, "sent twice");
    assert_eq!(judge(&[heard("a2", &ack("a1"), 11)]), 1, "under another name");
    assert_eq!(judge(&[heard("a2", &ack("a2"), 11)]), 1, "by another node");
    assert_eq!(judge(&[Heard { frame: b"junk".to_vec(), ..right.clone() }]), 1, "not a message");
    assert_eq!(judge(&[Heard { key: "elsewhere".into(), ..right }]), 1, "on a foreign key");
}
