//! The reviews that the webhook's unit tests and benches read are what the API server sends.

use pullpass_harness::{lease, reviews};

#[tokio::test]
async fn the_stored_reviews_are_those_of_the_api_server() {
    let server = lease().await;
    let captured = reviews::capture(&server).await;
    for (name, body) in captured {
        let stored = std::fs::read(reviews::directory().join(format!("{name}.json")))
            .unwrap_or_else(|error| panic!("{name}: {error}; capture it by cargo run -p pullpass-harness --bin capture-reviews"));
        let expected = reviews::shape(&body).unwrap();
        let found = reviews::shape(&stored).unwrap();
        let missing: Vec<_> = expected.difference(&found).collect();
        let surplus: Vec<_> = found.difference(&expected).collect();
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "{name}: stored without {missing:?}, with {surplus:?}"
        );
    }
}

#[tokio::test]
async fn the_stored_reviews_have_the_sizes_that_are_measured() {
    for (name, least, most) in [
        ("small", 2_000, 4_500),
        ("typical", 7_500, 16_000),
        ("big", 60_000, 80_000),
    ] {
        let stored = std::fs::read(reviews::directory().join(format!("{name}.json"))).unwrap();
        assert!(
            (least..=most).contains(&stored.len()),
            "{name} has {} bytes",
            stored.len()
        );
    }
}
