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

    /// Pressure now. PSI that the kernel does not have is `None`; what else it does not tell is 0.
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
            cpu: some_avg10(&text("pressure/cpu")),
            memory: some_avg10(&text("pressure/memory")),
            memory_used: memory_used(&text("meminfo")).unwrap_or(0),
            cpu_used,
        };
        self.last = now;
        pressure
    }
}

/// Whether the kernel behind `proc` tells who waits for CPU. One that was booted with `psi=0` may show the file and refuse
/// to be read.
pub fn has_psi(proc: &Path) -> bool {
    fs::read_to_string(proc.join("pressure/cpu")).is_ok_and(|text| some_avg10(&text).is_some())
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

    fn write(proc: &Path, name: &str, text: &str) {
        let path = proc.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A /proc without PSI: a quarter of the CPU time in use so far, three quarters of memory.
    fn proc_without_psi() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "stat", "cpu  100 0 100 500 100 0 0 0 0 0\ncpu0 1 2 3\n");
        write(dir.path(), "meminfo", "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n");
        dir
    }

    #[test]
    fn files_of_the_kernel_become_thousandths() {
        let dir = proc_without_psi();
        let proc = dir.path();
        write(proc, "pressure/cpu", "some avg10=12.34 avg60=1.00 avg300=0.00 total=5\nfull avg10=9.99\n");
        write(proc, "pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
        let mut gauge = Gauge::new(proc);
        let first = gauge.read();
        assert_eq!(first, Pressure { cpu: Some(123), memory: Some(0), memory_used: 750, cpu_used: 0 });
        write(proc, "stat", "cpu  150 0 150 550 150 0 0 0 0 0\n");
        assert_eq!(gauge.read().cpu_used, 500);
        assert!(has_psi(proc));
    }

    // tests: P4-06
    #[test]
    fn without_psi_the_cpu_time_in_use_climbs_the_ladder() {
        use policies::ladder::{Ladder, LadderPolicy};
        use policies::task::Class;
        use policies::time::Timestamp;

        let dir = proc_without_psi();
        let (proc, mut gauge) = (dir.path(), Gauge::new(dir.path()));
        let mut ladder = Ladder::new(LadderPolicy::default()).unwrap();
        let mut steps = Vec::new();
        for second in 0..4_u64 {
            // 97 of every 100 ticks are busy.
            let (busy, idle) = (200 + 97 * second, 600 + 3 * second);
            write(proc, "stat", &format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n"));
            let pressure = gauge.read();
            assert_eq!((pressure.cpu, pressure.memory), (None, None));
            let now = Timestamp::from_micros(second * 1_000_500);
            steps.extend(ladder.handle(now, pressure, &[Class::Background]).map(|step| step.to_string()));
        }
        assert_eq!(
            steps,
            [
                "squeeze background to 100: cpu use 970 >= 950 permille for 1000 ms",
                "freeze background: cpu use 970 >= 950 permille for 1000 ms",
            ]
        );
    }

    #[test]
    fn psi_that_cannot_be_read_is_none() {
        let dir = proc_without_psi();
        assert!(!has_psi(dir.path()));
        for unreadable in ["", "some avg10=", "off\n"] {
            write(dir.path(), "pressure/cpu", unreadable);
            assert!(!has_psi(dir.path()), "{unreadable:?}");
            assert_eq!(Gauge::new(dir.path()).read().cpu, None, "{unreadable:?}");
        }
    }

    #[test]
    fn a_proc_that_tells_nothing_is_no_pressure() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Gauge::new(empty.path()).read(), Pressure::default());
    }
}
