//! Quantities with their unit in the type, and the texts that users write for them (`300m`, `96Mi`, `20ms`).

use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// A share of one CPU core in thousandths: 1000 is one whole core.
///
/// Integer on purpose: admission sums these, and sums of floats depend on the order of the apps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuMilli(u32);

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

/// A duration as users write it: `20ms`, `1.5s`, `250us`, `2m`. Whole microseconds inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is not {expected}")]
pub struct UnitError {
    /// The text.
    pub got: String,
    /// What would be right, with an example.
    pub expected: &'static str,
}

/// What a file may hold where a quantity is due: a text or a bare number.
#[derive(Deserialize)]
#[serde(untagged, expecting = "this is not a quantity; write a text such as 300m, 96Mi or 20ms")]
enum Text {
    Number(u64),
    Float(f64),
    Text(String),
}

impl Text {
    fn into_string(self) -> String {
        match self {
            Self::Number(n) => alloc::format!("{n}"),
            Self::Float(n) => alloc::format!("{n}"),
            Self::Text(text) => text,
        }
    }
}

impl CpuMilli {
    /// Largest share accepted: 64 cores, well above the computers Verge is made for.
    pub const MAX: Self = Self(64_000);

    /// `None` above [`Self::MAX`], so that a typo cannot reserve the car.
    pub const fn new(milli: u32) -> Option<Self> {
        if milli <= Self::MAX.0 { Some(Self(milli)) } else { None }
    }

    /// Thousandths of a core.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Bytes {
    /// Largest amount accepted: 1 TiB.
    pub const MAX: Self = Self(1 << 40);

    /// `None` above [`Self::MAX`].
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= Self::MAX.0 { Some(Self(bytes)) } else { None }
    }

    /// Bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Mebibytes, for constants.
    pub const fn mebi(n: u32) -> Self {
        Self((n as u64) << 20)
    }
}

impl Span {
    /// Longest span accepted: ten days.
    pub const MAX: Self = Self(10 * 86_400 * 1_000_000);

    /// A span of whole milliseconds.
    pub const fn from_millis(ms: u32) -> Self {
        Self(ms as u64 * 1000)
    }

    /// A span of microseconds; `None` above [`Self::MAX`].
    pub const fn from_micros(us: u64) -> Option<Self> {
        if us <= Self::MAX.0 { Some(Self(us)) } else { None }
    }

    /// Microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// As the standard type.
    pub const fn duration(self) -> Duration {
        Duration::from_micros(self.0)
    }
}

/// Splits `12.5Mi` into a number in thousandths and its suffix. `None` if it is not a plain decimal.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 3 || number.ends_with('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let mut thousandths = 0u64;
    for (digit, weight) in fraction.bytes().zip([100, 10, 1]) {
        thousandths += u64::from(digit.checked_sub(b'0').filter(|d| *d < 10)?) * weight;
    }
    Some((whole.checked_mul(1000)?.checked_add(thousandths)?, suffix.trim()))
}

impl FromStr for CpuMilli {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError {
            got: text.into(),
            expected: "a CPU share; write 300m for 0.3 core or 2 for two cores, 64 cores at most",
        };
        let (milli, suffix) = split_number(text.trim()).ok_or_else(bad)?;
        let milli = match suffix {
            "" => milli,
            "m" if milli % 1000 == 0 => milli / 1000,
            _ => return Err(bad()),
        };
        u32::try_from(milli).ok().and_then(Self::new).ok_or_else(bad)
    }
}

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError {
            got: text.into(),
            expected: "an amount of memory; write 96Mi, 1.5Gi, 500k or a number of bytes, 1Ti at most",
        };
        let (milli, suffix) = split_number(text.trim()).ok_or_else(bad)?;
        let scale: u64 = match suffix {
            "" | "B" => 1,
            "k" | "K" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "Ki" | "KiB" => 1 << 10,
            "Mi" | "MiB" => 1 << 20,
            "Gi" | "GiB" => 1 << 30,
            "Ti" | "TiB" => 1 << 40,
            _ => return Err(bad()),
        };
        milli.checked_mul(scale).map(|m| m / 1000).and_then(Self::new).ok_or_else(bad)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError {
            got: text.into(),
            expected: "a duration with its unit; write 20ms, 1.5s, 250us, 2m or 1h, 10 days at most",
        };
        let (milli, suffix) = split_number(text.trim()).ok_or_else(bad)?;
        let scale: u64 = match suffix {
            "us" => 1,
            "ms" => 1000,
            "s" => 1_000_000,
            "m" | "min" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return Err(bad()),
        };
        milli.checked_mul(scale).map(|m| m / 1000).and_then(Self::from_micros).ok_or_else(bad)
    }
}

/// In files a quantity is a text (or a bare number); on the wire it is its plain number, checked again.
macro_rules! quantity_serde {
    ($($type:ident($raw:ty)),*) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use serde::de::Error as _;
                if deserializer.is_human_readable() {
                    return Text::deserialize(deserializer)?.into_string().parse().map_err(D::Error::custom);
                }
                let raw = <$raw>::deserialize(deserializer)?;
                if raw > Self::MAX.0 {
                    return Err(D::Error::custom(concat!(stringify!($type), " is above its maximum")));
                }
                Ok(Self(raw))
            }
        }
    )*};
}
quantity_serde!(CpuMilli(u32), Bytes(u64), Span(u64));

impl fmt::Display for CpuMilli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m", self.0)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1 << 30 && n % (1 << 30) == 0 => write!(f, "{}Gi", n >> 30),
            n if n >= 1 << 20 && n % (1 << 20) == 0 => write!(f, "{}Mi", n >> 20),
            n if n >= 1 << 10 && n % (1 << 10) == 0 => write!(f, "{}Ki", n >> 10),
            n => write!(f, "{n}"),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            us if us % 1_000_000 == 0 => write!(f, "{}s", us / 1_000_000),
            us if us % 1000 == 0 => write!(f, "{}ms", us / 1000),
            us => write!(f, "{us}us"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_users_write_them() {
        let cpu = |t: &str| t.parse::<CpuMilli>().ok().map(CpuMilli::get);
        let bytes = |t: &str| t.parse::<Bytes>().ok().map(Bytes::get);
        let span = |t: &str| t.parse::<Span>().ok().map(Span::as_micros);
        assert_eq!(cpu("300m"), Some(300));
        assert_eq!(cpu("1.5"), Some(1500));
        assert_eq!(cpu("0.25"), Some(250));
        assert_eq!(cpu("65"), None);
        assert_eq!(cpu("0.5m"), None);
        assert_eq!(bytes("96Mi"), Some(96 << 20));
        assert_eq!(bytes("1.5Gi"), Some(3 << 29));
        assert_eq!(bytes("10MB"), None);
        assert_eq!(bytes("99999999Ti"), None);
        assert_eq!(span("20ms"), Some(20_000));
        assert_eq!(span("1.5s"), Some(1_500_000));
        for bad in ["", "ms", "-1ms", "1.ms", "1e3s", "20", "1.2345s", "11d", "99999h"] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["0", "1Ki", "96Mi", "3Gi", "1500"] {
            let value: Bytes = text.parse().unwrap();
            assert_eq!(alloc::format!("{value}").parse(), Ok(value));
        }
        for text in ["20ms", "1500ms", "2s", "7us"] {
            let value: Span = text.parse().unwrap();
            assert_eq!(alloc::format!("{value}").parse(), Ok(value));
        }
    }
}
