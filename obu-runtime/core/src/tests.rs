//! Whole nodes against a fake host, bus, sandbox, disk and network that do what they are told, in fake time.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use policies::face::{FromBus, ToBorder, ToBus};
use policies::grant::{ExportRule, Grants, NodePolicy, TenantRule};
use policies::host::{AppRef, Enforced, Exit, Face, HostCommand, HostEvent, HostRefusal, Pressure};
use policies::id::{AppName, CarId, Digest, FunctionName, Incarnation, NodeId, TenantId};
use policies::manifest::{App, AppKind, Function, Manifest, Nodes, Resources, Restart};
use policies::signal::{Quality, Signal, SignalPath, SignalPattern, Value};
use policies::task::{BlobRef, Class, Effect};
use policies::time::Timestamp;
use policies::unit::{Bytes, CpuMilli, Span};
use policies::wire::{self, Kind};
use v2e_core::message::{Message, Reading, Role};
use v2e_core::record::JobRecord;
use v2e_core::report::{Realm, TaskReport};

use crate::Node;
use crate::io::{
    AppAnswer, AppAsk, Boot, CallEnd, ControlCall, ControlReply, Decision, DecisionKind, Desired, Durable,
    Input, JobEvent, JobInput, NodeConfig, Output,
};

mod borders;
mod calls;
mod chaos;
mod control;
mod outsourcing;
mod replay;
mod rig;
mod supervision;

pub(crate) use rig::{Rig, snapshot};

pub(crate) const MS: u64 = 1_000;

pub(crate) fn node_id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new("oem").unwrap()
}

pub(crate) fn function(name: &str) -> FunctionName {
    FunctionName::new(name).unwrap()
}

pub(crate) fn app_ref(name: &str) -> AppRef {
    AppRef { tenant: tenant(), app: AppName::new(name).unwrap() }
}

pub(crate) fn blob() -> BlobRef {
    BlobRef { digest: Digest::of(b"bytes"), len: 100 }
}

pub(crate) fn app(name: &str, class: Class) -> App {
    App {
        name: AppName::new(name).unwrap(),
        tenant: tenant(),
        kind: AppKind::Process,
        bundle: Digest::of(name.as_bytes()),
        base: None,
        command: vec!["/app/main".into()],
        class,
        resources: Resources {
            cpu: CpuMilli::new(100).unwrap(),
            memory: Bytes::mebi(16),
            ..Resources::default()
        },
        restart: Restart::OnFailure,
        grants: Grants {
            signals: vec![SignalPattern::new("Vehicle.Speed").unwrap()],
            tasks: vec![function("lane"), function("toll")],
            ..Grants::default()
        },
        env: Vec::new(),
        stop_timeout: Span::from_millis(500),
        nodes: Nodes::default(),
    }
}

pub(crate) fn make_function(name: &str, effect: Effect) -> Function {
    Function {
        name: function(name),
        tenant: tenant(),
        bundle: Digest::of(name.as_bytes()),
        effect,
        service_time: Span::from_millis(20),
        memory: Bytes::mebi(32),
        nodes: Nodes::default(),
    }
}

pub(crate) fn manifest() -> Manifest {
    Manifest {
        apps: vec![app("speedo", Class::Driving), app("games", Class::Background)],
        functions: vec![
            make_function("lane", Effect::Pure),
            make_function("toll", Effect::Once),
            make_function("road-sample", Effect::Pure),
        ],
    }
}

pub(crate) fn policy() -> NodePolicy {
    let allow = Grants {
        signals: vec![SignalPattern::new("Vehicle.**").unwrap()],
        tasks: vec![function("lane"), function("toll")],
        ..Grants::default()
    };
    let export = ExportRule {
        id: "export-1".into(),
        tasks: vec![function("lane"), function("toll")],
        signals: vec![SignalPattern::new("Vehicle.Exterior.*").unwrap()],
    };
    NodePolicy {
        tenants: vec![TenantRule { tenant: tenant(), best_class: Class::Driving, allow }],
        exports: vec![export],
        answer_calls: vec![function("road-sample")],
        ..NodePolicy::default()
    }
}

pub(crate) fn config(name: &str) -> NodeConfig {
    let role = if name.starts_with('e') { Role::Edge } else { Role::Obu };
    let car = CarId::new(&name[..1]).unwrap();
    let outside = role == Role::Edge || name.ends_with('1');
    NodeConfig { policy: policy(), outside, bus: true, ..NodeConfig::new(node_id(name), car, role) }
}

pub(crate) fn lane(deadline_ms: u64) -> AppAsk {
    run_task("lane", deadline_ms)
}

pub(crate) fn run_task(name: &str, deadline_ms: u64) -> AppAsk {
    AppAsk::RunTask {
        function: function(name),
        deadline_us: deadline_ms * MS,
        class: Class::Driving,
        effect: None,
        input: blob(),
    }
}

/// Nodes whose names begin alike are one car.
pub(crate) fn realm_between(a: &str, b: &str) -> Realm {
    if a[..1] == b[..1] { Realm::Car } else { Realm::Outside }
}

/// Outputs as bytes, to compare runs by.
pub(crate) fn bytes(outputs: &[Output]) -> Vec<Vec<u8>> {
    outputs.iter().map(|output| wire::encode(Kind::Record, output).unwrap()).collect()
}
