//! Settings and arguments, as people write them.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    process::Stdio,
};

use crate::common::binary::{Directory, Done};
use http::Method;
use needs::Port;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn mistakes_are_told_with_their_line_before_anything_is_bound_or_made() {
    let directory = Directory::new();
    // Were it bound first, the port would be what is told.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("listen = '{}'\n", taken.local_addr().unwrap());
    for (line, told) in [
        ("idel = '1h'", "line 2, column 1: unknown field `idel`"),
        ("idle = 'soon'", "line 2, column 8"),
        ("absolute = '1 day'", "line 2, column 12"),
        ("trusted_proxies = 'everything'", "line 2"),
        ("log = 'cloakroom=loud'", "line 2"),
        ("assurance = 'aal2'\nidle = '2h'", "idle: cloakroom.toml, line 3"),
        ("cookie_name = 'a b'", "cookie_name: cloakroom.toml, line 2"),
        ("country_database = 'none.mmdb'", "country_database: cloakroom.toml, line 2"),
        ("store = 'postgres://db/x'", "no API key is configured"),
        ("[[keys]]\nname = 'shop'\nscope = 'root'\nsha256 = ''", "line 4"),
        ("api_key_file = 'none'", "none cannot be read"),
        ("record_mac_keys = 'none'", "none cannot be read"),
        ("encryption_keys = 'none'", "none cannot be read"),
    ] {
        fs::write(directory.path("cloakroom.toml"), format!("{listen}{line}\n")).unwrap();
        let refused = directory.run(&["serve"]).expect(2);
        assert!(refused.err.contains(told), "{line}: {refused:?}");
        assert_eq!(directory.files().len(), 1, "nothing is made");
    }
    fs::write(directory.path("cloakroom.toml"), &listen).unwrap();
    directory.run(&["serve"]).expect(5);
}

#[test]
fn variables_that_are_empty_count_as_unset() {
    let directory = Directory::new();
    let names = [
        "LISTEN",
        "STORE",
        "IDLE",
        "SESSION_LIMIT",
        "API_KEY",
        "API_KEY_FILE",
        "CONFIG",
        "TRUSTED_PROXIES",
        "SERVER",
        "LOG",
    ];
    let empty: Vec<_> = names.iter().map(|name| (format!("CLOAKROOM_{name}"), "")).collect();
    let empty: Vec<_> = empty.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let server = directory.serve_with(&[], &empty);
    assert!(server.ready.ends_with("store sqlite:cloakroom.db\n"), "{}", server.ready);
    let mut list = directory.command(&["list", "--server", &server.url]);
    Done::of(list.envs(empty.iter().copied()).output().unwrap()).expect(0);
    let mut doctor = directory.command(&["doctor"]);
    Done::of(doctor.envs(empty.iter().copied()).output().unwrap()).expect(0);
}

#[test]
fn the_server_before_a_store_in_the_environment_and_arguments_before_both() {
    let directory = Directory::new();
    for (store, user) in [("sqlite:a.db", "anna"), ("sqlite:b.db", "ben")] {
        directory.run(&["start", "--user", user, "--store", store]).expect(0);
    }
    let server = directory.serve(&["--store", "sqlite:a.db"]);
    let list = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = directory.command(&[&["list"], arguments].concat());
        Done::of(command.envs(environment.iter().copied()).output().unwrap())
    };
    let (store, at) = (("CLOAKROOM_STORE", "sqlite:b.db"), ("CLOAKROOM_SERVER", server.url.as_str()));
    assert!(list(&[], &[store]).expect(0).out.contains("ben"));
    assert!(list(&[], &[store, at]).expect(0).out.contains("anna"));
    assert!(list(&["--store", "sqlite:b.db"], &[at]).expect(0).out.contains("ben"));
    assert!(list(&["--server", &server.url], &[store]).expect(0).out.contains("anna"));
    list(&["--server", &server.url, "--store", "sqlite:b.db"], &[]).expect(2);
    // A server keeps memory: to itself, so that its command line asks it.
    assert!(list(&[], &[("CLOAKROOM_STORE", "memory:"), at]).expect(0).out.contains("anna"));

    fs::write(directory.path("address"), "sqlite:b.db\n").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        let mode = |mode| fs::set_permissions(directory.path("address"), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(list(&["--store", "@address"], &[]).expect(2).err.contains("chmod 600 address"));
        directory.write_private("address", "sqlite:b.db\n");
    }
    assert!(list(&["--store", "@address"], &[]).expect(0).out.contains("ben"));
}

#[test]
fn a_proxy_of_the_environment_is_not_asked_for_this_machine() {
    let directory = Directory::new();
    let server = directory.serve(&[]);
    // A port that refuses.
    let closed = Port::take().unwrap();
    let proxy = format!("http://127.0.0.1:{}", closed.number());
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        let mut list = directory.command(&["list", "--server", &server.url]);
        Done::of(list.env(name, &proxy).output().unwrap()).expect(0);
    }
}

