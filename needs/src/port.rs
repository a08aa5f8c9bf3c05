use std::{
    env,
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io,
    net::TcpListener,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A port of 127.0.0.1 that nothing listens on, for a server that a test starts, or for none.
///
/// A port that the system chose and that is let go of again is a trap: any other program may get it next, as its own
/// port or as that of a connection. This one is out of the system's range, and no other test gets it while this lives,
/// so that a server can be stopped and started again.
#[derive(Debug)]
pub struct Port {
    number: u16,
    lock: File,
    path: PathBuf,
}

impl Port {
    /// Takes one.
    pub fn take() -> io::Result<Self> {
        let directory = env::temp_dir().join("cloakroom-test-ports");
        make_directory(&directory)?;
        let end = first_of_the_systems();
        let count = end - FIRST;
        let start = u16::try_from(RandomState::new().hash_one(0) % u64::from(count)).expect("it is below the count");
        let mut candidates = (0..count).map(|n| {
            FIRST + u16::try_from((u32::from(start) + u32::from(n)) % u32::from(count)).expect("it is below the count")
        });
        candidates
            .find_map(|number| Self::try_to_take(number, &directory))
            .ok_or_else(|| io::Error::other(format!("no port of 127.0.0.1 between {FIRST} and {end} is free")))
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn try_to_take(number: u16, directory: &Path) -> Option<Self> {
        let path = directory.join(number.to_string());
        let lock = File::create(&path).ok()?;
        lock.try_lock().ok()?;
        // It may have been removed since it was opened, and another one be in its place.
        let is_there = fs::metadata(&path).is_ok_and(|there| lock.metadata().is_ok_and(|own| own.ino() == there.ino()));
        let is_free = is_there && TcpListener::bind(("127.0.0.1", number)).is_ok();
        is_free.then_some(Self { number, lock, path })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = self.lock.unlock();
    }
}

const FIRST: u16 = 10_000;

/// Where the ports begin that the system gives to connections and to listeners that do not choose.
fn first_of_the_systems() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok());
    // A range that leaves nothing is shared.
    first.filter(|first| *first > FIRST + 1000).unwrap_or(32_768)
}

/// All users of the machine share it.
fn make_directory(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match fs::create_dir(directory) {
        Ok(()) => fs::set_permissions(directory, fs::Permissions::from_mode(0o1777)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_differ_while_they_live_and_can_be_listened_on() {
        let ports: Vec<_> = (0..200).map(|_| Port::take().unwrap()).collect();
        assert_eq!(ports.iter().map(Port::number).collect::<HashSet<_>>().len(), 200);
        for port in &ports {
            assert!(port.number() < first_of_the_systems());
            TcpListener::bind(("127.0.0.1", port.number())).unwrap();
        }
    }

    #[test]
    fn a_port_in_use_is_not_taken_and_one_let_go_of_is_taken_again() {
        let directory = env::temp_dir().join("cloakroom-test-ports");
        let port = Port::take().unwrap();
        let number = port.number();
        assert!(Port::try_to_take(number, &directory).is_none());
        drop(port);
        let listener = TcpListener::bind(("127.0.0.1", number)).unwrap();
        assert!(Port::try_to_take(number, &directory).is_none());
        drop(listener);
        assert!(Port::try_to_take(number, &directory).is_some());
    }
}
