//! The bus process: one loop around [`can_core::hub::Hub`]. Decides nothing.
//!
//! ```text
//!   buses ----frames---->  +------+ ----Signals----> borders (one channel per tenant)
//!   node  <---messages-->  | loop | ----lines------> effect server
//!   attachments ------->   +------+
//! ```
//! One thread, one `ppoll`: idle means asleep. A border that lags loses the oldest messages and never makes the
//! bus wait. Node may die and come back: signals flow on, and the new channel replaces the old one.

mod attach;
mod drive;
mod ledger;

pub use attach::{Attach, AttachReceiver, AttachSender, attach_channel};
pub use ledger::EffectStream;

use std::io;
use std::os::unix::net::UnixStream;

use can_core::dbc::{self, DbcErrors, DecodePlan};
use can_core::decoder::Decoder;
use can_core::guard::GuardClaim;
use can_core::hub::{Hub, HubBus, HubError};
use can_core::mapping::{Mapping, MappingErrors, OverlayClaim};
use policies::id::{BusName, NodeId};

use crate::bus::Bus;

/// A file's bytes with its name, for messages.
#[derive(Clone, Debug)]
pub struct NamedBytes {
    /// The name, such as `verge-demo.dbc`.
    pub name: String,
    /// The content.
    pub bytes: Vec<u8>,
}

/// One bus to serve.
#[derive(Debug)]
pub struct BusEntry {
    /// Its name.
    pub name: BusName,
    /// The opened bus.
    pub port: Box<dyn Bus>,
    /// What its frames mean; without it nothing is decoded.
    pub dbc: Option<NamedBytes>,
    /// Kuksa overlay (JSON) that maps its signals to VSS; without it nothing is published.
    pub mapping: Option<NamedBytes>,
}

/// Everything that [`run`] needs.
#[derive(Debug)]
pub struct BusSetup {
    /// This node, for the log.
    pub node: NodeId,
    /// The buses.
    pub buses: Vec<BusEntry>,
    /// What may be sent.
    pub guard: GuardClaim,
    /// The append-only effect server, if connected already.
    pub effect: Option<EffectStream>,
    /// Whether the effect server answers each line with a line. If so, an effect counts as done only then.
    pub effect_acks: bool,
    /// The channel to node.
    pub channel: UnixStream,
    /// Channels and buses that come later.
    pub attach: AttachReceiver,
}

/// Why the bus process cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A DBC is not usable.
    #[error("{0}")]
    Dbc(#[from] DbcErrors),
    /// An overlay is no JSON of the right form.
    #[error("{file}: {source}")]
    Json {
        /// The file.
        file: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// An overlay does not fit its DBC.
    #[error("{file}: {source}")]
    Mapping {
        /// The file.
        file: String,
        /// Which leaves, and why.
        source: MappingErrors,
    },
    /// An overlay without a DBC.
    #[error("bus {bus} has a mapping ({file}) but no DBC")]
    NoDbc {
        /// The bus.
        bus: BusName,
        /// The mapping.
        file: String,
    },
    /// The parts contradict each other.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A socket cannot be used at all.
    #[error("cannot {step}: {source}")]
    Socket {
        /// The operation.
        step: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl BusError {
    /// What the operator can do.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Dbc(errors) => errors.fix(),
            Self::Json { .. } => Some("correct the JSON at that place".into()),
            Self::Mapping { source, .. } => source.fix(),
            Self::NoDbc { bus, .. } => Some(format!("name a dbc for bus {bus}, or remove its mapping")),
            Self::Hub(error) => error.fix(),
            Self::Socket { .. } => None,
        }
    }
}

/// Runs the bus process until it is told to stop, or until node's channel and all senders of attachments are
/// gone.
///
/// # Errors
/// [`BusError`] before anything is served, or if the process cannot wait for its sockets.
pub fn run(setup: BusSetup) -> Result<(), BusError> {
    let BusSetup { node, buses, guard, effect, effect_acks, channel, attach } = setup;
    let mut ports = Vec::new();
    let mut hub_buses = Vec::new();
    for BusEntry { name, port, dbc, mapping } in buses {
        let decoder = decoder(&name, dbc, mapping)?;
        tracing::info!(%node, bus = %name, leaves = decoder.leaves().len(), "serving {}", port.describe());
        hub_buses.push(HubBus { name, decoder });
        ports.push(port);
    }
    let hub = Hub::new(hub_buses, &guard)?;
    drive::Driver::new(hub, ports, channel, attach, (effect, effect_acks))?.run()
}

/// Checks a bus's files without serving it: for `verge doctor` and for tests.
///
/// # Errors
/// As [`run`].
pub fn decoder(
    bus: &BusName,
    dbc: Option<NamedBytes>,
    mapping: Option<NamedBytes>,
) -> Result<Decoder, BusError> {
    let plan = match (&dbc, &mapping) {
        (None, Some(file)) => {
            return Err(BusError::NoDbc { bus: bus.clone(), file: file.name.clone() });
        }
        (None, None) => DecodePlan::empty(),
        (Some(file), _) => dbc::compile(&file.name, &file.bytes)?,
    };
    let (notes, further) = plan.notes();
    for note in notes {
        tracing::warn!(%bus, line = note.line, "{}", note.text);
    }
    if further > 0 {
        tracing::warn!(%bus, "{further} further notes on the DBC");
    }
    let Some(NamedBytes { name: file, bytes }) = mapping else {
        let overlay = OverlayClaim::private(&plan);
        let mapping = Mapping::new(&overlay, &plan)
            .map_err(|source| BusError::Mapping { file: "signals of the DBC".into(), source })?;
        return Ok(Decoder::new(plan, mapping));
    };
    let overlay: OverlayClaim =
        serde_json::from_slice(&bytes).map_err(|source| BusError::Json { file: file.clone(), source })?;
    let mapping = Mapping::new(&overlay, &plan).map_err(|source| BusError::Mapping { file, source })?;
    Ok(Decoder::new(plan, mapping))
}
