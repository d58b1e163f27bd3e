//! What runs periodically: the cron table, in UTC, once per tick over all workers.

use queue::{NewJob, Schedule};
use shared::jobs::{CompleteCampaigns, MaintainPartitions, SYSTEM_TENANT, SettleStranded};

/// Every periodic job. The key keeps a tick from queueing behind one that has not run yet.
pub fn schedules() -> anyhow::Result<Vec<Schedule>> {
    let complete = NewJob::new(&CompleteCampaigns {}, SYSTEM_TENANT)?.key("complete_campaigns");
    let maintain = NewJob::new(&MaintainPartitions {}, SYSTEM_TENANT)?.key("maintain_partitions");
    let settle = NewJob::new(&SettleStranded {}, SYSTEM_TENANT)?.key("settle_stranded");
    Ok(vec![
        Schedule::new("complete_campaigns", "*/5 * * * * *", complete)?,
        Schedule::new("maintain_partitions", "0 7 * * * *", maintain)?,
        Schedule::new("settle_stranded", "30 * * * * *", settle)?,
    ])
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_expression_parses() {
        assert_eq!(super::schedules().unwrap().len(), 3);
    }
}
