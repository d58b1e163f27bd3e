//! All roles and the simulated outside, for a first look and for development.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::Context;
use shared::{Database, domain::endpoint_url::AllowList};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    cli,
    local::{Local, write_private},
    places, roles,
    world::{self, MAILBOX, World},
};

/// Runs until SIGTERM or SIGINT. The API listens before anything is printed.
pub async fn run(mut config: cli::Up, local: Option<Local>) -> anyhow::Result<()> {
    let stop = roles::stop_signal()?;
    // What a killed one left would send shells to the wrong place.
    let home = local.clone().map_or_else(Local::find, Ok)?;
    let _ = fs::remove_file(home.facts());
    let (url, postgres) = roles::start_database(&config.base.database_url, local.as_ref()).await?;
    config.base.database_url = url;
    let database = roles::migrated(&config.base.database_url).await?;
    let listener = TcpListener::bind(config.api.api_addr)
        .await
        .with_context(|| format!("IRIS_API_ADDR: cannot listen on {}", config.api.api_addr))?;
    let addr = listener.local_addr()?;
    let outside = if config.base.mailbox.smtp_url.is_some() {
        None
    } else {
        Some(simulate(&mut config, &home, &database, addr).await?)
    };
    let key = first_key(&database, local.as_ref()).await?;
    database.close().await;
    let facts = write_facts(&home, addr, key.as_deref(), outside.as_ref())?;
    print_welcome(addr, key, outside.as_ref());

    let cli::Up { api, worker, dispatcher, base, .. } = config;
    let mut running = JoinSet::new();
    running.spawn(api::serve(listener, api, base.clone(), stop.clone()));
    running.spawn(worker::run(worker, with_own_port(&base), stop.clone()));
    running.spawn(dispatcher::run(dispatcher, with_own_port(&base), stop.clone()));
    let mut ended = Ok(());
    while let Some(role) = running.join_next().await {
        // One role that ends takes the others along: half an iris is worse than none.
        stop.cancel();
        ended = ended.and(role.map_err(anyhow::Error::from).and_then(|ran| ran));
    }
    let _ = fs::remove_file(facts);
    if let Some(outside) = outside {
        outside.stop().await;
    }
    if let Some(postgres) = postgres {
        postgres.stop().await;
    }
    ended
}

/// The admin address can be served once; the other roles of this process take free ports.
fn with_own_port(base: &shared::config::BaseConfig) -> shared::config::BaseConfig {
    let mut base = base.clone();
    base.admin_addr.set_port(0);
    base
}

/// Starts the simulated outside and points the mailbox and the webhooks at it.
async fn simulate(
    config: &mut cli::Up,
    home: &Local,
    database: &Database,
    api: SocketAddr,
) -> anyhow::Result<World> {
    let inbound_secret = home.inbound_secret()?;
    let world = World::start(&world::Options {
        directory: &home.directory("world")?,
        mailbox: MAILBOX,
        inbound_secret: &inbound_secret,
        inbound_url: &format!("http://{api}/inbound/email"),
        day: config.base.day.min(DAY_MAX),
    })
    .await?;
    config.base.mailbox.smtp_url = Some(format!("smtp://{}", world.addresses.smtp).parse()?);
    config.base.mailbox.smtp_from = Some(format!("Iris <{MAILBOX}>").parse().map_err(anyhow::Error::msg)?);
    config.base.mailbox.inbound_secret = Some(inbound_secret);
    if config.base.webhook_allow == AllowList::default() {
        config.base.webhook_allow = "127.0.0.0/8".parse().map_err(anyhow::Error::msg)?;
    }
    places::load(database, world::places().await?.as_slice()).await?;
    Ok(world)
}

/// The people of the simulated outside answer within a minute, however long a day of the sequence is.
const DAY_MAX: Duration = Duration::from_secs(60);

/// The first admin key: made now, or kept from the first start.
async fn first_key(database: &Database, local: Option<&Local>) -> anyhow::Result<Option<String>> {
    let made = roles::bootstrap(database).await?;
    let Some(local) = local else { return Ok(made) };
    if let Some(key) = &made {
        write_private(&local.first_key(), key)?;
        return Ok(made);
    }
    Ok(fs::read_to_string(local.first_key()).ok().map(|key| key.trim().to_owned()))
}

/// Writes what a shell needs to talk to this iris; the file is there as long as iris is up.
fn write_facts(
    home: &Local,
    api: SocketAddr,
    key: Option<&str>,
    world: Option<&World>,
) -> anyhow::Result<std::path::PathBuf> {
    let path = home.facts();
    let mut facts = format!("IRIS_URL=http://{api}\nIRIS_KEY={}", key.unwrap_or_default());
    if let Some(world) = world {
        facts = format!("{facts}\nIRIS_WORLD=http://{}", world.addresses.http);
    }
    write_private(&path, &facts)?;
    Ok(path)
}

fn print_welcome(api: SocketAddr, key: Option<String>, world: Option<&World>) {
    let key = key.unwrap_or_else(|| "<one of your keys>".into());
    println!("iris is up.\n");
    println!("  base URL   http://{api}");
    println!("  key        {key}");
    if let Some(world) = world {
        println!("  mail       goes to a simulated outside at {}", world.addresses.smtp);
        println!("  webhooks   may go to http://{}/hooks/<any name>", world.addresses.http);
    }
    println!("\nNext steps:\n");
    println!("  curl http://{api}/keys/me -H 'Authorization: Bearer {key}'");
    println!("  curl http://{api}/openapi.json");
    println!("\nCtrl-C stops everything.");
}
