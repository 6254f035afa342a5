use super::*;
use alloc::vec;
use proptest::prelude::*;

fn envelope<T>(body: T) -> Envelope<T> {
    Envelope { sender: NodeId::new("a1").unwrap(), incarnation: Incarnation(3), body }
}

fn task() -> TaskId {
    TaskId { owner: NodeId::new("a1").unwrap(), incarnation: Incarnation(3), number: 42 }
}

fn blob(len: u32) -> BlobRef {
    BlobRef { digest: Digest::of(b"input"), len }
}

fn run(deadline_us: u64, input: BlobRef) -> Message {
    Message::ToWorker(envelope(ToWorker::Run(Run {
        task: task(),
        attempt: Attempt(1),
        life: Incarnation(7),
        tenant: TenantId::new("oem").unwrap(),
        function: FunctionName::new("lane").unwrap(),
        bundle: Digest::of(b"code"),
        effect: Effect::Pure,
        class: Class::Driving,
        deadline_us,
        lease_us: 1_000_000,
        input,
    })))
}

fn told(body: ToRequester) -> Message {
    Message::ToRequester(envelope(body))
}

fn ended(end: JobEnd, exec_us: u64) -> Message {
    told(ToRequester::Ended { task: task(), attempt: Attempt(1), end, queued_us: 3, exec_us })
}

fn advert(functions: usize) -> Message {
    let offer = |i: usize| Offer {
        name: FunctionName::new(&alloc::format!("f{i}")).unwrap(),
        bundle: Digest::of(b"code"),
        service_us: 20_000,
    };
    Message::Advert(envelope(Advert {
        seq: 1,
        car: CarId::new("a").unwrap(),
        role: Role::Obu,
        cores: 2,
        functions: (0..functions).map(offer).collect(),
        load: Load::default(),
    }))
}

fn call(want: &str) -> Message {
    let function = FunctionName::new("road-sample").unwrap();
    let (call, want, area) = (task(), String::from(want), None);
    Message::ToWorker(envelope(ToWorker::Call(CallForTask { call, function, want, area, deadline_us: 1 })))
}

#[test]
fn what_is_encoded_decodes() {
    let (task, attempt) = (task(), Attempt(1));
    let (why, eta_us) = (String::from("full"), Some(7));
    for message in [
        run(50_000, blob(10)),
        call("road_temperature"),
        advert(3),
        told(ToRequester::Accepted { task: task.clone(), attempt, eta_us: 1, lease_us: 2 }),
        told(ToRequester::Rejected { task: task.clone(), attempt, why, eta_us }),
        told(ToRequester::Busy { task: task.clone(), attempt, running: Attempt(2) }),
        told(ToRequester::Began { task: task.clone(), attempt }),
        told(ToRequester::Partial { call: task, reading: Reading { value_micro: -1, n: 1 } }),
        ended(JobEnd::Done { result: blob(5) }, 9),
    ] {
        let frame = message.encode().unwrap();
        assert_eq!(Message::decode(&frame), Ok(message));
    }
}

#[test]
#[rustfmt::skip]
fn limit_table() {
    let long = "x".repeat(REASON_LEN_MAX + 1);
    let most = WAIT_MAX.as_micros() as u64;
    //    message                                                  field beyond its limit
    check(run(most, blob(INLINE_LEN_MAX as u32)),                  None);
    check(run(most + 1, blob(0)),                                  Some("deadline_us"));
    check(run(1, blob(INLINE_LEN_MAX as u32 + 1)),                 Some("input length"));
    check(call(&"x".repeat(WANT_LEN_MAX + 1)),                     Some("want"));
    check(advert(FUNCTIONS_MAX),                                   None);
    check(advert(FUNCTIONS_MAX + 1),                               Some("functions"));
    check(ended(JobEnd::Done { result: blob(2 << 20) }, 1),        Some("result length"));
    check(ended(JobEnd::Failed { code: 1, why: long.clone() }, 1), Some("why"));
    check(ended(JobEnd::Unknown { why: long }, 1),                 Some("why"));
    check(ended(JobEnd::Stopped { why: "".into() }, most + 1),     Some("exec_us"));
}

#[track_caller]
fn check(message: Message, beyond: Option<&str>) {
    // A sender refuses to send it, and a receiver that gets it all the same refuses to read it.
    let frame = match &message {
        Message::ToWorker(e) => wire::encode(Kind::ToWorker, e),
        Message::ToRequester(e) => wire::encode(Kind::ToRequester, e),
        Message::Advert(e) => wire::encode(Kind::Advert, e),
    };
    for verdict in [message.encode().err(), Message::decode(&frame.unwrap()).err()] {
        match (verdict, beyond) {
            (None, None) => {}
            (Some(MessageError::Beyond { field, .. }), Some(expected)) => assert_eq!(field, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn only_runs_and_good_ends_carry_bytes() {
    assert_eq!(run(1, blob(4)).payload(), Some(blob(4)));
    assert_eq!(ended(JobEnd::Done { result: blob(5) }, 1).payload(), Some(blob(5)));
    assert_eq!(ended(JobEnd::Stopped { why: String::new() }, 1).payload(), None);
    assert_eq!(advert(1).payload(), None);
}

#[test]
fn reasons_are_cut_between_characters() {
    let text = "ü".repeat(REASON_LEN_MAX);
    let cut = reason(&text);
    assert!(cut.len() <= REASON_LEN_MAX && text.starts_with(&cut));
    assert_eq!(reason("short"), "short");
}

#[test]
fn frames_of_other_kinds_are_refused() {
    let frame = wire::encode(Kind::HostCommand, &vec![0u8; 4]).unwrap();
    assert!(matches!(Message::decode(&frame), Err(MessageError::Wire(WireError::Kind { .. }))));
}

proptest! {
    #[test]
    fn foreign_bytes_are_refused_not_fatal(bytes: Vec<u8>, kind in 0u8..12) {
        prop_assert!(Message::decode(&bytes).is_err());
        let mut body = vec![b'v', b'g', wire::VERSION, kind];
        body.extend(bytes);
        prop_assert!(Message::decode(&body).is_err());
    }

    #[test]
    fn any_body_behind_a_good_header_is_judged_without_panic(body: Vec<u8>, kind in 0usize..3) {
        // The frame's header and CRC are right; its body is anything.
        let kind = [Kind::ToWorker, Kind::ToRequester, Kind::Advert][kind];
        #[derive(Serialize)]
        struct Raw(#[serde(serialize_with = "raw")] Vec<u8>);
        #[allow(clippy::ptr_arg, reason = "serialize_with hands over the field's own type")]
        fn raw<S: serde::Serializer>(bytes: &Vec<u8>, s: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeTuple as _;
            let mut tuple = s.serialize_tuple(bytes.len())?;
            bytes.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
            tuple.end()
        }
        let frame = wire::encode(kind, &Raw(body)).unwrap();
        let _ = Message::decode(&frame);
    }
}
