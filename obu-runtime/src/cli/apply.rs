//! `verge apply`, `verge validate`, and the verbs on one app.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use obu_core::io::{ControlCall, ControlRefusal, ControlReply};
use policies::host::AppRef;
use policies::id::{AppName, Digest, TenantId};
use policies::unit::Span;

use super::{Client, Failure, Format, bundle, get, report, wait};
use crate::control::{Reply, Request, View};
use crate::manifest_file::{self, ManifestFile};

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// The manifest.
    #[arg(short, long)]
    file: PathBuf,
    /// Key that signs directories and modules named in the manifest; not needed where it names digests.
    #[arg(short, long, env = "VERGE_KEY")]
    key: Option<PathBuf>,
    /// Wait until everything named runs here, at most so long (10s if not said); fail if it does not.
    #[arg(long, num_args = 0..=1, default_missing_value = "10s")]
    wait: Option<String>,
}

/// What can be done with one app.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verb {
    Delete,
    Freeze,
    Thaw,
    Restart,
}

/// `app` or `tenant/app`.
pub(crate) fn app_ref(text: &str) -> Result<AppRef, Failure> {
    let (tenant, app) = text.split_once('/').unwrap_or(("default", text));
    Ok(AppRef {
        tenant: TenantId::new(tenant).map_err(Failure::new)?,
        app: AppName::new(app).map_err(Failure::new)?,
    })
}

pub(super) fn apply(client: &Client, args: &ApplyArgs) -> Result<(), Failure> {
    let wait: Option<Span> = args.wait.as_deref().map(str::parse).transpose().map_err(Failure::new)?;
    let applied = apply_file(client, &args.file, args.key.as_deref())?;
    said(client, &applied.lines);
    wait.map_or(Ok(()), |span| wait::until_up(client, &applied, span))
}

/// What a node has been told to run.
#[derive(Debug)]
pub(crate) struct Applied {
    /// What it said, one line per object.
    lines: Vec<String>,
    /// Apps as `verge get apps` names them.
    pub(super) apps: Vec<String>,
    /// Functions as `verge get functions` names them.
    pub(super) functions: Vec<String>,
}

/// Makes the node at `client` run what the file says.
pub(crate) fn apply_file(client: &Client, path: &Path, key: Option<&Path>) -> Result<Applied, Failure> {
    let file = manifest_file::load_file(path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let names = base_names(client)?;
    let mut built: BTreeMap<PathBuf, Digest> = BTreeMap::new();
    let mut build = |name: &str| -> Result<Digest, Failure> {
        let source = dir.join(name);
        if let Some(digest) = built.get(&source) {
            return Ok(*digest);
        }
        let digest = build_and_push(client, &source, key)?;
        built.insert(source, digest);
        Ok(digest)
    };
    let mut digests = BTreeMap::new();
    for (kind, name) in sources(&file) {
        // A bundle is a path, whatever the node's bases are called.
        let known = names.get(&name).filter(|_| kind == Source::Base);
        let digest = match known {
            Some(digest) => *digest,
            None if kind == Source::Base && !dir.join(&name).exists() => return Err(no_base(&name, &names)),
            None => build(&name)?,
        };
        digests.insert((kind, name), digest);
    }
    let look = |kind: Source, name: &str| {
        let found = digests.get(&(kind, name.to_owned())).copied();
        found.ok_or_else(|| Failure::new(format!("{name:?} was not resolved")))
    };
    let manifest = file.resolve(|name| look(Source::Bundle, name), |name| look(Source::Base, name))?;
    let apps = manifest.apps.iter().map(|app| app.app_ref().to_string()).collect();
    let functions = manifest.functions.iter().map(|function| function.name.to_string()).collect();
    let lines = call(client, ControlCall::Apply { manifest })?;
    Ok(Applied { lines, apps, functions })
}

/// What a text in the manifest stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Bundle,
    Base,
}

/// Every text in the manifest that stands for a bundle or a base and is no digest.
fn sources(file: &ManifestFile) -> BTreeSet<(Source, String)> {
    let bases = file.claim.apps.values().filter_map(|app| app.base.as_ref());
    let apps = file.claim.apps.values().map(|app| &app.bundle);
    let functions = file.claim.functions.values().map(|function| &function.bundle);
    let all = bases
        .map(|text| (Source::Base, text))
        .chain(apps.chain(functions).map(|text| (Source::Bundle, text)));
    all.filter(|(_, text)| text.parse::<Digest>().is_err()).map(|(kind, text)| (kind, text.clone())).collect()
}

