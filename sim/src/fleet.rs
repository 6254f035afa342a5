//! Who is on the road: cars of one to three on-board units, roadside edges, what they run and what their
//! policies allow. Made from the number of nodes and the seed alone.

use obu_core::io::NodeConfig;
use policies::grant::{ExportRule, Grants, NodePolicy, TenantRule};
use policies::id::{AppName, CarId, Digest, FunctionName, NodeId, TenantId, ZoneId};
use policies::manifest::{App, AppKind, Function, Manifest, Nodes, Resources, Restart};
use policies::signal::SignalPattern;
use policies::task::{Class, Effect};
use policies::unit::{Bytes, Span};
use v2e_core::message::Role;

use crate::chance::Chance;

/// A function of the simulated world.
#[derive(Clone, Copy, Debug)]
pub struct FunctionModel {
    /// Its name; its bundle is the digest of the name.
    pub name: &'static str,
    /// What happens if it runs twice.
    pub effect: Effect,
    /// Execution time, least and most, microseconds; one call in a hundred takes five times as long.
    pub service: (u64, u64),
    /// Deadlines that apps give it, milliseconds, least and most.
    pub deadline_ms: (u64, u64),
    /// Input bytes, least and most.
    pub input: (u64, u64),
}

/// Finds lane structure in a camera frame.
pub const LANE: FunctionModel = FunctionModel {
    name: "lane",
    effect: Effect::Pure,
    service: (6_000, 18_000),
    deadline_ms: (60, 250),
    input: (20_000, 200_000),
};

/// Reads a sign and notes it in a map: repeating is safe but costs.
pub const SIGN: FunctionModel = FunctionModel {
    name: "sign",
    effect: Effect::Idempotent,
    service: (10_000, 40_000),
    deadline_ms: (150, 600),
    input: (5_000, 50_000),
};

/// Pays a toll: its effect must not happen twice.
pub const TOLL: FunctionModel = FunctionModel {
    name: "toll",
    effect: Effect::Once,
    service: (2_000, 8_000),
    deadline_ms: (200, 1_500),
    input: (100, 500),
};

/// Books a charging point, which takes its time: its effect must not happen behind the owner's back.
pub const CHARGE: FunctionModel = FunctionModel {
    name: "charge",
    effect: Effect::Once,
    service: (500_000, 6_000_000),
    deadline_ms: (10_000, 14_000),
    input: (100, 500),
};

/// Answers a roadside element's call for a sample.
pub const AIR: FunctionModel = FunctionModel {
    name: "air",
    effect: Effect::Pure,
    service: (500, 2_000),
    deadline_ms: (500, 1_500),
    input: (0, 0),
};

/// All of them.
pub const FUNCTIONS: [FunctionModel; 5] = [LANE, SIGN, TOLL, CHARGE, AIR];

impl FunctionModel {
    /// The model of that name.
    pub fn named(name: &FunctionName) -> Option<&'static Self> {
        FUNCTIONS.iter().find(|model| model.name == name.as_str())
    }

    /// The model of that code.
    pub fn of_bundle(bundle: &Digest) -> Option<&'static Self> {
        FUNCTIONS.iter().find(|model| Digest::of(model.name.as_bytes()) == *bundle)
    }

    /// The result that this function gives for an input; what an honest and correct worker returns.
    pub fn result(&self, input: &Digest) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&Digest::of(self.name.as_bytes()).0);
        bytes[32..].copy_from_slice(&input.0);
        bytes
    }
}

/// One node of the fleet.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its configuration.
    pub config: NodeConfig,
    /// What an operator applies to it on its first day.
    pub manifest: Manifest,
    /// The car it belongs to; an edge is a car of one.
    pub car: usize,
    /// The zone it begins in.
    pub zone: usize,
}

/// Wraps a name that is written in this file.
macro_rules! name {
    ($type:ty, $text:expr) => {
        <$type>::new($text).expect("a name written in the source is a name")
    };
}
pub(crate) use name;

/// Makes a fleet of `nodes` nodes: one edge for every 20, the rest on-board units in cars of one to three.
pub fn fleet(seed: u64, nodes: usize) -> Vec<Member> {
    let mut chance = Chance::new(seed, "fleet");
    let edges = nodes.div_ceil(20).min(nodes);
    let mut members: Vec<Member> = (0..edges).map(|index| edge(seed, index, chance.below(2) == 0)).collect();
    let mut car = edges;
    while members.len() < nodes {
        let units = (1 + chance.index(3)).min(nodes - members.len());
        let zone = chance.index(edges);
        let lets_data_out = chance.below(4) > 0;
        for unit in 0..units {
            members.push(obu(seed, car, unit, zone, lets_data_out));
        }
        car += 1;
    }
    members
}

