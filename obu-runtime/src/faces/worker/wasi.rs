//! The part of WASI preview 1 that a command needs which turns standard input into standard output.
//!
//! Ours instead of a library's, because a function gets so little: three descriptors, a clock that starts
//! at zero, numbers that only look random. No wall clock and no true randomness: a `pure` function answers
//! the same wherever it runs. There are no files, sockets or sleep, so all that asks for them hears
//! "bad descriptor" or "not supported", and none of it reaches the kernel.

use std::time::Instant;

use policies::limits::{INLINE_LEN_MAX, REASON_LEN_MAX};
use policies::unit::Bytes;
use wasmtime::{Caller, FuncType, Linker, Memory, ResourceLimiter, Val};

/// The module name under which guests import all this.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";

/// Buffers in one read or write; what Linux allows (`IOV_MAX`). Bounds the work of one host call.
const IOVECS_MAX: u32 = 1024;

/// Bytes of one `random_get`. Bounds the work of one host call.
const RANDOM_LEN_MAX: u32 = 64 << 10;

/// Entries of one table: an interpreter has some ten thousand functions in it.
pub(super) const TABLE_LEN_MAX: usize = 100_000;

const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const FAULT: i32 = 21;
const INVAL: i32 = 28;
const NOSYS: i32 = 52;
const SPIPE: i32 = 70;

const STDIN: i32 = 0;
const STDOUT: i32 = 1;
const STDERR: i32 = 2;

/// Why a call is stopped from our side. Travels through the guest's frames as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stop {
    /// The guest called `proc_exit`.
    #[error("exit code {0}")]
    Exit(i32),
    /// More on standard output than a result may hold.
    #[error("wrote more than {INLINE_LEN_MAX} bytes to standard output")]
    Flooded,
    /// Whoever asked does not want it any more.
    #[error("cancelled")]
    Cancelled,
    /// The CPU time is used up.
    #[error("used up its CPU time budget")]
    OverBudget,
}

/// Why a host function did not do it.
enum Refused {
    /// The guest is told.
    Errno(i32),
    /// The call ends here.
    Stop(Stop),
}

/// Everything one call owns on our side.
pub(super) struct Call {
    input: Vec<u8>,
    read: usize,
    /// What went to standard output.
    pub(super) output: Vec<u8>,
    last_words: Vec<u8>,
    began: Instant,
    time_scale: u32,
    random: u64,
    memory_max: u64,
    /// Bytes that the guest asked for beyond its limit, if it did.
    pub(super) memory_refused: Option<u64>,
    /// The guest's memory, known once it is instantiated.
    pub(super) memory: Option<Memory>,
}

impl Call {
    /// The state of a call that has not begun. Its clock will run `time_scale` times slower than ours.
    pub(super) fn new(input: Vec<u8>, memory_max: Bytes, time_scale: u32) -> Self {
        Self {
            input,
            read: 0,
            output: Vec::new(),
            last_words: Vec::new(),
            began: Instant::now(),
            time_scale: time_scale.max(1),
            random: 0x7665_7267_6520_3031,
            memory_max: memory_max.get(),
            memory_refused: None,
            memory: None,
        }
    }

    /// The end of what went to standard error, fit for a log line. At most [`REASON_LEN_MAX`] bytes.
    pub(super) fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.last_words);
        let plain = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        let mut from = plain.len().saturating_sub(REASON_LEN_MAX);
        while !plain.is_char_boundary(from) {
            from += 1;
        }
        plain[from..].to_owned()
    }

    fn write(&mut self, fd: i32, bytes: &[u8]) -> Result<(), Refused> {
        match fd {
            STDOUT if self.output.len() + bytes.len() > INLINE_LEN_MAX => Err(Refused::Stop(Stop::Flooded)),
            STDOUT => {
                self.output.extend_from_slice(bytes);
                Ok(())
            }
            STDERR => {
                let tail = &bytes[bytes.len().saturating_sub(REASON_LEN_MAX)..];
                self.last_words.extend_from_slice(tail);
                let surplus = self.last_words.len().saturating_sub(REASON_LEN_MAX);
                self.last_words.drain(..surplus);
                Ok(())
            }
            _ => Err(Refused::Errno(BADF)),
        }
    }

    /// splitmix64: what a hash table's seed needs, and the same in every run.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl ResourceLimiter for Call {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = desired as u64 <= self.memory_max;
        if !granted {
            self.memory_refused = Some(desired as u64);
        }
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_LEN_MAX)
    }
}

/// The guest's memory with checked access; every failure is `FAULT`.
struct Guest<'a>(&'a mut [u8]);

