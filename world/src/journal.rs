//! JSON lines on disk. Records go through bounded queues, and one task per file writes them in batches, so that neither
//! an SMTP session nor a webhook waits for the disk.

use std::io;
use std::path::Path;

use serde::Serialize;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Records that may wait for the disk, per file; past it the recorder waits.
const QUEUE_MAX: usize = 16_384;
/// Records written by one call.
const BATCH_MAX: usize = 1_024;

/// The appending end of one ledger file.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Vec<u8>>,
}

impl Journal {
    /// Opens the file for appending and starts its writer, which drains and ends after `stop`.
    pub async fn open(
        path: &Path,
        stop: CancellationToken,
    ) -> io::Result<(Self, JoinHandle<io::Result<()>>)> {
        let file = OpenOptions::new().create(true).append(true).open(path).await?;
        let (queue, records) = mpsc::channel(QUEUE_MAX);
        let path = path.to_owned();
        let writer = tokio::spawn(async move {
            let written = write(file, records, stop).await;
            if let Err(error) = &written {
                tracing::error!(%error, path = %path.display(), "a ledger file cannot be written any more");
            }
            written
        });
        Ok((Self { queue }, writer))
    }

    /// Queues one record. After the writer ended, at shutdown or on a full disk, records are dropped: the ledgers in
    /// memory are what tests read.
    pub async fn append(&self, record: &impl Serialize) {
        match serde_json::to_vec(record) {
            Ok(mut line) => {
                line.push(b'\n');
                if self.queue.send(line).await.is_err() {
                    tracing::debug!("a ledger record came after its writer ended");
                }
            }
            Err(error) => tracing::error!(%error, "a ledger record did not serialize"),
        }
    }
}

async fn write(
    mut file: File,
    mut records: mpsc::Receiver<Vec<u8>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled(), if !records.is_closed() => records.close(),
            received = records.recv_many(&mut batch, BATCH_MAX) => {
                if received == 0 {
                    return file.sync_all().await;
                }
                file.write_all(&batch.concat()).await?;
                file.flush().await?;
                batch.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_record_before_the_stop_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        let stop = CancellationToken::new();
        let (journal, writer) = Journal::open(&path, stop.clone()).await.unwrap();
        for n in 0..3_000 {
            journal.append(&n).await;
        }
        stop.cancel();
        writer.await.unwrap().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3_000);
        assert_eq!(text.lines().last(), Some("2999"));
    }
}
