//! The tables of the documentation, row by row.

use pullpass_core::image::Repository;
use pullpass_core::key::RegistryKey;
use pullpass_core::matching::keys_for;

use crate::kubelet::{self, Question};

const PAGE: &str = include_str!("../../../docs/matching.md");

/// The rows of the table with this head.
fn rows(head: &str) -> Vec<Vec<&'static str>> {
    let rows: Vec<Vec<_>> = PAGE
        .lines()
        .skip_while(|line| *line != head)
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "no table {head}");
    rows
}

/// The texts in backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_page_says_what_kubelet_does() {
    let rows = rows("| Image | Keys | Kubelet tries | Why |");
    let questions: Vec<_> = rows
        .iter()
        .map(|row| Question {
            image: quoted(row[0]).remove(0),
            keys: quoted(row[1]),
        })
        .collect();
    for ((row, question), kubelets) in rows.iter().zip(&questions).zip(kubelet::ask(&questions)) {
        let tried: Vec<_> = kubelets
            .matched
            .iter()
            .map(|&position| format!("`{}`", question.keys[position]))
            .collect();
        let said = match (&kubelets.error, tried.is_empty()) {
            (Some(_), _) => "refused".to_owned(),
            (None, true) => "–".to_owned(),
            (None, false) => tried.join(", "),
        };
        assert_eq!(row[2], said, "{row:?}");
    }
}

#[test]
fn the_page_says_what_pullpass_does() {
    for row in rows("| Image | Keys | Kubelet tries | Why |") {
        let parse = |text: &String| RegistryKey::parse(text).unwrap();
        let keys: Vec<_> = quoted(row[1]).iter().map(parse).collect();
        let tried: Vec<_> = quoted(row[2]).iter().map(parse).collect();
        let Ok(image) = Repository::parse(&quoted(row[0])[0]) else {
            assert_eq!(row[2], "refused", "{row:?}");
            continue;
        };
        assert_ne!(row[2], "refused", "{row:?}");
        let found: Vec<_> = keys_for(&image, &keys).into_iter().cloned().collect();
        assert_eq!(found, tried, "{row:?}");
    }
}

#[test]
fn the_page_gives_the_advice_for_other_keys() {
    for row in rows("| Key | What is wrong with it |") {
        let error = RegistryKey::parse(&quoted(row[0])[0]).unwrap_err();
        assert_eq!(row[1], error.to_string(), "{row:?}");
    }
}
