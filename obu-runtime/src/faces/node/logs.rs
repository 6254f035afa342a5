//! What apps print: the last lines of each, and whoever follows them. Bytes of an app are never parsed
//! beyond cutting them into lines; a flood costs its own app the oldest lines and nobody else anything.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use policies::host::AppRef;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::broadcast;

/// Lines kept per app.
const LINES_MAX: usize = 1000;

/// Longest line kept; the rest of a longer one is its next line.
const LINE_LEN_MAX: u64 = 4096;

/// Lines that a slow follower may lag behind before it loses some.
const FOLLOW_LAG_MAX: usize = 256;

#[derive(Debug)]
struct AppLog {
    lines: VecDeque<String>,
    news: broadcast::Sender<String>,
}

/// Logs of all apps. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Logs {
    apps: Arc<Mutex<BTreeMap<AppRef, AppLog>>>,
}

impl Logs {
    /// Reads an app's output to its end, on a task of its own.
    pub(super) fn attach(&self, app: AppRef, pipe: OwnedFd) {
        let logs = self.clone();
        match tokio::net::unix::pipe::Receiver::from_owned_fd(pipe) {
            Ok(pipe) => {
                tokio::spawn(logs.read(app, pipe));
            }
            Err(error) => tracing::warn!(%app, %error, "cannot read the app's log"),
        }
    }

    async fn read(self, app: AppRef, pipe: tokio::net::unix::pipe::Receiver) {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = tokio::io::AsyncReadExt::take(&mut reader, LINE_LEN_MAX);
            match limited.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => self.push(&app, &line),
            }
        }
    }

    fn push(&self, app: &AppRef, line: &[u8]) {
        let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
        // Terminal escapes of a hostile app must not reach an operator's terminal.
        let text: String =
            text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
        self.with(app, |log| {
            if log.lines.len() == LINES_MAX {
                log.lines.pop_front();
            }
            log.lines.push_back(text.clone());
            // Nobody follows: nobody to tell.
            let _ = log.news.send(text);
        });
    }

    /// The last `count` lines, and the stream of new ones.
    pub(super) fn tail(&self, app: &AppRef, count: usize) -> (Vec<String>, broadcast::Receiver<String>) {
        self.with(app, |log| {
            let skip = log.lines.len().saturating_sub(count);
            (log.lines.iter().skip(skip).cloned().collect(), log.news.subscribe())
        })
    }

    fn with<T>(&self, app: &AppRef, act: impl FnOnce(&mut AppLog) -> T) -> T {
        let mut apps = self.apps.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let log = apps
            .entry(app.clone())
            .or_insert_with(|| AppLog { lines: VecDeque::new(), news: broadcast::channel(FOLLOW_LAG_MAX).0 });
        act(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::id::{AppName, TenantId};

    #[test]
    fn lines_are_bounded_and_escapes_are_taken_out() {
        let logs = Logs::default();
        let app = AppRef { tenant: TenantId::new("t").unwrap(), app: AppName::new("a").unwrap() };
        for n in 0..LINES_MAX + 5 {
            logs.push(&app, format!("line {n}\n").as_bytes());
        }
        logs.push(&app, b"\x1b[2Jgone\n");
        let (lines, _) = logs.tail(&app, 2);
        assert_eq!(lines, [format!("line {}", LINES_MAX + 4), "\u{fffd}[2Jgone".into()]);
        assert_eq!(logs.tail(&app, usize::MAX).0.len(), LINES_MAX);
    }
}
