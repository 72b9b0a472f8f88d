//! When a token ends, as the token itself says: JSON Web Tokens (RFC 7519, section 4.1.4) as Azure and many token services
//! make them, and Amazon's registry tokens. Read without a key, hence good for an explanation and for nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use zeroize::Zeroizing;

/// When the token ends, where it tells.
pub(crate) fn of(token: &SecretString) -> Option<Timestamp> {
    let token = token.expose_secret();
    let seconds = json_web_token(token).or_else(|| amazon_token(token))?;
    Timestamp::from_second(seconds).ok()
}

fn json_web_token(token: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = Zeroizing::new(URL_SAFE_NO_PAD.decode(claims).ok()?);
    Some(serde_json::from_slice::<Claims>(&claims).ok()?.exp)
}

fn amazon_token(token: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Envelope {
        expiration: i64,
    }
    let envelope = Zeroizing::new(STANDARD.decode(token).ok()?);
    Some(
        serde_json::from_slice::<Envelope>(&envelope)
            .ok()?
            .expiration,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn read(token: String) -> Option<i64> {
        of(&token.into()).map(|time| time.as_second())
    }

    #[rstest]
    #[case(r#"{"exp":1800000000,"sub":"a"}"#, Some(1_800_000_000))]
    #[case(r#"{"sub":"a"}"#, None)]
    #[case(r#"{"exp":"soon"}"#, None)]
    #[case(r#"{"exp":9223372036854775807}"#, None)]
    #[case("nonsense", None)]
    fn a_web_token_tells_when_it_ends(#[case] claims: &str, #[case] expected: Option<i64>) {
        let claims = URL_SAFE_NO_PAD.encode(claims);
        assert_eq!(read(format!("e30.{claims}.c2ln")), expected);
        assert_eq!(read(format!("e30.{claims}")), None);
        assert_eq!(read(format!("e30.{claims}.c2ln.more")), None);
    }

    #[test]
    fn an_amazon_token_tells_when_it_ends() {
        let token = r#"{"payload":"cGF5","datakey":"a2V5","version":"2","type":"DATA_KEY","expiration":1800000000}"#;
        assert_eq!(read(STANDARD.encode(token)), Some(1_800_000_000));
    }

    proptest! {
        #[test]
        fn any_password_is_read(text in any::<String>(), parts in prop::collection::vec("[A-Za-z0-9+/=_-]{0,12}", 0..5)) {
            let _ = read(text);
            let _ = read(parts.join("."));
        }
    }
}
