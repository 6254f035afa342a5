//! What crosses an app's border: asked for in the manifest, allowed by the node's policy file, nothing else.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::id::{BusName, CameraId, FunctionName, TenantId};
use crate::signal::SignalPattern;
use crate::task::Class;

/// What one app asks for, or, after [`decide`], what it gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// VSS paths it may subscribe to.
    pub signals: Vec<SignalPattern>,
    /// Cameras whose frames it may take.
    pub cameras: Vec<CameraGrant>,
    /// Functions it may ask to be run.
    pub tasks: Vec<FunctionName>,
    /// Raw frames it may ask the transmit guard to send.
    pub can_tx: Vec<CanTxGrant>,
}

/// Frames of one camera, at no more than a rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CameraGrant {
    /// The camera.
    pub id: CameraId,
    /// Frames per second at the most.
    pub fps: u32,
}

/// Raw frames with one id on one bus.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CanTxGrant {
    /// The bus.
    pub bus: BusName,
    /// The CAN id, 11 or 29 bits.
    pub id: u32,
    /// Whether the id is a 29-bit one.
    #[serde(default)]
    pub extended: bool,
}

/// The node's policy: who may have what. Default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodePolicy {
    /// Rules by tenant.
    pub tenants: Vec<TenantRule>,
    /// What may leave this node's car towards the outside realm.
    pub exports: Vec<ExportRule>,
    /// Functions whose calls from the roadside this node answers (reverse offload).
    pub answer_calls: Vec<FunctionName>,
}

/// What one tenant's apps may be granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRule {
    /// The tenant.
    pub tenant: TenantId,
    /// Best class its apps may run in.
    #[serde(default)]
    pub best_class: Class,
    /// Upper bound of its apps' grants.
    #[serde(default)]
    pub allow: Grants,
}

/// One thing that may leave the car. Its id stands in the audit log beside each export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRule {
    /// The rule's id.
    pub id: String,
    /// Functions whose inputs may be sent to the outside realm.
    #[serde(default)]
    pub tasks: Vec<FunctionName>,
    /// Signals that may be part of an answer to a call from the roadside.
    #[serde(default)]
    pub signals: Vec<SignalPattern>,
}

/// One thing that was asked for and not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what} is not allowed for tenant {tenant}")]
pub struct Refusal {
    /// The grant, as the manifest writes it.
    pub what: String,
    /// The tenant.
    pub tenant: TenantId,
}

impl NodePolicy {
    /// The rule for `tenant`, if the policy knows it.
    pub fn tenant(&self, tenant: &TenantId) -> Option<&TenantRule> {
        self.tenants.iter().find(|rule| rule.tenant == *tenant)
    }

    /// The id of the rule that lets inputs of `function` leave the car, if one does.
    pub fn export_of_task(&self, function: &FunctionName) -> Option<&str> {
        self.exports.iter().find(|rule| rule.tasks.contains(function)).map(|rule| rule.id.as_str())
    }
}

/// Decides whether all that `asked` names is allowed to `tenant`. All or nothing: an app that gets less than
/// it asked for would fail later, where nobody looks.
///
/// # Errors
/// Every refused grant, not just the first.
pub fn decide(policy: &NodePolicy, tenant: &TenantId, asked: &Grants) -> Result<(), Vec<Refusal>> {
    let nothing = Grants::default();
    let allow = policy.tenant(tenant).map_or(&nothing, |rule| &rule.allow);
    let mut refused = Vec::new();
    let mut refuse = |what: String| refused.push(Refusal { what, tenant: tenant.clone() });
    for pattern in &asked.signals {
        if !allow.signals.iter().any(|a| a.includes(pattern)) {
            refuse(alloc::format!("signals: {pattern}"));
        }
    }
    for camera in &asked.cameras {
        if !allow.cameras.iter().any(|a| a.id == camera.id && camera.fps <= a.fps) {
            refuse(alloc::format!("cameras: {} at {} fps", camera.id, camera.fps));
        }
    }
    for function in &asked.tasks {
        if !allow.tasks.contains(function) {
            refuse(alloc::format!("tasks: {function}"));
        }
    }
    for frame in &asked.can_tx {
        if !allow.can_tx.contains(frame) {
            refuse(alloc::format!("can_tx: {} id {:#x}", frame.bus, frame.id));
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(refused) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(signals: &[&str], tasks: &[&str]) -> Grants {
        Grants {
            signals: signals.iter().map(|s| SignalPattern::new(s).unwrap()).collect(),
            tasks: tasks.iter().map(|t| FunctionName::new(t).unwrap()).collect(),
            ..Grants::default()
        }
    }

    #[test]
    #[rustfmt::skip]
    fn decision_table() {
        //     situation                asked                                allowed                      refused
        check("nothing asked",          grants(&[], &[]),                    grants(&[], &[]),            0);
        check("path within branch",     grants(&["Vehicle.Speed"], &[]),     grants(&["Vehicle.**"], &[]), 0);
        check("branch within path",     grants(&["Vehicle.**"], &[]),        grants(&["Vehicle.Speed"], &[]), 1);
        check("unknown function",       grants(&[], &["lane"]),              grants(&[], &["toll"]),      1);
        check("all refusals are named", grants(&["Vehicle.Speed"], &["a"]),  grants(&[], &[]),            2);
    }

    #[track_caller]
    fn check(situation: &str, asked: Grants, allow: Grants, refused: usize) {
        let tenant = TenantId::new("oem").unwrap();
        let rule = TenantRule { tenant: tenant.clone(), best_class: Class::Critical, allow };
        let policy = NodePolicy { tenants: alloc::vec![rule], ..NodePolicy::default() };
        let got = decide(&policy, &tenant, &asked).err().map_or(0, |r| r.len());
        assert_eq!(got, refused, "{situation}");
        let stranger = TenantId::new("stranger").unwrap();
        assert_eq!(decide(&policy, &stranger, &asked).is_ok(), asked == Grants::default(), "{situation}");
    }
}
