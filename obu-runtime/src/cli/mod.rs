//! The command line: arguments in, one module per group of commands, errors with what, why and fix out.

mod apply;
mod bundle;
mod doctor;
mod get;
mod node;
mod report;
mod task;
mod tools;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

pub use report::Failure;

// What the demo uses of the command line, so that it shows no way that a user does not have.
pub(crate) use apply::{app_ref, apply_file, call};
pub(crate) use bundle::{failure, sign};
pub(crate) use get::fetch;
pub(crate) use node::host_binary;
pub(crate) use report::{line, outlive_reader, result, table};
pub(crate) use tools::{make_authority, make_signing_key};

/// In-car platform middleware: confined apps, CAN and camera, tasks that run where they meet their deadline.
#[derive(Debug, Parser)]
#[command(name = "verge", version, about, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// The node's control socket.
    #[arg(long, global = true, env = "VERGE_SOCKET", default_value = "/run/verge/control.sock")]
    socket: PathBuf,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: one JSON document, or one a line where results keep coming.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node in the foreground.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Check manifests (YAML) and node files (TOML) without touching a node.
    Validate {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Make a node run what a manifest says. Removes nothing that the manifest does not name.
    Apply(apply::ApplyArgs),
    /// Stop an app and forget it.
    Delete {
        /// `app`, or `tenant/app`.
        app: String,
    },
    /// Freeze an app until it is thawed by hand.
    Freeze {
        /// `app`, or `tenant/app`.
        app: String,
    },
    /// Thaw an app.
    Thaw {
        /// `app`, or `tenant/app`.
        app: String,
    },
    /// Stop an app and start it again.
    Restart {
        /// `app`, or `tenant/app`.
        app: String,
    },
    /// Show nodes, apps, functions, tasks, signals or counters.
    Get(get::GetArgs),
    /// Show what an app printed.
    Logs(get::LogsArgs),
    /// Run tasks and explain where they ran.
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Ask the cars of this roadside element's zone for a sample.
    Call(task::CallArgs),
    /// Say what this machine and node can enforce, and how to get the rest.
    Doctor,
    /// Make authorities, certificates and keys for development and tests.
    #[command(subcommand)]
    Pki(tools::PkiCommand),
    /// Build, sign, verify and push bundles.
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Tools for the bus.
    #[command(subcommand)]
    Can(tools::CanCommand),
    /// A car on the road, on this machine, in a minute and a half.
    Demo(crate::demo::DemoArgs),
    /// A process of a node; started by verge-host, not by people.
    #[command(hide = true)]
    Face {
        /// Which.
        name: String,
    },
}

/// Runs the command; the exit code is 0 for success, 1 for a failure, 2 for wrong usage.
pub fn run(args: Args) -> ExitCode {
    if let Command::Face { name } = &args.command {
        return crate::faces::run(name);
    }
    init_log();
    let output = args.output;
    match dispatch(args) {
        Ok(code) => code,
        Err(failure) => {
            failure.print(output);
            ExitCode::FAILURE
        }
    }
}

fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn dispatch(args: Args) -> Result<ExitCode, Failure> {
    let Args { command, socket, output } = args;
    let client = Client { socket, output };
    match command {
        Command::Node(command) => node::run(command).map(|()| ExitCode::SUCCESS),
        Command::Validate { files } => apply::validate(&files, output),
        Command::Apply(args) => done(apply::apply(&client, &args)),
        Command::Delete { app } => done(apply::on_app(&client, &app, apply::Verb::Delete)),
        Command::Freeze { app } => done(apply::on_app(&client, &app, apply::Verb::Freeze)),
        Command::Thaw { app } => done(apply::on_app(&client, &app, apply::Verb::Thaw)),
        Command::Restart { app } => done(apply::on_app(&client, &app, apply::Verb::Restart)),
        Command::Get(args) => done(get::get(&client, &args)),
        Command::Logs(args) => done(get::logs(&client, &args)),
        Command::Task(command) => task::run(&client, command),
        Command::Call(args) => task::call(&client, &args),
        Command::Doctor => done(doctor::doctor(&client)),
        Command::Pki(command) => done(tools::pki(command, output)),
        Command::Bundle(command) => done(bundle::run(&client, command)),
        Command::Can(command) => done(tools::can(command, output)),
        Command::Demo(args) => crate::demo::run(&args),
        Command::Face { .. } => Ok(ExitCode::SUCCESS),
    }
}

fn done(result: Result<(), Failure>) -> Result<ExitCode, Failure> {
    result.map(|()| ExitCode::SUCCESS)
}

/// Where to ask and how to print.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: PathBuf,
    pub(crate) output: Format,
}

impl Client {
    /// Asks the node one thing and waits for the one reply.
    pub(crate) fn ask(&self, request: &crate::control::Request) -> Result<crate::control::Reply, Failure> {
        Ok(block_on(crate::control::ask(&self.socket, request))?)
    }
}

/// Runs one future on a small runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a machine that cannot make an epoll descriptor cannot run anything")
        .block_on(future)
}
