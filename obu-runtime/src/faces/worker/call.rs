//! One module made ready, and one call of it: a fresh store each time, stopped from outside if need be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use policies::limits::REASON_LEN_MAX;
use policies::unit::Bytes;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::{
    Config, Engine, ExternType, InstanceAllocationStrategy, InstancePre, Linker, Module,
    PoolingAllocationConfig, Store, Trap, UpdateDeadline,
};

use super::wasi::{self, Call, Stop};

/// Ends of a call that are not the guest's own exit code (which is 0 to 255).
pub mod end {
    /// It trapped: a panic, an access out of bounds, a stack too deep.
    pub const TRAPPED: i32 = -1;
    /// Its CPU time budget was used up.
    pub const OVER_BUDGET: i32 = -2;
    /// It was cancelled.
    pub const CANCELLED: i32 = -3;
    /// It wanted more memory than its limit and failed for it.
    pub const OUT_OF_MEMORY: i32 = -4;
    /// It wrote more than a result may hold.
    pub const FLOODED: i32 = -5;
    /// It was not started: the module is not loaded, or the queue is full.
    pub const NOT_STARTED: i32 = -6;
}

/// How a call ended: standard output, or a code and a reason.
pub(super) type Ended = Result<Vec<u8>, (i32, String)>;

/// Imports of one module. A C library's are about forty.
const IMPORTS_MAX: usize = 256;

/// Largest linear memory: all that 32-bit Wasm can address. Address space only; the limit is per call.
const POOL_MEMORY_MAX: usize = 1 << 32;

/// Makes the engine for `parallel` calls at a time.
///
/// # Errors
/// If the machine does not give the address space, or forbids executable memory.
pub(super) fn engine(parallel: usize) -> wasmtime::Result<Engine> {
    let slots = u32::try_from(parallel).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_core_instances(slots)
        .total_memories(slots)
        .total_tables(slots)
        .table_elements(wasi::TABLE_LEN_MAX)
        .max_memory_size(POOL_MEMORY_MAX)
        .linear_memory_keep_resident(64 << 10)
        .max_unused_warm_slots(slots);
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        // Its results may differ between processors; a task's must not.
        .wasm_relaxed_simd(false);
    Engine::new(&config)
}

/// What one call may use, on this computer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// CPU time.
    pub(super) cpu: Duration,
    /// How many times slower than real time its clock runs.
    pub(super) time_scale: u32,
}

/// A compiled module whose imports are all met.
#[derive(Clone)]
pub(super) struct Prepared {
    code: InstancePre<Call>,
    memory: Bytes,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Prepared {
    /// Compiles `wasm`; each call of it may have `memory`. Takes milliseconds to seconds of CPU time.
    ///
    /// # Errors
    /// What is wrong with the module, in words for its author.
    pub(super) fn new(engine: &Engine, wasm: &[u8], memory: Bytes) -> Result<Self, String> {
        let module = Module::from_binary(engine, wasm).map_err(|e| shorten(format!("{e:#}")))?;
        check_shape(&module, memory)?;
        let mut linker = Linker::new(engine);
        linker.allow_shadowing(true);
        wasi::add_to(&mut linker).map_err(|e| shorten(format!("{e:#}")))?;
        for import in module.imports() {
            let (from, name) = (import.module(), import.name());
            let nobody = || shorten(format!("it imports {from}.{name}, which no function is given"));
            if from != wasi::MODULE {
                return Err(nobody());
            }
            if let ExternType::Func(shape) = import.ty() {
                wasi::add_refusal(&mut linker, name, &shape).map_err(|e| shorten(format!("{e:#}")))?;
            }
        }
        let code = linker.instantiate_pre(&module).map_err(|e| shorten(format!("{e:#}")))?;
        Ok(Self { code, memory })
    }

    /// The same code with another limit.
    pub(super) fn with_memory(&self, memory: Bytes) -> Self {
        Self { code: self.code.clone(), memory }
    }

    /// Calls it once on this thread. `cancelled` is looked at with every tick of the engine's epoch.
    pub(super) fn call(&self, input: Vec<u8>, may: Allowance, cancelled: Arc<AtomicBool>) -> Ended {
        let call = Call::new(input, self.memory, may.time_scale);
        let mut store = Store::new(self.code.module().engine(), call);
        store.limiter(|call| call);
        store.set_epoch_deadline(1);
        let began = cpu_time();
        store.epoch_deadline_callback(move |_| {
            if cancelled.load(Ordering::Relaxed) {
                return Err(wasmtime::Error::new(Stop::Cancelled));
            }
            if cpu_time().saturating_sub(began) > may.cpu {
                return Err(wasmtime::Error::new(Stop::OverBudget));
            }
            Ok(UpdateDeadline::Continue(1))
        });
        let result = self.enter(&mut store);
        self.judge(result, store.into_data())
    }

    fn enter(&self, store: &mut Store<Call>) -> wasmtime::Result<()> {
        let instance = self.code.instantiate(&mut *store)?;
        store.data_mut().memory = instance.get_memory(&mut *store, "memory");
        instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call(store, ())
    }

    fn judge(&self, result: wasmtime::Result<()>, call: Call) -> Ended {
        let Err(error) = result else { return Ok(call.output) };
        let words = call.last_words();
        let with_words = |why: String| {
            shorten(if words.is_empty() { why } else { format!("{why}; its last words: {words}") })
        };
        match error.downcast_ref::<Stop>() {
            Some(Stop::Exit(0)) => return Ok(call.output),
            Some(stop @ Stop::Flooded) => return Err((end::FLOODED, stop.to_string())),
            Some(stop @ Stop::Cancelled) => return Err((end::CANCELLED, stop.to_string())),
            Some(stop @ Stop::OverBudget) => return Err((end::OVER_BUDGET, with_words(stop.to_string()))),
            Some(Stop::Exit(_)) | None => {}
        }
        if let Some(wanted) = call.memory_refused {
            let why = format!("it wanted {wanted} bytes of memory, its limit is {}", self.memory);
            return Err((end::OUT_OF_MEMORY, with_words(why)));
        }
        match error.downcast_ref::<Stop>() {
            Some(Stop::Exit(code)) => Err((*code, words)),
            _ => Err((end::TRAPPED, with_words(trap_text(&error)))),
        }
    }
}

fn trap_text(error: &wasmtime::Error) -> String {
    // The error's own text is a backtrace of many lines; the trap's is one.
    error.downcast_ref::<Trap>().map_or_else(|| error.root_cause().to_string(), Trap::to_string)
}

fn check_shape(module: &Module, memory: Bytes) -> Result<(), String> {
    let imports = module.imports().len();
    if imports > IMPORTS_MAX {
        return Err(format!("it has {imports} imports, the maximum is {IMPORTS_MAX}"));
    }
    match module.get_export("_start") {
        Some(ExternType::Func(start)) if start.params().len() + start.results().len() == 0 => {}
        _ => return Err("it is not a WASI command: it exports no function _start without parameters".into()),
    }
    let pages = module.resources_required().max_initial_memory_size.unwrap_or(0);
    let least = pages.saturating_mul(64 << 10);
    if least > memory.get() {
        return Err(format!("it needs {least} bytes of memory to start with, its limit is {memory}"));
    }
    Ok(())
}

/// CPU time of this thread: what a budget is counted in, so that a busy machine does not use it up.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

/// Cuts a text to the length of a reason.
pub(super) fn shorten(mut text: String) -> String {
    let mut end = text.len().min(REASON_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
