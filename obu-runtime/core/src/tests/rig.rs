//! Nodes with everything around them: hosts, buses, workers, a network, a disk; and the clock that moves them.

use super::*;

/// One node with everything around it.
pub(crate) struct Site {
    pub(crate) node: Node,
    pub(crate) config: NodeConfig,
    pub(crate) life: u64,
    desired: Option<Desired>,
    records: BTreeMap<policies::id::TaskId, JobRecord>,
    pub(crate) running: BTreeMap<AppRef, u64>,
    pub(crate) exec_us: u64,
    pub(crate) pressure: Pressure,
    /// Imports of these bundles are refused; starts of these apps fail.
    pub(crate) bad_bundles: BTreeSet<Digest>,
    pub(crate) log: Vec<Output>,
    pub(crate) inputs: Vec<(u64, Input)>,
}

pub(crate) struct Rig {
    pub(crate) now: u64,
    seq: u64,
    events: BTreeMap<(u64, u64), (NodeId, u64, Input)>,
    pub(crate) sites: BTreeMap<NodeId, Site>,
    pub(crate) cut: BTreeSet<NodeId>,
    /// Whether a test makes up messages.
    pub(crate) wild: bool,
    pub(crate) effects: BTreeMap<policies::id::TaskId, u32>,
    next_request: u64,
}

impl Rig {
    /// Boots these nodes, applies the manifest to each, and waits until they know each other.
    pub(crate) fn new(names: &[&str]) -> Self {
        let mut rig = Self::bare(names);
        for name in names {
            let reply = rig.control(name, ControlCall::Apply { manifest: manifest() });
            assert!(matches!(reply, ControlReply::Ok { .. }), "{reply:?}");
        }
        rig.run_for(2_500 * MS);
        rig
    }

    /// Boots these nodes with nothing to keep.
    pub(crate) fn bare(names: &[&str]) -> Self {
        let mut rig = Self {
            now: 1_000_000,
            seq: 0,
            events: BTreeMap::new(),
            sites: BTreeMap::new(),
            cut: BTreeSet::new(),
            wild: false,
            effects: BTreeMap::new(),
            next_request: 0,
        };
        for name in names {
            let site = Site {
                node: Node::new(),
                config: config(name),
                life: 0,
                desired: None,
                records: BTreeMap::new(),
                running: BTreeMap::new(),
                exec_us: 5 * MS,
                pressure: Pressure::default(),
                bad_bundles: BTreeSet::new(),
                log: Vec::new(),
                inputs: Vec::new(),
            };
            rig.sites.insert(node_id(name), site);
            rig.boot(name);
        }
        rig
    }

    pub(crate) fn site(&mut self, name: &str) -> &mut Site {
        self.sites.get_mut(&node_id(name)).unwrap()
    }

    /// Starts a new life of a node from what is durable; apps run on.
    pub(crate) fn boot(&mut self, name: &str) {
        let site = self.site(name);
        site.life += 1;
        site.node = Node::new();
        let boot = Boot {
            config: site.config.clone(),
            incarnation: Incarnation(site.life),
            desired: site.desired.clone(),
            records: site.records.values().cloned().collect(),
        };
        let adopted = site.running.iter().map(|(app, instance)| (app.clone(), *instance)).collect();
        let hello = HostEvent::Hello {
            node: site.config.node.clone(),
            incarnation: Incarnation(site.life),
            machine: Vec::new(),
            adopted,
        };
        self.feed(name, Input::Boot(boot));
        self.feed(name, Input::Host(hello));
        self.feed(name, Input::Host(HostEvent::FaceStarted { face: Face::Bus }));
    }

    pub(crate) fn feed(&mut self, name: &str, input: Input) {
        let at = Timestamp::from_micros(self.now);
        let now = self.now;
        let site = self.site(name);
        site.inputs.push((now, input.clone()));
        site.node.handle(at, input);
        let outputs: Vec<Output> = core::iter::from_fn(|| site.node.poll()).collect();
        site.log.extend(outputs.iter().cloned());
        for output in outputs {
            self.perform(name, output);
        }
    }

    pub(crate) fn later(&mut self, name: &str, delay: u64, input: Input) {
        let life = self.site(name).life;
        self.seq += 1;
        self.events.insert((self.now + delay, self.seq), (node_id(name), life, input));
    }

    fn host(&mut self, name: &str, event: HostEvent) {
        self.later(name, MS, Input::Host(event));
    }

