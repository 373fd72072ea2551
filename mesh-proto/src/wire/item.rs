//! Snapshots as keyed items: each part is encoded once, shared among proxies, compared and sent by key.
//!
//! The control plane makes [`Item`]s, keeps [`Items`] for each proxy and sends the difference; the proxy applies it and
//! makes a [`Snapshot`] of the result. Both compute the same digest.
//!
//! # Why
//! Items are compared as bytes, so that "has it changed?" needs no knowledge of the part. Each is decoded when it
//! arrives and its part kept beside the bytes: a change of one item costs one decode, and the unchanged parts of two
//! snapshots are the same memory.

use super::{WireError, required, text, v1};
use crate::config::{
    AddressOwner, Bundle, Destination, MeshSettings, OwnWorkload, Revision, Revocations, Snapshot,
};
use crate::identity::TrustDomain;
use crate::limit::RateLimit;
use crate::name::ServiceRef;
use crate::policy::model::{Isolation, Policy, PolicyInputs, PolicyName};
use aws_lc_rs::digest;
use prost::Message as _;
use prost::bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// The most items of one snapshot: far above any workload's policies and destinations, far below what hurts.
pub const ITEMS_MAX: usize = 100_000;

/// Stands for the namespace of a mesh-wide object; no namespace may start with it.
const MESH_WIDE: &str = "-";

/// One part of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// Mesh-wide settings; always there.
    Mesh(Arc<MeshSettings>),
    /// Roots of a trust domain; the own one is always there.
    Bundle(Arc<Bundle>),
    /// What is no longer accepted.
    Revocations(Arc<Revocations>),
    /// The workload's segment.
    Isolation(Arc<Isolation>),
    /// A policy about the workload.
    Policy(Arc<Policy>),
    /// A limit about the workload.
    Limit(Arc<RateLimit>),
    /// A service that the workload calls.
    Destination(Arc<Destination>),
    /// The workload itself.
    Workload(Arc<OwnWorkload>),
    /// The owner of an address that the workload dials.
    Address(Arc<AddressOwner>),
}

impl Part {
    /// What names it within the snapshot.
    pub fn key(&self) -> ItemKey {
        match self {
            Self::Mesh(_) => ItemKey::Mesh,
            Self::Bundle(bundle) => ItemKey::Bundle(bundle.trust_domain.clone()),
            Self::Revocations(_) => ItemKey::Revocations,
            Self::Isolation(_) => ItemKey::Isolation,
            Self::Policy(policy) => ItemKey::Policy(policy.name.clone()),
            Self::Limit(limit) => ItemKey::Limit(limit.name.clone()),
            Self::Destination(destination) => ItemKey::Destination(destination.service.clone()),
            Self::Workload(_) => ItemKey::Workload,
            Self::Address(owner) => ItemKey::Address(owner.address),
        }
    }

    fn to_message(&self) -> v1::ItemBody {
        use v1::item_body::Kind;
        let kind = match self {
            Self::Mesh(mesh) => Kind::Mesh((&**mesh).into()),
            Self::Bundle(bundle) => Kind::Bundle((&**bundle).into()),
            Self::Revocations(revocations) => Kind::Revocations((&**revocations).into()),
            Self::Isolation(isolation) => Kind::Isolation((&**isolation).into()),
            Self::Policy(policy) => Kind::Policy((&**policy).into()),
            Self::Limit(limit) => Kind::Limit((&**limit).into()),
            Self::Destination(destination) => Kind::Destination((&**destination).into()),
            Self::Workload(workload) => Kind::Workload((&**workload).into()),
            Self::Address(owner) => Kind::Address((&**owner).into()),
        };
        v1::ItemBody { kind: Some(kind) }
    }

    fn from_message(message: v1::ItemBody) -> Result<Self, WireError> {
        use v1::item_body::Kind;
        let v1::ItemBody { kind } = message;
        Ok(match required("kind", kind)? {
            Kind::Mesh(mesh) => Self::Mesh(Arc::new(mesh.try_into()?)),
            Kind::Bundle(bundle) => Self::Bundle(Arc::new(bundle.try_into()?)),
            Kind::Revocations(revocations) => Self::Revocations(Arc::new(revocations.try_into()?)),
            Kind::Isolation(isolation) => Self::Isolation(Arc::new(isolation.try_into()?)),
            Kind::Policy(policy) => Self::Policy(Arc::new(policy.try_into()?)),
            Kind::Limit(limit) => Self::Limit(Arc::new(limit.try_into()?)),
            Kind::Destination(destination) => Self::Destination(Arc::new(destination.try_into()?)),
            Kind::Workload(workload) => Self::Workload(Arc::new(workload.try_into()?)),
            Kind::Address(owner) => Self::Address(Arc::new(owner.try_into()?)),
        })
    }
}

