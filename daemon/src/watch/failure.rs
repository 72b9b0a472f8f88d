//! Why a list or watch failed.

use kube::runtime::watcher::Error;

use crate::error::chain;

/// The closed set of the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// 410: the resource version is too old.
    Gone,
    /// 404: no such resource, for instance because its CRD is not installed.
    NotFound,
    /// 401, 403, and other refusals.
    Refused,
    /// 429.
    Throttled,
    /// 5xx.
    Server,
    /// The answer is not what was asked for.
    Decode,
    /// No answer, or it broke off.
    Connection,
}

impl Reason {
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::InitialListFailed(error)
            | Error::WatchStartFailed(error)
            | Error::WatchFailed(error) => Self::of_client(error),
            Error::WatchError(status) => Self::of_code(status.code),
            Error::NoResourceVersion => Self::Decode,
        }
    }

    fn of_client(error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            Self::of_code(status.code)
        } else if let kube::Error::SerdeError(_)
        | kube::Error::FromUtf8(_)
        | kube::Error::LinesCodecMaxLineLengthExceeded = error
        {
            Self::Decode
        } else {
            Self::Connection
        }
    }

    fn of_code(code: u16) -> Self {
        match code {
            // kube reads a line that is no event as a status, and every field of a status may be left out
            0 => Self::Decode,
            410 => Self::Gone,
            404 => Self::NotFound,
            429 => Self::Throttled,
            400..500 => Self::Refused,
            _ => Self::Server,
        }
    }

    /// Whether the watcher may not go on from where it was: that place is gone, may have been another resource's, or an
    /// event was not understood, which would be missing for ever.
    pub(super) fn needs_a_list(self) -> bool {
        match self {
            Self::Gone | Self::NotFound | Self::Refused | Self::Decode => true,
            Self::Throttled | Self::Server | Self::Connection => false,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
            Self::Server => "server",
            Self::Decode => "decode",
            Self::Connection => "connection",
        }
    }
}

/// What went wrong. Of an answer that was not understood only the place is told: its content may be a Secret's.
pub(super) fn told(error: &Error) -> String {
    if let Error::InitialListFailed(kube::Error::SerdeError(error))
    | Error::WatchStartFailed(kube::Error::SerdeError(error))
    | Error::WatchFailed(kube::Error::SerdeError(error)) = error
    {
        let (line, column) = (error.line(), error.column());
        return format!(
            "the answer is not what was asked for, from line {line}, column {column} on"
        );
    }
    chain(error)
}
