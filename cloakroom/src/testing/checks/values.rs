//! I17: what is set is what is got, byte for byte.

use std::{collections::HashSet, time::Duration};

use super::fixtures::{NOW, Start, anonymous, at, change, digest, json, set};
use crate::{
    assurance::Assurance,
    audit::{AuditEntry, Event},
    ended::{Ending, Reason},
    lease::Lease,
    record::{Acting, Authentication, RecentChanges},
    rules::{EndAnswer, Fence, Which},
    secrets::Predecessor,
    store::{AuditQuery, Query},
    testing::Subject,
};

/// Values that an encoder or a database likes to change.
const VALUES: &[&str] = &[
    r#""\u0000""#,
    r#""\u0000 in the \u0000 middle""#,
    r#""é is not \u00e9 to whoever compares text""#,
    r#""\ud83d\ude00 😀""#,
    r#""\/ / \" \\ ' ` %s %00 $1 ? :name {} -- ;""#,
    "-0.0",
    "-0",
    "0",
    "1.0",
    "1.10",
    "18446744073709551615",
    "-9223372036854775808",
    "123456789012345678901234567890",
    "1e400",
    "-1E+400",
    "0.1e-400",
    r#"{"z":1,"a":2,"m":{"y":1,"b":2}}"#,
    r#"{"twice":1,"twice":2}"#,
    "[1, 2 ,\t3,\n4]",
    "null",
    "true",
    "false",
    r#""""#,
    "[]",
    "{}",
    "\"\u{7f}\u{80}\u{2028}\u{feff}\u{ffff}\u{10ffff}\"",
];

/// Keys that could be taken for a path, a pattern, a parameter or another key.
const KEYS: &[&str] = &[
    "plain",
    "Plain",
    "PLAIN",
    "a.b",
    "a.b.c",
    "$",
    "$.a",
    "$[0]",
    "[0]",
    "a[0].b",
    "\"",
    "\"quoted\"",
    "'",
    "it's",
    "\\",
    "\\u0041",
    "%",
    "%s",
    "_",
    "p_ain",
    "*",
    "?",
    ":a",
    "@a",
    "#",
    "{}",
    "a b",
    " a",
    "a ",
    "0",
    "-1",
    "NULL",
    "null",
    "ключ",
    "鍵",
    "مفتاح",
    "é",
    "e\u{301}",
    "ı",
    "ß",
    "ss",
    "😀",
    "a\u{200d}b",
    "; drop table sessions; --",
    "version",
    "user",
];

/// Users that a collation, a trim or a normalisation would take for one another.
pub(super) const USERS: &[&str] = &[
    "anna",
    "Anna",
    "ANNA",
    "anna ",
    " anna",
    "änna",
    "a\u{308}nna",
    "aenna",
    "a%",
    "a_na",
    "a*",
    "anna\\",
    "'anna'",
    "\"anna\"",
    "ß",
    "ss",
    "ẞ",
    "ı",
    "i",
    "I",
    "İ",
    "анна",
    "аnna",
    "安娜",
    "آنا",
    "😀",
    "😁",
    "👩\u{200d}🦰",
    "\u{200d}",
    "anna\u{200b}",
    "0",
    "00",
    "null",
    "",
];

pub(super) async fn i17_values_come_back_byte_for_byte(subject: &Subject) {
    let started = VALUES.iter().zip(0..).fold(anonymous(), |start, (text, n)| start.data(&format!("k{n}"), text));
    let from_start = subject.begin(started).await;
    let updated = subject.begin(anonymous()).await;
    let mut change = change();
    for (text, n) in VALUES.iter().zip(0..) {
        change.set(format!("k{n}"), json(text));
    }
    subject.apply(updated, &change).await;
    for id in [from_start, updated] {
        let record = subject.record(id, NOW).await;
        for (text, n) in VALUES.iter().zip(0..) {
            assert_eq!(record.data.get(&format!("k{n}")).map(crate::data::JsonRef::as_str), Some(*text));
        }
        assert_eq!(record.data.len(), VALUES.len());
    }

    // What was stored can be relied on as it came back.
    for (text, n) in VALUES.iter().zip(0..) {
        let key = format!("k{n}");
        let mut relying = set(&key, "\"seen\"");
        relying.relied_on.insert(key.as_str().into(), Some(json(text)));
        subject.apply(updated, &relying).await;
    }
}

