//! Which sessions: what an operator looks at is what ending them would end.

use std::{sync::Arc, time::Duration};

use cloakroom::{Timestamp, client::ClientIp, period::parse_period, store::Query};
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::{fault::Fault, fields::Fields, html::stranger};
use crate::percent;

/// Sessions that match every field given; all of them if none is.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) user: Option<Arc<str>>,
    impersonated_by: Option<Arc<str>>,
    ip: Option<ClientIp>,
    device: Option<Arc<str>>,
    /// As it was written, and what it means.
    idle: Option<(String, Duration)>,
}

impl Filter {
    /// The names of its fields.
    pub(super) const FIELDS: [&str; 5] = ["user", "impersonated_by", "ip", "device", "idle"];

    pub(super) fn of(fields: &Fields) -> Result<Self, Fault> {
        let text = |name| fields.text(name).map(Arc::from);
        let idle = fields.text("idle").map(str::trim).filter(|text| !text.is_empty());
        let idle = idle.map(|text| Ok::<_, Fault>((text.to_owned(), parse_period(text)?))).transpose()?;
        Ok(Self {
            user: text("user"),
            impersonated_by: text("impersonated_by"),
            ip: fields.read("ip")?,
            device: text("device"),
            idle,
        })
    }

    pub(super) fn of_user(user: Arc<str>) -> Self {
        Self { user: Some(user), ..Self::default() }
    }

    /// Whether it names all sessions there are.
    pub(super) fn is_empty(&self) -> bool {
        self.values().is_empty()
    }

    pub(super) fn query(&self, now: Timestamp) -> Query {
        Query {
            user: self.user.clone(),
            impersonated_by: self.impersonated_by.clone(),
            ip: self.ip.map(ClientIp::get),
            device: self.device.clone(),
            last_seen_before: self.idle.as_ref().map(|(_, idle)| now.before(*idle)),
        }
    }

    /// The same, as the API's call that ends sessions takes it.
    pub(super) fn body(&self) -> Map<String, Value> {
        let mut body = Map::new();
        if self.is_empty() {
            body.insert("all".into(), true.into());
        }
        for (name, value) in self.values() {
            match &self.idle {
                Some((_, idle)) if name == "idle" => body.insert("idle_longer_than".into(), json!(idle.as_secs())),
                _ => body.insert(name.into(), value.into()),
            };
        }
        body
    }

    /// As the query of an address, with more behind it.
    pub(super) fn to_query(&self) -> String {
        let pairs = self.values().into_iter().map(|(name, value)| format!("{name}={}", percent::encoded(&value)));
        pairs.collect::<Vec<_>>().join("&")
    }

    /// As hidden fields of a form.
    pub(super) fn hidden(&self) -> Markup {
        html! {
            @for (name, value) in self.values() {
                input type="hidden" name=(name) value=(value);
            }
        }
    }

    /// In words, behind "sessions".
    pub(super) fn words(&self) -> Markup {
        html! {
            @if self.is_empty() { " of every user and visitor" }
            @for (name, value) in self.values() {
                @match name {
                    "user" => " of user ",
                    "impersonated_by" => " impersonated by ",
                    "ip" => " from ",
                    "device" => " on ",
                    _ => " idle longer than ",
                }
                strong { bdi { (stranger(&value)) } }
            }
        }
    }

    /// The form that says which sessions are shown.
    pub(super) fn form(&self) -> Markup {
        let value = |wanted: &str| self.values().into_iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        let field = |name: &str, label: &str, example: &str| {
            html! {
                div.field {
                    label for=(name) { (label) }
                    input id=(name) name=(name) value=[value(name)] placeholder=(example) autocomplete="off"
                        spellcheck="false" autocapitalize="none";
                }
            }
        };
        html! {
            form.filter method="get" action="/console/sessions" role="search" aria-label="Filter sessions" {
                (field("user", "User", "anna"))
                (field("ip", "Address", "203.0.113.7"))
                (field("device", "Device", "Firefox on Windows"))
                (field("idle", "Idle longer than", "1h"))
                (field("impersonated_by", "Impersonated by", "rita"))
                div.actions {
                    button.primary type="submit" { "Filter" }
                    @if !self.is_empty() { a.button href="/console/sessions" { "Clear" } }
                }
            }
        }
    }

    fn values(&self) -> Vec<(&'static str, String)> {
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        let values = [
            text(&self.user),
            text(&self.impersonated_by),
            self.ip.map(|ip| ip.to_string()),
            text(&self.device),
            self.idle.as_ref().map(|(text, _)| text.clone()),
        ];
        Self::FIELDS.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
    }
}
