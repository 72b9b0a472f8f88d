//! Questions to clouds and registries: the loops that ask, each with its own bound, so that one that answers slowly holds
//! up neither the others nor what needs no answer.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use pullpass_core::docker_config::Entries;
use pullpass_core::key::RegistryKey;
use pullpass_core::provider::Provider;
use pullpass_providers::connection::Connection;
use pullpass_providers::failure::Failure;
use pullpass_providers::login::{Method, Providers};
use pullpass_providers::verify::verify;

use crate::clock;
use crate::context::Context;
use crate::heard::{FailedLogin, Issued};
use crate::identity_token::OwnTokens;
use crate::queue::Outcome;

/// How many clouds are asked at a time. A login takes a second, or its whole time where nobody answers.
pub(crate) const LOGINS: usize = 16;

/// How many Registries' credentials are verified at a time.
pub(crate) const VERIFICATIONS: usize = 16;

/// How many of the hosts of one docker config are asked at a time.
const HOSTS: usize = 4;

/// A login that failed is tried again so soon, then after twice as long each time. The longest pause leaves several
/// attempts within half of an hour, the shortest life of a token.
const LOGIN_AGAIN: Outcome = Outcome::Failed {
    first: Duration::from_secs(5),
    longest: Duration::from_secs(300),
};

/// A cloud that wants to be left alone for longer is asked nevertheless.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// With what clouds are asked.
pub(crate) struct Clouds {
    /// Who asks them.
    pub(crate) providers: Providers,
    /// By which the controller proves who it is.
    pub(crate) tokens: OwnTokens,
}

/// Something to be asked.
#[derive(Debug)]
pub(crate) struct Question<T> {
    /// Changes with what is asked.
    pub(crate) text: String,
    /// How registry and cloud are reached.
    pub(crate) connection: Connection,
    /// What it is about.
    pub(crate) about: T,
}

/// A token is asked for.
#[derive(Debug)]
pub(crate) struct Login {
    /// What it is for.
    pub(crate) key: RegistryKey,
    /// By what.
    pub(crate) method: Method,
    /// Identifies what it is exchanged for: see [`crate::credential::fingerprint`].
    pub(crate) source: String,
    /// The kind of registry, for the metrics.
    pub(crate) provider: Provider,
    /// The token that is in use, where it comes from the same source.
    pub(crate) in_use: Option<(Arc<Entries>, Option<Timestamp>)>,
    /// See [`Issued::refused_before`].
    pub(crate) refused_before: u32,
}

/// Logins are to be verified.
#[derive(Debug)]
pub(crate) struct Verification {
    /// The logins.
    pub(crate) entries: Entries,
    /// A repository that they have to be able to pull from.
    pub(crate) repository: Option<String>,
    /// See [`crate::upkeep::Facts::way`].
    pub(crate) way: String,
}

/// Asks a cloud for a token for one Registry.
pub(crate) async fn log_in(context: Context, clouds: Arc<Clouds>, name: String) -> Outcome {
    let Some(question) = context.world.login_question(&name) else {
        return Outcome::Done;
    };
    let Login {
        key,
        method,
        source,
        provider,
        in_use,
        refused_before,
    } = &question.about;
    let answer = clouds
        .providers
        .log_in(key, method, &question.connection, &clouds.tokens)
        .await;
    let count = |outcome: &str| {
        let labels = [provider.as_str(), outcome];
        context.metrics.renewals.with_label_values(&labels).inc();
    };
    match answer {
        Ok(token) => {
            let is_same = in_use.as_ref().is_some_and(|(entries, expires_at)| {
                *expires_at == token.expires_at
                    && entries
                        .get(key)
                        .is_some_and(|login| login.is_same(&token.login))
            });
            count(if is_same { "unchanged" } else { "renewed" });
            let issued = Issued {
                source: source.clone(),
                entries: Arc::new(Entries::from([(key.clone(), token.login)])),
                expires_at: token.expires_at,
                at: clock::time_of_day(),
                refused_before: *refused_before,
            };
            context.world.logged_in(&name, &question, Ok(issued));
            Outcome::Done
        }
        Err(failure) => {
            count("failed");
            tracing::warn!(registry = name, reason = %failure.reason, %failure, "no token issued");
            let again = again(&failure);
            let failed = FailedLogin {
                source: source.clone(),
                failure,
            };
            context.world.logged_in(&name, &question, Err(failed));
            again
        }
    }
}

fn again(failure: &Failure) -> Outcome {
    match failure.retry_after {
        Some(pause) => Outcome::Again(pause.clamp(Duration::from_secs(1), LONGEST_RETRY_AFTER)),
        None => LOGIN_AGAIN,
    }
}

/// Asks the registries of one Registry's credential whether they take it.
pub(crate) async fn verify_all(context: Context, name: String) -> Outcome {
    let Some(question) = context.world.verification_question(&name) else {
        return Outcome::Done;
    };
    let asking = question.about.entries.keys().map(|key| {
        // borrowed from the question as a whole, since a future that is sent elsewhere has to own what it works with
        let (question, key) = (Arc::clone(&question), key.clone());
        async move {
            let Verification {
                entries,
                repository,
                ..
            } = &question.about;
            let login = entries.get(&key)?;
            let answer = verify(&key, login, repository.as_deref(), &question.connection).await;
            Some((key, answer))
        }
    });
    let answers: Vec<_> = futures::stream::iter(asking.collect::<Vec<_>>())
        .buffer_unordered(HOSTS)
        .filter_map(std::future::ready)
        .collect()
        .await;
    for (_, answer) in &answers {
        let outcome = match answer {
            pullpass_providers::verify::Verification::Accepted => "accepted",
            pullpass_providers::verify::Verification::Refused(_) => "refused",
            pullpass_providers::verify::Verification::Unknown(_) => "unknown",
        };
        let labels = [outcome];
        context
            .metrics
            .verifications
            .with_label_values(&labels)
            .inc();
    }
    context.world.verified(&name, &question, answers);
    Outcome::Done
}
