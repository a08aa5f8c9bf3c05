//! What `doctor` looks at, whichever database it is.

use std::{sync::Arc, time::Duration};

use sqlx::{Database, Error as SqlError};

use super::{
    Dialect, Namespace, SqlStore,
    connections::{Connections, Fault, Kind},
};
use crate::{
    Error, Result, Timestamp,
    store::{
        BoxFuture, Damage, Examine, Finding,
        sql::checks::{self, Check, ReapColumn},
    },
};

type Connection<D> = <<D as Dialect>::Db as Database>::Connection;

impl<D: Dialect> Examine for SqlStore<D> {
    fn examine(&self, _now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        let connections = Arc::clone(&self.connections);
        Box::pin(async move {
            // In a task of its own, as every call: a caller that loses interest leaves nothing half mended.
            let task = tokio::spawn(async move { examine(&connections, repair).await });
            task.await.unwrap_or_else(|stopped| Err(Error::store("looking at the store stopped midway", stopped)))
        })
    }
}

async fn examine<D: Dialect>(connections: &Connections<D>, repair: bool) -> Result<Vec<Finding>> {
    let mut borrowed = connections.borrow(true).await.map_err(|fault| fault.into_error::<D>(Kind::Read))?;
    let max = u32::try_from(connections.max()).unwrap_or(u32::MAX);
    let examined = examine_all::<D>(borrowed.connection(), connections.namespace(), max, repair).await;
    // It was set up for this, and holds what nobody else shall see.
    borrowed.discard();
    examined.map_err(|error| Fault::of::<D>(error, Duration::ZERO).into_error::<D>(Kind::Read))
}

async fn examine_all<D: Dialect>(
    connection: &mut Connection<D>,
    namespace: &Namespace,
    max_connections: u32,
    repair: bool,
) -> Result<Vec<Finding>, SqlError> {
    let mut findings = D::examine(connection, namespace, max_connections, repair).await?;
    if findings.iter().any(|finding| finding.is_wrong() && finding.subject == "schema") {
        findings.push(Finding::note("sessions", "Rows were not compared: mend the schema first."));
        return Ok(findings);
    }
    let mut sound = true;
    for check in checks::checks(|table| D::table(namespace, table), ReapColumn::ReapAt) {
        let found = examine_rows::<D>(connection, &check, repair).await?;
        sound &= found.is_none();
        findings.extend(found);
    }
    if sound {
        let count = format!("SELECT count(*) AS number FROM {}", D::table(namespace, "session"));
        let rows = D::run(connection, count.into(), &[]).await?;
        let count = rows.first().map_or(Ok(None), |row| D::int(row, "number"))?.unwrap_or(0);
        findings.push(Finding::fine("sessions", format!("{count} are stored, and all fits together.")));
    }
    Ok(findings)
}

async fn examine_rows<D: Dialect>(
    connection: &mut Connection<D>,
    check: &Check,
    repair: bool,
) -> Result<Option<Finding>, SqlError> {
    let mut damage = Damage::default();
    let mends = repair && check.can_mend();
    loop {
        let find = if mends { format!("{} LIMIT {}", check.find, checks::BATCH) } else { check.find.clone() };
        let rows = D::run(connection, find.into(), &[]).await?;
        let ids = rows.iter().map(|row| Ok(D::bytes(row, "id")?.unwrap_or_default()));
        let ids = ids.collect::<Result<Vec<_>, SqlError>>()?;
        let mut any_mended = false;
        for id in &ids {
            let mended = mends && mend::<D>(connection, check, id).await?;
            any_mended |= mended;
            if mended || !mends {
                damage.add(checks::shown(id), mended);
            }
        }
        // Where none could be mended, somebody else was faster.
        if !any_mended || ids.len() < checks::BATCH {
            return Ok(check.finding(&damage));
        }
    }
}

/// Mends one row, and says whether it was wrong still.
async fn mend<D: Dialect>(connection: &mut Connection<D>, check: &Check, id: &[u8]) -> Result<bool, SqlError> {
    let mut first = None;
    for statement in check.mend(&D::literal(id)) {
        let changed = D::execute(connection, statement).await?;
        first = first.or(Some(changed));
    }
    Ok(first.is_some_and(|changed| changed > 0))
}
