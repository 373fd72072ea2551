//! The only reader of the environment, apart from the variables that clap reads for an option.
//!
//! Called once by `session`; everything behind it receives typed values.

use crate::failure::Failure;
use std::path::PathBuf;

/// Where the state lives when neither `--state-dir` nor `MESHCTL_STATE_DIR` says so: `$XDG_STATE_HOME/meshctl`, else
/// `~/.local/state/meshctl` (XDG base directory specification 0.8: a relative value is ignored).
///
/// # Errors
/// When there is no home directory either.
#[expect(clippy::disallowed_methods, reason = "this module reads the environment for the others")]
pub(crate) fn default_state_dir() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .map(|base| base.join("meshctl"))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state/meshctl")))
        .ok_or_else(|| {
            Failure::usage("there is no place for the mesh's state: neither HOME nor XDG_STATE_HOME is set")
                .next("meshctl --state-dir DIR …")
        })
}

/// The path of a program as `PATH` finds it; `None` when it is not there.
#[expect(clippy::disallowed_methods, reason = "this module reads the environment for the others")]
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

/// The program that opens a file in the user's browser; `None` where nobody sits before a screen.
#[expect(clippy::disallowed_methods, reason = "this module reads the environment for the others")]
pub(crate) fn browser_opener() -> Option<PathBuf> {
    let has_screen = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    match std::env::consts::OS {
        "macos" => find_program("open"),
        _ if has_screen => find_program("xdg-open"),
        _ => None,
    }
}

/// The address that `meshctl run` gave a demo application for its calls to a service; `None` when it did not.
#[expect(clippy::disallowed_methods, reason = "this module reads the environment for the others")]
pub(crate) fn address_of(service: &str) -> Option<std::net::SocketAddr> {
    std::env::var(outbound_variable(service)).ok()?.parse().ok()
}

/// The name of the variable in which `meshctl run` tells its child where a service is called: `MESHCTL_TO_PAYMENTS`.
///
/// `service` is as typed in `--to`; what is not a letter or digit becomes `_`.
pub(crate) fn outbound_variable(service: &str) -> String {
    let name = service.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    "MESHCTL_TO_".chars().chain(name).collect()
}
