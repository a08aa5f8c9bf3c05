//! What operators and attackers do to a running server: wrong keys, keys that change, a log that cannot be written, clients
//! that are slow or many.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::common::{Answer, TestServer, agent, binary::Directory, send, try_send};
use cloakroom::client::TrustedProxies;
use cloakroom_server::Bounds;
use http::Method;
use needs::Port;

/// The value of a metric.
fn metric(answer: &Answer, name: &str) -> u64 {
    let value = answer.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name}: {}", answer.text)).parse().unwrap()
}

#[test]
fn s3_two_thousand_wrong_keys_are_refused_logged_with_the_client_and_lock_no_application_out() {
    let directory = Directory::new();
    let server = directory.serve(&["--trusted-proxies", "127.0.0.1"]);
    server.call(Method::GET, "/v1/sessions", "").expect(200);
    let agent = agent();
    let try_from = |client: &str, key: &str| {
        let request = agent.get(format!("{}/v1/sessions", server.url)).header("authorization", format!("Bearer {key}"));
        let response = request.header("x-forwarded-for", client).call().unwrap();
        let wait = response.headers().get("retry-after").map(|wait| wait.to_str().unwrap().parse::<u64>().unwrap());
        (response.status().as_u16(), wait)
    };
    let answers: Vec<_> = (0..2000).map(|n| try_from("192.0.2.66", &format!("wrong-{n}"))).collect();
    let refused = answers.iter().filter(|(status, _)| *status == 401).count();
    assert!((20..40).contains(&refused), "{refused}");
    assert!(answers.iter().all(|(status, wait)| *status == 401 || (*status == 429 && wait.is_some())), "{answers:?}");
    // A right guess is not told apart; the application, which comes without a proxy's word, goes on.
    assert_eq!(try_from("192.0.2.66", server.key()).0, 429);
    assert_eq!(try_from("192.0.2.67", server.key()).0, 200);
    server.call(Method::GET, "/v1/sessions", "").expect(200);
    let metrics = server.call(Method::GET, "/metrics", "").expect(200);
    assert_eq!(metric(&metrics, "cloakroom_api_keys_refused_total"), 2001);
    assert_eq!(server.terminate(), Some(0));
    let log = directory.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("wrong API key")).collect();
    assert!(told.len() <= refused + 2 && told.iter().all(|line| line.contains("192.0.2.66")), "{told:?}");
    assert!(!log.contains("wrong-1"), "keys are not logged");
}

#[test]
fn s3_without_a_trusted_proxy_a_client_cannot_choose_its_address() {
    let server = TestServer::start();
    let wrong = |n: u32| {
        let headers = [("authorization", "Bearer wrong"), ("x-forwarded-for", &*format!("192.0.2.{n}"))];
        server.plain("/v1/sessions", &headers).status
    };
    let answers: Vec<_> = (0..60).map(wrong).collect();
    assert!(answers.iter().filter(|status| **status == 401).count() <= 21, "{answers:?}");
    let server = TestServer::with(|server| server.trusted_proxies(TrustedProxies::parse("127.0.0.1").unwrap()));
    for n in 0..60 {
        let headers = [("authorization", "Bearer wrong"), ("x-forwarded-for", &*format!("192.0.2.{n}"))];
        server.plain("/v1/sessions", &headers).expect_problem(401, "unauthorized");
    }
}

