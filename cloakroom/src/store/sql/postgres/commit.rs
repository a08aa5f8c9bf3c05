//! How transactions are written down for PostgreSQL, and what its answers say.

use std::sync::Arc;

use sqlx::postgres::PgRow;

use super::{
    engine::Server,
    reads::Reader,
    statement::{Arg, Statement},
    texts::Texts,
    whole::states,
};
use crate::{
    error::Result,
    store::{
        key::AdoptableKey,
        slots::Transaction,
        sql::{
            flight::{Commit, State},
            plain::Update,
            pool::Pool,
        },
    },
};

/// Writes transactions down for one server.
pub(super) struct Sender {
    pub(super) pool: Arc<Pool<Server>>,
    pub(super) texts: Arc<Texts>,
    pub(super) key: Arc<AdoptableKey>,
    pub(super) reader: Reader,
}

impl Commit for Sender {
    type Engine = Server;
    type Reader = Reader;

    fn pool(&self) -> &Arc<Pool<Server>> {
        &self.pool
    }

    fn reader(&self) -> &Reader {
        &self.reader
    }

    fn plain(&self, transaction: &Transaction) -> Option<Statement> {
        self.plain_statement(transaction)
    }

    fn may_be_together(&self, transaction: &Transaction) -> bool {
        Update::of(transaction).is_some()
    }

    fn plain_together(&self, all: &[&Arc<Transaction>]) -> Statement {
        self.update_many(all.iter().map(|transaction| &***transaction))
    }

    fn whole(&self, all: &[&Arc<Transaction>], wait: bool, again: bool) -> Statement {
        self.commit(all.iter().map(|transaction| &***transaction), wait, again)
    }

    fn states(&self, all: &[&Arc<Transaction>], answer: &Vec<PgRow>) -> Result<Vec<State>> {
        states(all, answer)
    }
}

impl Sender {
    pub(super) fn key_arg(&self) -> Arg {
        Arg::Bytes(Some(self.key.as_bytes().to_vec()))
    }
}
