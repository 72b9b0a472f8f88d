//! Asks a registry whether a credential is good: the base of its API and the challenge there, and a manifest where a
//! repository is named. The same steps as those of `docker login` and of a pull, so that what passes here works there.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use pullpass_core::docker_config::Login;
use pullpass_core::key::RegistryKey;
use pullpass_core::reason::Reason;
use reqwest::Client;
use reqwest::dns::Resolve;
use url::Url;

use crate::answer::Answer;
use crate::challenge::Challenge;
use crate::client;
use crate::connection::{Connection, Tls, Via};
use crate::destination::{self, Registry};
use crate::endpoint::{Endpoint, MANIFEST_TYPES};
use crate::expiry;
use crate::failure::Failure;
use crate::resolver::{Guarded, System};
use crate::token::{self, TokenService};
use crate::transport;

/// For all requests together: twice the time of a single one that fails.
const CONVERSATION: Duration = Duration::from_secs(30);

/// What a registry says about a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// It lets the credential in, and pull where a repository was named.
    Accepted,
    /// It answered the credential with a refusal: rolled out, it would break pulls.
    Refused(Failure),
    /// It could not be asked, or its answer proves nothing.
    Unknown(Failure),
}

/// Failures by themselves prove nothing; a refusal is said to be one where it is recognised.
impl From<Failure> for Verification {
    fn from(failure: Failure) -> Self {
        Self::Unknown(failure)
    }
}

/// Asks the registry of `key` whether it takes `login`, and whether that may pull from `repository`, which is the path of an
/// image after the host. Takes at most 30 s, reads at most 64 KiB of each answer, and sends the credential nowhere but
/// where [`crate::destination`] allows.
pub async fn verify(
    key: &RegistryKey,
    login: &Login,
    repository: Option<&str>,
    connection: &Connection,
) -> Verification {
    ask(key, login, repository, connection, Arc::new(System)).await
}

async fn ask(
    key: &RegistryKey,
    login: &Login,
    repository: Option<&str>,
    connection: &Connection,
    names: Arc<dyn Resolve>,
) -> Verification {
    let conversation = Box::pin(converse(key, login, repository, connection, names));
    match tokio::time::timeout(CONVERSATION, conversation).await {
        Ok(Ok(())) => Verification::Accepted,
        Ok(Err(verdict)) => verdict,
        Err(_) => Verification::Unknown(Failure::new(
            Reason::Unreachable,
            format!("{} did not answer in time", key.host()),
        )),
    }
}

/// The whole of it; an end that is no acceptance is an error.
async fn converse(
    key: &RegistryKey,
    login: &Login,
    repository: Option<&str>,
    connection: &Connection,
    names: Arc<dyn Resolve>,
) -> Result<(), Verification> {
    let endpoint = Endpoint::of(key)?;
    let client = client::client(connection, Arc::clone(&names))?;
    let mut party = Party {
        endpoint,
        client,
        connection,
        login,
    };
    let answer = party.approach().await?;
    let (challenge, is_open) = match party.door(&answer)? {
        Door::Asks(challenge) => (challenge, false),
        Door::Open => (party.ask_as_a_stranger(repository).await?, true),
    };
    let pass = party.pass(challenge, answer.address, names)?;
    if !is_open {
        party.log_in(&pass).await?;
    }
    match repository {
        // whether the login as such is good is not known yet where everybody is let in
        Some(repository) if is_open => party.pull(&pass, repository, Step::LogIn).await,
        Some(repository) => party.pull(&pass, repository, Step::Pull).await,
        None => Ok(()),
    }
}

/// What a registry does with a stranger.
enum Door {
    /// Lets everybody in.
    Open,
    /// Asks for a credential.
    Asks(Challenge),
}

/// What a credential is shown for, which decides what a refusal means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// To be let in.
    LogIn,
    /// To be let in with the token that it was given for.
    Enter,
    /// To pull, when it has been let in.
    Pull,
}

/// What goes with a request so that it passes.
enum Pass {
    /// The same for every request.
    Basic(HeaderValue),
    /// A token for each.
    Bearer {
        service: TokenService,
        authorization: HeaderValue,
    },
}

/// The registry and who asks it.
struct Party<'a> {
    endpoint: Endpoint,
    client: Client,
    connection: &'a Connection,
    login: &'a Login,
}

