//! The webhook's own authority: kept in a Secret that all replicas share, told to the API server, renewed by itself.
//!
//! The Secret holds one authority and, after a change, the certificate of the one before. Each replica makes its own leaf from
//! it, in memory. The API server believes both certificates, since both are in the configurations' `caBundle`; a replica
//! signs with a new authority only after it has seen the bundle there for a while. So no order among replicas matters.
//!
//! # Why
//! An authority of a year for leaves of a month, instead of one certificate: when replicas, configurations and caches change
//! at different moments, only the authority must be known everywhere, and it changes once in eight months.

use crate::clock;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, ObjectMeta, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use mesh_ca::authority::serving::{self, ServingAuthority};
use mesh_proto::name::Namespace;
use rustls::ServerConfig;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The Secret.
const SECRET: &str = "mesh-webhook";
/// Both webhook configurations, made at the installation.
const CONFIGURATION: &str = "meshctl";
const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const PREVIOUS: &str = "previous.crt";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(365);
const LEAF_LIFE: Duration = DAY.saturating_mul(30);
/// How long a new authority is in the configurations before anything signed by it is shown: every API server has read it by
/// then (they watch; it takes less than a second).
const SPREAD: Duration = Duration::from_secs(30);
/// Between two looks at the configurations: an upgrade may have made one anew.
const PAUSE: Duration = Duration::from_secs(10);
/// While something is missing.
const SOON: Duration = Duration::from_secs(1);
/// After another replica has changed the same object in the same moment: what that one wrote is there to be read.
const AT_ONCE: Duration = Duration::from_millis(50);
/// The API server answers at once or is not there.
const DEADLINE: Duration = Duration::from_secs(10);

/// What the Secret holds.
struct Kept {
    authority: ServingAuthority,
    /// PEM, as long as somebody may still show something signed by it.
    previous: Option<String>,
}

impl Kept {
    fn make(previous: Option<String>, now: SystemTime) -> Result<Self, String> {
        let authority = ServingAuthority::make("meshctl webhook", now, AUTHORITY_LIFE);
        Ok(Self { authority: authority.map_err(|error| error.to_string())?, previous })
    }

    fn read(secret: &Secret) -> Result<Self, String> {
        let field =
            |name: &str| secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice());
        let authority = ServingAuthority::from_pem(
            field(CERTIFICATE).unwrap_or_default(),
            field(KEY).unwrap_or_default(),
        )?;
        let previous = field(PREVIOUS).filter(|pem| serving::ends(pem).is_some());
        Ok(Self { authority, previous: previous.map(|pem| String::from_utf8_lossy(pem).into_owned()) })
    }

    fn data(&self) -> BTreeMap<String, ByteString> {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let mut data = BTreeMap::new();
        data.insert(CERTIFICATE.to_owned(), bytes(&self.authority.certificate_pem()));
        data.insert(KEY.to_owned(), bytes(&self.authority.key_pem()));
        if let Some(previous) = &self.previous {
            data.insert(PREVIOUS.to_owned(), bytes(previous));
        }
        data
    }

    /// What the API server believes by.
    fn bundle(&self, now: SystemTime) -> String {
        let lives = |pem: &&String| serving::ends(pem.as_bytes()).is_some_and(|end| end > now);
        let previous = self.previous.as_ref().filter(lives).map_or("", String::as_str);
        format!("{}{previous}", self.authority.certificate_pem())
    }

    /// Whether two thirds of its life are over, or its clock is not ours.
    fn is_due(&self, now: SystemTime) -> bool {
        let (from, to) = self.authority.validity();
        let life = to.duration_since(from).unwrap_or_default();
        let age = now.duration_since(from);
        age.is_err() || age.is_ok_and(|age| age >= life / 3 * 2)
    }
}

/// What is shown to the API server at present.
struct Shown {
    authority_pem: String,
    made: SystemTime,
    ends: SystemTime,
}

impl Shown {
    fn is_due(&self, now: SystemTime) -> bool {
        let life = self.ends.duration_since(self.made).unwrap_or_default();
        now.duration_since(self.made).map_or(true, |age| age >= life / 3)
    }
}

/// Keeps the authority, the configurations and the leaf.
pub(super) struct Keeper {
    pub(super) client: kube::Client,
    pub(super) namespace: Namespace,
    pub(super) serving: watch::Sender<Option<Arc<ServerConfig>>>,
    /// Becomes true when a certificate is shown and the API server has been told how to know it.
    pub(super) is_kept: watch::Sender<bool>,
}

/// Why a round did not come to its end.
enum Trouble {
    /// Another replica was faster.
    Race,
    /// What the API server said.
    Other(String),
}

impl Trouble {
    fn of(what: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 409 => Self::Race,
            error => Self::Other(format!("{what}: {error}")),
        }
    }
}

impl From<String> for Trouble {
    fn from(problem: String) -> Self {
        Self::Other(problem)
    }
}

/// Whether the API server knows the bundle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// For so long.
    Since(SystemTime),
    /// A configuration does not exist yet.
    NotYet,
}

