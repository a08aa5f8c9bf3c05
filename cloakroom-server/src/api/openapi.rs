//! The OpenAPI document, made of the list of routes and of the types that its handlers take and answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use axum::{
    body::Bytes,
    response::{IntoResponse, Response},
};
use cloakroom_api::{
    Code,
    schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings},
};
use http::{HeaderValue, header};
use serde_json::{Map, Value, json};

use super::{
    call::{Call, FromBody},
    routes::{Effect, ROUTES, Route},
};
use crate::cli::VERSION;

/// What a handler takes. `Arguments` are those of the function, of which the last is the call.
pub(super) trait Takes<Arguments> {
    fn describe(generator: &mut SchemaGenerator) -> Taken;
}

/// The query and the body of a call.
pub(super) struct Taken {
    params: Schema,
    body: Option<Schema>,
}

macro_rules! takes {
    ($(($($before:ident)*))+) => {$(
        impl<F, R, Q: JsonSchema, B: FromBody, $($before),*> Takes<($($before,)* Call<Q, B>,)> for F
        where
            F: Fn($($before,)* Call<Q, B>) -> R,
        {
            fn describe(generator: &mut SchemaGenerator) -> Taken {
                Taken { params: Q::json_schema(generator), body: B::schema(generator) }
            }
        }
    )+};
}

takes! { () (A) (A C) }

/// What this handler takes.
pub(super) fn taken<Arguments, F: Takes<Arguments>>(_: F, generator: &mut SchemaGenerator) -> Taken {
    F::describe(generator)
}

/// What a call answers if all is well.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answers {
    /// JSON, of this shape.
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Something else, of this type.
    Other(&'static str),
}

/// The shape of a type.
pub(super) fn shape<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| serde_json::to_vec(&document()).expect("it is made of text and numbers").into());

/// `GET /openapi.json`.
pub(super) async fn show(_: Call) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT.clone()).into_response()
}

/// The whole document.
pub(super) fn document() -> Value {
    let settings = || {
        SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
    };
    let mut requests = settings().for_deserialize().into_generator();
    let mut answers = settings().for_serialize().into_generator();
    let problem = shape::<cloakroom_api::Problem>(&mut answers);
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in ROUTES {
        let operation = operation(route, &mut requests, &mut answers, &problem);
        paths.entry(route.path).or_default().insert(route.method.as_str().to_lowercase(), operation);
    }
    let mut schemas = requests.take_definitions(true);
    // Nothing of a request may be null but what says so, and that says it with `oneOf`.
    schemas.values_mut().for_each(refuse_null);
    for (name, schema) in answers.take_definitions(true) {
        let other = schemas.insert(name.clone(), schema.clone());
        assert!(other.is_none_or(|other| other == schema), "two types have the name {name}");
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cloakroom",
            "version": VERSION,
            "summary": "Sessions for the web.",
            "description": "JSON over HTTP. Within v1 fields are only added. Every problem is application/problem+json: decide by its code.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "An API key. Its scope is read, write or admin, each including those before it." },
            },
        },
    })
}

fn operation(route: &Route, requests: &mut SchemaGenerator, answers: &mut SchemaGenerator, problem: &Schema) -> Value {
    let Taken { params, body } = (route.takes)(requests);
    let mut parameters: Vec<Value> = path_parameters(route.path);
    let mut params = params.to_value();
    refuse_null(&mut params);
    for (name, schema) in params["properties"].as_object().into_iter().flatten() {
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        parameters.push(json!({ "name": name, "in": "query", "schema": schema, "description": description }));
    }
    if matches!(route.effect, Effect::Changes | Effect::Ends | Effect::MayChange) {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "description": "The same for a repeat of the call, new for each other call.",
            "schema": { "type": "string", "pattern": "^[!-~]{1,256}$" },
        }));
    }
    let mut operation = json!({
        "operationId": route.id, "summary": route.summary, "tags": [tag(route.path)],
        "parameters": parameters, "responses": responses(route, body.is_some(), answers, problem),
    });
    if let Some(mut body) = body.map(Schema::to_value) {
        refuse_null(&mut body);
        let needed = resolved_requirements(requests, &body);
        operation["requestBody"] = json!({ "required": needed, "content": { "application/json": { "schema": body } } });
    }
    if let Some(scope) = route.scope {
        operation["security"] = json!([{ "key": [] }]);
        operation["x-scope"] = json!(scope.name());
    }
    operation
}