impl Guest<'_> {
    fn at(&mut self, at: u32, len: u32) -> Result<&mut [u8], Refused> {
        let (at, len) = (at as usize, len as usize);
        let end = at.checked_add(len).ok_or(Refused::Errno(FAULT))?;
        self.0.get_mut(at..end).ok_or(Refused::Errno(FAULT))
    }

    fn put(&mut self, at: u32, bytes: &[u8]) -> Result<(), Refused> {
        let len = u32::try_from(bytes.len()).map_err(|_| Refused::Errno(FAULT))?;
        self.at(at, len)?.copy_from_slice(bytes);
        Ok(())
    }

    fn u32(&mut self, at: u32) -> Result<u32, Refused> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.at(at, 4)?);
        Ok(u32::from_le_bytes(bytes))
    }

    /// Place and length of the `i`th buffer of a list.
    fn iovec(&mut self, list: u32, i: u32) -> Result<(u32, u32), Refused> {
        let at = i.checked_mul(8).and_then(|o| list.checked_add(o)).ok_or(Refused::Errno(FAULT))?;
        let length_at = at.checked_add(4).ok_or(Refused::Errno(FAULT))?;
        Ok((self.u32(at)?, self.u32(length_at)?))
    }
}

/// Runs `work` on the guest's memory and turns its outcome into what the guest or the caller sees.
fn on_memory(
    mut caller: Caller<'_, Call>,
    work: impl FnOnce(&mut Guest<'_>, &mut Call) -> Result<(), Refused>,
) -> wasmtime::Result<i32> {
    let Some(memory) = caller.data().memory else { return Ok(FAULT) };
    let (bytes, call) = memory.data_and_store_mut(&mut caller);
    match work(&mut Guest(bytes), call) {
        Ok(()) => Ok(SUCCESS),
        Err(Refused::Errno(errno)) => Ok(errno),
        Err(Refused::Stop(stop)) => Err(wasmtime::Error::new(stop)),
    }
}

fn fd_write(guest: &mut Guest<'_>, call: &mut Call, fd: i32, list: u32, count: u32) -> Result<u32, Refused> {
    if count > IOVECS_MAX {
        return Err(Refused::Errno(INVAL));
    }
    let mut written = 0u32;
    for i in 0..count {
        let (at, len) = guest.iovec(list, i)?;
        call.write(fd, guest.at(at, len)?)?;
        written = written.saturating_add(len);
    }
    Ok(written)
}

fn fd_read(guest: &mut Guest<'_>, call: &mut Call, fd: i32, list: u32, count: u32) -> Result<u32, Refused> {
    if fd != STDIN {
        return Err(Refused::Errno(BADF));
    }
    if count > IOVECS_MAX {
        return Err(Refused::Errno(INVAL));
    }
    let before = call.read;
    for i in 0..count {
        let (at, len) = guest.iovec(list, i)?;
        let rest = &call.input[call.read..];
        let part = &rest[..rest.len().min(len as usize)];
        guest.at(at, len)?[..part.len()].copy_from_slice(part);
        call.read += part.len();
    }
    // An input is never as long as 4 GiB: it came in one message.
    Ok(u32::try_from(call.read - before).unwrap_or(u32::MAX))
}

/// Type "unknown", no flags, rights to read and write: enough for a C library to go on.
fn fdstat(fd: i32) -> Result<[u8; 24], Refused> {
    if !(STDIN..=STDERR).contains(&fd) {
        return Err(Refused::Errno(BADF));
    }
    const RIGHT_READ: u64 = 1 << 1;
    const RIGHT_WRITE: u64 = 1 << 6;
    let mut stat = [0; 24];
    stat[8..16].copy_from_slice(&(RIGHT_READ | RIGHT_WRITE).to_le_bytes());
    Ok(stat)
}

fn random_get(guest: &mut Guest<'_>, call: &mut Call, at: u32, len: u32) -> Result<(), Refused> {
    if len > RANDOM_LEN_MAX {
        return Err(Refused::Errno(INVAL));
    }
    for chunk in guest.at(at, len)?.chunks_mut(8) {
        let number = call.next_random().to_le_bytes();
        chunk.copy_from_slice(&number[..chunk.len()]);
    }
    Ok(())
}

/// Adds what we provide to `linker`.
///
/// # Errors
/// Only if a name is defined twice.
pub(super) fn add_to(linker: &mut Linker<Call>) -> wasmtime::Result<()> {
    type Guest<'a> = Caller<'a, Call>;
    linker.func_wrap(MODULE, "fd_write", |c: Guest<'_>, fd: i32, list: u32, count: u32, done: u32| {
        on_memory(c, |guest, call| {
            let written = fd_write(guest, call, fd, list, count)?;
            guest.put(done, &written.to_le_bytes())
        })
    })?;
    linker.func_wrap(MODULE, "fd_read", |c: Guest<'_>, fd: i32, list: u32, count: u32, done: u32| {
        on_memory(c, |guest, call| {
            let read = fd_read(guest, call, fd, list, count)?;
            guest.put(done, &read.to_le_bytes())
        })
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |c: Guest<'_>, fd: i32, at: u32| {
        on_memory(c, |guest, _| guest.put(at, &fdstat(fd)?))
    })?;
    linker.func_wrap(MODULE, "fd_seek", |fd: i32, _offset: i64, _whence: i32, _at: u32| -> i32 {
        if (STDIN..=STDERR).contains(&fd) { SPIPE } else { BADF }
    })?;
    linker.func_wrap(MODULE, "fd_close", |fd: i32| -> i32 {
        if (STDIN..=STDERR).contains(&fd) { SUCCESS } else { BADF }
    })?;
    for name in ["args_sizes_get", "environ_sizes_get"] {
        linker.func_wrap(MODULE, name, |c: Guest<'_>, count: u32, len: u32| {
            on_memory(c, |guest, _| {
                guest.put(count, &[0; 4])?;
                guest.put(len, &[0; 4])
            })
        })?;
    }
    for name in ["args_get", "environ_get"] {
        linker.func_wrap(MODULE, name, |_list: u32, _text: u32| -> i32 { SUCCESS })?;
    }
    add_clock_and_process(linker)
}

