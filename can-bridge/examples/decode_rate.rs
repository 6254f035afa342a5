//! How fast one core decodes a recorded drive: every signal of every frame that the DBC describes, to physical values.
//!
//! `decode_rate DBC LOG`. For each line on standard input (a number of passes) it decodes the log that often and
//! prints `FRAMES NANOSECONDS SUM`: frames decoded, time taken, and the sum of all values of one pass, by which
//! the bench sees that all decoders it compares decode the same.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use can_core::candump::parse_line;
use can_core::dbc::{DecodePlan, compile};
use can_core::frame::CanFrame;

fn load(plan: &DecodePlan, log: &str) -> Result<Vec<CanFrame>, Box<dyn Error>> {
    let bytes = std::fs::read(log)?;
    let records =
        bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()).filter_map(|l| parse_line(l).ok());
    Ok(records.map(|record| record.frame).filter(|f| f.is_data() && plan.find(f.id()).is_some()).collect())
}

fn pass(plan: &DecodePlan, frames: &[CanFrame]) -> f64 {
    let mut sum = 0.0;
    for frame in frames {
        plan.decode(black_box(frame), |decoded| sum += decoded.value);
    }
    sum
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dbc, log] = &arguments[..] else { return Err("usage: decode_rate DBC LOG".into()) };
    let plan = compile(dbc, &std::fs::read(dbc)?).map_err(|e| e.to_string())?;
    let frames = load(&plan, log)?;
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let passes: usize = line?.trim().parse()?;
        let (began, mut sum) = (Instant::now(), 0.0);
        for _ in 0..passes {
            sum = black_box(pass(&plan, &frames));
        }
        writeln!(out, "{} {} {sum}", frames.len() * passes, began.elapsed().as_nanos())?;
    }
    Ok(())
}
