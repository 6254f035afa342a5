//! Vision function `lane`: one JPEG frame on standard input, one JSON line about the road on standard
//! output. A WASI preview 1 command: no files, no clock, no network.
//!
//! Exit codes: 0 done; 65 (`EX_DATAERR`) when the input is not a sound JPEG, with one line on standard
//! error; 74 (`EX_IOERR`) when the pipes fail.

mod gray;
mod road;

use std::process::ExitCode;

/// Longest accepted input in bytes: the largest message on a realm.
const MAX_INPUT_BYTES: u64 = 4 << 20;

fn main() -> ExitCode {
    command::run("lane", MAX_INPUT_BYTES, look)
}

/// Decodes and analyses one frame; the error is one line for the operator.
fn look(jpeg: &[u8]) -> Result<String, String> {
    let image = gray::decode(jpeg)?;
    serde_json::to_string(&road::analyse(&image)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::look;
    use crate::gray::tests::encoded;
    use serde_json::Value;

    /// A road of brightness 60 under a sky of 200, with a white line from (x0, bottom) leaning up.
    fn road(width: u16, height: u16, line: Option<(f32, f32)>) -> Vec<u8> {
        encoded(width, height, |x, y| {
            let (x, up) = (f32::from(x), f32::from(height - 1 - y));
            match line {
                _ if y < height / 3 => 200,
                Some((x0, lean)) if (x - x0 - lean * up).abs() < 4.0 => 240,
                _ => 60,
            }
        })
    }

    fn seen(jpeg: &[u8]) -> Value {
        serde_json::from_str(&look(jpeg).unwrap()).unwrap()
    }

    #[test]
    fn reports_size_brightness_and_horizon() {
        let seen = seen(&road(320, 240, None));
        assert_eq!((&seen["width"], &seen["height"]), (&320.into(), &240.into()));
        let brightness = seen["brightness"].as_f64().unwrap();
        assert!((100.0..114.0).contains(&brightness), "a third of 200, two of 60: {brightness}");
        let bands: Vec<f64> = seen["bands"].as_array().unwrap().iter().map(|b| b.as_f64().unwrap()).collect();
        assert!(bands[0] > 190.0 && bands[3] < 70.0, "{bands:?}");
        let horizon = seen["horizon"].as_i64().unwrap();
        assert!((76..=84).contains(&horizon), "the sky ends at row 80: {horizon}");
    }

    #[test]
    fn finds_a_line_where_it_is_and_how_it_leans() {
        for (x0, lean) in [(100.0, 0.0), (60.0, 0.5), (250.0, -0.6), (160.0, 0.25)] {
            let seen = seen(&road(320, 240, Some((x0, lean))));
            let first = &seen["lanes"][0];
            let (x, angle) = (first["x"].as_f64().unwrap(), first["angle_deg"].as_f64().unwrap());
            assert!((x - f64::from(x0)).abs() < 14.0, "x0 {x0}: {seen}");
            assert!((angle - f64::from(lean.atan().to_degrees())).abs() < 6.0, "lean {lean}: {seen}");
            assert!(first["strength"].as_f64().unwrap() > 0.1, "{seen}");
        }
    }

    #[test]
    fn an_empty_road_has_no_lanes() {
        let seen = seen(&road(320, 240, None));
        assert_eq!(seen["lanes"].as_array().unwrap().len(), 0, "{seen}");
        assert_eq!(seen["edges"], 0);
    }

    #[test]
    fn refuses_what_is_no_sound_jpeg() {
        let good = road(320, 240, Some((100.0, 0.0)));
        let mut headless = good.clone();
        headless[..2].copy_from_slice(b"XX");
        for (name, bytes) in [
            ("empty", &[][..]),
            ("text", b"not a picture"),
            ("start only", &good[..2]),
            ("header only", &good[..200]),
            ("cut in half", &good[..good.len() / 2]),
            ("wrong magic", &headless),
        ] {
            let error = look(bytes).expect_err(name);
            assert!(!error.contains('\n') && !error.is_empty(), "{name}: one line: {error:?}");
        }
        assert!(look(&vec![0xff; (super::MAX_INPUT_BYTES + 1) as usize]).is_err());
    }

    #[test]
    fn no_flipped_byte_makes_it_panic() {
        let good = road(64, 48, Some((20.0, 0.2)));
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let _ = look(&bad);
            }
        }
    }
}
