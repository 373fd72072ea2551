//! `cargo xtask images`: the mesh's container images.
//!
//! Each holds one program, exactly the shared libraries that it needs, and nothing else: no shell, no package manager, no
//! base image. They are packed by `tar` and taken in by `docker import`, so that neither a builder nor a registry is needed.
//!
//! # Why
//! A base image would bring programs that an intruder could use and libraries that must be kept up to date for nothing; a
//! fully static build would need a C library of its own for each target.

pub(crate) mod pack;

use crate::programs;
use crate::step::Step;
use crate::tools::Tools;
use anyhow::Result;
use pack::Image;
use std::path::PathBuf;

/// The version of the workspace, which is the tag.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The user that the control plane runs as: "nonroot" by the custom of images without a distribution.
const CONTROL_USER: &str = "65532:65532";
/// The user that the proxy runs as; its packets are told apart by it (`mesh_proxy::ports::PROXY_UID`).
const PROXY_USER: &str = "1774:1774";
/// Writing packet rules needs root.
const INIT_USER: &str = "0:0";

/// What to build, and where to put it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How the programs are built.
    #[arg(long, default_value = "release")]
    pub(crate) profile: Profile,
    /// The images' tag.
    #[arg(long, default_value = VERSION)]
    tag: String,
    /// Also load the images into this kind cluster.
    #[arg(long, value_name = "CLUSTER")]
    load: Option<String>,
}

/// How programs are built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Profile {
    /// As the tests build them.
    Dev,
    /// Near release speed at a fraction of its build time.
    Quick,
    /// As users get them.
    Release,
}

impl Profile {
    /// Builds the mesh's programs.
    ///
    /// # Errors
    /// When cargo fails.
    pub(crate) fn build(self) -> Result<()> {
        // With the features that the other steps of a run build with, so that nothing is compiled a second time.
        let args: &[&str] = match self {
            Self::Dev => &["build", "--locked", "--workspace", "--bins"],
            Self::Quick => &["build", "--locked", "--profile", "quick"],
            Self::Release => &["build", "--locked", "--release"],
        };
        let mut args = args.to_vec();
        if self != Self::Dev {
            args.extend([
                "--package",
                "mesh-control",
                "--package",
                "mesh-proxy",
                "--package",
                "mesh-cli",
                "--bins",
            ]);
        }
        Step::cargo("programs", &args).run()
    }

    /// Where a built program is.
    pub(crate) fn program(self, name: &str) -> PathBuf {
        let folder = match self {
            Self::Dev => "debug",
            Self::Quick => "quick",
            Self::Release => "release",
        };
        crate::step::target().join(folder).join(name)
    }
}

/// Builds, packs, and loads them where that is asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted: &[&str] = if args.load.is_some() { &["docker", "kind"] } else { &["docker"] };
    let tools = Tools::find(wanted)?;
    args.profile.build()?;
    let names = make(&tools, args.profile, &args.tag)?;
    if let Some(cluster) = &args.load {
        load(&tools, cluster, &names)?;
    }
    Ok(())
}

/// Packs the built programs; gives the images' names.
pub(crate) fn make(tools: &Tools, profile: Profile, tag: &str) -> Result<Vec<String>> {
    programs::install_packet_filter()?;
    let control = profile.program("mesh-control");
    let proxy = profile.program("mesh-proxy");
    let images = [
        Image::new("mesh-control", CONTROL_USER)?.program(&control, "/mesh-control")?,
        Image::new("mesh-proxy", PROXY_USER)?.program(&proxy, "/mesh-proxy")?,
        Image::new("mesh-init", INIT_USER)?
            .program(&proxy, "/mesh-proxy")?
            .program(&programs::found("nft")?, "/usr/sbin/nft")?,
    ];
    images.into_iter().map(|image| image.import(tools, tag)).collect()
}

/// Puts images onto every node of a kind cluster.
pub(crate) fn load(tools: &Tools, cluster: &str, images: &[String]) -> Result<()> {
    let mut kind = tools.command("kind");
    kind.args(["load", "docker-image", "--name", cluster]).args(images);
    Step::of("images into the cluster", kind).run()
}
