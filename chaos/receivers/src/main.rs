//! The other side of a chaos run of the dispatcher: receivers of webhooks, good ones, broken ones and hostile ones, and
//! the book of what each of them was sent. It uses no crate of ours, so that what judges the dispatcher shares nothing
//! with it. It prints where its endpoints are as one line of JSON, and then listens to whoever breaks things.
//!
//! Start reading at `endpoint.rs` (who there is, and what has to become of its deliveries), then `book.rs` (what is written
//! down) and `verdict.rs` (what comes of it).

mod book;
mod certificates;
mod endpoint;
mod line;
mod names;
mod network;
mod raw;
mod verdict;
mod web;

#[cfg(test)]
mod tests;

use std::{net::Ipv4Addr, path::PathBuf, time::Instant};

use anyhow::Context;
use clap::Parser;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use book::Shared;
use certificates::Certificates;
use endpoint::{
    ALLOWED, ALLOWED_NET, Behaviour, ENDPOINTS, Hears, METADATA, ORDERED, PRIVATE, PUBLIC, Place,
};
use line::Line;
use web::Web;

/// Receives webhooks, well and badly, and judges who sends them.
#[derive(Debug, Parser)]
#[command(name = "iris-chaos-receivers", version)]
struct Options {
    /// The unix socket on which it listens to whoever breaks things; it must not exist yet.
    #[arg(long)]
    socket: PathBuf,
    /// Where it writes the certificate that is to be trusted.
    #[arg(long)]
    authority: PathBuf,
    /// The network is a private one: the public address and every port are ours.
    #[arg(long)]
    own_network: bool,
}

/// Receives until its input ends.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let listener = UnixListener::bind(&options.socket)
        .with_context(|| format!("cannot listen on {}", options.socket.display()))?;
    let book = Shared::default();
    let addresses = open(&options, &book).await?;
    println!("{addresses}");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let book = book.clone();
            tokio::spawn(async move {
                if let Err(error) = listen(stream, &book).await {
                    eprintln!("receivers: {error:#}");
                    // A line that nobody understands is a defect of the run: nothing that follows could be trusted.
                    book.open().spoilt.push(format!("{error:#}"));
                }
            });
        }
    });
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// Opens every endpoint, and says where they are.
async fn open(options: &Options, book: &Shared) -> anyhow::Result<Value> {
    let certificates = Certificates::make()?;
    tokio::fs::write(&options.authority, &certificates.authority).await?;
    let forbidden = if options.own_network {
        format!("http://{METADATA}/latest/meta-data/")
    } else {
        // Without a network of our own there is no metadata service, but an address that is not in the allow-list.
        let (listener, address) = web::bind(Ipv4Addr::LOCALHOST.into()).await?;
        tokio::spawn(network::watch(listener, book.clone(), address.port()));
        format!("http://{address}/latest/meta-data/")
    };
    let web = Web::new(book.clone(), &forbidden)?;
    if options.own_network {
        network::serve(&web, book, &certificates.trusted).await?;
        names::serve().await?;
    }
    let (mut endpoints, mut left_out) = (Vec::new(), Vec::new());
    for (place, endpoint) in ENDPOINTS.iter().enumerate() {
        if endpoint.place == Place::Named && !options.own_network {
            left_out.push(endpoint.name);
            continue;
        }
        let url = open_one(place, &web, book, &certificates).await?;
        let listed = endpoint.hears == Hears::Campaigns;
        endpoints.push(json!({
            "name": endpoint.name, "url": url, "events": endpoint.hears.events(), "listed": listed,
            "ordered": endpoint.name == ORDERED,
        }));
    }
    Ok(json!({
        "allow": ALLOWED_NET, "addresses": [PUBLIC, METADATA, PRIVATE], "endpoints": endpoints, "left_out": left_out,
    }))
}

/// Opens an endpoint, and returns its URL.
async fn open_one(
    place: usize,
    web: &Web,
    book: &Shared,
    certificates: &Certificates,
) -> anyhow::Result<String> {
    let endpoint = &ENDPOINTS[place];
    let path = endpoint.name;
    if endpoint.place == Place::Named {
        return Ok(format!("https://{}/{path}", endpoint.host()));
    }
    let (listener, address) = web::bind(ALLOWED).await?;
    match endpoint.behaviour {
        Behaviour::Reset
        | Behaviour::Trickle
        | Behaviour::EndlessHeaders
        | Behaviour::Untrusted
        | Behaviour::NoTls => {
            tokio::spawn(raw::listen(listener, place, book.clone(), certificates.untrusted.clone()));
        }
        _ => drop(tokio::spawn(web.clone().listen(listener, place))),
    }
    let scheme = if endpoint.place == Place::Tls { "https" } else { "http" };
    Ok(format!("{scheme}://{address}/{path}"))
}

/// Takes lines until the other end is gone.
async fn listen(mut stream: UnixStream, book: &Shared) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut text = String::new();
    loop {
        text.clear();
        if reader.read_line(&mut text).await? == 0 {
            return Ok(());
        }
        let line: Line = text.trim_end().parse().with_context(|| format!("the line {text:?}"))?;
        let answer = book.open().apply(line, Instant::now());
        if let Some(answer) = answer {
            writer.write_all(format!("{answer}\n").as_bytes()).await.context("its answer")?;
        }
    }
}
