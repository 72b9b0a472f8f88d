//! Our matching against kubelet's own code, question by question.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

mod generate;
mod kubelet;
mod table;

use std::collections::BTreeMap;

use kubelet::{Answer, Question};
use oci_spec::distribution::Reference;
use pullpass_core::image::Repository;
use pullpass_core::key::RegistryKey;
use pullpass_core::matching::{keys_for, serves};

/// How many cases are compared. Each asks kubelet three questions.
const CASES: usize = 40_000;

/// Our answer to the question, for keys that we accept.
fn answer(image: &str, keys: &[RegistryKey]) -> Answer {
    match Repository::parse(image) {
        Err(error) => Answer {
            repository: None,
            matched: Vec::new(),
            error: Some(error.to_string()),
        },
        Ok(repository) => Answer {
            matched: keys_for(&repository, keys)
                .into_iter()
                .map(|found| {
                    keys.iter()
                        .position(|key| std::ptr::eq(key, found))
                        .unwrap()
                })
                .collect(),
            repository: Some(repository.to_string()),
            error: None,
        },
    }
}

fn is_same(ours: &Answer, kubelets: &Answer) -> bool {
    // why an image cannot be read is said in other words
    (&ours.repository, &ours.matched) == (&kubelets.repository, &kubelets.matched)
        && ours.error.is_some() == kubelets.error.is_some()
}

/// The keys of a case that we accept, each once, as they are written and as they are read.
fn accepted(keys: &[String]) -> Vec<(String, RegistryKey)> {
    let mut accepted: Vec<(String, RegistryKey)> = Vec::new();
    for text in keys {
        match RegistryKey::parse(text) {
            Ok(key) if accepted.iter().all(|(_, before)| *before != key) => {
                accepted.push((text.clone(), key));
            }
            Ok(_) => {}
            Err(error) => assert!(!error.to_string().is_empty(), "{text:?} without advice"),
        }
    }
    accepted
}

#[test]
fn every_answer_is_that_of_kubelet() {
    let cases: Vec<_> = generate::cases(CASES)
        .into_iter()
        .map(|case| (accepted(&case.keys), case))
        .collect();
    let questions: Vec<Question> = cases
        .iter()
        .flat_map(|(keys, case)| {
            let of = |keys: Vec<String>| Question {
                image: case.image.clone(),
                keys,
            };
            [
                of(keys.iter().map(|(text, _)| text.clone()).collect()),
                of(keys.iter().map(|(_, key)| key.to_string()).collect()),
                of(keys
                    .first()
                    .map(|(_, key)| key.to_string())
                    .into_iter()
                    .collect()),
            ]
        })
        .collect();
    let answers = kubelet::ask(&questions);

    let mut differences = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for ((keys, case), kubelets) in cases.iter().zip(answers.chunks_exact(3)) {
        let (texts, keys): (Vec<_>, Vec<_>) = keys.iter().cloned().unzip();
        let ours = answer(&case.image, &keys);
        for kubelets in &kubelets[..2] {
            if !is_same(&ours, kubelets) {
                differences.push(format!(
                    "{:?} with {texts:?}:\n  ours {ours:?}\n  kubelet {kubelets:?}",
                    case.image
                ));
            }
        }
        if let (Some(key), Ok(image)) = (keys.first(), Repository::parse(&case.image))
            && serves(key, &image) == kubelets[2].matched.is_empty()
        {
            differences.push(format!(
                "{:?} alone for {:?}: kubelet {:?}",
                texts[0], case.image, kubelets[2]
            ));
        }

        let mut count = |what, holds: bool| *seen.entry(what).or_default() += usize::from(holds);
        let is_fallback = |&position: &usize| keys[position].is_docker_hub();
        count("image refused", ours.error.is_some());
        count("image read", ours.error.is_none());
        count(
            "key refused",
            case.keys.iter().any(|key| RegistryKey::parse(key).is_err()),
        );
        count(
            "no match",
            ours.error.is_none() && !keys.is_empty() && ours.matched.is_empty(),
        );
        count("one match", ours.matched.len() == 1);
        count("several matches", ours.matched.len() > 1);
        count(
            "wildcard",
            ours.matched
                .iter()
                .any(|&position| keys[position].is_glob()),
        );
        count(
            "path",
            ours.matched
                .iter()
                .any(|&position| !keys[position].path().is_empty()),
        );
        count(
            "port",
            ours.matched
                .iter()
                .any(|&position| keys[position].host().contains(':')),
        );
        count(
            "IPv6",
            ours.matched
                .iter()
                .any(|&position| keys[position].host().starts_with('[')),
        );
        count("fallback", ours.matched.iter().any(is_fallback));
        count(
            "fallback displaced",
            !ours.matched.is_empty()
                && !ours.matched.iter().any(is_fallback)
                && keys.iter().any(RegistryKey::is_docker_hub),
        );
    }
    assert!(
        differences.is_empty(),
        "{} differences, the first of them:\n{}",
        differences.len(),
        differences[..differences.len().min(10)].join("\n")
    );
    // a generator that meets nothing would compare nothing
    for (what, count) in seen {
        assert!(count >= CASES / 200, "only {count} cases of: {what}");
    }
}

/// What an administrator writes as host is for the images whose reference starts with it.
#[test]
fn kubelet_uses_a_registrys_key_for_its_images() {
    let hosts: Vec<_> = generate::cases(CASES / 3)
        .into_iter()
        .flat_map(|case| case.keys)
        .filter(|text| !text.contains("://") && !text.contains(['*', '/']))
        .filter_map(|text| Some((RegistryKey::for_registry_host(&text).ok()?, text)))
        .collect();
    let questions: Vec<_> = hosts
        .iter()
        .map(|(key, host)| Question {
            image: format!("{host}/team/app"),
            keys: vec![key.to_string()],
        })
        .collect();
    let mut used = 0;
    for (question, answer) in questions.iter().zip(kubelet::ask(&questions)) {
        // a host without dot or port is a part of the path to kubelet
        let is_host = answer.repository.as_ref() == Some(&question.image)
            || question.image.starts_with("index.docker.io/");
        if is_host && !question.image.starts_with("[::ffff:") {
            assert_eq!(answer.matched, [0], "{question:?}");
            used += 1;
        }
    }
    assert!(used > 1000, "only {used} hosts");
}

/// The crate for references would do if it answered as kubelet does. Once this fails, ours can go.
#[test]
fn the_crate_for_references_reads_some_of_them_otherwise() {
    let by_crate = |image: &str| {
        let reference = image.parse::<Reference>().ok()?;
        Some(format!(
            "{}/{}",
            reference.registry(),
            reference.repository()
        ))
    };
    let wrong_digits = format!("registry.example.com/app@sha256:{}", "A".repeat(64));
    let known = ["[2001:db8::1]:5000/app", "Registry/app", &wrong_digits].map(str::to_owned);
    let generated = generate::cases(CASES).into_iter().map(|case| case.image);
    let questions: Vec<_> = known
        .iter()
        .cloned()
        .chain(generated)
        .map(|image| Question {
            image,
            keys: Vec::new(),
        })
        .collect();
    let answers = kubelet::ask(&questions);
    let differs =
        |(question, answer): (&Question, &Answer)| by_crate(&question.image) != answer.repository;
    let different = questions.iter().zip(&answers).map(differs);
    assert!(different.clone().take(known.len()).all(|differs| differs));
    let count = different.filter(|differs| *differs).count();
    assert!(
        count > CASES / 100,
        "only {count} of {CASES} are read otherwise"
    );
}
