//! What the node's configuration says about sending, and its proof.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use policies::host::AppRef;
use policies::id::{AppName, BusName, TenantId};
use policies::signal::SignalPath;
use policies::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Bound, Bucket, BusState, Driving, Guard, LOAD_WINDOW, Rule};
use crate::dbc::DecodePlan;
use crate::frame::{CanId, DATA_LEN_MAX, FrameError};

/// Most rules of one node. An app needs a handful.
pub const RULES_MAX: usize = 1_024;

/// The guard's part of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardClaim {
    /// Buses that may be sent on.
    pub buses: Vec<BusClaim>,
    /// Grants. What no rule names is refused.
    pub rules: Vec<TxRuleClaim>,
    /// Where the driving state comes from; without it the car counts as moving.
    pub driving: Option<DrivingClaim>,
}

/// One bus that may be sent on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusClaim {
    /// Its name.
    pub bus: BusName,
    /// Bits per second, nominal.
    #[serde(default = "default_bitrate")]
    pub bitrate: u32,
    /// Bits per second of the FD data phase; 0: no CAN FD on this bus.
    #[serde(default)]
    pub data_bitrate: u32,
    /// Thousandths of the bus's time that all our apps together may use.
    #[serde(default = "default_load")]
    pub load_permille: u16,
}

/// 500 kbit/s, the usual rate in cars.
const fn default_bitrate() -> u32 {
    500_000
}

/// A fifth of the bus.
const fn default_load() -> u16 {
    200
}

/// One grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TxRuleClaim {
    /// Owner of the app.
    pub tenant: TenantId,
    /// The app.
    pub app: AppName,
    /// The bus.
    pub bus: BusName,
    /// The id.
    pub id: u32,
    /// Whether it is a 29-bit id.
    #[serde(default)]
    pub extended: bool,
    /// Fewest payload bytes.
    #[serde(default)]
    pub len_min: usize,
    /// Most payload bytes.
    #[serde(default = "default_len")]
    pub len_max: usize,
    /// Frames per second.
    #[serde(default = "default_rate")]
    pub per_second: u32,
    /// Frames that may come at once.
    #[serde(default = "default_burst")]
    pub burst: u32,
    /// Whether it may be sent while the car moves.
    #[serde(default)]
    pub while_moving: bool,
    /// Whether other apps may have the same id as well.
    #[serde(default)]
    pub shared: bool,
    /// Bounds on signals; a multiplexor is bound to one page by equal bounds.
    #[serde(default)]
    pub signals: Vec<SignalBoundClaim>,
}

const fn default_len() -> usize {
    8
}

const fn default_rate() -> u32 {
    10
}

const fn default_burst() -> u32 {
    1
}

/// A bound on one signal of the message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalBoundClaim {
    /// Its name in the DBC.
    pub signal: String,
    /// Lowest physical value.
    pub min: f64,
    /// Highest physical value.
    pub max: f64,
}

/// Where the driving state comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrivingClaim {
    /// A speed, or a truth value "is moving".
    pub signal: SignalPath,
    /// A speed above this is moving, in the signal's unit.
    #[serde(default = "default_moving_above")]
    pub moving_above: f64,
}

/// Below what wheel sensors report for a standing car.
const fn default_moving_above() -> f64 {
    0.5
}

/// Why a guard configuration is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GuardError {
    /// More than [`RULES_MAX`] rules.
    #[error("{got} transmit rules; {RULES_MAX} is the maximum")]
    Rules {
        /// How many.
        got: usize,
    },
    /// A bus twice, or with an impossible rate or share.
    #[error("bus {bus}: {why}")]
    Bus {
        /// Which.
        bus: BusName,
        /// What is wrong.
        why: &'static str,
    },
    /// A rule's id is none.
    #[error("rule for {app} on {bus}: {source}")]
    Id {
        /// Whose.
        app: AppRef,
        /// Where.
        bus: BusName,
        /// Why.
        source: FrameError,
    },
    /// A rule that contradicts itself or another one.
    #[error("rule for {app} on {bus}, id {id:#x}: {why}")]
    Rule {
        /// Whose.
        app: AppRef,
        /// Where.
        bus: BusName,
        /// The id.
        id: u32,
        /// What is wrong.
        why: String,
    },
}

impl GuardError {
    /// What the operator can do.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Rules { .. } => None,
            Self::Bus { .. } => Some("name each bus once, with bitrate > 0 and load_permille <= 1000".into()),
            Self::Id { source, .. } => source.fix(),
            Self::Rule { .. } => Some("correct the rule in the node's [guard] section".into()),
        }
    }
}

