//! What a message for an app says, and to whom it goes.

use super::super::trace;
use super::*;

/// Bytes as strace prints them.
fn printed(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:03o}")).collect()
}

fn attached(at: u32, face: Face, socket: u32) -> String {
    let bytes = wire::encode(Kind::Face, &FromHost::Attach(Attachment::Channel(face))).expect("a message");
    format!(
        "100 10.{at:06} sendmsg(6<socket:[1]>, {{msg_name=NULL, msg_namelen=0, msg_iov=[{{iov_base=\"{}\", \
         iov_len={}}}], msg_iovlen=1, msg_control=[{{cmsg_len=20, cmsg_level=SOL_SOCKET, cmsg_type=SCM_RIGHTS, \
         cmsg_data=[9<socket:[{socket}]>]}}], msg_controllen=24, msg_flags=0}}, MSG_DONTWAIT|MSG_NOSIGNAL) = {}\n",
        printed(&bytes),
        bytes.len(),
        bytes.len()
    )
}

/// The head of samples of Vehicle.Speed for app lane, of which the rest was not written down.
const SAMPLES: &str = r"vg\1\3\0\0\0\0\0\0\0\0\2\4lane\1\rVehicle.Speed";

fn sends(at: u32, socket: u32, printed: &str) -> String {
    format!("111 10.{at:06} write(7<socket:[{socket}]>, \"{printed}\", 32) = 32\n")
}

/// A host that starts its bus.
const BEGIN: &str = r#"100 10.000001 execve("/v/verge-host", ["/v/verge-host"], 0x7 /* 3 vars */) = 0
100 10.000002 openat(AT_FDCWD</v>, "/sys/fs/cgroup/unified/verge-a1/faces/bus", O_PATH) = 20</sys/fs/cgroup/unified/verge-a1/faces/bus>
100 10.000003 clone3({flags=CLONE_PIDFD|CLONE_NEWPID, cgroup=20} => {pidfd=[30<anon_inode:[pidfd]>]}, 88) = 110
110 10.000004 clone(child_stack=NULL, flags=SIGCHLD) = 2 /* 111 in strace's PID NS */
111 10.000005 execve("/verge", ["/verge", "face", "bus"], 0x5 /* 5 vars */) = 0
"#;

fn data_in(trace: &str) -> Vec<(String, String, String)> {
    let deeds = acts(&trace::read(trace), 0).into_iter().map(|act| act.deed);
    deeds
        .filter_map(|deed| match deed {
            Deed::Data { by, app, what } => Some((by, app, what)),
            _ => None,
        })
        .collect()
}

#[test]
fn data_goes_to_the_tenant_whose_border_the_channel_leads_to() {
    let border = |tenant: &str| Face::Border(tenant.parse().expect("a tenant"));
    let trace = [
        BEGIN.to_owned(),
        attached(10, border("oem"), 71),
        attached(11, border("guest"), 72),
        attached(12, Face::Node, 73),
        sends(20, 71, SAMPLES),
        sends(21, 72, SAMPLES),
        // Its words to node are no data for an app, whatever they look like.
        sends(22, 73, SAMPLES),
        // A channel that nobody was seen to make.
        sends(23, 74, SAMPLES),
    ];
    let to = |app: &str| ("bus".to_owned(), app.to_owned(), "Vehicle.Speed".to_owned());
    assert_eq!(data_in(&trace.concat()), [to("oem/lane"), to("guest/lane"), to("?/lane")]);
}

#[test]
fn an_answer_is_told_with_its_connection() {
    let begin = BEGIN.replace("faces/bus", "faces/node").replace(r#""face", "bus""#, r#""face", "node""#);
    let write = r#"111 10.000020 write(12<socket:[80]>, "vg\1\10\3\0\0\0\1\2\3\4\0\0\1", 15) = 15"#;
    let told = acts(&trace::read(&format!("{begin}{write}\n")), 0).pop().expect("an act").deed;
    let bytes = b"vg\x01\x08\x03\0\0\0\x01\x02\x03\x04\0\0\x01".to_vec();
    assert_eq!(told, Deed::Reply { connection: "socket:[80]".into(), bytes });
}
