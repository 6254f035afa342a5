//! Reading and writing the small files of a cgroup.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::fault::FileError;

/// Longest value of a limit: two numbers.
const VALUE_LEN_MAX: usize = 64;

/// Writes `value` to an existing file in one call, as the kernel wants it.
///
/// # Errors
/// Names the file.
pub fn write(path: &Path, value: impl AsRef<str>) -> Result<(), FileError> {
    open(path)?.write_all(value.as_ref().as_bytes()).map_err(FileError::at("write", path))
}

/// Writes `value` to an existing file and reads back what the kernel made of it.
///
/// # Errors
/// Names the file.
pub fn set(path: &Path, value: impl AsRef<str>) -> Result<String, FileError> {
    let mut file = File::options().read(true).write(true).open(path).map_err(FileError::at("open", path))?;
    file.write_all(value.as_ref().as_bytes()).map_err(FileError::at("write", path))?;
    let mut text = [0u8; VALUE_LEN_MAX];
    let len = file.read_at(&mut text, 0).map_err(FileError::at("read", path))?;
    Ok(String::from_utf8_lossy(&text[..len]).trim_end().to_owned())
}

/// Opens for writing without creating: in a cgroup a file that is not there is a feature that is not there.
///
/// # Errors
/// Names the file.
pub fn open(path: &Path) -> Result<File, FileError> {
    File::options().write(true).open(path).map_err(FileError::at("open", path))
}

/// Reads a file whole, without the final newline.
///
/// # Errors
/// Names the file.
pub fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map(|text| text.trim_end().to_owned()).map_err(FileError::at("read", path))
}

/// Reads a single number.
pub fn number(path: &Path) -> Option<u64> {
    read(path).ok()?.parse().ok()
}

/// Reads one field of a file of `name value` lines.
pub fn field(path: &Path, name: &str) -> Option<u64> {
    let text = read(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Process numbers in a `cgroup.procs` or `tasks` file.
pub fn pids(path: &Path) -> Vec<i32> {
    read(path).unwrap_or_default().lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Makes a directory and its parents up to and including `root`'s children; existing ones are fine.
///
/// # Errors
/// Names the directory.
pub fn make_dirs(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::at("create", path))
}

/// Removes one group directory; already gone is fine.
///
/// # Errors
/// Names the directory.
pub fn remove_dir(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::at("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// The groups below `root`, deepest first, and `root` itself last.
pub fn groups_below(root: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    collect(root, &mut found);
    found
}

fn collect(group: &Path, found: &mut Vec<std::path::PathBuf>) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
    found.push(group.to_owned());
}
