//! What a path and a query ask for. Closed on doubt: an unknown name, a number out of range or a broken escape is refused.

use super::asset::{self, Asset};
use mesh_proto::wire::v1;
use std::collections::BTreeMap;

/// Rows or edges in one answer when the page does not say.
const SHOWN_DEFAULT: usize = 200;
/// The most that it can ask for.
const SHOWN_MAX: usize = 1_000;
/// Spans of time that it can ask for, in seconds: up to what the ledger keeps.
const WINDOW_S_MAX: u64 = 7 * 24 * 3_600;
/// The span when it does not say.
const WINDOW_S: u64 = 60;
/// The longest value; an identity may have 2,048 bytes.
const VALUE_BYTES_MAX: usize = 2_048;
/// Pairs of a query.
const PAIRS_MAX: usize = 16;

/// What is asked for.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Ask {
    /// A file of the page.
    Asset(&'static Asset),
    /// The state of the whole, with alarms.
    Overview,
    /// Services and calls.
    Graph(Slice),
    /// Services alone.
    Services(Slice),
    /// Certificates, and who signs them.
    Identities(Slice),
    /// Resources with their status.
    Policies(Slice),
    /// One resource's text.
    Policy(v1::GetRequest),
    /// Connected proxies.
    Proxies(Slice),
    /// Recorded decisions.
    Decisions(Decisions),
    /// Why one was made, or would be.
    Explain(v1::ExplainRequest),
}

/// Which part of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Slice {
    /// Figures of how long.
    pub(crate) window_ms: u64,
    /// What names must contain, in small letters; empty: all.
    pub(crate) filter: String,
    /// How many at most.
    pub(crate) limit: usize,
}

/// Which decisions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Decisions {
    /// The caller's identity; empty: all.
    pub(crate) source: String,
    /// Identities of callees; empty: all.
    pub(crate) destinations: Vec<String>,
    /// Refusals only.
    pub(crate) refused: bool,
    /// How many at most.
    pub(crate) limit: usize,
}

/// Reads what is asked for; `None` when there is no such thing.
///
/// # Errors
/// A sentence that names the field, the value and what is allowed.
pub(crate) fn read(path: &str, query: &str) -> Result<Option<Ask>, String> {
    let Some(name) = path.strip_prefix("api/") else { return Ok(asset::find(path).map(Ask::Asset)) };
    let mut fields = Fields::read(query)?;
    let ask = match name {
        "overview" => Ask::Overview,
        "graph" => Ask::Graph(fields.slice()?),
        "services" => Ask::Services(fields.slice()?),
        "identities" => Ask::Identities(fields.slice()?),
        "policies" => Ask::Policies(fields.slice()?),
        "proxies" => Ask::Proxies(fields.slice()?),
        "policy" => Ask::Policy(v1::GetRequest {
            kind: fields.text("kind"),
            namespace: fields.text("namespace"),
            name: fields.text("name"),
            revision: 0,
        }),
        "decisions" => Ask::Decisions(Decisions {
            source: fields.text("source"),
            destinations: fields
                .text("to")
                .split(',')
                .filter(|id| !id.is_empty())
                .map(str::to_owned)
                .collect(),
            refused: !fields.text("refused").is_empty(),
            limit: fields.limit()?,
        }),
        "explain" => Ask::Explain(v1::ExplainRequest {
            decision_id: fields.text("id"),
            from: fields.text("from"),
            to: fields.text("to"),
            method: fields.text("method"),
            path: fields.text("path"),
            port: u32::try_from(fields.number("port", 0, 65_535)?).unwrap_or(0),
            protocol: fields.text("protocol"),
            ..v1::ExplainRequest::default()
        }),
        _ => return Ok(None),
    };
    fields.end()?;
    Ok(Some(ask))
}

/// The pairs of a query.
struct Fields(BTreeMap<String, String>);

