//! The file store as a directory on a disk: what it opens and what it refuses, several processes on it, and what survives.

mod damaged;
mod doctor;
mod faults;
#[cfg(target_os = "linux")]
mod full;
mod opening;
mod place;
