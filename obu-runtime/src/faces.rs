//! The processes of a node, each a face of the one `verge` binary. Host starts them; see `channel`.

pub mod border;
pub mod bus;
pub mod camera;
pub mod link;
pub mod node;
pub mod worker;

use std::process::ExitCode;

use policies::host::{Face, HostEvent};

use crate::channel::{self, ChannelError, FaceStart, HostChannel};

pub(crate) use node::{add_result, report_json, value_json};

/// What a face says when it cannot go on.
struct End {
    what: String,
    fix: Option<String>,
}

/// Runs the face of that name until host says stop. The exit code is 0 for an end in order.
pub fn run(name: &str) -> ExitCode {
    let channel = match obu_host::channel::inherited() {
        Ok(channel) => channel,
        Err(error) => {
            crate::cli::Failure::new(format!("verge face {name} is started by verge-host only: {error}"))
                .fix("start a node with: verge node run -c node.toml".to_owned())
                .print(crate::cli::Format::Table);
            return ExitCode::from(2);
        }
    };
    init_log(name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(serve(channel));
            // What still runs belongs to a node that is ending.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(End { what: format!("cannot make a runtime: {error}"), fix: None }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(end) => {
            tracing::error!(fix = end.fix, "{}", end.what);
            ExitCode::FAILURE
        }
    }
}

fn init_log(name: &str) {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into());
    // Zenoh tells much that is no news to an operator; who asks for it gets it.
    let quiet =
        if wanted.contains("zenoh") { "" } else { ",zenoh=error,zenoh_transport=error,zenoh_link=error" };
    let filter = tracing_subscriber::EnvFilter::new(wanted + quiet);
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    tracing::debug!(face = name, "started");
}

async fn serve(fd: std::os::fd::OwnedFd) -> Result<(), End> {
    let host = HostChannel::new(fd).map_err(|e| end(&e))?;
    let (start, events) = channel::start(&host).await.map_err(|e| end(&e))?;
    dispatch(start, events, host).await
}

fn end(error: &ChannelError) -> End {
    End { what: error.to_string(), fix: None }
}

async fn dispatch(start: FaceStart, events: Vec<HostEvent>, host: HostChannel) -> Result<(), End> {
    match start.face.clone() {
        Face::Node => {
            node::run(start, events, host).await.map_err(|e| End { what: e.to_string(), fix: e.fix() })
        }
        Face::Worker(_) => {
            worker::run(start, host).await.map_err(|e| End { what: e.to_string(), fix: e.fix() })
        }
        Face::Bus => bus::run(start, host).await.map_err(|e| End { what: e.to_string(), fix: e.fix() }),
        Face::Camera => camera::run(start, host).await.map_err(|e| End { what: e.to_string(), fix: e.fix() }),
        Face::Link => link::run(start, host).await.map_err(|e| End { what: e.to_string(), fix: e.fix() }),
        Face::Border(_) => border::run(start, host).await.map_err(|e| End { what: e.to_string(), fix: None }),
    }
}
