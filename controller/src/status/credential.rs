//! How the credential itself stands.

use pullpass_api::status::Truth;
use pullpass_core::reason::Reason;

use super::judgement::Judgement;
use crate::credential::LastGood;
use crate::world::Verdict;

pub(super) fn judge_credential(
    verdict: &Verdict,
    last_good: Option<&LastGood>,
    is_withheld: bool,
) -> Judgement {
    let advise = |reason: Reason, message: &str| {
        let kept = kept(last_good, is_withheld);
        format!("{message}. {}{kept}", reason.advice())
    };
    match verdict {
        Verdict::Public => Judgement::new(
            Truth::True,
            Reason::PublicRegistry,
            "a public registry needs no credential",
        ),
        Verdict::Held => Judgement::new(
            Truth::True,
            Reason::HeldByNamespace,
            "each namespace holds the credential itself",
        ),
        Verdict::Good => Judgement::new(
            Truth::True,
            Reason::CredentialRead,
            "the credential was read and is in use",
        ),
        // a Registry may come before its Secret: nothing is wrong yet
        Verdict::Bad {
            reason: Reason::SourceMissing,
            message,
        } if last_good.is_none() => Judgement::new(
            Truth::Unknown,
            Reason::SourceMissing,
            advise(Reason::SourceMissing, message),
        ),
        Verdict::Bad { reason, message } => {
            Judgement::new(Truth::False, *reason, advise(*reason, message))
        }
        Verdict::Invalid(message) => Judgement::new(
            Truth::False,
            Reason::InvalidRegistry,
            advise(Reason::InvalidRegistry, message),
        ),
        Verdict::Pending => Judgement::new(
            Truth::Unknown,
            Reason::CredentialPending,
            "the credential is being read, exchanged or verified",
        ),
    }
}

/// What becomes of the credential in use.
fn kept(last_good: Option<&LastGood>, is_withheld: bool) -> String {
    match last_good.map(|last_good| last_good.refreshed_at) {
        Some(_) if is_withheld => format!(" {}", Reason::CredentialWithheld.meaning()),
        Some(Some(time)) => format!(" The last good credential, of {time}, stays in use."),
        Some(None) => " The last good credential stays in use.".to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use pullpass_api::status::{CREDENTIALS_READY, DISTRIBUTED, READY};

    use super::super::sample::{everywhere, last_good, says, tally, told};
    use super::*;

    #[test]
    fn a_bad_source_is_told_with_what_stays() {
        let verdict = Verdict::Bad {
            reason: Reason::SourceMissing,
            message: "there is no Secret \"source\"".into(),
        };
        let status = told(&everywhere(verdict), Some(&last_good()), &tally(3, 3));
        let (truth, reason, message) = says(&status, CREDENTIALS_READY);
        assert_eq!(
            (truth.as_str(), reason.as_str()),
            ("False", "SourceMissing")
        );
        assert!(message.contains("stays in use"), "{message}");
        assert_eq!(says(&status, DISTRIBUTED).0, "True");
        assert_eq!(says(&status, READY).1, "KeepingLastGood");
    }
}
