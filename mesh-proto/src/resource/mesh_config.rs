//! `MeshConfig`: what holds for the whole mesh. There is one, named `mesh`.

use super::meta::Meta;
use crate::config::MtlsMode;
use crate::identity::TrustDomain;

/// Mesh-wide settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshConfig {
    /// Name and origin; always named `mesh`.
    pub meta: Meta,
    /// The mesh's trust domain; `None`: the one the control plane was started with. It cannot be changed later.
    pub trust_domain: Option<TrustDomain>,
    /// What happens when no rule matches; `false` denies, and is the default.
    pub default_allow: bool,
    /// Whether plaintext is accepted inbound.
    pub mtls: MtlsMode,
    /// Share of allowed requests written to the access log, in 1/10,000.
    pub access_log_sample: u32,
}

/// 1 %: enough to see what goes on, little enough not to cost.
pub const ACCESS_LOG_SAMPLE_DEFAULT: u32 = 100;

impl MeshConfig {
    /// What holds when nobody applied a `MeshConfig`: deny, strict, 1 % of allowed requests in the log.
    pub fn defaults() -> Self {
        let meta = Meta {
            namespace: None,
            name: singleton_name(),
            labels: super::meta::Labels::new(),
            origin: super::meta::Origin { file: "".into(), line: 0 },
        };
        Self {
            meta,
            trust_domain: None,
            default_allow: false,
            mtls: MtlsMode::Strict,
            access_log_sample: ACCESS_LOG_SAMPLE_DEFAULT,
        }
    }
}

/// The only name a `MeshConfig` may have.
#[expect(clippy::expect_used, reason = "a literal that is a DNS label")]
fn singleton_name() -> crate::name::ObjectName {
    "mesh".parse().expect("a DNS label")
}
