//! Stores on this machine whose disk is full or cannot be written, and stores that go away while a server has them open.

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use http::Method;

use crate::common::{
    Answer, agent,
    binary::{Directory, Done, Running},
    send,
};

const STORES: [&str; 2] = ["file:disk/sessions", "sqlite:disk/sessions.db"];

fn place(directory: &Directory, store: &str) -> PathBuf {
    directory.path(store.split_once(':').unwrap().1)
}

const KEY: &str = "a-key-of-the-tests-and-of-nothing-else";

fn serve(directory: &Directory, arguments: &[&str]) -> Running {
    directory.serve_with(arguments, &[("CLOAKROOM_API_KEY", KEY)])
}

fn call(server: &Running, method: Method, path: &str, body: &str) -> Answer {
    send(&agent(), &format!("{}{path}", server.url), Some(KEY), method, body)
}

fn start(server: &Running, user: &str) -> (String, String) {
    let answer = call(server, Method::POST, "/v1/sessions", &format!(r#"{{"user":"{user}"}}"#)).expect(201);
    (answer.text_of("/session/id"), answer.text_of("/token"))
}

fn resume(server: &Running, token: &str) -> Answer {
    call(server, Method::POST, "/v1/sessions/resume", &format!(r#"{{"token":"{token}"}}"#))
}

fn ready(server: &Running) -> Answer {
    call(server, Method::GET, "/readyz", "")
}

#[test]
fn i13_a_store_that_goes_away_or_is_replaced_is_503_and_nobody_is_signed_out() {
    for store in STORES {
        let directory = Directory::new();
        fs::create_dir(directory.path("disk")).unwrap();
        let server = serve(&directory, &["--store", store]);
        let (id, token) = start(&server, "anna");
        resume(&server, &token).expect(200);
        let (place, kept) = (place(&directory, store), directory.path("kept"));
        fs::rename(&place, &kept).unwrap();
        let refuses_everything = || {
            resume(&server, &token).expect(503);
            call(&server, Method::GET, &format!("/v1/sessions/{id}"), "").expect(503);
            call(&server, Method::DELETE, &format!("/v1/sessions/{id}"), "").expect(503);
            call(&server, Method::POST, "/v1/sessions", r#"{"user":"ben"}"#).expect(503);
            call(&server, Method::GET, "/v1/sessions?user=anna", "").expect(503);
            let told = ready(&server).expect(503);
            assert!(told.text.contains("deleted or replaced"), "{told:?}");
        };
        refuses_everything();
        assert!(!place.exists());

        let copied = Command::new("cp").arg("-a").arg(&kept).arg(&place).status().unwrap();
        assert!(copied.success());
        refuses_everything();

        // It is there again.
        fs::remove_dir_all(&place).or_else(|_| fs::remove_file(&place)).unwrap();
        fs::rename(&kept, &place).unwrap();
        resume(&server, &token).expect(200);
        ready(&server).expect(200);
    }
}

#[test]
fn on_a_full_disk_a_server_is_not_ready_and_people_are_signed_out() {
    for store in STORES {
        let directory = Directory::new();
        let Some(disk) = Disk::mount(&directory, "8m") else { return };
        let server = serve(&directory, &["--store", store]);
        let ((anna, _), (_, token)) = (start(&server, "anna"), start(&server, "ben"));
        ready(&server).expect(200);
        disk.fill();
        let told = ready(&server).expect(503);
        assert!(told.text.contains("the disk is full"), "{told:?}");
        resume(&server, &token).expect(200);
        call(&server, Method::DELETE, &format!("/v1/sessions/{anna}"), "").expect(200);
        call(&server, Method::PATCH, "/v1/users/ben", r#"{"enabled":false}"#).expect(200);
        resume(&server, &token).expect(410);
        disk.empty();
        ready(&server).expect(200);
        assert_eq!(server.terminate(), Some(0));
    }
}

#[test]
fn what_cannot_be_written_is_served_read_only_and_looked_at() {
    for store in STORES {
        let directory = Directory::new();
        let Some(disk) = Disk::mount(&directory, "8m") else { return };
        let server = serve(&directory, &["--store", store]);
        let (id, token) = start(&server, "anna");
        assert_eq!(server.terminate(), Some(0));
        disk.remount("ro");

        let server = serve(&directory, &["--store", store, "--read-only"]);
        ready(&server).expect(200);
        resume(&server, &token).expect(200);
        call(&server, Method::DELETE, &format!("/v1/sessions/{id}"), "").expect_problem(503, "read_only");
        assert_eq!(server.terminate(), Some(0));

        let listed = directory.run(&["list", "--store", store]).expect(0);
        assert!(listed.out.contains("anna"), "{listed:?}");
        // One that is to write says why it does not.
        let server = serve(&directory, &["--store", store]);
        let told = ready(&server).expect(503);
        assert!(told.text.contains("cannot be written") || told.text.contains("read-only"), "{told:?}");
    }
}

#[test]
fn an_account_that_may_only_read_a_store_looks_at_it_and_makes_no_file() {
    let directory = Directory::new();
    let nobody = |arguments: &[&str]| {
        let mut command = directory.command(arguments);
        Done::of(command.uid(65_534).output().unwrap())
    };
    let open_to_all = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open_to_all(&directory.path("."), 0o755);
    let is_root = rustix::process::geteuid().is_root();
    let reaches = is_root && nobody(&["--version"]).code == 0;
    if !needs::is_met(
        reaches,
        "only root can run the binary as another account, and where it lies others must reach it",
    ) {
        return;
    }
    fs::create_dir(directory.path("disk")).unwrap();
    for store in STORES {
        directory.run(&["start", "--user", "anna", "--store", store]).expect(0);
    }
    let all = || {
        let found = Command::new("find").arg(directory.path("disk")).output().unwrap().stdout;
        let mut found: Vec<_> = String::from_utf8(found).unwrap().lines().map(PathBuf::from).collect();
        found.sort_unstable();
        found
    };
    let before = all();
    for path in &before {
        open_to_all(path, if path.is_dir() { 0o755 } else { 0o644 });
    }
    for store in STORES {
        let listed = nobody(&["list", "--store", store]).expect(0);
        assert!(listed.out.contains("anna"), "{listed:?}");
        let refused = nobody(&["revoke", "--user", "anna", "--store", store]);
        assert_ne!(refused.code, 0, "{refused:?}");
        directory.run(&["list", "--store", store]).expect(0);
    }
    assert_eq!(all(), before);
}

/// A small disk at `disk`, as long as this lives.
struct Disk(PathBuf);

impl Disk {
    fn mount(directory: &Directory, size: &str) -> Option<Self> {
        let at = directory.path("disk");
        fs::create_dir(&at).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&at).output();
        let mounted = mount.is_ok_and(|output| output.status.success()).then_some(Self(at));
        needs::is_met(mounted.is_some(), "this user may not mount a small disk");
        mounted
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status();
        assert!(status.unwrap().success());
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        for size in [64 << 10, 4 << 10, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Busy until the server is gone.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
