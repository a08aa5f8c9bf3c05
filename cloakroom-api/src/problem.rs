//! What goes wrong, as clients see it: `application/problem+json` with a stable `code`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($name:ident, $status:literal, $code:literal, $title:literal;)+) => {
        /// Every kind of problem. Codes are stable; the reference of the API lists them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "their titles say what they are")]
        pub enum Code {
            $($name,)+
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            const fn parts(self) -> (u16, &'static str, &'static str) {
                match self { $(Self::$name => ($status, $code, $title),)+ }
            }
        }
    };
}

codes! {
    MalformedJson, 400, "malformed_json", "The body is not JSON";
    Unauthorized, 401, "unauthorized", "An API key is needed";
    NotSignedIn, 401, "not_signed_in", "Nobody is signed in";
    ScopeMissing, 403, "scope_missing", "The API key may not do this";
    UserDisabled, 403, "user_disabled", "The user is disabled";
    ImpersonationRefused, 403, "impersonation_refused", "Acting as another user is refused";
    NetworkNotAllowed, 403, "network_not_allowed", "The user may not come from this address";
    NotInDirectory, 403, "not_in_directory", "The user is not in the directory";
    AuditForbidden, 403, "audit_forbidden", "The auditor may not look into this account";
    RequirementNotMet, 403, "requirement_not_met", "The session is not what this place asks for";
    PolicyUnknown, 403, "policy_unknown", "There is no such policy";
    PathUnknown, 404, "path_unknown", "There is nothing at this path";
    SessionUnknown, 404, "session_unknown", "There is no such session";
    UserUnknown, 404, "user_unknown", "There is no such user";
    JobUnknown, 404, "job_unknown", "There is no such job";
    MethodNotAllowed, 405, "method_not_allowed", "The path does not take this method";
    RequestTimeout, 408, "request_timeout", "The request took too long to arrive";
    VersionConflict, 409, "version_conflict", "The session was changed meanwhile";
    SessionLimit, 409, "session_limit", "The user has as many sessions as allowed";
    EndedMeanwhile, 409, "ended_meanwhile", "The user's sessions were ended during the sign-in";
    Locked, 409, "locked", "Another caller holds the session's lock";
    LockLost, 409, "lock_lost", "The session's lock was lost";
    SessionEnded, 410, "session_ended", "The session ended";
    BodyTooLarge, 413, "body_too_large", "The body is too large";
    DataTooLarge, 413, "data_too_large", "The session's data would be too large";
    UnsupportedMediaType, 415, "unsupported_media_type", "The body must be JSON";
    UnexpectedBody, 422, "unexpected_body", "The call takes no body";
    TooManyKeys, 429, "too_many_keys", "Too many wrong API keys came from this address";
    UnknownField, 422, "unknown_field", "A field is not known";
    MissingField, 422, "missing_field", "A field is missing";
    DuplicateField, 422, "duplicate_field", "A field or key is given twice";
    InvalidField, 422, "invalid_field", "A field has a wrong value";
    InvalidParameter, 422, "invalid_parameter", "A query parameter is wrong";
    InvalidKey, 422, "invalid_key", "A session key cannot be used";
    NestedTooDeep, 422, "nested_too_deep", "A value nests too deep";
    NotANumber, 422, "not_a_number", "Only numbers can be added to";
    NumberOverflow, 422, "number_overflow", "The sum is too large";
    QueryEmpty, 422, "query_empty", "Nothing says which sessions are meant";
    Internal, 500, "internal", "The server failed";
    StoreFailed, 500, "store_failed", "The session store cannot be used";
    Contended, 503, "contended", "Too many change the same values at once";
    StoreUnavailable, 503, "store_unavailable", "The session store is unavailable";
    OutcomeUnknown, 503, "outcome_unknown", "Whether it was done is unknown";
    ReadOnly, 503, "read_only", "Sessions are read-only for now";
    ClockSkew, 503, "clock_skew", "This server's clock is off";
    NotReady, 503, "not_ready", "The server cannot work";
    OutOfFiles, 503, "out_of_files", "The server has too many files open";
    ShuttingDown, 503, "shutting_down", "The server shuts down";
}

impl Code {
    /// The status of an answer with it.
    pub const fn status(self) -> u16 {
        self.parts().0
    }

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        self.parts().1
    }

    /// What it means, in a sentence that may change.
    pub const fn title(self) -> &'static str {
        self.parts().2
    }
}

/// A problem, as far as all of them are alike. Many have members of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct Problem {
    /// A name for its kind, such as `urn:cloakroom:problem:session_ended`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What its kind means.
    pub title: String,
    /// The status of the answer.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// What programs decide by.
    pub code: String,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }
}
