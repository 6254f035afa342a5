//! A model of one road in figures that were measured there: what links, functions and processes take. The
//! [`crate::world`] draws from it instead of from its own assumptions.

use std::collections::BTreeMap;

use obu_core::io::{CallEnd, JobInput};
use policies::id::{Digest, FunctionName, NodeId};
use policies::task::BlobRef;
use v2e_core::message::Reading;
use v2e_core::report::Realm;

use crate::chance::{Chance, Ratio};

/// Fewer measurements of a function at one node say less than those of all nodes.
const ENOUGH: usize = 8;

/// Measured durations in microseconds, sorted. A draw is one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples(Vec<u64>);

impl Samples {
    /// Sorts what was measured.
    pub fn new(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        Self(values)
    }

    /// One of them; `None` if nothing was measured.
    pub fn draw(&self, chance: &mut Chance) -> Option<u64> {
        chance.pick(&self.0).copied()
    }

    /// The value at `permille` of them; 0 if nothing was measured.
    pub fn quantile(&self, permille: usize) -> u64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get(last * permille.min(1000) / 1000).copied().unwrap_or(0)
    }

    /// All of them, the shortest first.
    pub fn values(&self) -> impl Iterator<Item = u64> {
        self.0.iter().copied()
    }

    /// How many.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was measured.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them so many times as long.
    #[must_use]
    pub fn times(&self, factor: u64) -> Self {
        Self(self.0.iter().map(|value| value.saturating_mul(factor)).collect())
    }
}

/// A message of so many bytes carries an input or a result; a shorter one hardly more than words.
pub const BULKY: u64 = 4_096;

/// The links of one realm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkTimes {
    /// One way of a small message.
    pub one_way: Samples,
    /// One way of a [`BULKY`] message, without what its length adds.
    pub bulky: Samples,
    /// What length adds, kilobytes per second.
    pub rate_kb_s: u32,
}

impl LinkTimes {
    /// One way of a message of so many bytes, without what its length adds.
    pub const fn way(&self, len: u64) -> &Samples {
        if len < BULKY { &self.one_way } else { &self.bulky }
    }
}

/// What the processes around one node's machine take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaceTimes {
    /// From an app's request until the machine is told of it.
    pub inbox: Samples,
    /// From the order to run a call until the machine hears that it began.
    pub began: Samples,
    /// From the order to run a call until the machine hears that it ended, less its execution.
    pub call: Samples,
    /// The same by module, and by whether another call ran already: they share the processor.
    pub calls: BTreeMap<(Digest, bool), Samples>,
    /// From the order to save something until it is durable.
    pub save: Samples,
    /// From the order to apply an effect until its answer.
    pub effect: Samples,
    /// From the order to load a module until it is ready.
    pub load: Samples,
    /// From the order to import a bundle until it is in the store.
    pub import: Samples,
    /// From the order to start a face until it is up.
    pub face: Samples,
}

impl FaceTimes {
    /// What a call takes besides its execution, as far as is known.
    pub fn around(&self, module: &Digest, crowded: bool) -> &Samples {
        self.calls.get(&(*module, crowded)).filter(|samples| samples.len() >= ENOUGH).unwrap_or(&self.call)
    }
}

/// One function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Execution times where enough was measured.
    pub by_node: BTreeMap<NodeId, Samples>,
    /// Execution times of all nodes.
    pub anywhere: Samples,
    /// What its manifest says, microseconds, for a function that was never seen to return.
    pub declared_us: u64,
    /// How many of its calls said no, in a thousand.
    pub failed_permille: u64,
}

impl Service {
    /// What it takes at a node as far as is known.
    pub fn at(&self, node: &NodeId) -> &Samples {
        self.by_node.get(node).filter(|samples| samples.len() >= ENOUGH).unwrap_or(&self.anywhere)
    }
}

/// What calls of one module gave back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the result.
    pub len: u32,
    /// The effect that it names.
    pub effect: Option<String>,
    /// The reading that it holds.
    pub reading: Option<Reading>,
}

/// The figures of one road.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Links by realm; a realm without measurements keeps the simulator's own figures.
    pub links: BTreeMap<Realm, LinkTimes>,
    /// Processes by node.
    pub faces: BTreeMap<NodeId, FaceTimes>,
    /// Functions by name.
    pub services: BTreeMap<FunctionName, Service>,
    /// Results by module.
    pub shapes: BTreeMap<Digest, Shape>,
    /// Which function a call is of, by module and input: several functions may share a module.
    pub calls: BTreeMap<(Digest, Digest), FunctionName>,
    /// One function of each module, for calls whose input is not known.
    pub modules: BTreeMap<Digest, FunctionName>,
}

