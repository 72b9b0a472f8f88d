//! An image, and on the further lines keys of a docker config.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pullpass_core::image::Repository;
use pullpass_core::key::RegistryKey;
use pullpass_core::matching::{keys_for, serves};

fuzz_target!(|input: &str| {
    let mut lines = input.split('\n');
    let image = lines.next().map(Repository::parse);
    let mut keys: Vec<_> = lines
        .filter_map(|line| RegistryKey::parse(line).ok())
        .collect();
    for key in &keys {
        assert_eq!(RegistryKey::parse(&key.to_string()).as_ref(), Ok(key));
    }
    let Some(Ok(image)) = image else {
        return;
    };
    assert_eq!(Repository::parse(&image.to_string()).as_ref(), Ok(&image));
    if let Ok(key) = RegistryKey::for_registry_host(image.host()) {
        assert!(serves(&key, &image), "{key} is no key for {image}");
    }
    let found = keys_for(&image, &keys);
    assert!(found.iter().all(|key| serves(key, &image)));
    assert_eq!(
        found.is_empty(),
        !keys.iter().any(|key| serves(key, &image))
    );
    let found: Vec<_> = found.into_iter().cloned().collect();
    keys.reverse();
    assert!(
        keys_for(&image, &keys).into_iter().eq(&found),
        "the order of the keys matters"
    );
});
