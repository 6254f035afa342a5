//! The load: apps that ask for tasks, operators that apply manifests and run tasks by hand, edges that call for
//! samples.

use obu_core::io::{AppAsk, ControlCall, Input};
use policies::id::{Digest, FunctionName};
use policies::task::{BlobRef, Class};
use v2e_core::message::Role;

use super::{Event, Failure, World};
use crate::chance::{Chance, Ratio};
use crate::fleet::{AIR, FUNCTIONS, FunctionModel, name};

/// Time between two requests of one app, microseconds.
const DEMAND_EVERY: (u64, u64) = (80_000, 900_000);

/// One request in so many is given up by its app.
const GIVEN_UP: Ratio = Ratio::permille(20);

/// An app with two functions asks for the second one so often.
const SECOND_WISH: Ratio = Ratio::permille(100);

struct Wish {
    function: FunctionName,
    deadline_us: u64,
    input: BlobRef,
}

/// Draws a call of a function.
fn wish(model: &FunctionModel, chance: &mut Chance) -> Wish {
    let input = BlobRef {
        digest: Digest::of(&chance.draw().to_le_bytes()),
        len: u32::try_from(chance.between(model.input)).unwrap_or(u32::MAX),
    };
    let deadline_us = chance.between(model.deadline_ms) * 1000;
    Wish { function: name!(FunctionName, model.name), deadline_us, input }
}

impl World {
    /// The operator applies the manifest, once per node, and again if it was refused.
    pub(super) fn operate(&mut self, unit: usize) -> Result<(), Failure> {
        let body = &mut self.bodies[unit];
        if body.applied {
            return Ok(());
        }
        self.queue.add(self.now + 3_000_000, Event::Operate { unit });
        if body.node.is_none() || body.apply_request.is_some() {
            return Ok(());
        }
        body.requests += 1;
        let request = body.requests;
        body.apply_request = Some(request);
        let call = ControlCall::Apply { manifest: body.member.manifest.clone() };
        self.feed(unit, Input::Control { request, call })
    }

    /// An app asks for a task, and will do so again.
    pub(super) fn demand(&mut self, unit: usize, index: usize) -> Result<(), Failure> {
        if self.now > self.end_of_load() {
            return Ok(());
        }
        let body = &mut self.bodies[unit];
        let again = self.now + body.chance.between(DEMAND_EVERY);
        self.queue.add(again, Event::Demand { unit, app: index });
        self.demand_once(unit, index)
    }

    /// An app asks for a task now, if it is able to.
    pub(super) fn demand_once(&mut self, unit: usize, index: usize) -> Result<(), Failure> {
        let body = &mut self.bodies[unit];
        let Some(app) = body.member.manifest.apps.get(index) else { return Ok(()) };
        let reference = app.app_ref();
        let wanted = usize::from(body.chance.happens(SECOND_WISH));
        let tasks = &app.grants.tasks;
        let model = tasks.get(wanted).or_else(|| tasks.first()).and_then(FunctionModel::named);
        let able = body.node.is_some()
            && body.held.is_none()
            && body.host.is_running(&reference)
            && body.islands.contains(&reference);
        let Some(model) = model.filter(|_| able) else { return Ok(()) };
        let Wish { function, deadline_us, input } = wish(model, &mut body.chance);
        let gives_up = body.chance.happens(GIVEN_UP).then(|| body.chance.below(deadline_us));
        let (class, effect) = (app.class, Some(model.effect));
        let tenant = reference.tenant.clone();
        let request =
            self.ask(unit, reference, AppAsk::RunTask { function, deadline_us, class, effect, input })?;
        if let Some(after) = gives_up {
            self.tell(unit, after, Input::GiveUp { tenant, request });
        }
        Ok(())
    }

    /// Somebody runs a task from the command line of some node; an edge calls for a sample.
    pub(super) fn by_hand(&mut self) -> Result<(), Failure> {
        if self.now > self.end_of_load() {
            return Ok(());
        }
        let every = 4_000_000 / self.bodies.len().max(1) as u64;
        let again = self.load.between((every, 2 * every));
        self.queue.add(self.now + again, Event::ByHand);
        let unit = self.load.index(self.bodies.len());
        let call = self.draw_call(unit);
        let body = &mut self.bodies[unit];
        if body.node.is_none() || body.held.is_some() {
            return Ok(());
        }
        body.requests += 1;
        let request = body.requests;
        self.feed(unit, Input::Control { request, call })
    }

    fn draw_call(&mut self, unit: usize) -> ControlCall {
        let is_edge = self.bodies[unit].member.config.role == Role::Edge;
        if is_edge && self.load.happens(Ratio { of: 1, among: 2 }) {
            let function = name!(FunctionName, AIR.name);
            let wait_us = self.load.between((200_000, 1_500_000));
            return ControlCall::Call { want: "air_temperature".into(), area: None, function, wait_us };
        }
        let model = FUNCTIONS[self.load.index(3)];
        let Wish { function, deadline_us, input } = wish(&model, &mut self.load);
        let class = Class::ALL[self.load.index(Class::ALL.len())];
        ControlCall::RunTask { function, deadline_us, class, effect: None, input }
    }
}
