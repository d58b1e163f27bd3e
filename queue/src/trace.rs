//! Where a piece of work stands in a trace, so that the log lines of what enqueues a job and of what runs it can be
//! found together: the `traceparent` of W3C Trace Context, level 1 (<https://www.w3.org/TR/trace-context-1/>).

use std::{fmt, future::Future, str::FromStr};

use rand::Rng;

/// The length of a `traceparent` of version 00: `00-<trace id>-<span id>-<flags>`.
const TEXT_BYTES: usize = 55;
/// The only flag that level 1 knows: whoever calls may have recorded the trace.
const SAMPLED: u8 = 1;

/// A trace, and the step of it that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

/// What was given as a `traceparent` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
pub struct BadTraceParent;

tokio::task_local! {
    static CURRENT: TraceContext;
}

impl TraceContext {
    /// The first step of a new trace.
    #[must_use]
    pub fn root() -> Self {
        Self { trace_id: rand::rng().random_range(1..=u128::MAX), span_id: new_span_id(), sampled: true }
    }

    /// A new step of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span_id: new_span_id(), ..self }
    }

    /// The step that comes of a `traceparent` from outside; the first of a new trace when that is none.
    #[must_use]
    pub fn continued(traceparent: Option<&str>) -> Self {
        let parent = traceparent.and_then(|text| text.parse::<Self>().ok());
        parent.map_or_else(Self::root, Self::child)
    }

    /// The trace's id: 32 hexadecimal digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The step that the task which asks is in; `None` outside of any [`TraceContext::scope`].
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|current| *current).ok()
    }

    /// Runs a future as this step. What it enqueues carries the trace on; a task that it spawns does not know it.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }
}

fn new_span_id() -> u64 {
    rand::rng().random_range(1..=u64::MAX)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

impl FromStr for TraceContext {
    type Err = BadTraceParent;

    /// Reads what a version 00 says; of a later version, what it must have in common with 00 (section 3.2.4).
    fn from_str(text: &str) -> Result<Self, BadTraceParent> {
        let (known, rest) = text.split_at_checked(TEXT_BYTES).ok_or(BadTraceParent)?;
        let mut fields = known.split('-');
        let version = hex(fields.next(), 2)?;
        let trace_id = hex(fields.next(), 32)?;
        let span_id = u64::try_from(hex(fields.next(), 16)?).map_err(|_| BadTraceParent)?;
        let flags = u8::try_from(hex(fields.next(), 2)?).map_err(|_| BadTraceParent)?;
        let is_whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        if !is_whole || trace_id == 0 || span_id == 0 {
            return Err(BadTraceParent);
        }
        Ok(Self { trace_id, span_id, sampled: flags & SAMPLED != 0 })
    }
}

/// Reads a field of so many digits; capitals are not allowed.
fn hex(field: Option<&str>, digits: usize) -> Result<u128, BadTraceParent> {
    let field = field.filter(|field| {
        field.len() == digits && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    });
    u128::from_str_radix(field.ok_or(BadTraceParent)?, 16).map_err(|_| BadTraceParent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_read_is_written_again() {
        for text in [GIVEN, "00-0af7651916cd43dd8448eb211c80319c-00000000000000a1-00"] {
            assert_eq!(text.parse::<TraceContext>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn of_a_later_version_the_known_part_is_read_and_of_the_flags_the_known_one() {
        let known: TraceContext = GIVEN.parse().unwrap();
        for later in [
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-brings",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff",
        ] {
            assert_eq!(later.parse(), Ok(known), "{later}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 ",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-é1",
            "ééééééééééééééééééééééééééééééééééééééééééééééé",
        ] {
            assert_eq!(bad.parse::<TraceContext>(), Err(BadTraceParent), "{bad}");
        }
    }

    #[test]
    fn a_step_keeps_the_trace_and_has_an_id_of_its_own() {
        let given: TraceContext = GIVEN.parse().unwrap();
        let step = TraceContext::continued(Some(GIVEN));
        assert_eq!(step.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert!(step.sampled && step.span_id != given.span_id);
        let fresh = TraceContext::continued(Some("nonsense"));
        assert_ne!(fresh.trace_id(), given.trace_id());
        assert_eq!(fresh.to_string().parse(), Ok(fresh));
        assert_ne!(TraceContext::continued(None).trace_id(), fresh.trace_id());
    }

    #[tokio::test]
    async fn the_current_step_is_known_inside_its_scope_only() {
        let outer = TraceContext::root();
        let seen = outer.scope(async {
            let inner = outer.child();
            (TraceContext::current(), inner.scope(async { TraceContext::current() == Some(inner) }).await)
        });
        assert_eq!(seen.await, (Some(outer), true));
        assert_eq!(TraceContext::current(), None);
    }
}
