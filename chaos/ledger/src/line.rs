//! What can be said to the ledger: one line each, words with a space between them.

use std::str::FromStr;

use anyhow::{Context, bail};

/// A job's id, as the number that its hexadecimal digits are.
pub type JobId = u128;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// `hello <process> <name> <unix_ms>`: the first line of a worker or generator. The time is its own clock's.
    Hello {
        /// The number that this start of a process has.
        process: u32,
        /// What it calls itself; others may have the same name.
        name: String,
        /// What its clock says, in milliseconds since 1970.
        unix_ms: i64,
    },
    /// `enqueued <job>`: the commit of its transaction was answered.
    Enqueued(JobId),
    /// `unsure <job>`: the commit of its transaction was not answered.
    Unsure(JobId),
    /// `start <job> <run> <attempt> <crashes>`: a handler begins; so many attempts and crashes were recorded before.
    Start {
        /// The job.
        job: JobId,
        /// Which start of it this is: with the job it is the token.
        run: i32,
        /// How many attempts failed before.
        attempt: u32,
        /// How many processes died under it before.
        crashes: u32,
    },
    /// `effect <job> <run>`: the one thing that should happen once.
    Effect(JobId, i32),
    /// `ack <job> <run>`: its completion was answered.
    Ack(JobId, i32),
    /// `fail <job> <run>`: the record of its failure was answered.
    Fail(JobId, i32),
    /// `stale <job> <run>`: the queue refused an outcome, because the token is not the job's any more.
    Stale(JobId, i32),
    /// `culprit <job>`: it kills whoever runs it, and is kept back ever longer: its recovery is not measured.
    Culprit(JobId),
    /// `fault <number> begin <scenario> <all or a process>`.
    FaultBegin {
        /// Its number.
        fault: u32,
        /// The scenario that it belongs to.
        scenario: String,
        /// The process that it strikes; none for all.
        process: Option<u32>,
    },
    /// `fault <number> clock <ms>`: the recovery is measured from so many milliseconds ago.
    FaultClock {
        /// Its number.
        fault: u32,
        /// How long ago that was.
        ago_ms: u64,
    },
    /// `fault <number> end`: what starts from now on is not struck.
    FaultEnd(u32),
    /// `dead <job> <reason> <attempt> <crashes>`: in the end it is in the table of the dead.
    Dead {
        /// The job.
        job: JobId,
        /// Why it is dead.
        reason: String,
        /// How many attempts were counted.
        attempt: u32,
        /// How many crashes were counted.
        crashes: u32,
    },
    /// `left <job>`: in the end it is in another table.
    Left(JobId),
    /// `status`: asks for a line of counts.
    Status,
    /// `report`: asks for the verdict, one line of JSON.
    Report,
}

impl FromStr for Line {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut words = Words(text.split(' '));
        let line = match words.word()? {
            "hello" => {
                Self::Hello { process: words.number()?, name: words.word()?.into(), unix_ms: words.number()? }
            }
            "enqueued" => Self::Enqueued(words.job()?),
            "unsure" => Self::Unsure(words.job()?),
            "start" => Self::Start {
                job: words.job()?,
                run: words.number()?,
                attempt: words.number()?,
                crashes: words.number()?,
            },
            "effect" => Self::Effect(words.job()?, words.number()?),
            "ack" => Self::Ack(words.job()?, words.number()?),
            "fail" => Self::Fail(words.job()?, words.number()?),
            "stale" => Self::Stale(words.job()?, words.number()?),
            "culprit" => Self::Culprit(words.job()?),
            "fault" => words.fault()?,
            "dead" => Self::Dead {
                job: words.job()?,
                reason: words.word()?.into(),
                attempt: words.number()?,
                crashes: words.number()?,
            },
            "left" => Self::Left(words.job()?),
            "status" => Self::Status,
            "report" => Self::Report,
            other => bail!("nobody knows {other:?}"),
        };
        anyhow::ensure!(words.0.next().is_none(), "it is too long");
        Ok(line)
    }
}

struct Words<'a>(std::str::Split<'a, char>);

impl<'a> Words<'a> {
    fn word(&mut self) -> anyhow::Result<&'a str> {
        self.0.next().filter(|word| !word.is_empty()).context("a word is missing")
    }

    fn number<T: FromStr<Err = std::num::ParseIntError>>(&mut self) -> anyhow::Result<T> {
        Ok(self.word()?.parse()?)
    }

    /// A UUID, with its hyphens or without.
    fn job(&mut self) -> anyhow::Result<JobId> {
        let digits: String = self.word()?.chars().filter(|c| *c != '-').collect();
        anyhow::ensure!(digits.len() == 32, "a job has 32 digits");
        Ok(u128::from_str_radix(&digits, 16)?)
    }

    fn fault(&mut self) -> anyhow::Result<Line> {
        let fault = self.number()?;
        Ok(match self.word()? {
            "begin" => {
                let scenario = self.word()?.into();
                let process = match self.word()? {
                    "all" => None,
                    process => Some(process.parse()?),
                };
                Line::FaultBegin { fault, scenario, process }
            }
            "clock" => Line::FaultClock { fault, ago_ms: self.number()? },
            "end" => Line::FaultEnd(fault),
            other => bail!("a fault does not {other:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_understood() {
        let id = "0193a5b0-0000-7000-8000-000000000001";
        let job = 0x0193_a5b0_0000_7000_8000_0000_0000_0001;
        for (text, line) in [
            ("hello 3 twin -5", Line::Hello { process: 3, name: "twin".into(), unix_ms: -5 }),
            (&format!("enqueued {id}"), Line::Enqueued(job)),
            (&format!("start {id} 2 1 0"), Line::Start { job, run: 2, attempt: 1, crashes: 0 }),
            (&format!("ack {id} 2"), Line::Ack(job, 2)),
            (
                "fault 1 begin kills 7",
                Line::FaultBegin { fault: 1, scenario: "kills".into(), process: Some(7) },
            ),
            (
                "fault 1 begin stop_5s all",
                Line::FaultBegin { fault: 1, scenario: "stop_5s".into(), process: None },
            ),
            ("fault 1 clock 200", Line::FaultClock { fault: 1, ago_ms: 200 }),
            (
                &format!("dead {id} crashed 0 3"),
                Line::Dead { job, reason: "crashed".into(), attempt: 0, crashes: 3 },
            ),
        ] {
            assert_eq!(text.parse::<Line>().unwrap(), line);
        }
        for bad in ["", "ack", "ack 12 1", &format!("ack {id} 2 3"), "fault 1 begin kills", "shrug"] {
            assert!(bad.parse::<Line>().is_err(), "{bad}");
        }
    }
}
