//! The same inputs give byte-identical outputs.

use super::*;

#[test]
fn a_recorded_run_replays_to_the_same_bytes() {
    let mut rig = Rig::new(&["a1", "a2", "e1"]);
    for round in 0..30 {
        rig.ask("a1", "speedo", lane(300));
        rig.ask("a1", "games", run_task("toll", 400));
        if round == 15 {
            rig.cut.insert(node_id("e1"));
        }
        rig.run_for(30 * MS);
    }
    rig.site("a1").pressure.cpu = Some(900);
    rig.run_for(5_000 * MS);
    for name in ["a1", "a2", "e1"] {
        let site = &rig.sites[&node_id(name)];
        let mut replayed = Node::new();
        let mut outputs = Vec::new();
        for (at, input) in &site.inputs {
            // Through bytes and back, as a recording is.
            let frame = wire::encode(Kind::Record, input).unwrap();
            let input: Input = wire::decode(Kind::Record, &frame).unwrap();
            replayed.handle(Timestamp::from_micros(*at), input);
            outputs.extend(core::iter::from_fn(|| replayed.poll()));
        }
        assert_eq!(bytes(&outputs), bytes(&site.log), "{name}");
        assert!(outputs.len() > 50, "{name} did something");
    }
}

#[test]
fn inputs_before_boot_change_nothing() {
    let mut node = Node::new();
    node.handle(Timestamp::ZERO, Input::Tick);
    assert_eq!((node.poll(), node.next_wake()), (None, None));
    assert!(node.apps().is_empty() && node.status(Timestamp::ZERO).is_none());
}
