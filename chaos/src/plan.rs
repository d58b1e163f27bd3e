//! Which scenarios a run of so many minutes has, and how much of each.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;

/// One way to break things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Scenario {
    /// A transaction stays open for the whole run.
    HeldTransaction,
    /// The clock of one worker is an hour ahead, that of one generator an hour behind.
    Clock,
    /// A job aborts its process.
    Abort,
    /// Two processes have the same name, and one of them dies.
    SameNames,
    /// kill -9 of a random worker, again and again.
    Kills,
    /// SIGSTOP for longer than a lease lasts, then SIGCONT.
    Freeze,
    /// PostgreSQL is away for 5 s, by kill -9.
    #[value(name = "stop_5s")]
    Stop5s,
    /// For 20 s, stopped as an operator would.
    #[value(name = "stop_20s")]
    Stop20s,
    /// For 40 s, by kill -9.
    #[value(name = "stop_40s")]
    Stop40s,
    /// For two minutes, stopped as an operator would.
    #[value(name = "stop_120s")]
    Stop120s,
    /// Sessions are ended at random.
    Terminations,
    /// All free connections are taken.
    Connections,
    /// The disk under the database is full.
    DiskFull,
}

impl Scenario {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::HeldTransaction => "held_transaction",
            Self::Clock => "clock",
            Self::Abort => crate::fleet::ABORT,
            Self::SameNames => "same_names",
            Self::Kills => "kills",
            Self::Freeze => "freeze",
            Self::Stop5s => "stop_5s",
            Self::Stop20s => "stop_20s",
            Self::Stop40s => "stop_40s",
            Self::Stop120s => "stop_120s",
            Self::Terminations => "terminations",
            Self::Connections => "connections",
            Self::DiskFull => "disk_full",
        }
    }

    /// The shortest run that has it, in minutes.
    fn minutes_min(self) -> u32 {
        match self {
            Self::Stop120s => 15,
            Self::Stop40s | Self::Clock | Self::Connections | Self::DiskFull => 8,
            _ => MINUTES_MIN,
        }
    }

    /// About how long it takes, with the recovery.
    fn seconds(self, plan: &Plan) -> u32 {
        match self {
            Self::HeldTransaction | Self::Clock | Self::Kills => 0,
            Self::Abort | Self::Stop20s | Self::DiskFull => 30,
            Self::SameNames => 10,
            Self::Freeze => 18 * plan.freezes,
            Self::Stop5s => 15,
            Self::Stop40s => 50,
            Self::Stop120s => 130,
            Self::Terminations => plan.terminations + plan.terminations / 2,
            Self::Connections => 32,
        }
    }
}

/// The shortest run, and the one that has everything.
pub const MINUTES_MIN: u32 = 3;
pub const MINUTES_FULL: u32 = 25;
/// What a run starts and ends with.
const AROUND_SECONDS: u32 = 10;
/// The kills of the shortest run, and of the full one.
const KILLS: (u32, u32) = (20, 100);
/// Between two kills there is at least this.
const KILL_PAUSE_MIN: Duration = Duration::from_millis(1500);
/// And this where the run need not last for a given time.
const KILL_PAUSE_ALONE: Duration = Duration::from_secs(3);

/// One run.
#[derive(Debug)]
pub struct Plan {
    pub minutes: u32,
    pub scenarios: Vec<Scenario>,
    pub kills: u32,
    pub kill_pause: Duration,
    pub freezes: u32,
    pub terminations: u32,
    /// Scenarios that this run does without, and why.
    pub left_out: Vec<(Scenario, String)>,
    /// What sets a process's clock, if it is there.
    pub faketime: Option<PathBuf>,
}

impl Plan {
    /// The plan for so many minutes; with `only`, of those scenarios.
    pub fn new(minutes: u32, only: &[Scenario]) -> Self {
        let minutes = minutes.max(MINUTES_MIN);
        let share =
            f64::from(minutes.min(MINUTES_FULL) - MINUTES_MIN) / f64::from(MINUTES_FULL - MINUTES_MIN);
        let between = |least: u32, most: u32| least + scaled(most - least, share);
        let mut plan = Self {
            minutes,
            scenarios: Vec::new(),
            kills: between(KILLS.0, KILLS.1),
            kill_pause: KILL_PAUSE_MIN,
            freezes: between(1, 4),
            terminations: between(8, 30),
            left_out: Vec::new(),
            faketime: find_faketime(),
        };
        for scenario in Scenario::value_variants() {
            let wanted =
                if only.is_empty() { minutes >= scenario.minutes_min() } else { only.contains(scenario) };
            if wanted {
                plan.scenarios.push(*scenario);
            } else {
                let why = if only.is_empty() {
                    format!("not in a run of {minutes} minutes")
                } else {
                    "not asked for".to_owned()
                };
                plan.left_out.push((*scenario, why));
            }
        }
        if !only.is_empty() {
            plan.kill_pause = KILL_PAUSE_ALONE;
            return plan;
        }
        let others: u32 = plan.scenarios.iter().map(|scenario| scenario.seconds(&plan)).sum();
        let rest = (minutes * 60).saturating_sub(others + AROUND_SECONDS);
        plan.kill_pause = (Duration::from_secs(rest.into()) / plan.kills).max(KILL_PAUSE_MIN);
        plan
    }

    /// Whether a scenario is in it.
    pub fn has(&self, scenario: Scenario) -> bool {
        self.scenarios.contains(&scenario)
    }
}

fn scaled(whole: u32, share: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small number")]
    let part = (f64::from(whole) * share).round() as u32;
    part
}

/// Where libfaketime is on this system.
fn find_faketime() -> Option<PathBuf> {
    let known = ["/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime"].map(PathBuf::from);
    let by_machine = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let directories = known.into_iter().chain(by_machine.map(|entry| entry.path().join("faketime")));
    directories.map(|directory| directory.join("libfaketime.so.1")).find(|library| Path::exists(library))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_run_has_what_ci_asks_for_and_the_full_one_everything() {
        let short = Plan::new(3, &[]);
        assert_eq!((short.kills, short.freezes), (20, 1));
        assert_eq!(short.left_out.len(), 5);
        assert!(short.has(Scenario::Stop20s) && !short.has(Scenario::Stop40s));
        assert!(short.kill_pause >= KILL_PAUSE_MIN);
        let full = Plan::new(25, &[]);
        assert_eq!((full.kills, full.left_out.len()), (100, 0));
        let longer = Plan::new(60, &[]);
        assert_eq!(longer.kills, 100);
        assert!(longer.kill_pause > full.kill_pause, "the kills are spread over the time that there is");
        let one = Plan::new(3, &[Scenario::DiskFull]);
        assert_eq!(one.scenarios, [Scenario::DiskFull]);
    }

    #[test]
    fn a_scenario_is_called_what_is_asked_for() {
        for scenario in Scenario::value_variants() {
            let value = scenario.to_possible_value().unwrap();
            assert_eq!(value.get_name(), scenario.name());
        }
    }
}
