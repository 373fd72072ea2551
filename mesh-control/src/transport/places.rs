//! How many connections may be open: in all, and for each caller, so that nobody can take the places of the others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// The bounds of one port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections in all.
    pub(crate) all: usize,
    /// Connections of one caller who is known.
    pub(crate) each: usize,
}

/// The places of one port; `K` tells callers apart.
#[derive(Debug)]
pub(crate) struct Places<K> {
    bounds: Bounds,
    taken: Arc<Mutex<Taken<K>>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    by_caller: HashMap<K, usize>,
}

/// Why there is no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Full {
    /// All are taken.
    All,
    /// This caller has taken as many as one may.
    Each,
}

/// A place; free again when it is dropped.
pub(crate) struct Place(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(free) = self.0.take() {
            free();
        }
    }
}

impl<K: Eq + Hash + Clone + Send + Sync + 'static> Places<K> {
    /// All free.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, taken: Arc::new(Mutex::new(Taken { all: 0, by_caller: HashMap::new() })) }
    }

    /// A place for a caller; `each` may narrow the bound for callers of its kind.
    ///
    /// # Errors
    /// There is none, and whose fault that is.
    pub(crate) fn take(&self, caller: K, each: usize) -> Result<Place, Full> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_caller.get(&caller).copied().unwrap_or_default();
        if own >= each.min(self.bounds.each) {
            return Err(Full::Each);
        }
        if taken.all >= self.bounds.all {
            return Err(Full::All);
        }
        taken.by_caller.insert(caller.clone(), own.saturating_add(1));
        taken.all = taken.all.saturating_add(1);
        drop(taken);
        let taken = self.taken.clone();
        Ok(Place(Some(Box::new(move || {
            let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.all = taken.all.saturating_sub(1);
            if let Some(own) = taken.by_caller.get_mut(&caller) {
                *own = own.saturating_sub(1);
                if *own == 0 {
                    taken.by_caller.remove(&caller);
                }
            }
        }))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_take_the_places_of_the_others() {
        let places = Places::new(Bounds { all: 4, each: 3 });
        let mut greedy: Vec<_> = (0..3).map(|_| places.take("greedy", 3).unwrap()).collect();
        assert_eq!(places.take("greedy", 3).err(), Some(Full::Each));
        let modest = places.take("modest", 3).unwrap();
        assert_eq!(places.take("late", 3).err(), Some(Full::All));
        greedy.pop();
        assert_eq!(places.take("stranger", 0).err(), Some(Full::Each));
        assert!(places.take("late", 3).is_ok());
        drop((greedy, modest));
        assert!(places.taken.lock().unwrap().by_caller.is_empty());
    }
}
