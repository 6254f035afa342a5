//! Anything may happen to messages and nodes; the promises hold all the same.

use super::*;
use alloc::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    Submit { effect: usize, deadline_ms: u64 },
    Cancel(u64),
    Cut(usize),
    Join(usize),
    Kill(usize),
    Restart(usize),
    Reboot(usize),
    Gone(usize),
    Silent(usize),
    Slow { site: usize, exec_us: u64 },
    Wait(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0usize..3, 1u64..3_000).prop_map(|(effect, deadline_ms)| Action::Submit { effect, deadline_ms }),
        1 => (1u64..20).prop_map(Action::Cancel),
        1 => (1usize..3).prop_map(Action::Cut),
        1 => (1usize..3).prop_map(Action::Join),
        1 => (1usize..3).prop_map(Action::Kill),
        1 => (1usize..3).prop_map(Action::Restart),
        1 => (1usize..3).prop_map(Action::Reboot),
        1 => (1usize..3).prop_map(Action::Gone),
        1 => (1usize..3).prop_map(Action::Silent),
        1 => (0usize..3, 1u64..2_000_000).prop_map(|(site, exec_us)| Action::Slow { site, exec_us }),
        6 => (1u64..400_000).prop_map(Action::Wait),
    ]
}

const SITES: [&str; 3] = ["a1", "a2", "e1"];

fn act(world: &mut World, action: Action) {
    match action {
        Action::Submit { effect, deadline_ms } => {
            let effect = [Effect::Pure, Effect::Idempotent, Effect::Once][effect];
            world.submit(spec(effect, deadline_ms));
        }
        Action::Cancel(number) => world.cancel(number),
        Action::Cut(site) => world.cut(SITES[site]),
        Action::Join(site) => world.join(SITES[site]),
        Action::Kill(site) => world.kill(SITES[site]),
        Action::Restart(site) => world.restart(SITES[site]),
        Action::Reboot(site) => {
            world.kill(SITES[site]);
            world.restart(SITES[site]);
        }
        Action::Gone(site) => world.gone(SITES[site]),
        Action::Silent(site) => world.ask(requester::Input::Silent { peer: node(SITES[site]) }),
        Action::Slow { site, exec_us } => world.exec(SITES[site], exec_us),
        Action::Wait(us) => world.run_for(us),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn one_outcome_in_time_and_at_most_one_effect(
        actions in prop::collection::vec(action(), 1..60),
        lose in 0u64..400,
        twice in 0u64..400,
        seed: u64,
    ) {
        if cfg!(any(feature = "testing-no-dedup", feature = "testing-no-lease")) {
            return Ok(());
        }
        let mut world = World::new(&["a2", "e1", "a1"]);
        world.seed(seed);
        (world.lose, world.twice, world.wild) = (lose, twice, true);
        for action in actions {
            act(&mut world, action);
        }
        world.run_for(20_000 * MS);
        world.check_invariants();
    }
}
