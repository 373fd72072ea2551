//! `meshctl demo`: a whole mesh at work, from nothing, in under a minute.
//!
//! Starts a control plane and a small shop as separate processes of this binary (`world`), applies the resources of
//! `deploy/examples/shop`, and plays the acts of `acts`: nothing passes without a policy; what the policy allows passes,
//! encrypted and identified; an intruder is refused by a named rule; a caller that is too fast is limited and nobody else
//! notices; every certificate and then the root are replaced with no failed request. What must be so is checked, and the
//! exit code says whether it was.

mod acts;
mod app;
mod ending;
mod screen;
mod stage;
mod tally;
mod world;

pub(crate) use app::{AppArgs, run as run_app};

use crate::failure::{Exit, Failure, Kind};
use crate::output::{self, Typed};
use crate::session::{Global, SOCKET_NAME};
use clap::Args;
use screen::Screen;
use stage::Stage;
use std::path::{Path, PathBuf};
use world::World;

/// Where the shop lives.
const NAMESPACE: &str = "shop";
/// A Unix socket's path has room for 107 bytes (unix(7)); the control plane asks for some of them.
const SOCKET_PATH_BYTES_MAX: usize = 100;

const EXAMPLES: &str = "\
Examples:
  meshctl demo                        # half a minute; exit code 3 when anything was not as it must
  meshctl demo --keep                 # leaves the shop running until Ctrl-C, to look around in
  meshctl demo | tee demo.txt         # plain lines

Nothing is installed, no root is needed, and everything is ended and removed afterwards.";

/// What `demo` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Leave the shop running until Ctrl-C, and keep the state directory
    #[arg(long)]
    keep: bool,
}

/// Runs the demo.
///
/// # Errors
/// When a process cannot be started or falls, or the user interrupts.
pub(crate) async fn run(args: DemoArgs, global: &Global) -> Result<Exit, Failure> {
    if global.output != Typed::Table {
        return Err(Failure::usage("the demo prints for people only").next("meshctl demo"));
    }
    let place = Place::new(global.state_dir.as_deref())?;
    let world = World::new(place.path(), NAMESPACE)?;
    let mut stage = Stage::new(world, Screen::new(now()))?;
    let played = acts::play(&mut stage, &place.path().join(SOCKET_NAME)).await;
    let played = match played {
        Ok(()) if args.keep => keep(&mut stage, place.path()).await,
        played => played,
    };
    stage.world.end().await;
    let is_good = played.is_ok() && stage.expectations.iter().all(|expectation| expectation.is_met);
    let is_interrupted = matches!(
        &played,
        Err(failure) if failure.kind == Kind::Interrupted || failure.kind == Kind::ReaderGone
    );
    if args.keep || !(is_good || is_interrupted) {
        place.keep();
    }
    played?;
    if !args.keep {
        ending::summary(&mut stage)?;
        ending::next_steps(&mut stage)?;
    }
    Ok(if is_good { Exit::Done } else { Exit::Bad })
}

async fn keep(stage: &mut Stage, state_dir: &Path) -> Result<(), Failure> {
    ending::summary(stage)?;
    ending::keeping(stage, state_dir)?;
    stage.until_signal().await;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the demo shows the time since its start")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// The state directory: the user's, or one that goes with the demo.
enum Place {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Place {
    fn new(given: Option<&Path>) -> Result<Self, Failure> {
        let place = match given {
            Some(dir) => {
                let dir = std::path::absolute(dir)
                    .map_err(|error| Failure::usage(format!("--state-dir {}: {error}", dir.display())))?;
                super::up::check_state_dir(&dir)?;
                if dir.join("store").exists() {
                    return Err(Failure::failed(format!("{} holds a mesh already", dir.display()))
                        .next("meshctl demo   # in a directory of its own"));
                }
                Self::Given(dir)
            }
            None => tempfile::Builder::new()
                .prefix("meshctl-demo-")
                .tempdir()
                .map(Self::Temporary)
                .map_err(|error| Failure::failed(format!("cannot make a temporary directory: {error}")))?,
        };
        let socket = place.path().join(SOCKET_NAME);
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(Failure::failed(format!(
                "the path {} is too long for a socket; at most {SOCKET_PATH_BYTES_MAX} bytes",
                socket.display()
            ))
            .next("TMPDIR=/tmp meshctl demo"));
        }
        Ok(place)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }

    /// Leaves everything for somebody to look at.
    fn keep(self) {
        if let Self::Temporary(dir) = self {
            let path = dir.keep();
            output::note(&format!("state and logs are kept in {}", path.display()));
        }
    }
}
