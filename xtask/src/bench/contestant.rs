//! Who is measured: nothing in between, two bare relays, the mesh, and its peers. All run at once, one is loaded at a
//! time; each can be started again, alone and fresh, where memory is measured.

use super::backend::Backend;
use super::peers::{self, adaptor};
use super::process::{Cpu, Process, loopback, wait_for_listener};
use super::work::{Needs, Work};
use super::{load, mesh, relay};
use anyhow::{Result, ensure};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A running pair of proxies, or what stands for one.
pub(super) struct Contestant {
    /// Its name in the table.
    pub(super) name: String,
    /// Where its files and logs are.
    pub(super) folder: PathBuf,
    /// The processes whose CPU counts: client side, server side.
    pub(super) proxies: Vec<Process>,
    /// Processes that only must live on.
    pub(super) others: Vec<Process>,
    /// Where the load goes.
    pub(super) http1: Option<SocketAddr>,
    pub(super) http2: Option<SocketAddr>,
    pub(super) tcp: Option<SocketAddr>,
    pub(super) handshake: Option<SocketAddr>,
    pub(super) rules: Option<SocketAddr>,
    /// Where Prometheus would ask for its metrics, and how.
    pub(super) metrics: Vec<(SocketAddr, &'static str)>,
}

impl Contestant {
    pub(super) fn new(name: &str, folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            folder: folder.to_path_buf(),
            proxies: Vec::new(),
            others: Vec::new(),
            http1: None,
            http2: None,
            tcp: None,
            handshake: None,
            rules: None,
            metrics: Vec::new(),
        }
    }

    pub(super) fn address(&self, work: Work) -> Option<SocketAddr> {
        self.address_of(work.needs())
    }

    pub(super) fn address_of(&self, needs: Needs) -> Option<SocketAddr> {
        match needs {
            Needs::Http1 => self.http1,
            Needs::Http2 => self.http2,
            Needs::Tcp => self.tcp,
            Needs::Handshake => self.handshake,
            Needs::Rules => self.rules,
        }
    }

    /// Carries nothing but the work that it was set up for.
    fn only_for(mut self, needs: Needs) -> Self {
        match needs {
            Needs::Handshake => self.handshake = self.tcp,
            Needs::Rules => self.rules = self.http1,
            Needs::Http1 | Needs::Http2 | Needs::Tcp => return self,
        }
        (self.http1, self.http2, self.tcp) = (None, None, None);
        self
    }

    pub(super) fn cpu(&self) -> Result<Vec<Cpu>> {
        self.proxies.iter().map(Process::cpu).collect()
    }

    /// Waits until every port it has carries bytes to the backend and back.
    pub(super) fn wait(&mut self) -> Result<()> {
        for address in [self.http1, self.http2, self.tcp].into_iter().flatten() {
            wait_for_listener(&self.name, address)?;
        }
        self.wait_for_answer()
    }

    /// Waits until a request through it is answered (a round trip made, where it carries no HTTP).
    pub(super) fn wait_for_answer(&mut self) -> Result<()> {
        let (http1, tcp) = (self.http1.or(self.rules), self.tcp.or(self.handshake));
        let folder = self.folder.clone();
        let processes = &mut self.proxies;
        super::process::wait(&self.name, || {
            for process in processes.iter_mut() {
                process.check(&folder)?;
            }
            Ok(match (http1, tcp) {
                (Some(address), _) => load::answers(address).is_ok(),
                (None, Some(address)) => load::echoes(address).is_ok(),
                (None, None) => true,
            })
        })
    }
}

type Start = Box<dyn Fn(&Path, &Backend) -> Result<Contestant>>;

/// Somebody who can be started, any number of times.
pub(super) struct Entry {
    /// Its name in the table.
    pub(super) name: String,
    /// Whose other set-up it is, for the works that are apart.
    pub(super) apart_of: Option<&'static str>,
    start: Start,
}

impl Entry {
    fn new(name: &str, start: impl Fn(&Path, &Backend) -> Result<Contestant> + 'static) -> Self {
        Self { name: name.to_owned(), apart_of: None, start: Box::new(start) }
    }

    /// The same, of somebody who is there already, for one work only.
    fn apart(
        of: &'static str,
        (name, needs): (&str, Needs),
        start: impl Fn(&Path, &Backend) -> Result<Contestant> + 'static,
    ) -> Self {
        let start = move |folder: &Path, backend: &Backend| Ok(start(folder, backend)?.only_for(needs));
        Self { name: name.to_owned(), apart_of: Some(of), start: Box::new(start) }
    }

