//! The request: the few fields of an AdmissionReview that are read, straight out of the body.
//!
//! What is not named here is passed over without being built, so that the cost is that of finding the end of the
//! body. Whatever else arrives is decided in one place, [`read`].

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::mem::take;

use pullpass_core::decide::MIRROR_POD_ANNOTATION;
use pullpass_core::policy::INJECT_LABEL;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de};

/// The version in which reviews are taken and answered.
pub const API_VERSION: &str = "admission.k8s.io/v1";
/// The kind of a review.
pub const KIND: &str = "AdmissionReview";

/// A review that can be answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Review<'a> {
    /// The uid under which the answer is expected. Never empty.
    pub uid: Cow<'a, str>,
    /// What is asked.
    pub request: Request<'a>,
}

/// What a review asks about.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The creation of a pod.
    PodCreation(PodCreation<'a>),
    /// Something that the webhook configuration does not send.
    Other,
    /// The review is JSON and has a uid, but what it says of the pod cannot be read.
    Unreadable(Place),
}

/// A pod that is being created, as far as the decision needs it.
#[derive(Debug, PartialEq, Eq)]
pub struct PodCreation<'a> {
    /// The namespace, as the API server has it; the object's own may still be empty.
    pub namespace: Cow<'a, str>,
    /// The name; empty where the API server is still to generate it.
    pub name: Cow<'a, str>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// The value of the label by which the pod can decline.
    pub inject_label: Option<Cow<'a, str>>,
    /// Whether it is the API server's image of a static pod.
    pub is_mirror: bool,
    /// The service account; empty where none is named.
    pub service_account: Cow<'a, str>,
    /// The names of the pull secrets in order, without empty ones; `None` where the list is absent or null.
    pub pull_secrets: Option<Vec<Cow<'a, str>>>,
    /// The images of its containers, init containers and image volumes, without empty ones. Ephemeral containers come
    /// after the creation.
    pub images: Vec<Cow<'a, str>>,
}

/// Where in the body reading stopped. Errors of the JSON library repeat what they found, which is none of a log's
/// business; the place is enough to find it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in bytes.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl From<serde_json::Error> for Place {
    fn from(error: serde_json::Error) -> Self {
        Self {
            line: error.line(),
            column: error.column(),
        }
    }
}

/// Why a body cannot be answered as a review. The messages go back to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAReview {
    /// Not UTF-8, which JSON has to be (RFC 8259, section 8.1).
    #[error("the body is not UTF-8")]
    Encoding,
    /// Not one JSON object of the form of a review, or a field that identifies it occurs twice.
    #[error("the body is no AdmissionReview: {0}")]
    Json(Place),
    /// A review of another version.
    #[error("only AdmissionReview of {API_VERSION} is served")]
    Version,
    /// There is nobody to answer to.
    #[error("the review has no request.uid")]
    NoUid,
}

/// Reads a body. Every input there is ends here: with a review, or with a reason for an HTTP error.
///
/// What the API server never sends (wrong types, a field twice) leaves the pod alone under its uid, where there is
/// one: the pod is somebody else's, and refusing it would not mend the request. Null counts as absent, as in Go.
///
/// # Errors
/// Where no uid can be had, or the review is of another version.
pub fn read(body: &[u8]) -> Result<Review<'_>, NotAReview> {
    // at once for the whole body, which is cheaper than for each string, and covers what is passed over
    let body = std::str::from_utf8(body).map_err(|_| NotAReview::Encoding)?;
    match serde_json::from_str::<Object<Envelope<Object<RequestFields>>>>(body) {
        Ok(Object(envelope)) => {
            let mut request = envelope.request()?;
            Ok(Review {
                uid: take(&mut request.uid).identified()?,
                request: request.fields(),
            })
        }
        Err(error) => {
            let place = Place::from(error);
            let Object(envelope) =
                serde_json::from_str::<Object<Envelope<Object<IdentityFields>>>>(body)
                    .map_err(|_| NotAReview::Json(place))?;
            Ok(Review {
                uid: envelope.request()?.uid.identified()?,
                request: Request::Unreadable(place),
            })
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound = "R: Deserialize<'de>")]
struct Envelope<'a, R> {
    #[serde(borrow, default)]
    api_version: Text<'a>,
    #[serde(borrow, default)]
    kind: Text<'a>,
    request: Option<R>,
}

