//! The file store as a directory on a disk: what it opens and what it refuses, several processes on it, and what survives.

mod doctor;
mod faults;
mod opening;
mod place;
