//! What a form or an address says.

use std::{fmt::Display, str::FromStr};

use http::StatusCode;

use super::fault::Fault;

/// The fields of a form, or the parameters of an address. One that is empty counts as left out.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Refuses names that are not `known`, and one that comes twice.
    pub(super) fn parse(text: &[u8], known: &[&str]) -> Result<Self, Fault> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text) {
            if !known.contains(&&*name) && name != "csrf_token" {
                return Err(Fault::field(&name, "this page does not know it"));
            }
            if fields.iter().any(|(other, _)| *other == name) {
                return Err(Fault::field(&name, "it is given twice"));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }

    /// As [`parse`](Self::parse), of an address.
    pub(super) fn of_query(query: Option<&str>, known: &[&str]) -> Result<Self, Fault> {
        Self::parse(query.unwrap_or_default().as_bytes(), known)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub(super) fn read<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Fault> {
        let text = self.text(name).map(str::trim).filter(|text| !text.is_empty());
        text.map(|text| text.parse().map_err(|error: T::Err| Fault::field(name, &error.to_string()))).transpose()
    }

    /// A box that has to be ticked.
    pub(super) fn require(&self, name: &str, why: &str) -> Result<(), Fault> {
        if self.text(name).is_some() {
            return Ok(());
        }
        Err(Fault::new(StatusCode::UNPROCESSABLE_ENTITY, "Nothing was done", why))
    }
}
