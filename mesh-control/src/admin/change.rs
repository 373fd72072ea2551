//! Changing resources: apply, delete, roll back. All of a call or nothing of it.
//!
//! The way is the same for all three: read, compare with what is there, check the whole, and only then write and publish.
//! A dry run goes the same way up to the writing.

use super::access::{Actor, is_owners_alone};
use super::documents::{self, Read};
use super::receipts::{Issued, affected};
use super::{Control, Home, ms, store_status};
use crate::clock;
use crate::index::{Parts, World};
use crate::local::registry::WorkloadKey;
use crate::store::write::{ResourceChange, Verb, Write};
use mesh_proto::identity::TrustDomain;
use mesh_proto::name::{Namespace, ObjectName};
use mesh_proto::resource::document::DOCUMENTS_MAX;
use mesh_proto::resource::problem::Code;
use mesh_proto::resource::role::AdminAction;
use mesh_proto::resource::{Catalog, Kind, Problem, Resource, ResourceKey, Severity, SourceDocument};
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tonic::Status;

/// The shortest difference is looked for so long; then a longer one is shown. Two unlike texts of a mebibyte take minutes.
const DIFF_TIME_MAX: Duration = Duration::from_millis(50);

/// Whether a change takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Run {
    /// It does.
    Real,
    /// Everything is checked and shown, nothing written.
    Dry,
}

impl From<bool> for Run {
    /// The wire's `dry_run`.
    fn from(dry_run: bool) -> Self {
        if dry_run { Self::Dry } else { Self::Real }
    }
}

impl Run {
    /// What the caller must be allowed to do.
    pub(super) fn action(self) -> AdminAction {
        match self {
            Self::Real => AdminAction::Author,
            Self::Dry => AdminAction::View,
        }
    }
}

/// What shall become of one object.
struct Intent {
    document: SourceDocument,
    /// `None` deletes it.
    resource: Option<Resource>,
}

impl Intent {
    fn write(&self, key: &ResourceKey) -> ResourceChange {
        ResourceChange {
            key: key.clone(),
            file: self.document.file.clone(),
            line: self.document.line,
            yaml: self.resource.as_ref().map(|_| self.document.yaml.clone()),
        }
    }
}

/// A change that may be made.
struct Judged {
    response: v1::ApplyResponse,
    writes: Vec<ResourceChange>,
    catalog: Arc<Catalog>,
    affected: BTreeSet<WorkloadKey>,
}

/// A change as a whole.
struct Plan {
    verb: Verb,
    intents: BTreeMap<ResourceKey, Intent>,
    detail: String,
}

impl Control {
    /// Applies documents.
    pub(super) async fn apply(
        self: &Arc<Self>,
        actor: &Actor,
        request: v1::ApplyRequest,
    ) -> Result<v1::ApplyResponse, Status> {
        let v1::ApplyRequest { documents, dry_run } = request;
        if documents.is_empty() {
            return Err(Status::invalid_argument("there is no document in what was applied; check the file"));
        }
        let count = documents.len();
        let file = documents.first().map(|document| document.file.clone()).unwrap_or_default();
        let read = self.aside(move |_| documents::read(documents)).await?;
        let intent = |Read { document, resource }| Intent { document, resource: Some(resource) };
        let plan = Plan {
            verb: Verb::Apply,
            intents: read.into_iter().map(|(key, read)| (key, intent(read))).collect(),
            detail: format!("{count} documents from {}", shown_file(&file)),
        };
        self.carry_out(actor, plan, Run::from(dry_run)).await
    }

    /// Deletes objects; each must exist.
    pub(super) async fn delete(
        self: &Arc<Self>,
        actor: &Actor,
        request: v1::DeleteRequest,
    ) -> Result<v1::ApplyResponse, Status> {
        let v1::DeleteRequest { objects, dry_run } = request;
        if objects.is_empty() {
            return Err(Status::invalid_argument(
                "nothing to delete was named; write for instance accesspolicy/shop/web",
            ));
        }
        if objects.len() > DOCUMENTS_MAX {
            return Err(Status::invalid_argument("too many objects at once; delete them in several parts"));
        }
        let catalog = self.mesh.world().catalog.clone();
        let mut intents = BTreeMap::new();
        for object in objects {
            let key = key(&object)?;
            if catalog.get(&key).is_none() && self.store.read().resource(&key).is_none() {
                return Err(Status::not_found(format!(
                    "there is no {key}; see what there is with `meshctl get {}`",
                    key.kind.as_str().to_ascii_lowercase()
                )));
            }
            let document = SourceDocument { file: String::new(), line: 0, yaml: String::new() };
            intents.insert(key, Intent { document, resource: None });
        }
        let plan = Plan { verb: Verb::Delete, detail: format!("{} objects", intents.len()), intents };
        self.carry_out(actor, plan, Run::from(dry_run)).await
    }

