//! `AlertSink`: a place that alarms are sent to.
//!
//! Secrets never stand in a resource: `secret: NAME` is a file of the control plane, `alarms/secrets/NAME` in its state
//! directory, so that whoever may read or change resources can neither see it nor name any other file. So is
//! `tls.certificate`, whose file has a key; `tls.ca` is no secret and stands in the resource.

use super::meta::Meta;
use super::outside::{self, Tls};
use super::problem::Code;
use super::reader::{At, Fields, Reader, listed};
use super::yaml::Map;
use crate::name::{ObjectName, Port};
use std::fmt;
use std::str::FromStr;

/// A place that alarms are sent to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlertSink {
    /// Name and origin.
    pub meta: Meta,
    /// How it is spoken to.
    pub delivery: Delivery,
    /// `None`: in plaintext.
    pub tls: Option<Tls>,
}

/// How a sink is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// A POST of JSON, signed when there is a secret: `X-Mesh-Signature: sha256=` and the HMAC of timestamp, `.`, body.
    Webhook {
        /// Where.
        url: Url,
        /// The file of the key.
        secret: Option<ObjectName>,
    },
    /// The API of an Alertmanager, version 2.
    Alertmanager {
        /// Its root; `/api/v2/alerts` is added.
        url: Url,
    },
    /// JSON as Slack's incoming webhooks take it, and many that imitate them.
    Slack {
        /// Where.
        url: Url,
    },
    /// RFC 5424 lines over TCP (RFC 6587, octet counting) with CEF inside.
    Syslog {
        /// Where.
        address: Endpoint,
    },
    /// OCSF detection findings, one JSON object for each line, over TCP.
    Ocsf {
        /// Where.
        address: Endpoint,
    },
}

/// `host:port`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    /// A DNS name or an address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: Port,
}

/// `http://host[:port][/path]` or `https://…`: no user, no query, no fragment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Url {
    /// Whether it begins with `https`.
    pub is_secure: bool,
    /// Host and port.
    pub endpoint: Endpoint,
    /// Begins with `/`.
    pub path: String,
}

/// The longest host name (RFC 1035).
const HOST_BYTES_MAX: usize = 253;
/// The longest path of a sink.
const PATH_BYTES_MAX: usize = 1024;

/// Why a text is neither an address nor a URL of a sink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkAddressError {
    /// Not `host:port`.
    #[error("{0:?} is not HOST:PORT; write for instance logs.example:514 or [::1]:514")]
    Endpoint(String),
    /// Not a URL that can be used.
    #[error(
        "{0:?} is not a URL of a sink; write https://HOST[:PORT][/PATH] (or http://), without user, query or fragment"
    )]
    Url(String),
}

impl FromStr for Endpoint {
    type Err = SinkAddressError;

    fn from_str(text: &str) -> Result<Self, SinkAddressError> {
        let error = || SinkAddressError::Endpoint(text.chars().take(120).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().map_err(|_| error())?;
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_fine = match inner {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_host(host),
        };
        if !is_fine {
            return Err(error());
        }
        Ok(Self { host: inner.unwrap_or(host).to_owned(), port })
    }
}

fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    host.len() <= HOST_BYTES_MAX && host.split('.').all(is_label)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Url {
    type Err = SinkAddressError;

    fn from_str(text: &str) -> Result<Self, SinkAddressError> {
        let shown = || text.chars().take(120).collect();
        let error = || SinkAddressError::Url(shown());
        let (is_secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(error()),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~%:=+,@".contains(&byte);
        if path.len() > PATH_BYTES_MAX || !path.bytes().all(is_plain) {
            return Err(error());
        }
        let has_port =
            authority.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty() && !authority.ends_with(']'));
        let usual = if is_secure { "443" } else { "80" };
        let endpoint = if has_port { authority.parse() } else { format!("{authority}:{usual}").parse() };
        let endpoint: Endpoint = endpoint.map_err(|_| error())?;
        Ok(Self { is_secure, endpoint, path: path.to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.is_secure { "https" } else { "http" }, self.endpoint, self.path)
    }
}

impl Delivery {
    /// Its word in the resource.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Webhook { .. } => "webhook",
            Self::Alertmanager { .. } => "alertmanager",
            Self::Slack { .. } => "slack",
            Self::Syslog { .. } => "syslog",
            Self::Ocsf { .. } => "ocsf",
        }
    }

    /// Host and port, without a path, which may be a secret.
    pub fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Webhook { url, .. } | Self::Alertmanager { url } | Self::Slack { url } => &url.endpoint,
            Self::Syslog { address } | Self::Ocsf { address } => address,
        }
    }
}

impl Delivery {
    /// The URL, of what has one.
    fn url(&self) -> Option<&Url> {
        match self {
            Self::Webhook { url, .. } | Self::Alertmanager { url } | Self::Slack { url } => Some(url),
            Self::Syslog { .. } | Self::Ocsf { .. } => None,
        }
    }
}

/// The kinds of sink.
const KINDS: [&str; 5] = ["webhook", "alertmanager", "slack", "syslog", "ocsf"];

