//! The drive of the demo: the log, and what explains it. All of it is checked before anything starts.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use can_bridge::face::{NamedBytes, decoder};
use can_core::candump;
use can_core::dbc::{self, DecodePlan, MessageIndex};
use can_core::mapping::{Dbc2VssClaim, LeafClaim, OverlayClaim, PRIVATE_BRANCH, TransformClaim};
use policies::id::BusName;

use super::DemoArgs;
use crate::can_tools::NO_FRAME_FIX;
use crate::cli::{Failure, line};

/// How much of a log is looked at before it is played: minutes of a busy bus.
const LOOK_LEN_MAX: u64 = 16 << 20;

/// Most ids that are named where none is known.
const NAMED_MAX: usize = 5;

/// What the apps of the demo live on.
const SPEED: &str = "Vehicle.Speed";

/// Units of a speed, in lower case, and how km/h are made of each.
const UNITS: [(&[&str], Option<&str>); 4] = [
    (&["km/h", "kmh", "kph", "kmph", "km/hour"], None),
    (&["m/s", "mps"], Some("x * 3.6")),
    (&["mph", "mi/h"], Some("x * 1.609344")),
    (&["kn", "kt", "knot", "knots"], Some("x * 1.852")),
];

/// Words in names of speeds that are not the vehicle's own.
const OTHER_SPEEDS: [&str; 8] = ["engine", "wind", "fan", "limit", "accuracy", "set", "target", "max"];

/// The drive: a log and what explains it.
#[derive(Debug)]
pub(super) struct Drive {
    pub(super) log: PathBuf,
    pub(super) dbc: PathBuf,
    pub(super) mapping: PathBuf,
}

impl Drive {
    /// Finds the drive. The one that ships is unpacked into the run's directory; a mapping that nobody has written is
    /// made there.
    pub(super) fn find(args: &DemoArgs, root: &Path) -> Result<Self, Failure> {
        let shipped = args.project.join("can-bridge/dbc");
        let Some(log) = &args.drive else {
            let log = root.join("drive.log");
            unpack(&super::absolute(&args.project.join("sim/drives/a10kw.log.gz"))?, &log)?;
            let (dbc, mapping) = (shipped.join("verge-demo.dbc"), shipped.join("verge-demo.vss.json"));
            return Ok(Self { log, dbc: super::absolute(&dbc)?, mapping: super::absolute(&mapping)? });
        };
        let dbc = args.dbc.as_ref().ok_or_else(|| {
            Failure::new("a log alone says nothing")
                .fix("name its DBC: --dbc FILE (make demo DRIVE=log DBC=file)".to_owned())
        })?;
        let (log, dbc) = (found(log)?, found(dbc)?);
        let stem = dbc.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let fits = shipped.join(format!("{stem}.vss.json"));
        let mapping = match &args.mapping {
            Some(mapping) => found(mapping)?,
            None if fits.exists() => super::absolute(&fits)?,
            None => make_mapping(&dbc, root)?,
        };
        let drive = Self { log, dbc, mapping };
        drive.check()?;
        Ok(drive)
    }

    /// Whether the three fit each other: the log holds frames, the DBC knows some, the mapping uses some of those.
    fn check(&self) -> Result<(), Failure> {
        let (dbc, mapping) = (named(&self.dbc)?, named(&self.mapping)?);
        let bus = BusName::new("can0").map_err(Failure::new)?;
        let decoder = decoder(&bus, Some(dbc), Some(mapping)).map_err(|e| Failure::new(&e).fix(e.fix()))?;
        let used: BTreeSet<MessageIndex> = decoder.leaves().iter().map(|leaf| leaf.message).collect();
        let log = look_into(&self.log)?;
        let (mut frames, mut known, mut mapped, mut strangers) = (0u32, 0u32, 0u32, Vec::new());
        for text in log.split(|byte| *byte == b'\n') {
            let Ok(record) = candump::parse_line(text) else { continue };
            let id = record.frame.id();
            frames += 1;
            match decoder.plan().find(id) {
                Some((message, _)) => {
                    known += 1;
                    mapped += u32::from(used.contains(&message));
                }
                None if strangers.len() < NAMED_MAX && !strangers.contains(&id) => strangers.push(id),
                None => {}
            }
        }
        let (log, dbc) = (self.log.display(), self.dbc.display());
        if frames == 0 {
            return Err(Failure::new(format!("{log} holds no CAN frame")).fix(NO_FRAME_FIX.to_owned()));
        }
        if known == 0 {
            let ids: Vec<String> = strangers.iter().map(|id| format!("{:X}", id.value())).collect();
            let what =
                format!("{dbc} knows none of the {frames} frames in {log} (ids {}, ...)", ids.join(", "));
            let fix = "name the DBC of this very log; ids are compared as a whole, so a J1939 DBC has to name the source \
                       addresses of the log";
            return Err(Failure::new(what).fix(fix.to_owned()));
        }
        if mapped == 0 {
            let what = format!("{} maps no signal of the frames in {log}", self.mapping.display());
            return Err(Failure::new(what).fix("map a signal that the log holds".to_owned()));
        }
        line(format!("the log begins with {frames} frames; {known} are in the DBC, {mapped} mapped to VSS"));
        Ok(())
    }
}

