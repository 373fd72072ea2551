//! `Segment`: an isolated part of the network, and which segments may talk to it.

use super::meta::Meta;
use super::problem::Code;
use super::reader::{At, Reader};
use super::subject::{self, Subject};
use super::yaml::{Map, Yaml};
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

/// The most members of one segment.
const MEMBERS_MAX: usize = 1000;
/// The most segments that one accepts.
const ACCEPTS_MAX: usize = 100;

impl Segment {
    pub(super) fn read(reader: &mut Reader, meta: Meta, spec: At<'_>) -> Option<Self> {
        let fields = reader.fields(spec, &["members", "accepts"])?;
        let members = fields.required(reader, "members", "write who is in the segment");
        let members = members.and_then(|at| {
            reader.each(&at, MEMBERS_MAX, |reader, at| subject::read(reader, at, None, &subject::MEMBERS))
        });
        let accepts = match fields.optional("accepts") {
            Some(at) => reader.each(&at, ACCEPTS_MAX, |reader, at| {
                let name = reader.parse(&at)?;
                if name == meta.name {
                    let message =
                        "is the segment itself, whose members reach each other anyway; remove the entry";
                    reader.error(&at, Code::Conflict, message);
                }
                Some(name)
            }),
            None => Some(Vec::new()),
        };
        Some(Self { meta, members: members?, accepts: accepts? })
    }

    pub(super) fn write(&self) -> Map {
        let Self { meta: _, members, accepts } = self;
        Map::new()
            .with_list("members", members.iter().map(|member| member.write().into()))
            .with_list("accepts", accepts.iter().map(|name| Yaml::text(name.as_str())))
    }
}
