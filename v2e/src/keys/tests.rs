//! Keys as tables and properties.

use super::*;
use proptest::prelude::*;

fn node(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

fn car() -> RealmName {
    RealmName::Car(CarId::new("car-a").unwrap())
}

fn task() -> TaskId {
    TaskId { owner: node("a1"), incarnation: Incarnation(3), number: 42 }
}

#[test]
#[rustfmt::skip]
fn realm_key_table() {
    let a2 = || node("a2");
    let life = Incarnation(7);
    check(Key::Live { node: a2(), incarnation: life },                      "vg/1/c/car-a/live/a2/7");
    check(Key::Ad { node: a2() },                                           "vg/1/c/car-a/ad/a2");
    check(Key::Load { node: a2() },                                         "vg/1/c/car-a/load/a2");
    check(Key::Run { node: a2(), incarnation: life, class: Class::Driving, from: node("a1") },
                                                                            "vg/1/c/car-a/run/a2/7/driving/a1");
    check(Key::Ctl { node: a2(), incarnation: life, task: task(), from: node("a1") },
                                                                            "vg/1/c/car-a/ctl/a2/7/a1.3.42/a1");
    check(Key::Result { task: task(), attempt: Attempt(2), from: a2() },    "vg/1/c/car-a/job/a1/3/42/2/res/a2");
    check(Key::Call { call: task() },                                       "vg/1/c/car-a/cft/a1/a1.3.42");
    check(Key::Signal { node: a2(), path: SignalPath::new("Vehicle.Speed").unwrap() },
                                                                            "vg/1/c/car-a/vss/a2/Vehicle/Speed");
    check(Key::Observed { node: a2(), what: FunctionName::new("tasks").unwrap() },
                                                                            "vg/1/c/car-a/obs/a2/tasks");
}

#[track_caller]
fn check(key: Key, text: &str) {
    assert_eq!(key.spell(&car()), text);
    assert_eq!(Key::parse(&car(), text), Ok(key.clone()));
    let zone = RealmName::Outside(ZoneId::new("north").unwrap());
    assert!(Key::parse(&zone, text).is_err(), "a key of another realm");
    assert!(key.spell(&zone).starts_with("vg/1/x/north/"));
}

#[test]
fn keys_with_two_spellings_or_wildcards_are_foreign() {
    for bad in [
        "vg/1/c/car-a/live/a2/07",
        "vg/1/c/car-a/live/a2/+7",
        "vg/1/c/car-a/live/a2",
        "vg/1/c/car-a/live/a2/7/x",
        "vg/1/c/car-a/run/a2/7/*/a1",
        "vg/1/c/car-a/run/a2/7/urgent/a1",
        "vg/1/c/car-a/cft/a2/a1.3.42",
        "vg/1/c/car-a/vss/a2/Vehicle.Speed",
        "vg/1/c/car-a/**",
        "vg/1/c/car-ab/ad/a2",
        "vg/2/c/car-a/ad/a2",
        "",
    ] {
        assert!(Key::parse(&car(), bad).is_err(), "{bad}");
    }
}

#[test]
#[rustfmt::skip]
fn island_key_table() {
    island("vss/Vehicle/Speed",  Some(IslandKey::Signal(SignalPath::new("Vehicle.Speed").unwrap())));
    island("cam/front/frame",    Some(IslandKey::Frame(CameraId::new("front").unwrap())));
    island("can/can0/tx",        Some(IslandKey::CanTx(BusName::new("can0").unwrap())));
    island("task/run/lane",      Some(IslandKey::RunTask(FunctionName::new("lane").unwrap())));
    island("task/run/*",         None);
    island("task/run/lane/x",    None);
    island("vss/**",             None);
    island("vss/Vehicle.Speed",  None);
    island("can/can0/rx",        None);
    island("@/router/local",     None);
}

#[track_caller]
fn island(text: &str, key: Option<IslandKey>) {
    let got = IslandKey::parse(text).ok();
    assert_eq!(got, key, "{text}");
    if let Some(key) = key {
        assert_eq!(key.spell(), text);
    }
}

#[test]
fn patterns_cover_exactly_the_keys_they_are_for() {
    let (realm, me) = (car(), node("a2"));
    let patterns = Patterns { realm: &realm, me: &me, incarnation: Incarnation(7) };
    let covers = |pattern: &str, key: &Key| {
        let pattern = zenoh::key_expr::KeyExpr::try_from(pattern.to_owned()).unwrap();
        pattern.includes(&zenoh::key_expr::KeyExpr::try_from(key.spell(&realm)).unwrap())
    };
    let run = |node: NodeId, life| Key::Run {
        node,
        incarnation: life,
        class: Class::Comfort,
        from: self::node("a1"),
    };
    assert!(covers(&patterns.run_here(), &run(me.clone(), Incarnation(7))));
    assert!(!covers(&patterns.run_here(), &run(me.clone(), Incarnation(6))), "an earlier life");
    assert!(!covers(&patterns.run_here(), &run(node("a3"), Incarnation(7))));
    let mine = TaskId { owner: me.clone(), incarnation: Incarnation(7), number: 1 };
    let result = |task| Key::Result { task, attempt: Attempt(1), from: node("a1") };
    assert!(covers(&patterns.results_here(), &result(mine.clone())));
    assert!(!covers(&patterns.results_here(), &result(task())));
    let ctl = Key::Ctl { node: me.clone(), incarnation: Incarnation(7), task: task(), from: node("a1") };
    assert!(covers(&patterns.ctl_here(), &ctl));
    assert!(covers(&patterns.all_calls(), &Key::Call { call: task() }));
    assert!(covers(&patterns.all_ads(), &Key::Ad { node: me.clone() }));
    assert!(covers(&patterns.all_live(), &Key::Live { node: me.clone(), incarnation: Incarnation(7) }));
}

prop_compose! {
    fn any_node()(text in "[a-z0-9][a-z0-9_-]{0,39}") -> NodeId { NodeId::new(&text).unwrap() }
}

prop_compose! {
    fn any_task()(owner in any_node(), incarnation: u64, number: u64) -> TaskId {
        TaskId { owner, incarnation: Incarnation(incarnation), number }
    }
}

fn any_key() -> impl Strategy<Value = Key> {
    let class = (0usize..4).prop_map(|i| Class::ALL[i]);
    let path = "[A-Z][A-Za-z0-9_]{0,10}(\\.[A-Za-z0-9_]{1,10}){0,4}";
    prop_oneof![
        (any_node(), any::<u64>()).prop_map(|(node, n)| Key::Live { node, incarnation: Incarnation(n) }),
        any_node().prop_map(|node| Key::Ad { node }),
        any_node().prop_map(|node| Key::Load { node }),
        (any_node(), any::<u64>(), class, any_node()).prop_map(|(node, n, class, from)| Key::Run {
            node,
            incarnation: Incarnation(n),
            class,
            from
        }),
        (any_node(), any::<u64>(), any_task(), any_node()).prop_map(|(node, n, task, from)| Key::Ctl {
            node,
            incarnation: Incarnation(n),
            task,
            from
        }),
        (any_task(), any::<u32>(), any_node()).prop_map(|(task, n, from)| Key::Result {
            task,
            attempt: Attempt(n),
            from
        }),
        any_task().prop_map(|call| Key::Call { call }),
        (any_node(), path)
            .prop_map(|(node, path)| Key::Signal { node, path: SignalPath::new(&path).unwrap() }),
    ]
}

proptest! {
    #[test]
    fn what_is_spelled_parses_back_and_is_a_zenoh_key(key in any_key()) {
        let text = key.spell(&car());
        prop_assert!(text.len() <= KEY_LEN_MAX);
        prop_assert!(zenoh::key_expr::KeyExpr::try_from(text.clone()).is_ok());
        prop_assert_eq!(Key::parse(&car(), &text), Ok(key));
    }

    #[test]
    fn foreign_text_is_refused_or_spelled_the_same(text in "\\PC{0,60}") {
        if let Ok(key) = Key::parse(&car(), &text) {
            prop_assert_eq!(key.spell(&car()), text.clone());
        }
        if let Ok(key) = IslandKey::parse(&text) {
            prop_assert_eq!(key.spell(), text);
        }
    }
}