fn no_base(name: &str, known: &BTreeMap<String, Digest>) -> Failure {
    let known = match known.len() {
        0 => "it has none".to_owned(),
        _ => format!("it has {}", known.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
    };
    Failure::new(format!("base {name:?}: the node knows no such base ({known}), and nothing of that name is beside the manifest"))
        .fix("name one that it has, write a path, or add it to [host] bases in the node's file".to_owned())
}

/// Base layers that the node knows by name.
fn base_names(client: &Client) -> Result<BTreeMap<String, Digest>, Failure> {
    let machine = get::fetch(client, View::Machine)?;
    serde_json::from_value(machine["bases"].clone()).or(Ok(BTreeMap::new()))
}

fn build_and_push(client: &Client, source: &Path, key: Option<&Path>) -> Result<Digest, Failure> {
    let out = tempdir()?;
    let result = crate::bundle_cmd::ready(source, &out, key)
        .map_err(|e| Failure::new(&e).fix(e.fix()))
        .and_then(|(_, bundle)| bundle::push(&client.socket, &bundle));
    // What cannot be removed stays in the temporary directory and harms nobody.
    let _ = std::fs::remove_dir_all(&out);
    result
}

fn tempdir() -> Result<PathBuf, Failure> {
    let template = std::env::temp_dir().join("verge-bundle-XXXXXX");
    nix::unistd::mkdtemp(&template).map_err(|e| {
        Failure::new(format!("cannot make a temporary directory: {e}")).fix("set TMPDIR".to_owned())
    })
}

/// Asks for a change and turns the answer into lines.
pub(crate) fn call(client: &Client, call: ControlCall) -> Result<Vec<String>, Failure> {
    match client.ask(&Request::Call { call, payload: None })? {
        Reply::Control { reply: ControlReply::Ok { lines }, .. } => Ok(lines),
        Reply::Control { reply: ControlReply::Refused { refusals: list }, .. } => Err(refusals(&list)),
        other => Err(Failure::new(format!("the node answered something else: {other:?}"))),
    }
}

/// Prints what the node said.
fn said(client: &Client, lines: &[String]) {
    report::result(client.output, lines.join("\n"), &serde_json::json!({ "said": lines }));
}

/// All refusals in one failure; nothing was changed.
pub(super) fn refusals(list: &[ControlRefusal]) -> Failure {
    let lines: Vec<String> = list.iter().map(|r| format!("{}: {}", r.what, r.why)).collect();
    let mut fixes: Vec<&str> = Vec::new();
    for fix in list.iter().filter_map(|refusal| refusal.fix.as_deref()) {
        if !fixes.contains(&fix) {
            fixes.push(fix);
        }
    }
    Failure::new(lines.join("\n       ")).fix((!fixes.is_empty()).then(|| fixes.join("; ")))
}

/// Does something to one app.
pub(crate) fn on_app(client: &Client, app: &str, verb: Verb) -> Result<(), Failure> {
    let app = app_ref(app)?;
    let lines = call(
        client,
        match verb {
            Verb::Delete => ControlCall::Delete { app },
            Verb::Freeze => ControlCall::Freeze { app },
            Verb::Thaw => ControlCall::Thaw { app },
            Verb::Restart => ControlCall::Restart { app },
        },
    )?;
    said(client, &lines);
    Ok(())
}

pub(super) fn validate(files: &[PathBuf], output: Format) -> Result<ExitCode, Failure> {
    let mut wrong = 0;
    for path in files {
        let checked = if path.extension().is_some_and(|e| e == "toml") {
            crate::config::check_file(path)
        } else {
            manifest_file::load_file(path).and_then(|file| file.check_alone().map(|_| ()))
        };
        match (checked, output) {
            (Ok(()), Format::Table) => report::line(format!("{}: ok", path.display())),
            (Ok(()), Format::Json) => report::line(serde_json::json!({ "file": path, "ok": true })),
            (Err(error), Format::Json) => {
                wrong += 1;
                let mut row = Failure::from(error).json();
                row["ok"] = false.into();
                report::line(row);
            }
            (Err(error), Format::Table) => {
                wrong += 1;
                Failure::from(error).print(output);
            }
        }
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