impl Guard {
    /// Proves a configuration. `plans` are the buses' DBCs, for bounds on signals.
    ///
    /// # Errors
    /// [`GuardError`] names the rule or bus and why.
    pub fn new(claim: &GuardClaim, plans: &BTreeMap<BusName, DecodePlan>) -> Result<Self, GuardError> {
        let GuardClaim { buses, rules, driving } = claim;
        if rules.len() > RULES_MAX {
            return Err(GuardError::Rules { got: rules.len() });
        }
        let mut guard = Self {
            rules: BTreeMap::new(),
            buses: BTreeMap::new(),
            driving_source: driving.as_ref().map(|d| (d.signal.clone(), d.moving_above)),
            driving: Driving::Moving,
            refused: BTreeMap::new(),
            alarms: alloc::collections::VecDeque::new(),
        };
        for bus in buses {
            guard.add_bus(bus, plans.get(&bus.bus))?;
        }
        for rule in rules {
            guard.add_rule(rule, rules)?;
        }
        Ok(guard)
    }

    fn add_bus(&mut self, claim: &BusClaim, plan: Option<&DecodePlan>) -> Result<(), GuardError> {
        let BusClaim { bus, bitrate, data_bitrate, load_permille: permille } = claim;
        let refuse = |why| Err(GuardError::Bus { bus: bus.clone(), why });
        if *bitrate == 0 || *permille > 1000 {
            return refuse("its bitrate is 0 or its share is above 1000 thousandths");
        }
        // One thousandth of a second of bus time per second is 10^6 ns per second.
        let rate = u64::from(*permille) * 1_000_000;
        let holds = rate * LOAD_WINDOW.as_millis() as u64 / 1_000;
        let state = BusState {
            bitrate: *bitrate,
            data_bitrate: *data_bitrate,
            permille: *permille,
            load: Bucket { at: Timestamp::ZERO, ..Bucket::new(rate, holds) },
            plan: plan.cloned(),
            spoofed: BTreeMap::new(),
        };
        match self.buses.insert(bus.clone(), state) {
            None => Ok(()),
            Some(_) => refuse("it is named twice"),
        }
    }

    fn add_rule(&mut self, claim: &TxRuleClaim, all: &[TxRuleClaim]) -> Result<(), GuardError> {
        let app = AppRef { tenant: claim.tenant.clone(), app: claim.app.clone() };
        let bus = claim.bus.clone();
        let id = CanId::new(claim.id, claim.extended).map_err(|source| GuardError::Id {
            app: app.clone(),
            bus: bus.clone(),
            source,
        })?;
        let refuse = |why: String| GuardError::Rule { app: app.clone(), bus: bus.clone(), id: claim.id, why };
        let state = self.buses.get_mut(&bus).ok_or_else(|| refuse("its bus is not in buses".into()))?;
        if claim.len_min > claim.len_max || claim.len_max > DATA_LEN_MAX {
            return Err(refuse("len_min to len_max is no range within 64".into()));
        }
        let rival = all.iter().find(|other| {
            (&other.bus, other.id, other.extended) == (&claim.bus, claim.id, claim.extended)
                && (&other.tenant, &other.app) != (&claim.tenant, &claim.app)
                && !(other.shared && claim.shared)
        });
        if let Some(rival) = rival {
            return Err(refuse(alloc::format!("app {} has this id too, and it is not shared", rival.app)));
        }
        let bounds = claim.signals.iter().map(|bound| prove_bound(bound, state.plan.as_ref(), id));
        let rule = Rule {
            len: (claim.len_min, claim.len_max),
            while_moving: claim.while_moving,
            per_second: claim.per_second,
            bounds: bounds.collect::<Result<_, _>>().map_err(refuse)?,
            bucket: Bucket::new(claim.per_second.into(), claim.burst.into()),
        };
        state.spoofed.insert(id, None);
        match self.rules.insert((app.clone(), bus.clone(), id), rule) {
            None => Ok(()),
            Some(_) => Err(refuse("it occurs twice".into())),
        }
    }
}

fn prove_bound(claim: &SignalBoundClaim, plan: Option<&DecodePlan>, id: CanId) -> Result<Bound, String> {
    let SignalBoundClaim { signal: name, min, max } = claim;
    let message = plan.and_then(|plan| plan.find(id)).map(|(_, message)| message);
    let found = message.and_then(|message| message.signal(name)).map(|(signal, _)| signal);
    let signal = found.ok_or_else(|| alloc::format!("the DBC has no signal {name} in this message"))?;
    if min.is_nan() || max.is_nan() || min > max {
        return Err(alloc::format!("the bounds of {name} are no range"));
    }
    Ok(Bound { signal, name: name.clone(), low: *min, high: *max })
}
