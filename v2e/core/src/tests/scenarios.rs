//! One sentence each.

use super::*;

fn world() -> World {
    World::new(&["a2", "e1", "a1"])
}

#[test]
fn a_task_runs_at_the_best_place_and_its_phases_add_up() {
    let mut world = world();
    let task = world.submit(spec(Effect::Pure, 200));
    world.run_for(300 * MS);
    let report = world.report(task).unwrap();
    assert_eq!(report.outcome.word(), "done");
    assert_eq!(report.node, Some(node("a2")));
    assert_eq!(report.phases.execution_us, 10 * MS);
    assert_eq!(report.phases.pipelining_us, 2 * DELAY);
    world.run_for(1_000 * MS);
    world.check_invariants();
}

#[test]
fn a_rejected_task_goes_to_the_next_place_at_once() {
    let mut world = world();
    world.refuse("a2");
    let task = world.submit(spec(Effect::Once, 300));
    world.run_for(400 * MS);
    assert_eq!((world.outcome(task), world.effects(task)), ("done", 1));
    assert_eq!(world.report(task).unwrap().node, Some(node("e1")));
    assert_eq!(world.report(task).unwrap().attempts, 2);
}

#[test]
fn a_pure_task_goes_elsewhere_when_its_place_dies_in_the_middle() {
    let mut world = world();
    world.exec("a2", 100 * MS);
    let task = world.submit(spec(Effect::Pure, 500));
    world.run_for(10 * MS);
    world.kill("a2");
    world.gone("a2");
    world.run_for(100 * MS);
    assert_eq!(world.outcome(task), "done");
    assert_eq!(world.report(task).unwrap().node, Some(node("e1")));
}

#[test]
fn a_pure_task_that_is_slow_is_hedged_and_the_loser_cancelled() {
    let mut world = world();
    world.exec("a2", 900 * MS);
    let task = world.submit(spec(Effect::Pure, 1_000));
    world.run_for(60 * MS);
    let report = world.report(task).unwrap();
    assert_eq!((report.outcome.word(), report.hedged), ("done", true));
    assert_eq!(report.node, Some(node("e1")));
    world.run_for(5_000 * MS);
    world.check_invariants();
}

#[test]
fn hedging_stays_within_its_budget() {
    let mut world = world();
    world.exec("a2", 100 * MS);
    for _ in 0..200 {
        world.submit(spec(Effect::Pure, 1_000));
        world.run_for(150 * MS);
    }
    world.run_for(5_000 * MS);
    let hedged = world.reports.iter().filter(|report| report.hedged).count();
    assert!((1..=11).contains(&hedged), "{hedged} of 200 were hedged");
    world.check_invariants();
}

#[test]
fn a_once_task_whose_worker_is_silent_is_not_repeated_but_indeterminate() {
    let mut world = world();
    let task = world.submit(spec(Effect::Once, 5_000));
    world.run_for(4 * MS);
    world.cut("a2");
    world.run_for(4_000 * MS);
    assert_eq!(world.outcome(task), "indeterminate");
    assert_eq!(world.report(task).unwrap().attempts, 1);
    world.run_for(5_000 * MS);
    world.check_invariants();
}

#[test]
fn a_once_task_that_never_arrived_is_settled_and_tried_elsewhere() {
    let mut world = world();
    world.cut("a2");
    let task = world.submit(spec(Effect::Once, 2_000));
    world.run_for(100 * MS);
    world.join("a2");
    world.run_for(500 * MS);
    assert_eq!((world.outcome(task), world.effects(task)), ("done", 1));
    assert_eq!(world.report(task).unwrap().node, Some(node("e1")));
}

#[test]
fn a_once_task_whose_worker_restarted_while_running_it_is_indeterminate() {
    let mut world = world();
    world.exec("a2", 50 * MS);
    let task = world.submit(spec(Effect::Once, 2_000));
    world.run_for(20 * MS);
    world.kill("a2");
    world.run_for(10 * MS);
    world.restart("a2");
    world.run_for(3_000 * MS);
    assert_eq!((world.outcome(task), world.effects(task)), ("indeterminate", 0));
    world.check_invariants();
}

#[test]
fn a_once_task_whose_answer_was_lost_is_done_after_one_question() {
    let mut world = world();
    world.exec("a2", 20 * MS);
    let task = world.submit(spec(Effect::Once, 3_000));
    world.run_for(5 * MS);
    world.cut("a2");
    world.run_for(200 * MS);
    world.join("a2");
    world.run_for(1_000 * MS);
    assert_eq!((world.outcome(task), world.effects(task)), ("done", 1));
    assert_eq!(world.report(task).unwrap().attempts, 1);
}

