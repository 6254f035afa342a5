//! The overlay as its author wrote it. Fields that other tools use are ignored.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::{LeafFlaw, LocatedFlaw};

/// Deepest tree followed: the longest VSS path has 9 chunks.
const DEPTH_MAX: usize = 32;

/// A whole overlay: leaves by path, or a tree of branches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OverlayClaim(pub BTreeMap<String, LeafClaim>);

/// One leaf, or a branch with `children`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeafClaim {
    /// VSS datatype, such as `float` or `boolean`.
    pub datatype: Option<String>,
    /// Unit of the VSS leaf.
    pub unit: Option<String>,
    /// Where its value comes from. `dbc` is an older name of it.
    #[serde(alias = "dbc", skip_serializing_if = "Option::is_none")]
    pub dbc2vss: Option<Dbc2VssClaim>,
    /// Branches only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub children: BTreeMap<String, LeafClaim>,
}

/// A leaf's source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dbc2VssClaim {
    /// Name of the DBC signal.
    pub signal: String,
    /// Name of its message, where several messages have such a signal.
    #[serde(default)]
    pub message: Option<String>,
    /// Shortest time between two samples, milliseconds.
    #[serde(default)]
    pub interval_ms: Option<u32>,
    /// Whether only changed values are sent.
    #[serde(default)]
    pub on_change: Option<bool>,
    /// How the value is converted.
    #[serde(default)]
    pub transform: Option<TransformClaim>,
    /// Values that other signals of the frame must have, all of them.
    #[serde(default)]
    pub multiplexer: Vec<MuxClaim>,
}

/// A conversion: exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransformClaim {
    /// An expression over `x`.
    pub math: Option<String>,
    /// A table.
    pub mapping: Option<Vec<MapClaim>>,
}

/// One row of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapClaim {
    /// A label of the DBC, or a number.
    pub from: Scalar,
    /// The leaf's value.
    pub to: Scalar,
}

/// One condition on another signal of the frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuxClaim {
    /// Its name.
    pub signal: String,
    /// The physical value it must have.
    pub value: f64,
}

/// A value in a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true`, `false`.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

impl Scalar {
    /// Whether a decoded value is this one.
    pub(super) fn is(&self, number: f64, label: Option<&str>) -> bool {
        match self {
            Self::Bool(truth) => number == f64::from(u8::from(*truth)),
            Self::Number(wanted) => number == *wanted,
            Self::Text(text) => match label {
                Some(label) => text == label,
                None => text.parse() == Ok(number),
            },
        }
    }

    /// The truth it stands for.
    pub(super) fn truth(&self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(*truth),
            Self::Number(number) => Some(*number != 0.0),
            Self::Text(text) => text.to_ascii_lowercase().parse().ok(),
        }
    }
}

/// A leaf that has a source, with its whole path.
type Sourced<'o> = (String, &'o LeafClaim, &'o Dbc2VssClaim);

/// All leaves that have a source. Iterative, because the tree's depth is the author's.
pub(super) fn flatten(overlay: &OverlayClaim) -> (Vec<Sourced<'_>>, Vec<LocatedFlaw>) {
    let mut found = Vec::new();
    let mut flaws = Vec::new();
    let mut waiting: Vec<(String, &LeafClaim, usize)> =
        overlay.0.iter().map(|(path, leaf)| (path.clone(), leaf, 1)).collect();
    while let Some((path, leaf, depth)) = waiting.pop() {
        if depth > DEPTH_MAX {
            flaws.push(LocatedFlaw { path, flaw: LeafFlaw::Depth });
            continue;
        }
        for (name, child) in &leaf.children {
            waiting.push((alloc::format!("{path}.{name}"), child, depth + 1));
        }
        if let Some(source) = &leaf.dbc2vss {
            found.push((path, leaf, source));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    (found, flaws)
}
