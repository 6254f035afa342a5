//! What the road needs before it moves: keys, bundles, manifests; and short ways to ask its nodes.

use std::fs;
use std::path::{Path, PathBuf};

use obu_core::io::{ControlCall, ControlReply};
use policies::host::AppRef;
use policies::id::FunctionName;
use serde_json::Value as Json;

use super::road::{PLACES, Plan};
use crate::cli::{self, Client, Failure, Format};
use crate::control::{Reply, Request, View};

/// Manifests and the key that signs what they name.
#[derive(Debug)]
pub(super) struct Bundles {
    pub(super) functions: PathBuf,
    /// The same, with the gateway's own guesses: it thinks itself slow at tolls, so that others get them.
    pub(super) gateway: PathBuf,
    pub(super) apps: PathBuf,
    pub(super) hostile: PathBuf,
    pub(super) stranger: PathBuf,
    pub(super) key: PathBuf,
    /// A key that no node trusts.
    pub(super) strangers_key: PathBuf,
}

fn io(what: &Path) -> impl Fn(std::io::Error) -> Failure {
    move |e| Failure::new(format!("{}: {e}", what.display()))
}

/// Makes the demo's authorities, certificates and signing key, anew for each run.
pub(super) fn keys(plan: &Plan) -> Result<(), Failure> {
    let keys = plan.root.join("keys");
    let _ = fs::remove_dir_all(&keys);
    fs::create_dir_all(&keys).map_err(io(&keys))?;
    for authority in ["car-a", "outside"] {
        let names: Vec<_> = PLACES
            .iter()
            .filter(|place| authority == "outside" || place.car == "car-a")
            .map(|place| place.id)
            .collect();
        cli::make_authority(&keys.join(authority), authority, &names)?;
    }
    cli::make_signing_key(&keys, "stranger")?;
    cli::make_signing_key(&keys, "dev")
}

/// Writes the manifests: functions for all nodes, the apps of car A, the hostile app and its neighbour, a stranger's.
pub(super) fn bundles(plan: &Plan, project: &Path) -> Result<Bundles, Failure> {
    let key = plan.root.join("keys/dev.key.pem");
    let base = plan.root.join("bundles/python");
    let _ = fs::remove_dir_all(plan.root.join("bundles"));
    obu_host::bundle::build::build(&plan.material.join("base-python"), &base)
        .map_err(|e| cli::failure(&e))?;
    cli::sign(&base, &key)?;
    let apps = super::absolute(&project.join("examples/apps"))?;
    let heartbeat = plan.material.join("apps/heartbeat");
    let write = |name: &str, text: String| {
        let path = plan.root.join(name);
        fs::write(&path, text).map_err(io(&path)).map(|()| path)
    };
    Ok(Bundles {
        functions: write("functions.yaml", functions(&plan.material.join("wasm"), "5ms"))?,
        gateway: write("gateway.yaml", functions(&plan.material.join("wasm"), "300ms"))?,
        apps: write("apps.yaml", car_a(&apps, &heartbeat, &base))?,
        hostile: write("hostile.yaml", hostile(&apps, &heartbeat, &base))?,
        stranger: write("stranger.yaml", stranger(&heartbeat, &plan.root.join("stranger"))?)?,
        key,
        strangers_key: plan.root.join("keys/stranger.key.pem"),
    })
}

/// The scales hang on the sibling: only there a truck can be weighed.
fn functions(wasm: &Path, toll: &str) -> String {
    let wasm = wasm.display();
    format!(
        "apiVersion: verge/v1\nfunctions:\n\
         \x20 lane: {{tenant: oem, bundle: {wasm}/lane.wasm, service_time: 15ms, memory: 32Mi}}\n\
         \x20 road-sample: {{tenant: oem, bundle: {wasm}/road-sample.wasm, service_time: 5ms, memory: 16Mi}}\n\
         \x20 toll: {{tenant: oem, bundle: {wasm}/toll.wasm, effect: once, service_time: {toll}, memory: 16Mi}}\n\
         \x20 weigh: {{tenant: oem, bundle: {wasm}/toll.wasm, effect: once, service_time: 1500ms, memory: 16Mi, nodes: [a2]}}\n"
    )
}

fn python(name: &str, tenant: &str, apps: &Path, base: &Path, class: &str, rest: &str) -> String {
    format!(
        "  {name}:\n    tenant: {tenant}\n    bundle: {apps}/{name}\n    base: {base}\n    \
         command: [/usr/bin/python3, /app/main.py]\n    class: {class}\n{rest}",
        apps = apps.display(),
        base = base.display(),
    )
}

