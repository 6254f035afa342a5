//! Threads that run calls, as many as there are cores, and the ticker that lets them be stopped.
//!
//! ```text
//!   submit --> queue (bounded) --> thread: Began, call, Ended --> answer
//!   cancel --> flag of the job         ^ looks at the flag with every tick
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use policies::face::FromWorkerFace;
use policies::limits::JOBS_MAX;
use policies::time::micros;
use wasmtime::Engine;

use super::call::{Allowance, Ended, Prepared, end};

/// Time between two looks at a running call: how late a cancel or a spent budget is noticed.
const TICK: Duration = Duration::from_millis(1);

/// Names one call: the node's life that asked, and its number there. A new node process counts from the
/// start again while calls of the last one may still be ending.
pub(super) type JobKey = (u64, u64);

/// Where the events of a call go.
pub(super) type Answer = Arc<dyn Fn(FromWorkerFace) + Send + Sync>;

/// One call to be run.
pub(super) struct Job {
    /// Its name.
    pub(super) key: JobKey,
    /// The module.
    pub(super) module: Arc<Prepared>,
    /// Standard input.
    pub(super) input: Vec<u8>,
    /// What it may use.
    pub(super) may: Allowance,
    /// Who hears of it.
    pub(super) answer: Answer,
}

/// The threads.
pub(super) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    tick: Condvar,
    engine: Engine,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Every job in the queue or running, with its flag.
    jobs: BTreeMap<JobKey, Arc<AtomicBool>>,
    running: usize,
    ended: bool,
}

impl Shared {
    /// A thread that panicked has left the state whole: every change of it is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Starts `threads` threads and the ticker.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub(super) fn start(engine: &Engine, threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            tick: Condvar::new(),
            engine: engine.clone(),
        });
        let pool = Self { shared };
        for i in 0..threads {
            let shared = pool.shared.clone();
            thread::Builder::new().name(format!("call-{i}")).spawn(move || work(&shared))?;
        }
        let shared = pool.shared.clone();
        thread::Builder::new().name("tick".into()).spawn(move || tick(&shared))?;
        Ok(pool)
    }

    /// Queues a job.
    ///
    /// # Errors
    /// Why not, in words: the queue is full, or the number is taken.
    pub(super) fn submit(&self, job: Job) -> Result<(), String> {
        let mut state = self.shared.lock();
        if state.jobs.len() >= JOBS_MAX {
            return Err(format!("{JOBS_MAX} calls are waiting or running already"));
        }
        if state.jobs.contains_key(&job.key) {
            return Err(format!("call {} is running already", job.key.1));
        }
        state.jobs.insert(job.key, Arc::default());
        state.queue.push_back(job);
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Stops a job, or all jobs of one life of the node; each still ends with its own event.
    pub(super) fn cancel(&self, which: impl Fn(JobKey) -> bool) {
        let state = self.shared.lock();
        for (_, flag) in state.jobs.iter().filter(|(key, _)| which(**key)) {
            flag.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.cancel(|_| true);
        self.shared.lock().ended = true;
        self.shared.work.notify_all();
        self.shared.tick.notify_all();
    }
}

fn work(shared: &Shared) {
    while let Some((job, cancelled)) = next(shared) {
        let number = job.key.1;
        let (result, took_us) = if cancelled.load(Ordering::Relaxed) {
            (Err((end::CANCELLED, "cancelled before it began".into())), 0)
        } else {
            (job.answer)(FromWorkerFace::Began { job: number });
            let began = Instant::now();
            let result = run(&job.module, job.input, job.may, cancelled);
            (result, micros(began.elapsed()))
        };
        let mut state = shared.lock();
        state.running -= 1;
        state.jobs.remove(&job.key);
        drop(state);
        (job.answer)(FromWorkerFace::Ended { job: number, result, took_us });
    }
}

/// A panic below is a defect of ours or of the engine; it costs this call, not the process.
fn run(module: &Prepared, input: Vec<u8>, may: Allowance, cancelled: Arc<AtomicBool>) -> Ended {
    let call = std::panic::AssertUnwindSafe(|| module.call(input, may, cancelled));
    std::panic::catch_unwind(call)
        .unwrap_or_else(|_| Err((end::TRAPPED, "the Wasm engine failed; see the log".into())))
}

fn next(shared: &Shared) -> Option<(Job, Arc<AtomicBool>)> {
    let mut state = shared.lock();
    loop {
        if state.ended {
            return None;
        }
        if let Some(job) = state.queue.pop_front() {
            state.running += 1;
            if state.running == 1 {
                shared.tick.notify_one();
            }
            let cancelled = state.jobs.get(&job.key).cloned().unwrap_or_default();
            return Some((job, cancelled));
        }
        state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Moves the engine's epoch on while calls run; asleep otherwise, so that an idle worker costs nothing.
fn tick(shared: &Shared) {
    loop {
        let mut state = shared.lock();
        while state.running == 0 && !state.ended {
            state = shared.tick.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended && state.running == 0 {
            return;
        }
        drop(state);
        thread::sleep(TICK);
        shared.engine.increment_epoch();
    }
}
