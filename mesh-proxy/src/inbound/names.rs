//! The service names that callers put into the SNI, as records show them.
//!
//! # Why
//! A name in the SNI is a caller's word. Nothing is decided by it, but it is a part of an edge's key: a caller that invents
//! names would fill the table of edges, and everybody else would be counted as "others". A workload has a handful of
//! services, so the first ones are kept and whatever comes after them is counted to the workload's own.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names beside the workload's own.
const NAMES_MAX: usize = 16;

/// The names a workload was called by.
#[derive(Debug)]
pub(crate) struct Names {
    own: Arc<str>,
    others: RefCell<BTreeSet<Arc<str>>>,
}

impl Names {
    /// Knows the workload's own, `namespace/name`.
    pub(crate) fn new(own: Arc<str>) -> Self {
        Self { own, others: RefCell::default() }
    }

    /// The name to record for one that a caller used.
    pub(crate) fn of(&self, said: &str) -> Arc<str> {
        if *said == *self.own {
            return Arc::clone(&self.own);
        }
        let mut others = self.others.borrow_mut();
        if let Some(known) = others.get(said) {
            return Arc::clone(known);
        }
        if others.len() >= NAMES_MAX {
            return Arc::clone(&self.own);
        }
        let name: Arc<str> = said.into();
        others.insert(Arc::clone(&name));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_names_do_not_fill_the_table_of_edges() {
        let names = Names::new("shop/web-v1".into());
        assert_eq!(&*names.of("shop/web"), "shop/web");
        let made: BTreeSet<Arc<str>> = (0..5_000).map(|n| names.of(&format!("shop/made-{n}"))).collect();
        assert!(made.len() <= NAMES_MAX, "{} names", made.len());
        assert_eq!(&*names.of("shop/web"), "shop/web", "what was there stays");
        assert_eq!(&*names.of("shop/web-v1"), "shop/web-v1");
        assert_eq!(&*names.of("shop/one-more"), "shop/web-v1");
    }
}