fn car_a(apps: &Path, heartbeat: &Path, base: &Path) -> String {
    let signals = "[Vehicle.Speed, Vehicle.CurrentLocation.*]";
    let mut text = String::from("apiVersion: verge/v1\napps:\n");
    text += &python(
        "speedometer",
        "oem",
        apps,
        base,
        "driving",
        &format!(
            "    resources: {{cpu: 300m, memory: 96Mi, pids: 32}}\n    grants: {{signals: {signals}}}\n"
        ),
    );
    text += &python(
        "dashcam",
        "oem",
        apps,
        base,
        "driving",
        "    resources: {cpu: 400m, memory: 96Mi, pids: 32}\n    grants: {cameras: [{id: front, fps: 5}], tasks: [lane]}\n",
    );
    text += &python(
        "surround",
        "oem",
        apps,
        base,
        "driving",
        "    resources: {cpu: 400m, memory: 192Mi, pids: 32}\n    grants: {cameras: [{id: front, fps: 2}], tasks: [lane]}\n",
    );
    text += &python(
        "tollgate",
        "oem",
        apps,
        base,
        "driving",
        "    resources: {cpu: 300m, memory: 96Mi, pids: 32}\n    grants: {tasks: [toll]}\n",
    );
    text + &beat(heartbeat, "heartbeat", "oem", "critical")
}

/// The static program that tells how late it woke up.
fn beat(bundle: &Path, name: &str, tenant: &str, class: &str) -> String {
    format!(
        "  {name}:\n    tenant: {tenant}\n    bundle: {}\n    command: [/app/heartbeat]\n    \
         class: {class}\n    resources: {{cpu: 200m, memory: 16Mi, pids: 8, tmp: 1Mi}}\n",
        bundle.display()
    )
}

/// A program of its own contents: what a trusted key has signed already may run, whoever sends it.
fn stranger(heartbeat: &Path, own: &Path) -> Result<String, Failure> {
    fs::create_dir_all(own).map_err(io(own))?;
    fs::copy(heartbeat.join("heartbeat"), own.join("heartbeat")).map_err(io(own))?;
    fs::write(own.join("mark"), "a stranger's").map_err(io(own))?;
    Ok(String::from("apiVersion: verge/v1\napps:\n") + &beat(own, "stranger", "oem", "comfort"))
}

/// The hostile app, and an innocent one of the same class, which shows when the class is frozen and thawed.
fn hostile(apps: &Path, heartbeat: &Path, base: &Path) -> String {
    String::from("apiVersion: verge/v1\napps:\n")
        + &beat(heartbeat, "radio", "guest", "background")
        + &python(
            "hostile",
            "guest",
            apps,
            base,
            "background",
            "    resources: {cpu: 1500m, memory: 96Mi, pids: 48}\n    restart: ALWAYS\n    grants: {signals: [Vehicle.Speed]}\n",
        )
}

/// The Python that the packages of the material were installed for; if this user may not run that one, the one in PATH.
pub(super) fn interpreter(material: &Path) -> PathBuf {
    let named = fs::read_to_string(material.join("pylib/.python")).unwrap_or_default();
    let named = Path::new(named.trim());
    let may_run = nix::unistd::access(named, nix::unistd::AccessFlags::X_OK).is_ok();
    if may_run { named.into() } else { "python3".into() }
}

fn client(socket: &Path) -> Client {
    Client { socket: socket.to_owned(), output: Format::Json }
}

/// `verge apply` at one node.
pub(super) fn apply(socket: &Path, manifest: &Path, key: &Path) -> Result<(), Failure> {
    cli::apply_file(&client(socket), manifest, Some(key)).map(|_| ())
}

/// `verge delete` at one node.
pub(super) fn delete(socket: &Path, app: AppRef) -> Result<(), Failure> {
    cli::call(&client(socket), ControlCall::Delete { app }).map(|_| ())
}

/// A view of one node; null if it does not answer.
pub(super) fn view(socket: &Path, view: View) -> Json {
    cli::fetch(&client(socket), view).unwrap_or(Json::Null)
}

/// `verge task run weigh` at one node: a `once` task that is under way for a while. Says how it ended.
pub(super) fn weigh(socket: &Path) -> Result<String, Failure> {
    let input = br#"{"gantry": "A10-W", "plate_hash": "truck", "weigh_ms": 1500}"#.to_vec();
    let call = ControlCall::RunTask {
        function: FunctionName::new("weigh").map_err(Failure::new)?,
        deadline_us: 30_000_000,
        class: policies::task::Class::Driving,
        effect: Some(policies::task::Effect::Once),
        input: policies::task::BlobRef::of(&input).expect("it has 60 bytes"),
    };
    match client(socket).ask(&Request::Call { call, payload: Some(input) })? {
        Reply::Control { reply: ControlReply::Task(report), .. } => Ok(report.outcome.word().to_owned()),
        other => Err(Failure::new(format!("the node answered something else: {other:?}"))),
    }
}

/// `verge call` at a roadside element.
pub(super) fn call(socket: &Path, want: &str) -> Result<Json, Failure> {
    let function = FunctionName::new("road-sample").map_err(Failure::new)?;
    let call = ControlCall::Call { want: want.into(), area: None, function, wait_us: 1_500_000 };
    match client(socket).ask(&Request::Call { call, payload: None })? {
        Reply::Control { reply: ControlReply::Called(called), .. } => Ok(serde_json::json!({
            "want": called.want,
            "value_micro": called.reading.map(|r| r.value_micro),
            "asked": called.asked,
            "answered": called.parts.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>(),
        })),
        other => Err(Failure::new(format!("the roadside answered something else: {other:?}"))),
    }
}