fn found(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|e| Failure::new(format!("cannot find {}: {e}", path.display())))
}

fn named(path: &Path) -> Result<NamedBytes, Failure> {
    let bytes = fs::read(path).map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display())))?;
    Ok(NamedBytes { name: path.display().to_string(), bytes })
}

fn compile(dbc: &NamedBytes) -> Result<DecodePlan, Failure> {
    dbc::compile(&dbc.name, &dbc.bytes).map_err(|e| Failure::new(&e).fix(e.fix()))
}

/// The beginning of a log.
fn look_into(log: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    fs::File::open(log)
        .and_then(|file| file.take(LOOK_LEN_MAX).read_to_end(&mut bytes))
        .map_err(|e| Failure::new(format!("cannot read {}: {e}", log.display())))?;
    Ok(bytes)
}

/// Makes a mapping for a DBC that has none: all its signals below [`PRIVATE_BRANCH`], and the one that looks like the
/// vehicle's speed as [`SPEED`].
fn make_mapping(dbc: &Path, root: &Path) -> Result<PathBuf, Failure> {
    let plan = compile(&named(dbc)?)?;
    let (message, signal, math) = speed(&plan).ok_or_else(|| {
        Failure::new(format!("no signal of {} looks like the vehicle's speed, which the demo's apps want", dbc.display()))
            .fix("map one: --mapping FILE (make demo MAPPING=file) with {\"Vehicle.Speed\": {\"unit\": \"km/h\", \"dbc2vss\": {\"signal\": \"NAME\"}}}".to_owned())
    })?;
    let source = Dbc2VssClaim {
        signal: signal.clone(),
        message: Some(message.clone()),
        interval_ms: Some(100),
        on_change: None,
        transform: math.map(|math| TransformClaim { math: Some(math.into()), mapping: None }),
        multiplexer: Vec::new(),
    };
    let leaf = LeafClaim {
        datatype: Some("float".into()),
        unit: Some("km/h".into()),
        dbc2vss: Some(source),
        ..LeafClaim::default()
    };
    let mut overlay = OverlayClaim::private(&plan);
    overlay.0.insert(SPEED.into(), leaf);
    let path = root.join("made.vss.json");
    let text = serde_json::to_string_pretty(&overlay).map_err(Failure::new)?;
    fs::write(&path, text).map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display())))?;
    line(format!(
        "no mapping is given: {SPEED} is signal {signal} of message {message}, all others are below {PRIVATE_BRANCH}"
    ));
    Ok(path)
}

/// The signal that is most likely the vehicle's speed, by its unit and its name: message, signal, expression.
fn speed(plan: &DecodePlan) -> Option<(String, String, Option<&'static str>)> {
    let signals = plan.messages().iter().flat_map(|m| m.signals.iter().map(move |s| (m, s)));
    let likely = signals.filter_map(|(message, signal)| {
        let (unit, name) = (signal.unit.to_lowercase(), signal.name.to_lowercase());
        let (_, math) = UNITS.into_iter().find(|(units, _)| units.contains(&unit.trim()))?;
        let is_other = OTHER_SPEEDS.iter().any(|word| name.contains(word));
        let rank = match name.as_str() {
            _ if is_other => return None,
            "vehiclespeed" | "speed" => 0,
            name if name.contains("vehicle") => 1,
            name if name.contains("speed") => 2,
            _ => 3,
        };
        Some((rank, message.name.clone(), signal.name.clone(), math))
    });
    likely.min_by_key(|(rank, ..)| *rank).map(|(_, message, signal, math)| (message, signal, math))
}

