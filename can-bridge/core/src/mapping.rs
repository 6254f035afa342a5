//! From DBC signals to VSS leaves, as a Kuksa `dbc2vss` overlay says.
//!
//! ```text
//!   {"Vehicle.Speed": {"datatype": "float", "unit": "km/h",
//!       "dbc2vss": {"signal": "VehicleSpeed", "interval_ms": 50, "transform": {"math": "x * 3.6"}}}}
//! ```
//! Both forms of the overlay are read: flat paths as above, and a VSS tree with `children`. What the file says
//! is a claim ([`OverlayClaim`]); [`Mapping::new`] proves it against a compiled DBC.

mod claim;
mod private;
#[cfg(test)]
mod tests;

pub use private::PRIVATE_BRANCH;

pub use claim::{Dbc2VssClaim, LeafClaim, MapClaim, MuxClaim, OverlayClaim, Scalar, TransformClaim};

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use policies::signal::{SignalPath, Value};

use crate::dbc::{DecodePlan, Message, MessageIndex, Signal, SignalIndex};
use crate::expr::{Expr, ExprError};

/// Most leaves of one mapping: the whole VSS catalogue has 1 400.
pub const LEAVES_MAX: usize = 4_096;

/// Pace of a leaf whose entry states neither `interval_ms` nor `on_change` (Kuksa's default).
pub const INTERVAL_DEFAULT: Duration = Duration::from_millis(1_000);

/// Why one leaf of an overlay is not usable.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LeafFlaw {
    /// The path is no VSS path.
    #[error("not a VSS path")]
    Path,
    /// The tree is deeper than any VSS path.
    #[error("tree is nested too deeply")]
    Depth,
    /// The path occurs twice.
    #[error("the path occurs twice")]
    Twice,
    /// No message of the DBC has the signal.
    #[error("no message of the DBC has a signal {signal}")]
    Signal {
        /// The name asked for.
        signal: String,
    },
    /// Several messages have the signal, and the entry does not say which.
    #[error("signal {signal} is in {first} and in {second}")]
    Ambiguous {
        /// The name.
        signal: String,
        /// A message that has it.
        first: String,
        /// Another one.
        second: String,
    },
    /// A `multiplexer` entry names a signal of another message.
    #[error("multiplexer signal {signal} is not in the same message")]
    Multiplexer {
        /// The name.
        signal: String,
    },
    /// The expression does not compile.
    #[error(transparent)]
    Math(ExprError),
    /// Both `math` and `mapping`, or neither.
    #[error("a transform is either math or mapping")]
    Transform,
    /// More leaves than [`LEAVES_MAX`].
    #[error("more than {LEAVES_MAX} leaves")]
    Count,
}

/// A flaw with its path.
#[derive(Clone, Debug, PartialEq)]
pub struct LocatedFlaw {
    /// The leaf, as written.
    pub path: String,
    /// What.
    pub flaw: LeafFlaw,
}

/// Why a mapping is refused: every flaw.
#[derive(Clone, Debug, PartialEq)]
pub struct MappingErrors {
    /// In the file's order of paths.
    pub flaws: Vec<LocatedFlaw>,
}

impl core::error::Error for MappingErrors {}

impl fmt::Display for MappingErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, LocatedFlaw { path, flaw }) in self.flaws.iter().enumerate() {
            write!(f, "{}{path}: {flaw}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl MappingErrors {
    /// What the author can do, for the first flaw that has a known cure.
    pub fn fix(&self) -> Option<String> {
        self.flaws.iter().find_map(|located| match &located.flaw {
            LeafFlaw::Signal { .. } => Some("use a signal name of this bus's DBC; case matters".into()),
            LeafFlaw::Ambiguous { first, .. } => {
                Some(alloc::format!("add \"message\": \"{first}\" to the entry"))
            }
            LeafFlaw::Math(error) => error.fix(),
            LeafFlaw::Path => Some("paths look like Vehicle.Speed".into()),
            _ => None,
        })
    }
}

/// What a leaf's value becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    /// A truth value.
    Boolean,
    /// A text.
    Text,
    /// Any number.
    Number,
    /// Not stated: the label if the DBC has one, else the number.
    Unstated,
}

/// How a decoded value becomes the leaf's.
#[derive(Clone, Debug, PartialEq)]
pub enum Transform {
    /// As it is.
    None,
    /// By an expression.
    Math(Expr),
    /// By a table; what is not in it is dropped.
    Table(Vec<MapClaim>),
}

