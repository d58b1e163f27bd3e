//! The commands and their settings. A setting is a variable of the environment or an option, and its doc comment is its
//! documentation.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, anyhow};
use api::ApiConfig;
use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{NonEmptyStringValueParser, Resettable},
    error::{ContextKind, ContextValue, ErrorKind},
};
use dispatcher::DispatcherConfig;
use shared::{config::BaseConfig, secrets::SecretKey, telemetry::LogConfig};
use uuid::Uuid;
use worker::WorkerConfig;

use crate::local::{Local, PRIVATE};

/// A self-hosted outreach engine: campaigns by API, durable jobs, signed webhooks.
#[derive(Debug, Parser)]
#[command(name = "iris", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Stops when stdin ends, which it does when the process that started this one is gone.
    #[arg(long, hide = true)]
    stop_at_eof: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Plays one whole campaign against a simulated outside and checks that every count adds up.
    Demo(demo::Options),
    /// Runs all roles and the simulated outside in this terminal.
    Up(Box<Up>),
    /// Runs the HTTP API.
    Api(Box<Api>),
    /// Runs the worker: discover, draft, send, follow up.
    Worker(Box<Worker>),
    /// Runs the dispatcher: events to signed webhooks.
    Dispatcher(Box<Dispatcher>),
    /// Brings the database's schema up to date.
    Migrate(Migrate),
    /// The operator's keys.
    Keys(Keys),
    /// The directory of venues that discovery searches.
    Places(Places),
    /// The durable queue: what waits, runs and is dead.
    Queue(Queue),
}

use crate::demo;

/// All roles in one process.
#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    pub api: ApiConfig,
    #[command(flatten)]
    pub worker: WorkerConfig,
    #[command(flatten)]
    pub dispatcher: DispatcherConfig,
    #[command(flatten)]
    pub base: BaseConfig,
    #[command(flatten)]
    pub log: LogConfig,
}

/// The API role.
#[derive(Debug, Args)]
pub struct Api {
    #[command(flatten)]
    pub role: ApiConfig,
    #[command(flatten)]
    pub base: BaseConfig,
    #[command(flatten)]
    pub log: LogConfig,
}

/// The worker role.
#[derive(Debug, Args)]
pub struct Worker {
    #[command(flatten)]
    pub role: WorkerConfig,
    #[command(flatten)]
    pub base: BaseConfig,
    #[command(flatten)]
    pub log: LogConfig,
}

/// The dispatcher role.
#[derive(Debug, Args)]
pub struct Dispatcher {
    #[command(flatten)]
    pub role: DispatcherConfig,
    #[command(flatten)]
    pub base: BaseConfig,
    #[command(flatten)]
    pub log: LogConfig,
}

/// Where the database is.
#[derive(Debug, Args)]
pub struct Where {
    /// The PostgreSQL database, as a URL. Without it iris starts a private one in IRIS_HOME.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    #[command(flatten)]
    pub log: LogConfig,
}

/// The schema.
#[derive(Debug, Args)]
pub struct Migrate {
    #[command(flatten)]
    pub place: Where,
}

/// The operator's keys.
#[derive(Debug, Args)]
pub struct Keys {
    #[command(subcommand)]
    pub command: KeysCommand,
}

/// What is done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Makes the first account and its first admin key, and prints the key once. Does nothing when a key is live.
    Bootstrap(Where),
}

/// The venues.
#[derive(Debug, Args)]
pub struct Places {
    #[command(subcommand)]
    pub command: PlacesCommand,
}

/// What is done with venues.
#[derive(Debug, Subcommand)]
pub enum PlacesCommand {
    /// Loads venues from a CSV file; a venue with a known id is replaced.
    Load {
        /// The file, with the columns of world/data/places.csv.
        file: PathBuf,
        #[command(flatten)]
        place: Where,
    },
}

/// The durable queue.
#[derive(Debug, Args)]
pub struct Queue {
    #[command(subcommand)]
    pub command: QueueCommand,
    /// Prints JSON, a line for each row.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(flatten)]
    pub place: Where,
}

/// What is done with the queue.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Lists the queues, with how much waits where; or the dead jobs.
    List {
        /// Lists dead jobs instead, the oldest first.
        #[arg(long)]
        dead: bool,
        /// Only of this queue.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        queue: Option<String>,
        /// How many dead jobs at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Shows one job, wherever it is.
    Show {
        /// Its id.
        id: Uuid,
    },
    /// Makes dead jobs ready again, with all their attempts ahead of them.
    Retry(DeadJobs),
    /// Forgets dead jobs.
    Discard(DeadJobs),
    /// Lets no more jobs of a queue, or of one lane, start. What runs goes on.
    Pause(Paused),
    /// Ends a pause.
    Resume(Paused),
}

/// Which dead jobs are meant.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct DeadJobs {
    /// These jobs.
    pub ids: Vec<Uuid>,
    /// The dead jobs of this queue, at most 10,000 at a time.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub queue: Option<String>,
}

/// What is paused.
#[derive(Debug, Args)]
pub struct Paused {
    /// The queue.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub queue: String,
    /// Only this lane of it.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub lane: Option<String>,
}

impl Command {
    /// How this command logs.
    pub fn log(&self) -> &LogConfig {
        match self {
            Self::Demo(options) => &options.log,
            Self::Up(config) => &config.log,
            Self::Api(config) => &config.log,
            Self::Worker(config) => &config.log,
            Self::Dispatcher(config) => &config.log,
            Self::Migrate(config) => &config.place.log,
            Self::Keys(Keys { command: KeysCommand::Bootstrap(place) })
            | Self::Places(Places { command: PlacesCommand::Load { place, .. } })
            | Self::Queue(Queue { place, .. }) => &place.log,
        }
    }
}