impl AlertSink {
    pub(super) fn read(reader: &mut Reader, meta: Meta, spec: At<'_>) -> Option<Self> {
        let fields = reader.fields(spec, &KINDS)?;
        let present = fields.present(&KINDS);
        let [kind] = present[..] else {
            let message = if present.is_empty() {
                format!("says nowhere to send to; write one of {}", listed(&KINDS, "or"))
            } else {
                format!("has {}, but may have one of them; make two sinks", listed(&present, "and"))
            };
            reader.error(fields.whole(), Code::Conflict, message);
            return None;
        };
        let inner = fields.optional(kind)?;
        let words: &[&str] = match kind {
            "webhook" => &["url", "secret", "tls"],
            "alertmanager" | "slack" => &["url", "tls"],
            _ => &["address", "tls"],
        };
        let inner = reader.fields(inner, words)?;
        let delivery = match kind {
            "webhook" => {
                let secret = match inner.optional("secret") {
                    Some(at) => reader.parse(&at).map(Some),
                    None => Some(None),
                };
                Delivery::Webhook { url: read_url(reader, &inner)?, secret: secret? }
            }
            "alertmanager" => Delivery::Alertmanager { url: read_url(reader, &inner)? },
            "slack" => Delivery::Slack { url: read_url(reader, &inner)? },
            "syslog" => Delivery::Syslog { address: read_address(reader, &inner)? },
            _ => Delivery::Ocsf { address: read_address(reader, &inner)? },
        };
        let tls = read_tls(reader, &inner, &delivery)?;
        Some(Self { meta, delivery, tls })
    }

    pub(super) fn write(&self) -> Map {
        let Self { meta: _, delivery, tls } = self;
        let inner = match delivery {
            Delivery::Webhook { url, secret } => {
                let secret = secret.as_ref().map(ObjectName::as_str);
                Map::new().with("url", &*url.to_string()).with_some("secret", secret)
            }
            Delivery::Alertmanager { url } | Delivery::Slack { url } => {
                Map::new().with("url", &*url.to_string())
            }
            Delivery::Syslog { address } | Delivery::Ocsf { address } => {
                Map::new().with("address", &*address.to_string())
            }
        };
        let is_told = delivery.url().is_none_or(|_| *tls != Some(Tls::default()));
        let tls = tls.as_ref().filter(|_| is_told).map(Tls::write);
        Map::new().with(delivery.kind(), inner.with_some("tls", tls))
    }
}

/// A URL says itself whether TLS is spoken; of an address the presence of `tls` does.
fn read_tls(reader: &mut Reader, inner: &Fields<'_>, delivery: &Delivery) -> Option<Option<Tls>> {
    let at = inner.optional("tls");
    match (delivery.url().map(|url| url.is_secure), at) {
        (Some(false), Some(at)) => {
            reader.error(&at, Code::Conflict, "has no meaning with http://; write the url with https://");
            None
        }
        (Some(true), None) => Some(Some(Tls::default())),
        (_, Some(at)) => outside::read(reader, at).map(Some),
        (_, None) => Some(None),
    }
}

fn read_url(reader: &mut Reader, fields: &Fields<'_>) -> Option<Url> {
    let at = fields.required(reader, "url", "write for instance https://hooks.example/mesh")?;
    parse(reader, &at)
}

fn read_address(reader: &mut Reader, fields: &Fields<'_>) -> Option<Endpoint> {
    let at = fields.required(reader, "address", "write for instance 127.0.0.1:514")?;
    parse(reader, &at)
}

fn parse<T: FromStr<Err = SinkAddressError>>(reader: &mut Reader, at: &At<'_>) -> Option<T> {
    let text = reader.text(at)?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            reader.error(at, Code::InvalidValue, error.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_they_say() {
        for (text, expected) in [
            ("http://hooks.example/a/b", "http://hooks.example:80/a/b"),
            ("http://127.0.0.1:9093", "http://127.0.0.1:9093/"),
            ("http://[::1]:80/x", "http://[::1]:80/x"),
            ("http://[::1]/x", "http://[::1]:80/x"),
            ("https://hooks.example/a", "https://hooks.example:443/a"),
            ("https://[::1]:8443", "https://[::1]:8443/"),
        ] {
            assert_eq!(text.parse::<Url>().map(|url| url.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for bad in [
            "",
            "https://",
            "https://user@hooks.example",
            "http://",
            "http://user@host/",
            "http://host:0/",
            "http://host:99999/",
            "http://host/a?b",
            "http://host/a b",
            "http://host/\r\nX: y",
            "ftp://host/",
            "http://[::1",
            "http://ho\u{0}st/",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad:?}");
        }
        for bad in ["", "host", "host:", ":514", "a b:514", "host:x", "[::g]:1", "a..b:1"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tls_is_written_as_it_was_read() {
        let pem = "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----";
        let read = |spec: &str| {
            let yaml = format!(
                "apiVersion: meshctl.io/v1alpha1\nkind: AlertSink\nmetadata: {{name: a}}\nspec: {{{spec}}}\n"
            );
            let document = crate::resource::SourceDocument { file: "a".to_owned(), line: 1, yaml };
            let Ok(crate::resource::Resource::AlertSink(sink)) = crate::resource::parse(&document) else {
                panic!("{spec}")
            };
            sink
        };
        for (spec, is_secure) in [
            ("syslog: {address: 'h:6514'}".to_owned(), false),
            ("syslog: {address: 'h:6514', tls: {}}".to_owned(), true),
            (format!("ocsf: {{address: 'h:6514', tls: {{ca: \"{pem}\", certificate: us}}}}"), true),
            ("webhook: {url: 'http://h/'}".to_owned(), false),
            ("webhook: {url: 'https://h/'}".to_owned(), true),
            (format!("slack: {{url: 'https://h/', tls: {{ca: \"{pem}\"}}}}"), true),
        ] {
            let sink = read(&spec);
            assert_eq!(sink.tls.is_some(), is_secure, "{spec}");
            let text = crate::resource::Resource::AlertSink(sink.clone()).to_yaml();
            let document =
                crate::resource::SourceDocument { file: "a".to_owned(), line: 1, yaml: text.clone() };
            let again =
                crate::resource::parse(&document).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
            let crate::resource::Resource::AlertSink(again) = again else { panic!("{text}") };
            assert_eq!((again.delivery, again.tls), (sink.delivery, sink.tls), "{text}");
        }
    }
}