/// Found by chaos: the new life refused the late copy, which read as if the attempt had never started.
#[test]
fn a_late_copy_that_reaches_a_new_life_does_not_hide_what_the_old_life_did() {
    if cfg!(feature = "testing-no-dedup") {
        return;
    }
    let mut world = world();
    let task = world.submit(spec(Effect::Once, 2_000));
    let copy = world.events.first_key_value().map(|(_, event)| event.clone()).unwrap();
    world.run_for(13 * MS + 500);
    world.restart("a2");
    world.happen(copy);
    world.run_for(1_000 * MS);
    assert_eq!((world.outcome(task), world.report(task).unwrap().attempts), ("indeterminate", 1));
}

#[test]
fn a_once_job_without_its_lease_has_no_effect() {
    let mut world = World::new(&["a2"]);
    world.exec("a2", 1_500 * MS);
    let task = world.submit(spec(Effect::Once, 10_000));
    world.run_for(100 * MS);
    world.cut("a2");
    world.run_for(2_000 * MS);
    if cfg!(feature = "testing-no-lease") {
        assert_eq!(world.effects(task), 1, "without the lease the effect happens behind the owner's back");
    } else {
        assert_eq!((world.outcome(task), world.effects(task)), ("indeterminate", 0));
    }
}

#[test]
fn a_doubled_message_does_not_run_a_task_twice() {
    let mut world = World::new(&["a2"]);
    world.twice = 1_000;
    let task = world.submit(spec(Effect::Once, 2_000));
    world.run_for(3_000 * MS);
    let expected = if cfg!(feature = "testing-no-dedup") { 2 } else { 1 };
    assert_eq!((world.outcome(task), world.effects(task)), ("done", expected));
}

#[test]
fn a_cancelled_once_task_had_no_effect() {
    let mut world = world();
    world.exec("a2", 200 * MS);
    let task = world.submit(spec(Effect::Once, 1_000));
    world.run_for(50 * MS);
    world.cancel(task);
    world.run_for(20 * MS);
    assert_eq!((world.outcome(task), world.effects(task)), ("cancelled", 0));
    world.run_for(3_000 * MS);
    world.check_invariants();
}

#[test]
fn nobody_there_means_refused_and_nobody_in_time_means_missed() {
    let mut nowhere = World::new(&[]);
    let task = nowhere.submit(spec(Effect::Pure, 100));
    assert_eq!(nowhere.outcome(task), "refused");
    let mut slow = World::new(&["a2"]);
    slow.exec("a2", 500 * MS);
    let task = slow.submit(spec(Effect::Pure, 100));
    slow.run_for(200 * MS);
    assert_eq!(slow.outcome(task), "missed");
    slow.run_for(5_000 * MS);
    slow.check_invariants();
}

#[test]
fn a_story_tells_every_step() {
    let mut world = world();
    world.refuse("a2");
    world.submit(spec(Effect::Pure, 300));
    world.run_for(300 * MS);
    let id = world.reports[0].task.clone();
    let story = world.requester.story(&id).unwrap();
    let steps: Vec<&str> = story.steps.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(
        steps,
        [
            "submitted",
            "placed",
            "dispatched",
            "rejected",
            "placed",
            "dispatched",
            "accepted",
            "ended",
            "done"
        ]
    );
}

#[test]
fn messages_of_strangers_change_nothing() {
    let mut world = world();
    world.exec("a2", 50 * MS);
    let number = world.submit(spec(Effect::Pure, 300));
    world.run_for(10 * MS);
    let task = TaskId { owner: node("a1"), incarnation: Incarnation(9), number };
    let end = crate::message::JobEnd::Done { result: blob() };
    let body = ToRequester::Ended { task, attempt: Attempt(1), end, queued_us: 0, exec_us: 0 };
    world.ask(requester::Input::Received { from: node("e1"), life: Incarnation(1), body: body.clone() });
    world.ask(requester::Input::Received { from: node("a2"), life: Incarnation(0), body });
    assert_eq!(world.outcome(number), "open");
    assert_eq!(world.requester.ignored(), 2);
}

#[test]
fn an_owner_that_overslept_does_not_suspect_its_workers() {
    let mut world = world();
    world.exec("a2", 1_500 * MS);
    let task = world.submit(spec(Effect::Once, 3_000));
    world.run_for(100 * MS);
    // Nothing is heard for longer than it takes to be suspected, and then one tick comes.
    world.now += 600 * MS;
    world.run_for(1_800 * MS);
    let steps: Vec<String> = {
        let id = world.report(task).unwrap().task.clone();
        world.requester.story(&id).unwrap().steps.iter().map(|step| step.what.clone()).collect()
    };
    assert!(!steps.contains(&"silent".into()), "{steps:?}");
    assert_eq!(world.outcome(task), "done");
}
