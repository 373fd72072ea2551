//! `Segment`: an isolated part of the network, and which segments may talk to it.

use super::meta::Meta;
use super::subject::Subject;
use crate::name::ObjectName;

/// An isolated part of the network. Its members accept calls from each other and from the segments in `accepts` only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Name and origin.
    pub meta: Meta,
    /// Who is in it: identities, accounts, namespaces; at least one.
    pub members: Vec<Subject>,
    /// Segments that may talk to it, besides itself.
    pub accepts: Vec<ObjectName>,
}
