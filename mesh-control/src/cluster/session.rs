//! Who calls the admin API of a cluster's control plane: users of the cluster, for whom the API server has vouched.
//!
//! The admin port is on the pod's loopback alone, where a port-forward ends; that says nothing of who is at its other end.
//! So `meshctl` makes an `AdminSession` object under the user's own credentials: the user's name and groups, which the API
//! server compares with those of the very request (a validating admission policy), and the digest of a random secret. With
//! each call it presents the object's name and the secret; whoever knows the secret is that user, for ten minutes.
//!
//! What the user may do is asked of the cluster (SubjectAccessReview), so that its own roles decide:
//!
//! | action | right, group `meshctl.io` |
//! |---|---|
//! | look | `get` `status` |
//! | take backups | `create` `operations` |
//! | rotate and revoke | `update` `certificates` |
//!
//! Resources are not changed here: they are the cluster's objects, under the cluster's rights.

use super::Cluster;
use crate::clock;
use futures_util::future::{BoxFuture, join_all};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use mesh_proto::resource::role::AdminAction;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// How long a session is good for: a person's look at the mesh, not a day.
const SESSION_LIFETIME: Duration = Duration::from_secs(600);
/// How long an answer of the API server about a user is believed: a role that was taken away counts within that.
const BELIEF: Duration = Duration::from_secs(15);
/// Users who are remembered; with more, those longest unseen are asked for again.
const REMEMBERED_MAX: usize = 256;
/// Between two removals of sessions that are over.
const SWEEP: Duration = Duration::from_secs(300);
/// The API server answers within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest token: a name and 64 digits.
const TOKEN_BYTES_MAX: usize = 400;

/// A user of the cluster, and what the cluster lets it do to the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ClusterUser {
    /// As the API server calls it.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) may: BTreeSet<AdminAction>,
}

/// The sessions of the cluster's users. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sessions {
    client: kube::Client,
    known: Arc<Mutex<BTreeMap<String, (Instant, ClusterUser)>>>,
}

/// What an `AdminSession` says.
#[derive(serde::Deserialize)]
struct Claim {
    user: String,
    groups: Vec<String>,
    digest: String,
}

impl Sessions {
    /// The sessions of a control plane that has just started.
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self { client: cluster.client.clone(), known: Arc::default() }
    }

    /// A service whose calls know their user: [`ClusterUser`] is in their extensions.
    pub(crate) fn guard<S>(&self, inner: S) -> Guarded<S> {
        Guarded { sessions: self.clone(), inner }
    }

    /// Removes sessions that are over, for ever.
    pub(crate) async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            if let Err(error) = self.remove_ended(clock::wall()).await {
                tracing::info!(%error, "sessions that are over could not be removed; tried again later");
            }
        }
    }

    async fn remove_ended(&self, now: SystemTime) -> Result<(), kube::Error> {
        let api = self.api();
        for session in api.list(&ListParams::default()).await? {
            if let (Some(name), true) =
                (&session.metadata.name, age(&session, now).is_none_or(|age| age > SESSION_LIFETIME))
            {
                api.delete(name, &DeleteParams::default()).await?;
            }
        }
        Ok(())
    }

    /// Who holds a token.
    async fn user(&self, token: &str) -> Result<ClusterUser, Status> {
        let now = clock::monotonic();
        if let Some(user) = self.remembered(token, now) {
            return Ok(user);
        }
        let (name, secret) = parts(token).ok_or_else(|| refused("the token has no known form"))?;
        let found = in_time(self.api().get_opt(name)).await?;
        let claim = found.as_ref().and_then(|session| claim(session, secret, clock::wall()));
        let claim = claim.ok_or_else(|| refused("the session is unknown or over"))?;
        let user = self.judge(claim).await?;
        self.remember(token, now, &user);
        Ok(user)
    }

    fn remembered(&self, token: &str, now: Instant) -> Option<ClusterUser> {
        let known = self.known.lock().ok()?;
        let (asked, user) = known.get(token)?;
        (now.saturating_duration_since(*asked) < BELIEF).then(|| user.clone())
    }

    fn remember(&self, token: &str, now: Instant, user: &ClusterUser) {
        let Ok(mut known) = self.known.lock() else { return };
        known.retain(|_, (asked, _)| now.saturating_duration_since(*asked) < BELIEF);
        if known.len() < REMEMBERED_MAX {
            known.insert(token.to_owned(), (now, user.clone()));
        }
    }

    /// Asks the cluster what a user may do.
    async fn judge(&self, claim: Claim) -> Result<ClusterUser, Status> {
        let asked = [
            (AdminAction::View, "get", "status"),
            (AdminAction::Operate, "create", "operations"),
            (AdminAction::Certify, "update", "certificates"),
        ];
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answers = asked.map(|(action, verb, resource)| {
            let (reviews, review) = (reviews.clone(), review(&claim, verb, resource));
            async move {
                let answer = in_time(reviews.create(&PostParams::default(), &review)).await?;
                Ok::<_, Status>(answer.status.is_some_and(|status| status.allowed).then_some(action))
            }
        });
        let may: Result<Vec<_>, Status> = join_all(answers).await.into_iter().collect();
        Ok(ClusterUser { name: claim.user, may: may?.into_iter().flatten().collect() })
    }

    fn api(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("meshctl.io", "v1alpha1", "AdminSession");
        Api::all_with(self.client.clone(), &ApiResource::from_gvk_with_plural(&kind, "adminsessions"))
    }
}

