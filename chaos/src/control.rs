//! How whoever breaks things speaks to whoever writes down what became of it: a line, and where one is wanted its answer.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::Mutex,
};

/// How long the other side may take to listen, and to answer.
const START_DEADLINE: Duration = Duration::from_secs(10);
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// A line to the other side.
#[derive(Debug)]
pub struct Control {
    stream: Mutex<BufReader<UnixStream>>,
    faults: AtomicU32,
}

impl Control {
    /// Connects as soon as somebody listens on the socket.
    pub async fn connect(socket: &Path) -> anyhow::Result<Arc<Self>> {
        let connect = async {
            loop {
                if let Ok(stream) = UnixStream::connect(&socket).await {
                    return stream;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let stream = tokio::time::timeout(START_DEADLINE, connect).await.context("nobody listens")?;
        Ok(Arc::new(Self { stream: Mutex::new(BufReader::new(stream)), faults: AtomicU32::new(0) }))
    }

    /// Says something that needs no answer.
    pub async fn tell(&self, lines: &str) -> anyhow::Result<()> {
        let mut stream = self.stream.lock().await;
        let written = stream.get_mut().write_all(lines.as_bytes());
        Ok(tokio::time::timeout(ANSWER_DEADLINE, written).await.context("nobody listens any more")??)
    }

    /// Says a line and returns the answer.
    pub async fn ask(&self, line: &str) -> anyhow::Result<String> {
        let mut stream = self.stream.lock().await;
        let asked = async {
            stream.get_mut().write_all(line.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(ANSWER_DEADLINE, asked).await.context("nobody answers")??;
        anyhow::ensure!(answer.ends_with('\n'), "nobody listens any more");
        Ok(answer.trim_end().to_owned())
    }

    /// A fault begins, which strikes what `struck` says.
    pub async fn begin_fault(self: &Arc<Self>, scenario: &str, struck: &str) -> anyhow::Result<Fault> {
        let number = self.faults.fetch_add(1, Ordering::Relaxed);
        self.ask(&format!("fault {number} begin {scenario} {struck}\n")).await?;
        Ok(Fault { number, control: self.clone() })
    }
}

/// A fault that was told of.
#[derive(Debug)]
pub struct Fault {
    number: u32,
    control: Arc<Control>,
}

impl Fault {
    /// The recovery is measured from so long ago.
    pub async fn clock(&self, ago: Duration) -> anyhow::Result<()> {
        self.control.ask(&format!("fault {} clock {}\n", self.number, ago.as_millis())).await?;
        Ok(())
    }

    /// What starts from now on is not struck.
    pub async fn end(self) -> anyhow::Result<()> {
        self.control.ask(&format!("fault {} end\n", self.number)).await?;
        Ok(())
    }

    /// The same after a while, for what is on its way still.
    pub async fn end_after(self, grace: Duration) -> anyhow::Result<()> {
        tokio::time::sleep(grace).await;
        self.end().await
    }
}