#[cfg(unix)]
#[test]
fn s3_key_files_that_are_not_private_are_refused_by_server_and_command_line() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let directory = Directory::new();
    directory.run(&["start", "--store", "sqlite:cloakroom.db"]).expect(0);
    let server = directory.serve(&[]);
    let list = ["list", "--server", server.url.as_str()];
    directory.run(&list).expect(0);
    let key = directory.path("cloakroom.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    for arguments in [&list[..], &["serve", "--listen", "127.0.0.1:0"]] {
        let refused = directory.run(arguments).expect(2);
        let remedy = "cloakroom.key may be used by other accounts (its mode is 644): chmod 600";
        assert!(refused.err.contains(remedy), "{refused:?}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    symlink("cloakroom.key", directory.path("link")).unwrap();
    for name in ["link", "."] {
        let refused = directory.run(&[&list[..], &["--api-key-file", name]].concat()).expect(2);
        assert!(refused.err.contains(name), "{refused:?}");
    }
    assert_eq!(directory.run(&["list", "--api-key", server.key()]).expect(2).err.matches(server.key()).count(), 0);
    let given = directory.run_reading(&format!("{}\n", server.key()), &[&list[..], &["--api-key-file", "-"]].concat());
    given.expect(0);
}

#[cfg(unix)]
#[test]
fn s3_keys_are_rotated_without_a_restart() {
    let directory = Directory::new();
    let new_key = || {
        let out = directory.run(&["key", "--name", "shop", "--scope", "read"]).expect(0).out;
        let text = out.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
        (text, out[out.find("[[keys]]").unwrap()..].to_owned())
    };
    let ((old, old_lines), (new, new_lines)) = (new_key(), new_key());
    let settings = directory.path("cloakroom.toml");
    fs::write(&settings, &old_lines).unwrap();
    let server = directory.serve(&[]);
    let status = |key: &str| send(&agent(), &format!("{}/v1/sessions", server.url), Some(key), Method::GET, "").status;
    assert_eq!((status(&old), status(&new)), (200, 401));
    let reload = |until: &str| {
        server.signal("-HUP");
        let begin = Instant::now();
        while !directory.log().contains(until) {
            assert!(begin.elapsed() < Duration::from_mins(1), "{}", directory.log());
            std::thread::yield_now();
        }
    };
    // What cannot be read changes nothing.
    fs::write(&settings, "[[keys]]\nname = 'half").unwrap();
    reload("could not be read again");
    assert_eq!(status(&old), 200);
    fs::write(&settings, &new_lines).unwrap();
    reload("keys were read again");
    assert_eq!((status(&old), status(&new)), (401, 200));
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_log_that_cannot_be_written_fails_no_request_and_is_counted() {
    for format in ["text", "json"] {
        let directory = Directory::new();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let server = directory.serve_logging_to(full, &["--log", "trace", "--log-format", format], &[]);
        for n in 0..20 {
            let body = format!(r#"{{"user":"anna","data":{{"n":{n}}}}}"#);
            let id = server.call(Method::POST, "/v1/sessions", &body).expect(201).text_of("/session/id");
            server.call(Method::GET, &format!("/v1/sessions/{id}"), "").expect(200);
        }
        for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/auth", 401)] {
            server.call(Method::GET, path, "").expect(status);
        }
        let metrics = server.call(Method::GET, "/metrics", "").expect(200);
        assert!(metric(&metrics, "cloakroom_log_lines_lost_total") > 0);
        assert_eq!(server.terminate(), Some(0));
    }
}

#[test]
fn a_log_that_nothing_reads_holds_no_request_up() {
    let directory = Directory::new();
    // A pipe takes 64 KiB, and then nothing.
    let (_reader, writer) = std::io::pipe().unwrap();
    let server = directory.serve_logging_to(File::from(std::os::fd::OwnedFd::from(writer)), &["--log", "trace"], &[]);
    let id = server.call(Method::POST, "/v1/sessions", r#"{"user":"anna"}"#).expect(201).text_of("/session/id");
    for _ in 0..2000 {
        server.call(Method::GET, &format!("/v1/sessions/{id}"), "").expect(200);
    }
    server.call(Method::GET, "/healthz", "").expect(200);
    assert_eq!(server.terminate(), Some(0));
}

fn connect(server: &TestServer) -> TcpStream {
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Whether the server closes the connection, which sends nothing any more, before 20 seconds have passed.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 512]) {
        Ok(read) => read == 0 || is_closed(stream),
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn s3_a_head_that_never_comes_whole_ends_its_connection() {
    let bounds = Bounds { head_timeout: Duration::from_millis(300), ..Bounds::default() };
    let server = TestServer::with_bounds(bounds);
    let mut slow: Vec<_> = (0..50).map(|_| connect(&server)).collect();
    for (n, stream) in slow.iter_mut().enumerate() {
        // Some say nothing at all.
        if n % 2 == 0 {
            // On a busy machine it may have been cut off already.
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ").unwrap_or_default();
        }
    }
    server.get("/healthz").expect(200);
    for stream in &mut slow {
        assert!(is_closed(stream));
    }
    assert_eq!(metric(&server.get("/metrics"), "cloakroom_connections_cut_total{why=\"head\"}"), 50);
}

#[test]
fn a_connection_stays_open_between_requests_for_as_long_as_balancers_assume_and_no_longer() {
    assert_eq!(Bounds::default().keep_alive, Duration::from_secs(75));
    let (head_timeout, keep_alive) = (Duration::from_millis(500), Duration::from_secs(6));
    let server = TestServer::with_bounds(Bounds { head_timeout, keep_alive, ..Bounds::default() });
    let mut stream = connect(&server);
    let mut ask = || {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer[..read]));
        // Much longer than a head may take.
        stream.set_read_timeout(Some(head_timeout * 2)).unwrap();
        let waited = stream.read(&mut [0; 1]).unwrap_err();
        assert_eq!(waited.kind(), ErrorKind::WouldBlock);
    };
    ask();
    ask();
    let begin = Instant::now();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    assert!(is_closed(&mut stream) && begin.elapsed() < Duration::from_mins(1));
}

#[test]
fn s3_a_client_that_reads_nothing_is_cut_off() {
    let bounds = Bounds { write_timeout: Duration::from_millis(300), ..Bounds::default() };
    let server = TestServer::with_bounds(bounds);
    let body = serde_json::json!({"data": {"page": "x".repeat(60_000)}}).to_string();
    let (_, id) = server.start_session(&body);
    let mut stream = connect(&server);
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let request =
        format!("GET /v1/sessions/{id} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", server.admin);
    // It asks for more than all buffers between hold, and reads none of it.
    let begin = Instant::now();
    while stream.write_all(request.as_bytes()).is_ok() {
        assert!(begin.elapsed() < Duration::from_mins(1), "it was never cut off");
    }
    assert_eq!(metric(&server.get("/metrics"), "cloakroom_connections_cut_total{why=\"unread\"}"), 1);
}

#[test]
fn s3_many_idle_connections_keep_no_client_out() {
    let server = TestServer::with_bounds(Bounds { max_connections: 100, ..Bounds::default() });
    let mut idle = Vec::new();
    for _ in 0..600 {
        idle.push(connect(&server));
        if idle.len() % 100 == 0 {
            // On a connection of its own.
            let url = format!("http://{}/healthz", server.address);
            try_send(&agent(), &url, None, Method::GET, "").unwrap().expect(200);
        }
    }
    let metrics = server.get("/metrics").expect(200);
    assert!(metric(&metrics, "cloakroom_connections") <= 100);
    assert!(metric(&metrics, "cloakroom_connections_cut_total{why=\"full\"}") >= 500);
}

#[test]
fn an_application_s_connection_survives_those_of_strangers_that_wait_longer() {
    let server = TestServer::with_bounds(Bounds { max_connections: 50, ..Bounds::default() });
    let mut strangers: Vec<_> = (0..45).map(|_| connect(&server)).collect();
    server.get("/healthz").expect(200);
    strangers.extend((0..20).map(|_| connect(&server)));
    let answered = server.get("/metrics").expect(200);
    assert!(metric(&answered, "cloakroom_connections") <= 50);
    assert!(is_closed(&mut strangers[0]));
}

#[cfg(unix)]
#[test]
fn a_store_of_another_account_is_refused_before_anything_is_changed() {
    use std::os::unix::fs::{MetadataExt, chown};

    let directory = Directory::new();
    let is_root = fs::metadata(directory.path(".")).unwrap().uid() == 0;
    if !needs::is_met(is_root, "only root can give files to another account") {
        return;
    }
    for store in ["file:sessions", "sqlite:sessions.db"] {
        directory.run(&["start", "--user", "anna", "--store", store]).expect(0);
        let path = directory.path(store.split_once(':').unwrap().1);
        let all = || {
            let mut files: Vec<_> =
                directory.files().iter().map(|file| (file.clone(), fs::metadata(file).unwrap().mtime())).collect();
            files.sort();
            files
        };
        let before = all();
        chown(&path, Some(65_534), None).unwrap();
        for arguments in [
            &["revoke", "--user", "anna", "--store", store][..],
            &["list", "--store", store],
            &["start", "--store", store],
            &["doctor", store],
            &["migrate", store],
            &["copy", store, "sqlite:b.db"],
            &["serve", "--listen", "127.0.0.1:0", "--store", store],
        ] {
            let refused = directory.run(arguments).expect(3);
            assert!(refused.err.contains("sudo -u") && refused.err.contains("uid 65534"), "{arguments:?}: {refused:?}");
        }
        assert_eq!(all(), before);
        chown(&path, Some(0), None).unwrap();
        directory.run(&["list", "--store", store]).expect(0);
    }
    // A new one would be root's, in a directory of an account that is to use it.
    fs::create_dir(directory.path("var")).unwrap();
    chown(directory.path("var"), Some(65_534), None).unwrap();
    for store in ["file:var/sessions", "sqlite:var/sessions.db"] {
        let refused = directory.run(&["users", "set", "anna", "--store", store]).expect(3);
        assert!(refused.err.contains("sudo -u"), "{refused:?}");
    }
    assert_eq!(fs::read_dir(directory.path("var")).unwrap().count(), 0);
}

#[test]
fn s3_no_password_of_a_store_is_in_what_is_said_or_logged() {
    let directory = Directory::new();
    let port = Port::take().unwrap();
    let port = port.number();
    for store in [
        format!("postgres://app:s3cr3t@127.0.0.1:{port}/db"),
        format!("postgres://127.0.0.1:{port}/db?user=app&pass%77ord=s3cr3t"),
        format!("postgres://127.0.0.1:{port}/db?user=app&passwd=s3cr3t"),
        "postgres:app:s3cr3t@127.0.0.1".to_owned(),
        format!("mysql://app:s3cr3t@127.0.0.1:{port}/db?pass=s3cr3t"),
        format!("redis://s3cr3t@127.0.0.1:{port}?timeout_ms=300"),
        format!("redis://127.0.0.1:{port}?passwd=s3cr3t"),
        "app:s3cr3t@db".to_owned(),
    ] {
        for arguments in [
            &["doctor", &store, "--json"][..],
            &["list", "--store", &store],
            &["serve", "--log", "trace", "--listen", "127.0.0.1:0", "--store", &store],
        ] {
            let mut command = directory.command(arguments);
            let done =
                crate::common::binary::Done::of(command.env("CLOAKROOM_API_KEY", "k".repeat(40)).output().unwrap());
            assert_ne!(done.code, 0, "{arguments:?}");
            assert!(!done.out.contains("s3cr3t") && !done.err.contains("s3cr3t"), "{arguments:?}: {done:?}");
        }
        // In the environment, where it belongs, and in help.
        let mut help = directory.command(&["serve", "--help"]);
        let help = help.env("CLOAKROOM_STORE", &store).output().unwrap();
        assert!(!String::from_utf8_lossy(&help.stdout).contains("s3cr3t"));
    }
    fs::write(directory.path("cloakroom.toml"), "stroe = 'postgres://app:s3cr3t@db'").unwrap();
    let refused = directory.run(&["serve"]).expect(2);
    assert!(refused.err.contains("line 1") && !refused.err.contains("s3cr3t"), "{refused:?}");
    let warned = directory.run(&["doctor", "redis://:s3cr3t@127.0.0.1:1?timeout_ms=300"]).expect(3);
    assert!(warned.err.contains("CLOAKROOM_STORE"), "{warned:?}");
}
