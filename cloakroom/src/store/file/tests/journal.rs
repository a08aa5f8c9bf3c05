//! A journal that was cut off or damaged.

use super::{LIMITS, MemoryDisk, NOW, journal, new_store, run, session, sign_in};
use crate::store::file::{fault::Fault, journal::Limits, layout};

/// A disk with a journal of two entries, and where the second one begins.
fn two_entries() -> (MemoryDisk, usize) {
    let (disk, key) = new_store();
    let journal = journal(&disk, LIMITS);
    let mut starts = Vec::new();
    for user in ["anna", "ben"] {
        starts.push(disk.contents(layout::JOURNAL).len());
        run(&journal, &key, &sign_in(1, &session(&key, user, NOW), &[])).unwrap();
    }
    (disk, starts[1])
}

#[test]
fn an_entry_that_was_cut_off_is_forgotten_silently() {
    let (disk, second) = two_entries();
    let whole = disk.contents(layout::JOURNAL);
    for length in second..whole.len() {
        let disk = disk.copy();
        disk.set_contents(layout::JOURNAL, whole[..length].to_vec());
        journal(&disk, LIMITS).recover().unwrap();
        let left = disk.contents(layout::JOURNAL);
        assert_eq!(left.len(), second);
        assert_eq!(left[16..], whole[16..second]);
    }
}

#[test]
fn a_broken_entry_with_others_behind_it_is_an_error_that_names_the_file() {
    let (disk, second) = two_entries();
    let whole = disk.contents(layout::JOURNAL);
    for place in (16..second).step_by(7) {
        let disk = disk.copy();
        let mut damaged = whole.clone();
        damaged[place] ^= 0x20;
        disk.set_contents(layout::JOURNAL, damaged);
        let before = disk.dump();
        let fault = journal(&disk, LIMITS).recover().unwrap_err();
        assert!(matches!(&fault, Fault::Damaged { file, .. } if file == layout::JOURNAL), "{fault:?}");
        let text = fault.into_error("sessions".as_ref()).to_string();
        assert!(
            text.contains("sessions/journal is damaged (the entry at byte 16 is broken, and others follow)"),
            "{text}"
        );
        assert!(disk.dump() == before, "nothing is touched");
    }
}

#[test]
fn what_is_no_journal_is_an_error_that_names_the_file() {
    for contents in ["", "cloakrm1", "something else, and long enough for a header"] {
        let (disk, _) = new_store();
        disk.set_contents(layout::JOURNAL, contents.into());
        let fault = journal(&disk, LIMITS).read(|_| Ok(())).unwrap_err();
        assert!(matches!(&fault, Fault::Damaged { file, .. } if file == layout::JOURNAL), "{fault:?}");
    }
}

#[test]
fn a_long_journal_is_emptied_and_temporary_files_do_not_pile_up() {
    let (disk, key) = new_store();
    let journal = journal(&disk, Limits { journal: 20_000, ..LIMITS });
    for n in 0..50 {
        run(&journal, &key, &sign_in(1, &session(&key, &format!("user {n}"), NOW), &[])).unwrap();
        journal.checkpoint_if_long().unwrap();
        assert!(disk.contents(layout::JOURNAL).len() < 25_000);
    }
    assert_eq!(journal.disk().list(layout::TEMPORARY).unwrap(), [""; 0]);
}
