//! What an app's author writes ([`ManifestClaim`]), and what it becomes once every static check has passed
//! ([`Manifest`]). The claim proves nothing; holding a [`Manifest`] proves what its docs say.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

use crate::grant::Grants;
use crate::host::AppRef;
use crate::id::{AppName, Digest, FunctionName, NameError, NodeId, TenantId};
use crate::limits;
use crate::task::{Class, Effect};
use crate::unit::{Bytes, CpuMilli, Span};

/// The one value of `apiVersion` that this release reads.
pub const API_VERSION: &str = "verge/v1";

/// A manifest as its author wrote it: a map of apps and a map of functions, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestClaim {
    /// Must be [`API_VERSION`].
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// Apps by name.
    #[serde(default)]
    pub apps: BTreeMap<String, AppClaim>,
    /// Functions by name.
    #[serde(default)]
    pub functions: BTreeMap<String, FunctionClaim>,
}

/// One app as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppClaim {
    /// Whose it is; `default` if left out.
    #[serde(default)]
    pub tenant: Option<String>,
    /// How it runs.
    #[serde(default)]
    pub kind: AppKind,
    /// `sha256:` and a digest, or a directory or bundle file beside the manifest (resolved by `verge apply`).
    pub bundle: String,
    /// Name or digest of the base layer below it, such as `python`.
    #[serde(default)]
    pub base: Option<String>,
    /// Program and arguments; paths are inside the app's root, its bundle is at `/app`.
    pub command: Vec<String>,
    /// Service quality.
    #[serde(default)]
    pub class: Class,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// What happens when it ends.
    #[serde(default)]
    pub restart: Restart,
    /// What crosses its border.
    #[serde(default)]
    pub grants: Grants,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Node ids it runs on; empty: every node it is applied to.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Time between SIGTERM and SIGKILL.
    #[serde(default)]
    pub stop_timeout: Option<Span>,
}

/// One function as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionClaim {
    /// Whose it is; `default` if left out.
    #[serde(default)]
    pub tenant: Option<String>,
    /// `sha256:` and a digest, or a `.wasm` file beside the manifest (resolved by `verge apply`).
    pub bundle: String,
    /// What happens if it runs twice.
    #[serde(default)]
    pub effect: Effect,
    /// How long one call takes on the slowest node, at the 95th percentile: the first guess, before any
    /// measurement.
    pub service_time: Span,
    /// Memory of one call.
    #[serde(default)]
    pub memory: Option<Bytes>,
    /// Node ids it runs on, such as the ones with the right hardware; empty: every node it is applied to.
    #[serde(default)]
    pub nodes: Vec<String>,
}

/// How an app runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppKind {
    /// A program in a directory, over a shared base layer or as a static binary.
    #[default]
    Process,
}

/// What happens when an app ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Restart {
    /// It stays ended.
    Never,
    /// It is started again after an exit code other than 0 or a signal.
    #[default]
    OnFailure,
    /// It is always started again.
    Always,
}

/// Limits of one app. All are enforced, or the app is refused or visibly degraded, by policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// CPU time per time, at the most.
    pub cpu: CpuMilli,
    /// Memory, at the most.
    pub memory: Bytes,
    /// Processes and threads, at the most.
    pub pids: u32,
    /// Open files per process, at the most.
    pub nofile: u32,
    /// Size of its `/tmp` (in memory, counted as memory too).
    pub tmp: Bytes,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu: CpuMilli::new(500).unwrap_or_default(),
            memory: Bytes::mebi(64),
            pids: 32,
            nofile: 256,
            tmp: Bytes::mebi(8),
        }
    }
}

/// Everything a node keeps running or callable, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Apps.
    pub apps: Vec<App>,
    /// Functions.
    pub functions: Vec<Function>,
}

/// An app that passed every static check. Holding one proves that:
/// - names are safe as folder names and key chunks;
/// - bundle and base are digests; the command is not empty and its program is an absolute path;
/// - limits are within what any machine could give.
///
/// It does *not* prove that this node has room, or that policy allows the grants: admission decides that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its name.
    pub name: AppName,
    /// Its owner.
    pub tenant: TenantId,
    /// How it runs.
    pub kind: AppKind,
    /// Code, mounted at `/app`.
    pub bundle: Digest,
    /// The layer that is its root file system; none for a static binary.
    pub base: Option<Digest>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Service quality.
    pub class: Class,
    /// Limits.
    pub resources: Resources,
    /// What happens when it ends.
    pub restart: Restart,
    /// What it asks for at its border.
    pub grants: Grants,
    /// Environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Time between SIGTERM and SIGKILL.
    pub stop_timeout: Span,
    /// Where it runs.
    pub nodes: Nodes,
}

