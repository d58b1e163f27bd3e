//! Random sequences of everything that can be done to a queue, on the database and on a small model of it beside each
//! other: after every step the tables are what the model says.
//!
//! `PROPTEST_CASES=20000` makes a long run. A sequence that failed is kept in `seeds.txt` and tried first from then on.

mod claims;
mod job;
mod ops;
mod sql;
mod state;
mod steps;
mod world;

use anyhow::Result;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};
use sqlx::PgPool;

use self::{ops::Op, world::World};
use crate::support::database;

/// How many sequences a run tries, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 100;

async fn play(pool: &PgPool, ops: Vec<Op>) -> Result<()> {
    let mut world = World::new(pool).await?;
    for op in ops {
        world.step(op).await?;
    }
    world.drain().await
}

#[test]
fn the_tables_are_what_the_model_says_after_any_sequence_of_moves() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let database = runtime.block_on(database());
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/queue/model/seeds.txt");
    let config = Config::default();
    let config = Config {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { CASES },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(seeds))),
        ..config
    };
    let played = TestRunner::new(config).run(&ops::ops(), |ops| {
        runtime
            .block_on(play(database.pool(), ops))
            .map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    if let Err(error) = played {
        panic!("{error}");
    }
}
