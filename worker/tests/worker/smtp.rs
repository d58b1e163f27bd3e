//! A mail server that answers as it is told and keeps what it heard.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::{Semaphore, watch},
};

/// What the server does at one point of the conversation.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Answers.
    Say(&'static str),
    /// Closes the connection.
    Close,
    /// Waits until the gate is opened, then answers.
    Gate(Gate, &'static str),
}

/// A place where the server waits for the test.
#[derive(Clone, Debug)]
pub struct Gate {
    reached: Arc<Semaphore>,
    opened: Arc<Semaphore>,
}

impl Gate {
    pub fn new() -> Self {
        Self { reached: Arc::new(Semaphore::new(0)), opened: Arc::new(Semaphore::new(0)) }
    }

    /// Waits until the server is at the gate.
    pub async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    pub fn open(&self) {
        self.opened.add_permits(1);
    }

    async fn pass(&self) {
        self.reached.add_permits(1);
        self.opened.acquire().await.unwrap().forget();
    }
}

/// The answers of one mail transaction.
#[derive(Clone, Debug)]
pub struct Script {
    pub mail: Answer,
    pub rcpt: Answer,
    pub data: Answer,
    pub text: Answer,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            mail: Answer::Say("250 2.1.0 sender ok"),
            rcpt: Answer::Say("250 2.1.5 recipient ok"),
            data: Answer::Say("354 go ahead"),
            text: Answer::Say("250 2.0.0 queued as 4711"),
        }
    }
}

/// What the server has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub connections: usize,
    /// Texts that arrived whole, with their final dot.
    pub texts: Vec<String>,
    /// Texts that were invited and never came to their end.
    pub withdrawn: usize,
    pub recipients: Vec<String>,
    pub resets: usize,
    pub credentials: Vec<String>,
}

#[derive(Clone)]
pub struct SmtpServer {
    pub address: SocketAddr,
    scripts: Arc<Mutex<VecDeque<Script>>>,
    seen: watch::Sender<Seen>,
    capabilities: &'static str,
    greeting: Answer,
    welcome: Arc<Mutex<&'static str>>,
}

impl SmtpServer {
    pub async fn start() -> Self {
        Self::start_with(Answer::Say("220 scripted.example ESMTP"), "250-scripted.example\r\n250 8BITMIME")
            .await
    }

    pub async fn start_with(greeting: Answer, capabilities: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            scripts: Arc::default(),
            seen: watch::Sender::default(),
            capabilities,
            greeting,
            welcome: Arc::new(Mutex::new("235 2.7.0 welcome")),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.seen.send_modify(|seen| seen.connections += 1);
                let serving = serving.clone();
                tokio::spawn(async move { serving.converse(stream).await });
            }
        });
        server
    }

    /// The answers of the next transaction; without any, everything is accepted.
    pub fn next(&self, script: Script) {
        self.scripts.lock().unwrap().push_back(script);
    }

    pub fn refuse_credentials(&self) {
        *self.welcome.lock().unwrap() = "535 5.7.8 bad credentials";
    }

    pub fn url(&self) -> String {
        format!("smtp://{}?tls=none", self.address)
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until what was seen is as the test wants it.
    pub async fn wait(&self, wanted: impl FnMut(&Seen) -> bool) -> Seen {
        self.seen.subscribe().wait_for(wanted).await.unwrap().clone()
    }

    async fn converse(&self, stream: TcpStream) -> Option<()> {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        answer(&mut writer, &self.greeting).await?;
        let mut script = Script::default();
        loop {
            let line = lines.next_line().await.ok()??;
            let verb = line.split_whitespace().next().unwrap_or_default().to_uppercase();
            match verb.as_str() {
                "EHLO" => say(&mut writer, self.capabilities).await?,
                "RSET" => {
                    self.seen.send_modify(|seen| seen.resets += 1);
                    say(&mut writer, "250 ok").await?;
                }
                "AUTH" => {
                    self.seen.send_modify(|seen| seen.credentials.push(line.clone()));
                    let welcome = *self.welcome.lock().unwrap();
                    say(&mut writer, welcome).await?;
                }
                "MAIL" => {
                    script = self.scripts.lock().unwrap().pop_front().unwrap_or_default();
                    answer(&mut writer, &script.mail).await?;
                }
                "RCPT" => {
                    self.seen.send_modify(|seen| seen.recipients.push(line.clone()));
                    answer(&mut writer, &script.rcpt).await?;
                }
                "DATA" => {
                    answer(&mut writer, &script.data).await?;
                    if matches!(&script.data, Answer::Say(text) | Answer::Gate(_, text) if text.starts_with('3'))
                    {
                        let mut text = String::new();
                        loop {
                            let Ok(Some(line)) = lines.next_line().await else {
                                self.seen.send_modify(|seen| seen.withdrawn += 1);
                                return None;
                            };
                            if line == "." {
                                break;
                            }
                            text.push_str(line.strip_prefix('.').unwrap_or(&line));
                            text.push_str("\r\n");
                        }
                        self.seen.send_modify(|seen| seen.texts.push(text));
                        answer(&mut writer, &script.text).await?;
                    }
                }
                "QUIT" => {
                    say(&mut writer, "221 bye").await?;
                    return None;
                }
                _ => say(&mut writer, "500 what").await?,
            }
        }
    }
}

async fn answer(writer: &mut OwnedWriteHalf, answer: &Answer) -> Option<()> {
    match answer {
        Answer::Say(text) => say(writer, text).await,
        Answer::Close => None,
        Answer::Gate(gate, text) => {
            gate.pass().await;
            say(writer, text).await
        }
    }
}

async fn say(writer: &mut OwnedWriteHalf, text: &str) -> Option<()> {
    writer.write_all(format!("{text}\r\n").as_bytes()).await.ok()
}