impl App {
    /// What the rest of the node calls it by.
    pub fn app_ref(&self) -> AppRef {
        AppRef { tenant: self.tenant.clone(), app: self.name.clone() }
    }
}

/// A function that passed every static check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: FunctionName,
    /// Its owner.
    pub tenant: TenantId,
    /// Its Wasm module's bundle.
    pub bundle: Digest,
    /// What happens if it runs twice.
    pub effect: Effect,
    /// First guess of its service time at the 95th percentile.
    pub service_time: Span,
    /// Memory of one call.
    pub memory: Bytes,
    /// Where it runs. A node that is not among them knows it, and sends its tasks to one that is.
    pub nodes: Nodes,
}

/// Nodes that an app or a function runs on: those named, or all that it is applied to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes(Vec<NodeId>);

impl Nodes {
    /// Whether `node` is one of them.
    pub fn have(&self, node: &NodeId) -> bool {
        self.0.is_empty() || self.0.contains(node)
    }

    fn check(named: Vec<String>, place: &str) -> Result<Self, ManifestError> {
        too_many("nodes", named.len(), limits::PEERS_MAX)?;
        let name = |id: String| {
            NodeId::new(&id).map_err(|source| ManifestError::Name { place: place.into(), source })
        };
        named.into_iter().map(name).collect::<Result<_, _>>().map(Self)
    }
}

impl FromIterator<NodeId> for Nodes {
    fn from_iter<I: IntoIterator<Item = NodeId>>(named: I) -> Self {
        Self(named.into_iter().collect())
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("every node it is applied to"),
            [first, rest @ ..] => {
                f.write_str(first.as_str())?;
                rest.iter().try_for_each(|node| write!(f, ", {node}"))
            }
        }
    }
}

/// Why a claim is not a manifest. `place` is a path into the file such as `apps.speedometer.command`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// `apiVersion` is something else.
    #[error("apiVersion is {got:?}; this release reads {API_VERSION:?}")]
    ApiVersion {
        /// What the file says.
        got: String,
    },
    /// A name that is not one.
    #[error("{place}: {source}")]
    Name {
        /// Where.
        place: String,
        /// Why.
        source: NameError,
    },
    /// A bundle or base that was not resolved to a digest.
    #[error("{place}: {got:?} is not a digest, and nothing of that name was found")]
    Unresolved {
        /// Where.
        place: String,
        /// The text.
        got: String,
    },
    /// A value that no machine could serve, or that makes no sense.
    #[error("{place}: {got} {expected}")]
    Value {
        /// Where.
        place: String,
        /// The value.
        got: String,
        /// What would be right.
        expected: &'static str,
    },
    /// More of something than a node holds.
    #[error("{what}: {got}, the maximum is {max}")]
    TooMany {
        /// Apps or functions.
        what: &'static str,
        /// How many.
        got: usize,
        /// The limit.
        max: usize,
    },
}

impl ManifestError {
    /// What the author can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::ApiVersion { .. } => Some(alloc::format!("write apiVersion: {API_VERSION}")),
            Self::Unresolved { .. } => Some(
                "write a directory or file that exists beside the manifest, or sha256: and 64 hexadecimal digits".into(),
            ),
            Self::Name { .. } | Self::Value { .. } | Self::TooMany { .. } => None,
        }
    }
}

impl TryFrom<ManifestClaim> for Manifest {
    type Error = ManifestError;

