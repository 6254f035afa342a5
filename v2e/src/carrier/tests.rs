//! Real sessions on loopback, with certificates made here.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use policies::id::{CarId, Digest, FunctionName, TenantId, ZoneId};
use policies::task::{BlobRef, Class, Effect};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use v2e_core::message::{
    Advert, CallForTask, Envelope, JobEnd, Load, Message, Reading, Role, Run, ToRequester, ToWorker,
};

use super::*;
use crate::session::{Security, Tls};
use zenoh::Wait as _;

/// Longest wait for anything that must come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

const LIFE: Incarnation = Incarnation(1);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, name: &str) -> Security {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Security::Mutual(Tls {
            ca: self.pem.clone().into_bytes(),
            cert: cert.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
            verify_name: true,
        })
    }
}

fn node(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

fn car() -> RealmName {
    RealmName::Car(CarId::new("car-a").unwrap())
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

type End = (Carrier, mpsc::Receiver<FromRealm>);

async fn enter(session: Session, realm: RealmName, name: &str) -> End {
    Carrier::open(session, realm, node(name), LIFE).await.unwrap()
}

/// Gateway `a1` and sibling `a2` of one car.
async fn two(protocol: &str) -> (End, End) {
    let authority = Authority::new("car-a");
    let at = vec![format!("{protocol}/127.0.0.1:{}", port())];
    let a1 = enter(Session::car(&at, &[], authority.issue("a1"), 1), car(), "a1").await;
    let a2 = enter(Session::car(&[], &at, authority.issue("a2"), 1), car(), "a2").await;
    let (mut a1, mut a2) = (a1, a2);
    meet(&mut a1, "a1", &mut a2, "a2").await;
    (a1, a2)
}

/// Both advertise until each has heard the other: from then on queries find their way.
async fn meet(a: &mut End, a_name: &str, b: &mut End, b_name: &str) {
    a.0.advertise(advert(a_name, 1)).unwrap();
    b.0.advertise(advert(b_name, 1)).unwrap();
    wait_for(&mut a.1, |what| matches!(what, FromRealm::Advert { peer, .. } if *peer == node(b_name))).await;
    wait_for(&mut b.1, |what| matches!(what, FromRealm::Advert { peer, .. } if *peer == node(a_name))).await;
}

async fn wait_for(inbox: &mut mpsc::Receiver<FromRealm>, wanted: impl Fn(&FromRealm) -> bool) -> FromRealm {
    let mut seen = Vec::new();
    let search = async {
        loop {
            let what = inbox.recv().await.expect("the realm ended");
            if wanted(&what) {
                return what;
            }
            seen.push(what);
        }
    };
    let found = tokio::time::timeout(PATIENCE, search).await;
    found.unwrap_or_else(|_| panic!("it never came; instead {seen:?}"))
}

async fn message(inbox: &mut mpsc::Receiver<FromRealm>) -> (NodeId, Message, Option<Vec<u8>>) {
    let got =
        wait_for(inbox, |what| matches!(what, FromRealm::Message { .. } | FromRealm::Silent { .. })).await;
    match got {
        FromRealm::Message { peer, frame, payload } => (peer, Message::decode(&frame).unwrap(), payload),
        other => panic!("{other:?} instead of a message"),
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn advert(name: &str, seq: u64) -> Vec<u8> {
    let body = Advert {
        seq,
        car: CarId::new("car-a").unwrap(),
        role: Role::Obu,
        cores: 2,
        functions: Vec::new(),
        load: Load::default(),
    };
    Message::Advert(Envelope { sender: node(name), incarnation: LIFE, body }).encode().unwrap()
}

fn task(owner: &str) -> TaskId {
    TaskId { owner: node(owner), incarnation: LIFE, number: 42 }
}

fn to_worker(sender: &str, body: ToWorker) -> Vec<u8> {
    Message::ToWorker(Envelope { sender: node(sender), incarnation: LIFE, body }).encode().unwrap()
}

fn to_requester(sender: &str, body: ToRequester) -> Vec<u8> {
    Message::ToRequester(Envelope { sender: node(sender), incarnation: LIFE, body }).encode().unwrap()
}

fn run(owner: &str, input: &[u8]) -> Vec<u8> {
    let run = Run {
        task: task(owner),
        attempt: Attempt(1),
        life: LIFE,
        tenant: TenantId::new("oem").unwrap(),
        function: FunctionName::new("lane").unwrap(),
        bundle: Digest::of(b"code"),
        effect: Effect::Pure,
        class: Class::Driving,
        deadline_us: 100_000,
        lease_us: 1_000_000,
        input: BlobRef::of(input).unwrap(),
    };
    to_worker(owner, ToWorker::Run(run))
}

fn accepted(sender: &str, owner: &str) -> Vec<u8> {
    let (task, attempt) = (task(owner), Attempt(1));
    to_requester(sender, ToRequester::Accepted { task, attempt, eta_us: 5_000, lease_us: 1_000_000 })
}

fn ended(sender: &str, owner: &str, result: &[u8]) -> Vec<u8> {
    let end = JobEnd::Done { result: BlobRef::of(result).unwrap() };
    let (task, attempt) = (task(owner), Attempt(1));
    to_requester(sender, ToRequester::Ended { task, attempt, end, queued_us: 1, exec_us: 2 })
}

/// A task with 200 kB of input, its acceptance, and 300 kB of result on the job's own key.
async fn dispatch_and_result(protocol: &str) {
    let ((a1, mut from_a2), (a2, mut from_a1)) = two(protocol).await;
    let (input, result) = (vec![7; 200_000], vec![9; 300_000]);
    a1.send(&node("a2"), run("a1", &input), Some(input.clone())).unwrap();
    let (peer, asked, payload) = message(&mut from_a1).await;
    assert_eq!((peer, asked.payload(), payload), (node("a1"), BlobRef::of(&input), Some(input)));
    a2.send(&node("a1"), accepted("a2", "a1"), None).unwrap();
    let (peer, answer, _) = message(&mut from_a2).await;
    assert_eq!(peer, node("a2"));
    assert!(matches!(answer, Message::ToRequester(e) if matches!(e.body, ToRequester::Accepted { .. })));
    a2.send(&node("a1"), ended("a2", "a1", &result), Some(result.clone())).unwrap();
    let (_, answer, payload) = message(&mut from_a2).await;
    assert_eq!((answer.payload(), payload), (BlobRef::of(&result), Some(result)));
    assert_eq!((a1.stats(), a2.stats()), (CarrierStats::default(), CarrierStats::default()));
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatch_and_result_over_tls() {
    dispatch_and_result("tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatch_and_result_over_quic() {
    dispatch_and_result("quic").await;
}

/// Reading and writing at the same time breaks a TLS link of Zenoh 1.10 unless one thread does both: without
/// [`policies::face::ZENOH_THREADS`] this ends with a link that is gone.
// tests: P2-11
#[tokio::test(flavor = "multi_thread")]
async fn a_tls_link_stands_heavy_traffic_both_ways() {
    const MESSAGES: usize = 40_000;
    let authority = Authority::new("car-a");
    let at = vec![format!("tls/127.0.0.1:{}", port())];
    let a1 = Session::car(&at, &[], authority.issue("a1"), 1).open().await.unwrap();
    let a2 = Session::car(&[], &at, authority.issue("a2"), 1).open().await.unwrap();
    let heard = [AtomicUsize::new(0), AtomicUsize::new(0)].map(Arc::new);
    let mut ears = Vec::new();
    for ((session, key), count) in [(&a1, "to/a1"), (&a2, "to/a2")].into_iter().zip(heard.clone()) {
        let count = move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        ears.push(session.declare_subscriber(key).callback(count).await.unwrap());
    }
    let mut mouths = Vec::new();
    for (session, key) in [(&a1, "to/a2"), (&a2, "to/a1")] {
        let congestion = zenoh::qos::CongestionControl::Block;
        let publisher = session.declare_publisher(key).congestion_control(congestion).await.unwrap();
        let matching = || publisher.matching_status();
        while !matching().await.unwrap().matching() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        mouths.push(publisher);
    }
    let speaking = mouths.into_iter().map(|publisher| {
        tokio::task::spawn_blocking(move || {
            (0..MESSAGES).for_each(|_| publisher.put(vec![7u8; 300]).wait().unwrap());
        })
    });
    for speaker in speaking.collect::<Vec<_>>() {
        speaker.await.unwrap();
    }
    until("all messages arrive", || heard.iter().all(|count| count.load(Ordering::Relaxed) == MESSAGES))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_result_answers_the_query_itself_and_a_large_one_leaves_a_receipt() {
    let ((a1, mut from_a2), (a2, mut from_a1)) = two("tls").await;
    for result in [vec![1; 100], vec![2; 100_000]] {
        a1.send(&node("a2"), run("a1", b"x"), Some(b"x".to_vec())).unwrap();
        message(&mut from_a1).await;
        a2.send(&node("a1"), ended("a2", "a1", &result), Some(result.clone())).unwrap();
        let (_, _, payload) = message(&mut from_a2).await;
        assert_eq!(payload, Some(result));
    }
    assert_eq!(a1.stats(), CarrierStats::default(), "no silence: the receipt was heard");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_thinks_too_long_is_not_silent() {
    let ((a1, mut from_a2), (a2, mut from_a1)) = two("tls").await;
    let renew = ToWorker::Renew { task: task("a1"), attempt: Attempt(1), lease_us: 1_000_000 };
    a1.send(&node("a2"), to_worker("a1", renew), None).unwrap();
    message(&mut from_a1).await;
    // The receipt goes out by itself; what is said later travels on the job's key.
    tokio::time::sleep(Waits::CAR.answer * 2).await;
    a2.send(&node("a1"), accepted("a2", "a1"), None).unwrap();
    message(&mut from_a2).await;
    assert_eq!(a1.stats().silent, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_peer_is_gone_and_then_silent() {
    let ((a1, mut from_a2), (a2, _)) = two("tls").await;
    a2.close().await;
    wait_for(&mut from_a2, |what| *what == FromRealm::Gone { peer: node("a2") }).await;
    a1.send(&node("a2"), run("a1", b"x"), Some(b"x".to_vec())).unwrap();
    let about = (task("a1"), Attempt(1));
    let silent = FromRealm::Silent { peer: node("a2"), about };
    wait_for(&mut from_a2, |what| *what == silent).await;
    assert_eq!(a1.stats().silent, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn siblings_reach_each_other_when_the_gateway_is_dead() {
    let authority = Authority::new("car-a");
    let at: Vec<String> = (0..2).map(|_| format!("tls/127.0.0.1:{}", port())).collect();
    let (first, second) = (&at[..1], &at[1..]);
    let mut a1 = enter(Session::car(first, &[], authority.issue("a1"), 1), car(), "a1").await;
    let mut a2 = enter(Session::car(second, first, authority.issue("a2"), 1), car(), "a2").await;
    let mut a3 = enter(Session::car(&[], &at, authority.issue("a3"), 1), car(), "a3").await;
    meet(&mut a1, "a1", &mut a3, "a3").await;
    meet(&mut a2, "a2", &mut a3, "a3").await;
    a1.0.close().await;
    wait_for(&mut a3.1, |what| *what == FromRealm::Gone { peer: node("a1") }).await;
    a2.0.send(&node("a3"), run("a2", b"x"), Some(b"x".to_vec())).unwrap();
    assert_eq!(message(&mut a3.1).await.0, node("a2"));
    a3.0.send(&node("a2"), accepted("a3", "a2"), None).unwrap();
    assert_eq!(message(&mut a2.1).await.0, node("a3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn visitors_meet_at_the_roadside_whoever_comes_first_and_answer_its_call() {
    let authority = Authority::new("north");
    let zone = || RealmName::Outside(ZoneId::new("north").unwrap());
    let at = format!("quic/127.0.0.1:{}", port());
    // The cars are there before the roadside is.
    let mut a1 = enter(Session::visitor(&at, authority.issue("a1"), 1), zone(), "a1").await;
    let mut b1 = enter(Session::visitor(&at, authority.issue("b1"), 1), zone(), "b1").await;
    a1.0.send(&node("e1"), run("a1", b"x"), Some(b"x".to_vec())).unwrap();
    wait_for(&mut a1.1, |what| matches!(what, FromRealm::Silent { .. })).await;
    let roadside = Session::roadside(&[at], authority.issue("e1"), 1);
    let mut e1 = enter(roadside, zone(), "e1").await;
    meet(&mut a1, "a1", &mut b1, "b1").await;
    meet(&mut e1, "e1", &mut a1, "a1").await;
    let call = CallForTask {
        call: task("e1"),
        function: FunctionName::new("air").unwrap(),
        want: "air_quality".into(),
        area: None,
        deadline_us: 1_000_000,
    };
    e1.0.call(&node("e1"), to_worker("e1", ToWorker::Call(call.clone()))).unwrap();
    for (carrier, inbox, name) in [(&a1.0, &mut a1.1, "a1"), (&b1.0, &mut b1.1, "b1")] {
        wait_for(inbox, |what| matches!(what, FromRealm::Call { peer, .. } if *peer == node("e1"))).await;
        let partial = ToRequester::Partial { call: task("e1"), reading: Reading { value_micro: 5, n: 1 } };
        carrier.send(&node("e1"), to_requester(name, partial), None).unwrap();
        assert_eq!(message(&mut e1.1).await.0, node(name));
    }
    // The same, to one car.
    e1.0.send(&node("a1"), to_worker("e1", ToWorker::Call(call)), None).unwrap();
    assert_eq!(message(&mut a1.1).await.0, node("e1"));
}

/// A member of the realm that speaks Zenoh but not our protocol.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_counted_and_goes_no_further() {
    let authority = Authority::new("car-a");
    let at = vec![format!("tls/127.0.0.1:{}", port())];
    let (a1, mut inbox) = enter(Session::car(&at, &[], authority.issue("a1"), 1), car(), "a1").await;
    a1.advertise(advert("a1", 1)).unwrap();
    let member = Session::visitor(&at[0], authority.issue("a9"), 1).open().await.unwrap();
    let realm = car();
    let result = Key::Result { task: task("a1"), attempt: Attempt(1), from: node("a9") }.spell(&realm);
    let other = Key::Result { task: task("a1"), attempt: Attempt(1), from: node("a2") }.spell(&realm);
    let ad = Key::Ad { node: node("a2") }.spell(&realm);
    type Put<'a> = (&'a str, Vec<u8>, Option<Vec<u8>>);
    let puts: [Put<'_>; 6] = [
        (&result, b"garbage".to_vec(), None),
        (&result, vec![0; 1 << 20], None),
        // A true message under another's key, with bytes of another length, and of another kind.
        (&other, accepted("a9", "a1"), None),
        (&result, ended("a9", "a1", b"four"), Some(b"five!".to_vec())),
        (&result, run("a9", b""), None),
        (&ad, advert("a9", 1), None),
    ];
    let before = a1.stats().foreign;
    for (index, (key, frame, beside)) in puts.into_iter().enumerate() {
        let expected = before + index as u64 + 1;
        repeat_until_counted(&a1, expected, || async {
            member.put(key, frame.clone()).attachment(beside.clone()).await.unwrap();
        })
        .await;
    }
    let run_key = Key::Run { node: node("a1"), incarnation: LIFE, class: Class::Driving, from: node("a9") };
    let before = a1.stats().foreign;
    let queries = [
        (run_key.spell(&realm), b"garbage".to_vec()),
        (run_key.spell(&realm), run("a2", b"")),
        (format!("{realm}/run/**"), run("a9", b"")),
        (format!("{realm}/**"), Vec::new()),
    ];
    for (key, frame) in queries {
        let replies = member.get(key).payload(frame).await.unwrap();
        while let Ok(reply) = replies.recv_async().await {
            let sample = reply.into_result().expect("a reply");
            assert_eq!(sample.key_expr().as_str(), format!("{realm}/ad/a1"), "nothing but the advert");
        }
    }
    assert!(a1.stats().foreign >= before + 4);
    assert!(inbox.try_recv().is_err(), "nothing reached the node");
}

/// Puts are dropped while the subscriber is not known yet: only the first needs repeating.
async fn repeat_until_counted<F: Future<Output = ()>>(carrier: &Carrier, expected: u64, act: impl Fn() -> F) {
    let began = std::time::Instant::now();
    while carrier.stats().foreign < expected {
        assert!(began.elapsed() < PATIENCE, "never counted");
        act().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_gets_no_link() {
    let (ours, theirs) = (Authority::new("car-a"), Authority::new("car-b"));
    let at = vec![format!("tls/127.0.0.1:{}", port())];
    let (a1, mut inbox) = enter(Session::car(&at, &[], ours.issue("a1"), 1), car(), "a1").await;
    let stranger = Session::visitor(&at[0], theirs.issue("a2"), 1);
    assert!(stranger.open().await.is_err(), "it got in");
    let plain = Session::visitor(&at[0].replace("tls/", "tcp/"), Security::Insecure, 1);
    assert!(plain.open().await.is_err(), "plain TCP got in");
    // The listener is none the worse for it.
    let (a2, _) = enter(Session::car(&[], &at, ours.issue("a2"), 1), car(), "a2").await;
    a2.advertise(advert("a2", 1)).unwrap();
    wait_for(&mut inbox, |what| matches!(what, FromRealm::Advert { .. })).await;
    assert_eq!(a1.stats().strangers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_names_no_node_silences_the_realm() {
    let authority = Authority::new("car-a");
    let at = vec![format!("tls/127.0.0.1:{}", port())];
    let (a1, _inbox) = enter(Session::car(&at, &[], authority.issue("a1"), 1), car(), "a1").await;
    let odd = Session::visitor(&at[0], authority.issue("www.example.org"), 1).open().await.unwrap();
    until("the stranger is noticed", || a1.stats().strangers == 1).await;
    odd.close().await.unwrap();
}

use crate::keys::Key;