/// The order to run a call.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Its code.
    pub module: &'a Digest,
    /// Its input.
    pub input: &'a JobInput,
    /// The execution time that it may take, microseconds.
    pub budget_us: u64,
}

/// How one call goes, microseconds from the order to run it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// When the machine hears that it began.
    pub began_us: u64,
    /// When the machine hears that it ended.
    pub ended_us: u64,
    /// Its execution time as its process says.
    pub took_us: u64,
    /// How it ended.
    pub end: CallEnd,
}

impl Model {
    /// Draws how a call at a node goes; `crowded` if another runs there already.
    pub fn call(&self, node: &NodeId, order: &Order<'_>, crowded: bool, chance: &mut Chance) -> Call {
        let Order { module, input, budget_us } = *order;
        let digest = match input {
            JobInput::Blob(blob) => blob.digest,
            JobInput::Signals { .. } => Digest::of(b"signals"),
        };
        let name = self.calls.get(&(*module, digest)).or_else(|| self.modules.get(module));
        let service = name.and_then(|name| self.services.get(name));
        let declared_us = service.map_or(0, |service| service.declared_us);
        let took_us = service.and_then(|service| service.at(node).draw(chance)).unwrap_or(declared_us);
        let failed = service.map_or(0, |service| service.failed_permille);
        let times = self.faces.get(node);
        let around_us = times.and_then(|times| times.around(module, crowded).draw(chance)).unwrap_or(0);
        let began_us = times.and_then(|times| times.began.draw(chance)).unwrap_or(0);
        let (took_us, end) = if took_us > budget_us {
            (budget_us, CallEnd::Failed { code: -1, why: "out of its budget".into() })
        } else if chance.happens(Ratio::permille(failed)) {
            (took_us, CallEnd::Failed { code: 2, why: "as some calls on the road".into() })
        } else {
            (took_us, self.returned(module, &digest))
        };
        let ended_us = around_us + took_us;
        Call { began_us: began_us.min(ended_us), ended_us, took_us, end }
    }

    fn returned(&self, module: &Digest, input: &Digest) -> CallEnd {
        let Shape { len, effect, reading } = self.shapes.get(module).cloned().unwrap_or_default();
        let digest = Digest::of(&[module.0, input.0].concat());
        CallEnd::Returned { result: BlobRef { digest, len }, effect, reading }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::name;

    #[test]
    fn a_node_with_few_measurements_is_taken_for_the_others() {
        let (here, there) = (name!(NodeId, "here"), name!(NodeId, "there"));
        let by_node = [(here.clone(), Samples::new(vec![7; ENOUGH])), (there.clone(), Samples::new(vec![9]))];
        let service =
            Service { by_node: by_node.into(), anywhere: Samples::new(vec![8]), ..Service::default() };
        assert_eq!((service.at(&here).quantile(500), service.at(&there).quantile(500)), (7, 8));
    }

    #[test]
    fn a_call_is_of_the_function_that_its_input_was_given_to() {
        let module = Digest::of(b"module");
        let service = |us| Service { anywhere: Samples::new(vec![us]), ..Service::default() };
        let [quick, slow] = ["quick", "slow"].map(|text| name!(FunctionName, text));
        let model = Model {
            services: [(quick.clone(), service(10)), (slow.clone(), service(900))].into(),
            calls: [((module, Digest::of(b"much")), slow)].into(),
            modules: [(module, quick)].into(),
            ..Model::default()
        };
        let mut chance = Chance::new(1, "test");
        let mut call = |input: &[u8], budget_us| {
            let input = &JobInput::Blob(BlobRef { digest: Digest::of(input), len: 1 });
            model.call(&name!(NodeId, "n"), &Order { module: &module, input, budget_us }, false, &mut chance)
        };
        assert_eq!((call(b"little", 1_000).took_us, call(b"much", 1_000).took_us), (10, 900));
        let late = call(b"much", 500);
        assert!(late.took_us == 500 && matches!(late.end, CallEnd::Failed { code: -1, .. }), "{late:?}");
    }
}
