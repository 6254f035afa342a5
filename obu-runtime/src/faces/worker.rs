//! `verge worker`, one per tenant: runs that tenant's functions as Wasm and does nothing else.
//!
//! ```text
//!   node --Load--> compile (one at a time) --> modules by digest
//!   node --Run---> pool: a fresh store per call, stopped by budget or Cancel --> Began, Ended --> node
//! ```
//! A call gets standard input and output, a memory limit and a CPU budget: no files, no network, no
//! environment. The process around it is confined as well; Wasm is the second wall, not the first.

mod call;
mod pool;
mod wasi;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policies::face::{Attachment, FromHost, FromWorkerFace, ToHost, ToWorkerFace};
use policies::host::Face;
use policies::id::Digest;
use policies::limits::FUNCTIONS_MAX;
use policies::time::micros;
use policies::unit::Bytes;
use tokio::sync::mpsc;
use wasmtime::Engine;

use crate::channel::{self, ChannelError, FaceStart, HostChannel, HostSays, Sender};

pub use call::end;
use call::{Allowance, Prepared};
use pool::{Answer, Job, Pool};

/// Modules that may wait for the compiler. Each holds up to 4 MiB of Wasm.
const COMPILES_WAITING_MAX: usize = 32;

/// Events that may wait for the loop; the channel's own queue stands behind it.
const EVENTS_WAITING_MAX: usize = 16;

/// Calls at a time, however many cores there are: bounds the address space of the pool.
const PARALLEL_MAX: usize = 32;

/// Failures that end the worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The channel to node or host.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Host attached no channel to node.
    #[error("cannot begin: host attached no channel to node")]
    NoNode,
    /// The Wasm engine does not start.
    #[error("cannot start the Wasm engine for {parallel} calls at a time: {why}")]
    Engine {
        /// Calls at a time.
        parallel: usize,
        /// The engine's words.
        why: String,
    },
    /// No thread for calls.
    #[error("cannot start {parallel} threads for calls: {source}")]
    Threads {
        /// How many were wanted.
        parallel: usize,
        /// The kernel's word.
        source: std::io::Error,
    },
}

impl WorkerError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Engine { .. } => Some(
                "give the process 4 GiB of address space per core (ulimit -v unlimited) and let it map \
                 executable memory"
                    .into(),
            ),
            Self::Threads { .. } => Some("raise the limit of processes and threads of the node".into()),
            Self::NoNode | Self::Channel(_) => None,
        }
    }
}

/// Serves until host says stop or is gone.
///
/// # Errors
/// What keeps it from serving; host has been told.
pub async fn run(start: FaceStart, host: HostChannel) -> Result<(), WorkerError> {
    let result = serve(start, &host).await;
    if let Err(error) = &result {
        let failed = ToHost::Failed { what: "worker".into(), why: error.to_string(), fix: error.fix() };
        // Host may be gone; then nobody is left to tell.
        let _ = host.send(&failed).await;
    }
    result
}

async fn serve(mut start: FaceStart, host: &HostChannel) -> Result<(), WorkerError> {
    let node = start.take(|what| *what == Attachment::Channel(Face::Node)).ok_or(WorkerError::NoNode)?;
    let (queue, mut events) = mpsc::channel(EVENTS_WAITING_MAX);
    let mut worker = Worker::new(start.time_scale, queue)?;
    worker.attach(node)?;
    host.send(&ToHost::Ready).await?;
    loop {
        tokio::select! {
            said = host.recv() => match said? {
                None | Some(HostSays::Face(FromHost::Stop, _)) => return Ok(()),
                Some(HostSays::Face(FromHost::Attach(Attachment::Channel(Face::Node)), Some(fd))) => {
                    worker.attach(fd)?;
                }
                Some(other) => tracing::warn!(?other, "not for a worker"),
            },
            Some(event) = events.recv() => worker.handle(event).await,
        }
    }
}

/// What the loop hears besides host.
enum Event {
    /// From node (`None`: the channel ended), in this life of it.
    Node(u64, Option<ToWorkerFace>),
    /// The compiler is done.
    Compiled { module: Digest, result: Result<Prepared, String>, took: Duration },
}

struct Module {
    prepared: Arc<Prepared>,
    /// The count of the last use; the smallest goes first when there are too many.
    used: u64,
}

struct Worker {
    engine: Engine,
    pool: Pool,
    modules: BTreeMap<Digest, Module>,
    /// Wanted and not compiled yet, with the memory limit last asked for.
    compiling: BTreeMap<Digest, Bytes>,
    compiler: Arc<tokio::sync::Semaphore>,
    uses: u64,
    time_scale: u32,
    node: Option<Sender<FromWorkerFace>>,
    /// Counts the channels to node.
    life: u64,
    queue: mpsc::Sender<Event>,
}

impl Worker {
    fn new(time_scale: u32, queue: mpsc::Sender<Event>) -> Result<Self, WorkerError> {
        let parallel = std::thread::available_parallelism().map_or(1, NonZero::get).min(PARALLEL_MAX);
        let engine = call::engine(parallel)
            .map_err(|e| WorkerError::Engine { parallel, why: call::shorten(format!("{e:#}")) })?;
        let pool =
            Pool::start(&engine, parallel).map_err(|source| WorkerError::Threads { parallel, source })?;
        Ok(Self {
            engine,
            pool,
            modules: BTreeMap::new(),
            compiling: BTreeMap::new(),
            compiler: Arc::new(tokio::sync::Semaphore::new(1)),
            uses: 0,
            time_scale: time_scale.max(1),
            node: None,
            life: 0,
            queue,
        })
    }