impl Party<'_> {
    /// Asks as a stranger, over plain HTTP if that is allowed and TLS is not spoken.
    async fn approach(&mut self) -> Result<Answer, Failure> {
        let url = self.endpoint.base();
        match Answer::to(self.client.get(url.clone())).await {
            Err(error) if self.is_insecure() && transport::is_without_tls(&error) => {
                self.endpoint = self.endpoint.plain()?;
                self.send(Method::GET, self.endpoint.base(), None).await
            }
            Err(error) => Err(self.no_answer(&error, &url)),
            Ok(answer) => Ok(answer),
        }
    }

    async fn send(
        &self,
        method: Method,
        url: Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let mut request = self.client.request(method.clone(), url.clone());
        if method == Method::HEAD {
            request = request.header(header::ACCEPT, MANIFEST_TYPES);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let answered = Answer::to(request).await;
        answered.map_err(|error| self.no_answer(&error, &url))
    }

    fn no_answer(&self, error: &reqwest::Error, url: &Url) -> Failure {
        transport::failure(error, url, self.is_proxied(url))
    }

    fn is_proxied(&self, url: &Url) -> bool {
        match &self.connection.via {
            Via::Direct => false,
            Via::Proxies(proxies) => proxies.serve(url),
        }
    }

    fn is_insecure(&self) -> bool {
        matches!(self.connection.tls, Tls::Insecure)
    }

    /// What a stranger's answer means.
    fn door(&self, answer: &Answer) -> Result<Door, Failure> {
        let who = self.endpoint.name();
        match answer.status {
            StatusCode::UNAUTHORIZED => answer.challenge.clone().map(Door::Asks).ok_or_else(|| {
                Failure::new(
                    Reason::HostMismatch,
                    format!("{who} asks for a login of another kind than a registry does: neither Basic nor Bearer with one realm"),
                )
            }),
            StatusCode::OK if !answer.is_page => Ok(Door::Open),
            StatusCode::FORBIDDEN => Err(Failure {
                retry_after: answer.retry_after,
                ..Failure::new(
                    Reason::Forbidden,
                    format!("{who} answered 403 Forbidden before it saw the credential: it may admit certain addresses only"),
                )
            }),
            _ => Err(no_registry(answer, who)),
        }
    }

    /// Where everybody is let in, a repository may still ask for a credential.
    async fn ask_as_a_stranger(&self, repository: Option<&str>) -> Result<Challenge, Failure> {
        let who = self.endpoint.name();
        let Some(repository) = repository else {
            return Err(Failure::new(
                Reason::NoChallenge,
                format!("{who} lets everybody in, which proves nothing about the credential"),
            ));
        };
        let url = self.endpoint.manifest(repository);
        let answer = self.send(Method::HEAD, url, None).await?;
        match (answer.status, &answer.challenge) {
            (StatusCode::UNAUTHORIZED, Some(challenge)) => Ok(challenge.clone()),
            (StatusCode::TOO_MANY_REQUESTS, _) => Err(no_registry(&answer, who)),
            (status, _) if status.is_server_error() => Err(no_registry(&answer, who)),
            _ => Err(Failure::new(
                Reason::NoChallenge,
                format!(
                    "{who} asks nobody for a credential, for {repository} neither, which proves nothing about this one"
                ),
            )),
        }
    }

    /// How to answer the challenge, if the credential may go where it asks. `address` is where the registry answered from.
    fn pass(
        &self,
        challenge: Challenge,
        address: Option<IpAddr>,
        names: Arc<dyn Resolve>,
    ) -> Result<Pass, Failure> {
        let authorization = client::basic(self.login)?;
        let Challenge::Bearer { realm, service } = challenge else {
            return Ok(Pass::Basic(authorization));
        };
        // a proxy's address says nothing about the registry's
        let address = address.filter(|_| !self.is_proxied(self.endpoint.url()));
        let proxies = match &self.connection.via {
            Via::Direct => Vec::new(),
            Via::Proxies(proxies) => proxies.hosts(),
        };
        let registry = Registry {
            url: self.endpoint.url(),
            address,
            is_insecure: self.is_insecure(),
        };
        let url = destination::token_service(&realm, registry).map_err(|error| {
            Failure::new(
                Reason::UnsafeRealm,
                format!(
                    "the token service that {} names {error}: the credential is not sent there",
                    self.endpoint.name()
                ),
            )
        })?;
        let own_host = self.endpoint.url().host_str().map(str::to_owned);
        let guarded = Guarded {
            names,
            trusted: own_host.into_iter().chain(proxies).collect(),
            registry: address,
        };
        Ok(Pass::Bearer {
            service: TokenService {
                client: client::client(self.connection, Arc::new(guarded))?,
                url,
                service,
            },
            authorization,
        })
    }

    /// Shows the credential to be let in, as `docker login` does.
    async fn log_in(&self, pass: &Pass) -> Result<(), Verification> {
        let authorization = self.authorize(pass, None, Step::LogIn).await?;
        let url = self.endpoint.base();
        let answer = self.send(Method::GET, url, Some(&authorization)).await?;
        let step = match pass {
            Pass::Basic(_) => Step::LogIn,
            Pass::Bearer { .. } => Step::Enter,
        };
        self.judge(&answer, self.endpoint.name(), step)
    }

    /// Shows it for a manifest of the repository, which need not have the tag that is asked for.
    async fn pull(&self, pass: &Pass, repository: &str, step: Step) -> Result<(), Verification> {
        let who = self.endpoint.name();
        let scope = self.endpoint.scope(repository);
        let authorization = self.authorize(pass, Some(&scope), step).await?;
        let url = self.endpoint.manifest(repository);
        let answer = self.send(Method::HEAD, url, Some(&authorization)).await?;
        if answer.status != StatusCode::NOT_FOUND {
            let step = match pass {
                Pass::Basic(_) => step,
                // the token service has taken the login
                Pass::Bearer { .. } => Step::Pull,
            };
            return self.judge(&answer, who, step);
        }
        // who is let through to look for the tag may pull; only a repository that is not there proves nothing
        let url = self.endpoint.tags(repository);
        let answer = self.send(Method::GET, url, Some(&authorization)).await?;
        if answer.status == StatusCode::NOT_FOUND && answer.complaint().is_name_unknown {
            return Err(Verification::Unknown(Failure::new(
                Reason::RepositoryNotFound,
                format!("{who} lets the credential in, and has no repository {repository}"),
            )));
        }
        Ok(())
    }

    /// The field that a request is sent with.
    async fn authorize(
        &self,
        pass: &Pass,
        scope: Option<&str>,
        step: Step,
    ) -> Result<HeaderValue, Verification> {
        let (service, authorization) = match pass {
            Pass::Basic(authorization) => return Ok(authorization.clone()),
            Pass::Bearer {
                service,
                authorization,
            } => (service, authorization),
        };
        let who = format!("the token service {}", transport::name(&service.url));
        let asked = service.ask(self.login, authorization, scope).await;
        let answer = asked.map_err(|error| self.no_answer(&error, &service.url))?;
        if let Some(target) = answer
            .redirect
            .as_ref()
            .filter(|_| answer.status.is_redirection())
        {
            return Err(Verification::Unknown(Failure::new(
                Reason::UnsafeRealm,
                format!("{who} redirects to {target}: no redirect is followed with a credential"),
            )));
        }
        self.judge(&answer, &who, step)?;
        let token = answer.body.as_deref().and_then(|body| token::token(body));
        let token = token.ok_or_else(|| {
            Failure::new(
                Reason::RegistryFailing,
                format!("{who} answered without a token that can be used"),
            )
        })?;
        Ok(client::bearer(&token)?)
    }

    /// What an answer to the credential means.
    fn judge(&self, answer: &Answer, who: &str, step: Step) -> Result<(), Verification> {
        let status = answer.status;
        let (reason, what) = match (status, step) {
            (StatusCode::OK, _) if !answer.is_page => return Ok(()),
            (StatusCode::UNAUTHORIZED, Step::LogIn) => (
                Reason::Unauthorized,
                "it does not take the user name and password",
            ),
            (StatusCode::BAD_REQUEST, Step::LogIn) if answer.complaint().is_refusal => (
                Reason::Unauthorized,
                "it does not take the user name and password",
            ),
            (StatusCode::UNAUTHORIZED, Step::Enter) => (
                Reason::Unauthorized,
                "it does not take the token that its own token service gave for the login",
            ),
            (StatusCode::FORBIDDEN, Step::LogIn | Step::Enter) => {
                (Reason::Forbidden, "it refuses the login")
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Step::Pull) => (
                Reason::Forbidden,
                "it takes the login, which may not pull from the repository of spec.verify",
            ),
            _ => return Err(no_registry(answer, who).into()),
        };
        let (reason, what) = if self.is_expired(answer) {
            (Reason::Expired, "the credential's life is over")
        } else {
            (reason, what)
        };
        Err(Verification::Refused(Failure {
            retry_after: answer.retry_after,
            ..Failure::new(reason, format!("{who} answered {status}: {what}"))
        }))
    }

    /// Whether a credential that was refused is over, by the registry's word or its own.
    fn is_expired(&self, answer: &Answer) -> bool {
        answer.complaint().is_expired
            || expiry::of(self.login.password()).is_some_and(|end| end <= Timestamp::now())
    }
}

/// What an answer means that is none of a registry in good order.
fn no_registry(answer: &Answer, who: &str) -> Failure {
    let status = answer.status;
    let (reason, what) = if status == StatusCode::TOO_MANY_REQUESTS {
        (
            Reason::RateLimited,
            format!("answered {status}: its limit of requests is reached"),
        )
    } else if status.is_server_error() {
        (
            Reason::RegistryFailing,
            format!("answered {status}: it fails by itself"),
        )
    } else if let Some(target) = answer.redirect.as_ref().filter(|_| status.is_redirection()) {
        (
            Reason::HostMismatch,
            format!(
                "redirects to {target}: no redirect is followed, write the registry's own host"
            ),
        )
    } else if answer.is_page {
        (
            Reason::HostMismatch,
            format!("answered {status} with a page for people: it is no registry"),
        )
    } else {
        (
            Reason::HostMismatch,
            format!("answered {status}, as no registry does here"),
        )
    };
    Failure {
        retry_after: answer.retry_after,
        ..Failure::new(reason, format!("{who} {what}"))
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod scripted;