#[test]
fn it_listens_on_a_port_or_a_name() {
    let directory = Directory::new();
    for listen in ["0", "localhost:0", "127.0.0.1:0"] {
        let mut command = directory.command(&["serve", "--store", "memory:", "--listen", listen]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ready.starts_with("cloakroom ready on http://127.0.0.1:"), "{listen}: {ready:?}");
    }
}

#[test]
fn spans_of_time_are_written_in_one_way_everywhere() {
    let directory = Directory::new();
    let run = |arguments: &[&str]| directory.run(&[arguments, &["--store", "sqlite:cloakroom.db"][..]].concat());
    for (text, seconds) in [("90m", 5400), ("1h30m", 5400), ("1:30", 5400), ("0:00:90", 0), ("90", 0)] {
        let started = run(&["start", "--idle", text, "--json"]);
        if seconds == 0 {
            assert!(started.expect(2).err.contains("1h30m"), "{text}");
        } else {
            assert_eq!(json(&started.expect(0).out)["session"]["idle_seconds"], seconds, "{text}");
        }
    }
    assert!(run(&["revoke", "--idle-longer-than", "2d", "--dry-run"]).expect(0).out.ends_with("0 would end\n"));
    assert!(run(&["revoke", "--idle-longer-than", "86400", "--dry-run"]).expect(2).err.contains("unit"));
    assert_eq!(run(&["audit", "--since", "1h"]).expect(0).out.lines().count(), 3);
    assert_eq!(run(&["audit", "--until", "1h"]).expect(0).out.lines().count(), 0);
    assert_eq!(run(&["audit", "--since", "2001-01-31"]).expect(0).out.lines().count(), 3);
    assert!(run(&["audit", "--since", "yesterday"]).expect(2).err.contains("2030-01-31"));
}

#[test]
fn the_audit_log_begins_with_the_latest_and_is_exported_whole() {
    let directory = Directory::new();
    let run = |arguments: &[&str]| directory.run(&[arguments, &["--store", "sqlite:cloakroom.db"][..]].concat());
    let users: Vec<_> = (0..60).map(|n| format!("user{n:02}")).collect();
    let server = directory.serve(&[]);
    for user in &users {
        server.call(Method::POST, "/v1/sessions", &serde_json::json!({ "user": user }).to_string()).expect(201);
    }
    assert_eq!(server.terminate(), Some(0));
    let latest = run(&["audit"]).expect(0);
    assert_eq!(latest.out.lines().count(), 50);
    assert!(latest.out.lines().next().unwrap().contains("  user59"), "{}", latest.out);
    assert!(latest.err.contains("--all"), "{}", latest.err);
    let all = run(&["audit", "--all"]).expect(0);
    assert_eq!((all.out.lines().count(), all.err.as_str()), (60, ""));
    assert!(all.out.lines().next().unwrap().contains("  user00"));
    assert_eq!(run(&["audit", "--limit", "3", "--json"]).expect(0).out.lines().count(), 3);
    run(&["revoke", "--user", "user07"]).expect(0);
    let ended = run(&["audit", "--event", "ended"]).expect(0).out;
    assert!(ended.lines().count() == 1 && ended.contains("user07"), "{ended}");
    assert!(run(&["audit", "--event", "exploded"]).expect(2).err.contains("exploded"));
}

#[test]
fn a_network_is_added_to_those_that_are_there_or_removed() {
    let directory = Directory::new();
    let run = |arguments: &[&str]| {
        directory.run(&[&["users", "set", "anna"], arguments, &["--store", "sqlite:cloakroom.db"]].concat())
    };
    let networks = |arguments: &[&str]| {
        let out = run(arguments).expect(0).out;
        out.lines().find_map(|line| line.strip_prefix("allowed networks  ")).unwrap().to_owned()
    };
    assert_eq!(networks(&["--network", "10.0.0.0/8"]), "10.0.0.0/8");
    assert_eq!(networks(&["--network", "192.0.2.1"]), "10.0.0.0/8, 192.0.2.1");
    assert_eq!(networks(&["--network", "10.0.0.0/8"]), "10.0.0.0/8, 192.0.2.1");
    assert_eq!(networks(&["--remove-network", "10.0.0.0/8"]), "192.0.2.1");
    // The last one is not taken away in passing: none would mean everywhere.
    assert!(run(&["--remove-network", "192.0.2.1"]).expect(1).err.contains("--anywhere"));
    assert!(run(&["--remove-network", "203.0.113.1"]).expect(1).err.contains("203.0.113.1"));
    assert_eq!(networks(&["--remove-network", "192.0.2.1", "--network", "::1"]), "::1");
    assert_eq!(networks(&["--anywhere"]), "anywhere");
}