    /// Brings the resources of a past revision back, as a new revision.
    pub(super) async fn rollback(
        self: &Arc<Self>,
        actor: &Actor,
        request: v1::RollbackRequest,
    ) -> Result<v1::ApplyResponse, Status> {
        let v1::RollbackRequest { revision, dry_run } = request;
        let intents = self.aside(move |control| control.intents_back_to(revision)).await?;
        let plan = Plan { verb: Verb::Rollback, intents, detail: format!("to revision {revision}") };
        self.carry_out(actor, plan, Run::from(dry_run)).await
    }

    /// What must become of each object to bring a past revision back.
    fn intents_back_to(&self, revision: u64) -> Result<BTreeMap<ResourceKey, Intent>, Status> {
        let changes = self.store.read().changes_back_to(revision).map_err(|error| store_status(&error))?;
        let mut intents = BTreeMap::new();
        let mut problems = Vec::new();
        let mut sources = Vec::new();
        for ResourceChange { key, file, line, yaml } in changes {
            let document = SourceDocument { file, line, yaml: yaml.clone().unwrap_or_default() };
            let resource = match yaml {
                None => None,
                Some(_) => match mesh_proto::resource::parse(&document) {
                    Ok(resource) => Some(resource),
                    Err(found) => {
                        problems.extend(found);
                        sources.push(document);
                        continue;
                    }
                },
            };
            intents.insert(key, Intent { document, resource });
        }
        if !problems.is_empty() {
            return Err(documents::refusal(&problems, &sources));
        }
        Ok(intents)
    }

    async fn carry_out(
        self: &Arc<Self>,
        actor: &Actor,
        plan: Plan,
        run: Run,
    ) -> Result<v1::ApplyResponse, Status> {
        actor.require(&self.mesh.world().catalog, run.action())?;
        if let (Run::Real, Home::Cluster) = (run, self.home) {
            return Err(elsewhere(plan.verb));
        }
        let turn = self.changing.clone().lock_owned().await;
        let (actor, now) = (actor.clone(), clock::wall());
        // A caller who goes away drops this future, but not what is done aside: what is written is published, too.
        self.aside(move |control| {
            let Plan { verb, intents, detail } = plan;
            let Judged { mut response, writes, catalog, affected } =
                control.judge(&actor, intents, run, now)?;
            if writes.is_empty() || run == Run::Dry {
                return Ok(response);
            }
            let objects = writes.len();
            let write = Write { actor: actor.to_string(), verb, time_ms: ms(now), changes: writes, detail };
            let committed = tokio::runtime::Handle::current().block_on(control.commit(write))?;
            let affected = Some(Arc::new(affected));
            let at = clock::monotonic();
            control.receipts.add(Issued { revision: committed.revision, trust_generation: 0, affected, at });
            control.mesh.set_catalog(committed.revision, catalog);
            tracing::info!(%actor, %verb, revision = committed.revision, objects, "resources changed");
            response.revision = committed.revision;
            drop(turn);
            Ok(response)
        })
        .await
    }

    /// Compares with what is there, checks the whole, and finds out whom it concerns.
    fn judge(
        &self,
        actor: &Actor,
        intents: BTreeMap<ResourceKey, Intent>,
        run: Run,
        now: SystemTime,
    ) -> Result<Judged, Status> {
        let world = self.mesh.world();
        let mut changes = Vec::new();
        let mut writes = Vec::new();
        for (key, intent) in &intents {
            let (change, is_needed) = self.compare(&world.catalog, key, intent);
            changes.push(change);
            if is_needed {
                check_owner(actor, &world.catalog, key, intent, run)?;
                writes.push(intent.write(key));
            }
        }
        let sources: Vec<SourceDocument> = intents.values().map(|intent| intent.document.clone()).collect();
        let keys: Vec<ResourceKey> = intents.keys().cloned().collect();
        let catalog =
            world.catalog.with_changes(intents.into_iter().map(|(key, intent)| (key, intent.resource)));
        let mut problems = catalog.check(&keys, &world.targets(), clock::unix_s(now));
        problems.extend(other_domain(&catalog, self.authority.trust_domain()));
        if problems.iter().any(Problem::is_error) {
            problems.retain(Problem::is_error);
            return Err(documents::refusal(&problems, &sources));
        }
        let catalog = Arc::new(catalog);
        let affected = if writes.is_empty() {
            BTreeSet::new()
        } else {
            affected(&world, &self.hypothetical(&world, catalog.clone()), &self.mesh.fleet)
        };
        let affected_proxies = u32::try_from(affected.len()).unwrap_or(u32::MAX);
        let findings = documents::findings(&problems);
        let response = v1::ApplyResponse { revision: 0, changes, findings, affected_proxies };
        Ok(Judged { response, writes, catalog, affected })
    }

