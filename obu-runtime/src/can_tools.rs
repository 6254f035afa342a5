//! Tools for the bus: `verge can`.

use std::fs::File;
use std::io::BufReader;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use can_bridge::bus::{Bus, BusIoError};
use can_bridge::multicast::{Group, Multicast};
use can_bridge::replay::{RealTime, Speed, Target};
use can_bridge::socketcan::SocketCan;
use clap::{ArgGroup, Args};

use crate::cli::{Failure, Format, result};

/// What to do about a file in which no frame is found.
pub(crate) const NO_FRAME_FIX: &str =
    "play a log in candump's file format: (1436509052.249713) can0 123#DEADBEEF";

/// `verge can replay`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("bus").required(true).args(["multicast", "interface"])))]
pub struct ReplayArgs {
    /// The log, in candump's file format.
    log: PathBuf,
    /// Onto the multicast bus of python-can: GROUP:PORT; stays on this machine.
    #[arg(long)]
    multicast: Option<SocketAddrV4>,
    /// Onto this SocketCAN interface.
    #[arg(long)]
    interface: Option<String>,
    /// Only the frames of this bus of the log; default: all of them.
    #[arg(long)]
    only: Option<String>,
    /// How many times as fast as it was recorded.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Begin again at the end, until stopped.
    #[arg(long = "loop")]
    again: bool,
}

fn open(args: &ReplayArgs) -> Result<Box<dyn Bus>, BusIoError> {
    match (&args.multicast, &args.interface) {
        (Some(address), _) => {
            let group = Group { address: *address, hops: 0, interface: Ipv4Addr::LOCALHOST };
            Ok(Box::new(Multicast::open(group)?))
        }
        (None, interface) => Ok(Box::new(SocketCan::open(interface.as_deref().unwrap_or_default())?)),
    }
}

/// Plays a log.
///
/// # Errors
/// If the log cannot be read or the bus not be written.
pub fn replay(args: &ReplayArgs, output: Format) -> Result<(), Failure> {
    let bus = open(args).map_err(|e| Failure::new(&e).fix(e.fix()))?;
    let mut targets = [Target { interface: args.only.clone(), bus }];
    loop {
        let log = File::open(&args.log)
            .map_err(|e| Failure::new(format!("cannot read {}: {e}", args.log.display())))?;
        let speed = Speed::Times(args.speed);
        let report =
            can_bridge::replay::replay(BufReader::new(log), &mut targets, speed, &mut RealTime::start())
                .map_err(|e| Failure::new(&e).fix(e.fix()))?;
        let (sent, skipped, dropped, damaged) =
            (report.sent, report.skipped, report.dropped, report.bad_lines);
        let counts =
            format!("{sent} frames sent, {skipped} skipped, {dropped} dropped, {damaged} lines damaged");
        let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        let text: Vec<&str> = std::iter::once(&counts).chain(&problems).map(String::as_str).collect();
        let json = serde_json::json!({
            "sent": sent, "skipped": skipped, "dropped": dropped, "lines_damaged": damaged,
            "problems": problems,
        });
        result(output, text.join("\n"), &json);
        if report.sent == 0 {
            let what = format!("{} holds no frame that could be sent", args.log.display());
            return Err(Failure::new(what).fix(NO_FRAME_FIX.to_owned()));
        }
        if !args.again {
            return Ok(());
        }
    }
}
