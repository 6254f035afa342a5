//! Everything that happens becomes an input.

use std::os::fd::OwnedFd;

use obu_core::io::{AppAsk, Input, JobEvent, NodeConfig};
use policies::face::{Ask, Attachment, FromBorder, FromBus, FromWorkerFace, ToBus, ToCamera};
use policies::host::{AppRef, Face, HostEvent};
use policies::id::TenantId;

use super::{Driver, Event, NodeError, answer};
use crate::channel::channel;
use crate::config::NodeFile;

/// What the machine needs of the configuration file.
pub(super) fn node_config(file: &NodeFile) -> NodeConfig {
    let mut config = NodeConfig::new(file.node.id.clone(), file.node.car.clone(), file.role());
    config.zone = file.outside.as_ref().map(|o| o.zone.clone());
    config.policy = file.policy.clone();
    config.placement = file.placement;
    config.ladder = file.ladder.clone();
    config.outside = file.outside.is_some();
    config.bus = !file.bus.is_empty() || file.effects.is_some();
    config.camera = !file.camera.is_empty();
    config.cores = file.capacity.cores;
    config.memory = file.capacity.memory;
    config.seed = file.capacity.seed;
    config
}

impl Driver {
    /// Takes a descriptor that host attached.
    pub(super) fn attach(&mut self, what: Attachment, fd: OwnedFd) -> Result<(), NodeError> {
        let inbox = self.inbox.clone();
        match what {
            Attachment::Channel(Face::Bus) => {
                let (sender, receiver) = channel(fd, "bus")?;
                receiver.forward(inbox, |m| m.map_or(Event::Ended(Face::Bus), Event::Bus));
                self.channels.bus = Some(sender);
            }
            Attachment::Channel(Face::Camera) => {
                let (sender, receiver) = channel(fd, "camera")?;
                receiver.forward(inbox, |m| m.map_or(Event::Ended(Face::Camera), Event::Camera));
                self.channels.camera = Some(sender);
            }
            Attachment::Channel(Face::Link) => self.realms.attach_link(fd, inbox)?,
            Attachment::Channel(Face::Border(tenant)) => {
                let (sender, receiver) = channel(fd, &format!("border-{tenant}"))?;
                self.channels.borders.insert(tenant.clone(), sender);
                receiver.forward(inbox, move |m| match m {
                    Some(m) => Event::Border(tenant.clone(), m),
                    None => Event::Ended(Face::Border(tenant.clone())),
                });
            }
            Attachment::Channel(Face::Worker(tenant)) => {
                let (sender, receiver) = channel(fd, &format!("worker-{tenant}"))?;
                self.channels.workers.insert(tenant.clone(), sender);
                receiver.forward(inbox, move |m| match m {
                    Some(m) => Event::Worker(tenant.clone(), m),
                    None => Event::Ended(Face::Worker(tenant.clone())),
                });
            }
            Attachment::Log(app) => self.logs.attach(app, fd),
            Attachment::Control => super::serve::listen(fd, inbox)?,
            // Kill and freeze go through host; the rest is not for node.
            other => tracing::debug!(?other, "attachment not used"),
        }
        Ok(())
    }

    pub(super) async fn host_event(&mut self, event: HostEvent) -> Result<(), NodeError> {
        if let HostEvent::Hello { machine, .. } = &event {
            self.machine = serde_json::json!({ "machine": machine });
        }
        self.stats.host(&event);
        if let HostEvent::Sampled { .. } = &event {
            self.ask_stats();
        }
        self.feed(Input::Host(event)).await
    }

    /// Asks bus and camera for their counters, at the pace of host's samples.
    fn ask_stats(&self) {
        // A process that is away or lags is asked again with the next sample.
        if let Some(bus) = &self.channels.bus {
            let _ = bus.offer(&ToBus::Stats);
        }
        if let Some(camera) = &self.channels.camera {
            let _ = camera.offer(&ToCamera::Stats);
        }
    }

    pub(super) async fn event(&mut self, event: Event) -> Result<(), NodeError> {
        let input = match event {
            Event::Border(tenant, message) => self.from_border(tenant, message),
            Event::Bus(FromBus::Stats(stats)) => {
                self.stats.bus = Some(stats);
                None
            }
            Event::Bus(FromBus::Snapshot { request, samples }) if super::serve::is_ours(request) => {
                self.signals_view(request, &samples);
                None
            }
            Event::Bus(message) => {
                self.repeat_effect(&message);
                Some(Input::Bus(message))
            }
            Event::Camera(stats) => {
                self.stats.camera = Some(stats);
                None
            }
            Event::Worker(tenant, message) => Some(Input::Job(self.from_worker(tenant, message))),
            Event::Realm(event) => self.from_realm(event),
            Event::Control(waiting) => self.control(waiting),
            Event::Persisted { ticket, result } => Some(Input::Persisted { ticket, result }),
            Event::Ended(face) => {
                tracing::info!(%face, "channel ended");
                None
            }
        };
        match input {
            Some(input) => self.feed(input).await,
            None => Ok(()),
        }
    }

    fn from_border(&mut self, tenant: TenantId, message: FromBorder) -> Option<Input> {
        match message {
            FromBorder::Ask { app, request, ask } => {
                let ask = self.ask(ask)?;
                Some(Input::Ask { tenant, app, request, arrived: self.clock.now(), ask })
            }
            FromBorder::GiveUp { request } => Some(Input::GiveUp { tenant, request }),
            FromBorder::Opened { app } => Some(Input::Island { app: AppRef { tenant, app }, result: Ok(()) }),
            FromBorder::OpenFailed { app, why } => {
                Some(Input::Island { app: AppRef { tenant, app }, result: Err(why) })
            }
        }
    }

    /// Takes the bytes out of an app's request. `None` if they are too long: the border has let through
    /// what it must not, and gets no answer.
    fn ask(&mut self, ask: Ask) -> Option<AppAsk> {
        Some(match ask {
            Ask::RunTask { function, deadline_us, class, effect, input } => {
                if input.len() > policies::limits::INLINE_LEN_MAX {
                    self.stats.refused += 1;
                    return None;
                }
                let input = self.blobs.put(self.clock.now(), input)?;
                AppAsk::RunTask { function, deadline_us, class, effect, input }
            }
            Ask::SendFrame(frame) => AppAsk::SendFrame(frame),
            Ask::Denied { key } => {
                self.stats.denied += 1;
                AppAsk::Denied { key }
            }
        })
    }

    fn from_worker(&mut self, tenant: TenantId, message: FromWorkerFace) -> JobEvent {
        match message {
            FromWorkerFace::Loaded { module, .. } => JobEvent::Loaded { tenant, module },
            FromWorkerFace::LoadFailed { module, why } => JobEvent::LoadFailed { tenant, module, why },
            FromWorkerFace::Began { job } => JobEvent::Began { job },
            FromWorkerFace::Ended { job, result, took_us } => {
                let end = answer::call_end(&mut self.blobs, self.clock.now(), result);
                JobEvent::Ended { job, end, took_us: self.clock.machine_us(took_us) }
            }
        }
    }
}
