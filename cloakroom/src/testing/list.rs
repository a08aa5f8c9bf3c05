//! The list of all checks, and the macro that mounts it. A check that is added here is added to every store.

/// Calls a macro with every check: `$then! { [context] /// what it proves, room::name, … }`.
#[doc(hidden)]
#[macro_export]
macro_rules! __each_check {
    ([$($then:tt)+] $($context:tt)*) => {
        $($then)+! {
            [$($context)*]

            /// I1: fifty parallel changes to keys of their own all survive.
            changes::i1_parallel_changes_to_different_keys_all_survive,
            /// I1: a change that relies on a value, replayed on conflict, never loses an increment.
            changes::i1_no_parallel_increment_is_lost,
            /// I1: a conflict changes nothing, and its answer holds the record to decide on anew.
            changes::i1_a_conflict_changes_nothing_and_answers_with_the_fresh_record,
            /// I1: absence can be relied on too, and `null` is not absence.
            changes::i1_relying_on_an_absent_key_notices_that_it_came,
            /// I1: values relied on are compared as text, not as numbers.
            changes::i1_values_are_compared_byte_for_byte,
            /// I1: a change that is sent again after a cut connection has succeeded and is not applied twice.
            changes::i1_a_repeated_change_is_applied_once,
            /// I1: nor when both tries arrive at the same time.
            changes::i1_a_change_repeated_in_parallel_is_applied_once,
            /// I1: the ids of the latest 64 changes are kept, all 64 bits of them, and each is found whole or not at all.
            changes::i1_the_latest_changes_are_remembered,
            /// I1: a change can be held to one version.
            changes::i1_if_version_holds_a_change_to_one_version,
            /// I1: a change that brings the record it was decided from is answered with what is stored, as any other.
            changes::i1_what_the_caller_knows_changes_no_answer,
            /// I1: `remove_all` takes what is there when it is applied, not what its author saw.
            changes::i1_remove_all_takes_keys_that_others_added_and_leaves_what_it_sets,
            /// I1: setting and removing happen in one step, and the answer is what is stored.
            changes::i1_a_change_sets_and_removes_in_one_step,
            /// I1: fields that a change does not name stay; those it empties are empty.
            changes::i1_fields_change_alone_and_are_emptied_on_demand,
            /// I11: a change that is too large leaves no part of it, nor a trace in the log.
            changes::i11_a_change_that_is_too_large_leaves_nothing,
            /// I11: the limit counts bytes, includes its last one, and lets what is over it shrink.
            changes::i11_exactly_the_limit_fits_and_what_is_over_it_may_shrink,

            /// I2: an ended session takes no change, touch or rotation, and says how it ended.
            endings::i2_an_ended_session_takes_no_change_touch_or_rotation,
            /// I2: nothing but a creation makes a session.
            endings::i2_an_unknown_session_is_not_made_by_a_change_touch_or_rotation,
            /// I2: a session ends once; who ends it again is told of the first time.
            endings::i2_ending_twice_answers_how_it_ended_first,
            /// I2: a session that had expired has that reason, whoever ends it afterwards.
            endings::i2_ending_an_expired_session_tells_that_it_had_expired,
            /// I2: each id is answered, in the order asked.
            endings::i2_endings_are_answered_in_the_order_asked,
            /// I2: all sessions of a user end but the excepted ones, and nobody else's.
            endings::i2_all_sessions_of_a_user_end_newest_first_but_the_excepted,
            /// I2: writers that race with an ending never bring the session back.
            endings::i2_no_writer_in_flight_brings_an_ended_session_back,
            /// I2: a creation that is sent again does not bring back what ended meanwhile.
            endings::i2_a_creation_sent_again_does_not_bring_an_ended_session_back,
            /// I2: of parallel endings one counts.
            endings::i2_parallel_endings_end_a_session_once,

            /// I3: after fifty parallel sign-ins under a limit of three that evicts, exactly three live.
            limits::i3_fifty_parallel_sign_ins_leave_exactly_the_limit_when_they_evict,
            /// I3: and exactly three when the limit refuses.
            limits::i3_fifty_parallel_sign_ins_leave_exactly_the_limit_when_they_are_refused,
            /// I3: the session that was used longest ago goes first.
            limits::i3_the_least_recently_seen_is_evicted,
            /// I3: a limit below what is there evicts as many as it takes.
            limits::i3_a_lower_limit_makes_as_much_room_as_it_needs,
            /// I3: a limit counts the sessions of its user alone.
            limits::i3_a_limit_counts_one_user_alone,
            /// I3: the session that a sign-in replaces ends with it and is not counted.
            limits::i3_the_replaced_session_ends_and_is_not_counted,
            /// I3: the replaced session may be another user's, in another partition.
            limits::i3_a_session_of_somebody_else_can_be_replaced,
            /// I3: a refused sign-in ends nothing and takes no idempotency key.
            limits::i3_a_refusal_ends_and_creates_nothing,
            /// I3: a repeated try ends the first one's session, uncounted.
            limits::i3_a_repeated_try_ends_the_first_and_is_not_counted,
            /// I3: a creation that is sent again after a cut connection has succeeded.
            limits::i3_a_creation_sent_again_changes_nothing,
            /// I3: parallel tries with one idempotency key leave one session.
            limits::i3_parallel_tries_with_one_idempotency_key_leave_one_session,
            /// I3: a session in which somebody acts as another is limited by nothing, and neither counted nor evicted.
            limits::i3_acting_as_another_counts_for_nobodys_limit,
            /// I3: a disabled user's sessions end and none starts until the user is enabled.
            limits::i3_a_disabled_user_is_refused_until_enabled,
            /// I3: who has no session can be disabled too.
            limits::i3_a_user_without_a_session_can_be_disabled,
            /// I3: a sign-in that authenticated before all of the user's sessions were ended is refused.
            limits::i3_a_sign_in_from_before_the_end_of_all_is_refused,
            /// I3: who acts as a user is refused by what ended all of the user's sessions after that, whenever they
            /// authenticated themselves.
            limits::i3_acting_as_another_is_fenced_by_when_it_started,
            /// I3: no sign-in under way slips past the disabling of its user, nor does one who acts as the user.
            limits::i3_no_sign_in_slips_past_disabling,

            /// I4: the index is exact after every step of random work.
            index::i4_the_user_index_is_exact_after_random_work,
            /// I4: and after parallel work.
            index::i4_the_user_index_is_exact_after_parallel_work,
            /// I4: a listing shows everything about a session but its data.
            index::i4_a_listing_shows_what_is_stored_without_the_data,
            /// I4: a user's sessions are listed newest first.
            index::i4_a_user_is_listed_newest_first,
            /// I4: a query matches every field given, with a user and without.
            index::i4_a_query_matches_every_field_given,
            /// I4: what a sign-in ended is not listed any more.
            index::i4_evicted_and_replaced_sessions_leave_the_index,
            /// I4: what calls leave behind fits together, as far as the store's own examination can tell.
            examining::i4_a_store_in_use_is_found_sound_and_nothing_in_it_is_repaired,
            /// I4: paging through a user shows nothing twice and misses nothing that was there throughout.
            paging::i4_paging_through_a_user_stays_right_while_sessions_come_and_go,
            /// I4: nor does paging through everything.
            paging::i4_paging_through_everything_stays_right_while_sessions_come_and_go,
            /// I4: the size of pages changes nothing.
            paging::i4_pages_of_any_size_show_the_same,
            /// I4: a cursor that no store gave is the caller's mistake, not a failure.
            paging::i4_a_cursor_of_somebody_elses_is_an_error_that_says_so,

            /// A user of the directory is put, found, listed and deleted.
            directory::a_user_is_put_found_and_deleted,
            /// What a put says it takes the place of must be there.
            directory::a_put_that_saw_something_else_changes_nothing,
            /// A put that is sent again after a cut connection has succeeded.
            directory::a_put_sent_again_has_succeeded,
            /// Of parallel changes of one user's entry none is lost.
            directory::no_parallel_change_of_a_user_is_lost,
            /// I17: no collation, trimming or normalisation takes two users of the directory for one.
            directory::users_and_their_settings_come_back_byte_for_byte,
            /// Paging through the directory shows nobody twice and misses nobody that was there throughout.
            directory::paging_through_users_stays_right_while_they_come_and_go,
            /// A cursor that no store gave is the caller's mistake, not a failure.
            directory::a_cursor_of_somebody_elses_is_refused,
            /// A sign-in is noted in the directory, in its own transaction.
            directory::insert_session_record_notes_the_users_last_sign_in,
            /// Who acts as somebody else does not sign them in.
            directory::set_impersonated_leaves_the_targets_last_sign_in,
            /// Nor does a refused sign-in.
            directory::a_refused_sign_in_is_not_noted,
            /// An entry can be copied from one store to another as it is.
            directory::an_entry_moves_with_its_last_sign_in,
            /// Of parallel sign-ins the latest stays noted.
            directory::parallel_sign_ins_leave_the_latest,

            /// I5: a deadline has passed at its very millisecond.
            expiry::i5_a_deadline_has_passed_at_its_very_millisecond,
            /// I5: of two deadlines the earlier one gives reason and time, reaped or not.
            expiry::i5_the_earlier_deadline_gives_the_reason,
            /// I5: what expired is dead to load, update, touch, rotate, lists and limits before anything reaped it.
            expiry::i5_what_expired_is_dead_to_every_call_before_it_is_reaped,
            /// I5: a changed deadline counts at once, for reapers too.
            expiry::i5_a_change_of_deadlines_counts_at_once,
            /// I5: use moves the idle deadline and never the absolute one.
            expiry::i5_use_moves_the_idle_deadline_but_not_the_absolute_one,
            /// I5: a session without deadlines lives on.
            expiry::i5_without_a_deadline_a_session_lives_on,
            /// I5: the clock of the backend decides nothing.
            expiry::i5_the_stores_own_clock_plays_no_part,

            /// I6: touches that arrive out of order never move last-seen back.
            touches::i6_touches_out_of_order_never_move_back,
            /// I6: touches and rotations leave version, data and fields.
            touches::i6_touches_and_rotations_leave_the_version,
            /// I6: changes leave last-seen.
            touches::i6_changes_leave_last_seen,
            /// I6: each touch of a batch is answered, in the order asked.
            touches::i6_a_batch_of_touches_is_answered_in_the_order_asked,
            /// I6: parallel batches in opposite orders do not deadlock, and the latest use stays.
            touches::i6_of_parallel_touches_the_latest_stays,

            /// I7: no secret is in records, answers or the audit log, nor do they show data.
            secrecy::i7_no_secret_is_in_what_a_store_answers,
            /// I7: no secret is in the bytes that a store keeps.
            secrecy::i7_no_secret_is_in_what_a_store_keeps,

            /// I8: a reap ends what expired, for its reason, and nothing else.
            reaping::i8_reaping_ends_what_expired_and_nothing_else,
            /// I8: a reap keeps to its limit and says that more is left.
            reaping::i8_a_reap_ends_at_most_its_limit_and_says_whether_more_is_left,
            /// I8: of parallel reapers one ends each session, with one audit entry.
            reaping::i8_parallel_reapers_end_each_session_once,
            /// I8: a session that was used meanwhile is not reaped.
            reaping::i8_a_session_used_meanwhile_is_not_reaped,
            /// I8: tombstones stay until their time, and not longer.
            reaping::i8_tombstones_are_forgotten_when_their_time_has_come,
            /// I8: a limit delays the forgetting and does not prevent it.
            reaping::i8_a_limited_reap_forgets_every_tombstone_in_the_end,
            /// I8: audit entries stay until their time, and readers go on past the forgotten ones.
            reaping::i8_audit_entries_are_forgotten_when_their_time_has_come,

            /// I12: of parallel lockers one is granted the lock; the others learn for how long.
            locks::i12_of_parallel_lockers_one_is_granted,
            /// I12: a grant implies a fresh load.
            locks::i12_a_grant_answers_with_the_record_as_it_is_now,
            /// I12: a lease frees the lock at its very end.
            locks::i12_a_lease_frees_the_lock_at_its_very_end,
            /// I12: a lock that is given back is free at once, and only its holder gives it back.
            locks::i12_a_lock_that_is_given_back_is_free_at_once,
            /// I12: a renewal lengthens a lease that still holds.
            locks::i12_a_renewed_lease_lasts_longer_and_never_shorter,
            /// I12: a holder whose lease ran out cannot write, whoever has the lock now.
            locks::i12_a_holder_whose_lease_ran_out_writes_nothing,
            /// I12: a lock excludes lockers alone.
            locks::i12_a_lock_stops_neither_writers_without_one_nor_endings,
            /// I12: what ended, expired or never was is not locked.
            locks::i12_what_is_gone_is_neither_locked_nor_renewed_nor_unlocked,

            /// I16: start, rotation, privilege change and end are entries with everything they should tell.
            logging::i16_the_log_tells_a_session_from_start_to_end,
            /// I16: what changes nothing, and what is not worth an entry, is not in the log.
            logging::i16_what_changes_nothing_is_not_in_the_log,
            /// I16: a repeated change is logged once.
            logging::i16_a_repeated_change_is_logged_once,
            /// I16: a sign-in logs the sessions it ended, each with its reason.
            logging::i16_a_sign_in_logs_whom_it_ended_and_why,
            /// I16: a refusal is logged with what was refused.
            logging::i16_a_refusal_is_logged_with_what_was_refused,
            /// I16: what a start notes is in its entry, or in that of its refusal.
            logging::i16_what_a_start_notes_is_logged,
            /// I16: that somebody acts as another is logged as that.
            logging::i16_acting_as_another_is_logged_as_that,
            /// I16: a refusal outside the store is logged, about any session or none.
            logging::i16_what_is_refused_outside_the_store_is_logged,
            /// I16: every event comes back.
            values::i16_every_event_comes_back,
            /// I16: the ending of all sessions of a user is logged for each.
            logging::i16_ending_all_of_a_user_logs_each_of_them,
            /// I16: an expiry is logged when it is noticed, with the time of its deadline.
            logging::i16_an_expiry_is_logged_with_its_deadline,
            /// I16: the audit log reads the same in pages of any size.
            paging::i16_the_audit_log_reads_the_same_in_pages_of_any_size,
            /// I16: a reader that goes on from the last entry it saw misses none and sees none twice.
            paging::i16_a_reader_goes_on_from_the_last_entry_it_saw,

            /// I17: values come back byte for byte: escapes, numbers beyond any type, the order of nested keys.
            values::i17_values_come_back_byte_for_byte,
            /// I17: keys are names, never paths, patterns or parameters, in any script.
            values::i17_keys_are_names_and_nothing_else,
            /// I17: values of 64 KiB, keys of 128 bytes and a thousand keys come back.
            values::i17_large_values_and_long_keys_come_back,
            /// I17: no collation, trimming or normalisation takes two users for one.
            values::i17_users_are_compared_byte_for_byte,
            /// I17: every field of a record comes back, full and empty.
            values::i17_every_field_comes_back,
            /// I17: every assurance level comes back.
            values::i17_every_level_comes_back,
            /// I17: an IPv4 address and the IPv6 address that maps it are two.
            values::i17_addresses_keep_their_family,
            /// I17: who ended a session and what they noted come back.
            values::i17_remarks_come_back,
            /// I17: every reason comes back.
            values::i17_every_reason_comes_back,

            /// I17: sessions, tombstones and fences that move in come out again as they were, once is as good as twice.
            transfer::i17_what_moves_in_moves_out_as_it_was,
            /// I17: what changes, rotations, touches, locks and endings left moves as it is.
            transfer::i17_what_calls_left_moves_as_it_is,
            /// I4: a session that moved in is found, counted, retried and reaped as one that started there.
            transfer::i4_a_moved_session_is_in_every_index,
            /// I2: a session that ended here stays ended, whatever moves in.
            transfer::i2_moving_in_brings_no_ended_session_back,
            /// I2: one that ended there ends here.
            transfer::i2_a_tombstone_that_moves_in_ends_its_session,
            /// I6: what moves in never turns a session back.
            transfer::i6_of_two_states_the_newer_one_stays,
            /// I3: who was kept out there is kept out here.
            transfer::i3_a_fence_that_moves_in_keeps_sign_ins_out,
            /// I8: and what moved in is forgotten when its time has come.
            transfer::i8_moved_tombstones_and_fences_are_forgotten_in_time,
            /// I4: the size of an export's pages changes nothing, and a cursor of somebody else's is an error.
            transfer::i4_an_export_shows_the_same_in_pages_of_any_size,
            /// I4: an export misses nothing that stays while other sessions end.
            transfer::i4_an_export_goes_on_behind_what_ended_meanwhile,
            /// I3: a store takes over another one's partition key while it is empty, and not later.
            transfer::i3_a_key_is_adopted_by_an_empty_store_alone,
            /// I3: tombstones and fences are something, too.
            transfer::i3_a_store_that_holds_anything_adopts_no_key,
            /// I3: a session whose user belongs elsewhere does not move in.
            transfer::i3_a_session_of_another_key_does_not_move_in,

            /// L4: of fifty parallel rotations one wins, and the losers keep a working token.
            rotation::l4_of_fifty_parallel_rotations_one_wins_and_nobody_is_signed_out,
            /// L3: the grace of a predecessor starts when its successor is first presented.
            rotation::l3_the_grace_starts_when_the_successor_is_first_presented,
            /// L3: a touch that is older than the last one still starts it.
            rotation::l3_an_old_touch_still_starts_the_grace,
            /// L3: who never got the answer rotates again with the predecessor.
            rotation::l3_a_lost_answer_lets_the_predecessor_rotate_again_after_the_grace,
            /// L4: a rotation that is sent again after a cut connection has succeeded.
            rotation::l4_a_rotation_sent_again_changes_nothing,
            /// L3: a dead or unknown secret rotates nothing.
            rotation::l3_a_secret_that_is_not_current_rotates_nothing,
            /// L3: the last four predecessors are kept with their graces, newest first.
            rotation::l3_only_the_last_few_predecessors_are_kept,
            /// L3: rotation loses no change in flight, nor is it lost itself.
            rotation::l3_rotation_and_changes_in_flight_keep_each_other,
            /// L2: a rotation at once kills every earlier secret, and their reuse is evidence of nothing.
            rotation::l2_a_rotation_at_once_withdraws_every_earlier_secret,
            /// L3: a tombstone knows all secrets of its session.
            rotation::l3_a_tombstone_knows_every_secret_of_its_session,
        }
    };
}

