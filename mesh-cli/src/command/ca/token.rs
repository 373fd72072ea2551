//! `meshctl ca token`: a one-time token with which a workload of another machine joins.

use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::session::Session;
use clap::Args;
use mesh_proto::name::{Namespace, ServiceAccount};
use mesh_proto::wire::v1;
use serde::Serialize;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  meshctl ca token --service-account reports
  meshctl ca token --service-account reports --namespace shop --ttl 1h -o json

The token is shown once; the mesh keeps only its hash. Only root and the mesh's owner can make one.";

/// What `ca token` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TokenArgs {
    /// The account the workload will have
    #[arg(long, value_name = "ACCOUNT")]
    service_account: ServiceAccount,
    /// Its namespace
    #[arg(long, default_value = "default")]
    namespace: Namespace,
    /// How long the token may be used
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration::parse)]
    ttl: Duration,
}

#[derive(Serialize)]
struct TokenOut {
    token: String,
    expires: String,
    root_sha256: String,
    address: String,
}

/// Makes and prints a token.
///
/// # Errors
/// When this user may not make one.
pub(crate) async fn run(args: TokenArgs, session: &Session) -> Result<Exit, Failure> {
    if args.ttl < Duration::from_secs(1) {
        return Err(Failure::usage("--ttl must be at least 1s"));
    }
    let client = session.admin().await?;
    let request = v1::CreateJoinTokenRequest {
        namespace: args.namespace.to_string(),
        service_account: args.service_account.to_string(),
        lifetime_seconds: args.ttl.as_secs(),
    };
    let response = client.answer(client.api().create_join_token(request).await)?;
    let v1::CreateJoinTokenResponse { token, expires_ms, root_sha256, address } = response;
    let out = TokenOut { token, expires: output::time(expires_ms), root_sha256, address };
    output::print_value(session.format, &out, || {
        format!(
            "usable once, until {}. On the other machine:\n\n  MESHCTL_JOIN_TOKEN={} meshctl join {} \\\n    --root-sha256 {} \\\n    --name {} --namespace {} --listen ADDRESS:PORT -- CMD…\n",
            out.expires, out.token, out.address, out.root_sha256, args.service_account, args.namespace
        )
    })?;
    if out.address.starts_with("127.") {
        output::warn(
            "the control plane listens on the loopback only; other machines need: meshctl up --listen ADDRESS:15012",
        );
    }
    Ok(Exit::Done)
}