/// What the command line asks for.
pub enum Parsed {
    /// A command to be run.
    Run {
        /// The command.
        command: Box<Command>,
        /// What iris brings along when it is given no database.
        local: Option<Local>,
        /// Whether it stops when stdin ends.
        stop_at_eof: bool,
    },
    /// Help or the version was printed.
    Answered(ExitCode),
}

/// Reads the command line and the environment. Without a DATABASE_URL, the database and the key that seals secrets are
/// those of IRIS_HOME.
pub fn parse() -> anyhow::Result<Parsed> {
    let given = std::env::var_os("DATABASE_URL").is_some_and(|url| !url.is_empty())
        || std::env::args().any(|arg| arg == "--database-url" || arg.starts_with("--database-url="));
    // With a key of no meaning first: help, the version and a mistake find no home and leave nothing on the disk.
    let stand_in = SecretKey::generate();
    let mut parsed = read((!given).then_some(stand_in.as_str()));
    let mut local = None;
    if parsed.is_ok() && !given {
        let found = Local::find()?;
        parsed = read(Some(&found.secret_key()?));
        local = Some(found);
    }
    match parsed {
        Ok(Cli { command, stop_at_eof }) => {
            Ok(Parsed::Run { command: Box::new(command), local, stop_at_eof })
        }
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            error.print().context("the help cannot be printed")?;
            Ok(Parsed::Answered(ExitCode::SUCCESS))
        }
        Err(error) => Err(anyhow!("{}", one_line(&error))),
    }
}

/// Parses once; with the secret key that stands in for one that is not given, on the private database.
fn read(private_key: Option<&str>) -> Result<Cli, clap::Error> {
    let mut definition = Cli::command();
    if let Some(key) = private_key {
        definition = with_defaults(definition, &[("database_url", PRIVATE), ("secret_key", key)]);
    }
    definition.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches))
}

/// Gives the settings of all subcommands defaults that are known only now; an empty variable is one that is not set.
fn with_defaults(command: clap::Command, defaults: &[(&str, &str)]) -> clap::Command {
    let command = command.mut_args(|arg| {
        let default = defaults.iter().find(|(name, _)| arg.get_id().as_str() == *name);
        let Some((_, value)) = default else { return arg };
        let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        let arg = if is_empty { arg.env(Resettable::Reset) } else { arg };
        arg.required(false).default_value((*value).to_owned()).hide_default_value(true)
    });
    command.mut_subcommands(|subcommand| with_defaults(subcommand, defaults))
}

/// What is wrong and where, in one line: the parser's first paragraph, with the variable behind an option's name. Of a
/// secret only what its own parser says, which never repeats it: the other's text has the value in it.
fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "name a command; `iris --help` lists them".to_owned();
    }
    let setting = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => variable_of(argument),
        _ => None,
    };
    if let Some((variable, true)) = setting {
        let reason = std::error::Error::source(error).map_or("is wrong".to_owned(), ToString::to_string);
        return format!("{variable}: its value, which is not shown: {}", first_paragraph(&reason));
    }
    let line = first_paragraph(&error.to_string());
    let line = line.trim_start_matches("error: ");
    match setting {
        Some((variable, _)) => format!("{variable}: {line}"),
        None => line.to_owned(),
    }
}

fn first_paragraph(text: &str) -> String {
    text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect::<Vec<_>>().join(" ")
}

/// The variable of the environment that sets an option, written as in an error: `--smtp-url <SMTP_URL>`; and whether its
/// value must not be shown.
fn variable_of(argument: &str) -> Option<(String, bool)> {
    let option = argument.trim_start_matches("--").split([' ', '=']).next()?.to_owned();
    let find = |command: &clap::Command| {
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(&option))?;
        arg.get_env().map(|variable| (variable.to_string_lossy().into_owned(), arg.is_hide_env_values_set()))
    };
    let definition = Cli::command();
    definition
        .get_subcommands()
        .flat_map(|command| std::iter::once(command).chain(command.get_subcommands()))
        .find_map(find)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_variable_in_one_line() {
        let error = Cli::command()
            .try_get_matches_from(["iris", "migrate", "--database-url", "x", "--log-format", "xml"])
            .unwrap_err();
        let line = one_line(&error);
        assert!(line.starts_with("IRIS_LOG_FORMAT: "), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn a_wrong_secret_is_not_shown() {
        let error = Cli::command()
            .try_get_matches_from(["iris", "api", "--database-url", "x", "--secret-key", "hunter2"])
            .unwrap_err();
        let line = one_line(&error);
        assert!(line.starts_with("IRIS_SECRET_KEY: ") && !line.contains("hunter2"), "{line}");
        assert!(line.contains("32 bytes"), "{line}");
    }

    #[test]
    fn no_wrong_secret_is_shown_however_it_is_written() {
        let secrets = [
            ("--smtp-url", "smpt://ana:hunter2@mail.example.com\n"),
            ("--smtp-url", "\nsmpt://ana:hunter2@mail.example.com"),
            ("--smtp-url", "hunter2 smtp://"),
            ("--inbound-secret", "hunter2\n"),
            ("--secret-key", "hun\nter2hunter2"),
            ("--anthropic-api-key", "hunter2\nhunter2"),
        ];
        for (option, value) in secrets {
            let arguments =
                ["iris", "worker", "--database-url", "x", "--smtp-from", "a@example.com", option, value];
            let error = Cli::command().try_get_matches_from(arguments).unwrap_err();
            let line = one_line(&error);
            assert!(line.starts_with("IRIS_"), "{line}");
            for part in ["hunter2", "hun", "ter2", "ana"] {
                assert!(!line.contains(part), "{option} {line}");
            }
        }
    }
}
