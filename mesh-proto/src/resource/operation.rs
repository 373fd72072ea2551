//! What may be done, as users write it: the entries of `to` and `operations`.

use super::problem::Code;
use super::reader::{At, Fields, Reader};
use super::subject::only_one;
use super::yaml::{Map, Yaml};
use crate::matching::{HeaderCondition, HeaderTest};
use crate::policy::model::{Operation, ProtocolMatch};
use std::fmt;
use std::str::FromStr;

/// The most operations of one rule or role.
const OPERATIONS_MAX: usize = 256;
/// The most entries of one list of an operation.
const ENTRIES_MAX: usize = 256;

const WORDS: [&str; 8] = ["ports", "protocols", "sni", "hosts", "methods", "paths", "headers", "grpc"];

/// Reads a list of operations; what is left out means everything.
pub(super) fn read_list(reader: &mut Reader, at: Option<At<'_>>) -> Option<Vec<Operation>> {
    match at {
        Some(at) => reader.each(&at, OPERATIONS_MAX, read),
        None => Some(Vec::new()),
    }
}

fn read(reader: &mut Reader, at: At<'_>) -> Option<Operation> {
    let fields = reader.fields(at, &WORDS)?;
    if fields.is_empty() {
        let message = "says nothing; name ports, methods, paths or the like, or remove the entry";
        reader.error(fields.whole(), Code::InvalidValue, message);
        return None;
    }
    let ports = parsed(reader, &fields, "ports");
    let protocols = entries(reader, &fields, "protocols", |reader, at| {
        let words = ProtocolMatch::ALL.map(|protocol| (protocol.as_str(), protocol));
        reader.word(&at, &words)
    });
    let sni = parsed(reader, &fields, "sni");
    let hosts = parsed(reader, &fields, "hosts");
    let methods = parsed(reader, &fields, "methods");
    let paths = parsed(reader, &fields, "paths");
    let headers = entries(reader, &fields, "headers", read_header);
    let grpc = parsed(reader, &fields, "grpc");
    Some(Operation {
        ports: ports?,
        protocols: protocols?,
        sni: sni?,
        hosts: hosts?,
        methods: methods?,
        paths: paths?,
        headers: headers?,
        grpc: grpc?,
    })
}

fn parsed<T>(reader: &mut Reader, fields: &Fields<'_>, key: &str) -> Option<Vec<T>>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    entries(reader, fields, key, |reader, at| reader.parse(&at))
}

fn entries<'n, T>(
    reader: &mut Reader,
    fields: &Fields<'n>,
    key: &str,
    read: impl FnMut(&mut Reader, At<'n>) -> Option<T>,
) -> Option<Vec<T>> {
    match fields.optional(key) {
        Some(at) => reader.each(&at, ENTRIES_MAX, read),
        None => Some(Vec::new()),
    }
}

/// `{name: x-tenant, exact: gold}`, or `prefix`, or `present: true`.
fn read_header(reader: &mut Reader, at: At<'_>) -> Option<HeaderCondition> {
    const TESTS: [&str; 3] = ["exact", "prefix", "present"];
    let fields = reader.fields(at, &["name", "exact", "prefix", "present"])?;
    let name_at = fields.required(reader, "name", "write the header's name, for instance x-tenant");
    let word = only_one(reader, &fields, &TESTS, "write two entries: all of them must hold");
    if word.is_none() && fields.present(&TESTS).is_empty() && name_at.is_some() {
        let message = "says nothing about the value; write exact, prefix or present: true";
        reader.error(fields.whole(), Code::MissingField, message);
    }
    let word = word?;
    let value = fields.optional(word)?;
    let test = match word {
        "exact" => HeaderTest::Exact(reader.text(&value)?.into()),
        "prefix" => HeaderTest::Prefix(reader.text(&value)?.into()),
        _ => reader.only_true(&value).map(|()| HeaderTest::Present)?,
    };
    let name_at = name_at?;
    let name = reader.text(&name_at)?;
    match HeaderCondition::new(name, test) {
        Ok(condition) => Some(condition),
        Err(error) => {
            let at = if error.value == name { &name_at } else { &value };
            reader.error(at, Code::InvalidValue, error.to_string());
            None
        }
    }
}

/// Reads the name of a header, for limits by header.
pub(super) fn read_header_name(reader: &mut Reader, at: &At<'_>) -> Option<std::sync::Arc<str>> {
    let name = reader.text(at)?;
    match HeaderCondition::new(name, HeaderTest::Present) {
        Ok(condition) => Some(condition.name().into()),
        Err(error) => {
            reader.error(at, Code::InvalidValue, error.to_string());
            None
        }
    }
}

/// Reports operations that can only be judged on HTTP, where something is limited that is not HTTP.
pub(super) fn refuse_http(reader: &mut Reader, at: Option<&At<'_>>, operations: &[Operation], because: &str) {
    let Some(at) = at else { return };
    let offending = operations.iter().position(Operation::needs_http);
    let entry = offending.and_then(|index| reader.list(at, OPERATIONS_MAX)?.into_iter().nth(index));
    if let Some(entry) = entry {
        let message = format!("hosts, methods, paths, headers and grpc cannot be told apart here: {because}");
        reader.error(&entry, Code::NotEnforceable, message);
    }
}

/// One operation as canonical YAML.
pub(super) fn write(operation: &Operation) -> Yaml {
    let Operation { ports, protocols, sni, hosts, methods, paths, headers, grpc } = operation;
    fn texts<T: fmt::Display>(values: &[T]) -> impl Iterator<Item = Yaml> {
        values.iter().map(Yaml::text)
    }
    let port = |range: &crate::net::PortRange| match range.first() == range.last() {
        true => Yaml::bare(range),
        false => Yaml::text(range),
    };
    let map = Map::new()
        .with_list("ports", ports.iter().map(port))
        .with_list("protocols", protocols.iter().map(|protocol| Yaml::text(protocol.as_str())))
        .with_list("sni", texts(sni))
        .with_list("hosts", texts(hosts))
        .with_list("methods", texts(methods))
        .with_list("paths", texts(paths))
        .with_list("headers", headers.iter().map(write_header))
        .with_list("grpc", texts(grpc));
    map.into()
}

fn write_header(condition: &HeaderCondition) -> Yaml {
    let map = Map::new().with("name", condition.name());
    match condition.test() {
        HeaderTest::Exact(value) => map.with("exact", &**value),
        HeaderTest::Prefix(value) => map.with("prefix", &**value),
        HeaderTest::Present => map.with("present", Yaml::bare(true)),
    }
    .into()
}
