//! The service names that callers put into the SNI, as records show them.
//!
//! # Why
//! A name in the SNI is a caller's word. Nothing is decided by it, but it is a part of an edge's key: a caller that invents
//! names would fill the table of edges, and everybody else would be counted as "others". So only the services that the
//! control plane says the workload answers for are kept, and everything else is counted to the workload's own name. A
//! control plane of the release before does not say; then the first few names are kept.

use mesh_proto::config::OwnWorkload;
use mesh_proto::name::ServiceRef;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names beside the workload's own, where nobody says which there are: a workload has a handful.
const UNTOLD_MAX: usize = 16;
/// Names beside the workload's own, where the control plane says which there are.
const TOLD_MAX: usize = 256;

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

    /// The name to record for one that a caller used; `told` is what the control plane says of the workload.
    pub(crate) fn of(&self, said: &ServiceRef, told: Option<&OwnWorkload>) -> Arc<str> {
        let text = said.to_string();
        let is_made_up = told.is_some_and(|told| !told.services.contains(said));
        if is_made_up || *text == *self.own {
            return Arc::clone(&self.own);
        }
        let mut others = self.others.borrow_mut();
        if let Some(known) = others.get(text.as_str()) {
            return Arc::clone(known);
        }
        if let Some(told) = told
            && others.len() >= TOLD_MAX
        {
            // Services come and go, and what was kept before the control plane said anything may be made up.
            let services: BTreeSet<String> = told.services.iter().map(ToString::to_string).collect();
            others.retain(|name| services.contains(&**name));
        }
        let most = if told.is_some() { TOLD_MAX } else { UNTOLD_MAX };
        if others.len() >= most {
            return Arc::clone(&self.own);
        }
        let name: Arc<str> = text.into();
        others.insert(Arc::clone(&name));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceRef {
        name.parse().unwrap()
    }

    #[test]
    fn invented_names_do_not_fill_the_table_of_edges() {
        let names = Names::new("shop/web-v1".into());
        assert_eq!(&*names.of(&service("shop/web"), None), "shop/web");
        let made: BTreeSet<_> =
            (0..5_000).map(|n| names.of(&service(&format!("shop/made-{n}")), None)).collect();
        assert!(made.len() <= UNTOLD_MAX, "{} names", made.len());
        assert_eq!(&*names.of(&service("shop/web"), None), "shop/web", "what was there stays");
        assert_eq!(&*names.of(&service("shop/web-v1"), None), "shop/web-v1");
        assert_eq!(&*names.of(&service("shop/one-more"), None), "shop/web-v1");
    }

    #[test]
    fn only_names_that_the_control_plane_knows_are_kept_where_it_tells() {
        let names = Names::new("shop/web-v1".into());
        for n in 0..UNTOLD_MAX {
            names.of(&service(&format!("shop/made-{n}")), None);
        }
        let told = OwnWorkload { services: vec![service("shop/web"), service("shop/www")] };
        let of = |said: &str| names.of(&service(said), Some(&told));
        assert_eq!(&*of("shop/web"), "shop/web", "although callers have made up as many as are kept");
        assert_eq!(&*of("shop/made-1"), "shop/web-v1");
        assert_eq!(&*of("shop/www"), "shop/www");
        let none = OwnWorkload::default();
        assert_eq!(&*names.of(&service("shop/web"), Some(&none)), "shop/web-v1", "it answers for it no more");
    }

    #[test]
    fn services_that_come_and_go_do_not_use_up_the_names() {
        let names = Names::new("shop/web-v1".into());
        for n in 0..TOLD_MAX * 4 {
            let name = format!("shop/web-{n}");
            let told = OwnWorkload { services: vec![service(&name)] };
            assert_eq!(*names.of(&service(&name), Some(&told)), *name);
            assert!(names.others.borrow().len() <= TOLD_MAX);
        }
    }
}
