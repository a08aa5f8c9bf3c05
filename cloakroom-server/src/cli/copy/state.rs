//! How far an interrupted copy has come: a file in the working directory, removed when all is copied.

use std::{fs, io::ErrorKind, path::PathBuf};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cloakroom::store::Cursor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cli::Failure;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    #[serde(skip)]
    file: PathBuf,
    from: String,
    to: String,
    /// Of the source's partition key.
    pub(super) source: String,
    /// So many items are in the target.
    pub(super) items: u64,
    reached: Option<String>,
}

impl State {
    /// What is known of a copy between these two, which is nothing at first.
    pub(super) fn load(from: &str, to: &str) -> Result<Self, Failure> {
        let name = URL_SAFE_NO_PAD.encode(&Sha256::digest(format!("{from}\n{to}"))[..9]);
        let file = PathBuf::from(format!("cloakroom-copy-{name}.json"));
        let failure = |problem: String| {
            let message = format!("{}: {problem}; delete it to begin at the beginning", file.display());
            Failure::new(Failure::FAILED, message)
        };
        let state = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failure(error.to_string()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(failure(error.to_string())),
        };
        Ok(Self { file, from: from.to_owned(), to: to.to_owned(), ..state })
    }

    /// Forgets what an earlier copy did.
    pub(super) fn begin(&mut self, source: String) {
        (self.source, self.items, self.reached) = (source, 0, None);
    }

    /// Where to go on.
    pub(super) fn reached(&self) -> Option<Cursor> {
        self.reached.clone().map(Cursor::new)
    }

    /// Notes that everything before a place is in the target.
    pub(super) fn save(&mut self, items: u64, reached: &Cursor) -> Result<(), Failure> {
        self.items = items;
        self.reached = Some(reached.as_str().to_owned());
        let new = self.file.with_extension("new");
        let text = serde_json::to_vec(self)?;
        fs::write(&new, text).and_then(|()| fs::rename(&new, &self.file)).map_err(|error| {
            let message = format!(
                "{} cannot be written: {error}; interrupted, this copy would begin at the beginning",
                self.file.display()
            );
            Failure::new(Failure::FAILED, message)
        })
    }

    pub(super) fn remove(&self) {
        // If it cannot be removed, the next copy goes on behind everything, and finds what is new there.
        let _ = fs::remove_file(&self.file);
    }
}
