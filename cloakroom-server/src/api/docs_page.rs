//! The OpenAPI document as a page to read: no script, and nothing that is asked of another host.

use std::{fmt::Write, sync::LazyLock};

use axum::{
    body::Bytes,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, header};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{call::Call, openapi};

const STYLE: &str = include_str!("docs.css");

static PAGE: LazyLock<Bytes> = LazyLock::new(|| page(&openapi::document()).into());
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("base64 is visible ASCII")
});

/// `GET /docs`.
pub(super) async fn show(_: Call) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, PAGE.clone()).into_response()
}

fn page(document: &Value) -> String {
    let mut html = String::new();
    let mut menu = String::new();
    let mut last_tag = "";
    for (path, method, operation) in operations(document) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        let tag = operation["tags"][0].as_str().unwrap_or_default();
        if tag != last_tag {
            push(&mut menu, format_args!("<h2>{}</h2>", Text(tag)));
            push(&mut html, format_args!("<h2>{}</h2>", Text(tag)));
            last_tag = tag;
        }
        push(&mut menu, format_args!("<a href=\"#{}\"><b>{method}</b> {}</a>", Text(id), Text(path)));
        call(&mut html, document, path, &method, operation);
    }
    push(&mut html, format_args!("<h2>types</h2>"));
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        push(&mut html, format_args!("<section id=\"type-{0}\"><h3>{0}</h3>", Text(name)));
        about(&mut html, schema);
        push(&mut html, format_args!("</section>"));
    }
    let version = document["info"]["version"].as_str().unwrap_or_default();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>The API of Cloakroom</title><style>{STYLE}</style></head><body><nav aria-label=\"Calls\">{menu}</nav><main>\
         <h1>The API of Cloakroom <small>{}</small></h1><p>{} As a document: <a href=\"/openapi.json\">openapi.json</a>.</p>\
         {html}</main></body></html>",
        Text(version),
        Text(document["info"]["description"].as_str().unwrap_or_default()),
    )
}

/// All of them, those about one thing together.
fn operations(document: &Value) -> Vec<(&str, String, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let mut all: Vec<_> = paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().into_iter().flatten();
            methods.map(|(method, operation)| (path.as_str(), method.to_uppercase(), operation))
        })
        .collect();
    all.sort_by_key(|(path, _, operation)| {
        let tag = operation["tags"][0].as_str().unwrap_or_default();
        (tag == "server", tag != "sessions", tag.to_owned(), path.len())
    });
    all
}

fn call(html: &mut String, document: &Value, path: &str, method: &str, operation: &Value) {
    let id = operation["operationId"].as_str().unwrap_or_default();
    push(
        html,
        format_args!(
            "<section id=\"{}\"><h3><b>{method}</b> {}</h3><p>{}</p>",
            Text(id),
            Text(path),
            Text(operation["summary"].as_str().unwrap_or_default())
        ),
    );
    let scope = operation["x-scope"].as_str().unwrap_or("none");
    push(html, format_args!("<p>API key: <b>{}</b></p>", Text(scope)));
    let parameters: Vec<_> = operation["parameters"].as_array().into_iter().flatten().collect();
    if !parameters.is_empty() {
        push(html, format_args!("<h4>Parameters</h4><dl>"));
        for parameter in parameters {
            let place = parameter["in"].as_str().unwrap_or_default();
            push(
                html,
                format_args!(
                    "<dt><code>{}</code> <i>{place}, {}</i></dt><dd>{}</dd>",
                    Text(parameter["name"].as_str().unwrap_or_default()),
                    Kind(&parameter["schema"]),
                    Prose(parameter["description"].as_str().unwrap_or_default())
                ),
            );
        }
        push(html, format_args!("</dl>"));
    }
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    if !body.is_null() {
        push(html, format_args!("<h4>Body</h4>"));
        about(html, resolved(document, body));
    }
    push(html, format_args!("<h4>Answers</h4><dl>"));
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let description = response["description"].as_str().unwrap_or_default();
        push(html, format_args!("<dt><code>{status}</code></dt><dd>{}", Text(description)));
        let schema = &response["content"]["application/json"]["schema"];
        if !schema.is_null() {
            push(html, format_args!(" {}", Kind(schema)));
        }
        push(html, format_args!("</dd>"));
    }
    push(html, format_args!("</dl></section>"));
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let name = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
    name.and_then(|pointer| document.pointer(pointer)).unwrap_or(schema)
}

/// The fields of an object, or what else a type is.
fn about(html: &mut String, schema: &Value) {
    if let Some(description) = schema["description"].as_str() {
        push(html, format_args!("<p>{}</p>", Prose(description)));
    }
    let Some(fields) = schema["properties"].as_object() else {
        push(html, format_args!("<p>{}</p>", Kind(schema)));
        return;
    };
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    push(html, format_args!("<dl>"));
    for (name, field) in fields {
        let mark = if required.contains(&name.as_str()) { "" } else { "?" };
        push(
            html,
            format_args!(
                "<dt><code>{}</code>{mark} <i>{}</i></dt><dd>{}</dd>",
                Text(name),
                Kind(field),
                Prose(field["description"].as_str().unwrap_or_default())
            ),
        );
    }
    push(html, format_args!("</dl>"));
}

fn push(html: &mut String, piece: std::fmt::Arguments<'_>) {
    html.write_fmt(piece).expect("writing to a string cannot fail");
}

/// What kind of value a schema asks for, in few words.
struct Kind<'a>(&'a Value);

impl std::fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(schema) = self;
        if let Some(path) = schema["$ref"].as_str() {
            let name = path.rsplit('/').next().unwrap_or_default();
            return write!(f, "<a href=\"#type-{0}\">{0}</a>", Text(name));
        }
        for choices in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[choices].as_array() {
                return joined(f, choices.iter().map(Kind));
            }
        }
        if let Some(values) = schema["enum"].as_array() {
            return joined(f, values.iter().map(Literal));
        }
        if !schema["const"].is_null() {
            return Literal(&schema["const"]).fmt(f);
        }
        match &schema["type"] {
            Value::String(kind) if kind == "array" => write!(f, "list of {}", Kind(&schema["items"]))?,
            Value::String(kind) => Text(kind).fmt(f)?,
            Value::Array(kinds) => joined(f, kinds.iter().filter_map(Value::as_str).map(Text))?,
            _ => f.write_str("any")?,
        }
        for (name, words) in
            [("minimum", "at least"), ("maximum", "at most"), ("maxLength", "at most"), ("maxItems", "at most")]
        {
            if schema[name].is_number() {
                write!(f, ", {words} {}", schema[name])?;
            }
        }
        Ok(())
    }
}

fn joined(f: &mut std::fmt::Formatter<'_>, items: impl Iterator<Item = impl std::fmt::Display>) -> std::fmt::Result {
    for (n, item) in items.enumerate() {
        write!(f, "{}{item}", if n > 0 { " or " } else { "" })?;
    }
    Ok(())
}

struct Literal<'a>(&'a Value);

impl std::fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<code>{}</code>", Text(&self.0.to_string()))
    }
}

/// Text with `code` in it.
struct Prose<'a>(&'a str);

impl std::fmt::Display for Prose<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(prose) = self;
        prose.split('`').enumerate().try_for_each(|(n, part)| match n % 2 {
            0 => write!(f, "{}", Text(part)),
            _ => write!(f, "<code>{}</code>", Text(part)),
        })
    }
}

/// Text in HTML, between tags or in an attribute.
struct Text<'a>(&'a str);

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            other => f.write_char(other),
        })
    }
}
