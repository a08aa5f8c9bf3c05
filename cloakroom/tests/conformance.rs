//! Every store in this process, and every wrapper, passes the whole suite.

use cloakroom::{store::MemoryStore, testing::conformance};

conformance!(mod memory: MemoryStore::new().unwrap());
