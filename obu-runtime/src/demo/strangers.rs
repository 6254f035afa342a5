//! Who may not come in: a caller without a certificate of the realm, and code that no trusted key signed. Both are
//! tried, and so is who may, so that a door that is shut for everybody does not pass.

use std::path::Path;
use std::process::Command;

use policies::host::AppRef;

use super::prepare::{self, Bundles};
use super::script::{Halt, Road, app_ref};
use crate::cli::Failure;
use crate::control::View;

/// What `knock.py` says of a caller that is let in, and how it begins to tell of one that is not.
const IN: &str = "in";
const REFUSED: &str = "refused: ";

impl Road<'_> {
    /// Knocks at the ports of the car's realm and of the roadside's: with nothing, with the other realm's certificate, and
    /// with the right one.
    pub(super) fn knock(&mut self, project: &Path) -> Result<(), Halt> {
        let mut seen = Vec::new();
        let mut good = true;
        for (port, realm, other) in
            [(self.plan.ports[0], "car-a", "outside"), (self.plan.ports[1], "outside", "car-a")]
        {
            for (with, may) in [(None, false), (Some(other), false), (Some(realm), true)] {
                let said = self.knock_at(project, port, realm, with)?;
                good &= if may { said == IN } else { said.starts_with(REFUSED) };
                seen.push(format!(
                    "{realm} with {}: {said}",
                    with.map_or("no certificate".into(), |r| format!("one of {r}"))
                ));
            }
        }
        self.findings.check(2, "mutual TLS between nodes", good, seen.join("; "));
        Ok(())
    }

    fn knock_at(
        &self,
        project: &Path,
        port: u16,
        realm: &str,
        with: Option<&str>,
    ) -> Result<String, Failure> {
        let keys = self.plan.root.join("keys");
        let mut command = Command::new(prepare::interpreter(&self.plan.material));
        command.arg(project.join("scripts/knock.py")).args(["127.0.0.1", &port.to_string()]);
        command.arg(keys.join(realm).join("ca.pem"));
        if let Some(authority) = with {
            // The gateway has a certificate of both.
            command.arg(keys.join(authority).join("a1.pem")).arg(keys.join(authority).join("a1.key.pem"));
        }
        let output = command.output().map_err(|e| Failure::new(format!("cannot run knock.py: {e}")))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Failure::new(format!("knock.py failed: {why}")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Asks the gateway to run an app that a stranger has signed.
    pub(super) fn refuse_stranger(&mut self, bundles: &Bundles) -> Result<(), Halt> {
        let socket = self.socket("a1");
        let app = app_ref("oem", "stranger");
        prepare::apply(&socket, &bundles.stranger, &bundles.strangers_key)?;
        self.wait_for("the app that a stranger signed is refused", 20.0, |road| {
            let state = road.app(&app)["state"].clone();
            state == "failed" || state == "running"
        })?;
        let row = self.app(&app);
        let why = super::console::text(&row["why"]);
        let refused = row["state"] == "failed" && why.contains("not trusted");
        self.findings.check(2, "signed bundles only", refused, format!("signed by a stranger: {why}"));
        Ok(prepare::delete(&socket, app)?)
    }

    /// The row of one app of the gateway.
    pub(super) fn app(&self, app: &AppRef) -> serde_json::Value {
        let apps = prepare::view(&self.socket("a1"), View::Apps);
        let name = app.to_string();
        apps.as_array()
            .and_then(|apps| apps.iter().find(|row| row["app"] == *name))
            .cloned()
            .unwrap_or_default()
    }
}
