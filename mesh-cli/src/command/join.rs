//! `meshctl join`: a workload on another machine, brought in with a one-time token.
//!
//! Everything but the evidence is as in `run`.

use super::run::{SidecarArgs, supervise};
use crate::failure::{Exit, Failure};
use clap::Args;
use mesh_proxy::IssuerConfig;

const EXAMPLES: &str = "\
Examples:
  # Where the control plane runs, which must be reachable (meshctl up --listen 10.0.0.5:15012):
  meshctl ca token --service-account reports --ttl 10m

  # On the other machine, with what it printed; --listen must be reachable from the others:
  meshctl join 10.0.0.5:15012 --token TOKEN --root-sha256 HEX \\
    --name reports --listen 10.0.0.9:15008 --to payments=9001 -- ./reports";

/// What `join` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct JoinArgs {
    /// The control plane's mutual-TLS port
    #[arg(value_name = "HOST:PORT", value_parser = host_and_port)]
    address: String,
    /// The one-time token of `meshctl ca token`; better given in the environment, where `ps` does not show it
    #[arg(long, env = "MESHCTL_JOIN_TOKEN", hide_env_values = true)]
    token: String,
    /// SHA-256 of the mesh's root certificate, in hex: the only thing trusted before the mesh is known
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    root_sha256: Sha256,
    #[command(flatten)]
    sidecar: SidecarArgs,
}

/// A pin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sha256([u8; 32]);

/// Joins the mesh and runs the program.
///
/// # Errors
/// As `run`, and when the token or the pin is refused.
pub(crate) async fn run(args: JoinArgs) -> Result<Exit, Failure> {
    let JoinArgs { address, token, root_sha256, sidecar } = args;
    let issuer = IssuerConfig::Join { address, root_sha256: root_sha256.0, token };
    let config = sidecar.to_config(issuer)?;
    supervise::run(config, &sidecar).await
}

fn host_and_port(text: &str) -> Result<String, String> {
    let wrong =
        || format!("{text:?} is not HOST:PORT, for instance 10.0.0.5:15012 or mesh.example.org:15012");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: mesh_proto::name::Port = port.parse().map_err(|_| wrong())?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) || host.contains(['/', '@', ' ']) {
        return Err(wrong());
    }
    Ok(format!("{host}:{port}"))
}

fn sha256(text: &str) -> Result<Sha256, String> {
    let wrong =
        || "it is not 64 hexadecimal digits; `meshctl ca token` prints it beside the token".to_owned();
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()
        .ok_or_else(wrong)?;
    let bytes: Vec<u8> =
        digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    if digits.len() != 64 {
        return Err(wrong());
    }
    bytes.try_into().map(Sha256).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_64_hexadecimal_digits() {
        let plain = "00ff".repeat(16);
        assert_eq!(sha256(&plain).expect("plain").0.get(..2), Some(&[0, 0xff][..]));
        assert!(sha256(&"AB:".repeat(32)).is_ok(), "as openssl prints it");
        for text in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"ß".repeat(32)] {
            assert!(sha256(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_control_plane_is_a_host_and_a_port() {
        for text in ["10.0.0.5:15012", "mesh.example.org:15012", "[::1]:15012"] {
            assert_eq!(host_and_port(text).as_deref(), Ok(text));
        }
        for text in ["", "host", "host:", ":1", "host:0", "::1:15012", "http://host:1", "host:99999"] {
            assert!(host_and_port(text).is_err(), "{text}");
        }
    }
}
