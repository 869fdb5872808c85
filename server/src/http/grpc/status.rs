//! gRPC's codes for what is wrong; the sentences are those of the HTTP port.

use axum::http::StatusCode;
use tonic::{Code, Status};

use super::super::error::Problem;
use crate::batch::PredictError;
use crate::codec::DecodeError;

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        Self::new(code(problem.status()), problem.detail())
    }
}

impl From<DecodeError> for Status {
    fn from(error: DecodeError) -> Self {
        Problem::from(error).into()
    }
}

impl From<PredictError> for Status {
    fn from(error: PredictError) -> Self {
        Problem::from(error).into()
    }
}

const fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        408 | 504 => Code::DeadlineExceeded,
        409 => Code::Aborted,
        413 => Code::ResourceExhausted,
        501 => Code::Unimplemented,
        502 | 503 => Code::Unavailable,
        500..=599 => Code::Internal,
        _ => Code::InvalidArgument,
    }
}

/// The status by which HTTP would have told it: what the metrics count.
pub(super) const fn http(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::ResourceExhausted | Code::OutOfRange => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
