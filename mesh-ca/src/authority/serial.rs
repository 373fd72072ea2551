//! From the digits that a person typed to the one certificate that they mean.
//!
//! Serials have 32 digits and tables show some of them, so the beginning is enough where it is unique. What is not known is
//! refused: a revocation of nothing would look like one that works.

use super::revoke::Revoked;
use super::{Authority, Inner};
use crate::x509::hex;
use std::collections::BTreeMap;

/// The fewest digits that are taken for the beginning of a serial: a slip of the finger then hits nothing.
pub const SERIAL_DIGITS_MIN: usize = 8;
/// The most digits of a serial (RFC 5280, 4.1.2.2: 20 octets).
pub const SERIAL_DIGITS_MAX: usize = 40;
/// Matches that an ambiguous beginning lists.
const MATCHES_SHOWN: usize = 10;

/// Among which certificates to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// Those that have not expired, and the intermediates above them.
    InUse,
    /// Those that are revoked.
    Revoked,
}

/// Why digits mean no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// Not digits, too few or too many.
    #[error(
        "{0:?} is not a serial: write {SERIAL_DIGITS_MIN} to {SERIAL_DIGITS_MAX} hexadecimal digits, as `meshctl identity` shows them"
    )]
    NotDigits(String),
    /// Nothing begins so.
    #[error(
        "no certificate in use has a serial that begins with {0}; list them with: meshctl identity --all (one whose record was lost is revoked by its whole serial and --force)"
    )]
    Unknown(String),
    /// Nothing that is revoked begins so.
    #[error(
        "no revoked certificate has a serial that begins with {0}; list them with: meshctl identity --all"
    )]
    NotRevoked(String),
    /// Several begin so.
    #[error("{digits} is the beginning of {count} serials; write more digits of the one you mean:\n{}", .matches.join("\n"))]
    Ambiguous {
        /// What was typed.
        digits: String,
        /// How many there are.
        count: usize,
        /// The first of them, with whose they are.
        matches: Vec<String>,
    },
    /// It is a root's.
    #[error(
        "{0} is the serial of a root, and every bundle would still vouch for it; replace the root with: meshctl ca rotate"
    )]
    Root(String),
}

/// Digits as they are compared: lower case, without colons.
///
/// # Errors
/// [`SerialError::NotDigits`].
pub fn serial_digits(text: &str) -> Result<String, SerialError> {
    let digits: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    let is_good = digits.bytes().all(|b| b.is_ascii_hexdigit())
        && (SERIAL_DIGITS_MIN..=SERIAL_DIGITS_MAX).contains(&digits.len());
    if is_good { Ok(digits) } else { Err(SerialError::NotDigits(text.chars().take(80).collect())) }
}

impl Authority {
    /// The whole serial that begins with these digits (see [`serial_digits`]).
    ///
    /// # Errors
    /// See [`SerialError`].
    pub fn find_serial(&self, digits: &str, among: Among) -> Result<Vec<u8>, SerialError> {
        let digits = serial_digits(digits)?;
        let inner = self.lock();
        let candidates = match among {
            Among::InUse => in_use(&inner),
            Among::Revoked => revoked(&inner.core.revoked),
        };
        // Some programs write a leading zero before a serial.
        let wanted = digits.trim_start_matches('0');
        let shown = |serial: &[u8]| hex(serial).trim_start_matches('0').to_owned();
        if let Some(root) = inner.core.roots.iter().map(|root| &root.signer.facts.serial).find(|serial| {
            let text = shown(serial);
            text == wanted
                || (text.starts_with(wanted) && candidates.keys().all(|c| !shown(c).starts_with(wanted)))
        }) {
            return Err(SerialError::Root(hex(root)));
        }
        let found: Vec<(&Vec<u8>, &String)> =
            candidates.iter().filter(|(serial, _)| shown(serial).starts_with(wanted)).collect();
        match found.as_slice() {
            [] if among == Among::Revoked => Err(SerialError::NotRevoked(digits)),
            [] => Err(SerialError::Unknown(digits)),
            [(serial, _)] => Ok((*serial).clone()),
            several => {
                if let Some((whole, _)) = several.iter().find(|(serial, _)| shown(serial) == wanted) {
                    return Ok((*whole).clone());
                }
                let line = |(serial, whose): &(&Vec<u8>, &String)| format!("  {} {whose}", hex(serial));
                let matches = several.iter().take(MATCHES_SHOWN).map(line).collect();
                Err(SerialError::Ambiguous { digits, count: several.len(), matches })
            }
        }
    }
}

/// Serials that may be out there, with whose they are.
fn in_use(inner: &Inner) -> BTreeMap<Vec<u8>, String> {
    let mut serials = revoked(&inner.core.revoked);
    for record in inner.records.all() {
        serials.entry(record.issuer_serial.clone()).or_insert_with(|| "an intermediate".to_owned());
        serials.insert(record.serial.clone(), format!("{} ({})", record.id, record.instance));
    }
    serials.insert(inner.core.issuing.signer.facts.serial.clone(), "the issuing intermediate".to_owned());
    serials
}

fn revoked(revoked: &Revoked) -> BTreeMap<Vec<u8>, String> {
    revoked.serials.iter().map(|revoked| (revoked.serial.clone(), "revoked".to_owned())).collect()
}