/// Names one part of a snapshot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ItemKey {
    /// `mesh`
    Mesh,
    /// `bundle/<trust-domain>`
    Bundle(TrustDomain),
    /// `revocations`
    Revocations,
    /// `isolation`
    Isolation,
    /// `policy/<namespace or ->/<name>`
    Policy(PolicyName),
    /// `limit/<namespace or ->/<name>`
    Limit(PolicyName),
    /// `destination/<namespace>/<name>`
    Destination(ServiceRef),
    /// `workload`
    Workload,
    /// `address/<ip>`
    Address(IpAddr),
}

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |f: &mut fmt::Formatter<'_>, kind: &str, name: &PolicyName| match &name.namespace {
            Some(namespace) => write!(f, "{kind}/{namespace}/{}", name.name),
            None => write!(f, "{kind}/{MESH_WIDE}/{}", name.name),
        };
        match self {
            Self::Mesh => f.write_str("mesh"),
            Self::Bundle(domain) => write!(f, "bundle/{domain}"),
            Self::Revocations => f.write_str("revocations"),
            Self::Isolation => f.write_str("isolation"),
            Self::Policy(name) => named(f, "policy", name),
            Self::Limit(name) => named(f, "limit", name),
            Self::Destination(service) => write!(f, "destination/{service}"),
            Self::Workload => f.write_str("workload"),
            Self::Address(address) => write!(f, "address/{address}"),
        }
    }
}

impl FromStr for ItemKey {
    type Err = WireError;

    fn from_str(key: &str) -> Result<Self, WireError> {
        let error = |problem: &dyn fmt::Display| {
            WireError::new(format!("key {:?}", key.chars().take(120).collect::<String>()), problem)
        };
        let policy_name = |rest: &str| -> Result<PolicyName, WireError> {
            let (namespace, name) = rest.split_once('/').ok_or_else(|| error(&"has no name"))?;
            let namespace = if namespace == MESH_WIDE { None } else { Some(text("key", namespace)?) };
            Ok(PolicyName { namespace, name: text("key", name)? })
        };
        match key.split_once('/') {
            None => match key {
                "mesh" => Ok(Self::Mesh),
                "revocations" => Ok(Self::Revocations),
                "isolation" => Ok(Self::Isolation),
                "workload" => Ok(Self::Workload),
                _ => Err(error(&"is not known")),
            },
            Some(("bundle", domain)) => Ok(Self::Bundle(text("key", domain)?)),
            Some(("policy", rest)) => policy_name(rest).map(Self::Policy),
            Some(("limit", rest)) => policy_name(rest).map(Self::Limit),
            Some(("destination", rest)) => {
                let (namespace, name) = rest.split_once('/').ok_or_else(|| error(&"has no name"))?;
                Ok(Self::Destination(ServiceRef {
                    namespace: text("key", namespace)?,
                    name: text("key", name)?,
                }))
            }
            Some(("address", address)) => Ok(Self::Address(super::discovery::address("key", address)?)),
            Some(_) => Err(error(&"is not known")),
        }
    }
}

/// One part with its encoding; cheap to clone.
#[derive(Clone, Debug)]
pub struct Item {
    key: Arc<str>,
    body: Bytes,
    part: Part,
}

impl Item {
    /// Encodes a part, once.
    pub fn new(part: Part) -> Self {
        let key = part.key().to_string().into();
        let body = part.to_message().encode_to_vec().into();
        Self { key, body, part }
    }

    /// Decodes a message; its key must be that of the part in it.
    ///
    /// # Errors
    /// Names the key and the field.
    pub fn decode(message: v1::Item) -> Result<Self, WireError> {
        let v1::Item { key, body } = message;
        let wanted: ItemKey = key.parse()?;
        let decoded = v1::ItemBody::decode(&*body).map_err(|error| WireError::new("body", error));
        let part = decoded.and_then(Part::from_message).map_err(|error| error.within(&key))?;
        if part.key() != wanted {
            return Err(WireError::new(key, format_args!("holds the item {}", part.key())));
        }
        Ok(Self { key: key.into(), body, part })
    }

    /// Its key as text.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The part itself.
    pub fn part(&self) -> &Part {
        &self.part
    }

    fn to_message(&self) -> v1::Item {
        v1::Item { key: self.key.to_string(), body: self.body.clone() }
    }
}

/// All items of one snapshot, in the order of their keys.
#[derive(Clone, Debug, Default)]
pub struct Items(BTreeMap<Arc<str>, Item>);

impl FromIterator<Item> for Items {
    /// Of two items with one key, the later stays.
    fn from_iter<I: IntoIterator<Item = Item>>(items: I) -> Self {
        Self(items.into_iter().map(|item| (Arc::clone(&item.key), item)).collect())
    }
}

impl Items {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Item> {
        self.0.values()
    }

    /// Adds or replaces one.
    pub fn insert(&mut self, item: Item) {
        self.0.insert(Arc::clone(&item.key), item);
    }

