//! The queue's own tables, as migrations that a program runs beside its own.

use std::borrow::Cow;

use sqlx::{
    SqlStr,
    migrate::{Migration, MigrationType},
};

/// The migrations of schema `queue`, oldest first. Their versions are timestamps, so that they sort among the
/// program's own.
pub fn migrations() -> Vec<Migration> {
    [
        (20_261_101_000_000, "queue create", include_str!("../migrations/20261101000000_queue_create.sql")),
        (
            20_261_101_000_001,
            "queue functions",
            include_str!("../migrations/20261101000001_queue_functions.sql"),
        ),
        (20_261_101_000_002, "queue operate", include_str!("../migrations/20261101000002_queue_operate.sql")),
        (20_261_101_000_003, "queue oldest", include_str!("../migrations/20261101000003_queue_oldest.sql")),
    ]
    .into_iter()
    .map(|(version, description, sql)| {
        Migration::new(
            version,
            Cow::Borrowed(description),
            MigrationType::Simple,
            SqlStr::from_static(sql),
            false,
        )
    })
    .collect()
}
