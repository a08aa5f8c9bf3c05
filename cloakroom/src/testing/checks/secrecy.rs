//! I7: no secret is stored, shown or audited, in any encoding.

use std::fmt::Write;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

use super::fixtures::{NOW, at, digest, set, token_for};
use crate::{
    admission::Limit,
    ended::Reason,
    store::{AuditQuery, Query},
    testing::Subject,
    token::{SessionId, Token},
};

pub(super) async fn i7_no_secret_is_in_what_a_store_answers(subject: &Subject) {
    let (tokens, shown) = session_with_everything(subject).await;
    assert!(shown.contains(&tokens[0].id().to_string()), "ids may be shown, and are");
    assert_no_secret(&tokens, shown.as_bytes());
    assert!(!shown.contains("4111 1111"), "nor what the application keeps, which may be personal");
    assert!(!format!("{:?}", subject.store).contains("4111 1111"));
}

pub(super) async fn i7_no_secret_is_in_what_a_store_keeps(subject: &Subject) {
    let (tokens, _) = session_with_everything(subject).await;
    let raw = subject.raw_bytes().await;
    // A store in memory keeps nothing that could be read from outside. Every other keeps the user's name somewhere.
    assert!(raw.is_empty() || contains(&raw, b"anna of the i7 check"), "these are not the bytes of the store");
    assert_no_secret(&tokens, &raw);
}

/// A session that went through everything, every token it had, and all that was answered about it.
async fn session_with_everything(subject: &Subject) -> (Vec<Token>, String) {
    let user = "anna of the i7 check";
    let start = subject.sign_in(user).idle(1000).data("card", "\"4111 1111\"").idempotency(digest(3)).by("gateway");
    let id = start.id();
    let mut tokens = vec![start.token.clone(), token_for(id), token_for(id)];
    let mut shown = format!("{:?} {:?}", start.create, subject.create(&start).await);
    let mut show = |what: &dyn std::fmt::Debug| writeln!(shown, "{what:?}").expect("a string takes everything");

    show(&subject.rotate(&tokens[0], &tokens[1], at(1)).await);
    show(&subject.rotate(&tokens[1], &tokens[2], at(2)).await);
    show(&subject.rotate(&tokens[0], &token_for(id), at(3)).await);
    show(&subject.update(id, &set("other card", "\"4111 1111\""), NOW).await);
    show(&subject.load(id, at(3)).await);
    show(&subject.store.find(&Query::of_user(user), None, 10, at(3)).await);
    let refused = subject.sign_in(user).limit(Limit::refuse(1));
    show(&subject.create(&refused).await);
    let evicting = subject.sign_in(user).limit(Limit::evict(1));
    show(&subject.create(&evicting).await);
    show(&subject.load(id, at(4)).await);
    show(&subject.end(evicting.id(), Reason::SignedOut, at(4)).await);
    show(&subject.store.audit(&AuditQuery::default(), None, 100).await);
    tokens.extend([refused.token, evicting.token]);
    (tokens, shown)
}

fn assert_no_secret(tokens: &[Token], bytes: &[u8]) {
    for token in tokens {
        for (encoding, secret) in encodings(token) {
            assert!(!contains(bytes, &secret), "a secret in {encoding}");
        }
    }
}

/// The secret in every form it could leave traces in.
fn encodings(token: &Token) -> Vec<(&'static str, Vec<u8>)> {
    let text = token.reveal().split_off(SessionId::TEXT_LEN);
    let raw = URL_SAFE_NO_PAD.decode(&text).expect("a token is base64url");
    let hex = |digit: fn(u8) -> String| raw.iter().map(|byte| digit(*byte)).collect::<String>().into_bytes();
    vec![
        ("base64", STANDARD_NO_PAD.encode(&raw).into_bytes()),
        ("base64url", text.into_bytes()),
        ("hexadecimal", hex(|byte| format!("{byte:02x}"))),
        ("upper-case hexadecimal", hex(|byte| format!("{byte:02X}"))),
        ("the form of Debug", format!("{raw:?}").into_bytes()),
        ("raw bytes", raw),
    ]
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