    /// Removes one; says whether it was there.
    pub fn remove(&mut self, key: &ItemKey) -> bool {
        self.0.remove(key.to_string().as_str()).is_some()
    }

    /// SHA-256 over keys and bodies in key order, each with its length in front (64 bits, big-endian).
    pub fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: &[u8]| {
            // A length above u64 cannot exist in memory.
            context.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(bytes);
        };
        for item in self.0.values() {
            add(item.key.as_bytes());
            add(&item.body);
        }
        let mut out = [0; 32];
        // SHA-256 is 32 bytes long by definition.
        for (to, from) in out.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        out
    }

    /// Everything, for a proxy that holds nothing or something else.
    pub fn full(&self, revision: Revision) -> v1::Update {
        v1::Update {
            revision: revision.0,
            full: true,
            items: self.0.values().map(Item::to_message).collect(),
            removed: Vec::new(),
            digest: self.digest().to_vec(),
        }
    }

    /// What turns `old` into `new`; without items and removals when they are equal.
    pub fn diff(old: &Self, new: &Self, revision: Revision) -> v1::Update {
        let changed = |item: &&Item| old.0.get(&item.key).is_none_or(|held| held.body != item.body);
        let gone = |key: &&Arc<str>| !new.0.contains_key(*key);
        v1::Update {
            revision: revision.0,
            full: false,
            items: new.0.values().filter(changed).map(Item::to_message).collect(),
            removed: old.0.keys().filter(gone).map(ToString::to_string).collect(),
            digest: new.digest().to_vec(),
        }
    }

    /// Whether both hold the same items.
    pub fn same_as(&self, other: &Self) -> bool {
        let same = |(a, b): (&Item, &Item)| a.key == b.key && a.body == b.body;
        self.len() == other.len() && self.0.values().zip(other.0.values()).all(same)
    }

    /// The items after an update; `self` stays as it is, so that a refused update changes nothing.
    ///
    /// # Errors
    /// Names the item and the field; or says that the digest does not agree, which asks for a full update.
    pub fn apply(&self, update: v1::Update) -> Result<Self, WireError> {
        let v1::Update { revision: _, full, items, removed, digest } = update;
        let mut next = if full { Self::default() } else { self.clone() };
        for key in removed {
            if next.0.remove(key.as_str()).is_none() {
                return Err(WireError::new("removed", format_args!("{key:?} is not held")));
            }
        }
        for message in items {
            let held = self.0.get(message.key.as_str()).filter(|held| held.body == message.body);
            next.insert(match held {
                Some(item) => item.clone(),
                None => Item::decode(message)?,
            });
        }
        if next.len() > ITEMS_MAX {
            return Err(WireError::new("items", format_args!("are more than {ITEMS_MAX}")));
        }
        if next.digest().as_slice() != digest {
            return Err(WireError::new("digest", "does not agree with the items after the update"));
        }
        Ok(next)
    }

    /// The snapshot that the items make.
    ///
    /// # Errors
    /// When the mesh's settings or the roots of its own trust domain are missing.
    pub fn to_snapshot(&self, revision: Revision) -> Result<Snapshot, WireError> {
        let mut mesh = None;
        let mut bundles = BTreeMap::new();
        let mut revocations = Arc::<Revocations>::default();
        let mut policy = PolicyInputs::default();
        let mut limits = Vec::new();
        let mut destinations = BTreeMap::new();
        let mut workload = None;
        let mut addresses = BTreeMap::new();
        for item in self.0.values() {
            match &item.part {
                Part::Mesh(part) => mesh = Some(MeshSettings::clone(part)),
                Part::Bundle(part) => {
                    bundles.insert(part.trust_domain.clone(), Bundle::clone(part));
                }
                Part::Revocations(part) => revocations = Arc::clone(part),
                Part::Isolation(part) => policy.isolation = Some(Arc::clone(part)),
                Part::Policy(part) => policy.policies.push(Arc::clone(part)),
                Part::Limit(part) => limits.push(Arc::clone(part)),
                Part::Destination(part) => {
                    destinations.insert(part.service.clone(), Arc::clone(part));
                }
                Part::Workload(part) => workload = Some(Arc::clone(part)),
                Part::Address(part) => {
                    addresses.insert(part.address, Arc::clone(part));
                }
            }
        }
        let mesh = required("mesh", mesh)?;
        if !bundles.contains_key(&mesh.trust_domain) {
            return Err(WireError::new(format!("bundle/{}", mesh.trust_domain), "is missing"));
        }
        policy.policies.sort_by(|a, b| a.name.cmp(&b.name));
        limits.sort_by(|a: &Arc<RateLimit>, b| a.name.cmp(&b.name));
        policy.quarantined.clone_from(&revocations.identities);
        policy.default_allow = mesh.default_allow;
        let digest = self.digest();
        Ok(Snapshot {
            revision,
            digest,
            mesh,
            bundles,
            revocations,
            policy,
            limits,
            destinations,
            workload,
            addresses,
        })
    }
}