impl<R> Envelope<'_, Object<R>> {
    fn request(self) -> Result<R, NotAReview> {
        if self.api_version.0 != API_VERSION || self.kind.0 != KIND {
            return Err(NotAReview::Version);
        }
        self.request
            .map(|Object(request)| request)
            .ok_or(NotAReview::NoUid)
    }
}

#[derive(Deserialize)]
struct IdentityFields<'a> {
    #[serde(borrow, default)]
    uid: Text<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestFields<'a> {
    #[serde(borrow, default)]
    uid: Text<'a>,
    #[serde(borrow)]
    resource: Option<Object<ResourceFields<'a>>>,
    #[serde(borrow, default)]
    sub_resource: Text<'a>,
    #[serde(borrow, default)]
    operation: Text<'a>,
    #[serde(borrow, default)]
    namespace: Text<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
    dry_run: Option<bool>,
    #[serde(borrow)]
    object: Option<Object<PodFields<'a>>>,
}

impl<'a> RequestFields<'a> {
    fn fields(self) -> Request<'a> {
        let is_pod = self.resource.is_some_and(|Object(resource)| {
            resource.group.0.is_empty() && resource.resource.0 == "pods"
        });
        if !is_pod || !self.sub_resource.0.is_empty() || self.operation.0 != "CREATE" {
            return Request::Other;
        }
        let (metadata, spec) = match self.object {
            Some(Object(pod)) => (pod.metadata, pod.spec),
            None => (None, None),
        };
        let metadata = metadata.map(|Object(fields)| fields).unwrap_or_default();
        let mut spec = spec.map(|Object(fields)| fields).unwrap_or_default();
        let images = spec.images();
        Request::PodCreation(PodCreation {
            images,
            namespace: self.namespace.0,
            name: self.name.0,
            dry_run: self.dry_run.unwrap_or_default(),
            inject_label: metadata.labels.and_then(|labels| labels.value),
            is_mirror: metadata
                .annotations
                .is_some_and(|annotations| annotations.value.is_some()),
            service_account: spec.service_account_name.0,
            pull_secrets: spec.image_pull_secrets.map(|references| {
                references
                    .into_iter()
                    .flatten()
                    .map(|Object(reference)| reference.name.0)
                    .filter(|name| !name.is_empty())
                    .collect()
            }),
        })
    }
}

#[derive(Deserialize)]
struct ResourceFields<'a> {
    #[serde(borrow, default)]
    group: Text<'a>,
    #[serde(borrow, default)]
    resource: Text<'a>,
}

#[derive(Deserialize)]
struct PodFields<'a> {
    #[serde(borrow)]
    metadata: Option<Object<MetadataFields<'a>>>,
    #[serde(borrow)]
    spec: Option<Object<SpecFields<'a>>>,
}

#[derive(Default, Deserialize)]
struct MetadataFields<'a> {
    #[serde(borrow)]
    labels: Option<OneOf<'a, InjectLabel>>,
    #[serde(borrow)]
    annotations: Option<OneOf<'a, MirrorAnnotation>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecFields<'a> {
    #[serde(borrow, default)]
    service_account_name: Text<'a>,
    #[serde(borrow)]
    image_pull_secrets: Option<Vec<Option<Object<ReferenceFields<'a>>>>>,
    #[serde(borrow)]
    init_containers: Option<Vec<Option<Object<ContainerFields<'a>>>>>,
    #[serde(borrow)]
    containers: Option<Vec<Option<Object<ContainerFields<'a>>>>>,
    #[serde(borrow)]
    volumes: Option<Vec<Option<Object<VolumeFields<'a>>>>>,
}

