//! How a server outside the mesh is spoken to by TLS: what `AlertSink` and `MeshConfig` say of it.

use super::problem::Code;
use super::reader::{At, Fields, Reader};
use super::yaml::Map;
use crate::name::ObjectName;

/// TLS to a server outside the mesh. It is always verified.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tls {
    /// The roots that vouch for the server, in PEM; `None`: those of the system.
    pub ca: Option<String>,
    /// The file with the certificate and key that we show; `None`: none.
    pub certificate: Option<ObjectName>,
}

impl Tls {
    pub(super) fn write(&self) -> Map {
        let Self { ca, certificate } = self;
        let certificate = certificate.as_ref().map(ObjectName::as_str);
        Map::new().with_some("ca", ca.as_deref()).with_some("certificate", certificate)
    }
}

pub(super) fn read(reader: &mut Reader, at: At<'_>) -> Option<Tls> {
    let fields = reader.fields(at, &["ca", "certificate"])?;
    let ca = read_ca(reader, &fields);
    let certificate = match fields.optional("certificate") {
        Some(at) => reader.parse(&at).map(Some),
        None => Some(None),
    };
    Some(Tls { ca: ca?, certificate: certificate? })
}

/// The field `ca`: certificates in PEM. Whether they can be roots is seen where they are used.
pub(super) fn read_ca(reader: &mut Reader, fields: &Fields<'_>) -> Option<Option<String>> {
    let Some(at) = fields.optional("ca") else { return Some(None) };
    let text = reader.text(&at)?.trim();
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b' ' | b'\n');
    if text.contains("PRIVATE KEY") {
        let message =
            "has a private key, which stands in no resource; write the certificate alone, and renew the key";
        reader.error(&at, Code::InvalidValue, message);
        return None;
    }
    if !text.starts_with(begin) || !text.ends_with(end) || !text.bytes().all(is_plain) {
        let message = "is no certificate in PEM; write `ca: |` and below it the lines from BEGIN CERTIFICATE to END \
                       CERTIFICATE";
        reader.error(&at, Code::InvalidValue, message);
        return None;
    }
    Some(Some(format!("{text}\n")))
}
