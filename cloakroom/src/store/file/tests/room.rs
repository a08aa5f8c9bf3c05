//! A full disk: what ends sessions finds room.

use std::sync::Arc;

use super::{LIMITS, MemoryDisk, at, ended, journal, new_store, session, setting, sign_in, tx};
use crate::store::{
    embedded,
    file::{fault::Fault, format::Part, journal::Limits, layout, look, tables::Within, writer::Writer},
    slots::{Slot, Transaction},
};

const LIMIT: Limits = Limits { reserve: 40_000, ..LIMITS };

/// A store on a disk on which there is only so much room, with a session.
async fn on_a_disk_that_fills(room: usize) -> (MemoryDisk, crate::token::PartitionKey, Writer, crate::record::Record) {
    let (disk, key) = new_store();
    journal(&disk, LIMIT).recover().unwrap();
    disk.has_room(disk.taken() + room);
    let writer = Writer::start(Arc::from(journal(&disk, LIMIT))).unwrap();
    let record = session(&key, "anna", at(0));
    write(&writer, &key, sign_in(1, &record, &[])).await.unwrap();
    (disk, key, writer, record)
}

async fn write(writer: &Writer, key: &crate::token::PartitionKey, transaction: Transaction) -> Result<(), Fault> {
    let key = key.clone();
    writer
        .write(embedded::frees(&transaction), move |view| {
            embedded::commit(&Within::for_transaction(view, &key, &transaction), &transaction, false)
        })
        .await
        .map(drop)
}

#[tokio::test]
async fn on_a_full_disk_sessions_are_ended_and_nothing_else_is_written() {
    let (disk, key, writer, record) = on_a_disk_that_fills(20_000).await;
    let value = format!("\"{}\"", "x".repeat(1000));
    let mut written = 0;
    let fault = loop {
        match write(&writer, &key, setting(10 + written, record.info.id, &format!("key {written}"), &value, at(1)))
            .await
        {
            Ok(()) => written += 1,
            Err(fault) => break fault,
        }
    };
    assert!(fault.is_full() && written > 3, "{fault:?} after {written}");
    // Others fill what is left.
    disk.has_room(disk.taken());
    let refused = write(&writer, &key, sign_in(2, &session(&key, "ben", at(2)), &[])).await.unwrap_err();
    assert!(refused.is_full(), "{refused:?}");

    let (end, entry) = ended(&record, at(2));
    write(&writer, &key, tx(3, at(2), vec![], vec![end], [entry])).await.unwrap();
    let journal = journal(&disk, LIMIT);
    assert!(matches!(look(&journal, record.info.id, Part::All).unwrap(), Some(Slot::Ended(_))));
    journal.recover().unwrap();
    assert!(matches!(look(&journal, record.info.id, Part::All).unwrap(), Some(Slot::Ended(_))));
}

#[tokio::test]
async fn the_reserve_is_filled_again_when_there_is_room() {
    let (disk, key, writer, record) = on_a_disk_that_fills(0x10_000).await;
    disk.has_room(disk.taken());
    let (end, entry) = ended(&record, at(2));
    write(&writer, &key, tx(3, at(2), vec![], vec![end], [entry])).await.unwrap();
    disk.has_room(usize::MAX);
    journal(&disk, LIMIT).recover().unwrap();
    assert_eq!(disk.contents(layout::RESERVE).len(), LIMIT.reserve);
}
