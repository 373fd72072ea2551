//! Who is meant, as users write it: before roles and segments are looked up and accounts become identities.

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
        /// The account it runs under.
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