    fn perform(&mut self, name: &str, output: Output) {
        match output {
            Output::Host(command) => self.host_does(name, command),
            Output::Border { tenant, message: ToBorder::Open { app, .. } } => {
                let app = AppRef { tenant, app };
                self.later(name, MS, Input::Island { app, result: Ok(()) });
            }
            Output::Bus(ToBus::Transmit { request, .. }) => {
                let answer = FromBus::Transmitted { request, result: Ok(()) };
                self.later(name, MS, Input::Bus(answer));
            }
            Output::Bus(ToBus::Snapshot { request, .. }) => {
                let samples = snapshot();
                self.later(name, MS, Input::Bus(FromBus::Snapshot { request, samples }));
            }
            Output::LoadModule { tenant, module, .. } => {
                self.later(name, MS, Input::Job(JobEvent::Loaded { tenant, module }));
            }
            Output::RunJob { job, module, input, .. } => self.sandbox_runs(name, job, module, input),
            Output::Effect { task, attempt, .. } => {
                *self.effects.entry(task.clone()).or_default() += 1;
                let done = FromBus::EffectDone { task, attempt, result: Ok(()) };
                self.later(name, MS, Input::Bus(done));
            }
            Output::Persist { ticket, what } => {
                let site = self.site(name);
                match what {
                    Durable::Desired(desired) => site.desired = Some(desired),
                    Durable::Job(record) => drop(site.records.insert(record.task.clone(), record)),
                    Durable::ForgetJob { task } => drop(site.records.remove(&task)),
                }
                self.later(name, MS, Input::Persisted { ticket, result: Ok(()) });
            }
            Output::Send { realm, to, message } => self.network(name, realm, &to, message),
            Output::Announce { realm, advert } => {
                let names: Vec<NodeId> = self.sites.keys().cloned().collect();
                for to in names.iter().filter(|to| to.as_str() != name) {
                    if realm_between(name, to.as_str()) == realm {
                        self.network(name, realm, to, Message::Advert(advert.clone()));
                    }
                }
            }
            Output::Alarm(alarm) => panic!("{name}: {alarm:?}"),
            Output::Border { .. }
            | Output::Bus(_)
            | Output::Camera(_)
            | Output::CancelJob { .. }
            | Output::Answer { .. }
            | Output::Reply { .. }
            | Output::Decision(_) => {}
        }
    }

    fn host_does(&mut self, name: &str, command: HostCommand) {
        match command {
            HostCommand::Import { bundle } if self.site(name).bad_bundles.contains(&bundle) => {
                let refusal = HostRefusal { what: "import".into(), why: "not signed".into(), fix: None };
                self.host(name, HostEvent::ImportRefused { bundle, refusal });
            }
            HostCommand::Import { bundle } => {
                self.host(name, HostEvent::Imported { bundle, signed_by: "key".into() });
            }
            HostCommand::Start(start) => {
                self.site(name).running.insert(start.app.clone(), start.instance);
                let (app, instance) = (start.app, start.instance);
                self.host(name, HostEvent::Started { app, instance, took_us: 900, enforced: Vec::new() });
            }
            HostCommand::Stop { app, .. } => {
                if let Some(instance) = self.site(name).running.remove(&app) {
                    self.host(name, HostEvent::Exited { app, instance, exit: Exit::Signal(15) });
                }
            }
            HostCommand::Freeze { app } => {
                self.host(name, HostEvent::FreezeChanged { app, frozen: true, by: "cgroup".into() });
            }
            HostCommand::Thaw { app } => {
                self.host(name, HostEvent::FreezeChanged { app, frozen: false, by: "cgroup".into() });
            }
            HostCommand::Resize { app, .. } => {
                self.host(name, HostEvent::Confined { app, enforced: Vec::new() });
            }
            HostCommand::SqueezeClass { class, share } => {
                self.host(name, HostEvent::Squeezed { class, share, by: "cpu.weight".into() });
            }
            HostCommand::StartFace { face } => self.host(name, HostEvent::FaceStarted { face }),
            HostCommand::Sample => {
                let pressure = self.site(name).pressure;
                self.host(name, HostEvent::Sampled { apps: Vec::new(), pressure });
            }
            HostCommand::Shutdown { .. } => {}
        }
    }

    fn sandbox_runs(&mut self, name: &str, job: u64, module: Digest, input: JobInput) {
        let effect = (module == Digest::of(b"toll")).then(|| String::from("toll"));
        let reading = match input {
            JobInput::Blob(_) => None,
            JobInput::Signals { signals, .. } => signals.iter().find_map(|(_, value)| match value {
                Value::Number(n) => Some(Reading { value_micro: (n * 1e6) as i64, n: 1 }),
                Value::Bool(_) | Value::Text(_) => None,
            }),
        };
        let exec_us = self.site(name).exec_us;
        let end = CallEnd::Returned { result: blob(), effect, reading };
        self.later(name, 100, Input::Job(JobEvent::Began { job }));
        self.later(name, 100 + exec_us, Input::Job(JobEvent::Ended { job, end, took_us: exec_us }));
    }