fn add_clock_and_process(linker: &mut Linker<Call>) -> wasmtime::Result<()> {
    type Guest<'a> = Caller<'a, Call>;
    linker.func_wrap(MODULE, "clock_time_get", |c: Guest<'_>, _id: u32, _precision: u64, at: u32| {
        on_memory(c, |guest, call| {
            let since =
                u64::try_from((call.began.elapsed() / call.time_scale).as_nanos()).unwrap_or(u64::MAX);
            guest.put(at, &since.to_le_bytes())
        })
    })?;
    linker.func_wrap(MODULE, "clock_res_get", |c: Guest<'_>, _id: u32, at: u32| {
        on_memory(c, |guest, _| guest.put(at, &1_000u64.to_le_bytes()))
    })?;
    linker.func_wrap(MODULE, "random_get", |c: Guest<'_>, at: u32, len: u32| {
        on_memory(c, |guest, call| random_get(guest, call, at, len))
    })?;
    linker.func_wrap(MODULE, "sched_yield", || -> i32 { SUCCESS })?;
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> {
        // As a process' parent sees it: eight bits. Negative codes are ours.
        Err(wasmtime::Error::new(Stop::Exit(code & 0xff)))
    })?;
    Ok(())
}

/// Names of preview 1 that we do not provide; a C library imports some of them although no one calls them.
#[rustfmt::skip]
const REFUSED: [&str; 31] = [
    "fd_advise", "fd_allocate", "fd_datasync", "fd_fdstat_set_flags", "fd_fdstat_set_rights",
    "fd_filestat_get", "fd_filestat_set_size", "fd_filestat_set_times", "fd_pread", "fd_prestat_get",
    "fd_prestat_dir_name", "fd_pwrite", "fd_readdir", "fd_renumber", "fd_sync", "fd_tell",
    "path_create_directory", "path_filestat_get", "path_filestat_set_times", "path_link", "path_open",
    "path_readlink", "path_remove_directory", "path_rename", "path_symlink", "path_unlink_file",
    "sock_accept", "sock_recv", "sock_send", "sock_shutdown", "poll_oneoff",
];

/// Gives a refusal for an import that preview 1 knows and we do not provide. `false` if it knows none
/// of that name and shape.
///
/// # Errors
/// Only if the linker does not take it.
pub(super) fn add_refusal(linker: &mut Linker<Call>, name: &str, shape: &FuncType) -> wasmtime::Result<bool> {
    let one_number = shape.results().len() == 1 && shape.results().all(|kind| kind.is_i32());
    if !REFUSED.contains(&name) || !one_number {
        return Ok(false);
    }
    let errno = if name == "poll_oneoff" { NOSYS } else { BADF };
    linker.func_new(MODULE, name, shape.clone(), move |_, _, results| {
        results.fill(Val::I32(errno));
        Ok(())
    })?;
    Ok(true)
}