/// One VSS leaf with where it comes from. Holding one proves that the signal exists in the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// Its path.
    pub path: SignalPath,
    /// The message.
    pub message: MessageIndex,
    /// The signal.
    pub signal: SignalIndex,
    /// How its value is made.
    pub transform: Transform,
    /// What kind of value.
    pub datatype: Datatype,
    /// Unit: the overlay's, else the DBC's.
    pub unit: String,
    /// Shortest time between two samples; zero: every frame.
    pub interval: Duration,
    /// Whether only changed values are sent.
    pub on_change: bool,
    /// Values that other signals of the same frame must have.
    pub only_if: Vec<(SignalIndex, f64)>,
    /// How often the signal is expected, if anything says so; the measure of staleness.
    pub cycle: Option<Duration>,
}

/// A proven mapping of one bus.
#[derive(Clone, Debug)]
pub struct Mapping {
    leaves: Vec<Leaf>,
    /// Leaf numbers by message.
    by_message: Box<[Box<[u32]>]>,
}

impl Mapping {
    /// Proves an overlay against a plan. Leaves without `dbc2vss` are passed over.
    ///
    /// # Errors
    /// [`MappingErrors`] lists every leaf that cannot be used.
    pub fn new(overlay: &OverlayClaim, plan: &DecodePlan) -> Result<Self, MappingErrors> {
        let (claims, mut flaws) = claim::flatten(overlay);
        let mut leaves: Vec<Leaf> = Vec::new();
        for (path, claim, source) in claims {
            match prove(&path, claim, source, plan) {
                Ok(leaf) => leaves.push(leaf),
                Err(flaw) => flaws.push(LocatedFlaw { path, flaw }),
            }
        }
        leaves.sort_by(|a, b| a.path.cmp(&b.path));
        for pair in leaves.windows(2) {
            if let [first, second] = pair
                && first.path == second.path
            {
                flaws.push(LocatedFlaw { path: first.path.as_str().into(), flaw: LeafFlaw::Twice });
            }
        }
        if leaves.len() > LEAVES_MAX {
            flaws.push(LocatedFlaw { path: String::new(), flaw: LeafFlaw::Count });
        }
        if !flaws.is_empty() {
            return Err(MappingErrors { flaws });
        }
        let mut by_message = alloc::vec![Vec::new(); plan.messages().len()];
        for (number, leaf) in (0u32..).zip(&leaves) {
            if let Some(list) = by_message.get_mut(leaf.message.0 as usize) {
                list.push(number);
            }
        }
        Ok(Self { leaves, by_message: by_message.into_iter().map(Vec::into_boxed_slice).collect() })
    }

    /// All leaves, by path.
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// Numbers of the leaves that a message feeds.
    #[inline]
    pub fn of_message(&self, message: MessageIndex) -> &[u32] {
        self.by_message.get(message.0 as usize).map_or(&[], |list| list)
    }
}

fn prove(path: &str, claim: &LeafClaim, source: &Dbc2VssClaim, plan: &DecodePlan) -> Result<Leaf, LeafFlaw> {
    let Dbc2VssClaim { signal: name, message, interval_ms, on_change, transform, multiplexer } = source;
    let path = SignalPath::new(path).map_err(|_| LeafFlaw::Path)?;
    let (index, message) = find_message(plan, name, message.as_deref())?;
    let (signal, described) =
        message.signal(name).ok_or_else(|| LeafFlaw::Signal { signal: name.clone() })?;
    let only_if = multiplexer.iter().map(|mux| match message.signal(&mux.signal) {
        Some((other, _)) => Ok((other, mux.value)),
        None => Err(LeafFlaw::Multiplexer { signal: mux.signal.clone() }),
    });
    let interval = match (interval_ms, on_change) {
        (Some(ms), _) => Duration::from_millis((*ms).into()),
        (None, Some(true)) => Duration::ZERO,
        (None, _) => INTERVAL_DEFAULT,
    };
    let on_change = on_change.unwrap_or(false);
    Ok(Leaf {
        path,
        message: index,
        signal,
        transform: compile_transform(transform.as_ref())?,
        datatype: datatype(claim.datatype.as_deref()),
        unit: claim.unit.clone().unwrap_or_else(|| described.unit.clone()),
        interval,
        on_change,
        only_if: only_if.collect::<Result<_, _>>()?,
        cycle: cycle(message, described, interval, on_change),
    })
}