/// Whether a body is needed: an empty one counts as an object without fields.
fn resolved_requirements(requests: &SchemaGenerator, body: &Value) -> bool {
    let name = body["$ref"].as_str().and_then(|path| path.rsplit('/').next());
    let schema = name.and_then(|name| requests.definitions().get(name)).unwrap_or(body);
    schema["required"].as_array().is_some_and(|required| !required.is_empty())
}

fn path_parameters(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })).collect()
}

fn tag(path: &str) -> &str {
    match path.strip_prefix("/v1/") {
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        None => "server",
    }
}

fn responses(route: &Route, has_body: bool, answers: &mut SchemaGenerator, problem: &Schema) -> Value {
    let mut responses = Map::new();
    for (status, answer) in route.answers {
        let description = if *status == 201 { "Created" } else { "OK" };
        let content = match answer {
            Answers::Json(shape) => json!({ "application/json": { "schema": shape(answers) } }),
            Answers::Other(content_type) => json!({ *content_type: {} }),
        };
        responses.insert(status.to_string(), json!({ "description": description, "content": content }));
    }
    if route.effect == Effect::Ends {
        let job = shape::<cloakroom_api::Jobs<'static>>(answers);
        responses.insert(
            "202".into(),
            json!({
                "description": "It takes long, and goes on: a job to ask about.",
                "headers": { "Location": { "schema": { "type": "string" }, "description": "Where to ask." } },
                "content": { "application/json": { "schema": job } },
            }),
        );
    }
    let mut codes: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for code in route.problems.iter().copied().chain(common(route, has_body)) {
        codes.entry(code.status()).or_default().insert(code.name());
    }
    for (status, codes) in codes {
        let codes: Vec<_> = codes.into_iter().collect();
        responses.insert(
            status.to_string(),
            json!({
                "description": codes.join(", "),
                "content": { "application/problem+json": { "schema": {
                    "allOf": [problem, { "properties": { "code": { "enum": codes } } }],
                } } },
            }),
        );
    }
    responses.into()
}

/// What every call may be answered with.
fn common(route: &Route, has_body: bool) -> impl Iterator<Item = Code> + use<> {
    use Code::{
        BodyTooLarge, Contended, DuplicateField, Internal, InvalidField, InvalidParameter, MalformedJson, MissingField,
        OutOfFiles, OutcomeUnknown, ReadOnly, RequestTimeout, ScopeMissing, ShuttingDown, StoreFailed,
        StoreUnavailable, TooManyKeys, Unauthorized, UnexpectedBody, UnknownField, UnsupportedMediaType,
    };
    let always: &[Code] = &[UnsupportedMediaType, InvalidParameter, Internal, RequestTimeout, BodyTooLarge];
    let keyed: &[Code] = &[
        Unauthorized,
        ScopeMissing,
        TooManyKeys,
        StoreFailed,
        Contended,
        OutcomeUnknown,
        OutOfFiles,
        ReadOnly,
        ShuttingDown,
        StoreUnavailable,
    ];
    let with_body: &[Code] = &[MalformedJson, DuplicateField, InvalidField, MissingField, UnknownField];
    let without_body: &[Code] = &[MalformedJson, UnexpectedBody];
    let keyed = if route.scope.is_some() { keyed } else { &[] };
    let body = if has_body { with_body } else { without_body };
    let repeatable: &[Code] = if route.effect == Effect::Looks { &[] } else { &[InvalidField] };
    always.iter().chain(keyed).chain(body).chain(repeatable).copied()
}

/// `Option` means that a field may be left out: null is refused, as everything is that a call does not know.
fn refuse_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = &types[..] {
                    let only = only.clone();
                    object.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if let [only] = &choices[..]
                    && let Value::Object(only) = only.clone()
                {
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
            if object.get("default") == Some(&Value::Null) {
                object.remove("default");
            }
            object.values_mut().for_each(refuse_null);
        }
        Value::Array(items) => items.iter_mut().for_each(refuse_null),
        _ => {}
    }
}
