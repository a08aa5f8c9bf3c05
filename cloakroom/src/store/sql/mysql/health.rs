//! Whether the server takes writes.

use std::sync::PoisonError;

use super::MysqlStore;
use crate::{
    clock::Timestamp,
    error::Result,
    store::sql::{
        address::Namespace,
        fault::Kind,
        rows::{number, replaced},
    },
};

impl MysqlStore {
    /// Tries to write a row, without a change; whether there is room to write in, the last write tells.
    pub(super) async fn look_whether_it_can_be_written(&self) -> Result<Option<Timestamp>> {
        let (begin, name) = (self.pool.engine().begin(), &self.pool.engine().namespace);
        let key = super::text::bytes(self.key.as_bytes());
        let probe = format!(
            "{begin}UPDATE {name}_meta SET value=value WHERE name='probe';ROLLBACK;\
             SELECT TIMESTAMPDIFF(MICROSECOND,'1970-01-01',UTC_TIMESTAMP(6)) DIV 1000 FROM {name}_meta \
             WHERE name='partition_key' AND value={key}"
        );
        let answer = self.text(Kind::Read, probe.into()).await?;
        let clock = Timestamp::from_millis(number(answer.rows.first().ok_or_else(replaced)?, 0)?);
        let is_ailing = self.ailment.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if is_ailing {
            self.write_and_take_back().await?;
            *self.ailment.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(Some(clock))
    }

    /// Writes what needs room on the disk, and takes it back.
    async fn write_and_take_back(&self) -> Result<()> {
        let (begin, name) = (self.pool.engine().begin(), &self.pool.engine().namespace);
        self.text(Kind::Read, written_and_taken_back(begin, name).into()).await.map(drop)
    }
}

/// What needs room on the disk.
pub(super) fn written_and_taken_back(begin: &str, name: &Namespace) -> String {
    format!(
        "{begin}INSERT INTO {name}_audit (id,at,session,entry) SELECT seq,seq,'',REPEAT('x',15000) FROM seq_1_to_100;ROLLBACK"
    )
}