fn unpack(packed: &Path, to: &Path) -> Result<(), Failure> {
    let unpacked = fs::File::open(packed).and_then(|packed| {
        let mut log = fs::File::create(to)?;
        std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut log)
    });
    unpacked
        .map(|_| ())
        .map_err(|e| Failure::new(format!("cannot unpack {} to {}: {e}", packed.display(), to.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(signals: &[(&str, &str)]) -> DecodePlan {
        let mut text = String::from("VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_: A\n\nBO_ 5 M: 64 A\n");
        for (index, (name, unit)) in signals.iter().enumerate() {
            text += &format!(" SG_ {name} : {}|8@1+ (1,0) [0|0] \"{unit}\" A\n", index * 8);
        }
        dbc::compile("t.dbc", text.as_bytes()).unwrap()
    }

    #[test]
    #[rustfmt::skip]
    fn speed_table() {
        //    signals                                                                       the speed, how km/h are made
        check(&[("EngineSpeed", "rpm"), ("WheelBasedVehicleSpeed", "km/h")],                Some(("WheelBasedVehicleSpeed", None)));
        check(&[("WheelSpeedFL", "km/h"), ("Speed", "m/s")],                                Some(("Speed", Some("x * 3.6"))));
        check(&[("SpeedLimit", "km/h"), ("SOG", "knots"), ("WindSpeed", "knots")],          Some(("SOG", Some("x * 1.852"))));
        check(&[("VSpd", "MPH")],                                                           Some(("VSpd", Some("x * 1.609344"))));
        check(&[("EngineSpeed", "rpm"), ("Temperature", "degC"), ("CruiseSetSpeed", "km/h")], None);
        check(&[("Speed", "")],                                                             None);
    }

    #[track_caller]
    fn check(signals: &[(&str, &str)], expected: Option<(&str, Option<&str>)>) {
        let got = speed(&plan(signals));
        assert_eq!(got.as_ref().map(|(_, signal, math)| (signal.as_str(), *math)), expected, "{signals:?}");
    }

    #[test]
    fn what_does_not_fit_is_named_before_anything_starts() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let head = "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_: A\n\n";
        let dbc =
            put("a.dbc", &format!("{head}BO_ 291 M: 8 A\n SG_ Speed : 0|8@1+ (1,0) [0|0] \"km/h\" A\n"));
        let slow = put("b.dbc", &format!("{head}BO_ 291 M: 8 A\n SG_ Gear : 0|8@1+ (1,0) [0|0] \"\" A\n"));
        let broken = put("c.dbc", "BO_ 291 M: 8 A\n SG_ Speed : 0|8@1+ (1,0\n");
        let log = put("a.log", "(1.0) can0 123#11\n(1.1) can0 124#11\n");
        let stranger = put("b.log", "(1.0) can0 124#11\n");
        let foreign = put("c.log", "\u{1}\u{2}MDF     4.10\n");
        let other = put("o.vss.json", r#"{"Vehicle.Speed": {"dbc2vss": {"signal": "Gear"}}}"#);
        let try_it = |log: &Path, dbc: &Path, mapping: Option<&Path>| {
            let args = DemoArgs {
                drive: Some(log.into()),
                dbc: Some(dbc.into()),
                mapping: mapping.map(Into::into),
                ..DemoArgs::default()
            };
            Drive::find(&args, dir.path()).map(|_| ()).map_err(|failure| failure.to_string())
        };
        assert_eq!(try_it(&log, &dbc, None), Ok(()));
        for (result, words) in [
            (try_it(&stranger, &dbc, None), "knows none of the 1 frames"),
            (try_it(&foreign, &dbc, None), "holds no CAN frame"),
            (try_it(&log, &slow, None), "looks like the vehicle's speed"),
            (try_it(&log, &broken, None), "c.dbc:"),
            (try_it(&log, &dbc, Some(&other)), "no message of the DBC has a signal Gear"),
            (try_it(Path::new("/no/such.log"), &dbc, None), "cannot find /no/such.log"),
        ] {
            let why = result.expect_err(words);
            assert!(why.contains(words), "{words:?} is not in {why:?}");
        }
    }
}
