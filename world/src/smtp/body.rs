//! One DATA body on its way in: dot-unstuffed, and bounded both alone and together with all others.

use std::slice::Iter;
use std::sync::Arc;

use smtp_proto::request::receiver::{DataReceiver, DummyDataReceiver};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest message, also announced by SIZE.
pub const MESSAGE_BYTES_MAX: usize = 30 << 20;
/// RFC 5321, section 4.5.3.1.6: 1,000 octets with the line end.
const LINE_BYTES_MAX: usize = 998;
/// The budget counts in blocks of this size.
const BLOCK_BYTES: usize = 1 << 10;
/// Bytes that all unfinished bodies may hold together.
const BUDGET_BYTES: usize = 256 << 20;

/// A budget for all unfinished bodies.
pub fn budget() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(BUDGET_BYTES / BLOCK_BYTES))
}

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Over 30 MiB.
    TooLarge,
    /// All unfinished bodies together are over their budget.
    NoSpace,
    /// A line over 998 octets.
    LongLine,
}

/// A body being received. After a refusal the rest is read and thrown away, so that the answer can follow it.
pub struct Body {
    receiver: DataReceiver,
    bytes: Vec<u8>,
    refused: Option<(Refusal, DummyDataReceiver)>,
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    held_blocks: usize,
}

impl Body {
    /// A body that takes its memory from a budget.
    pub fn new(budget: Arc<Semaphore>) -> Self {
        let mut receiver = DataReceiver::new();
        // The line end of the DATA command counts for an empty body, whose first line is the final dot.
        receiver.ingest(&mut b"\r\n".iter(), &mut Vec::new());
        Self { receiver, bytes: Vec::new(), refused: None, budget, held: None, held_blocks: 0 }
    }

    /// Takes bytes up to the final dot; true when it has come.
    pub fn ingest(&mut self, bytes: &mut Iter<'_, u8>) -> bool {
        if let Some((_, rest)) = &mut self.refused {
            return rest.ingest(bytes);
        }
        let complete = self.receiver.ingest(bytes, &mut self.bytes);
        if self.bytes.len() > MESSAGE_BYTES_MAX {
            self.refuse(Refusal::TooLarge);
        } else if !self.hold() {
            self.refuse(Refusal::NoSpace);
        }
        complete
    }

    /// The message, once complete.
    pub fn finish(self) -> Result<Vec<u8>, Refusal> {
        match self.refused {
            Some((refusal, _)) => Err(refusal),
            None if has_long_line(&self.bytes) => Err(Refusal::LongLine),
            None => Ok(self.bytes),
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refused = Some((refusal, DummyDataReceiver::new_data(&self.receiver)));
        self.bytes = Vec::new();
        self.held = None;
    }

    fn hold(&mut self) -> bool {
        let missing = self.bytes.len().div_ceil(BLOCK_BYTES).saturating_sub(self.held_blocks);
        let Ok(blocks) = u32::try_from(missing) else { return false };
        match Arc::clone(&self.budget).try_acquire_many_owned(blocks) {
            Ok(permit) => {
                self.held_blocks += missing;
                match &mut self.held {
                    Some(held) => held.merge(permit),
                    None => self.held = Some(permit),
                }
                true
            }
            Err(_) => false,
        }
    }
}

fn has_long_line(message: &[u8]) -> bool {
    message
        .split(|byte| *byte == b'\n')
        .any(|line| line.strip_suffix(b"\r").unwrap_or(line).len() > LINE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(chunks: &[&[u8]]) -> (Body, bool) {
        let mut body = Body::new(budget());
        let mut complete = false;
        for chunk in chunks {
            complete = body.ingest(&mut chunk.iter());
        }
        (body, complete)
    }

    #[test]
    fn dots_are_unstuffed_and_the_final_dot_ends_the_body() {
        let (body, complete) = receive(&[b"a\r\n..b\r", b"\n.", b"\r\n"]);
        assert!(complete);
        assert_eq!(body.finish(), Ok(b"a\r\n.b\r\n".to_vec()));
    }

    #[test]
    fn an_empty_body_is_only_its_final_dot() {
        let (body, complete) = receive(&[b".\r\n"]);
        assert!(complete);
        assert_eq!(body.finish(), Ok(Vec::new()));
    }

    #[test]
    fn a_long_line_is_refused() {
        let line = [b'a'; 999];
        assert_eq!(receive(&[&line[..998], b"\r\n.\r\n"]).0.finish().map(|body| body.len()), Ok(1000));
        assert_eq!(receive(&[&line, b"\r\n.\r\n"]).0.finish(), Err(Refusal::LongLine));
    }

    #[test]
    fn a_body_over_the_budget_is_read_to_its_end_and_refused() {
        let mut body = Body::new(Arc::new(Semaphore::new(1)));
        assert!(!body.ingest(&mut [b'a'; 2048].iter()));
        assert!(body.ingest(&mut b"\r\n.\r\n".iter()));
        assert_eq!(body.finish(), Err(Refusal::NoSpace));
    }
}
