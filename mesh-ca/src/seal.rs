//! Sealing of secrets at rest: AES-256-GCM under one key, bound to what the bytes are for.
//!
//! `authority` seals its keys before they reach the store, and `mesh-control::store` seals its values. A sealed value
//! is `1 | nonce (12 bytes) | ciphertext | tag (16 bytes)`; the context is authenticated, so that one value cannot be
//! put in another's place. It never writes to disk except a key file it was told to make.
//!
//! # Why
//! AES-256-GCM with random nonces may seal 2^32 values under one key (NIST SP 800-38D, 8.3), that is one a second for
//! 136 years. A stream of sealed values would need another construction; there is none here.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Length of a sealing key.
pub const KEY_BYTES: usize = 32;
/// What sealing adds to a value: version, nonce, tag.
pub const OVERHEAD_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// A key file is 64 hexadecimal digits and a newline; anything much longer is not one.
const KEY_FILE_BYTES_MAX: u64 = 256;

/// Why a value could not be sealed or opened, or a key not read.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file does not exist.
    #[error("the seal key {path} does not exist; put it back, or restore the state directory it belongs to")]
    KeyMissing {
        /// Which file.
        path: PathBuf,
    },
    /// The key file could not be read or written.
    #[error("the seal key {path} cannot be {tried}: {source}")]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// "read", "created".
        tried: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may read the key file.
    #[error("the seal key {path} may be read by others (mode {mode:o}); run: chmod 600 {path}")]
    KeyExposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file is not a key.
    #[error("the seal key {path} is not a key; expected 64 hexadecimal digits")]
    KeyMalformed {
        /// Which file.
        path: PathBuf,
    },
    /// The value was not sealed by this version.
    #[error("the sealed value for {context:?} is not in a known form (first byte {version:?})")]
    UnknownForm {
        /// What was to be opened.
        context: String,
        /// Its first byte; `None` when it is too short.
        version: Option<u8>,
    },
    /// Another key, another context, or changed bytes; these cannot be told apart.
    #[error("the sealed value for {context:?} does not open: it was changed, or sealed under another key")]
    DoesNotOpen {
        /// What was to be opened.
        context: String,
    },
    /// The random source or the cipher failed.
    #[error("sealing for {context:?} failed: the system's random source or the cipher gave up")]
    Cipher {
        /// What was to be sealed.
        context: String,
    },
}

/// What to do about a key file that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// Make a new key and write it, readable by the owner only.
    Create,
    /// Refuse.
    Refuse,
}

/// The key under which secrets at rest are sealed.
pub struct SealKey {
    key: Arc<LessSafeKey>,
}

impl SealKey {
    /// Takes a key as it is.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        #[expect(clippy::expect_used, reason = "the only error is a wrong length, which the type excludes")]
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("32 bytes are an AES-256 key");
        Self { key: Arc::new(LessSafeKey::new(key)) }
    }

    /// The same key once more, for another owner in this process; the key material is not copied.
    #[cfg(feature = "authority")]
    pub(crate) fn share(&self) -> Self {
        Self { key: self.key.clone() }
    }

    /// Reads a key file: 64 hexadecimal digits, readable by nobody but its owner.
    ///
    /// A new file is complete and on disk before its name appears, so a crash leaves either no key or a whole one.
    ///
    /// # Errors
    /// Missing and not to be created, unreadable, readable by others, or not a key.
    pub fn from_file(path: &Path, missing: Missing) -> Result<Self, SealError> {
        match read_key(path)? {
            Some(bytes) => Ok(Self::from_bytes(&bytes)),
            None if missing == Missing::Refuse => Err(SealError::KeyMissing { path: path.to_owned() }),
            None => create_key(path),
        }
    }

    /// The key as its file has it: 64 digits of hexadecimal, with or without a line's end; `None` when it is anything else.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        from_hex(text.trim_ascii()).map(|bytes| Self::from_bytes(&bytes))
    }

    /// Seals `plain`; `context` says what it is for and must be given again to open it.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let cipher = |_| SealError::Cipher { context: context.to_owned() };
        let mut nonce = [0; NONCE_BYTES];
        SystemRandom::new().fill(&mut nonce).map_err(cipher)?;
        let mut sealed = Vec::with_capacity(plain.len().saturating_add(OVERHEAD_BYTES));
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        let mut body = Zeroizing::new(plain.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad(context), &mut body)
            .map_err(cipher)?;
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens what [`seal`](Self::seal) made for the same context; the plain bytes are wiped when dropped.
    ///
    /// # Errors
    /// Another key or context, changed or cut bytes, or a form this version does not know.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let form = |version| SealError::UnknownForm { context: context.to_owned(), version };
        let (version, rest) = sealed.split_first().ok_or_else(|| form(None))?;
        if *version != VERSION {
            return Err(form(Some(*version)));
        }
        let (nonce, body) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(|| form(None))?;
        let mut plain = Zeroizing::new(body.to_vec());
        let length = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), aad(context), &mut plain)
            .map_err(|_| SealError::DoesNotOpen { context: context.to_owned() })?
            .len();
        plain.truncate(length);
        Ok(plain)
    }
}

fn aad(context: &str) -> Aad<Vec<u8>> {
    let mut bytes = b"mesh seal 1\0".to_vec();
    bytes.extend_from_slice(context.as_bytes());
    Aad::from(bytes)
}

/// The key in the file, or `None` when there is no file.
fn read_key(path: &Path) -> Result<Option<Zeroizing<[u8; KEY_BYTES]>>, SealError> {
    let error = |source| SealError::KeyFile { path: path.to_owned(), tried: "read", source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(error(e)),
    };
    let found = file.metadata().map_err(error)?;
    let mode = found.mode() & 0o777;
    if is_exposed(mode, found.uid(), found.gid()) {
        return Err(SealError::KeyExposed { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(128));
    file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut text).map_err(error)?;
    from_hex(text.trim_ascii()).map(Some).ok_or_else(|| SealError::KeyMalformed { path: path.to_owned() })
}

/// Whether others than the key's user can read it, or change it.
///
/// The files of a Kubernetes Secret belong to root and to the pod's own group, and are nobody's to write: mode 0440.
fn is_exposed(mode: u32, owner: u32, group: u32) -> bool {
    let is_volume = mode == 0o440 && owner == 0 && group != 0;
    mode & 0o077 != 0 && !is_volume
}

/// A new random key as a key file has it, without the line's end.
///
/// `None` when the system's random source failed.
pub fn random_key_text() -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    SystemRandom::new().fill(bytes.as_mut()).ok()?;
    let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES + 1));
    for byte in bytes.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(digit), 16));
        }
    }
    Some(text)
}

/// The SHA-256 of a text in hexadecimal, by which it can be known again without being kept.
pub fn digest_text(text: &str) -> String {
    crate::x509::sha256(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn create_key(path: &Path) -> Result<SealKey, SealError> {
    let error = |source| SealError::KeyFile { path: path.to_owned(), tried: "created", source };
    let mut text =
        random_key_text().ok_or_else(|| error(std::io::Error::other("the random source failed")))?;
    text.push('\n');
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // A link, not a rename: of two processes that both find no key, one must not replace the other's.
        std::fs::hard_link(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    let _ = std::fs::remove_file(&temporary);
    match written {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(error(e)),
        _ => {}
    }
    match read_key(path)? {
        Some(bytes) => Ok(SealKey::from_bytes(&bytes)),
        None => Err(SealError::KeyMissing { path: path.to_owned() }),
    }
}

fn from_hex(text: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    if pairs.len() != KEY_BYTES {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