fn edge(seed: u64, index: usize, has_port: bool) -> Member {
    let node = name!(NodeId, &format!("e{index}"));
    let mut config = NodeConfig::new(node, name!(CarId, &format!("e{index}")), Role::Edge);
    config.zone = Some(name!(ZoneId, &format!("z{index}")));
    config.cores = 4;
    config.bus = has_port;
    config.seed = seed ^ index as u64;
    config.policy = NodePolicy { tenants: tenants(), ..NodePolicy::default() };
    let manifest = Manifest { apps: Vec::new(), functions: functions() };
    Member { config, manifest, car: index, zone: index }
}

fn obu(seed: u64, car: usize, unit: usize, zone: usize, lets_data_out: bool) -> Member {
    let node = name!(NodeId, &format!("c{car}u{unit}"));
    let mut config = NodeConfig::new(node, name!(CarId, &format!("c{car}")), Role::Obu);
    config.outside = unit == 0;
    config.seed = seed ^ (car * 8 + unit) as u64;
    config.policy = NodePolicy { tenants: tenants(), ..NodePolicy::default() };
    if lets_data_out {
        config.policy.exports = vec![export()];
        config.policy.answer_calls = vec![name!(FunctionName, AIR.name)];
    }
    let manifest = Manifest { apps: apps(), functions: functions() };
    Member { config, manifest, car, zone }
}

/// What may leave a car: never the input of `sign`.
fn export() -> ExportRule {
    ExportRule {
        id: "export-1".into(),
        tasks: [LANE, TOLL, CHARGE].map(|model| name!(FunctionName, model.name)).into(),
        signals: vec![name!(SignalPattern, "Vehicle.Exterior.**")],
    }
}

fn tenants() -> Vec<TenantRule> {
    let rule = |tenant: &str, best_class, models: &[FunctionModel]| TenantRule {
        tenant: name!(TenantId, tenant),
        best_class,
        allow: Grants {
            signals: vec![name!(SignalPattern, "Vehicle.**")],
            tasks: models.iter().map(|model| name!(FunctionName, model.name)).collect(),
            ..Grants::default()
        },
    };
    vec![rule("oem", Class::Critical, &FUNCTIONS), rule("city", Class::Comfort, &[SIGN, AIR])]
}

fn functions() -> Vec<Function> {
    let function = |model: &FunctionModel| Function {
        name: name!(FunctionName, model.name),
        tenant: name!(TenantId, "oem"),
        bundle: Digest::of(model.name.as_bytes()),
        effect: model.effect,
        service_time: Span::from_micros(model.service.1).unwrap_or_default(),
        memory: Bytes::mebi(16),
        nodes: Nodes::default(),
    };
    FUNCTIONS.iter().map(function).collect()
}

fn apps() -> Vec<App> {
    let app = |app: &str, tenant: &str, class, tasks: &[FunctionModel]| App {
        name: name!(AppName, app),
        tenant: name!(TenantId, tenant),
        kind: AppKind::Process,
        bundle: Digest::of(app.as_bytes()),
        base: None,
        command: vec![format!("/app/{app}")],
        class,
        resources: Resources { memory: Bytes::mebi(32), ..Resources::default() },
        restart: Restart::Always,
        grants: Grants {
            signals: vec![name!(SignalPattern, "Vehicle.Speed")],
            tasks: tasks.iter().map(|model| name!(FunctionName, model.name)).collect(),
            ..Grants::default()
        },
        env: Vec::new(),
        stop_timeout: Span::from_millis(500),
        nodes: Nodes::default(),
    };
    vec![
        app("brake", "oem", Class::Critical, &[]),
        app("lane-keeper", "oem", Class::Driving, &[LANE]),
        app("payer", "oem", Class::Comfort, &[TOLL, CHARGE]),
        app("mapper", "city", Class::Background, &[SIGN]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_has_the_size_asked_for_and_unique_names() {
        for nodes in [1, 2, 3, 20, 21, 100] {
            let members = fleet(9, nodes);
            let mut names: Vec<_> = members.iter().map(|m| m.config.node.clone()).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), nodes);
            assert!(members.iter().all(|m| m.zone < nodes.div_ceil(20)));
        }
    }
}
