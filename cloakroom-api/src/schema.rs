//! What values of other crates look like, for the OpenAPI document.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

macro_rules! schemas {
    ($($(#[$doc:meta])* $name:ident $schema:tt;)+) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )+};
}

schemas! {
    /// The public handle of a session.
    SessionId {
        "type": "string", "pattern": "^[A-Za-z0-9_-]{24}$",
        "description": "The public handle of a session: the same from start to end. It opens nothing, and is safe in logs and URLs.",
        "examples": ["zu6KP0ulQz66Y2jyI2okCcQP"]
    };
    /// A point in time.
    Time {
        "type": "string", "format": "date-time",
        "description": "RFC 3339, between 1970 and 9999. Answers are in UTC, with milliseconds.",
        "examples": ["2030-01-31T12:00:00.000Z"]
    };
    /// An address.
    Address {
        "type": "string",
        "description": "An IPv4 or IPv6 address, with or without a port, brackets or a zone.",
        "examples": ["192.0.2.7"]
    };
    /// A network.
    Network {
        "type": "string", "description": "An address or a network in CIDR notation.", "examples": ["10.0.0.0/8"]
    };
    /// What happens to a sign-in beyond the limit.
    WhenFull { "type": "string", "enum": ["evict", "refuse"] };
    /// Any JSON object.
    Object { "type": "object", "additionalProperties": true };
    /// Any JSON.
    Any {};
    /// A whole number without an upper bound that JSON knows of.
    Number { "type": "integer", "minimum": 0, "maximum": 18_446_744_073_709_551_615_u64 };
}

/// Why a session ended.
#[derive(Debug)]
pub struct Reason;

impl JsonSchema for Reason {
    fn schema_name() -> Cow<'static, str> {
        "Reason".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let codes: Vec<_> = cloakroom::Reason::ALL.iter().map(|reason| reason.code()).collect();
        json_schema!({ "type": "string", "enum": codes })
    }
}
