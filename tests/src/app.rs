//! Apps and functions as a test writes them: a manifest in a few words.

use std::fs;
use std::path::{Path, PathBuf};

use crate::road::Programs;

/// One app of a test, of tenant `oem` if nothing else is said.
#[derive(Clone, Debug)]
pub struct App {
    name: String,
    tenant: String,
    source: Source,
    arguments: Vec<String>,
    class: String,
    resources: String,
    restart: String,
    grants: String,
}

#[derive(Clone, Debug)]
enum Source {
    /// A script for the Python base.
    Python(String),
    /// A static program in a directory of the material.
    Static { folder: String, program: String },
    /// A bundle that exists.
    Bundle { path: PathBuf, program: String },
}

impl App {
    fn new(name: &str, source: Source) -> Self {
        Self {
            name: name.into(),
            tenant: "oem".into(),
            source,
            arguments: Vec::new(),
            class: "driving".into(),
            resources: "{cpu: 500m, memory: 96Mi, pids: 32}".into(),
            restart: "ON_FAILURE".into(),
            grants: "{}".into(),
        }
    }

    /// A Python script.
    pub fn python(name: &str, script: &str) -> Self {
        Self::new(name, Source::Python(script.into()))
    }

    /// The static program of the material that prints by itself and needs no base.
    pub fn heartbeat() -> Self {
        Self::new("heartbeat", Source::Static { folder: "heartbeat".into(), program: "heartbeat".into() })
            .resources("{cpu: 200m, memory: 16Mi, pids: 8, tmp: 1Mi}")
    }

    /// An app whose bundle is at `path` already; it runs `/app/PROGRAM`.
    pub fn bundled(name: &str, path: &Path, program: &str) -> Self {
        Self::new(name, Source::Bundle { path: path.to_owned(), program: program.into() })
    }

    /// Another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// Another tenant.
    #[must_use]
    pub fn of(mut self, tenant: &str) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// An argument of its command.
    #[must_use]
    pub fn argument(mut self, word: &str) -> Self {
        self.arguments.push(word.into());
        self
    }

    /// What it asks for, in YAML: `signals: [Vehicle.Speed]`.
    #[must_use]
    pub fn granted(mut self, grants: &str) -> Self {
        self.grants = format!("{{{grants}}}");
        self
    }

    /// Its limits, in YAML.
    #[must_use]
    pub fn resources(mut self, resources: &str) -> Self {
        self.resources = resources.into();
        self
    }

    /// It stays ended once it has ended.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.restart = "NEVER".into();
        self
    }

    /// Its class.
    #[must_use]
    pub fn class(mut self, class: &str) -> Self {
        self.class = class.into();
        self
    }

    /// `tenant/app`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.tenant, self.name)
    }

    /// Writes its files and its manifest below `dir`; returns the manifest.
    pub(crate) fn write(&self, dir: &Path, programs: &Programs) -> PathBuf {
        let dir = dir.join(format!("{}-{}", self.tenant, self.name));
        fs::create_dir_all(&dir).expect("a directory for the app");
        let (bundle, base, mut command) = match &self.source {
            Source::Python(script) => {
                let code = dir.join("code");
                fs::create_dir_all(&code).expect("a directory for the code");
                fs::write(code.join("main.py"), script).expect("main.py");
                let base = programs.material.join("base-python");
                let command = vec!["/usr/bin/python3".to_owned(), "/app/main.py".to_owned()];
                (code, format!("    base: {}\n", base.display()), command)
            }
            Source::Static { folder, program } => {
                (programs.material.join("apps").join(folder), String::new(), vec![format!("/app/{program}")])
            }
            Source::Bundle { path, program } => {
                (path.clone(), String::new(), vec![format!("/app/{program}")])
            }
        };
        command.extend(self.arguments.iter().cloned());
        let manifest = dir.join("app.yaml");
        let text = format!(
            "apiVersion: verge/v1\napps:\n  {}:\n    tenant: {}\n    bundle: {}\n{base}    \
             command: [{}]\n    class: {}\n    restart: {}\n    resources: {}\n    grants: {}\n",
            self.name,
            self.tenant,
            bundle.display(),
            command.join(", "),
            self.class,
            self.restart,
            self.resources,
            self.grants,
        );
        fs::write(&manifest, text).expect("app.yaml");
        manifest
    }
}
