//! Disks that are full, or cannot be written.

use std::{fs, io::Write, path::Path, process::Command};

/// A small disk, as long as this lives.
pub(crate) struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    /// `None` where that is not allowed.
    pub(crate) fn new(at: &'a Path, size: &str) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(at).output();
        let mounted = mount.is_ok_and(|output| output.status.success()).then_some(Self(at));
        needs::is_met(mounted.is_some(), "this user may not mount a small disk");
        mounted
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Busy until the store is gone, which lets go of its files when its thread ends.
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

pub(crate) fn remount(at: &Path, options: &str) {
    let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(at).status();
    assert!(status.unwrap().success());
}

/// Takes all the room there is.
pub(crate) fn fill(file: &Path) {
    let mut file = fs::File::create(file).unwrap();
    for size in [64 << 10, 4 << 10, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
}