pub(super) async fn i17_keys_are_names_and_nothing_else(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    for key in KEYS {
        subject.apply(id, &set(key, &json_text(key))).await;
    }
    let record = subject.record(id, NOW).await;
    let mut expected: Vec<_> = KEYS.iter().map(|key| ((*key).to_owned(), json_text(key))).collect();
    expected.sort_unstable();
    let stored: Vec<_> = record.data.iter().map(|(key, value)| (key.to_string(), value.as_str().to_owned())).collect();
    assert_eq!(stored, expected, "each key its own, in the order of their bytes");

    // Removing one leaves all others.
    for (removed, key) in KEYS.iter().enumerate() {
        let mut relying = change();
        relying.remove(*key);
        relying.relied_on.insert((*key).into(), Some(json(&json_text(key))));
        let left = subject.apply(id, &relying).await;
        assert_eq!(left.data.get(key), None);
        assert_eq!(left.data.len(), KEYS.len() - removed - 1, "removing {key:?}");
    }
}

fn json_text(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}

pub(super) async fn i17_large_values_and_long_keys_come_back(subject: &Subject) {
    let large = format!("\"{}\"", "0123456789abcdef".repeat(4096));
    let long_key = "ключ".repeat(16);
    let mut change = set(&long_key, &large);
    change.max_data_bytes = 256 * 1024;
    let start = anonymous().data("from the start", &large);
    let id = subject.begin(start).await;
    let record = subject.apply(id, &change).await;
    assert_eq!(subject.record(id, NOW).await, record);
    assert_eq!(record.data.get(&long_key), Some(json(&large).as_ref()));
    assert_eq!(record.data.get("from the start"), Some(json(&large).as_ref()));
    assert_eq!(long_key.len(), 128);

    let many = subject.begin((0..1000).fold(anonymous(), |start, n| start.data(&format!("k{n}"), "1"))).await;
    assert_eq!(subject.record(many, NOW).await.data.len(), 1000);
}

pub(super) async fn i17_users_are_compared_byte_for_byte(subject: &Subject) {
    let mut ids = Vec::new();
    for user in USERS {
        ids.push(subject.begin(subject.sign_in(user)).await);
    }
    for (user, id) in USERS.iter().zip(&ids) {
        let found = subject.find(&Query::of_user(*user), NOW).await;
        assert_eq!(found.len(), 1, "{user:?}");
        assert_eq!((found[0].id, found[0].user.as_deref()), (*id, Some(*user)));
        let query = AuditQuery { user: Some((*user).into()), session: None };
        let log = subject.log_in_pages(&query, 10).await;
        assert_eq!(log.iter().map(|entry| entry.session).collect::<Vec<_>>(), [*id], "{user:?}");
    }
    for (n, user) in USERS.iter().enumerate() {
        let which = Which::OfUser { user: (*user).into(), except: Vec::new(), fence: Fence::Disabled };
        let answers = subject.store.end(&which, &Reason::UserDisabled.into(), at(1)).await.unwrap();
        assert!(matches!(&answers[..], [EndAnswer::EndedNow(ended)] if ended.id == ids[n]), "{user:?}: {answers:?}");
    }
    subject.store.enable_user("anna", at(2)).await.unwrap();
    subject.begin(subject.sign_in("anna").at(at(2))).await;
    let refused = subject.create(&subject.sign_in("Anna").at(at(2))).await;
    assert!(matches!(refused, crate::rules::Created::Refused(_)), "enabling anna enabled Anna");
}

pub(super) async fn i17_every_field_comes_back(subject: &Subject) {
    let start = with_every_field(subject.sign_in("анна 😀"));
    let expected = start.create.record.clone();
    let id = subject.begin(start).await;
    assert_eq!(*subject.record(id, NOW).await, expected);
    assert_eq!(subject.find(&Query::of_user("анна 😀"), NOW).await, [expected.info]);

    let bare = anonymous();
    let expected = bare.create.record.clone();
    let id = subject.begin(bare).await;
    assert_eq!(*subject.record(id, NOW).await, expected);
}

