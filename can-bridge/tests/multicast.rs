//! The user-space bus against itself, against foreign datagrams, and against python-can.

mod support;

use std::net::UdpSocket;

use can_bridge::bus::Bus as _;
use can_bridge::clock::{self, Reading};
use can_core::frame::{BusIndex, CanFrame, FrameKind};
use support::{Python, id, open, own_group, receive, wait_for, zoo};

#[test]
fn two_members_hear_each_other_and_not_themselves() {
    let group = own_group();
    let (mut one, mut other) = (open(group), open(group));
    for frame in zoo() {
        one.send(&frame).unwrap();
    }
    assert_eq!(receive(&mut other, zoo().len()), zoo());
    other.send(&zoo()[0]).unwrap();
    // Its own seven come back before the other's one; only that one is a frame.
    let (mut frames, mut echoes) = (Vec::new(), 0);
    wait_for("the answer", || {
        echoes += one.receive(Reading::take(), BusIndex(3), &mut frames).unwrap().echoes;
        (!frames.is_empty()).then_some(())
    });
    assert_eq!((echoes, frames.len(), frames[0].frame, frames[0].bus), (7, 1, zoo()[0], BusIndex(3)));
    assert!(frames[0].at <= clock::now());
}

#[test]
fn the_same_frame_sent_again_by_somebody_else_is_heard() {
    let group = own_group();
    let (mut one, mut other) = (open(group), open(group));
    let frame = zoo()[0];
    one.send(&frame).unwrap();
    one.send(&frame).unwrap();
    other.send(&frame).unwrap();
    assert_eq!(receive(&mut other, 2), [frame, frame]);
    assert_eq!(receive(&mut one, 1), [frame]);
}

#[test]
fn foreign_datagrams_are_counted_and_not_fatal() {
    let group = own_group();
    let mut bus = open(group);
    let stranger = UdpSocket::bind("0.0.0.0:0").unwrap();
    stranger.set_multicast_ttl_v4(0).unwrap();
    let garbage: [&[u8]; 4] = [b"hello", &[0; 5_000], &[], &[0x81, 0xA3, b'd', b'l', b'c', 0]];
    for datagram in garbage {
        stranger.send_to(datagram, group.address).unwrap();
    }
    open(group).send(&zoo()[0]).unwrap();
    let (mut frames, mut bad) = (Vec::new(), 0);
    wait_for("the good frame", || {
        bad += bus.receive(Reading::take(), BusIndex(0), &mut frames).unwrap().bad;
        (!frames.is_empty()).then_some(())
    });
    assert_eq!((bad, frames.len()), (4, 1));
}

#[test]
fn a_burst_is_received_or_counted_as_lost() {
    let group = own_group();
    let (mut sender, mut receiver) = (open(group), open(group));
    let count = 20_000u32;
    for n in 0..count {
        sender.send(&CanFrame::classic(id(n % 0x7FF, false), &n.to_be_bytes()).unwrap()).unwrap();
    }
    // The loss counter rides on the next datagram, so one more is sent until it arrives.
    let last = CanFrame::classic(id(0x7FF, false), &[]).unwrap();
    let (mut frames, mut lost) = (Vec::new(), 0);
    wait_for("the end of the burst", || {
        let received = receiver.receive(Reading::take(), BusIndex(0), &mut frames).unwrap();
        lost += received.lost;
        if !received.more {
            sender.send(&last).unwrap();
        }
        frames.last().is_some_and(|timed| timed.frame == last).then_some(())
    });
    let arrived = frames.iter().filter(|timed| timed.frame != last).count() as u64;
    assert_eq!(arrived + lost, u64::from(count));
}

/// A frame as the python peer prints and takes it.
fn words(frame: &CanFrame) -> String {
    let kind = match frame.kind() {
        FrameKind::Remote => "remote".to_string(),
        FrameKind::Fd { bit_rate_switch, error_state } => {
            format!("fd{}{}", u8::from(bit_rate_switch), u8::from(error_state))
        }
        FrameKind::Classic | FrameKind::Error => "classic".to_string(),
    };
    let hex: String = frame.data().iter().map(|byte| format!("{byte:02x}")).collect();
    let id = frame.id();
    format!("{:x} {} {kind} {} {hex}", id.value(), u8::from(id.is_extended()), frame.len())
}

// tests: P2-05
#[test]
fn python_can_and_we_understand_each_other() {
    let group = own_group();
    let arguments = [group.address.ip().to_string(), group.address.port().to_string()];
    let name = "python_can_and_we_understand_each_other";
    let Some(mut python) = Python::start(name, "peer.py", &arguments) else { return };
    python.ready();
    let mut bus = open(group);
    for frame in zoo() {
        bus.send(&frame).unwrap();
    }
    python.tell(&format!("expect {}", zoo().len()));
    for frame in zoo() {
        assert_eq!(python.line().as_deref(), Some(words(&frame).as_str()));
    }
    for frame in zoo() {
        python.tell(&format!("send {}", words(&frame)));
    }
    assert_eq!(receive(&mut bus, zoo().len()), zoo());
    python.finish();
}
