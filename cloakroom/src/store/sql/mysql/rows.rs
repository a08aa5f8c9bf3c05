//! Rows as the driver reads them.

use sqlx::{
    Row,
    mysql::{MySql, MySqlRow},
};

use crate::{
    clock::Timestamp,
    error::Result,
    store::{
        slots::Columns,
        sql::rows::{SqlRow, end_of, idle_of, unexpected},
    },
    token::Digest,
};

impl SqlRow for MySqlRow {
    fn int(&self, column: usize) -> Result<Option<i64>> {
        get(self, column)
    }

    fn text(&self, column: usize) -> Result<Option<&str>> {
        get(self, column)
    }

    fn bytes(&self, column: usize) -> Result<Option<Vec<u8>>> {
        get(self, column)
    }

    fn columns(&self, first: usize) -> Result<Option<Columns>> {
        let shared = |column| self.text(column).map(|text| text.map(Into::into));
        let (Some(created_at), Some(idle), Some(ends_at)) =
            (self.int(first + 1)?, self.int(first + 2)?, self.int(first + 3)?)
        else {
            return Ok(None);
        };
        let idempotency = self.bytes(first + 7)?.and_then(|bytes| bytes.try_into().ok()).map(Digest::from_bytes);
        Ok(Some(Columns {
            user: shared(first)?,
            created_at: Timestamp::from_millis(created_at),
            idle: idle_of(idle),
            ends_at: end_of(ends_at),
            impersonated_by: shared(first + 4)?,
            ip: self.text(first + 5)?.and_then(|ip| ip.parse().ok()),
            device: shared(first + 6)?,
            idempotency,
            due_at: None,
        }))
    }
}

fn get<'r, T: sqlx::Decode<'r, MySql>>(row: &'r MySqlRow, column: usize) -> Result<T> {
    row.try_get_unchecked(column).map_err(unexpected)
}
