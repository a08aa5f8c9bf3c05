//! Certificates for servers of a test's own, made by the command `openssl`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// An authority, and what it signed: certificates for `localhost`.
pub(crate) struct Authority {
    directory: PathBuf,
}

impl Authority {
    /// Makes one in this directory; `None`, and the test is skipped, without `openssl`.
    pub(crate) fn new(directory: &Path, name: &str) -> Option<Self> {
        let here = Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_ok();
        if !needs::is_met(here, "the command openssl is not here") {
            return None;
        }
        let directory = directory.join(name);
        fs::create_dir_all(&directory).unwrap();
        let authority = Self { directory };
        let mut make = Command::new("openssl");
        make.args(["req", "-x509", "-days", "2", "-subj", "/CN=An authority of a test"]).args(NEW_KEY);
        make.arg(authority.key("authority")).arg("-out").arg(authority.certificate("authority"));
        run(&mut make);
        Some(authority)
    }

    /// Signs a new certificate for `localhost`, and for no other name of this machine.
    pub(crate) fn sign(&self, name: &str) {
        let file = |kind: &str| self.directory.join(format!("{name}.{kind}"));
        let mut ask = Command::new("openssl");
        ask.args(["req", "-subj", &format!("/CN={name}")]).args(NEW_KEY).arg(self.key(name));
        run(ask.arg("-out").arg(file("csr")));
        fs::write(file("ext"), "subjectAltName=DNS:localhost\n").unwrap();
        let mut sign = Command::new("openssl");
        sign.args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in"]).arg(file("csr"));
        sign.arg("-CA").arg(self.certificate("authority")).arg("-CAkey").arg(self.key("authority"));
        run(sign.arg("-extfile").arg(file("ext")).arg("-out").arg(self.certificate(name)));
    }

    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }
}

const NEW_KEY: [&str; 6] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"];

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
