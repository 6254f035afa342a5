//! A real `verge-host` under test, with the test in the place of `verge node`.

mod confine;
mod hostile;
mod lives;
mod rig;
mod rootless;
mod watch;
