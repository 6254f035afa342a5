//! How hard the machine is pressed: PSI where the kernel has it, /proc/stat and /proc/meminfo always.

use std::fs;
use std::path::{Path, PathBuf};

use policies::host::Pressure;

/// Reads pressure below one /proc; remembers the last CPU times, because the kernel only counts up.
#[derive(Debug)]
pub struct Gauge {
    proc: PathBuf,
    last: Option<Times>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    busy: u64,
    all: u64,
}

impl Gauge {
    /// A gauge on `proc`, normally `/proc`.
    pub fn new(proc: &Path) -> Self {
        Self { proc: proc.to_owned(), last: None }
    }

    /// Pressure now. What the kernel does not tell is 0.
    pub fn read(&mut self) -> Pressure {
        let text = |name: &str| fs::read_to_string(self.proc.join(name)).unwrap_or_default();
        let now = times(&text("stat"));
        let cpu_used = match (self.last, now) {
            (Some(last), Some(now)) => {
                share(now.busy.saturating_sub(last.busy), now.all.saturating_sub(last.all))
            }
            _ => 0,
        };
        let pressure = Pressure {
            cpu: some_avg10(&text("pressure/cpu")).unwrap_or(0),
            memory: some_avg10(&text("pressure/memory")).unwrap_or(0),
            memory_used: memory_used(&text("meminfo")).unwrap_or(0),
            cpu_used,
        };
        self.last = now;
        pressure
    }
}

/// `part` of `whole` in thousandths.
fn share(part: u64, whole: u64) -> u16 {
    let thousandths = part.saturating_mul(1000).checked_div(whole).unwrap_or(0);
    u16::try_from(thousandths.min(1000)).unwrap_or(1000)
}

/// `some avg10=12.34 ...` in thousandths.
fn some_avg10(text: &str) -> Option<u16> {
    let rest = text.lines().find_map(|line| line.strip_prefix("some avg10="))?;
    let (whole, hundredths) = rest.split_whitespace().next()?.split_once('.')?;
    let percent = whole.parse::<u64>().ok()? * 100 + hundredths.parse::<u64>().ok()?;
    Some(share(percent, 10_000))
}

fn times(stat: &str) -> Option<Times> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests are counted in user already
    let all: u64 = fields.iter().take(8).sum();
    let idle = fields.get(3)? + fields.get(4)?;
    Some(Times { busy: all - idle, all })
}

fn memory_used(meminfo: &str) -> Option<u16> {
    let field = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let (total, available) = (field("MemTotal")?, field("MemAvailable")?);
    Some(share(total.saturating_sub(available), total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_become_thousandths() {
        let proc = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = proc.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("stat", "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n");
        write("meminfo", "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n");
        write("pressure/cpu", "some avg10=12.34 avg60=1.00 avg300=0.00 total=5\nfull avg10=9.99\n");
        let mut gauge = Gauge::new(proc.path());
        let first = gauge.read();
        assert_eq!(first, Pressure { cpu: 123, memory: 0, memory_used: 750, cpu_used: 0 });
        write("stat", "cpu  150 0 150 750 150 0 0 0 0 0\n");
        assert_eq!(gauge.read().cpu_used, 500);
    }

    #[test]
    fn a_proc_that_tells_nothing_is_no_pressure() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Gauge::new(empty.path()).read(), Pressure::default());
    }
}
