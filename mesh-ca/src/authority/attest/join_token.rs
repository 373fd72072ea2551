//! One-time join tokens: evidence for a machine that the control plane has no other way to know.
//!
//! Made by [`Authority::create_join_token`] for one identity, shown once, kept only as a hash, good for some minutes and for one
//! key: the first request that shows it binds it to its public key and its instance, so that a lost answer can be asked for
//! again by the same key, and by nobody else. It becomes void when a certificate of that instance is revoked.

use super::{AttestError, Attested, is_reserved};
use crate::authority::audit::Event;
use crate::authority::pace::Bucket;
use crate::authority::state::Core;
use crate::authority::{Authority, AuthorityError};
use crate::x509::{hex, sha256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use std::time::{Duration, SystemTime};
use subtle::ConstantTimeEq;

/// Beginning of every token, so that leaked ones can be searched for.
const PREFIX: &str = "mesh-join-";
/// 256 random bits: guessing is hopeless even without a limit.
const SECRET_BYTES: usize = 32;
/// The longest life of a token.
pub const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Tokens outstanding at once.
const TOKENS_MAX: usize = 1000;
/// Wrong tokens that are answered at once, and one more after each interval.
const GUESSES: u32 = 20;
const GUESS_INTERVAL: Duration = Duration::from_secs(3);

/// A token as it is kept.
#[derive(Clone, Debug)]
pub(in crate::authority) struct Token {
    /// SHA-256 of its text. It needs no salt: the text is random.
    pub(in crate::authority) hash: [u8; 32],
    pub(in crate::authority) id: SpiffeId,
    pub(in crate::authority) until: SystemTime,
    /// SHA-256 of the public key it is bound to, once it was used.
    pub(in crate::authority) holder: Option<[u8; 32]>,
    /// The instance that has used it; `None` also for one used before this was kept.
    pub(in crate::authority) instance: Option<InstanceName>,
}

/// Who shows a token.
#[derive(Debug, Clone, Copy)]
pub struct Bearer<'a> {
    /// SHA-256 of the public key that is to be certified.
    pub key_sha256: [u8; 32],
    /// The instance it is for.
    pub instance: &'a InstanceName,
}

/// The pace of wrong guesses, of everybody together.
#[derive(Debug)]
pub(in crate::authority) struct Guesses(Bucket);

impl Default for Guesses {
    fn default() -> Self {
        Self(Bucket::FULL)
    }
}

impl Core {
    /// Drops tokens whose time is over. Says whether there were any.
    pub(in crate::authority) fn prune_tokens(&mut self, now: SystemTime) -> bool {
        let before = self.tokens.len();
        self.tokens.retain(|token| token.until >= now);
        self.tokens.len() != before
    }

    /// The token with this hash, if the bearer may use it.
    fn token(&mut self, hash: &[u8; 32], bearer: &Bearer<'_>, now: SystemTime) -> Option<&mut Token> {
        // Every token is compared, and in constant time, so that time tells nothing of how near a guess was.
        let mut found = None;
        for (at, token) in self.tokens.iter().enumerate() {
            if bool::from(token.hash.ct_eq(hash)) {
                found = Some(at);
            }
        }
        let fits = |token: &&mut Token| {
            token.until >= now
                && token.holder.is_none_or(|holder| bool::from(holder.ct_eq(&bearer.key_sha256)))
                && token.instance.as_ref().is_none_or(|user| user == bearer.instance)
        };
        self.tokens.get_mut(found?).filter(fits)
    }

    /// Drops the tokens that an instance has used. Says how many.
    pub(in crate::authority) fn void_tokens(&mut self, id: &SpiffeId, instance: &InstanceName) -> usize {
        let before = self.tokens.len();
        let is_its = |token: &Token| {
            token.id == *id
                && token.holder.is_some()
                && token.instance.as_ref().is_none_or(|user| user == instance)
        };
        self.tokens.retain(|token| !is_its(token));
        before.saturating_sub(self.tokens.len())
    }
}

impl Authority {
    /// Makes a token for one workload of `id`. The text is returned once and cannot be shown again.
    ///
    /// # Errors
    /// The identity is not one of this mesh's workloads, it is revoked, too many tokens are outstanding, or the state
    /// could not be saved.
    pub fn create_join_token(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        let refuse = |problem: String| Err(AuthorityError::Unacceptable(problem));
        if id.trust_domain_str() != self.trust_domain().as_str() || is_reserved(id) {
            return refuse(format!("{id} is not a workload of this mesh"));
        }
        let turn = self.turn();
        let mut core = self.lock().core.clone();
        if core.revoked.has_identity(id) {
            return refuse(format!("{id} is revoked; undo it with: meshctl ca revoke {id} --undo"));
        }
        core.prune_tokens(now);
        if core.tokens.len() >= TOKENS_MAX {
            return refuse(format!("{TOKENS_MAX} join tokens are outstanding; wait until some have expired"));
        }
        let mut secret = zeroize::Zeroizing::new([0; SECRET_BYTES]);
        aws_lc_rs::rand::fill(secret.as_mut()).map_err(|_| AuthorityError::Make {
            what: "a join token",
            problem: "no random bytes".to_owned(),
        })?;
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret.as_ref()));
        let hash = sha256(text.as_bytes());
        let until = now.checked_add(lifetime.min(TOKEN_LIFETIME_MAX)).unwrap_or(now);
        core.tokens.push(Token { hash, id: id.clone(), until, holder: None, instance: None });
        self.commit(&turn, core, now)?;
        self.note(now, Event::TokenCreated { id: id.clone(), name: name(&hash) });
        Ok(text)
    }

    /// Takes a token for a key and an instance. Saved as used before this returns.
    ///
    /// # Errors
    /// Unknown, expired, void or used by another key or instance (not told apart); too many wrong ones lately; not saved.
    pub fn redeem_join_token(
        &self,
        text: &str,
        bearer: &Bearer<'_>,
        now: SystemTime,
    ) -> Result<Attested, AttestError> {
        let hash = sha256(text.as_bytes());
        let is_bound = {
            let mut inner = self.lock();
            match inner.core.token(&hash, bearer, now) {
                Some(token) => token.holder.is_some(),
                None => {
                    return Err(match inner.guesses.0.take(GUESS_INTERVAL, GUESSES, now) {
                        Ok(()) => AttestError::Token,
                        Err(_) => AttestError::TooManyGuesses,
                    });
                }
            }
        };
        // Only who has a token gets a turn, and only the first time: guesses never wait for the store.
        let turn = if is_bound { None } else { Some(self.turn()) };
        let mut core = self.lock().core.clone();
        let token = core.token(&hash, bearer, now).ok_or(AttestError::Token)?;
        let attested = Attested { id: token.id.clone(), attestor: format!("join_token {}", name(&hash)) };
        if let (None, Some(turn)) = (token.holder, turn) {
            token.holder = Some(bearer.key_sha256);
            token.instance = Some(bearer.instance.clone());
            self.commit(&turn, core, now)?;
        }
        Ok(attested)
    }
}

/// What a token is called in logs: the beginning of its hash.
fn name(hash: &[u8; 32]) -> String {
    hex(hash.get(..4).unwrap_or_default())
}