impl Keeper {
    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut shown: Option<Shown> = None;
        let mut told = BTreeMap::new();
        loop {
            let round = tokio::time::timeout(DEADLINE.saturating_mul(3), self.round(&mut shown, &mut told));
            let pause = match round.await {
                Ok(Ok(pause)) => {
                    self.is_kept.send_replace(true);
                    pause
                }
                Ok(Err(Trouble::Race)) => AT_ONCE,
                Ok(Err(Trouble::Other(problem))) => {
                    tracing::warn!(
                        problem,
                        "the webhook's certificate is not kept at the moment; pods of the mesh may not start"
                    );
                    PAUSE / 2
                }
                Err(_) => {
                    tracing::warn!("the API server does not answer; the webhook keeps its certificate");
                    PAUSE
                }
            };
            // Cancel safe: a token stays cancelled, a timer holds nothing.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn round(
        &self,
        shown: &mut Option<Shown>,
        told: &mut BTreeMap<String, SystemTime>,
    ) -> Result<Duration, Trouble> {
        let now = clock::wall();
        let kept = self.kept(shown.as_ref(), now).await?;
        let bundle = kept.bundle(now);
        // With something to serve there is an answer even before anybody can ask.
        if shown.is_none() {
            *shown = Some(self.show(&kept, now)?);
        }
        let since = match self.tell(&bundle, now).await? {
            Told::Since(now) => *told.entry(bundle.clone()).or_insert(now),
            Told::NotYet => return Ok(SOON),
        };
        told.retain(|known, _| *known == bundle);
        let pem = kept.authority.certificate_pem();
        let is_known = now.duration_since(since).is_ok_and(|age| age >= SPREAD);
        let must = shown.as_ref().is_none_or(|shown| {
            (shown.authority_pem != pem && is_known) || (shown.authority_pem == pem && shown.is_due(now))
        });
        if must {
            *shown = Some(self.show(&kept, now)?);
        }
        Ok(PAUSE)
    }

    /// Shows a new leaf.
    fn show(&self, kept: &Kept, now: SystemTime) -> Result<Shown, String> {
        let names = [
            format!("mesh-control.{}.svc", self.namespace),
            format!("mesh-control.{}.svc.cluster.local", self.namespace),
        ];
        let made = kept.authority.server_config(&names, now, LEAF_LIFE);
        let (config, ends) = made.map_err(|error| error.to_string())?;
        self.serving.send_replace(Some(config));
        tracing::info!("the webhook has a new certificate");
        Ok(Shown { authority_pem: kept.authority.certificate_pem(), made: now, ends })
    }

    /// The authority that all replicas share: read, or made by the first, or followed by a new one when its time comes.
    ///
    /// Where the Secret is gone or damaged, what is shown at present stays believed until its successor is known.
    async fn kept(&self, shown: Option<&Shown>, now: SystemTime) -> Result<Kept, Trouble> {
        let at_present = || shown.map(|shown| shown.authority_pem.clone());
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), self.namespace.as_str());
        let by = PostParams { field_manager: Some("mesh-control".to_owned()), ..PostParams::default() };
        let what = format!("the secret {}/{SECRET}", self.namespace);
        let failed = |error: kube::Error| Trouble::of(&what, &error);
        let Some(mut secret) = secrets.get_opt(SECRET).await.map_err(failed)? else {
            let kept = Kept::make(at_present(), now)?;
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(SECRET.to_owned()),
                    labels: Some(labels()),
                    ..ObjectMeta::default()
                },
                data: Some(kept.data()),
                ..Secret::default()
            };
            // Another replica may have been faster: then this fails, and the next round reads what that one made.
            secrets.create(&by, &secret).await.map_err(failed)?;
            tracing::info!("made the webhook's authority");
            return Ok(kept);
        };
        let previous = match Kept::read(&secret) {
            Ok(kept) if !kept.is_due(now) => return Ok(kept),
            Ok(kept) => Some(kept.authority.certificate_pem()),
            Err(problem) => {
                tracing::warn!(problem, "the webhook's authority cannot be read and is made anew");
                at_present()
            }
        };
        let kept = Kept::make(previous, now)?;
        secret.data = Some(kept.data());
        // The resource version that was read goes along: of two replicas one succeeds.
        secrets.replace(SECRET, &by, &secret).await.map_err(failed)?;
        tracing::info!("the webhook's authority is followed by a new one");
        Ok(kept)
    }

    /// Puts the bundle into both configurations.
    async fn tell(&self, bundle: &str, now: SystemTime) -> Result<Told, Trouble> {
        let mut told = Told::Since(now);
        for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
            let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::from_gvk(&gvk));
            let what = format!("the {kind} {CONFIGURATION}");
            let failed = |error: kube::Error| Trouble::of(&what, &error);
            let Some(mut object) = api.get_opt(CONFIGURATION).await.map_err(failed)? else {
                told = Told::NotYet;
                continue;
            };
            if edit(&mut object.data, bundle) {
                let by =
                    PostParams { field_manager: Some("mesh-control".to_owned()), ..PostParams::default() };
                api.replace(CONFIGURATION, &by, &object).await.map_err(failed)?;
                tracing::info!(kind, "the API server is told how to know the webhook");
            }
        }
        Ok(told)
    }
}

/// Writes the bundle into a configuration; says whether anything was to be changed.
fn edit(configuration: &mut Value, bundle: &str) -> bool {
    let wanted = serde_json::to_value(ByteString(bundle.as_bytes().to_vec())).unwrap_or_default();
    let mut is_changed = false;
    let webhooks = configuration.get_mut("webhooks").and_then(Value::as_array_mut);
    for webhook in webhooks.into_iter().flatten() {
        let Some(client) = webhook.get_mut("clientConfig").and_then(Value::as_object_mut) else { continue };
        if client.get("caBundle") != Some(&wanted) {
            client.insert("caBundle".to_owned(), wanted.clone());
            is_changed = true;
        }
    }
    is_changed
}

fn labels() -> BTreeMap<String, String> {
    let label = |(key, value): (&str, &str)| (format!("app.kubernetes.io/{key}"), value.to_owned());
    [("name", "meshctl"), ("part-of", "meshctl"), ("managed-by", "mesh-control")].map(label).into()
}

#[cfg(test)]
mod tests;