    /// The world as it would be with other resources.
    pub(crate) fn hypothetical(&self, world: &World, catalog: Arc<Catalog>) -> World {
        let workloads = world.members.iter().map(|(key, member)| (key.clone(), member.registered.clone()));
        let parts = Parts {
            trust_domain: world.trust_domain.clone(),
            revision: world.revision,
            catalog,
            workloads: workloads.collect(),
            trust: world.trust.clone(),
            trust_generation: world.trust_generation,
            platform: world.platform.clone(),
        };
        World::build(parts, Some(world))
    }

    /// What an intent changes for people, and whether it must be written. A document whose comments or lines alone differ is
    /// written, so that explanations name the right line, although the object stays the same.
    fn compare(&self, catalog: &Catalog, key: &ResourceKey, intent: &Intent) -> (v1::Change, bool) {
        let old = catalog.get(key).map(|resource| resource.to_yaml());
        let new = intent.resource.as_ref().map(Resource::to_yaml);
        let stored = self.store.read().resource(key).cloned();
        let is_same_text = stored.as_ref().is_some_and(|stored| {
            let SourceDocument { file, line, yaml } = &intent.document;
            (&stored.file, stored.line, &stored.yaml) == (file, *line, yaml)
        });
        let (verb, is_needed) = match (&old, &new) {
            (_, None) => ("deleted", stored.is_some()),
            (None, Some(_)) => ("created", true),
            (Some(old), Some(new)) if old != new => ("configured", true),
            (Some(_), Some(_)) => ("unchanged", !is_same_text),
        };
        let diff = unified(old.as_deref().unwrap_or_default(), new.as_deref().unwrap_or_default());
        (change(key, verb, diff), is_needed)
    }
}

/// A mesh's trust domain is in every certificate; it cannot be changed by applying a document.
pub(crate) fn other_domain(catalog: &Catalog, own: &TrustDomain) -> Option<Problem> {
    let config = catalog.mesh_config();
    let asked = config.trust_domain.filter(|asked| asked != own)?;
    Some(Problem {
        severity: Severity::Error,
        code: Code::Conflict,
        file: config.meta.origin.file.clone(),
        line: config.meta.origin.line,
        field: "spec.trustDomain".to_owned(),
        value: Some(asked.to_string()),
        message: format!(
            "the trust domain is {own} and cannot be changed while the mesh exists; leave the field out, or start a new \
             mesh with `meshctl up --trust-domain {asked}` in another --state-dir"
        ),
    })
}

/// In a cluster its API server has the resources; what was changed here alone would be undone in a moment.
fn elsewhere(verb: Verb) -> Status {
    let command = match verb {
        Verb::Delete => "kubectl delete accesspolicies.meshctl.io NAME -n NAMESPACE",
        Verb::Rollback => {
            "meshctl version   # and take the meshctl of this release, whose rollback writes into the cluster"
        }
        _ => "kubectl apply -f FILE",
    };
    Status::failed_precondition(format!(
        "this mesh's resources live in the cluster, and nothing was changed; type: {command}"
    ))
}

fn check_owner(
    actor: &Actor,
    catalog: &Catalog,
    key: &ResourceKey,
    intent: &Intent,
    run: Run,
) -> Result<(), Status> {
    if run == Run::Dry {
        return Ok(());
    }
    let old = catalog.get(key).and_then(|resource| is_owners_alone(resource));
    let new = intent.resource.as_ref().and_then(is_owners_alone);
    match old.or(new) {
        Some(what) => actor.require_owner(&format!("{what} ({key})")),
        None => Ok(()),
    }
}

/// One line of a list of changes.
pub(super) fn change(key: &ResourceKey, verb: &str, diff: String) -> v1::Change {
    v1::Change {
        kind: key.kind.as_str().to_owned(),
        namespace: key.namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
        name: key.name.to_string(),
        verb: verb.to_owned(),
        diff,
    }
}

/// The difference of two texts, as `diff -u` shows it, without the file names.
pub(super) fn unified(old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let mut diff = similar::TextDiff::configure();
    diff.timeout(DIFF_TIME_MAX);
    diff.diff_lines(old, new).unified_diff().context_radius(3).to_string()
}

/// The key of an object as the wire names it.
pub(super) fn key(object: &v1::ObjectRef) -> Result<ResourceKey, Status> {
    let v1::ObjectRef { kind, namespace, name } = object;
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let shown: String = kind.chars().take(80).collect();
    let known = || Kind::ALL.map(Kind::as_str).join(", ");
    let kind = Kind::from_word(kind)
        .ok_or_else(|| invalid(&format_args!("unknown kind {shown:?}; there are {}", known())))?;
    let namespace: Option<Namespace> = match namespace.as_str() {
        "" => None,
        namespace => Some(namespace.parse().map_err(|error| invalid(&error))?),
    };
    let name: ObjectName = name.parse().map_err(|error| invalid(&error))?;
    Ok(ResourceKey { kind, namespace, name })
}

fn shown_file(file: &str) -> String {
    if file.is_empty() {
        "standard input".to_owned()
    } else {
        file.chars().filter(|c| !c.is_control()).take(300).collect()
    }
}
