//! Answers of the API, member by member: all that the API says is shown, whatever is added to it.

use std::fmt;

use cloakroom::{Timestamp, period::format_period};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Unwritten, line, readable, seconds};

/// The members of a JSON object, in their order.
#[derive(Debug)]
pub(crate) struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl Members {
    /// The text of a member, or of one within it (`client.ip`); `None` if it is not there or no text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let (name, within) = name.split_once('.').map_or((name, None), |(name, rest)| (name, Some(rest)));
        let (_, value) = self.0.iter().find(|(member, _)| member == name)?;
        match within {
            Some(within) => serde_json::from_str::<Self>(value.get()).ok()?.text(within),
            None => serde_json::from_str(value.get()).ok()?,
        }
    }

    /// A member's JSON.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(member, _)| member == name).map(|(_, value)| value.get())
    }

    /// A member that is a time.
    pub(crate) fn time(&self, name: &str) -> Option<Timestamp> {
        self.text(name)?.parse().ok()
    }
}

/// A line for each member. What is in an object within counts as its own, but for session data.
pub(crate) fn details(members: &Members) -> Result<(), Unwritten> {
    for (name, value) in &members.0 {
        match serde_json::from_str::<Members>(value.get()) {
            Ok(data) if name == "data" => {
                for (key, value) in &data.0 {
                    detail("data", &format!("{key} = {value}"))?;
                }
            }
            Ok(within) if name == "client" => details(&within)?,
            Ok(within) => {
                for (inner, value) in &within.0 {
                    detail(&format!("{name} {inner}"), &readable_value(inner, value))?;
                }
            }
            Err(_) => detail(name, &readable_value(name, value))?,
        }
    }
    Ok(())
}

/// A name and what is said of it.
pub(crate) fn detail(name: &str, value: &str) -> Result<(), Unwritten> {
    line(&format!("{:<17} {value}", name.trim_end_matches("_seconds").replace('_', " ")))
}

/// An audit entry, on one line: when, what, of which session and user, and all else that is known.
pub(crate) fn entry(members: &Members) -> Result<(), Unwritten> {
    let text = |name: &str| members.text(name).unwrap_or_default();
    let at = members.time("at").map_or_else(|| text("at"), seconds);
    let user = members.text("user").unwrap_or_else(|| "(anonymous)".into());
    let mut shown = format!("{at}  {:<12}  {}  {user}", text("event"), text("session"));
    for (name, value) in &members.0 {
        if !["cursor", "at", "event", "session", "user"].contains(&name.as_str()) && value.get() != "null" {
            shown.extend(["  ", &name.replace('_', " "), ": ", &readable_value(name, value)]);
        }
    }
    line(&shown)
}

/// A value by what its name says it is.
fn readable_value(name: &str, value: &RawValue) -> String {
    let json = value.get();
    let text = serde_json::from_str::<String>(json).ok();
    if name == "at" || name.ends_with("_at") {
        match text.as_deref().map(str::parse::<Timestamp>) {
            Some(Ok(time)) => return readable(time),
            _ if json == "null" => return "never".into(),
            _ => {}
        }
    }
    if let (true, Ok(seconds)) = (name.ends_with("_seconds"), json.parse()) {
        return format_period(std::time::Duration::from_secs(seconds));
    }
    if let Some(text) = text {
        return text;
    }
    if let Ok(list) = serde_json::from_str::<Vec<String>>(json) {
        let none = if name == "allowed_networks" { "anywhere" } else { "-" };
        return if list.is_empty() { none.into() } else { list.join(", ") };
    }
    match json {
        "null" => "-".into(),
        "true" => "yes".into(),
        "false" => "no".into(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_by_what_they_are() {
        for (name, json, shown) in [
            ("user", r#""anna""#, "anna"),
            ("user", "null", "-"),
            ("ends_at", "null", "never"),
            ("idle_seconds", "3600", "01:00:00"),
            ("remember", "true", "yes"),
            ("level", "2", "2"),
            ("allowed_networks", r#"["10.0.0.0/8","::1"]"#, "10.0.0.0/8, ::1"),
            ("allowed_networks", "[]", "anywhere"),
        ] {
            let value = RawValue::from_string(json.to_owned()).unwrap();
            assert_eq!(readable_value(name, &value), shown);
        }
    }

    #[test]
    fn members_are_found_within_others() {
        let members: Members = serde_json::from_str(r#"{"client":{"ip":"::1","device":null},"at":"x"}"#).unwrap();
        assert_eq!(members.text("client.ip").as_deref(), Some("::1"));
        assert_eq!(members.text("client.device"), None);
        assert_eq!(members.text("user"), None);
        assert_eq!(members.time("at"), None);
    }
}
