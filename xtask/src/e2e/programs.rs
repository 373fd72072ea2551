//! The image whose programs the scenarios run in pods: curl, Python with grpcio and websockets, PostgreSQL, Redis, tcpdump, a shell.
//!
//! All are this machine's own, packed with their libraries: unmodified programs, and no image registry. The scripts of
//! `pods/` and the peers of the integration tests lie in `/pods`.

use crate::images::pack::Image;
use crate::programs::{self, found};
use crate::step::root;
use crate::tools::Tools;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the manifests call the image.
pub(crate) const NAME: &str = "mesh-e2e-programs";
/// The user that the programs run as: PostgreSQL refuses root.
const USER: &str = "1000:1000";

/// What a shell script of a scenario may use.
const PROGRAMS: [&str; 17] = [
    "bash",
    "cat",
    "curl",
    "date",
    "env",
    "grep",
    "head",
    "id",
    "ls",
    "mkdir",
    "openssl",
    "redis-cli",
    "redis-server",
    "sleep",
    "tail",
    "tcpdump",
    "timeout",
];
/// Of PostgreSQL's own folder.
const POSTGRES: [&str; 4] = ["initdb", "postgres", "psql", "pg_isready"];
/// What nobody runs in a pod, of Python's library and of PostgreSQL's.
const UNNEEDED: [&str; 12] = [
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "distutils",
    "site-packages",
    "__pycache__",
    "config-3.11-x86_64-linux-gnu",
    "bitcode",
    "llvmjit.so",
];
/// The packages of the test environment, beside what pip needs for itself.
const PACKAGES: [&str; 2] = ["grpc", "websockets"];

/// Packs it; gives `name:tag`.
pub(crate) fn make(tools: &Tools, tag: &str) -> Result<String> {
    programs::install_for_pods()?;
    let mut image = Image::new(NAME, USER)?
        .file("/etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n")?
        .file("/etc/group", "root:x:0:\napp:x:1000:\n")?
        .file("/etc/nsswitch.conf", "hosts: files dns\n")?
        .scratch("/tmp")?
        .scratch("/run")?
        .env("HOME=/tmp");
    for program in PROGRAMS {
        image = image.installed_as(&found(program)?, &format!("/usr/bin/{program}"))?;
    }
    image = image.link("/bin/sh", Path::new("/usr/bin/bash"))?;
    image = python(image)?;
    image = postgres(image)?;
    for folder in ["xtask/src/e2e/pods", "integration-tests/tests/it/peers"] {
        for entry in std::fs::read_dir(root().join(folder))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            image = image.file(&format!("/pods/{name}"), &std::fs::read_to_string(&path)?)?;
        }
    }
    image.import(tools, tag)
}

/// The interpreter of the test environment, with its library and the two packages.
fn python(image: Image) -> Result<Image> {
    let ask = "import os, sys, sysconfig; paths = sysconfig.get_paths(); \
               print(os.path.realpath(sys.executable)); print(paths['stdlib']); print(paths['purelib'])";
    let told =
        Command::new(programs::python()).args(["-c", ask]).output().context("python could not be started")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let mut lines = told.lines().map(PathBuf::from);
    let mut next = || lines.next().context("python does not say where it is");
    let (interpreter, library, packages) = (next()?, next()?, next()?);
    let mut image = image.installed(&interpreter)?.folder(&library, &UNNEEDED)?;
    for package in PACKAGES {
        image = image.folder(&packages.join(package), &["__pycache__"])?;
    }
    let typing = packages.join("typing_extensions.py");
    if typing.is_file() {
        image = image.installed(&typing)?;
    }
    let image = image.link("/usr/bin/python3", &interpreter)?;
    Ok(image.env(&format!("PYTHONPATH={}", packages.display())).env("PYTHONUNBUFFERED=1"))
}

fn postgres(mut image: Image) -> Result<Image> {
    let folder = programs::postgres()?;
    for program in POSTGRES {
        image = image
            .installed(&folder.join("bin").join(program))?
            .link(&format!("/usr/bin/{program}"), &folder.join("bin").join(program))?;
    }
    let version = folder.file_name().context("PostgreSQL's folder has no version")?;
    let data = Path::new("/usr/share/postgresql").join(version);
    image.folder(&folder.join("lib"), &UNNEEDED)?.folder(&data, &["man"])
}