    /// Who must be asked for, to get this.
    pub(super) fn asked_as(&self) -> &str {
        self.apart_of.unwrap_or(&self.name)
    }

    /// Starts it with its files in a folder of its own, which is made.
    pub(super) fn start(&self, folder: &Path, backend: &Backend) -> Result<Contestant> {
        std::fs::create_dir_all(folder)?;
        (self.start)(folder, backend)
    }
}

/// Everybody asked for (all when nobody is named): the built-in ones, other builds of the mesh, and one for each adaptor
/// file.
pub(super) fn entries(meshctl: &Path, builds: &[(String, PathBuf)], only: &[String]) -> Result<Vec<Entry>> {
    let mut all = vec![
        Entry::new("direct", |folder, backend| {
            let mut direct = Contestant::new("direct", folder);
            direct.http1 = Some(loopback(backend.http));
            direct.http2 = direct.http1;
            direct.tcp = Some(loopback(backend.tcp));
            Ok(direct)
        }),
        Entry::new("relay", relay::start),
    ];
    all.extend(meshes(meshctl.to_path_buf()));
    for (name, program) in builds {
        let (own, program) = (name.clone(), program.clone());
        let setup = mesh::Setup::default();
        let start =
            move |folder: &Path, backend: &Backend| mesh::start(&own, folder, backend, (&program, setup));
        all.push(Entry::new(name, start));
    }
    for (name, start) in peers::ALL {
        all.push(Entry::new(name, start));
    }
    for adaptor in adaptor::from_environment()? {
        let name = adaptor.name.clone();
        all.push(Entry::new(&name, move |folder, backend| adaptor.start(folder, backend)));
    }
    for (of, name, start) in peers::UNRESUMED {
        all.push(Entry::apart(of, (name, Needs::Handshake), start));
    }
    let names: Vec<String> = all.iter().map(|entry| entry.asked_as().to_owned()).collect();
    for asked in only {
        ensure!(names.contains(asked), "no contestant is called {asked:?}; there are {}", names.join(", "));
    }
    let is_asked = |entry: &Entry| only.is_empty() || only.iter().any(|one| one == entry.asked_as());
    all.retain(|entry| is_asked(entry) || builds.iter().any(|(name, _)| *name == entry.name));
    Ok(all)
}

/// The mesh as it is, and as it is set up for the works that are apart.
fn meshes(meshctl: PathBuf) -> Vec<Entry> {
    let start = move |name: &'static str, setup: mesh::Setup| {
        let meshctl = meshctl.clone();
        move |folder: &Path, backend: &Backend| mesh::start(name, folder, backend, (&meshctl, setup))
    };
    let usual = mesh::Setup::default();
    let (few, many) = (mesh::Setup { rules: 10, ..usual }, mesh::Setup { rules: 10_000, ..usual });
    let unshared = mesh::Setup { multiplexing: false, ..usual };
    vec![
        Entry::new("mesh", start("mesh", usual)),
        Entry::apart("mesh", (mesh::UNSHARED, Needs::Handshake), start(mesh::UNSHARED, unshared)),
        Entry::apart("mesh", (mesh::FEW_RULES, Needs::Rules), start(mesh::FEW_RULES, few)),
        Entry::apart("mesh", (mesh::MANY_RULES, Needs::Rules), start(mesh::MANY_RULES, many)),
    ]
}

/// Asks every contestant for its metrics, as Prometheus would, until dropped.
pub(super) struct Scraper(Option<tokio::runtime::Runtime>);

impl Scraper {
    /// Once a second: fifteen times as often as is usual, since the rounds are short.
    const EVERY: Duration = Duration::from_secs(1);

    pub(super) fn start(contestants: &[Contestant]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        for (address, path) in contestants.iter().flat_map(|contestant| contestant.metrics.clone()) {
            runtime.spawn(async move {
                let mut every = tokio::time::interval(Self::EVERY);
                loop {
                    every.tick().await;
                    // A scrape that fails is seen once, at the start, by `check`.
                    drop(load::scrape(address, path).await);
                }
            });
        }
        Ok(Self(Some(runtime)))
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Fails when a contestant's metrics cannot be had.
pub(super) fn check_metrics(contestant: &Contestant) -> Result<()> {
    for (address, path) in &contestant.metrics {
        let bytes = load::block_on(load::scrape(*address, path))?;
        ensure!(bytes > 500, "{} has no metrics at {address}{path}", contestant.name);
    }
    Ok(())
}
