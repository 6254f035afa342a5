//! Which shared libraries a program needs, read from its ELF headers: what a face's view holds besides the
//! program itself. Follows the loader's default directories; a program that wants more is not one of ours.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::fault::FileError;

/// Where the loader of this architecture looks by default.
#[cfg(target_arch = "x86_64")]
const DIRECTORIES: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// Where the loader of this architecture looks by default.
#[cfg(target_arch = "aarch64")]
const DIRECTORIES: [&str; 6] =
    ["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// Most libraries followed: a program of ours needs about five.
const LIBRARIES_MAX: usize = 64;

/// Longest name of a library or interpreter.
const NAME_LEN_MAX: usize = 256;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

/// The loader and libraries that `program` needs, directly or not, by the path at which each must be found.
/// Empty for a static program. A library that is nowhere is left out: the loader will name it.
///
/// # Errors
/// If the program cannot be read.
pub fn needed(program: &Path) -> Result<Vec<PathBuf>, FileError> {
    let file = File::open(program).map_err(FileError::at("read", program))?;
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut open = wants(&|at, len| piece(&file, at, len)).unwrap_or_default();
    while let Some(name) = open.pop() {
        if found.contains_key(&name) || found.len() >= LIBRARIES_MAX {
            continue;
        }
        let Some(path) = find(&name) else { continue };
        if let Ok(file) = File::open(&path) {
            open.extend(wants(&|at, len| piece(&file, at, len)).unwrap_or_default());
            found.insert(name, path);
        }
    }
    Ok(found.into_values().collect())
}

fn find(name: &str) -> Option<PathBuf> {
    if name.starts_with('/') {
        return Some(name.into());
    }
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// Gives up to so many bytes of an ELF file from this offset on. A whole file may have hundreds of megabytes, of
/// which a few hundred bytes matter.
type Bytes<'a> = &'a dyn Fn(u64, usize) -> Option<Vec<u8>>;

fn piece(file: &File, at: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    let got = file.read_at(&mut bytes, at).ok()?;
    bytes.truncate(got);
    Some(bytes)
}

/// Interpreter and needed names of one ELF file; `None` if it is not a 64-bit little-endian one.
fn wants(elf: Bytes<'_>) -> Option<Vec<String>> {
    if elf(0, 6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let headers = segments(elf)?;
    let mut wanted = Vec::new();
    for segment in &headers {
        if segment.kind == PT_INTERP {
            wanted.push(text(elf, segment.offset)?);
        }
    }
    let Some(dynamic) = headers.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
        return Some(wanted);
    };
    let entries: Vec<(u64, u64)> = (0..dynamic.size / 16)
        .map_while(|i| {
            let at = dynamic.offset.checked_add(i.checked_mul(16)?)?;
            Some((number(elf, at, 8)?, number(elf, at.checked_add(8)?, 8)?))
        })
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let strings = entries.iter().find(|(tag, _)| *tag == DT_STRTAB).map(|(_, address)| *address)?;
    let load = headers.iter().find(|segment| {
        segment.kind == PT_LOAD
            && strings.checked_sub(segment.address).is_some_and(|into| into < segment.size)
    })?;
    let strings = load.offset.checked_add(strings - load.address)?;
    for (_, name) in entries.iter().filter(|(tag, _)| *tag == DT_NEEDED) {
        wanted.push(text(elf, strings.checked_add(*name)?)?);
    }
    Some(wanted)
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

fn segments(elf: Bytes<'_>) -> Option<Vec<Segment>> {
    let table = number(elf, 32, 8)?;
    let size = number(elf, 54, 2)?;
    (0..number(elf, 56, 2)?)
        .map(|index| {
            let at = table.checked_add(index.checked_mul(size)?)?;
            let field = |offset: u64, len| number(elf, at.checked_add(offset)?, len);
            Some(Segment {
                kind: u32::try_from(field(0, 4)?).ok()?,
                offset: field(8, 8)?,
                address: field(16, 8)?,
                size: field(32, 8)?,
            })
        })
        .collect()
}

fn number(elf: Bytes<'_>, at: u64, len: usize) -> Option<u64> {
    let field = elf(at, len).filter(|field| field.len() == len)?;
    Some(field.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

fn text(elf: Bytes<'_>, at: u64) -> Option<String> {
    let mut bytes = elf(at, NAME_LEN_MAX)?;
    bytes.truncate(bytes.iter().position(|byte| *byte == 0)?);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_test_program_needs_the_c_library_and_a_loader() {
        let libraries = needed(&std::env::current_exe().unwrap()).unwrap();
        let names = |part: &str| libraries.iter().any(|path| path.to_string_lossy().contains(part));
        assert!(names("libc.so") && names("/ld-linux"), "{libraries:?}");
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_not_fatal(tail: Vec<u8>) {
            let mut elf = b"\x7fELF\x02\x01".to_vec();
            elf.extend(tail);
            let _ = wants(&|at, len| {
                let rest = elf.get(usize::try_from(at).ok()?..)?;
                Some(rest[..len.min(rest.len())].to_vec())
            });
        }
    }
}
