//! The answer: an AdmissionReview that allows, with a JSON Patch (RFC 6902) or without.
//!
//! A type of our own, since kube's writes the patch as an array of numbers and names a patch type where there is no
//! patch, which the API server takes for a failure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pullpass_core::reason::Reason;
use serde::Serialize;

use crate::review::{API_VERSION, KIND};

/// Bytes of an answer that appends one name, with some room.
const TYPICAL_LENGTH: usize = 448;

/// What is done with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Names to append to the pod's pull secrets, in this order; empty where the pod stays as it is.
    pub names: Vec<String>,
    /// Whether the pod has a list of pull secrets already, be it empty.
    pub has_list: bool,
    /// Why.
    pub reason: Reason,
}

impl Answer {
    /// The pod stays as it is.
    pub fn unchanged(reason: Reason) -> Self {
        Self {
            names: Vec::new(),
            has_list: false,
            reason,
        }
    }

    /// The whole response body, under the request's uid.
    ///
    /// # Errors
    /// Never in practice: the writer of JSON has nothing here that it could refuse.
    pub fn to_json(&self, uid: &str) -> serde_json::Result<Vec<u8>> {
        // Put together from text: nearly all of it needs no escaping, and to look for that in each answer would cost a
        // tenth of the decision.
        let mut body = String::with_capacity(TYPICAL_LENGTH);
        body.push_str(r#"{"apiVersion":""#);
        body.push_str(API_VERSION);
        body.push_str(r#"","kind":""#);
        body.push_str(KIND);
        body.push_str(r#"","response":{"uid":"#);
        body.push_str(&serde_json::to_string(uid)?);
        // no answer of ours can refuse: `failurePolicy` does not cover `allowed: false`
        body.push_str(r#","allowed":true"#);
        // the API server wants patch and type both or neither
        if let Some(patch) = self.patch()? {
            body.push_str(r#","patchType":"JSONPatch","patch":""#);
            STANDARD.encode_string(patch, &mut body);
            body.push('"');
        }
        if let Some(warning) = self.warning() {
            body.push_str(r#","warnings":"#);
            body.push_str(&serde_json::to_string(&[warning])?);
        }
        // the API server prefixes the key with the webhook's name; a reason is one word of ASCII letters
        body.push_str(r#","auditAnnotations":{"reason":""#);
        body.push_str(self.reason.as_str());
        body.push_str(r#""}}}"#);
        Ok(body.into_bytes())
    }

    /// The patch, or nothing where nothing changes.
    fn patch(&self) -> serde_json::Result<Option<Vec<u8>>> {
        if self.names.is_empty() {
            return Ok(None);
        }
        let references = self.names.iter().map(|name| SecretReference { name });
        let operations = if self.has_list {
            serde_json::to_vec(&references.map(Operation::append).collect::<Vec<_>>())?
        } else {
            // an append to a list that is absent, or null, would fail the whole request
            serde_json::to_vec(&[Operation {
                op: "add",
                path: "/spec/imagePullSecrets",
                value: references.collect::<Vec<_>>(),
            }])?
        };
        Ok(Some(operations))
    }

    /// Who creates a pod is told where a person has to act, or its private images will not be pulled. Kubernetes asks
    /// for short warnings: beyond 256 characters they may be cut off.
    fn warning(&self) -> Option<String> {
        matches!(
            self.reason,
            Reason::MirrorPod | Reason::MountableSecretsEnforced
        )
        .then(|| {
            format!(
                "Pullpass adds no pull secret ({}). {}",
                self.reason,
                self.reason.advice()
            )
        })
    }
}

#[derive(Serialize)]
struct SecretReference<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Operation<V> {
    op: &'static str,
    path: &'static str,
    value: V,
}

impl<V> Operation<V> {
    fn append(value: V) -> Self {
        Self {
            op: "add",
            path: "/spec/imagePullSecrets/-",
            value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn inject(names: &[&str], has_list: bool) -> Answer {
        Answer {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            has_list,
            reason: Reason::Injected,
        }
    }

    fn text(answer: &Answer) -> String {
        String::from_utf8(answer.to_json("u-1").unwrap()).unwrap()
    }

    /// The patch of an answer as the API server decodes it.
    fn decoded(answer: &Answer) -> json_patch::Patch {
        let body: Value = serde_json::from_slice(&answer.to_json("u").unwrap()).unwrap();
        let patch = STANDARD
            .decode(body["response"]["patch"].as_str().unwrap())
            .unwrap();
        serde_json::from_slice(&patch).unwrap()
    }

    #[test]
    fn the_wire_format_stays() {
        assert_eq!(
            text(&inject(&["pullpass"], false)),
            concat!(
                r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u-1","allowed":true,"#,
                r#""patchType":"JSONPatch","#,
                r#""patch":"W3sib3AiOiJhZGQiLCJwYXRoIjoiL3NwZWMvaW1hZ2VQdWxsU2VjcmV0cyIsInZhbHVlIjpbeyJuYW1lIjoicHVsbHBhc3MifV19XQ==","#,
                r#""auditAnnotations":{"reason":"Injected"}}}"#
            )
        );
        assert_eq!(
            text(&Answer::unchanged(Reason::NothingGranted)),
            concat!(
                r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u-1","allowed":true,"#,
                r#""auditAnnotations":{"reason":"NothingGranted"}}}"#
            )
        );
    }

    #[rstest]
    #[case(&["a"], false, r#"[{"op":"add","path":"/spec/imagePullSecrets","value":[{"name":"a"}]}]"#)]
    #[case(&["a", "b"], false, r#"[{"op":"add","path":"/spec/imagePullSecrets","value":[{"name":"a"},{"name":"b"}]}]"#)]
    #[case(&["a"], true, r#"[{"op":"add","path":"/spec/imagePullSecrets/-","value":{"name":"a"}}]"#)]
    #[case(&["a", "b"], true, r#"[{"op":"add","path":"/spec/imagePullSecrets/-","value":{"name":"a"}},{"op":"add","path":"/spec/imagePullSecrets/-","value":{"name":"b"}}]"#)]
    fn the_patch_is_the_smallest_that_works(
        #[case] names: &[&str],
        #[case] has_list: bool,
        #[case] expected: &str,
    ) {
        let written = inject(names, has_list).patch().unwrap().unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[test]
    fn only_where_a_person_has_to_act_is_there_a_warning() {
        for &reason in Reason::ALL {
            let warning = Answer::unchanged(reason).warning();
            let expected = [Reason::MirrorPod, Reason::MountableSecretsEnforced].contains(&reason);
            assert_eq!(warning.is_some(), expected, "{reason}");
            let body: Value = serde_json::from_str(&text(&Answer::unchanged(reason))).unwrap();
            let told: Option<String> = body["response"]["warnings"]
                .as_array()
                .map(|warnings| warnings.iter().filter_map(Value::as_str).collect());
            assert_eq!(told, warning);
            assert_eq!(
                body["response"]["auditAnnotations"]["reason"],
                reason.as_str()
            );
            if let Some(warning) = warning {
                assert!(warning.len() <= 256, "{warning}");
                assert!(warning.ends_with('.'), "{warning}");
            }
        }
    }

    #[test]
    fn a_uid_is_given_back_as_it_came() {
        let uid = "quote \" backslash \\ line \n bell \u{7} ü";
        let body: Value =
            serde_json::from_slice(&Answer::unchanged(Reason::Injected).to_json(uid).unwrap())
                .unwrap();
        assert_eq!(body["response"]["uid"], uid);
        assert_eq!(body["response"]["allowed"], true);
    }

    fn any_pod() -> impl Strategy<Value = Value> {
        let names = prop::collection::vec("[a-z]{1,6}", 0..5);
        let list = prop_oneof![
            Just(None),
            Just(Some(Value::Null)),
            names.prop_map(|names| Some(names.iter().map(|n| json!({"name": n})).collect())),
        ];
        (list, "[a-z]{1,8}", any::<bool>()).prop_map(|(list, image, has_status)| {
            let mut pod = json!({
                "metadata": {"name": "p", "labels": {"a/b": "~1"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            });
            if let Some(list) = list {
                pod["spec"]["imagePullSecrets"] = list;
            }
            if has_status {
                pod["status"] = json!({"phase": "Pending"});
            }
            pod
        })
    }

    proptest! {
        /// Nothing changes but the list, what was in it stays in order, and ours comes last.
        #[test]
        fn the_patched_pod_differs_in_nothing_else(pod in any_pod(), names in prop::collection::vec("[A-Z]{1,6}", 1..4)) {
            let before = pod["spec"]["imagePullSecrets"].as_array().cloned();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let mut patched = pod.clone();
            json_patch::patch(&mut patched, &decoded(&inject(&names, before.is_some()))).unwrap();

            let mut expected = before.unwrap_or_default();
            expected.extend(names.iter().map(|name| json!({"name": name})));
            let mut wanted = pod;
            wanted["spec"]["imagePullSecrets"] = expected.into();
            prop_assert_eq!(patched, wanted);
        }
    }
}
