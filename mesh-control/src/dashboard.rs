//! The dashboard: a small page and what it shows, as JSON. Pure.
//!
//! `meshctl dashboard` relays a browser's requests one by one to the call `Page` of the admin API, where `admin` judges the
//! caller as for every other call and puts together what is asked for from the parts here. Nothing here changes anything, and
//! nothing here decides who may look.
//!
//! - [`asset`]: the page's files, as they stand in `dashboard/files`; written by hand, no build step.
//! - [`ask`]: what a path and a query ask for.
//! - [`model`]: services and the calls between them, from the ledger's picture and the registry.
//! - [`graph`], [`lists`]: what the page gets, cut to size: it says how many there are and shows the most telling ones.
//!
//! # Why JSON and not the protobuf messages
//! A page without a build step reads JSON as it is, and what it needs (shares, quantiles, who stands for whom) is worked out
//! once here instead of in a language without types.

pub(crate) mod ask;
pub(crate) mod asset;
pub(crate) mod graph;
pub(crate) mod lists;
pub(crate) mod model;

use serde::Serialize;

/// An answer of the page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    /// Its media type.
    pub(crate) content_type: &'static str,
    /// Its bytes.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A value as JSON.
    pub(crate) fn json(value: &impl Serialize) -> Self {
        // Our own types have text keys and no way to fail.
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self { content_type: "application/json", body }
    }
}