/// Mounts the conformance suite on a store, each check as a test of its own. See [the module](crate::testing).
#[macro_export]
macro_rules! conformance {
    (mod $name:ident: $($subject:tt)+) => {
        mod $name {
            use super::*;
            $crate::conformance!($($subject)+);
        }
    };
    (|$dir:ident| $open:expr $(, raw: $raw:expr)? $(, if: $there:expr)? $(,)?) => {
        fn __is_there() -> bool {
            true $(&& $there)?
        }

        fn open_subject(
            scratch: $crate::testing::ScratchDir,
        ) -> $crate::store::BoxFuture<'static, $crate::testing::Subject> {
            Box::pin(async move {
                let $dir = scratch.path().to_path_buf();
                let subject = $crate::testing::Subject::new($open, scratch);
                $(let subject = subject.raw(|$dir| Box::pin(async move { $raw }));)?
                subject
            })
        }

        $crate::__each_check! { [$crate::__mount] }
    };
    ($open:expr $(, raw: $raw:expr)? $(, if: $there:expr)? $(,)?) => {
        $crate::conformance!(|_dir| $open $(, raw: $raw)? $(, if: $there)?);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __mount {
    ([] $($(#[doc = $doc:literal])+ $room:ident::$name:ident,)+) => {
        $(
            #[test]
            fn $name() {
                if __is_there() {
                    $crate::testing::run($crate::testing::checks::$name, open_subject);
                }
            }
        )+

        #[test]
        fn state_machine() {
            if __is_there() {
                $crate::testing::run_state_machine(open_subject);
            }
        }
    };
}
