//! Who is meant, as users write it: before roles and segments are looked up and accounts become identities.

use super::problem::{Code, Problem};
use super::reader::{At, Fields, Reader, listed};
use super::yaml::Map;
use crate::identity::pattern::IdentityPattern;
use crate::name::{InstanceName, Namespace, ObjectName, ServiceAccount};
use crate::net::Cidr;

/// One entry of `from`, `except`, `members` or `subjects`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// `identity: spiffe://…`, or one that ends in `/*`.
    Identity(IdentityPattern),
    /// `serviceAccount: web` (of the object's own namespace) or `shop/web`.
    ServiceAccount {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        account: ServiceAccount,
    },
    /// `namespace: shop`.
    Namespace(Namespace),
    /// `segment: front`.
    Segment(ObjectName),
    /// `role: buyer`.
    Role(ObjectName),
    /// `instance: {name: web-1, serviceAccount: web}`.
    Instance {
        /// The namespace of the account it runs under.
        namespace: Namespace,
        /// The account it runs under.
        account: ServiceAccount,
        /// Which of its instances.
        instance: InstanceName,
    },
    /// `cidr: 10.0.0.0/8`: peers without a mesh identity.
    Cidr(Cidr),
    /// `anyMeshed: true`.
    AnyMeshed,
    /// `anyone: true`.
    Anyone,
}

/// The words for sources in `from`.
pub(super) const SOURCES: [&str; 9] =
    ["serviceAccount", "namespace", "identity", "segment", "role", "instance", "cidr", "anyMeshed", "anyone"];
/// The words for sources in `except`: a rule that excepts everybody is no rule.
pub(super) const EXCEPTIONS: [&str; 7] =
    ["serviceAccount", "namespace", "identity", "segment", "role", "instance", "cidr"];
/// The words for members of a segment.
pub(super) const MEMBERS: [&str; 3] = ["serviceAccount", "namespace", "identity"];

/// Reads an entry that says one thing, by the one of the `allowed` words that it has. `home` is the object's namespace.
pub(super) fn read(
    reader: &mut Reader,
    at: At<'_>,
    home: Option<&Namespace>,
    allowed: &[&str],
) -> Option<Subject> {
    let fields = reader.fields(at, allowed)?;
    let word = only_one(reader, &fields, allowed, "two entries of the list are alternatives")?;
    let value = fields.optional(word)?;
    match word {
        "serviceAccount" => {
            let (namespace, account) = read_account(reader, &value, home)?;
            Some(Subject::ServiceAccount { namespace, account })
        }
        "namespace" if value.node.scalar() == Some("*") => {
            let message = "\"*\" is no namespace; write identity: spiffe://<trust-domain>/* for all of them";
            reader.error(&value, Code::InvalidValue, message);
            None
        }
        "namespace" => reader.parse(&value).map(Subject::Namespace),
        "identity" => reader.parse(&value).map(Subject::Identity),
        "segment" => reader.parse(&value).map(Subject::Segment),
        "role" => reader.parse(&value).map(Subject::Role),
        "instance" => read_instance(reader, value, home),
        "cidr" => reader.parse(&value).map(Subject::Cidr),
        "anyMeshed" => reader.only_true(&value).map(|()| Subject::AnyMeshed),
        "anyone" => reader.only_true(&value).map(|()| Subject::Anyone),
        _ => None,
    }
}

/// The one word that is there; reports none and several.
pub(super) fn only_one<'k>(
    reader: &mut Reader,
    fields: &Fields<'_>,
    allowed: &[&'k str],
    several: &str,
) -> Option<&'k str> {
    match fields.present(allowed)[..] {
        [word] => Some(word),
        [] => {
            // A map with only unknown fields was reported already.
            if fields.is_empty() {
                let message = format!("says nothing; write one of {}", listed(allowed, "or"));
                reader.error(fields.whole(), Code::MissingField, message);
            }
            None
        }
        ref words => {
            let message = format!("has {}, but may have one of them; {several}", listed(words, "and"));
            reader.error(fields.whole(), Code::Conflict, message);
            None
        }
    }
}

/// `account` in the object's own namespace, or `namespace/account`.
fn read_account(
    reader: &mut Reader,
    at: &At<'_>,
    home: Option<&Namespace>,
) -> Option<(Namespace, ServiceAccount)> {
    let text = reader.text(at)?;
    if let Some(namespace) = text.strip_suffix('*') {
        let of = if namespace.is_empty() { home.map(Namespace::as_str) } else { namespace.strip_suffix('/') };
        let message = format!(
            "{:?} is no account, names have no '*'; write namespace: {} for all accounts of one",
            Problem::shown(text),
            Problem::shown(of.unwrap_or("NAME"))
        );
        reader.error(at, Code::InvalidValue, message);
        return None;
    }
    let parsed = match (text.split_once('/'), home) {
        (Some((namespace, account)), _) => namespace.parse().and_then(|ns| Ok((ns, account.parse()?))),
        (None, Some(home)) => text.parse().map(|account| (home.clone(), account)),
        (None, None) => {
            let shown = Problem::shown(text);
            let message =
                format!("{shown:?} has no namespace, and neither has this object; write namespace/account");
            reader.error(at, Code::InvalidValue, message);
            return None;
        }
    };
    match parsed {
        Ok(account) => Some(account),
        Err(error) => {
            reader.error(at, Code::InvalidValue, error.to_string());
            None
        }
    }
}

fn read_instance(reader: &mut Reader, at: At<'_>, home: Option<&Namespace>) -> Option<Subject> {
    let fields = reader.fields(at, &["name", "serviceAccount"])?;
    let instance = fields.required(reader, "name", "write the instance's name");
    let instance = instance.and_then(|at| reader.parse(&at));
    let account = fields.required(reader, "serviceAccount", "write the account that the instance runs under");
    let account = account.and_then(|at| read_account(reader, &at, home));
    let (namespace, account) = account?;
    Some(Subject::Instance { namespace, account, instance: instance? })
}

impl Subject {
    /// The entry as canonical YAML; accounts carry their namespace.
    pub(super) fn write(&self) -> Map {
        let map = Map::new();
        match self {
            Self::Identity(pattern) => map.with("identity", pattern.to_string()),
            Self::ServiceAccount { namespace, account } => {
                map.with("serviceAccount", format!("{namespace}/{account}"))
            }
            Self::Namespace(namespace) => map.with("namespace", namespace.as_str()),
            Self::Segment(name) => map.with("segment", name.as_str()),
            Self::Role(name) => map.with("role", name.as_str()),
            Self::Instance { namespace, account, instance } => {
                let account = format!("{namespace}/{account}");
                map.with(
                    "instance",
                    Map::new().with("name", instance.as_str()).with("serviceAccount", account),
                )
            }
            Self::Cidr(cidr) => map.with("cidr", cidr.to_string()),
            Self::AnyMeshed => map.with("anyMeshed", super::yaml::Yaml::bare(true)),
            Self::Anyone => map.with("anyone", super::yaml::Yaml::bare(true)),
        }
    }
}