    fn try_from(claim: ManifestClaim) -> Result<Self, ManifestError> {
        let ManifestClaim { api_version, apps, functions } = claim;
        if api_version != API_VERSION {
            return Err(ManifestError::ApiVersion { got: api_version });
        }
        too_many("apps", apps.len(), limits::APPS_MAX)?;
        too_many("functions", functions.len(), limits::FUNCTIONS_MAX)?;
        Ok(Self {
            apps: apps.into_iter().map(|(name, app)| check_app(&name, app)).collect::<Result<_, _>>()?,
            functions: functions
                .into_iter()
                .map(|(name, function)| check_function(&name, function))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn too_many(what: &'static str, got: usize, max: usize) -> Result<(), ManifestError> {
    if got > max { Err(ManifestError::TooMany { what, got, max }) } else { Ok(()) }
}

fn check_app(name: &str, claim: AppClaim) -> Result<App, ManifestError> {
    let at = |field: &str| alloc::format!("apps.{name}.{field}");
    // Destructured, so that a field added to the claim cannot be forgotten here.
    let AppClaim {
        tenant,
        kind,
        bundle,
        base,
        command,
        class,
        resources,
        restart,
        grants,
        env,
        nodes,
        stop_timeout,
    } = claim;
    let named = |source| ManifestError::Name { place: at("name"), source };
    check_command(&at("command"), &command)?;
    check_resources(&at("resources"), &resources)?;
    Ok(App {
        name: AppName::new(name).map_err(named)?,
        tenant: tenant_of(tenant, &at("tenant"))?,
        kind,
        bundle: digest(&bundle, at("bundle"))?,
        base: base.map(|base| digest(&base, at("base"))).transpose()?,
        command,
        class,
        resources,
        restart,
        grants,
        env: check_env(&at("env"), env)?,
        stop_timeout: stop_timeout.unwrap_or(Span::from_millis(2_000)),
        nodes: Nodes::check(nodes, &at("nodes"))?,
    })
}

fn check_function(name: &str, claim: FunctionClaim) -> Result<Function, ManifestError> {
    let at = |field: &str| alloc::format!("functions.{name}.{field}");
    let FunctionClaim { tenant, bundle, effect, service_time, memory, nodes } = claim;
    let named = |source| ManifestError::Name { place: at("name"), source };
    if service_time.as_micros() == 0 {
        return Err(value(at("service_time"), service_time, "is not a service time; it must be above 0"));
    }
    Ok(Function {
        name: FunctionName::new(name).map_err(named)?,
        tenant: tenant_of(tenant, &at("tenant"))?,
        bundle: digest(&bundle, at("bundle"))?,
        effect,
        service_time,
        memory: memory.unwrap_or(Bytes::mebi(64)),
        nodes: Nodes::check(nodes, &at("nodes"))?,
    })
}

fn tenant_of(tenant: Option<String>, place: &str) -> Result<TenantId, ManifestError> {
    TenantId::new(tenant.as_deref().unwrap_or("default"))
        .map_err(|source| ManifestError::Name { place: place.into(), source })
}

fn digest(text: &str, place: String) -> Result<Digest, ManifestError> {
    text.parse().map_err(|_| ManifestError::Unresolved { place, got: text.into() })
}

fn value(place: String, got: impl core::fmt::Display, expected: &'static str) -> ManifestError {
    ManifestError::Value { place, got: alloc::format!("{got}"), expected }
}

const NOT_ABSOLUTE: &str =
    "is not an absolute path inside the app's root; write one below /app, where the bundle is";

fn check_command(place: &str, command: &[String]) -> Result<(), ManifestError> {
    let Some(program) = command.first() else {
        return Err(value(place.into(), "[]", "has no program; write [/app/program, argument, ...]"));
    };
    if !program.starts_with('/') {
        return Err(value(place.into(), program, NOT_ABSOLUTE));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(value(place.into(), "a NUL character", "cannot stand in a command"));
    }
    if command.iter().map(String::len).sum::<usize>() > 64 << 10 {
        return Err(value(place.into(), "the command", "is longer than 64 KiB"));
    }
    Ok(())
}

fn check_env(place: &str, env: BTreeMap<String, String>) -> Result<Vec<String>, ManifestError> {
    let mut words = Vec::new();
    for (name, text) in env {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty() || !name.bytes().all(plain) || text.contains('\0') {
            return Err(value(place.into(), name, "is not a variable name (A-Z, a-z, 0-9, '_')"));
        }
        words.push(alloc::format!("{name}={text}"));
    }
    Ok(words)
}

fn check_resources(place: &str, resources: &Resources) -> Result<(), ManifestError> {
    let Resources { cpu, memory, pids, nofile, tmp } = resources;
    let at = |field: &str| alloc::format!("{place}.{field}");
    if cpu.get() < 10 {
        return Err(value(at("cpu"), cpu, "is below 10m, the smallest share a kernel enforces"));
    }
    if *memory < Bytes::mebi(1) {
        return Err(value(at("memory"), memory, "is below 1Mi; no program starts in that"));
    }
    if !(1..=32_768).contains(pids) {
        return Err(value(at("pids"), pids, "is not between 1 and 32768"));
    }
    if !(8..=1_048_576).contains(nofile) {
        return Err(value(at("nofile"), nofile, "is not between 8 and 1048576"));
    }
    if tmp > memory {
        return Err(value(at("tmp"), tmp, "is more than memory; /tmp lives in the app's memory"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
