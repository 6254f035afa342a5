use super::*;
use crate::channel::Receiver;
use policies::id::{Incarnation, NodeId};
use policies::limits::{INLINE_LEN_MAX, REASON_LEN_MAX};
use policies::wire::{self, Kind};
use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::sync::atomic::AtomicBool;

const IO: &str = r#"
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 2)
    (data (i32.const 65536) "last\nwords")
    ;; Writes len bytes from `at` to `fd`.
    (func $put (param $fd i32) (param $at i32) (param $len i32)
        (i32.store (i32.const 0) (local.get $at))
        (i32.store (i32.const 4) (local.get $len))
        (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
    ;; Reads up to 4096 bytes to 1024; gives their number.
    (func $get (result i32)
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 4096))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.load (i32.const 8)))
"#;

fn module(body: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {IO} {body})")).unwrap()
}

fn start(body: &str) -> Vec<u8> {
    module(&format!(r#"(func (export "_start") {body})"#))
}

fn echo() -> Vec<u8> {
    start(
        "(local $n i32)
        (loop $more
            (local.set $n (call $get))
            (call $put (i32.const 1) (i32.const 1024) (local.get $n))
            (br_if $more (local.get $n)))",
    )
}

const FOREVER: &str = "(loop $again (br $again))";
const LIMIT: Bytes = Bytes::mebi(1);
const LONG: Duration = Duration::from_secs(3600);

fn prepare(wasm: &[u8]) -> Result<Prepared, String> {
    Prepared::new(&call::engine(2).unwrap(), wasm, LIMIT)
}

fn call_once(wasm: &[u8], input: &[u8]) -> call::Ended {
    let cancelled = Arc::new(AtomicBool::new(false));
    let may = Allowance { cpu: LONG, time_scale: 1 };
    prepare(wasm).unwrap().call(input.to_vec(), may, cancelled)
}

#[test]
fn echo_gives_back_what_it_got_in_pieces() {
    for len in [0, 1, 4095, 4096, 4097, 100_000] {
        let input: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        assert_eq!(call_once(&echo(), &input), Ok(input));
    }
}

/// What a guest does, and how its call ends: code, and a part of the reason.
#[test]
#[rustfmt::skip]
fn ends_table() {
    check("(call $exit (i32.const 0))",     Ok(()));
    check("(call $exit (i32.const 65))",    Err((65, "")));
    check("(call $exit (i32.const -1))",    Err((255, "")));
    check("(call $put (i32.const 2) (i32.const 65536) (i32.const 10)) (call $exit (i32.const 65))",
                                            Err((65, "last words")));
    check("unreachable",                    Err((end::TRAPPED, "unreachable")));
    check("(call $put (i32.const 2) (i32.const 65536) (i32.const 10)) unreachable",
                                            Err((end::TRAPPED, "its last words: last words")));
    check("(drop (i32.load (i32.const 999999)))", Err((end::TRAPPED, "out of bounds")));
    check("(loop $m (call $put (i32.const 1) (i32.const 0) (i32.const 65536)) (br $m))",
                                            Err((end::FLOODED, "standard output")));
    check("(loop $m (br_if $m (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable",
                                            Err((end::OUT_OF_MEMORY, "its limit is 1Mi")));
    check("(loop $m (br_if $m (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (call $exit (i32.const 1))",
                                            Err((end::OUT_OF_MEMORY, "its limit is 1Mi")));
    check("(drop (memory.grow (i32.const 9999)))", Ok(()));
}

#[track_caller]
fn check(body: &str, expected: Result<(), (i32, &str)>) {
    let got = call_once(&start(body), b"");
    match (&got, expected) {
        (Ok(_), Ok(())) => {}
        (Err((code, why)), Err((wanted, named))) if *code == wanted && why.contains(named) => {
            assert!(why.len() <= REASON_LEN_MAX, "{why}");
        }
        _ => panic!("{body}: {got:?}"),
    }
}

#[test]
fn memory_stops_growing_at_the_limit() {
    let wasm = start(
        "(loop $m (br_if $m (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (i32.store (i32.const 16) (memory.size))
        (call $put (i32.const 1) (i32.const 16) (i32.const 4))",
    );
    let pages = u32::try_from(LIMIT.get() / 65_536).unwrap();
    assert_eq!(call_once(&wasm, b""), Ok(pages.to_le_bytes().to_vec()));
}

#[test]
fn deep_recursion_is_a_trap() {
    let wasm = module(r#"(func $deep (call $deep)) (func (export "_start") (call $deep))"#);
    let Err((end::TRAPPED, why)) = call_once(&wasm, b"") else { panic!("it returned") };
    assert!(why.contains("stack"), "{why}");
}

#[test]
fn a_flood_of_last_words_keeps_the_last() {
    let wasm = start(
        "(local $n i32)
        (loop $m
            (call $put (i32.const 2) (i32.const 65546) (i32.const 1000))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $m (i32.lt_u (local.get $n) (i32.const 5000))))
        (call $put (i32.const 2) (i32.const 65536) (i32.const 10))
        (call $exit (i32.const 3))",
    );
    let Err((3, words)) = call_once(&wasm, b"") else { panic!("another end") };
    assert!(words.ends_with("last words") && words.len() <= REASON_LEN_MAX, "{words}");
}

/// Modules that cannot be made ready, and what the reason names.
#[test]
#[rustfmt::skip]
fn load_refusals_table() {
    refused(b"",                                                      "");
    refused(b"\x7fELF not wasm at all",                               "");
    refused(&echo()[..40],                                            "");
    refused(&wat("(module)"),                                         "_start");
    refused(&wat(r#"(module (func (export "_start") (param i32)))"#), "_start");
    refused(&wat(r#"(module (import "env" "launch" (func)) (func (export "_start")))"#), "env.launch");
    refused(&wat(r#"(module (import "wasi_snapshot_preview1" "fd_explode" (func)) (func (export "_start")))"#),
                                                                      "fd_explode");
    refused(&wat(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)) (func (export "_start")))"#),
                                                                      "fd_write");
    refused(&wat(r#"(module (memory 17) (func (export "_start")))"#), "its limit is 1Mi");
    refused(&wat(r#"(module (memory i64 1) (func (export "_start")))"#), "");
    refused(&wat(r#"(module (memory 1) (memory 1) (func (export "_start")))"#), "");
    refused(&wat(r#"(module (table 200000 funcref) (func (export "_start")))"#), "table");
    let many = (0..300).map(|i| format!(r#"(import "env" "f{i}" (func))"#)).collect::<String>();
    refused(&wat(&format!("(module {many})")),                        "300 imports");
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[track_caller]
fn refused(wasm: &[u8], named: &str) {
    let why = prepare(wasm).expect_err(named);
    assert!(why.contains(named) && !why.is_empty() && why.len() <= REASON_LEN_MAX, "{why:?}, not {named:?}");
}

/// Calls that a guest can make with any numbers: it hears an errno, or the call ends; nothing else happens.
#[test]
#[rustfmt::skip]
fn errno_table() {
    errno("fd_write",  "i32 i32 i32 i32", "(i32.const 1) (i32.const -4) (i32.const 1) (i32.const 8)", 21);
    errno("fd_write",  "i32 i32 i32 i32", "(i32.const 1) (i32.const 0) (i32.const 1) (i32.const -1)", 21);
    errno("fd_write",  "i32 i32 i32 i32", "(i32.const 1) (i32.const 0) (i32.const -1) (i32.const 8)", 28);
    errno("fd_write",  "i32 i32 i32 i32", "(i32.const 7) (i32.const 0) (i32.const 1) (i32.const 8)",   8);
    errno("fd_read",   "i32 i32 i32 i32", "(i32.const 3) (i32.const 0) (i32.const 1) (i32.const 8)",   8);
    errno("random_get", "i32 i32",        "(i32.const 0) (i32.const -1)",                             28);
    errno("random_get", "i32 i32",        "(i32.const 65530) (i32.const 100)",                        21);
    errno("random_get", "i32 i32",        "(i32.const 0) (i32.const 100)",                             0);
    errno("clock_time_get", "i32 i64 i32", "(i32.const 0) (i64.const 0) (i32.const 0)",                0);
    errno("fd_prestat_get", "i32 i32",    "(i32.const 3) (i32.const 0)",                               8);
    errno("fd_fdstat_get", "i32 i32",     "(i32.const 1) (i32.const 0)",                               0);
    errno("fd_fdstat_get", "i32 i32",     "(i32.const 3) (i32.const 0)",                               8);
    errno("poll_oneoff", "i32 i32 i32 i32", "(i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0)", 52);
    errno("args_sizes_get", "i32 i32",    "(i32.const 0) (i32.const 4)",                               0);
}

#[track_caller]
fn errno(name: &str, shape: &str, given: &str, expected: i32) {
    let wasm = wat(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "{name}" (func $f (param {shape}) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call $exit (call $f {given}))))"#
    ));
    let got = call_once(&wasm, b"").map_or_else(|(code, _)| code, |_| 0);
    assert_eq!(got, expected, "{name} {given}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn foreign_bytes_are_refused_not_fatal(bytes: Vec<u8>) {
        prop_assert!(prepare(&bytes).is_err());
    }

    #[test]
    fn a_damaged_module_is_refused_or_ends(place: prop::sample::Index, byte: u8) {
        let mut wasm = echo();
        let at = place.index(wasm.len());
        wasm[at] = byte;
        let engine = call::engine(1).unwrap();
        if let Ok(module) = Prepared::new(&engine, &wasm, LIMIT) {
            let (tell, ended) = std::sync::mpsc::channel();
            let pool = Pool::start(&engine, 1).unwrap();
            let answer: Answer = Arc::new(move |event| tell.send(event).unwrap());
            let may = Allowance { cpu: Duration::from_millis(2), time_scale: 1 };
            pool.submit(Job { key: (1, 1), module: Arc::new(module), input: vec![7; 9000], may, answer })
                .unwrap();
            let is_end = |event| matches!(event, FromWorkerFace::Ended { .. });
            prop_assert!(ended.iter().any(is_end));
        }
    }
}

/// A worker with both its ends in the test's hands.
struct Bench {
    to: Sender<ToWorkerFace>,
    from: Receiver<FromWorkerFace>,
    host: OwnedFd,
    done: tokio::task::JoinHandle<Result<(), WorkerError>>,
}

fn stream_pair() -> (OwnedFd, OwnedFd) {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    (a.into(), b.into())
}

fn face_start(attachments: Vec<(Attachment, OwnedFd)>) -> FaceStart {
    FaceStart {
        face: Face::Worker(policies::id::TenantId::new("oem").unwrap()),
        node: NodeId::new("a1").unwrap(),
        incarnation: Incarnation(1),
        config: String::new(),
        time_scale: 1,
        attachments,
    }
}

async fn bench() -> Bench {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let (node, face) = stream_pair();
    let start = face_start(vec![(Attachment::Channel(Face::Node), face)]);
    let channel = HostChannel::new(theirs).unwrap();
    let done = tokio::spawn(run(start, channel));
    let (to, from) = channel::channel(node, "worker").unwrap();
    Bench { to, from, host: ours, done }
}

impl Bench {
    async fn load(&mut self, name: &str, wasm: Vec<u8>) -> FromWorkerFace {
        let module = Digest::of(name.as_bytes());
        self.to.send(&ToWorkerFace::Load { module, wasm, memory: LIMIT }).await.unwrap();
        self.hear().await
    }

    async fn call(&self, job: u64, name: &str, input: &[u8], budget: Duration) {
        let (module, input) = (Digest::of(name.as_bytes()), input.to_vec());
        let run = ToWorkerFace::Run { job, module, input, budget_us: micros(budget) };
        self.to.send(&run).await.unwrap();
    }

    async fn hear(&mut self) -> FromWorkerFace {
        let heard = tokio::time::timeout(Duration::from_secs(60), self.from.recv());
        heard.await.expect("the worker is silent").unwrap().expect("the worker is gone")
    }

    /// The end of `job`; events of others are passed over.
    async fn ended(&mut self, wanted: u64) -> call::Ended {
        loop {
            if let FromWorkerFace::Ended { job, result, .. } = self.hear().await
                && job == wanted
            {
                return result;
            }
        }
    }
}

#[tokio::test]
async fn a_worker_loads_runs_and_ends_with_its_host() {
    let mut bench = bench().await;
    assert!(matches!(bench.load("echo", echo()).await, FromWorkerFace::Loaded { took_us: 1.., .. }));
    assert!(matches!(bench.load("echo", echo()).await, FromWorkerFace::Loaded { took_us: 0, .. }));
    let failed = bench.load("junk", vec![1, 2, 3]).await;
    assert!(matches!(failed, FromWorkerFace::LoadFailed { .. }), "{failed:?}");
    bench.call(7, "echo", b"hello", LONG).await;
    assert_eq!(bench.hear().await, FromWorkerFace::Began { job: 7 });
    assert_eq!(bench.ended(7).await, Ok(b"hello".to_vec()));
    bench.call(8, "nobody", b"", LONG).await;
    assert!(matches!(bench.ended(8).await, Err((end::NOT_STARTED, _))));
    drop(bench.host);
    bench.done.await.unwrap().unwrap();
}

#[tokio::test]
async fn endless_calls_end_by_cancel_and_by_budget() {
    let mut bench = bench().await;
    bench.load("forever", start(FOREVER)).await;
    bench.call(1, "forever", b"", LONG).await;
    assert_eq!(bench.hear().await, FromWorkerFace::Began { job: 1 });
    bench.to.send(&ToWorkerFace::Cancel { job: 1 }).await.unwrap();
    assert!(matches!(bench.ended(1).await, Err((end::CANCELLED, _))));
    bench.call(2, "forever", b"", Duration::from_millis(5)).await;
    assert!(matches!(bench.ended(2).await, Err((end::OVER_BUDGET, _))));
}

#[tokio::test]
async fn a_waiting_call_is_cancelled_without_having_begun() {
    let mut bench = bench().await;
    bench.load("forever", start(FOREVER)).await;
    let busy = std::thread::available_parallelism().unwrap().get() as u64;
    for job in 0..=busy {
        bench.call(job, "forever", b"", LONG).await;
    }
    for _ in 0..busy {
        assert!(matches!(bench.hear().await, FromWorkerFace::Began { .. }));
    }
    bench.to.send(&ToWorkerFace::Cancel { job: busy }).await.unwrap();
    bench.to.send(&ToWorkerFace::Cancel { job: 0 }).await.unwrap();
    let (mut begun, mut ends) = (Vec::new(), BTreeMap::new());
    while ends.len() < 2 {
        match bench.hear().await {
            FromWorkerFace::Began { job } => begun.push(job),
            FromWorkerFace::Ended { job, result, .. } => drop(ends.insert(job, result)),
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.is_empty(), "{begun:?}");
    assert!(ends.values().all(|end| matches!(end, Err((end::CANCELLED, _)))), "{ends:?}");
}

#[tokio::test]
async fn a_hundred_calls_at_once_each_get_their_own_answer() {
    let mut bench = bench().await;
    bench.load("echo", echo()).await;
    bench.load("trap", start("unreachable")).await;
    for job in 0..100u64 {
        let name = if job % 7 == 3 { "trap" } else { "echo" };
        bench.call(job, name, &job.to_le_bytes(), LONG).await;
    }
    let mut ends = BTreeMap::new();
    while ends.len() < 100 {
        if let FromWorkerFace::Ended { job, result, .. } = bench.hear().await {
            assert!(ends.insert(job, result).is_none(), "job {job} ended twice");
        }
    }
    for (job, result) in ends {
        match (job % 7, result) {
            (3, Err((end::TRAPPED, _))) => {}
            (_, Ok(output)) => assert_eq!(output, job.to_le_bytes()),
            (_, other) => panic!("job {job}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn beyond_the_limit_of_jobs_a_call_is_refused_at_once() {
    let mut bench = bench().await;
    bench.load("forever", start(FOREVER)).await;
    let most = policies::limits::JOBS_MAX as u64;
    for job in 0..=most {
        bench.call(job, "forever", b"", LONG).await;
    }
    assert!(matches!(bench.ended(most).await, Err((end::NOT_STARTED, _))));
}

#[tokio::test]
async fn a_new_node_finds_the_modules_and_none_of_the_old_calls() {
    let mut bench = bench().await;
    bench.load("forever", start(FOREVER)).await;
    bench.load("echo", echo()).await;
    let busy = std::thread::available_parallelism().unwrap().get() as u64;
    for job in 0..busy {
        bench.call(job, "forever", b"", LONG).await;
        assert_eq!(bench.hear().await, FromWorkerFace::Began { job });
    }
    let (node, face) = stream_pair();
    attach(&bench.host, face);
    let (to, from) = channel::channel(node, "worker").unwrap();
    let (_old, _gone) = (std::mem::replace(&mut bench.to, to), std::mem::replace(&mut bench.from, from));
    assert!(matches!(bench.load("echo", echo()).await, FromWorkerFace::Loaded { took_us: 0, .. }));
    bench.call(1, "echo", b"new", LONG).await;
    assert_eq!(bench.ended(1).await, Ok(b"new".to_vec()));
}

fn attach(host: &OwnedFd, fd: OwnedFd) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd as _;
    let what = FromHost::Attach(Attachment::Channel(Face::Node));
    let frame = wire::encode(Kind::Face, &what).unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let rights = [fd.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
    sendmsg(host, &[std::io::IoSlice::new(&frame)], &mut ancillary, SendFlags::empty()).unwrap();
}

#[tokio::test]
async fn without_a_node_it_says_so() {
    let (_ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let channel = HostChannel::new(theirs).unwrap();
    assert!(matches!(run(face_start(Vec::new()), channel).await, Err(WorkerError::NoNode)));
}

#[test]
fn a_result_fits_into_one_message() {
    let ended = FromWorkerFace::Ended { job: 1, result: Ok(vec![0; INLINE_LEN_MAX]), took_us: 1 };
    assert!(wire::encode(Kind::Face, &ended).is_ok());
}