impl<'a> SpecFields<'a> {
    /// Takes the images out.
    fn images(&mut self) -> Vec<Cow<'a, str>> {
        let containers = [self.init_containers.take(), self.containers.take()]
            .into_iter()
            .flatten()
            .flatten()
            .flatten()
            .map(|Object(container)| container.image);
        let volumes = self
            .volumes
            .take()
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|Object(volume)| volume.image)
            .map(|Object(image)| image.reference);
        containers
            .chain(volumes)
            .map(|image| image.0)
            .filter(|image| !image.is_empty())
            .collect()
    }
}

#[derive(Deserialize)]
struct ReferenceFields<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
}

#[derive(Deserialize)]
struct ContainerFields<'a> {
    #[serde(borrow, default)]
    image: Text<'a>,
}

#[derive(Deserialize)]
struct VolumeFields<'a> {
    #[serde(borrow)]
    image: Option<Object<ImageVolumeFields<'a>>>,
}

#[derive(Deserialize)]
struct ImageVolumeFields<'a> {
    #[serde(borrow, default)]
    reference: Text<'a>,
}

/// A JSON object, and nothing else: the derived structs alone would also take an array of their fields' values.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A string that borrows from the body unless it holds escapes. Null is the empty string.
#[derive(Debug, Default, PartialEq, Eq)]
struct Text<'a>(Cow<'a, str>);

impl<'a> Text<'a> {
    fn identified(self) -> Result<Cow<'a, str>, NotAReview> {
        if self.0.is_empty() {
            return Err(NotAReview::NoUid);
        }
        Ok(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Text::default())
            }
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

/// The key of a string map that is of interest.
trait Key {
    const NAME: &'static str;
}

struct InjectLabel;

impl Key for InjectLabel {
    const NAME: &'static str = INJECT_LABEL;
}

struct MirrorAnnotation;

impl Key for MirrorAnnotation {
    const NAME: &'static str = MIRROR_POD_ANNOTATION;
}

/// A map of strings of which one entry is kept: labels and annotations can fill the whole request.
struct OneOf<'a, K> {
    value: Option<Cow<'a, str>>,
    key: PhantomData<K>,
}

