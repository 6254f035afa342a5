//! Values that read well and cannot be: what host refuses, then what the faces would refuse once they run.

use std::path::PathBuf;

use obu_host::config::Misfit;
use policies::ladder::Ladder;

use super::{BusSection, CameraSection, NodeFile, TxRule};

/// Highest CAN id of 11 and of 29 bits.
const ID_MAX: [u32; 2] = [0x7FF, 0x1FFF_FFFF];

/// The first value that cannot be.
pub(super) fn first(file: &NodeFile) -> Option<Misfit> {
    let hosts = obu_host::config::misfit(file.api_version.as_deref(), &file.node, &file.host, &file.control);
    hosts
        .or_else(|| ladder(file))
        .or_else(|| capacity(file))
        .or_else(|| file.camera.iter().enumerate().find_map(|(number, one)| camera(number, one)))
        .or_else(|| file.bus.iter().enumerate().find_map(|(number, one)| tx(number, one)))
        .or_else(|| twice("bus", "name", file.bus.iter().map(|bus| bus.name.to_string())))
        .or_else(|| twice("camera", "id", file.camera.iter().map(|camera| camera.id.to_string())))
        .or_else(|| {
            twice("policy.tenants", "tenant", file.policy.tenants.iter().map(|rule| rule.tenant.to_string()))
        })
        .or_else(|| car(file))
        .or_else(|| outside(file))
}

fn ladder(file: &NodeFile) -> Option<Misfit> {
    let error = Ladder::new(file.ladder.clone()).err()?;
    Some(Misfit { key: "ladder".into(), why: error.to_string(), fix: None })
}

fn capacity(file: &NodeFile) -> Option<Misfit> {
    let cores = file.capacity.cores;
    let why = format!("cores is {cores}, it must be between 1 and 1024");
    (!(1..=1024).contains(&cores))
        .then(|| Misfit::new("capacity.cores", why, "leave it out to use all cores"))
}

fn camera(number: usize, camera: &CameraSection) -> Option<Misfit> {
    let CameraSection { id, source, fps, .. } = camera;
    if !(1..=240).contains(fps) {
        let why = format!("fps of camera {id} is {fps}, it must be between 1 and 240");
        return Some(Misfit::new(format!("camera.{number}.fps"), why, "write 10, or leave it out"));
    }
    let why = format!("source of camera {id} is {source:?}, which names no file");
    let is_file = source.starts_with("file:");
    (!is_file).then(|| Misfit::new(format!("camera.{number}.source"), why, "write source = \"file:PATH\""))
}

fn tx(number: usize, bus: &BusSection) -> Option<Misfit> {
    bus.tx.iter().find_map(|rule| {
        let (why, fix) = tx_rule(rule)?;
        Some(Misfit::new(format!("bus.{number}.tx"), why, fix))
    })
}

fn tx_rule(rule: &TxRule) -> Option<(String, &'static str)> {
    let TxRule { app, id, extended, .. } = rule;
    if !is_app(app) {
        return Some((format!("{app:?} is not an app"), "write tenant/app"));
    }
    let (bits, fix) = if *extended {
        (29, "write an id of at most 0x1FFFFFFF")
    } else {
        (11, "write extended = true, or an id of at most 0x7FF")
    };
    (*id > ID_MAX[usize::from(*extended)]).then(|| (format!("id {id:#X} has more than {bits} bits"), fix))
}

fn is_app(text: &str) -> bool {
    use policies::id::{AppName, TenantId};
    text.split_once('/').is_some_and(|(t, a)| TenantId::new(t).is_ok() && AppName::new(a).is_ok())
}

/// Two sections of one name: which of them counts, nobody could tell.
fn twice(section: &str, key: &str, names: impl Iterator<Item = String>) -> Option<Misfit> {
    let mut seen = Vec::new();
    for (number, name) in names.enumerate() {
        if seen.contains(&name) {
            let why = format!("{section} {name} stands here twice");
            return Some(Misfit::new(format!("{section}.{number}.{key}"), why, "name each once"));
        }
        seen.push(name);
    }
    None
}

fn car(file: &NodeFile) -> Option<Misfit> {
    let car = file.car.as_ref()?;
    let certificates = [("ca", &car.ca), ("cert", &car.cert), ("key", &car.key)];
    realm("car", file.node.insecure, &[("listen", &car.listen), ("connect", &car.connect)], certificates)
}

fn outside(file: &NodeFile) -> Option<Misfit> {
    let outside = file.outside.as_ref()?;
    if outside.listen.is_empty() && outside.connect.is_empty() {
        let fix = "write listen on a roadside element, connect in a car; or leave [outside] out";
        return Some(Misfit::new("outside", "[outside] neither listens nor connects".to_owned(), fix));
    }
    let certificates = [("ca", &outside.ca), ("cert", &outside.cert), ("key", &outside.key)];
    let endpoints = [("listen", &outside.listen), ("connect", &outside.connect)];
    realm("outside", file.node.insecure, &endpoints, certificates)
}

fn realm(
    section: &str,
    insecure: bool,
    endpoints: &[(&str, &Vec<String>)],
    certificates: [(&str, &Option<PathBuf>); 3],
) -> Option<Misfit> {
    for (key, list) in endpoints {
        for endpoint in *list {
            if let Err(error) = v2e::session::check_between_nodes(endpoint, insecure) {
                let key = format!("{section}.{key}");
                return Some(Misfit { key, why: error.to_string(), fix: error.fix() });
            }
        }
    }
    let missing = certificates.iter().find(|(_, path)| !insecure && path.is_none());
    missing.map(|(key, _)| {
        let fix = "name ca, cert and key; verge pki makes them";
        Misfit::new(section, format!("[{section}] has no {key}: nodes speak mutual TLS"), fix)
    })
}
