//! The file store passes the whole suite.

use cloakroom::{store::FileStore, testing::conformance};

conformance!(|dir| FileStore::open(dir.join("sessions")).await.unwrap());

cloakroom::testing::slots!(mod slots: |dir| FileStore::open(dir.join("sessions")).await.unwrap());
