//! Our queue beside others: the same jobs, on the same server, in the same run, in turn. The others' programs are in
//! `bench/rivals`, whose README says with which settings they run and why. Start reading at [`measure`].

mod contenders;
mod measure;
pub mod ours;
mod process;

use contenders::{ALL, Contender};
use measure::{RECOVERY, Recovery};

use crate::{
    report::{Goal, Report, median, percentile},
    server::Server,
};

/// What was measured of a contender.
#[derive(Debug)]
struct Entry {
    contender: &'static Contender,
    drains: Vec<f64>,
    pickups: Vec<f64>,
    recoveries: Vec<Recovery>,
    /// Why it is no longer measured.
    failed: bool,
}

impl Entry {
    /// The value, unless it failed: then a note says so, and it takes no further part. Only ours has to succeed.
    fn take<T>(
        &mut self,
        what: &str,
        result: anyhow::Result<T>,
        report: &mut Report,
    ) -> anyhow::Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.contender.name == ALL[0].name => Err(error),
            Err(error) => {
                self.failed = true;
                report.note(format!("{}: {what} failed: {error:#}", self.contender.name));
                Ok(None)
            }
        }
    }
}

/// Measures them all; whether there is every figure of every one.
pub async fn measure(server: &Server, report: &mut Report, jobs: u32, rounds: u32) -> anyhow::Result<bool> {
    let mut entries = Vec::new();
    for contender in &ALL {
        let mut entry = Entry {
            contender,
            drains: Vec::new(),
            pickups: Vec::new(),
            recoveries: Vec::new(),
            failed: false,
        };
        eprintln!("building {}", contender.name);
        entry.take("the build", contender.build().await, report)?;
        entries.push(entry);
    }
    drains(server, report, &mut entries, jobs, rounds).await?;
    pickups(server, report, &mut entries).await?;
    recoveries(server, report, &mut entries, rounds).await?;
    Ok(entries.iter().all(|entry| !entry.failed))
}

async fn drains(
    server: &Server,
    report: &mut Report,
    entries: &mut [Entry],
    jobs: u32,
    rounds: u32,
) -> anyhow::Result<()> {
    for _ in 0..rounds {
        for entry in entries.iter_mut().filter(|entry| !entry.failed) {
            let drained = measure::drain(server, entry.contender, jobs).await;
            let rate = entry.take("a drain", drained, report)?;
            entry.drains.extend(rate);
        }
    }
    for entry in entries.iter().filter(|entry| !entry.drains.is_empty()) {
        let name = format!("{}_drain_per_second", entry.contender.name);
        report.add(&name, median(entry.drains.clone()), Goal::None);
    }
    let rate = |entry: &Entry| (!entry.drains.is_empty()).then(|| -median(entry.drains.clone()));
    first(report, "first_on_drain", entries, rate);
    Ok(())
}

async fn pickups(server: &Server, report: &mut Report, entries: &mut [Entry]) -> anyhow::Result<()> {
    for entry in entries.iter_mut().filter(|entry| !entry.failed) {
        let delays = measure::pickups(server, entry.contender).await;
        let Some(delays) = entry.take("pickup", delays, report)? else { continue };
        entry.pickups = delays;
        for (key, share) in [("p50", 0.5), ("p99", 0.99)] {
            let name = format!("{}_pickup_ms_{key}", entry.contender.name);
            report.add(&name, percentile(entry.pickups.clone(), share), Goal::None);
        }
    }
    let p99 = |entry: &Entry| (!entry.pickups.is_empty()).then(|| percentile(entry.pickups.clone(), 0.99));
    first(report, "first_on_pickup_p99", entries, p99);
    Ok(())
}

async fn recoveries(
    server: &Server,
    report: &mut Report,
    entries: &mut [Entry],
    rounds: u32,
) -> anyhow::Result<()> {
    for round in 0..rounds {
        // Whoever did not recover in time would not the next time either.
        let takes_part =
            |entry: &&mut Entry| !entry.failed && entry.recoveries.iter().all(Recovery::is_complete);
        for entry in entries.iter_mut().filter(takes_part) {
            let recovery = measure::recovery(server, entry.contender, round, &[]).await;
            let recovery = entry.take("recovery", recovery, report)?;
            entry.recoveries.extend(recovery);
        }
    }
    for entry in entries.iter().filter(|entry| !entry.recoveries.is_empty()) {
        let name = entry.contender.name;
        let firsts = entry.recoveries.iter().map(|recovery| recovery.first_s).collect();
        report.add(&format!("{name}_recovery_first_s"), median(firsts), Goal::None);
        report.add(&format!("{name}_recovery_s"), recovery_s(entry), Goal::None);
        if let Some(recovery) = entry.recoveries.iter().find(|recovery| !recovery.is_complete()) {
            let documented =
                entry.contender.recovery_documented.map_or(String::new(), |text| format!("; {text}"));
            report.note(format!(
                "{name}: more than {} s: by then {} jobs of the killed process had started again{documented}",
                RECOVERY.as_secs(),
                recovery.started,
            ));
        }
    }
    let mut unseen = Vec::new();
    for round in 0..rounds {
        let recovery = measure::recovery(server, &ALL[0], round, &["--unseen"]).await?;
        anyhow::ensure!(recovery.is_complete(), "only {} jobs were rescued in time", recovery.started);
        unseen.push(recovery.last_s);
    }
    report.add(&format!("{}_recovery_unseen_s", ALL[0].name), median(unseen), Goal::None);
    first(report, "first_on_recovery", entries, |entry| {
        (!entry.recoveries.is_empty()).then(|| recovery_s(entry))
    });
    Ok(())
}

/// Until all jobs had started again, the median of the rounds; where some never had, as long as we waited.
fn recovery_s(entry: &Entry) -> f64 {
    if entry.recoveries.iter().all(Recovery::is_complete) {
        median(entry.recoveries.iter().map(|recovery| recovery.last_s).collect())
    } else {
        RECOVERY.as_secs_f64()
    }
}

/// Adds whether ours has the least of a figure.
fn first(report: &mut Report, name: &str, entries: &[Entry], figure: impl Fn(&Entry) -> Option<f64>) {
    let figures: Vec<Option<f64>> = entries.iter().map(figure).collect();
    report.add(name, if is_first(&figures) { 1.0 } else { 0.0 }, Goal::AtLeast(1.0));
}

/// Whether the first figure is less than all others that there are, and there are others.
fn is_first(figures: &[Option<f64>]) -> bool {
    let Some((Some(ours), others)) = figures.split_first() else { return false };
    let mut others = others.iter().flatten().peekable();
    others.peek().is_some() && others.all(|other| ours < other)
}

#[cfg(test)]
mod tests {
    use super::is_first;

    #[test]
    fn first_is_who_has_less_than_every_other_that_was_measured() {
        for (figures, expected) in [
            (vec![Some(1.0), Some(2.0), Some(3.0)], true),
            (vec![Some(1.0), None, Some(3.0)], true),
            (vec![Some(2.0), Some(2.0)], false),
            (vec![Some(2.0), Some(3.0), Some(1.0)], false),
            (vec![None, Some(3.0)], false),
            (vec![Some(1.0), None], false),
            (vec![], false),
        ] {
            assert_eq!(is_first(&figures), expected, "{figures:?}");
        }
    }
}
