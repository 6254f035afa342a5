//! A border with stand-ins for host, node, bus and camera; the app is a stock Zenoh client on the socket.

use std::os::fd::OwnedFd;
use std::process::Command;

use policies::face::TxFrame;
use policies::grant::{CameraGrant, CanTxGrant};
use policies::id::{BusName, CameraId, FunctionName, Incarnation, NodeId, TenantId};
use policies::signal::{Quality, SignalPath, Value};
use policies::task::{Class, Effect};
use policies::time::Timestamp;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::Value as Json;
use tokio::task::JoinHandle;
use zenoh::Wait as _;
use zenoh::sample::Sample;

use super::*;
use crate::channel::Receiver;

/// Longest wait for anything that must come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    folder: tempfile::TempDir,
    node: Sender<ToBorder>,
    from_border: Receiver<FromBorder>,
    bus: Sender<ToBorder>,
    camera: Sender<ToBorder>,
    /// Host's end; the border ends when it is dropped.
    host: OwnedFd,
    border: JoinHandle<Result<(), BorderError>>,
}

fn stream() -> (OwnedFd, OwnedFd) {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    (a.into(), b.into())
}

fn source(attachments: &mut Vec<(Attachment, OwnedFd)>, face: Face) -> Sender<ToBorder> {
    let (ours, theirs) = stream();
    attachments.push((Attachment::Channel(face), theirs));
    channel::channel::<ToBorder, ()>(ours, "border").unwrap().0
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let (host, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let mut attachments = Vec::new();
    let bus = source(&mut attachments, Face::Bus);
    let camera = source(&mut attachments, Face::Camera);
    let (ours, node_fd) = stream();
    attachments.push((Attachment::Channel(Face::Node), node_fd));
    let (node, from_border) = channel::channel::<ToBorder, FromBorder>(ours, "border").unwrap();
    let start = FaceStart {
        face: Face::Border(TenantId::new("oem").unwrap()),
        node: NodeId::new("a1").unwrap(),
        incarnation: Incarnation(1),
        config: String::new(),
        time_scale: 1,
        attachments,
    };
    let path = folder.path().to_owned();
    let border = tokio::spawn(async move { serve(start, &HostChannel::new(theirs)?, &path).await });
    Bench { folder, node, from_border, bus, camera, host, border }
}

impl Bench {
    async fn heard(&mut self) -> FromBorder {
        let heard = tokio::time::timeout(PATIENCE, self.from_border.recv()).await;
        heard.expect("the border says nothing").unwrap().expect("the border ended")
    }

    async fn open(&mut self, name: &str) {
        let open = ToBorder::Open {
            app: app(name),
            tasks: vec![FunctionName::new("lane").unwrap()],
            cameras: vec![CameraGrant { id: CameraId::new("front").unwrap(), fps: 10 }],
            can_tx: vec![CanTxGrant { bus: BusName::new("can0").unwrap(), id: 0x100, extended: false }],
        };
        self.node.send(&open).await.unwrap();
        assert_eq!(self.heard().await, FromBorder::Opened { app: app(name) });
    }

    fn socket(&self, name: &str) -> String {
        format!("unixsock-stream/{}/{name}/island.sock", self.folder.path().display())
    }

    async fn client(&self, name: &str) -> zenoh::Session {
        let text = format!(
            r#"{{mode: "client", connect: {{endpoints: ["{}"]}}, scouting: {{multicast: {{enabled: false}}}}}}"#,
            self.socket(name)
        );
        let config = zenoh::Config::from_json5(&text).unwrap();
        tokio::task::spawn_blocking(move || zenoh::open(config).wait()).await.unwrap().unwrap()
    }

    async fn speed(&self, name: &str, value: f64, seq: u64) {
        let samples = vec![(signal(value, seq), 40)];
        self.bus.send(&ToBorder::Signals { app: app(name), samples }).await.unwrap();
    }

    async fn asked(&mut self) -> (u64, Ask) {
        match self.heard().await {
            FromBorder::Ask { app: from, request, ask } => {
                assert_eq!(from, app("a"));
                (request, ask)
            }
            other => panic!("{other:?} instead of a request"),
        }
    }

    async fn denied(&mut self) -> String {
        match self.asked().await.1 {
            Ask::Denied { key } => key,
            other => panic!("{other:?} instead of a denial"),
        }
    }

    async fn end(self) {
        drop(self.host);
        self.border.await.unwrap().unwrap();
    }
}

fn app(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

fn signal(value: f64, seq: u64) -> Signal {
    Signal {
        path: SignalPath::new("Vehicle.Speed").unwrap(),
        value: Value::Number(value),
        unit: "km/h".into(),
        source_time: Timestamp::from_micros(7),
        seq,
        quality: Quality::Ok,
    }
}

type Inbox = zenoh::handlers::FifoChannelHandler<Sample>;

async fn subscribe(session: &zenoh::Session, key: &str) -> zenoh::pubsub::Subscriber<Inbox> {
    session.declare_subscriber(key.to_owned()).await.unwrap()
}

/// Publishes until the subscriber, which the border may not know yet, has a sample.
async fn first_sample(bench: &Bench, name: &str, inbox: &zenoh::pubsub::Subscriber<Inbox>) -> Sample {
    for seq in 0.. {
        bench.speed(name, 12.5, seq).await;
        let got = tokio::time::timeout(Duration::from_millis(50), inbox.recv_async()).await;
        if let Ok(sample) = got {
            return sample.unwrap();
        }
        assert!(seq < 600, "no sample came");
    }
    unreachable!()
}

fn json(bytes: &zenoh::bytes::ZBytes) -> Json {
    serde_json::from_slice(&bytes.to_bytes()).unwrap()
}

/// All replies: JSON of a good one, or the refusal.
async fn get(session: &zenoh::Session, selector: &str, payload: &[u8]) -> Vec<Result<Json, String>> {
    let replies = session.get(selector).payload(payload.to_vec()).timeout(PATIENCE).await.unwrap();
    let mut all = Vec::new();
    while let Ok(reply) = replies.recv_async().await {
        all.push(match reply.result() {
            Ok(sample) => Ok(json(sample.payload())),
            Err(error) => Err(json(error.payload())["refused"].as_str().unwrap().to_owned()),
        });
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_sees_its_signals_and_frames_and_can_get_the_last_ones() {
    let mut bench = bench();
    bench.open("a").await;
    let session = bench.client("a").await;
    let all = subscribe(&session, "**").await;
    let sample = first_sample(&bench, "a", &all).await;
    assert_eq!(sample.key_expr().as_str(), "vss/Vehicle/Speed");
    let value = json(sample.payload());
    assert_eq!(
        (&value["value"], &value["unit"], &value["age_us"]),
        (&12.5.into(), &"km/h".into(), &40.into())
    );
    let camera = CameraId::new("front").unwrap();
    let frame = CameraFrame { camera, seq: 5, captured_us: 9, jpeg: vec![0xff; 100_000] };
    bench.camera.send(&ToBorder::Frame { app: app("a"), frame }).await.unwrap();
    let frame = loop {
        let sample = all.recv_async().await.unwrap();
        if sample.key_expr().as_str() == "cam/front/frame" {
            break sample;
        }
    };
    assert_eq!(frame.payload().len(), 100_000);
    assert_eq!(json(frame.attachment().unwrap())["seq"], 5);
    for selector in ["vss/Vehicle/Speed", "vss/**"] {
        let got = get(&session, selector, b"").await;
        assert_eq!(got.len(), 1, "{got:?}");
        let last = got[0].as_ref().unwrap();
        assert_eq!(last["value"], 12.5);
        assert!(last["age_us"].as_u64() > Some(40), "it has aged: {last}");
    }
    // What node forbids later is gone at once.
    let open = ToBorder::Open { app: app("a"), tasks: vec![], cameras: vec![], can_tx: vec![] };
    bench.node.send(&open).await.unwrap();
    assert_eq!(bench.heard().await, FromBorder::Opened { app: app("a") });
    assert!(get(&session, "vss/Vehicle/Speed", b"").await[0].is_err());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_makes_its_round_trip() {
    let mut bench = bench();
    bench.open("a").await;
    let session = bench.client("a").await;
    let asking = tokio::spawn(async move {
        get(&session, "task/run/lane?deadline_ms=200;class=driving;effect=pure", b"jpeg").await
    });
    let (request, ask) = bench.asked().await;
    let wanted = Ask::RunTask {
        function: FunctionName::new("lane").unwrap(),
        deadline_us: 200_000,
        class: Class::Driving,
        effect: Some(Effect::Pure),
        input: b"jpeg".to_vec(),
    };
    assert_eq!(ask, wanted);
    let answer = Answer::Task {
        json: r#"{"outcome":"done","node":"a2"}"#.into(),
        result: Some(br#"{"lane":0.5}"#.to_vec()),
    };
    bench.node.send(&ToBorder::Reply { request, answer }).await.unwrap();
    let got = asking.await.unwrap();
    let expected = serde_json::json!({"outcome": "done", "node": "a2", "result": {"lane": 0.5}});
    assert_eq!(got, vec![Ok(expected)]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_go_to_node_only_as_granted() {
    let mut bench = bench();
    bench.open("a").await;
    let session = bench.client("a").await;
    let granted = {
        let session = session.clone();
        tokio::spawn(async move { get(&session, "can/can0/tx", br#"{"id":256,"data":"01ff"}"#).await })
    };
    let (request, ask) = bench.asked().await;
    let bus = BusName::new("can0").unwrap();
    assert_eq!(ask, Ask::SendFrame(TxFrame { bus, id: 256, extended: false, data: vec![1, 255] }));
    bench.node.send(&ToBorder::Reply { request, answer: Answer::Ok }).await.unwrap();
    assert_eq!(granted.await.unwrap(), vec![Ok(serde_json::json!({"done": true}))]);
    let refused = get(&session, "can/can0/tx", br#"{"id":512,"data":"00"}"#).await;
    assert!(refused[0].as_ref().unwrap_err().contains("not granted"), "{refused:?}");
    assert_eq!(bench.denied().await, "can/can0/tx id 0x200");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_refused_named_and_reported() {
    let mut bench = bench();
    bench.open("a").await;
    let session = bench.client("a").await;
    for key in
        ["task/run/toll", "vss/Vehicle/Cabin/Secret", "can/can0/rx", "store/x", "vg/1/c/car/run/a2/1/x"]
    {
        let got = get(&session, key, b"").await;
        assert!(got[0].as_ref().unwrap_err().starts_with(key), "{got:?}");
        assert_eq!(bench.denied().await, key);
    }
    session.put("vss/Vehicle/Speed", "forged").await.unwrap();
    assert_eq!(bench.denied().await, "put vss/Vehicle/Speed");
    // Bad parameters are the app's mistake, not a denial.
    let got = get(&session, "task/run/lane?deadline=5", b"").await;
    assert!(got[0].as_ref().unwrap_err().contains("unknown parameter"), "{got:?}");
    bench.end().await;
}

/// Two apps of one tenant: nothing that one does is seen by the other.
#[tokio::test(flavor = "multi_thread")]
async fn islands_do_not_see_each_other() {
    let mut bench = bench();
    bench.open("a").await;
    bench.open("b").await;
    let (a, b) = (bench.client("a").await, bench.client("b").await);
    let seen = subscribe(&b, "**").await;
    let tokens = b.liveliness().declare_subscriber("**").history(true).await.unwrap();
    let _token = a.liveliness().declare_token("hello").await.unwrap();
    let _served = a.declare_queryable("fn/secret").callback(|_| panic!("b asked a")).await.unwrap();
    a.put("secret", "x").await.unwrap();
    assert_eq!(bench.denied().await, "put secret");
    bench.speed("a", 99.0, 1).await;
    let foreign = get(&b, "fn/secret", b"").await;
    assert!(foreign.len() == 1 && foreign[0].is_err(), "{foreign:?}");
    assert!(get(&b, "vss/**", b"").await[0].is_err(), "b has no signal of its own");
    let alive = b.liveliness().get("**").await.unwrap();
    assert!(alive.recv_async().await.is_err(), "a liveliness token crossed");
    // After a full round trip of its own, nothing of a's has come.
    let own = first_sample(&bench, "b", &seen).await;
    assert_eq!(json(own.payload())["value"], 12.5, "a's sample came to b");
    assert!(tokens.try_recv().unwrap().is_none());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_limited_and_its_reports_too() {
    let mut bench = bench();
    bench.open("a").await;
    let session = bench.client("a").await;
    let asks: Vec<_> = (0..400)
        .map(|i| {
            let session = session.clone();
            tokio::spawn(async move { get(&session, &format!("store/{i}"), b"").await })
        })
        .collect();
    for ask in asks {
        let got = ask.await.unwrap();
        assert!(got.iter().all(Result::is_err), "{got:?}");
    }
    // The border still serves; of 400 denials at most a burst and what time gave were reported.
    let mut reports = 0;
    bench.speed("a", 1.0, 1).await;
    while get(&session, "vss/Vehicle/Speed", b"").await.first().is_none_or(Result::is_err) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while let Ok(heard) = tokio::time::timeout(Duration::from_millis(100), bench.from_border.recv()).await {
        assert!(matches!(heard.unwrap().unwrap(), FromBorder::Ask { ask: Ask::Denied { .. }, .. }));
        reports += 1;
    }
    assert!((1..200).contains(&reports), "{reports} reports");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_process_takes_over_and_open_requests_are_answered() {
    let mut bench = bench();
    bench.open("a").await;
    let session = bench.client("a").await;
    let asking = {
        let session = session.clone();
        tokio::spawn(async move { get(&session, "task/run/lane?deadline_ms=60000", b"").await })
    };
    bench.asked().await;
    let (ours, theirs) = stream();
    let (node, from_border) = channel::channel::<ToBorder, FromBorder>(ours, "border").unwrap();
    (bench.node, bench.from_border) = (node, from_border);
    let attach = policies::wire::encode(
        policies::wire::Kind::Face,
        &FromHost::Attach(Attachment::Channel(Face::Node)),
    );
    send_fd(&bench.host, &attach.unwrap(), theirs);
    bench.open("a").await;
    let got = asking.await.unwrap();
    assert!(got[0].as_ref().unwrap_err().contains("the node restarted"), "{got:?}");
    let again = tokio::spawn(async move { get(&session, "task/run/lane", b"").await });
    let (request, _) = bench.asked().await;
    assert!(request > 1, "numbers are never used twice");
    let refused = Answer::Refused { why: "no".into() };
    bench.node.send(&ToBorder::Reply { request, answer: refused }).await.unwrap();
    assert_eq!(again.await.unwrap(), vec![Err("no".to_owned())]);
    bench.end().await;
}

fn send_fd(socket: &OwnedFd, packet: &[u8], fd: OwnedFd) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd as _;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let rights = [fd.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
    sendmsg(socket, &[std::io::IoSlice::new(packet)], &mut ancillary, SendFlags::empty()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_outcome_is_given_up_and_a_closed_island_is_gone() {
    let mut bench = bench();
    bench.open("a").await;
    let session = bench.client("a").await;
    let asking = {
        let session = session.clone();
        tokio::spawn(async move { get(&session, "task/run/lane?deadline_ms=1", b"").await })
    };
    let (request, _) = bench.asked().await;
    assert_eq!(bench.heard().await, FromBorder::GiveUp { request });
    assert!(asking.await.unwrap()[0].as_ref().unwrap_err().contains("no answer"));
    bench.node.send(&ToBorder::Close { app: app("a") }).await.unwrap();
    let socket = bench.folder.path().join("a").join(SOCKET);
    let began = Instant::now();
    while socket.exists() {
        assert!(began.elapsed() < PATIENCE, "the socket stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.end().await;
}

/// The ten lines of docs/ISLAND.md, run by a real Python.
#[tokio::test(flavor = "multi_thread")]
async fn the_stock_python_client_works() {
    let Some(library) = std::env::var_os("VERGE_PYLIB") else {
        eprintln!("SKIPPED: the Python client; set VERGE_PYLIB to a folder that holds eclipse-zenoh");
        return;
    };
    let mut bench = bench();
    bench.open("a").await;
    let manual = include_str!("../../../../docs/ISLAND.md");
    let program = manual.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let program = program.replace("unixsock-stream//run/verge/island.sock", &bench.socket("a"));
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", library).args(["-c", &program]).stdout(std::process::Stdio::piped());
    let mut child = python.spawn().unwrap();
    let output = tokio::task::spawn_blocking(move || {
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let first = lines.next().unwrap().unwrap();
        let second = lines.next().unwrap().unwrap();
        let _ = child.kill();
        let _ = child.wait();
        (first, second)
    });
    let mut seq = 0;
    loop {
        bench.speed("a", 12.5, seq).await;
        seq += 1;
        assert!(seq < 600, "Python asked for no task");
        let heard = tokio::time::timeout(Duration::from_millis(50), bench.from_border.recv()).await;
        if let Ok(heard) = heard {
            let Some(FromBorder::Ask { request, ask: Ask::RunTask { input, .. }, .. }) = heard.unwrap()
            else {
                panic!("not a task");
            };
            assert_eq!(input, b"12.5");
            let result = Some(br#"{"ok":true}"#.to_vec());
            let answer = Answer::Task { json: r#"{"outcome":"done","node":"a2"}"#.into(), result };
            bench.node.send(&ToBorder::Reply { request, answer }).await.unwrap();
            break;
        }
    }
    let (speed, task) = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
    assert_eq!(speed, "12.5 km/h");
    assert_eq!(task, "('done', 'a2', {'ok': True})");
    bench.end().await;
}
