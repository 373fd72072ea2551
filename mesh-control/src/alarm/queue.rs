//! What waits for one sink, on the disk: a file of frames, and how far it has been sent.
//!
//! A message is on the disk before [`Queue::push`] returns, and stays until [`Queue::done`]. A kill in between sends it
//! again: at least once. The file has a bound; what finds no room is counted, and the count goes with the next message
//! that does, so that the receiver knows of the gap.

use super::replace;
use aws_lc_rs::digest;
use mesh_proto::name::ObjectName;
use mesh_proto::wire::v1;
use prost::Message as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes of the file: some 10,000 alarms.
pub(crate) const BYTES_MAX: u64 = 8 << 20;
/// Length and digest in front of each frame.
const HEAD_BYTES: usize = 12;
/// Bytes of the digest in it.
const DIGEST_BYTES: usize = 8;

#[derive(Debug, Default)]
struct State {
    /// Bytes of the file.
    length: u64,
    /// Bytes of it that were sent.
    sent: u64,
    /// Notices that wait.
    waiting: u64,
    /// Notices for which there was no room, in all and since the last message that found some.
    lost: u64,
    untold: u64,
}

/// The queue of one sink.
#[derive(Debug)]
pub(crate) struct Queue {
    log: PathBuf,
    mark: PathBuf,
    bytes_max: u64,
    state: Mutex<State>,
    added: Notify,
}

impl Queue {
    /// Opens or makes the files of a sink.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open(dir: &Path, sink: &ObjectName) -> io::Result<Self> {
        Self::open_with(dir, sink, BYTES_MAX)
    }

    fn open_with(dir: &Path, sink: &ObjectName, bytes_max: u64) -> io::Result<Self> {
        // A dot cannot be in a name, so that no sink's file is another's.
        let (log, mark) = (dir.join(format!("{sink}.log")), dir.join(format!("{sink}.sent")));
        let bytes = match fs::read(&log) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let sent = fs::read_to_string(&mark).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let mut state = State::default();
        let (mut at, mut rest) = (0_u64, &bytes[..]);
        while let Some((message, size)) = frame(rest) {
            if at >= sent {
                state.waiting = state.waiting.saturating_add(notices(&message));
            }
            at = at.saturating_add(size);
            rest = usize::try_from(size).ok().and_then(|size| rest.get(size..)).unwrap_or_default();
        }
        if !rest.is_empty() {
            // Half-written by a kill: it was never promised to anybody.
            OpenOptions::new().write(true).open(&log)?.set_len(at)?;
        }
        state.length = at;
        state.sent = if sent <= at { sent } else { 0 };
        Ok(Self { log, mark, bytes_max, state: Mutex::new(state), added: Notify::new() })
    }

    /// Adds a message. When there is no room it is counted as lost.
    ///
    /// # Errors
    /// The system's; then it was counted as lost, too.
    pub(crate) fn push(&self, mut message: v1::AlarmMessage) -> io::Result<()> {
        let mut state = self.state();
        message.lost = state.untold;
        let count = notices(&message);
        let written = self.write(&mut state, &message);
        if matches!(written, Ok(true)) {
            state.waiting = state.waiting.saturating_add(count);
            state.untold = 0;
        } else {
            state.lost = state.lost.saturating_add(count);
            state.untold = state.untold.saturating_add(count);
        }
        drop(state);
        self.added.notify_one();
        written.map(drop)
    }

    fn write(&self, state: &mut State, message: &v1::AlarmMessage) -> io::Result<bool> {
        let body = message.encode_to_vec();
        let mut bytes = Vec::with_capacity(body.len().saturating_add(HEAD_BYTES));
        bytes.extend(u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes());
        bytes.extend(digest_of(&body));
        bytes.extend(body);
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if state.length.saturating_add(size) > self.bytes_max && state.sent > 0 {
            self.drop_sent(state)?;
        }
        if state.length.saturating_add(size) > self.bytes_max {
            return Ok(false);
        }
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.log)?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_data());
        if let Err(error) = written {
            let _ = file.set_len(state.length);
            return Err(error);
        }
        state.length = state.length.saturating_add(size);
        Ok(true)
    }

    /// Rewrites the file without what was sent. A kill in between sends some of it again.
    fn drop_sent(&self, state: &mut State) -> io::Result<()> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(state.sent))?;
        let mut rest = Vec::new();
        file.take(self.bytes_max).read_to_end(&mut rest)?;
        replace(&self.mark, b"0")?;
        replace(&self.log, &rest)?;
        state.sent = 0;
        state.length = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// The oldest message that waits, and what to tell [`Self::done`] once it was taken.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn next(&self) -> io::Result<Option<(v1::AlarmMessage, u64)>> {
        let state = self.state();
        if state.sent >= state.length {
            return Ok(None);
        }
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(state.sent))?;
        // This message alone: what waits behind it may be megabytes, and each of them comes to be the first.
        let mut length = [0; 4];
        file.read_exact(&mut length)?;
        let rest = u64::from(u32::from_le_bytes(length)).saturating_add(DIGEST_BYTES as u64);
        let mut bytes = length.to_vec();
        file.take(rest.min(self.bytes_max)).read_to_end(&mut bytes)?;
        match frame(&bytes) {
            Some((message, size)) => Ok(Some((message, size))),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the queue's file was changed by somebody else",
            )),
        }
    }

    /// The oldest message, of this size, was taken (or given up: then it is counted as lost).
    ///
    /// # Errors
    /// The system's; then it may be sent again after a restart.
    pub(crate) fn done(&self, size: u64, count: usize, fate: Fate) -> io::Result<()> {
        let mut state = self.state();
        let count = u64::try_from(count).unwrap_or(0);
        state.sent = state.sent.saturating_add(size).min(state.length);
        state.waiting = state.waiting.saturating_sub(count);
        if fate == Fate::GivenUp {
            state.lost = state.lost.saturating_add(count);
            state.untold = state.untold.saturating_add(count);
        }
        if state.sent >= state.length {
            OpenOptions::new().write(true).open(&self.log)?.set_len(0)?;
            (state.sent, state.length) = (0, 0);
        }
        let text = state.sent.to_string();
        fs::write(&self.mark, text)
    }

    /// Notices that wait, and those that were lost since the start.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let state = self.state();
        (state.waiting, state.lost)
    }

    /// Waits for [`Self::push`]. Cancel safe: what came before the call is told at once.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    /// Removes the files.
    pub(crate) fn remove(&self) {
        for path in [&self.log, &self.mark] {
            let _ = fs::remove_file(path);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it is held leaves a count wrong at worst.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// The sink has it.
    Taken,
    /// The sink refuses it, and would again.
    GivenUp,
}

fn notices(message: &v1::AlarmMessage) -> u64 {
    u64::try_from(message.notices.len()).unwrap_or(u64::MAX)
}

fn digest_of(body: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, body).as_ref().iter().copied().take(DIGEST_BYTES).collect()
}

/// The first message, and how many bytes it takes.
fn frame(bytes: &[u8]) -> Option<(v1::AlarmMessage, u64)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (digest, rest) = rest.split_at_checked(DIGEST_BYTES)?;
    let body = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    if digest != digest_of(body) {
        return None;
    }
    let size = u64::try_from(body.len().checked_add(HEAD_BYTES)?).ok()?;
    Some((v1::AlarmMessage::decode(body).ok()?, size))
}

#[cfg(test)]
mod tests;
