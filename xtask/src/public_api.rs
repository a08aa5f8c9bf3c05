//! `cargo xtask public-api`: what the library offers, a line an item, compared with the list that is checked in.
//!
//! The list is read from rustdoc's JSON, which stable compilers write too once they are asked as their own build asks them.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    command,
    workspace::{Workspace, cargo, root},
};

/// The list, from the workspace's root.
const LIST: &str = "cloakroom/public-api.txt";

/// Compares the list with what is so, or writes it anew.
pub(crate) fn run(bless: bool) -> Result<()> {
    let mut document = cargo(&["rustdoc", "--package", "cloakroom", "--lib", "--all-features", "--"]);
    document.args(["-Z", "unstable-options", "--output-format", "json"]).env("RUSTC_BOOTSTRAP", "1");
    command::run(&mut document)?;
    let path = Workspace::read()?.target.join("doc/cloakroom.json");
    let text = fs::read_to_string(&path).with_context(|| format!("{} was not written", path.display()))?;
    let items = Items(serde_json::from_str(&text).context("rustdoc's JSON cannot be read")?).list()?;
    let now = items.iter().fold(String::new(), |text, item| text + item + "\n");
    let list = root().join(LIST);
    let before = fs::read_to_string(&list).unwrap_or_default();
    if now == before {
        println!("{LIST}: {} items", items.len());
        return Ok(());
    }
    if bless {
        fs::write(&list, now)?;
        println!("{LIST} is written: {} items", items.len());
        return Ok(());
    }
    let before: BTreeSet<&str> = before.lines().collect();
    let now: BTreeSet<&str> = now.lines().collect();
    now.difference(&before).for_each(|line| eprintln!("+ {line}"));
    before.difference(&now).for_each(|line| eprintln!("- {line}"));
    bail!(
        "the public API is not what {LIST} says: if it is meant, `cargo xtask public-api --bless`, and commit the list"
    )
}

/// A crate as rustdoc describes it.
struct Items(Value);

impl Items {
    /// Every public item by its path, without those that traits of others bring along. One that has several paths is listed
    /// under that which is nearest to the front page.
    fn list(&self) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        let root = self.0.get("root").context("no root")?;
        self.module(root, "cloakroom", &mut found, &mut Vec::new());
        if found.len() < 100 {
            bail!("rustdoc's JSON has another shape than this reads: {} items were found", found.len());
        }
        Ok(found)
    }

    fn get(&self, id: &Value) -> Option<&Value> {
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        self.0.get("index")?.get(&id)
    }

    fn module(&self, id: &Value, path: &str, found: &mut BTreeSet<String>, seen: &mut Vec<Value>) {
        let Some(module) = self.get(id) else { return };
        let is_module = |child: &&Value| self.get(child).is_some_and(|child| child["inner"].get("module").is_some());
        let children = || members(&module["inner"]["module"], "items");
        for child in children().filter(|child| !is_module(child)).chain(children().filter(is_module)) {
            self.item(child, None, path, found, seen);
        }
    }

    /// An item under its own name, or under the one that a `pub use` gives it.
    fn item(&self, id: &Value, name: Option<&str>, path: &str, found: &mut BTreeSet<String>, seen: &mut Vec<Value>) {
        let Some(item) = self.get(id) else {
            // An item of another crate.
            found.extend(name.map(|name| format!("use {path}::{name}")));
            return;
        };
        if seen.contains(id) {
            return;
        }
        seen.push(id.clone());
        let Some((kind, inner)) = item["inner"].as_object().and_then(|inner| inner.iter().next()) else { return };
        let own = name.or_else(|| item["name"].as_str()).unwrap_or_default();
        let whole = format!("{path}::{own}");
        match kind.as_str() {
            "use" if inner["is_glob"] == true => self.module(&inner["id"], path, found, seen),
            "use" => self.item(&inner["id"], inner["name"].as_str(), path, found, seen),
            "module" => {
                found.insert(format!("mod {whole}"));
                self.module(id, &whole, found, seen);
            }
            "struct" => {
                found.insert(format!("struct {whole}"));
                for field in members(&inner["kind"]["plain"], "fields") {
                    found.extend(self.name(field).map(|name| format!("field {whole}::{name}")));
                }
                self.methods(inner, &whole, found);
            }
            "enum" => {
                found.insert(format!("enum {whole}"));
                for variant in members(inner, "variants") {
                    found.extend(self.name(variant).map(|name| format!("variant {whole}::{name}")));
                }
                self.methods(inner, &whole, found);
            }
            "trait" => {
                found.insert(format!("trait {whole}"));
                for member in members(inner, "items") {
                    found.extend(self.name(member).map(|name| format!("fn {whole}::{name}")));
                }
            }
            other => {
                let kind = match other {
                    "function" => "fn",
                    "constant" => "const",
                    "type_alias" => "type",
                    other => other,
                };
                found.insert(format!("{kind} {whole}"));
            }
        }
    }

    /// What an item's own `impl` blocks have.
    fn methods(&self, inner: &Value, whole: &str, found: &mut BTreeSet<String>) {
        for block in members(inner, "impls").filter_map(|id| self.get(id)) {
            let block = &block["inner"]["impl"];
            if block["trait"].is_null() {
                let public = members(block, "items").filter(|id| self.get(id).is_some_and(is_public));
                found.extend(public.filter_map(|id| self.name(id)).map(|name| format!("fn {whole}::{name}")));
            }
        }
    }

    fn name(&self, id: &Value) -> Option<&str> {
        self.get(id)?["name"].as_str()
    }
}

fn is_public(item: &Value) -> bool {
    item["visibility"] == "public" || item["visibility"] == "default"
}

fn members<'a>(of: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    of[name].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_are_listed_under_the_names_that_users_write() {
        let items = Items(json!({ "root": 0, "index": {
            "0": { "name": "cloakroom", "inner": { "module": { "items": [1, 2] } } },
            "1": { "name": null, "inner": { "use": { "id": 3, "name": "Renamed", "is_glob": false } } },
            "2": { "name": "web", "inner": { "module": { "items": [4] } } },
            "3": { "name": "Own", "inner": { "struct": { "kind": { "plain": { "fields": [5] } }, "impls": [6] } } },
            "4": { "name": null, "inner": { "use": { "id": 99, "name": "Foreign", "is_glob": false } } },
            "5": { "name": "field", "visibility": "public", "inner": { "struct_field": {} } },
            "6": { "name": null, "inner": { "impl": { "trait": null, "items": [7, 8] } } },
            "7": { "name": "new", "visibility": "public", "inner": { "function": {} } },
            "8": { "name": "hidden", "visibility": "crate", "inner": { "function": {} } },
        } }));
        let mut found = BTreeSet::new();
        items.module(&json!(0), "cloakroom", &mut found, &mut Vec::new());
        let expected = [
            "field cloakroom::Renamed::field",
            "fn cloakroom::Renamed::new",
            "mod cloakroom::web",
            "struct cloakroom::Renamed",
            "use cloakroom::web::Foreign",
        ];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
    }
}
