//! The custom resource definitions as they are shipped.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::Value;

use crate::{NodePullAccess, PullAccess, Registry};

/// Every definition of ours.
///
/// # Errors
/// Never in practice: a definition that is not JSON.
pub fn definitions() -> serde_json::Result<Vec<CustomResourceDefinition>> {
    [Registry::crd(), PullAccess::crd(), NodePullAccess::crd()]
        .into_iter()
        .map(|crd| {
            let mut value = serde_json::to_value(crd)?;
            forbid_null(&mut value);
            unwrap_lines(&mut value);
            serde_json::from_value(value)
        })
        .collect()
}

/// Takes `nullable` out, which stands on every optional field: with it a field that is written as null counts as given
/// in a validation rule; without it the API server drops the null before it validates.
fn forbid_null(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("nullable") == Some(&Value::Bool(true)) {
                fields.remove("nullable");
            }
            fields.values_mut().for_each(forbid_null);
        }
        Value::Array(items) => items.iter_mut().for_each(forbid_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Joins the lines of each description: they are as long as the source is wide, and `kubectl explain` wraps to the
/// width of its terminal. An empty line still parts two paragraphs.
fn unwrap_lines(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if let ("description", Value::String(text)) = (name.as_str(), &mut *field) {
                    let paragraphs: Vec<_> = text
                        .split("\n\n")
                        .map(|lines| lines.replace('\n', " "))
                        .collect();
                    *text = paragraphs.join("\n\n");
                } else {
                    unwrap_lines(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(unwrap_lines),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_takes_null_and_every_field_is_described() {
        for crd in definitions().unwrap() {
            let text = serde_json::to_string(&crd).unwrap();
            assert!(!text.contains("nullable"));
            let schema = crd.spec.versions[0]
                .schema
                .clone()
                .unwrap()
                .open_api_v3_schema
                .unwrap();
            undescribed(&serde_json::to_value(schema).unwrap(), &crd.spec.names.kind);
        }
    }

    /// Fails on a property without a description, since `kubectl explain` would be silent about it.
    fn undescribed(schema: &Value, path: &str) {
        let Some(properties) = schema["properties"].as_object() else {
            return;
        };
        for (name, property) in properties {
            let path = format!("{path}.{name}");
            assert!(
                property["description"].is_string(),
                "{path} has no description"
            );
            undescribed(property, &path);
            undescribed(&property["items"], &path);
        }
    }
}
