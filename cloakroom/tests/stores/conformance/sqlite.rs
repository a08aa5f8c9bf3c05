//! The SQLite store passes the whole suite.

use cloakroom::{store::SqliteStore, testing::conformance};

conformance!(|dir| SqliteStore::open(dir.join("sessions.db")).await.unwrap());

cloakroom::testing::slots!(mod slots: |dir| SqliteStore::open(dir.join("sessions.db")).await.unwrap());
