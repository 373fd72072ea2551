//! Signatures among replicas of one control plane: HMAC-SHA-256 under a key that only they know.
//!
//! `mesh-control` signs the sessions of a cluster's users with it. It is no proof towards anybody else: whoever can check
//! such a signature can make one.

use crate::seal;
use aws_lc_rs::hmac;
use std::io::Read;
use std::path::Path;

/// Bytes of a signature.
pub const MAC_BYTES: usize = 32;
/// A key file is 64 hexadecimal digits and a newline.
const KEY_FILE_BYTES_MAX: u64 = 256;

/// A key to sign and to check with.
pub struct MacKey(hmac::Key);

/// Why a key file is no use.
#[derive(Debug, thiserror::Error)]
pub enum MacKeyError {
    /// The system's refusal.
    #[error("the key {path} cannot be read: {source}")]
    File {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a key.
    #[error("the key {path} is not one; expected 64 hexadecimal digits")]
    Malformed {
        /// Which file.
        path: std::path::PathBuf,
    },
}

impl MacKey {
    /// Takes a key as it is.
    pub fn from_bytes(bytes: &[u8; seal::KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// Unreadable, or not a key.
    pub fn from_file(path: &Path) -> Result<Self, MacKeyError> {
        let error = |source| MacKeyError::File { path: path.to_owned(), source };
        let mut text = zeroize::Zeroizing::new(Vec::with_capacity(128));
        let file = std::fs::File::open(path).map_err(error)?;
        file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut text).map_err(error)?;
        let bytes = seal::from_hex(text.trim_ascii());
        bytes
            .map(|bytes| Self::from_bytes(&bytes))
            .ok_or_else(|| MacKeyError::Malformed { path: path.to_owned() })
    }

    /// Signs `bytes`; `context` says what for, and must be given again to check.
    pub fn sign(&self, context: &str, bytes: &[u8]) -> [u8; MAC_BYTES] {
        let mut signing = hmac::Context::with_key(&self.0);
        signing.update(context.as_bytes());
        signing.update(b"\0");
        signing.update(bytes);
        let tag = signing.sign();
        let mut mac = [0; MAC_BYTES];
        for (to, from) in mac.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        mac
    }

    /// Whether `mac` was made of this, in the time that it takes however much of it is right.
    pub fn is_signed(&self, context: &str, bytes: &[u8], mac: &[u8]) -> bool {
        let message = [context.as_bytes(), b"\0", bytes].concat();
        hmac::verify(&self.0, &message, mac).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_bytes_context_and_key_alone() {
        let key = MacKey::from_bytes(&[7; 32]);
        let mac = key.sign("session", b"alice");
        assert!(key.is_signed("session", b"alice", &mac));
        assert!(!key.is_signed("session", b"alicf", &mac));
        assert!(!key.is_signed("sessio", b"nalice", &mac));
        assert!(!key.is_signed("session", b"alice", &mac[..31]));
        assert!(!key.is_signed("session", b"alice", b""));
        assert!(!MacKey::from_bytes(&[8; 32]).is_signed("session", b"alice", &mac));
    }

    #[test]
    fn a_key_file_is_read_as_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session.key");
        assert!(matches!(MacKey::from_file(&path), Err(MacKeyError::File { .. })));
        let text = seal::random_key_text().unwrap();
        std::fs::write(&path, format!("{}\n", &*text)).unwrap();
        let mac = MacKey::from_file(&path).unwrap().sign("c", b"x");
        assert!(MacKey::from_file(&path).unwrap().is_signed("c", b"x", &mac));
        std::fs::write(&path, &text[1..]).unwrap();
        assert!(matches!(MacKey::from_file(&path), Err(MacKeyError::Malformed { .. })));
    }
}
