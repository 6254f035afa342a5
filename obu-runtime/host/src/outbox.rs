//! What host wants said, collected while it acts and delivered afterwards.

use std::os::fd::OwnedFd;

use policies::face::Attachment;
use policies::host::{Face, HostEvent, HostRefusal};

/// One thing to say.
#[derive(Debug)]
pub enum Say {
    /// To node.
    Event(HostEvent),
    /// To any face that runs; dropped if it does not.
    Attach(Face, Attachment, OwnedFd),
}

/// Things to say, in order.
#[derive(Debug, Default)]
pub struct Outbox(pub Vec<Say>);

impl Outbox {
    /// Reports an event to node.
    pub fn event(&mut self, event: HostEvent) {
        self.0.push(Say::Event(event));
    }

    /// Hands a descriptor to a face.
    pub fn attach(&mut self, face: &Face, what: Attachment, descriptor: OwnedFd) {
        self.0.push(Say::Attach(face.clone(), what, descriptor));
    }

    /// Reports that a command could not be carried out.
    pub fn refused(&mut self, command: String, refusal: HostRefusal) {
        self.event(HostEvent::Refused { command, refusal });
    }
}
