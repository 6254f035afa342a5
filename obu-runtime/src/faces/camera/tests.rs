use super::*;
use crate::channel::Receiver;
use policies::face::{FromHost, ToCamera};
use policies::grant::CameraGrant;
use policies::host::AppRef;
use policies::id::{AppName, Incarnation, NodeId};
use policies::wire::{self, Kind};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use std::io::Write as _;
use std::os::fd::AsFd as _;

fn jpeg(mark: u8) -> Vec<u8> {
    [&[0xff, 0xd8, 0xff, 0xda, 0, 2, mark][..], &[7; 100], &[0xff, 0xd9]].concat()
}

fn clip(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file.into()
}

fn stream_pair() -> (OwnedFd, OwnedFd) {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    (a.into(), b.into())
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn app(of: &str, name: &str) -> AppRef {
    AppRef { tenant: tenant(of), app: AppName::new(name).unwrap() }
}

struct Bench {
    host: OwnedFd,
    node: Sender<ToCamera>,
    from: Receiver<FromCamera>,
    done: tokio::task::JoinHandle<Result<(), CameraError>>,
}

const CONFIG: &str = "[node]\nid='a1'\ncar='c'\nrun_dir='r'\nstate_dir='s'\n[[camera]]\nid='front'\n\
                      source='file:x'\nfps=200\n";

fn face_start(config: &str, attachments: Vec<(Attachment, OwnedFd)>) -> FaceStart {
    FaceStart {
        face: Face::Camera,
        node: NodeId::new("a1").unwrap(),
        incarnation: Incarnation(1),
        config: config.into(),
        time_scale: 1,
        attachments,
    }
}

fn host_pair() -> (OwnedFd, HostChannel) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    (ours, HostChannel::new(theirs).unwrap())
}

fn bench(stream: &[u8], more: &str) -> Bench {
    let (host, channel) = host_pair();
    let (node, face) = stream_pair();
    let attachments =
        vec![(Attachment::File("clip:front".into()), clip(stream)), (Attachment::Channel(Face::Node), face)];
    let done = tokio::spawn(run(face_start(&format!("{CONFIG}{more}"), attachments), channel));
    let (node, from) = channel::channel(node, "camera").unwrap();
    Bench { host, node, from, done }
}

impl Bench {
    /// Attaches the border of a tenant; gives its end.
    fn border(&self, name: &str) -> OwnedFd {
        let (ours, theirs) = stream_pair();
        let what = FromHost::Attach(Attachment::Channel(Face::Border(tenant(name))));
        let frame = wire::encode(Kind::Face, &what).unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let rights = [theirs.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
        sendmsg(&self.host, &[std::io::IoSlice::new(&frame)], &mut ancillary, SendFlags::empty()).unwrap();
        ours
    }

    async fn route(&self, app: AppRef, fps: u32) {
        let cameras = vec![CameraGrant { id: CameraId::new("front").unwrap(), fps }];
        self.node.send(&ToCamera::Route { app, cameras }).await.unwrap();
    }

    async fn stats(&mut self) -> [u64; 4] {
        self.node.send(&ToCamera::Stats).await.unwrap();
        match within(self.from.recv()).await.unwrap().unwrap() {
            FromCamera::Stats { captured, delivered, dropped, bad } => [captured, delivered, dropped, bad],
        }
    }
}

async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("nothing came for a minute")
}

async fn frame(from: &mut Receiver<ToBorder>) -> (AppName, CameraFrame) {
    match within(from.recv()).await.unwrap().unwrap() {
        ToBorder::Frame { app, frame } => (app, frame),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn frames_reach_the_app_in_order_and_the_clip_starts_again() {
    let stream = [jpeg(1), b"damage".to_vec(), jpeg(2), jpeg(3)[..50].to_vec(), jpeg(4)].concat();
    let mut bench = bench(&stream, "");
    let (_kept, mut from) = channel::channel::<(), ToBorder>(bench.border("oem"), "camera").unwrap();
    bench.route(app("oem", "dashcam"), 200).await;
    let mut last: Option<CameraFrame> = None;
    let mut shown = Vec::new();
    for _ in 0..9 {
        let (app, next) = frame(&mut from).await;
        assert_eq!(app.as_str(), "dashcam");
        if let Some(last) = last {
            assert_eq!(next.seq, last.seq + 1);
            assert!(next.captured_us >= last.captured_us);
        }
        shown.push(next.jpeg[6]);
        last = Some(next);
    }
    let round: Vec<u8> = shown.iter().copied().cycle().take(3).collect();
    assert!(shown.chunks(3).all(|part| part == round), "{shown:?}");
    let [captured, delivered, dropped, bad] = bench.stats().await;
    assert!(captured >= delivered && delivered >= 9 && bad >= 1 && dropped == 0);
}

#[tokio::test]
async fn each_tenant_gets_its_own_and_at_its_rate() {
    let stream: Vec<u8> = (0..50).flat_map(jpeg).collect();
    let bench = bench(&stream, "");
    let (_a, mut oem) = channel::channel::<(), ToBorder>(bench.border("oem"), "camera").unwrap();
    let (_b, mut guest) = channel::channel::<(), ToBorder>(bench.border("guest"), "camera").unwrap();
    bench.route(app("oem", "all"), 200).await;
    bench.route(app("guest", "some"), 50).await;
    for _ in 0..3 {
        let (name, first) = frame(&mut guest).await;
        let (_, second) = frame(&mut guest).await;
        assert_eq!((name.as_str(), second.seq - first.seq), ("some", 4));
        assert_eq!(frame(&mut oem).await.0.as_str(), "all");
    }
}

#[tokio::test]
async fn a_border_that_does_not_read_costs_frames_and_nothing_else() {
    let big = [&[0xff, 0xd8, 0xff, 0xda, 0, 2][..], &vec![7; 200_000], &[0xff, 0xd9]].concat();
    let mut bench = bench(&big, "");
    let _lagging = bench.border("guest");
    let (_kept, mut oem) = channel::channel::<(), ToBorder>(bench.border("oem"), "camera").unwrap();
    bench.route(app("guest", "stuck"), 200).await;
    bench.route(app("oem", "fine"), 200).await;
    loop {
        frame(&mut oem).await;
        if bench.stats().await[2] > 0 {
            break;
        }
    }
    frame(&mut oem).await;
}

#[tokio::test]
async fn a_border_that_is_gone_can_come_back() {
    let mut bench = bench(&jpeg(1), "");
    drop(bench.border("oem"));
    bench.route(app("oem", "dashcam"), 200).await;
    while bench.stats().await[2] == 0 {
        tokio::task::yield_now().await;
    }
    let (_kept, mut from) = channel::channel::<(), ToBorder>(bench.border("oem"), "camera").unwrap();
    frame(&mut from).await;
    drop(bench.host);
    within(bench.done).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_clip_that_ends_or_holds_nothing_leaves_the_process_up() {
    for stream in [jpeg(1), b"no picture".to_vec(), Vec::new()] {
        let frames = u64::from(stream.len() > 50);
        let mut bench = bench(&stream, "loop = false\n");
        while bench.stats().await[0] < frames {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.stats().await[0], frames);
        drop(bench.host);
        within(bench.done).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_is_missing_is_said() {
    for (config, attachments, named) in [
        (CONFIG, vec![], "clip:front"),
        ("[node]\n", vec![], "missing field"),
        (CONFIG, vec![(Attachment::File("clip:front".into()), clip(b""))], "no channel to node"),
    ] {
        let (_host, channel) = host_pair();
        let error = run(face_start(config, attachments), channel).await.unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}
