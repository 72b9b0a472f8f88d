//! A request's body: answered under its uid with a patch that adds names and changes nothing else, or not a review.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use libfuzzer_sys::fuzz_target;
use pullpass_core::reason::Reason;
use pullpass_webhook::answer::Answer;
use pullpass_webhook::review::{PodCreation, Request, read};
use serde_json::{Value, json};

const NAMES: [&str; 2] = ["pullpass", "regcred"];

fuzz_target!(|body: &[u8]| {
    let review = match read(body) {
        Ok(review) => review,
        Err(error) => {
            // it goes back to whoever asked, so it may hold nothing of what came in
            assert!(error.to_string().len() < 100, "{error}");
            return;
        }
    };
    assert!(!review.uid.is_empty());
    let unchanged = respond(&review.uid, &Answer::unchanged(Reason::NothingGranted));
    assert!(unchanged.get("patch").is_none() && unchanged.get("patchType").is_none());

    let Request::PodCreation(pod) = &review.request else {
        return;
    };
    let injected = Answer {
        names: NAMES.map(str::to_owned).into(),
        has_list: pod.pull_secrets.is_some(),
        reason: Reason::Injected,
    };
    let response = respond(&review.uid, &injected);
    assert_eq!(response["patchType"], "JSONPatch");
    if let Ok(review) = serde_json::from_slice::<Value>(body) {
        check_patch(pod, &review["request"]["object"], &response["patch"]);
    }
});

/// The response under the uid, which allows the pod whatever came in.
fn respond(uid: &str, answer: &Answer) -> Value {
    let written = answer.to_json(uid).expect("an answer can be written");
    let mut review: Value = serde_json::from_slice(&written).expect("an answer is JSON");
    assert_eq!(review["kind"], "AdmissionReview");
    assert_eq!(review["response"]["uid"], uid);
    assert_eq!(review["response"]["allowed"], true);
    review["response"].take()
}

fn check_patch(pod: &PodCreation<'_>, object: &Value, patch: &Value) {
    // the API server always sends a spec; without one there is nothing to add a name to
    if !object["spec"].is_object() {
        return;
    }
    let patch = BASE64.decode(patch.as_str().expect("a patch is text"));
    let patch: json_patch::Patch =
        serde_json::from_slice(&patch.expect("a patch is base64")).expect("a patch is JSON Patch");
    let mut changed = object.clone();
    json_patch::patch(&mut changed, &patch).expect("the patch fits the pod it was made for");

    let before = object["spec"]["imagePullSecrets"]
        .as_array()
        .map_or(0, Vec::len);
    let after = changed["spec"]["imagePullSecrets"]
        .as_array()
        .expect("a list");
    assert_eq!(after.len(), before + NAMES.len());
    let kept = pod.pull_secrets.iter().flatten().map(AsRef::as_ref);
    let named = after
        .iter()
        .filter_map(|reference| reference["name"].as_str());
    assert!(named.filter(|name| !name.is_empty()).eq(kept.chain(NAMES)));

    let mut without = [object.clone(), changed];
    for object in &mut without {
        object["spec"]["imagePullSecrets"] = json!([]);
    }
    assert_eq!(without[0], without[1]);
}