fn review(claim: &Claim, verb: &str, resource: &str) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(claim.user.clone()),
            groups: Some(claim.groups.clone()),
            resource_attributes: Some(ResourceAttributes {
                group: Some("meshctl.io".to_owned()),
                verb: Some(verb.to_owned()),
                resource: Some(resource.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Status> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Status::unavailable(format!("the API server cannot say who calls: {error}"))),
        Err(_) => Err(Status::unavailable("the API server does not say who calls; try again")),
    }
}

fn refused(why: &str) -> Status {
    Status::unauthenticated(format!("the control plane does not know who calls: {why}"))
}

/// The object's name and the secret, of `NAME.SECRET`.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (name, secret) = token.rsplit_once('.')?;
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = token.len() <= TOKEN_BYTES_MAX
        && !name.is_empty()
        && name.bytes().all(is_name)
        && secret.len() == 64
        && secret.bytes().all(|b| b.is_ascii_hexdigit());
    good.then_some((name, secret))
}

/// What a session says, if it is of this secret and not over.
fn claim(session: &DynamicObject, secret: &str, now: SystemTime) -> Option<Claim> {
    let claim: Claim = serde_json::from_value(session.data.get("spec")?.clone()).ok()?;
    let hex = mesh_ca::seal::digest_text(secret);
    let is_same =
        aws_lc_rs::constant_time::verify_slices_are_equal(hex.as_bytes(), claim.digest.as_bytes()).is_ok();
    let is_fresh = age(session, now).is_some_and(|age| age <= SESSION_LIFETIME);
    (is_same && is_fresh && !claim.user.is_empty()).then_some(claim)
}

/// How old an object is by the API server's clock; zero for one from our future.
fn age(session: &DynamicObject, now: SystemTime) -> Option<Duration> {
    let made = session.metadata.creation_timestamp.as_ref()?.0;
    let made = u64::try_from(made.as_second()).ok()?;
    Some(Duration::from_secs(clock::unix_s(now).saturating_sub(made)))
}

/// A service for users of the cluster alone.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    sessions: Sessions,
    inner: S,
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut call: http::Request<Body>) -> Self::Future {
        // The one that was polled ready takes the call; its clone waits for the next.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let sessions = self.sessions.clone();
        Box::pin(async move {
            let header = call.headers().get(http::header::AUTHORIZATION);
            let token =
                header.and_then(|value| value.to_str().ok()).and_then(|text| text.strip_prefix("Bearer "));
            let known = match token {
                Some(token) => sessions.user(token).await,
                None => Err(refused("the call bears no token")),
            };
            match known {
                Ok(user) => {
                    call.extensions_mut().insert(user);
                    inner.call(call).await
                }
                Err(refusal) => Ok(refusal.into_http()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    /// `printf %s SECRET | sha256sum`
    const DIGEST: &str = "2a8abfa8cb9906290437854193ca6bca41d4d4e26d1d454bd66a35158095e737";

    fn session(digest: &str, made: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "meshctl.io/v1alpha1", "kind": "AdminSession",
            "metadata": { "name": "s-1", "creationTimestamp": made },
            "spec": { "user": "alice", "groups": ["dev"], "digest": digest },
        }))
        .unwrap()
    }

    fn at(text: &str) -> SystemTime {
        let seconds = text.parse::<k8s_openapi::jiff::Timestamp>().unwrap().as_second();
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap())
    }

    #[test]
    fn a_session_is_its_secrets_and_for_ten_minutes() {
        let made = "2026-01-01T00:00:00Z";
        let good = session(DIGEST, made);
        assert_eq!(claim(&good, SECRET, at("2026-01-01T00:10:00Z")).unwrap().user, "alice");
        assert!(claim(&good, SECRET, at("2026-01-01T00:10:01Z")).is_none(), "it is over");
        assert!(claim(&good, &SECRET.replace("00", "01"), at(made)).is_none(), "another secret");
        assert!(claim(&session(SECRET, made), SECRET, at(made)).is_none(), "the digest is not the secret");
        let mut ageless = good;
        ageless.metadata.creation_timestamp = None;
        assert!(claim(&ageless, SECRET, at(made)).is_none());
    }

    #[test]
    fn tokens_have_one_form() {
        assert_eq!(parts(&format!("s-1.{SECRET}")), Some(("s-1", SECRET)));
        for bad in [
            "",
            ".",
            "s-1",
            "s-1.",
            &format!(".{SECRET}"),
            &format!("../x.{SECRET}"),
            &format!("s-1.{SECRET}0"),
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}