#[test]
fn watching_goes_on_behind_the_last_entry_when_the_server_is_back() {
    let directory = Directory::new();
    let port = Port::take().unwrap();
    let address = format!("127.0.0.1:{}", port.number());
    let server = directory.serve_at(&address);
    let mut watch = directory.command(&["watch", "--server", &server.url]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(watch.stderr.take().unwrap()).lines();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let start = |user: &str| {
        directory.run(&["start", "--user", user, "--store", "sqlite:cloakroom.db"]).expect(0);
    };
    // It begins with what comes from now on, which may be a moment from now.
    let mut users = (0..).map(|n| format!("before{n}"));
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| lines.next().unwrap().unwrap());
        while !first.is_finished() {
            start(&users.next().unwrap());
        }
        first.join().unwrap()
    });
    assert!(first.contains("before"), "{first}");
    assert_eq!(server.terminate(), Some(0));
    let interrupted = told.next().unwrap().unwrap();
    assert!(interrupted.contains("trying again"), "{interrupted}");
    start("meanwhile");
    let _server = directory.serve_at(&address);
    assert!(told.next().unwrap().unwrap().contains("back"));
    assert!(lines.any(|line| line.unwrap().contains("meanwhile")));
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn the_version_names_the_commit_and_pages_are_made_for_shells_and_man() {
    let directory = Directory::new();
    let version = directory.run(&["--version"]).expect(0).out;
    let rest = version.trim().strip_prefix(concat!("cloakroom ", env!("CARGO_PKG_VERSION"))).unwrap();
    // From a source package no commit is known.
    let commit = rest.strip_prefix(" (").and_then(|rest| rest.strip_suffix(')'));
    assert!(rest.is_empty() || commit.is_some_and(|id| id.bytes().all(|digit| digit.is_ascii_hexdigit())), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        let script = directory.run(&["completions", shell]).expect(0).out;
        assert!(script.contains("stop-impersonating") && script.contains("cloakroom"), "{shell}");
    }
    assert!(directory.run(&["man"]).expect(0).out.contains(".TH cloakroom 1"));
    directory.run(&["man", "--directory", "pages"]).expect(0);
    for page in ["cloakroom.1", "cloakroom-revoke.1", "cloakroom-users-set.1"] {
        assert!(directory.path("pages").join(page).exists(), "{page}");
    }
}

/// Keys for records come from private files, and change without signing anybody out.
#[test]
fn s3_t10_records_are_sealed_with_keys_from_private_files_that_can_be_changed() {
    let directory = Directory::new();
    let (old, new) = ("0a".repeat(32), "0b".repeat(32));
    for setting in ["--record-mac-keys", "--encryption-keys"] {
        let database = format!("sqlite:{}.db", &setting[2..]);
        let arguments = ["--store", &database, setting, "keys"];
        directory.write_private("keys", &format!("# since autumn\n{old}\n"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;

            let mode = |mode| fs::set_permissions(directory.path("keys"), fs::Permissions::from_mode(mode)).unwrap();
            mode(0o644);
            let refused = directory.run(&[&["serve", "--listen", "127.0.0.1:0"], &arguments[..]].concat()).expect(2);
            assert!(refused.err.contains("chmod 600 keys"), "{refused:?}");
            mode(0o600);
        }
        let server = directory.serve(&arguments);
        let body = r#"{"user":"anna","data":{"card":"four-one-one-one"}}"#;
        let started = server.call(Method::POST, "/v1/sessions", body).expect(201);
        let (path, resume) = (
            format!("/v1/sessions/{}", started.text_of("/session/id")),
            format!(r#"{{"token":"{}"}}"#, started.text_of("/token")),
        );
        server.terminate();
        let bytes = fs::read(directory.path(&database[7..])).unwrap();
        let readable = bytes.windows(16).any(|window| window == b"four-one-one-one");
        assert_eq!(readable, setting == "--record-mac-keys", "{setting}");

        for (ring, is_there) in [(format!("{new}\n{old}"), true), (new.clone(), false)] {
            directory.write_private("keys", &ring);
            let server = directory.serve(&arguments);
            let resumed = server.call(Method::POST, "/v1/sessions/resume", &resume);
            assert_eq!(resumed.status == 200, is_there, "{setting}: {}", resumed.text);
            server.call(Method::GET, &path, "").expect(if is_there { 200 } else { 404 });
            server.terminate();
        }
        directory.write_private("keys", "secret");
        let refused = directory.run(&[&["serve", "--listen", "127.0.0.1:0"], &arguments[..]].concat()).expect(2);
        assert!(refused.err.contains("keys, line 1") && !refused.err.contains("secret"), "{refused:?}");
    }
}
