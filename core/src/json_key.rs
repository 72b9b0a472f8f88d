//! A Google service account's key as a password: the JSON file as it was downloaded.

use secrecy::SecretString;
use serde_json::Value;
use zeroize::Zeroizing;

/// The user name by which Google's registries take the key as the password
/// (<https://cloud.google.com/artifact-registry/docs/docker/authentication#json-key>).
pub const USERNAME: &str = "_json_key";

/// The same JSON on one line, so that HTTP's Basic scheme carries it (RFC 7617, section 2, allows no line break in a
/// password): parsed and written anew, so that what its strings hold stays as it is. `None` for what is no JSON object.
///
/// A byte order mark in front, as editors on Windows put there, is dropped: JSON does not allow it.
pub fn on_one_line(file: &str) -> Option<SecretString> {
    let file = file.strip_prefix('\u{feff}').unwrap_or(file);
    let mut object: serde_json::Map<String, Value> = serde_json::from_str(file).ok()?;
    let written = serde_json::to_string(&object).ok().map(Zeroizing::new);
    for value in object.values_mut() {
        if let Value::String(text) = value {
            zeroize::Zeroize::zeroize(text);
        }
    }
    written.map(|text| text.as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    const DOWNLOADED: &str = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN PRIVATE KEY-----\\nMIIE \\u003d\\n-----END PRIVATE KEY-----\\n\"\n}\n";

    #[test]
    fn a_downloaded_key_comes_onto_one_line_with_the_same_content() {
        for file in [
            DOWNLOADED.to_owned(),
            format!("\u{feff}{DOWNLOADED}"),
            DOWNLOADED.replace('\n', "\r\n"),
        ] {
            let written = on_one_line(&file).unwrap();
            let written = written.expose_secret();
            assert!(!written.contains(char::is_control), "{written}");
            let (before, after): (Value, Value) = (
                serde_json::from_str(DOWNLOADED).unwrap(),
                serde_json::from_str(written).unwrap(),
            );
            assert_eq!(before, after);
            // line breaks inside the key are content
            assert!(written.contains("KEY-----\\nMIIE =\\n"), "{written}");
        }
    }

    #[test]
    fn what_is_no_object_is_no_key() {
        for text in ["", "CANARY", "\"CANARY\"", "[]", "{", "{} {}"] {
            assert!(on_one_line(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn strings_stay_as_they_are(key in any::<String>(), value in any::<String>()) {
            let object = serde_json::json!({key: value});
            let pretty = serde_json::to_string_pretty(&object).unwrap();
            let written = on_one_line(&pretty).unwrap();
            let read: Value = serde_json::from_str(written.expose_secret()).unwrap();
            prop_assert_eq!(read, object);
        }
    }
}
