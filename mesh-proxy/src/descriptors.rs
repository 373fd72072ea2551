//! How many sockets this process may have.
//!
//! `run` raises the soft limit to what the system allows, since each connection carried needs two descriptors and 1,024 is
//! the soft limit in most places. Whoever starts a program beside the proxy gives it the limit of before with
//! [`SoftLimit::during`]: a program that uses `select` must not get more than it was built for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A soft limit as it stood.
#[derive(Clone, Debug)]
pub struct SoftLimit(Rlimit);

impl SoftLimit {
    /// The limit of now.
    pub fn current() -> Self {
        Self(getrlimit(Resource::Nofile))
    }

    /// Does `work`, in which programs are started, under this limit.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let now = getrlimit(Resource::Nofile);
        // A failure changes nothing: the program then has the limit that this process has.
        let _ = setrlimit(Resource::Nofile, self.0);
        let done = work();
        let _ = setrlimit(Resource::Nofile, now);
        done
    }
}

/// Takes as many descriptors as the system lets this process have.
pub(crate) fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // What it was given is what it has.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// How many connections each direction of each of `workers` may have open, at most `most`: a quarter of the descriptors for
/// each direction, since every connection carried opens another one.
pub(crate) fn connections_max(workers: usize, most: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let workers = u64::try_from(workers).unwrap_or(1).max(1);
    (limit / 4 / workers).clamp(16, most)
}
