//! The JSON Schema of the manifest, for editors and for CI without `enforcer`.
//!
//! Derived from the types; what a type parses from text has its pattern here. A schema cannot say everything: it
//! accepts every valid manifest, and `enforcer policy check` has the last word.

use std::borrow::Cow;

use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::matching::{CgroupPath, ContainerSelector, UnitPattern};
use super::model::{Action, BinaryEntry, LibraryEntry, Listed, Manifest, ParentRef, SkillName, TwoFactor};
use super::{Approval, DeleteBudget, Destination, Digest, ListenAddress, ManifestPath};

const DIGEST: &str = "^sha256:[0-9A-Fa-f]{64}$";
const PATH: &str = "^(/|~/)[^*?]*$";
const DURATION: &str = "^[0-9]+[smh]$";

/// The JSON Schema (draft 2020-12) of a manifest.
#[must_use]
pub fn json_schema() -> Schema {
    let mut schema = SchemaGenerator::default().into_root_schema_for::<Manifest>();
    NotNull.transform(&mut schema);
    schema.insert("title".into(), "Claw Policy Manifest, version 1".into());
    schema
}

/// An optional key is one that may be absent, not one that may be `null`.
struct NotNull;

impl Transform for NotNull {
    fn transform(&mut self, schema: &mut Schema) {
        if schema.get("default") == Some(&Value::Null) {
            schema.remove("default");
        }
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                schema.insert("type".into(), only);
            }
        }
        if let Some(Value::Array(any)) = schema.get_mut("anyOf") {
            any.retain(|one| one.get("type").is_none_or(|name| name != "null"));
            if let [Value::Object(only)] = any.as_slice() {
                let only = only.clone();
                schema.remove("anyOf");
                for (key, value) in only {
                    schema.insert(key, value);
                }
            }
        }
        transform_subschemas(self, schema);
    }
}

/// Gives types that are written as a text the schema of that text.
macro_rules! text {
    ($($name:ident: $pattern:expr, $description:literal;)*) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern, "description": $description})
            }
        }
    )*};
}

text! {
    Digest: DIGEST, "A SHA-256: `sha256:` and 64 hex digits.";
    ManifestPath: PATH, "An absolute path, or one below `~/`; without globs and `..`.";
    SkillName: "^[A-Za-z0-9_.-]{1,64}$", "The name of a skill.";
    CgroupPath: "^/.*[^/].*$", "A cgroup v2 path below the cgroup mount.";
    UnitPattern: "^[-A-Za-z0-9:_.\\\\@*?\\[\\]!]{1,255}$", "A systemd unit; * and ? are wildcards.";
    ContainerSelector: "^\\S+$", "A container's name or id prefix, image=IMAGE or label=KEY=VALUE.";
    DeleteBudget: "^[0-9]+/([0-9]*(s|m|min|h))$", "NUMBER/WINDOW: 50/min, 10/30s.";
    Destination: "^[^\\s*]+$|^\\*\\.[^\\s*]+$",
        "An address, a prefix or a name, each with or without :PORT or :PORT/PROTOCOL, or unix:PATH or unix:@NAME.";
    ListenAddress: "^[^\\s*]+$", "A local address or prefix, with or without :PORT or :PORT/PROTOCOL.";
}

/// Gives types that are written as a digest or a path the schema of the two.
macro_rules! digest_or_path {
    ($($name:ident)*) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                digest_or_path(generator)
            }
        }
    )*};
}

digest_or_path! { ParentRef LibraryEntry }

fn digest_or_path(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [generator.subschema_for::<Digest>(), generator.subschema_for::<ManifestPath>()]})
}

impl JsonSchema for BinaryEntry {
    fn schema_name() -> Cow<'static, str> {
        "BinaryEntry".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let digest = generator.subschema_for::<Digest>();
        let path = generator.subschema_for::<ManifestPath>();
        let parent = generator.subschema_for::<ParentRef>();
        json_schema!({"anyOf": [digest, path, {
            "type": "object",
            "additionalProperties": false,
            "anyOf": [{"required": ["path"]}, {"required": ["sha256"]}],
            "properties": {
                "path": path,
                "sha256": {"anyOf": [digest, {"type": "array", "minItems": 1, "items": digest}]},
                "parents": {"type": "array", "minItems": 1, "items": parent},
            },
        }]})
    }
}

impl<T: JsonSchema> JsonSchema for Listed<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<T>();
        json_schema!({"anyOf": [{"const": ["*"]}, {"type": "array", "items": items}]})
    }
}

impl JsonSchema for TwoFactor {
    fn schema_name() -> Cow<'static, str> {
        "TwoFactor".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let action = generator.subschema_for::<Action>();
        json_schema!({"anyOf": [{"type": "boolean"}, {"type": "array", "items": action}]})
    }
}

impl JsonSchema for Approval {
    fn schema_name() -> Cow<'static, str> {
        "Approval".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "timeout": {"type": "string", "pattern": DURATION, "default": "5m"},
                "grant": {"type": "string", "pattern": "^(once|session|[0-9]+[smh])$", "default": "once"},
            },
        })
    }
}

/// The schema of `version`.
pub(super) fn version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"const": 1})
}

/// The schema of `via`.
pub(super) fn gateway(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^([0-9.]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$"})
}