/// With something in every field, and not what is usual there.
pub(super) fn with_every_field(start: Start) -> Start {
    let elsewhere = anonymous().id();
    let mut start = start.data("a", "1").idempotency(digest(9)).with(|info| {
        info.full_name = Some("Anna 'the \"cat\"' O\\Neil; --".into());
        info.user_type = Some("".into());
        info.created_at = at(-7);
        info.last_seen_at = at(-3);
        info.authentication =
            Some(Authentication { at: at(-5), methods: Some("pwd otp".into()), level: Some(Assurance::Aal3) });
        info.idle_timeout = Some(Duration::from_millis(86_400_123));
        info.ends_at = Some(at(90_000_001));
        info.remember = true;
        info.client.user_agent = Some("Mozilla/5.0 (é; 😀) %00".into());
        info.client.device = Some(" Anna's phone ".into());
        info.client.country = Some("DE".into());
        info.acting = Some(Acting { by: "Root".into(), returns_to: Some(elsewhere) });
        info.audit_user = Some("auditor ".into());
        info.version = u64::from(u32::MAX) + 1;
    });
    let record = &mut start.create.record;
    record.lease = Lease { number: u64::from(u32::MAX) + 7, until: at(77) };
    record.recent_changes = RecentChanges::from_ids([0, 1, u64::MAX, 1 << 63, (1 << 63) - 1]);
    record.secrets.issued_at = at(-2);
    record.secrets.rotations = 2;
    record.secrets.predecessors = vec![
        Predecessor { digest: digest(0), grace_ends: None },
        Predecessor { digest: digest(255), grace_ends: Some(at(-1)) },
    ];
    start
}

pub(super) async fn i17_addresses_keep_their_family(subject: &Subject) {
    let mut seen = HashSet::new();
    for text in ["192.0.2.1", "::ffff:192.0.2.1", "::", "0.0.0.0", "2001:db8::1", "fe80::1"] {
        let start = subject.sign_in(text).with(|info| info.client.ip = Some(text.parse().unwrap()));
        let id = subject.begin(start).await;
        assert_eq!(subject.record(id, NOW).await.info.client.ip, Some(text.parse().unwrap()));
        let query = Query { ip: Some(text.parse().unwrap()), ..Query::default() };
        let found: Vec<_> = subject.find(&query, NOW).await.into_iter().map(|info| info.id).collect();
        assert_eq!(found, [id], "{text}");
        assert_eq!(subject.log_of(id).await[0].ip, Some(text.parse().unwrap()));
        assert!(seen.insert(id));
    }
}

pub(super) async fn i17_remarks_come_back(subject: &Subject) {
    for text in ["it's \"quoted\"; --", "😀 \u{301}", " spaces ", "line\nbreak\ttab", ""] {
        let id = subject.begin(subject.sign_in("anna")).await;
        let ending = Ending::new(Reason::RevokedByAdmin).by(text).note(text);
        subject.end(id, ending.clone(), at(1)).await;
        assert_eq!(subject.tombstone(id, at(1)).await.ended, ending.of(id, Some("anna".into()), at(1)));
        let entry = subject.log_of(id).await.remove(1);
        assert_eq!((entry.by.as_deref(), entry.note.as_deref()), (Some(text), Some(text)));
    }
}

pub(super) async fn i17_every_level_comes_back(subject: &Subject) {
    for level in Assurance::ALL {
        let id = subject
            .begin(subject.sign_in("anna").with(|info| {
                info.authentication = Some(Authentication { level: Some(*level), ..Authentication::at(NOW) });
            }))
            .await;
        assert_eq!(subject.record(id, NOW).await.info.level(), Some(*level));
    }
}

pub(super) async fn i16_every_event_comes_back(subject: &Subject) {
    let start = anonymous();
    let entries = Event::ALL.iter().map(|event| AuditEntry::about(&start.create.record.info, *event, at(1)));
    let entries: Vec<_> = entries.collect();
    for entry in &entries {
        subject.store.log(entry, at(1)).await.unwrap();
    }
    assert_eq!(subject.log_of(start.id()).await, entries);
}

pub(super) async fn i17_every_reason_comes_back(subject: &Subject) {
    for reason in Reason::ALL {
        let id = subject.begin(subject.sign_in("anna")).await;
        subject.end(id, *reason, at(1)).await;
        assert_eq!(subject.tombstone(id, at(1)).await.ended.reason, *reason);
        assert_eq!(subject.log_of(id).await[1].reason, Some(*reason));
    }
}
