//! The bytes of a body.

use std::sync::Arc;

use axum::{
    body::{Body, HttpBody, to_bytes},
    extract::Request,
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError};
use shared::domain::FieldError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    error::{ApiError, Code},
    operation::BodyLimit,
};

/// All of a body whose memory the guard has reserved, at most as much as the operation takes.
pub async fn read(request: Request) -> Result<Bytes, ApiError> {
    let BodyLimit(limit) = request.extensions().get().copied().unwrap_or_default();
    match to_bytes(request.into_body(), limit).await {
        Ok(bytes) => Ok(bytes),
        Err(error) if is_length_limit(&error) => Err(ApiError::too_large(limit)),
        Err(error) => Err(ended_early(error)),
    }
}

/// All of a body whose sender is not known for certain yet. It takes memory as it arrives, so that who only announces
/// a body takes none; when there is none left it does not wait.
pub async fn read_charged(
    mut body: Body,
    BodyLimit(limit): BodyLimit,
    memory: &Arc<Semaphore>,
) -> Result<(Bytes, OwnedSemaphorePermit), ApiError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(ApiError::too_large(limit));
    }
    let mut bytes = BytesMut::new();
    let mut held = take(memory, 0)?;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ended_early)?.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(ApiError::too_large(limit));
        }
        let kibibytes = (bytes.len() + data.len()).div_ceil(1024);
        held.merge(take(memory, kibibytes.saturating_sub(held.num_permits()))?);
        bytes.extend_from_slice(&data);
    }
    Ok((bytes.freeze(), held))
}

fn take(memory: &Arc<Semaphore>, kibibytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    let kibibytes = u32::try_from(kibibytes).unwrap_or(u32::MAX);
    memory
        .clone()
        .try_acquire_many_owned(kibibytes)
        .map_err(|error| ApiError::new(Code::Unavailable).saying("the server is busy").caused_by(error))
}

fn ended_early(error: axum::Error) -> ApiError {
    ApiError::request(vec![FieldError::new("body", "ended early")]).caused_by(error)
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        if error.is::<LengthLimitError>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn chunks(amount: usize) -> Body {
        let chunks = (0..amount).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 1000])));
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn memory_is_taken_for_what_arrives_and_given_back() {
        let memory = Arc::new(Semaphore::new(8));
        let (bytes, held) = read_charged(chunks(5), BodyLimit(6000), &memory).await.unwrap();
        assert_eq!((bytes.len(), held.num_permits(), memory.available_permits()), (5000, 5, 3));
        let busy = read_charged(chunks(4), BodyLimit(6000), &memory).await.unwrap_err();
        assert_eq!((busy.code(), memory.available_permits()), (Code::Unavailable, 3));
        drop(held);
        let large = read_charged(chunks(7), BodyLimit(6000), &memory).await.unwrap_err();
        assert_eq!((large.code(), memory.available_permits()), (Code::TooLarge, 8));
        let announced = read_charged(Body::from(vec![0; 7000]), BodyLimit(6000), &memory).await;
        assert_eq!(announced.unwrap_err().code(), Code::TooLarge);
    }
}
