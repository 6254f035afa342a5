//! `verge node` replaced by a hostile program that owns its channel to the bus process: whatever it sends, no
//! frame leaves that the guard's own file did not allow, and no line reaches the effect server twice.
// tests: P2-09

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use can_bridge::bus::Bus as _;
use can_bridge::clock::Reading;
use can_bridge::face::{Attach, EffectStream};
use can_bridge::framed::Fill;
use can_core::frame::{BusIndex, CanFrame, FrameKind, TimedFrame};
use policies::face::{FromBus, ToBus, TxFrame};
use policies::host::AppRef;
use policies::id::{AppName, Attempt, BusName, Incarnation, NodeId, TaskId, TenantId};
use policies::signal::SignalPattern;
use policies::wire::{self, Kind};
use support::process::{Peer, Process};
use support::{id, open, wait_for};

/// Messages that are generated; `VERGE_HOSTILE_COMMANDS` asks for more.
const COMMANDS: u64 = 100_000;

/// Messages between two looks at the answers: few enough for the channel's buffers.
const BATCH: u64 = 200;

/// What the guard's file allows (see [`support::process::GUARD`]): this id of app oem/lane on can0, five at
/// once and, the file's default, ten per second.
const ALLOWED_ID: u32 = 672;
const BURST: u64 = 5;
const PER_SECOND: u64 = 10;

/// Seeded chance: SplitMix64.
struct Chance(u64);

impl Chance {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 11
    }

    fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[usize::try_from(self.draw()).unwrap() % list.len()]
    }
}

fn app(chance: &mut Chance) -> AppRef {
    let (tenant, app) =
        *chance.pick(&[("oem", "lane"), ("oem", "lane"), ("oem", "line"), ("guest", "lane"), ("a", "b")]);
    AppRef { tenant: TenantId::new(tenant).unwrap(), app: AppName::new(app).unwrap() }
}

fn frame(chance: &mut Chance) -> TxFrame {
    let id = *chance.pick(&[ALLOWED_ID, ALLOWED_ID, 671, 673, 0, 0x7FF, 0x800, 0x1FFF_FFFF, u32::MAX]);
    let len = *chance.pick(&[0, 1, 7, 8, 9, 12, 64, 65, 4096]);
    TxFrame {
        bus: BusName::new(*chance.pick(&["can0", "can0", "can1", "vcan0"])).unwrap(),
        id,
        extended: chance.below(4) == 0,
        data: (0..len).map(|n| (n % 251) as u8).collect(),
    }
}

fn effect(chance: &mut Chance) -> ToBus {
    let number = chance.below(300);
    let task = TaskId {
        owner: NodeId::new(*chance.pick(&["a1", "e1"])).unwrap(),
        incarnation: Incarnation(chance.below(3)),
        number,
    };
    let forged = ["toll\ntask=a1.1.1 forged", "toll\rforged", ""][usize::try_from(chance.below(3)).unwrap()];
    let line = match chance.below(8) {
        0 => format!("task={task} {forged}"),
        1 => format!("task={task} {}", "x".repeat(20_000)),
        _ => format!("task={task} toll"),
    };
    ToBus::Effect { task, attempt: Attempt(u32::try_from(chance.below(4)).unwrap()), line }
}

fn patterns(chance: &mut Chance) -> Vec<SignalPattern> {
    let many = chance.below(40);
    (0..many)
        .map(|_| {
            SignalPattern::new(*chance.pick(&["Vehicle.**", "Vehicle.*", "Vehicle.Speed", "A.B.C.**"]))
                .unwrap()
        })
        .collect()
}

fn command(chance: &mut Chance, request: u64) -> ToBus {
    match chance.below(10) {
        0..=4 => ToBus::Transmit { request, app: app(chance), frame: frame(chance) },
        5..=7 => effect(chance),
        8 => ToBus::Route { app: app(chance), signals: patterns(chance) },
        _ => ToBus::Snapshot { request, signals: patterns(chance) },
    }
}

/// Hears the bus and the effect server on threads of its own: nobody under test has a hand in what it counts.
#[derive(Default)]
struct Witness {
    frames: Mutex<Vec<CanFrame>>,
    lines: Mutex<BTreeMap<String, u64>>,
    ended: AtomicBool,
}

