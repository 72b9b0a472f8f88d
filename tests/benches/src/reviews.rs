//! The reviews that are sent: captured from a real API server, byte for byte.

use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;

use crate::checkout;

/// The namespace of the captured reviews.
pub(crate) const NAMESPACE: &str = "shop";

/// Sizes of reviews, each with a bound of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// A pod as a person writes it, about 3 KB.
    Small,
    /// A service's pod as a team deploys it, about 9 KB.
    Typical,
    /// A pod of a mesh or a build system, about 70 KB.
    Big,
}

impl Size {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Small, Self::Typical, Self::Big];

    /// In tables.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Typical => "typical",
            Self::Big => "big",
        }
    }

    /// The review.
    pub(crate) fn read(self) -> Result<Bytes> {
        let path = checkout::path("tests/reviews").join(format!("{}.json", self.as_str()));
        fs::read(&path)
            .map(Bytes::from)
            .with_context(|| format!("cannot read {}", path.display()))
    }
}

/// A review of the same pod in another namespace.
pub(crate) fn in_namespace(review: &[u8], namespace: &str) -> Result<Vec<u8>> {
    let review = std::str::from_utf8(review)?;
    let before = format!(r#""namespace":"{NAMESPACE}""#);
    anyhow::ensure!(review.contains(&before), "the review names no namespace");
    let after = format!(r#""namespace":"{namespace}""#);
    Ok(review.replace(&before, &after).into_bytes())
}

/// A POST of a review as the API server sends it.
pub(crate) fn request(host: &str, review: &[u8]) -> Arc<[u8]> {
    let header = format!(
        "POST /inject?timeout=3s HTTP/1.1\r\n\
         Host: {host}\r\n\
         User-Agent: kube-apiserver-admission\r\n\
         Content-Length: {}\r\n\
         Accept: application/json, */*\r\n\
         Content-Type: application/json\r\n\
         Accept-Encoding: gzip\r\n\r\n",
        review.len()
    );
    [header.as_bytes(), review].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_captured_reviews_have_the_promised_sizes() {
        for (size, about) in [(Size::Small, 3), (Size::Typical, 9), (Size::Big, 70)] {
            let kilobytes = size.read().unwrap().len() / 1000;
            assert!(
                kilobytes.abs_diff(about) <= 1,
                "{}: {kilobytes} KB",
                size.as_str()
            );
        }
    }

    #[test]
    fn a_review_moves_to_another_namespace_as_a_whole() {
        let moved = in_namespace(&Size::Small.read().unwrap(), "elsewhere").unwrap();
        let moved: serde_json::Value = serde_json::from_slice(&moved).unwrap();
        assert_eq!(moved["request"]["namespace"], "elsewhere");
        assert_eq!(
            moved["request"]["object"]["metadata"]["namespace"],
            "elsewhere"
        );
        assert!(in_namespace(b"{}", "elsewhere").is_err());
    }
}