/// How often a leaf's signal should arrive: by the DBC; else by the mapping's own pace, if it is periodic at
/// all. A multiplexed signal shares its message's frames with the other pages.
fn cycle(message: &Message, signal: &Signal, interval: Duration, on_change: bool) -> Option<Duration> {
    let pages = if signal.multiplexed { message.pages } else { 1 };
    match message.cycle {
        Some(cycle) => Some(cycle.saturating_mul(pages)),
        None if on_change => None,
        None => Some(interval.max(INTERVAL_DEFAULT)),
    }
}

fn find_message<'p>(
    plan: &'p DecodePlan,
    signal: &str,
    wanted: Option<&str>,
) -> Result<(MessageIndex, &'p Message), LeafFlaw> {
    let all = (0u32..).zip(plan.messages());
    let mut having = all
        .filter(|(_, m)| wanted.is_none_or(|name| m.name == name))
        .filter(|(_, m)| m.signal(signal).is_some());
    match (having.next(), having.next()) {
        (Some((index, message)), None) => Ok((MessageIndex(index), message)),
        (None, _) => Err(LeafFlaw::Signal { signal: signal.into() }),
        (Some((_, first)), Some((_, second))) => Err(LeafFlaw::Ambiguous {
            signal: signal.into(),
            first: first.name.clone(),
            second: second.name.clone(),
        }),
    }
}

fn compile_transform(claim: Option<&TransformClaim>) -> Result<Transform, LeafFlaw> {
    match claim {
        None => Ok(Transform::None),
        Some(TransformClaim { math: Some(math), mapping: None }) => {
            Expr::new(math).map(Transform::Math).map_err(LeafFlaw::Math)
        }
        Some(TransformClaim { math: None, mapping: Some(table) }) => Ok(Transform::Table(table.clone())),
        Some(_) => Err(LeafFlaw::Transform),
    }
}

fn datatype(name: Option<&str>) -> Datatype {
    match name {
        None => Datatype::Unstated,
        Some("boolean") => Datatype::Boolean,
        Some("string") => Datatype::Text,
        Some(_) => Datatype::Number,
    }
}

impl Leaf {
    /// The leaf's value for a decoded one with its label. `None`: the sample is dropped, because the
    /// transform has no value for it.
    pub fn value(&self, number: f64, label: Option<&str>) -> Option<Value> {
        let plain = |number: f64| match (self.datatype, label) {
            (Datatype::Boolean, _) => Value::Bool(number != 0.0),
            (Datatype::Text | Datatype::Unstated, Some(label)) => Value::Text(label.into()),
            (Datatype::Text, None) => Value::Text(alloc::format!("{number}")),
            (Datatype::Number | Datatype::Unstated, _) => Value::Number(number),
        };
        match &self.transform {
            Transform::None => Some(plain(number)),
            Transform::Math(expr) => {
                let number = expr.eval(number)?;
                Some(match self.datatype {
                    Datatype::Boolean => Value::Bool(number != 0.0),
                    Datatype::Text => Value::Text(alloc::format!("{number}")),
                    Datatype::Number | Datatype::Unstated => Value::Number(number),
                })
            }
            Transform::Table(table) => {
                let row = table.iter().find(|row| row.from.is(number, label))?;
                self.typed(&row.to)
            }
        }
    }

    /// A table's result in the leaf's datatype.
    fn typed(&self, to: &Scalar) -> Option<Value> {
        Some(match (self.datatype, to) {
            (Datatype::Unstated, Scalar::Bool(truth)) => Value::Bool(*truth),
            (Datatype::Unstated | Datatype::Number, Scalar::Number(number)) => Value::Number(*number),
            (Datatype::Unstated | Datatype::Text, Scalar::Text(text)) => Value::Text(text.clone()),
            (Datatype::Boolean, to) => Value::Bool(to.truth()?),
            (Datatype::Number, Scalar::Bool(truth)) => Value::Number(f64::from(u8::from(*truth))),
            (Datatype::Number, Scalar::Text(text)) => Value::Number(text.parse().ok()?),
            (Datatype::Text, Scalar::Number(number)) => Value::Text(alloc::format!("{number}")),
            (Datatype::Text, Scalar::Bool(truth)) => Value::Text(alloc::format!("{truth}")),
        })
    }
}