    /// Takes a (new) channel to node. Nobody waits for the calls of the last one any more.
    fn attach(&mut self, fd: OwnedFd) -> Result<(), ChannelError> {
        let (sender, receiver) = channel::channel::<FromWorkerFace, ToWorkerFace>(fd, "node")?;
        self.life += 1;
        let life = self.life;
        self.pool.cancel(|(of, _)| of != life);
        self.node = Some(sender);
        receiver.forward(self.queue.clone(), move |message| Event::Node(life, message));
        Ok(())
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Node(life, _) if life != self.life => {}
            Event::Node(_, None) => {
                self.node = None;
                self.pool.cancel(|_| true);
            }
            Event::Node(_, Some(ToWorkerFace::Load { module, wasm, memory })) => {
                self.load(module, wasm, memory).await;
            }
            Event::Node(_, Some(ToWorkerFace::Run { job, module, input, budget_us })) => {
                self.call(job, module, input, budget_us).await;
            }
            Event::Node(life, Some(ToWorkerFace::Cancel { job })) => {
                self.pool.cancel(|key| key == (life, job));
            }
            Event::Compiled { module, result, took } => self.compiled(module, result, took).await,
        }
    }

    async fn load(&mut self, module: Digest, wasm: Vec<u8>, memory: Bytes) {
        if let Some(known) = self.modules.get_mut(&module) {
            known.prepared = Arc::new(known.prepared.with_memory(memory));
            return self.tell(FromWorkerFace::Loaded { module, took_us: 0 }).await;
        }
        if self.compiling.insert(module, memory).is_some() {
            return; // Answered when it is done.
        }
        if self.compiling.len() > COMPILES_WAITING_MAX {
            self.compiling.remove(&module);
            let why = format!("{COMPILES_WAITING_MAX} modules are being compiled already");
            return self.tell(FromWorkerFace::LoadFailed { module, why }).await;
        }
        let (engine, turn, queue) = (self.engine.clone(), self.compiler.clone(), self.queue.clone());
        tokio::spawn(async move {
            // The semaphore is never closed.
            let Ok(_turn) = turn.acquire().await else { return };
            let began = Instant::now();
            let work = tokio::task::spawn_blocking(move || Prepared::new(&engine, &wasm, memory));
            let result = work.await.unwrap_or_else(|_| Err("the compiler failed; see the log".into()));
            // The loop is gone when the process ends.
            let _ = queue.send(Event::Compiled { module, result, took: began.elapsed() }).await;
        });
    }

    async fn compiled(&mut self, module: Digest, result: Result<Prepared, String>, took: Duration) {
        let memory = self.compiling.remove(&module);
        let answer = match result {
            Ok(prepared) => {
                let prepared = memory.map_or(prepared.clone(), |memory| prepared.with_memory(memory));
                self.keep(module, Arc::new(prepared));
                FromWorkerFace::Loaded { module, took_us: micros(took) }
            }
            Err(why) => FromWorkerFace::LoadFailed { module, why },
        };
        self.tell(answer).await;
    }

    fn keep(&mut self, module: Digest, prepared: Arc<Prepared>) {
        if self.modules.len() >= FUNCTIONS_MAX {
            let oldest = self.modules.iter().min_by_key(|(_, m)| m.used).map(|(digest, _)| *digest);
            oldest.and_then(|digest| self.modules.remove(&digest));
        }
        self.uses += 1;
        self.modules.insert(module, Module { prepared, used: self.uses });
    }

    async fn call(&mut self, job: u64, module: Digest, input: Vec<u8>, budget_us: u64) {
        let refused = match self.submit(job, module, input, budget_us) {
            Ok(()) => return,
            Err(why) => Err((end::NOT_STARTED, why)),
        };
        self.tell(FromWorkerFace::Ended { job, result: refused, took_us: 0 }).await;
    }

    fn submit(&mut self, job: u64, module: Digest, input: Vec<u8>, budget_us: u64) -> Result<(), String> {
        let Some(node) = self.node.clone() else { return Ok(()) };
        let known = self.modules.get_mut(&module).ok_or_else(|| format!("{module} is not loaded"))?;
        self.uses += 1;
        known.used = self.uses;
        let runtime = tokio::runtime::Handle::current();
        let answer: Answer = Arc::new(move |event| {
            // A node that is gone does not want the answer; its successor asks anew.
            let _ = runtime.block_on(node.send(&event));
        });
        let cpu = Duration::from_micros(budget_us.saturating_mul(u64::from(self.time_scale)));
        let may = Allowance { cpu, time_scale: self.time_scale };
        self.pool.submit(Job { key: (self.life, job), module: known.prepared.clone(), input, may, answer })
    }

    async fn tell(&self, message: FromWorkerFace) {
        if let Some(node) = &self.node {
            // As above.
            let _ = node.send(&message).await;
        }
    }
}
