//! What any [`Store`] must do, checked below the rules: merging, compare-and-swap, endings, locks before looks.
//!
//! ```
//! cloakroom::testing::slots!(cloakroom::store::MemoryStore::new().unwrap());
//! # fn main() {} // The line above is all there is; it makes tests.
//! ```

mod commits;
mod fixtures;
mod listing;
mod races;

use std::sync::Arc;

use crate::{
    store::{BoxFuture, Store},
    testing::{ScratchDir, block_on},
};

/// One check, to be run on a fresh store.
pub type SlotCheck = fn(Arc<dyn Store>) -> BoxFuture<'static, ()>;

/// How the [`slots!`](crate::slots) macro opens a fresh store.
pub type OpenSlots = fn(std::path::PathBuf) -> BoxFuture<'static, Arc<dyn Store>>;

/// Runs one check on a fresh store, on several threads. The macro's tests call it.
pub fn run_slots(check: SlotCheck, open: OpenSlots) {
    let scratch = ScratchDir::new().expect("the system has a place for temporary files");
    block_on(async { check(open(scratch.path().to_owned()).await).await });
}

/// Calls a macro with every check: `$then! { [context] /// what it proves, room::name, … }`.
#[doc(hidden)]
#[macro_export]
macro_rules! __each_slot_check {
    ([$($then:tt)+] $($context:tt)*) => {
        $($then)+! {
            [$($context)*]

            /// What is created is read back byte for byte, head and data.
            commits::what_is_created_is_read_back,
            /// A slot that is taken is a conflict, and a creation sent again has succeeded.
            commits::a_taken_slot_is_not_created_again,
            /// Values are merged key by key; the answer holds the record only where the caller does not know it.
            commits::data_is_merged_and_answered_as_the_caller_knows_it,
            /// Removing all keys, some keys and setting others happen in that order.
            commits::removal_comes_before_setting,
            /// A value relied on is compared byte for byte, absence too.
            commits::values_relied_on_are_compared_byte_for_byte,
            /// The size limit is exact, and lets what is over it shrink.
            commits::the_size_limit_is_exact,
            /// A head write moves neither data, version nor last-seen, and needs the revision.
            commits::a_head_write_needs_its_revision_and_leaves_the_rest,
            /// Fields of a newer version come back from a store, and survive an older node's head write.
            commits::fields_of_a_newer_version_are_kept,
            /// An ending keeps head and last-seen, drops the data, leaves every index, and is final.
            commits::an_ending_is_final,
            /// One expectation that fails leaves nothing of a transaction, not even its audit entry.
            commits::a_conflict_leaves_nothing,
            /// What was sent again is applied once, also behind many others.
            commits::what_is_sent_again_is_applied_once,
            /// Transactions that travel together have their own answers, also of one session.
            commits::transactions_travel_together_and_answer_each,
            /// A user's slot needs its revision, and a slot made anew is another one.
            commits::a_users_slot_needs_its_revision,
            /// A sign-in moves its stamp forward only, and changes no revision.
            commits::the_last_sign_in_moves_forward_only,
            /// Only the user's own sessions that live are counted.
            commits::only_own_living_sessions_count,
            /// An idempotency key leads to the open session that was started with it.
            commits::an_idempotency_key_leads_to_its_session,
            /// A session that was used since is not expired by one who looked before.
            commits::what_was_used_since_is_not_ended,
            /// Last-seen never moves back, and a touch late of a deadline revives nothing.
            commits::touches_only_move_forward_and_revive_nothing,
            /// What moves in takes the place of what is there.
            commits::an_import_takes_the_place_of_what_is_there,

            /// Fifty parallel writers of keys of their own meet no conflict and lose nothing.
            races::parallel_writers_of_different_keys_never_conflict,
            /// Parallel increments by value: none is lost, and a conflict shows what is so after the lock.
            races::parallel_increments_lose_nothing,
            /// Head writes and data writes never disturb each other.
            races::heads_and_data_do_not_disturb_each_other,
            /// An ending wins against eight writers in one try, and nothing is written after it.
            races::an_ending_wins_in_one_try,
            /// Of parallel writers of an absent user's slot exactly one wins.
            races::an_absent_users_slot_is_made_once,
            /// Parallel creations that rely on a count never exceed it.
            races::a_count_relied_on_is_exact,
            /// A creation that relied on a user's slot does not slip past its change.
            races::no_creation_slips_past_a_users_change,
            /// Parallel creations with one idempotency key: one is created.
            races::one_idempotency_key_is_one_session,
            /// Parallel writers never exceed the size limit.
            races::the_size_limit_holds_under_writers,
            /// A transaction sent twice at the same time is applied once.
            races::a_transaction_sent_twice_at_once_is_applied_once,
            /// A caller that goes away leaves its transaction done or not, and disturbs no other.
            races::a_caller_that_goes_away_disturbs_no_other,

            /// A user's list is newest first, whole, and free of what ended.
            listing::a_users_list_is_newest_first,
            /// Queries match what they name, in pages of any size.
            listing::queries_match_in_pages_of_any_size,
            /// What is due is listed until it is moved or ends.
            listing::what_is_due_is_listed_until_it_is_moved,
            /// Users are listed, all and those that are due.
            listing::users_are_listed,
            /// Everything comes out, open and ended, once.
            listing::everything_comes_out_once,
            /// Ended slots and old entries are forgotten, living sessions never.
            listing::what_is_old_is_forgotten,
            /// The audit log keeps its order within a session and misses nothing.
            listing::the_log_keeps_its_order,
            /// An audit entry that is sent again is in the log once.
            listing::an_entry_sent_again_is_logged_once,
        }
    };
}

/// Mounts the checks of [the module](mod@crate::testing::slots) on a store, each as a test of its own.
#[macro_export]
macro_rules! slots {
    (mod $name:ident: $($subject:tt)+) => {
        mod $name {
            use super::*;
            $crate::slots!($($subject)+);
        }
    };
    (|$dir:ident| $open:expr $(, if: $there:expr)? $(,)?) => {
        fn __is_there() -> bool {
            true $(&& $there)?
        }

        fn open_slots(
            $dir: std::path::PathBuf,
        ) -> $crate::store::BoxFuture<'static, std::sync::Arc<dyn $crate::store::Store>> {
            Box::pin(async move {
                let _ = &$dir;
                std::sync::Arc::new($open) as std::sync::Arc<dyn $crate::store::Store>
            })
        }

        $crate::__each_slot_check! { [$crate::__mount_slots] }
    };
    ($open:expr $(, if: $there:expr)? $(,)?) => {
        $crate::slots!(|_dir| $open $(, if: $there)?);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __mount_slots {
    ([] $($(#[doc = $doc:literal])+ $room:ident::$name:ident,)+) => {
        $(
            #[test]
            fn $name() {
                if __is_there() {
                    $crate::testing::slots::run_slots($crate::testing::slots::$name, open_slots);
                }
            }
        )+
    };
}

macro_rules! declare {
    ([] $($(#[doc = $doc:literal])+ $room:ident::$name:ident,)+) => {
        $(
            $(#[doc = $doc])+
            pub fn $name(store: Arc<dyn Store>) -> BoxFuture<'static, ()> {
                Box::pin($room::$name(store))
            }
        )+
    };
}

crate::__each_slot_check! { [declare] }