impl Fields {
    fn read(query: &str) -> Result<Self, String> {
        let mut fields = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if fields.len() >= PAIRS_MAX {
                return Err(format!("the query has more than {PAIRS_MAX} fields"));
            }
            if value.len() > VALUE_BYTES_MAX {
                return Err(format!("the value of {} is longer than {VALUE_BYTES_MAX} bytes", shown(&name)));
            }
            if fields.insert(name.clone(), value).is_some() {
                return Err(format!("the query has {} twice", shown(&name)));
            }
        }
        Ok(Self(fields))
    }

    fn text(&mut self, name: &str) -> String {
        self.0.remove(name).unwrap_or_default()
    }

    fn number(&mut self, name: &str, default: u64, max: u64) -> Result<u64, String> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(default);
        }
        let number = text.parse().ok().filter(|number| *number <= max);
        number
            .ok_or_else(|| format!("{name}: {} is not allowed; give a number from 0 to {max}", shown(&text)))
    }

    fn limit(&mut self) -> Result<usize, String> {
        let default = u64::try_from(SHOWN_DEFAULT).unwrap_or(0);
        let limit = self.number("limit", default, u64::try_from(SHOWN_MAX).unwrap_or(0))?;
        Ok(usize::try_from(limit).unwrap_or(SHOWN_DEFAULT))
    }

    fn slice(&mut self) -> Result<Slice, String> {
        let seconds = self.number("window", WINDOW_S, WINDOW_S_MAX)?.max(1);
        let filter = self.text("q").trim().to_lowercase();
        Ok(Slice { window_ms: seconds.saturating_mul(1_000), filter, limit: self.limit()? })
    }

    /// Refuses what nobody has asked for.
    fn end(self) -> Result<(), String> {
        match self.0.keys().next() {
            Some(name) => Err(format!("the query has an unknown field {}", shown(name))),
            None => Ok(()),
        }
    }
}

impl Slice {
    /// Whether one of the names contains what is asked for.
    pub(crate) fn takes<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> bool {
        self.filter.is_empty() || names.into_iter().any(|name| name.to_lowercase().contains(&self.filter))
    }
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

/// Takes away percent escapes and `+`, as `URLSearchParams` makes them.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit(), digit());
                let pair = high.zip(low).and_then(|(high, low)| u8::try_from((high << 4) | low).ok());
                pair.ok_or_else(|| format!("the query has a broken escape in {}", shown(text)))?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| format!("the query is not UTF-8 in {}", shown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read() {
        let slice = |window_ms, filter: &str, limit| Slice { window_ms, filter: filter.to_owned(), limit };
        let read = |path: &str, query: &str| read(path, query).unwrap();
        assert_eq!(read("api/graph", ""), Some(Ask::Graph(slice(60_000, "", 200))));
        let asked = read("api/services", "window=300&q=%3CImg+x&limit=10");
        assert_eq!(asked, Some(Ask::Services(slice(300_000, "<img x", 10))));
        let Some(Ask::Decisions(decisions)) = read("api/decisions", "source=a&to=b,c,&refused=1") else {
            panic!()
        };
        assert_eq!((decisions.destinations.len(), decisions.refused), (2, true));
        assert!(matches!(read("", ""), Some(Ask::Asset(_))));
        for path in ["api/", "api", "api/graph/", "../Cargo.toml", "index", "files/app.js"] {
            assert_eq!(read(path, ""), None, "{path}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let many: String = (0..20).map(|n| format!("f{n}=1&")).collect();
        let long = format!("q={}", "a".repeat(VALUE_BYTES_MAX + 1));
        for (query, said) in [
            ("window=x", "window: \"x\" is not allowed"),
            ("window=604801", "from 0 to 604800"),
            ("window=-1", "is not allowed"),
            ("limit=1001", "from 0 to 1000"),
            ("q=a&q=b", "twice"),
            ("frm=a", "unknown field \"frm\""),
            ("q=%4", "broken escape"),
            ("q=%zz", "broken escape"),
            ("q=%ff", "not UTF-8"),
            (&many, "more than 16"),
            (&long, "longer than 2048"),
        ] {
            let error = read("api/graph", query).unwrap_err();
            assert!(error.contains(said), "{query}: {error}");
        }
    }
}
