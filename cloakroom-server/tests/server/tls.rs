//! Encrypted connections, with certificates that openssl makes.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::common::binary::Directory;

/// An authority, and certificates for localhost that it signed.
struct Authority<'a>(&'a Directory);

impl<'a> Authority<'a> {
    /// `None` where there is no openssl.
    fn new(directory: &'a Directory, name: &str) -> Option<Self> {
        let subject = format!("/CN={name}");
        let arguments =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        let files = [&format!("{name}.pem"), &format!("{name}.key")];
        let made = Command::new("openssl")
            .args(arguments)
            .args(["-subj", &subject, "-out", files[0], "-keyout", files[1]])
            .current_dir(directory.path(""))
            .stderr(Stdio::null())
            .status();
        needs::is_met(made.is_ok_and(|made| made.success()), "openssl is not here").then_some(Self(directory))
    }

    /// `server.pem` and `server.key`, the latter for its owner alone.
    fn issue(&self, authority: &str, serial: &str) {
        let run = |arguments: &[&str]| {
            let mut openssl = Command::new("openssl");
            let done = openssl.args(arguments).current_dir(self.0.path("")).stderr(Stdio::null()).status().unwrap();
            assert!(done.success(), "{arguments:?}");
        };
        run(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=localhost",
            "-out",
            "request.pem",
            "-keyout",
            "new.key",
        ]);
        fs::write(self.0.path("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
        let (certificate, key) = (format!("{authority}.pem"), format!("{authority}.key"));
        run(&[
            "x509",
            "-req",
            "-in",
            "request.pem",
            "-CA",
            &certificate,
            "-CAkey",
            &key,
            "-set_serial",
            serial,
            "-days",
            "2",
            "-extfile",
            "names",
            "-out",
            "server.pem",
        ]);
        self.0.write_private("server.key", &fs::read_to_string(self.0.path("new.key")).unwrap());
    }
}

const TLS: [&str; 4] = ["--tls-certificate", "server.pem", "--tls-key", "server.key"];

#[test]
fn the_command_line_speaks_tls_with_a_server_whose_authority_it_is_given() {
    let directory = Directory::new();
    let Some(authority) = Authority::new(&directory, "ours") else { return };
    authority.issue("ours", "1");
    let server = directory.serve(&TLS);
    assert!(server.ready.starts_with("cloakroom ready on https://127.0.0.1:"), "{}", server.ready);
    let url = server.url.as_str();
    directory.run(&["start", "--user", "anna", "--server", url, "--ca", "ours.pem"]).expect(0);
    let mut list = directory.command(&["list", "--server", url]);
    let listed = list.env("CLOAKROOM_CA", "ours.pem").output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("anna"), "{listed:?}");

    // The system does not trust it, nor does a client that trusts another.
    directory.run(&["list", "--server", url]).expect(3);
    Authority::new(&directory, "another").unwrap();
    let refused = directory.run(&["list", "--server", url, "--ca", "another.pem"]).expect(3);
    assert!(refused.err.contains("certificate"), "{refused:?}");
    assert!(directory.run(&["list", "--server", url, "--ca", "none.pem"]).expect(2).err.contains("none.pem"));
    // What speaks no TLS gets no answer, and breaks nothing.
    let mut plain = TcpStream::connect(url.strip_prefix("https://").unwrap()).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).unwrap_or_default();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    directory.run(&["list", "--server", url, "--ca", "ours.pem"]).expect(0);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn s3_a_certificate_is_replaced_without_a_restart() {
    let directory = Directory::new();
    let Some(authority) = Authority::new(&directory, "ours") else { return };
    authority.issue("ours", "1");
    let server = directory.serve(&TLS);
    let list = |ca: &str| directory.run(&["list", "--server", &server.url, "--ca", ca]).code;
    assert_eq!(list("ours.pem"), 0);
    let reload = |until: &str| {
        server.signal("-HUP");
        let begin = Instant::now();
        while !directory.log().contains(until) {
            assert!(begin.elapsed() < Duration::from_mins(1), "{}", directory.log());
            std::thread::yield_now();
        }
    };
    // Half of a pair: the old one goes on.
    fs::write(directory.path("server.pem"), "nonsense").unwrap();
    reload("could not be read again");
    assert_eq!(list("ours.pem"), 0);
    Authority::new(&directory, "next").unwrap();
    authority.issue("next", "2");
    reload("keys were read again");
    assert_eq!((list("ours.pem"), list("next.pem")), (3, 0));
    assert_eq!(server.terminate(), Some(0));
}

#[cfg(unix)]
#[test]
fn s3_certificates_that_cannot_be_used_are_told_before_anything_is_bound() {
    use std::os::unix::fs::PermissionsExt;

    let directory = Directory::new();
    let Some(authority) = Authority::new(&directory, "ours") else { return };
    authority.issue("ours", "1");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let serve = |tls: &[&str]| directory.run(&[&["serve", "--listen", &listen], tls].concat()).expect(2).err;
    assert!(serve(&["--tls-certificate", "server.pem"]).contains("go together"));
    assert!(serve(&["--tls-certificate", "server.pem", "--tls-key", "ours.key"]).contains("ours.key"));
    assert!(serve(&["--tls-certificate", "server.key", "--tls-key", "server.key"]).contains("no CERTIFICATE"));
    assert!(serve(&["--tls-certificate", "server.pem", "--tls-key", "none"]).contains("none cannot be read"));
    fs::set_permissions(directory.path("server.key"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(serve(&TLS).contains("chmod 600 server.key"));
}
