//! Giving up rights for good: capabilities, new privileges, and writing anywhere but where it is meant.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Highest capability number there is room for in the kernel's interface.
const CAPABILITIES: u32 = 64;

/// The newest Landlock whose rights we name. Older kernels enforce what they know of it.
const NEWEST: ABI = ABI::V6;

/// Drops every capability but those in `keep`, and the possibility to gain any by exec.
///
/// # Errors
/// The kernel's.
pub fn give_up_rights(keep: CapabilitySet) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    rustix::thread::clear_ambient_capability_set()?;
    for number in 0..CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // EPERM: without the right to change the set; no_new_privs then keeps it from mattering.
            Ok(()) | Err(rustix::io::Errno::PERM) => {}
            Err(rustix::io::Errno::INVAL) => break, // beyond the kernel's last one
            Err(error) => return Err(error.into()),
        }
    }
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}

/// A second fence behind mounts and modes: reading below `readable`, writing below `writable`, nothing else; no
/// signals out of the sandbox. Best effort: a kernel without Landlock has the other fences.
pub fn restrict_files(readable: &[&Path], writable: &[PathBuf]) {
    let restrict = || -> Result<(), landlock::RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .scope(Scope::Signal)?
            .create()?;
        let read = readable.iter().map(|path| (*path, AccessFs::from_read(NEWEST)));
        let write = writable.iter().map(|path| (path.as_path(), AccessFs::from_all(NEWEST)));
        for (path, access) in read.chain(write) {
            if let Ok(place) = PathFd::new(path) {
                rules = rules.add_rule(PathBeneath::new(place, access))?;
            }
        }
        rules.restrict_self().map(drop)
    };
    // An error here means a kernel with a Landlock that we do not understand: the same as one without.
    let _ = restrict();
}
