//! The SDK's way to the network: the connection that the Registry describes, and bounds of our own.

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use url::Url;

use crate::connection::Connection;
use crate::exchange::{CloudClient, NoAnswer, NoAnswerKind};
use crate::failure::Failure;

/// Sends the SDK's requests. Those to the machine's own metadata go straight there: no proxy could answer them.
#[derive(Clone, Debug)]
pub(super) struct AwsClient {
    cloud: CloudClient,
    machine: CloudClient,
}

impl AwsClient {
    pub(super) fn new(connection: &Connection) -> Result<Self, Failure> {
        Ok(Self {
            cloud: CloudClient::new(connection)?,
            machine: CloudClient::of_the_machine()?,
        })
    }

    fn client_for(&self, address: &Url) -> &CloudClient {
        if is_of_the_machine(address) {
            &self.machine
        } else {
            &self.cloud
        }
    }
}

/// Whether an address is one of those at which a machine or pod asks for credentials of its own: instance metadata
/// (169.254.169.254, fd00:ec2::254), EKS Pod Identity (169.254.170.23, fd00:ec2::23), or loopback.
fn is_of_the_machine(address: &Url) -> bool {
    match address.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback() || address.is_link_local(),
        Some(url::Host::Ipv6(address)) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || address.segments().starts_with(&[0xfd00, 0xec2])
        }
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

impl HttpClient for AwsClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            client: self.clone(),
            settings: settings.clone(),
        })
    }
}

#[derive(Debug)]
struct Connector {
    client: AwsClient,
    settings: HttpConnectorSettings,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.client.clone();
        let settings = self.settings.clone();
        HttpConnectorFuture::new(async move { client.send(request, &settings).await })
    }
}

impl AwsClient {
    async fn send(
        &self,
        request: HttpRequest,
        settings: &HttpConnectorSettings,
    ) -> Result<HttpResponse, ConnectorError> {
        let request = request
            .try_into_http1x()
            .map_err(|error| ConnectorError::user(error.into()))?;
        let (parts, body) = request.into_parts();
        let body = body
            .bytes()
            .ok_or_else(|| ConnectorError::user("a body that is not in memory".into()))?
            .to_vec();
        let request = http::Request::from_parts(parts, body);
        let mut request = reqwest::Request::try_from(request)
            .map_err(|error| ConnectorError::user(error.into()))?;
        // the SDK waits for a machine's metadata less long than for a service
        if let (Some(connect), Some(read)) = (settings.connect_timeout(), settings.read_timeout()) {
            *request.timeout_mut() = Some(connect + read);
        }
        let client = self.client_for(request.url());
        let answer = client.send(request).await.map_err(connector_error)?;
        let mut response = http::Response::new(SdkBody::from(answer.body.to_vec()));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
    }
}

/// So that the SDK tries again what is worth it. The failure itself travels along.
fn connector_error(error: NoAnswer) -> ConnectorError {
    let kind = error.kind;
    let failure = error.failure.into();
    match kind {
        NoAnswerKind::TimedOut => ConnectorError::timeout(failure),
        NoAnswerKind::NeverConnected => ConnectorError::io(failure).never_connected(),
        NoAnswerKind::Broken => ConnectorError::io(failure),
        NoAnswerKind::TooLong => ConnectorError::other(failure, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("http://169.254.169.254/latest/api/token", true)]
    #[case("http://[fd00:ec2::254]/latest/api/token", true)]
    #[case("http://169.254.170.23/v1/credentials", true)]
    #[case("http://[fd00:ec2::23]/v1/credentials", true)]
    #[case("http://127.0.0.1:1338/", true)]
    #[case("http://localhost:1338/", true)]
    #[case("https://sts.eu-west-1.amazonaws.com/", false)]
    #[case("http://10.0.0.1/", false)]
    #[case("http://[fd00::1]/", false)]
    fn only_the_machines_own_metadata_is_asked_without_the_proxy(
        #[case] address: &str,
        #[case] expected: bool,
    ) {
        assert_eq!(is_of_the_machine(&Url::parse(address).unwrap()), expected);
    }
}