    fn network(&mut self, name: &str, realm: Realm, to: &NodeId, message: Message) {
        if realm_between(name, to.as_str()) != realm {
            // Only a peer that was made up by a test was ever heard through the wrong realm.
            assert!(self.wild, "{name} sends to {to} through the wrong realm");
            return;
        }
        let from = node_id(name);
        // A message that cannot be encoded would be lost without a word.
        let decoded = Message::decode(&message.encode().unwrap()).unwrap();
        assert_eq!(decoded, message);
        if self.cut.contains(&from) || self.cut.contains(to) || !self.sites.contains_key(to) {
            return;
        }
        let payload = message.payload();
        let delay = if realm == Realm::Car { MS } else { 5 * MS };
        self.later(to.as_str(), delay, Input::Received { realm, from, message, payload });
    }

    pub(crate) fn run_for(&mut self, us: u64) {
        let until = self.now + us;
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let wakes = self.sites.iter().filter_map(|(name, site)| Some((site.node.next_wake()?.0, name)));
            let wake = wakes.min().map(|(at, name)| (at.as_micros().max(self.now), name.clone()));
            let next = event.into_iter().chain(wake.iter().map(|(at, _)| *at)).min();
            match next.filter(|at| *at <= until) {
                None => break,
                Some(at) if event == Some(at) => {
                    self.now = at;
                    let (_, (name, life, input)) = self.events.pop_first().unwrap();
                    if self.sites[&name].life == life {
                        self.feed(name.as_str(), input);
                    }
                }
                Some(at) => {
                    self.now = at;
                    let (_, name) = wake.unwrap();
                    self.feed(name.as_str(), Input::Tick);
                }
            }
        }
        self.now = until;
    }

    pub(crate) fn request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    /// Asks the control API and waits for the answer.
    pub(crate) fn control(&mut self, name: &str, call: ControlCall) -> ControlReply {
        let request = self.request();
        self.feed(name, Input::Control { request, call });
        for _ in 0..2_000 {
            let found = self.site(name).log.iter().find_map(|output| match output {
                Output::Reply { request: r, reply } if *r == request => Some(reply.clone()),
                _ => None,
            });
            if let Some(reply) = found {
                return reply;
            }
            self.run_for(5 * MS);
        }
        panic!("{name} did not answer request {request}");
    }

    /// An app asks; the answer is looked up by the request's number.
    pub(crate) fn ask(&mut self, name: &str, app: &str, ask: AppAsk) -> u64 {
        let request = self.request();
        let arrived = Timestamp::from_micros(self.now);
        let app = AppName::new(app).unwrap();
        self.feed(name, Input::Ask { tenant: tenant(), app, request, arrived, ask });
        request
    }

    pub(crate) fn answers(&self, name: &str, request: u64) -> Vec<AppAnswer> {
        let log = &self.sites[&node_id(name)].log;
        let ours = |output: &Output| match output {
            Output::Answer { request: r, answer, .. } if *r == request => Some(answer.clone()),
            _ => None,
        };
        log.iter().filter_map(ours).collect()
    }

    pub(crate) fn report(&self, name: &str, request: u64) -> TaskReport {
        match self.answers(name, request).as_slice() {
            [AppAnswer::Task(report)] => report.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn decisions(&self, name: &str, kind: DecisionKind) -> Vec<Decision> {
        let log = &self.sites[&node_id(name)].log;
        let ours = |output: &Output| match output {
            Output::Decision(decision) if decision.kind == kind => Some(decision.clone()),
            _ => None,
        };
        log.iter().filter_map(ours).collect()
    }

    pub(crate) fn state(&self, name: &str, app: &str) -> String {
        let views = self.sites[&node_id(name)].node.apps();
        let found = views.into_iter().find(|view| view.app == app_ref(app));
        found.map_or_else(|| "absent".to_string(), |view| view.state)
    }

    pub(crate) fn sent_commands(&self, name: &str) -> Vec<HostCommand> {
        let log = &self.sites[&node_id(name)].log;
        let ours = |output: &Output| match output {
            Output::Host(command) => Some(command.clone()),
            _ => None,
        };
        log.iter().filter_map(ours).collect()
    }
}

pub(crate) fn snapshot() -> Vec<(Signal, u64)> {
    let values = [
        ("Vehicle.Exterior.AirTemperature", 21.5),
        ("Vehicle.Speed", 90.0),
        ("Vehicle.CurrentLocation.Latitude", 52.5),
        ("Vehicle.CurrentLocation.Longitude", 13.4),
    ];
    let signal = |(path, value): (&str, f64)| Signal {
        path: SignalPath::new(path).unwrap(),
        value: Value::Number(value),
        unit: String::new(),
        source_time: Timestamp::ZERO,
        seq: 1,
        quality: Quality::Ok,
    };
    values.into_iter().map(|value| (signal(value), 0)).collect()
}