impl<'de: 'a, 'a, K: Key> Deserialize<'de> for OneOf<'a, K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOfVisitor<K>(PhantomData<K>);

        impl<'de, K: Key> Visitor<'de> for OneOfVisitor<K> {
            type Value = OneOf<'de, K>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut value = None;
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    if key.0 != K::NAME {
                        map.next_value::<IgnoredAny>()?;
                    } else if value.replace(map.next_value::<Text<'de>>()?.0).is_some() {
                        return Err(A::Error::duplicate_field(K::NAME));
                    }
                }
                Ok(OneOf {
                    value,
                    key: PhantomData,
                })
            }
        }

        deserializer.deserialize_map(OneOfVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn review(request: &Value) -> Vec<u8> {
        let review = json!({"kind": KIND, "apiVersion": API_VERSION, "request": request});
        serde_json::to_vec(&review).unwrap()
    }

    fn creation_of(object: &Value) -> Vec<u8> {
        review(&json!({
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "team-a",
            "operation": "CREATE",
            "object": object,
            "oldObject": null,
            "dryRun": false,
        }))
    }

    fn read_creation(body: &[u8]) -> PodCreation<'_> {
        let Request::PodCreation(creation) = read(body).unwrap().request else {
            panic!("{:?}", read(body));
        };
        creation
    }

    #[test]
    fn the_fields_that_matter_are_read() {
        let body = creation_of(&json!({
            "metadata": {
                "labels": {"app": "x", INJECT_LABEL: "false"},
                "annotations": {MIRROR_POD_ANNOTATION: "hash"},
            },
            "spec": {
                "serviceAccountName": "builder",
                "imagePullSecrets": [{"name": "one"}, {}, {"name": "two"}],
                "initContainers": [{"name": "i", "image": "first"}],
                "containers": [{"name": "c", "image": "second"}, {"name": "d"}],
                "volumes": [{"name": "v", "image": {"reference": "third"}}, {"name": "w", "emptyDir": {}}],
            },
        }));
        let expected = PodCreation {
            namespace: "team-a".into(),
            name: "".into(),
            dry_run: false,
            inject_label: Some("false".into()),
            is_mirror: true,
            service_account: "builder".into(),
            pull_secrets: Some(vec!["one".into(), "two".into()]),
            images: vec!["first".into(), "second".into(), "third".into()],
        };
        assert_eq!(read_creation(&body), expected);
        assert_eq!(read(&body).unwrap().uid, "u-1");
    }

    #[rstest]
    #[case(json!({}))]
    #[case(json!(null))]
    #[case(json!({"metadata": null, "spec": null}))]
    #[case(json!({"spec": {"containers": null, "initContainers": [null], "volumes": [{"image": null}]}}))]
    #[case(json!({"metadata": {"labels": null, "annotations": null}, "spec": {"serviceAccountName": null, "imagePullSecrets": null}}))]
    fn null_is_absent(#[case] object: Value) {
        let expected = PodCreation {
            namespace: "team-a".into(),
            name: "".into(),
            dry_run: false,
            inject_label: None,
            is_mirror: false,
            service_account: "".into(),
            pull_secrets: None,
            images: Vec::new(),
        };
        assert_eq!(read_creation(&creation_of(&object)), expected);
    }

    #[rstest]
    #[case(json!({"spec": {"imagePullSecrets": []}}), Some(0))]
    #[case(json!({"spec": {"imagePullSecrets": [null, {"name": null}]}}), Some(0))]
    #[case(json!({"spec": {"imagePullSecrets": [{"name": "a"}]}}), Some(1))]
    #[case(json!({"spec": {}}), None)]
    fn an_empty_list_is_not_an_absent_one(#[case] object: Value, #[case] count: Option<usize>) {
        let body = creation_of(&object);
        assert_eq!(read_creation(&body).pull_secrets.map(|s| s.len()), count);
    }

    #[test]
    fn an_empty_mirror_annotation_counts() {
        let body = creation_of(&json!({"metadata": {"annotations": {MIRROR_POD_ANNOTATION: ""}}}));
        assert!(read_creation(&body).is_mirror);
    }

    #[test]
    fn escapes_are_the_characters_they_stand_for() {
        let body = String::from_utf8(creation_of(&json!({
            "metadata": {"labels": {INJECT_LABEL: "false"}},
            "spec": {"imagePullSecrets": [{"name": "pullpass"}]},
        })))
        .unwrap()
        .replace("pullpass.dev/inject", r"pullpass.dev\/inj\u0065ct")
        .replace("\"pullpass\"", r#""pull\u0070ass""#);
        let creation = read_creation(body.as_bytes());
        assert_eq!(creation.inject_label.as_deref(), Some("false"));
        assert_eq!(creation.pull_secrets, Some(vec!["pullpass".into()]));
    }

    #[rstest]
    #[case(json!({"uid": "u", "operation": "UPDATE", "resource": {"resource": "pods"}}))]
    #[case(json!({"uid": "u", "operation": "CREATE", "resource": {"resource": "nodes"}}))]
    #[case(json!({"uid": "u", "operation": "CREATE", "resource": {"group": "metrics.k8s.io", "resource": "pods"}}))]
    #[case(json!({"uid": "u", "operation": "CREATE", "resource": {"resource": "pods"}, "subResource": "binding"}))]
    #[case(json!({"uid": "u"}))]
    fn only_the_creation_of_pods_matters(#[case] request: Value) {
        let body = review(&request);
        assert_eq!(read(&body).unwrap().request, Request::Other);
    }

    #[rstest]
    #[case(json!("a string"))]
    #[case(json!([{"labels": {}}]))]
    #[case(json!({"metadata": []}))]
    #[case(json!({"metadata": {"labels": ["a"]}}))]
    #[case(json!({"metadata": {"labels": {INJECT_LABEL: false}}}))]
    #[case(json!({"spec": {"imagePullSecrets": "pullpass"}}))]
    #[case(json!({"spec": {"imagePullSecrets": ["pullpass"]}}))]
    #[case(json!({"spec": {"imagePullSecrets": [["pullpass"]]}}))]
    #[case(json!({"spec": {"imagePullSecrets": {"name": "pullpass"}}}))]
    #[case(json!({"spec": {"serviceAccountName": 7}}))]
    #[case(json!({"spec": {"containers": {"image": "i"}}}))]
    #[case(json!({"spec": {"containers": [{"image": ["i"]}]}}))]
    #[case(json!({"spec": {"volumes": [{"image": "i"}]}}))]
    fn wrong_types_leave_the_uid_readable(#[case] object: Value) {
        let body = creation_of(&object);
        let review = read(&body).unwrap();
        assert_eq!(review.uid, "u-1");
        assert!(
            matches!(review.request, Request::Unreadable(_)),
            "{review:?}"
        );
    }

    #[rstest]
    #[case(r#""object": {"spec": {}, "spec": {}}"#)]
    #[case(r#""object": {"spec": {"imagePullSecrets": [], "imagePullSecrets": []}}"#)]
    #[case(r#""object": {"metadata": {"labels": {"pullpass.dev/inject": "", "pullpass.dev/inject": "false"}}}"#)]
    #[case(r#""object": {}, "object": {}"#)]
    #[case(r#""operation": "CREATE", "operation": "CREATE""#)]
    fn a_field_that_occurs_twice_is_not_chosen_from(#[case] fields: &str) {
        let body = format!(
            r#"{{"apiVersion":"{API_VERSION}","kind":"{KIND}","request":{{"uid":"u",{fields}}}}}"#
        );
        let review = read(body.as_bytes()).unwrap();
        assert!(
            matches!(review.request, Request::Unreadable(_)),
            "{review:?}"
        );
    }

    #[test]
    fn a_passed_over_field_may_occur_twice() {
        let body = String::from_utf8(creation_of(&json!({"status": {}})))
            .unwrap()
            .replace(r#""status":{}"#, r#""status":{},"status":1"#);
        assert_eq!(read_creation(body.as_bytes()).namespace, "team-a");
    }

    fn envelope(api_version: &str, kind: &str, request: &str) -> Vec<u8> {
        format!(r#"{{"apiVersion":{api_version},"kind":{kind},"request":{request}}}"#).into_bytes()
    }

    const V1: &str = r#""admission.k8s.io/v1""#;
    const REVIEW: &str = r#""AdmissionReview""#;

    #[rstest]
    #[case(b"".to_vec(), NotAReview::Json(Place { line: 1, column: 0 }))]
    #[case(b"\xff".to_vec(), NotAReview::Encoding)]
    #[case(b"{\"a\":\"\xc3\x28\"}".to_vec(), NotAReview::Encoding)]
    #[case(b"null".to_vec(), NotAReview::Json(Place { line: 1, column: 4 }))]
    #[case(b"{}".to_vec(), NotAReview::Version)]
    #[case(envelope(V1, REVIEW, "{}"), NotAReview::NoUid)]
    #[case(envelope(V1, REVIEW, "null"), NotAReview::NoUid)]
    #[case(envelope(V1, REVIEW, r#"{"uid":""}"#), NotAReview::NoUid)]
    #[case(envelope(V1, REVIEW, r#"{"uid":null}"#), NotAReview::NoUid)]
    #[case(envelope(V1, r#""Pod""#, r#"{"uid":"u"}"#), NotAReview::Version)]
    #[case(
        envelope(r#""admission.k8s.io/v1beta1""#, REVIEW, r#"{"uid":"u"}"#),
        NotAReview::Version
    )]
    fn without_a_uid_there_is_nobody_to_answer_to(
        #[case] body: Vec<u8>,
        #[case] expected: NotAReview,
    ) {
        assert_eq!(read(&body), Err(expected));
    }

    #[rstest]
    #[case(envelope(V1, REVIEW, r#"{"uid":7}"#))]
    #[case(envelope(V1, REVIEW, r#"{"uid":"a","uid":"b"}"#))]
    #[case(envelope(V1, REVIEW, r#"["u"]"#))]
    #[case(envelope(V1, REVIEW, r#"{"uid":"u"},"request":{"uid":"v"}"#))]
    #[case(envelope(V1, REVIEW, r#"{"uid":"u"}"#)[..40].to_vec())]
    #[case([envelope(V1, REVIEW, r#"{"uid":"u"}"#), b"{}".to_vec()].concat())]
    fn what_is_no_review_is_refused_with_its_place(#[case] body: Vec<u8>) {
        assert!(
            matches!(read(&body), Err(NotAReview::Json(_))),
            "{:?}",
            read(&body)
        );
    }

    /// Where the place of an error would be repeated with what stood there, the text would be in it.
    #[test]
    fn errors_do_not_repeat_what_was_sent() {
        let body = creation_of(&json!({"spec": {"serviceAccountName": {"token": "CANARY"}}}));
        assert!(!format!("{:?}", read(&body)).contains("CANARY"));
        let body = envelope(r#"{"CANARY": 1}"#, "1", "{}");
        assert!(!read(&body).unwrap_err().to_string().contains("CANARY"));
    }

    #[rstest]
    #[case("[", "]")]
    #[case(r#"{"a":"#, "}")]
    fn depth_does_not_reach_the_stack(#[case] open: &str, #[case] close: &str) {
        let deep = format!("{}1{}", open.repeat(500_000), close.repeat(500_000));
        let inside = creation_of(&json!({"status": "DEEP"}));
        let body = String::from_utf8(inside)
            .unwrap()
            .replace("\"DEEP\"", &deep);
        assert_eq!(read_creation(body.as_bytes()).namespace, "team-a");
        assert!(read(deep.as_bytes()).is_err());
        // where a field of ours should be
        let body = String::from_utf8(creation_of(&json!({"spec": "DEEP"}))).unwrap();
        let body = body.replace("\"DEEP\"", &deep);
        assert_eq!(read(body.as_bytes()).unwrap().uid, "u-1");
    }

    #[test]
    fn a_megabyte_of_labels_is_passed_over() {
        let mut labels: serde_json::Map<String, Value> = (0..40_000)
            .map(|n| (format!("label-{n}"), json!("a value of some length")))
            .collect();
        labels.insert(INJECT_LABEL.into(), json!("false"));
        let body = creation_of(&json!({"metadata": {"labels": labels}}));
        assert!(body.len() > 1024 * 1024);
        assert_eq!(read_creation(&body).inject_label.as_deref(), Some("false"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(
                    prop_oneof![
                        Just("metadata".to_owned()),
                        Just("spec".to_owned()),
                        Just("labels".to_owned()),
                        Just("imagePullSecrets".to_owned()),
                        Just("name".to_owned()),
                        ".{0,8}",
                    ],
                    inner,
                    0..4
                )
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_object_is_answered_under_its_uid(object in any_json()) {
            let body = creation_of(&object);
            let review = read(&body);
            prop_assert_eq!(review.map(|r| r.uid.into_owned()), Ok("u-1".to_owned()));
        }

        #[test]
        fn any_bytes_end_in_a_decision(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(&body).is_err());
        }

        #[test]
        fn any_cut_ends_in_a_refusal(object in any_json(), at in any::<prop::sample::Index>()) {
            let body = creation_of(&object);
            prop_assert!(read(&body[..at.index(body.len())]).is_err());
        }
    }
}
