//! The shop's store: a line protocol over plain TCP in which the server speaks first.

use crate::failure::Failure;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the server says first.
pub(crate) const GREETING: &str = "shop store 1.0";
/// A longer line is cut off.
const LINE_BYTES_MAX: u64 = 4096;
/// Older entries go when there are more.
const ENTRIES_MAX: usize = 10_000;

type Entries = Arc<Mutex<BTreeMap<String, String>>>;

/// Serves until the listener fails.
///
/// # Errors
/// When the listener does.
pub(crate) async fn run(listener: TcpListener) -> Result<(), Failure> {
    let entries = Entries::default();
    super::serve(listener, move |stream| {
        let entries = entries.clone();
        async move {
            // The caller's end is the end of a conversation, not an error.
            let _ = converse(stream, &entries).await;
        }
    })
    .await
}

async fn converse(stream: TcpStream, entries: &Entries) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    writer.write_all(format!("{GREETING}\n").as_bytes()).await?;
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut reader).take(LINE_BYTES_MAX).read_line(&mut line).await? == 0 {
            return writer.shutdown().await;
        }
        let answer = answer(line.trim_end(), entries);
        writer.write_all(answer.as_bytes()).await?;
    }
}

fn answer(line: &str, entries: &Entries) -> String {
    let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("PUT"), Some(key), Some(value)) => {
            entries.insert(key.to_owned(), value.to_owned());
            if entries.len() > ENTRIES_MAX {
                entries.pop_first();
            }
            "OK\n".to_owned()
        }
        (Some("GET"), Some(key), None) => match entries.get(key) {
            Some(value) => format!("VALUE {value}\n"),
            None => "NONE\n".to_owned(),
        },
        _ => "WHAT\n".to_owned(),
    }
}