impl Witness {
    fn hear_bus(self: &Arc<Self>, process: &Process) {
        let (witness, mut bus) = (self.clone(), open(process.group));
        std::thread::spawn(move || {
            while !witness.ended.load(Ordering::Relaxed) {
                let mut heard: Vec<TimedFrame> = Vec::new();
                bus.receive(Reading::take(), BusIndex(0), &mut heard).unwrap();
                witness.frames.lock().unwrap().extend(heard.into_iter().map(|timed| timed.frame));
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
    }

    fn serve_effects(self: &Arc<Self>) -> EffectStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut answers, _) = listener.accept().unwrap();
        let witness = self.clone();
        std::thread::spawn(move || {
            let lines = BufReader::new(answers.try_clone().unwrap()).lines();
            for line in lines.map_while(Result::ok) {
                *witness.lines.lock().unwrap().entry(line).or_default() += 1;
                if answers.write_all(b"ok\n").is_err() {
                    return;
                }
            }
        });
        EffectStream::Tcp(stream)
    }

    /// Everything that left, against what the guard's file allows.
    fn judge(&self, allowed: u64, since: Instant) -> usize {
        let most = BURST + PER_SECOND * (since.elapsed().as_secs() + 1);
        assert!(allowed > 0 && allowed <= most, "{allowed} frames passed the guard; at most {most} may");
        wait_for("the witness to hear every frame", || {
            (self.frames.lock().unwrap().len() as u64 >= allowed).then_some(())
        });
        let frames = self.frames.lock().unwrap();
        assert_eq!(frames.len() as u64, allowed, "frames on the bus and frames that the guard let through");
        for frame in frames.iter() {
            assert_eq!((frame.id(), frame.kind()), (id(ALLOWED_ID, false), FrameKind::Classic), "{frame:?}");
        }
        let lines = self.lines.lock().unwrap();
        let mut tasks: BTreeMap<&str, u64> = BTreeMap::new();
        for (line, times) in lines.iter() {
            let task = line.split(' ').next().unwrap();
            assert!(line.starts_with("task=") && !line.contains("forged"), "{line:?}");
            *tasks.entry(task).or_default() += times;
        }
        if !cfg!(feature = "testing-no-fence") {
            assert!(tasks.values().all(|times| *times == 1), "{tasks:?}");
        }
        tasks.len()
    }
}

/// Reads answers until the counters come; returns how many frames the guard let through.
fn allowed(node: &mut Peer) -> u64 {
    let mut allowed = 0;
    loop {
        match node.hear::<FromBus>() {
            FromBus::Transmitted { result: Ok(()), .. } => allowed += 1,
            FromBus::Stats(_) => return allowed,
            _ => {}
        }
    }
}

#[test]
fn whatever_node_sends_no_frame_leaves_that_the_guard_did_not_allow() {
    let commands =
        std::env::var("VERGE_HOSTILE_COMMANDS").ok().and_then(|n| n.parse().ok()).unwrap_or(COMMANDS);
    let witness = Arc::new(Witness::default());
    let mut process = Process::start(Some(witness.serve_effects()), true);
    witness.hear_bus(&process);
    let (mut chance, mut passed, began) = (Chance(7), 0, Instant::now());
    for request in 0..commands {
        process.node.tell(&command(&mut chance, request));
        if request % BATCH == BATCH - 1 {
            process.node.tell(&ToBus::Stats);
            passed += allowed(&mut process.node);
        }
    }
    let stats = process.stats();
    assert_eq!(stats.frames_out, passed, "{stats:?}");
    let effects = witness.judge(passed, began);
    assert!(effects > 100, "only {effects} effects: the effect port was not reached");
    witness.ended.store(true, Ordering::Relaxed);
    process.stop();
}

/// Bytes that are no message: the channel is cut, nothing leaves, and the next node is served.
#[test]
fn bytes_that_are_no_message_cut_the_channel_and_nothing_else() {
    let message = ToBus::Transmit {
        request: 1,
        app: AppRef { tenant: TenantId::new("oem").unwrap(), app: AppName::new("lane").unwrap() },
        frame: TxFrame { bus: BusName::new("can0").unwrap(), id: ALLOWED_ID, extended: false, data: vec![1] },
    };
    let good = wire::encode(Kind::Face, &message).unwrap();
    let other_kind = wire::encode(Kind::Record, &message).unwrap();
    let mut bad_crc = good.clone();
    *bad_crc.last_mut().unwrap() ^= 1;
    let mut too_long = good.clone();
    too_long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases: [(&str, Vec<u8>); 5] = [
        ("text", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("zeros", vec![0; 4096]),
        ("another kind", other_kind),
        ("a wrong checksum", bad_crc),
        ("a length beyond all limits", too_long),
    ];
    let mut process = Process::start(None, false);
    let witness = Arc::new(Witness::default());
    witness.hear_bus(&process);
    for (what, bytes) in cases {
        process.node.stream.write_all(&bytes).unwrap();
        wait_for(&format!("{what}: the channel to be cut"), || {
            matches!(process.node.reader.fill(&mut process.node.stream), Ok(Fill::Closed) | Err(_))
                .then_some(())
        });
        let (node, theirs) = Peer::pair();
        process.node = node;
        assert!(process.attach.send(Attach::Node(theirs)));
        assert_eq!(process.stats().frames_out, 0, "{what}");
    }
    process.node.tell(&message);
    assert_eq!(process.node.hear::<FromBus>(), FromBus::Transmitted { request: 1, result: Ok(()) });
    wait_for("the one frame", || (witness.frames.lock().unwrap().len() == 1).then_some(()));
    witness.ended.store(true, Ordering::Relaxed);
    process.stop();
}
