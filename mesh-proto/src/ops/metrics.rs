//! Metric names, and the closed sets that their labels take values from.
//!
//! Counting happens where things happen; a name or a label that is not here does not exist. Names follow the Prometheus
//! rules: base units, `_total` for counters (the client library appends it, so it is not part of the constants below).

use std::fmt;

/// Declares an enum whose values are label values.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The label's value.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

label!(
    /// Label `direction`, seen from the workload.
    Direction {
        /// To the workload.
        Inbound = "inbound",
        /// From the workload.
        Outbound = "outbound",
    }
);
label!(
    /// Label `outcome` of a request or connection.
    Outcome {
        /// It passed.
        Allowed = "allowed",
        /// A rule or the default refused it.
        Denied = "denied",
        /// A limit refused it.
        Limited = "limited",
        /// It could not be served: no endpoint, connect failure, timeout.
        Failed = "failed",
        /// It was not a request that has one meaning.
        Malformed = "malformed",
    }
);
label!(
    /// Label `class` of a response's status.
    ResponseClass {
        /// 1xx, interim.
        Informational = "1xx",
        /// 2xx, or gRPC status 0.
        Success = "2xx",
        /// 3xx.
        Redirection = "3xx",
        /// 4xx.
        ClientError = "4xx",
        /// 5xx, or another gRPC status.
        ServerError = "5xx",
        /// No response: not HTTP, or cut off.
        None = "none",
    }
);
label!(
    /// Label `tls` of a connection.
    TlsState {
        /// Mutual TLS of the mesh.
        Mutual = "mutual",
        /// The application's own TLS, passed through.
        Passthrough = "passthrough",
        /// None.
        Plaintext = "plaintext",
    }
);
label!(
    /// Label `result` of an update, a renewal, a commit.
    OpResult {
        /// It worked.
        Ok = "ok",
        /// It did not, and was refused or will be tried again.
        Error = "error",
    }
);
label!(
    /// Label `reason` of an entry in a proxy's report that was not taken.
    ReportFault {
        /// The proxy spoke for somebody else.
        Foreign = "foreign",
        /// A decision under an id that is another proxy's.
        Forged = "forged",
        /// There was no room for one more edge, of this identity or of all.
        NoRoom = "no_room",
        /// A stream too many of the same proxy.
        TooManyStreams = "too_many_streams",
    }
);
label!(
    /// Label `kind` of a security event.
    EventKind {
        /// A rule, the default or the want of one refused a request or connection.
        Refused = "refused",
        /// A limit refused it.
        Limited = "limited",
        /// Somebody could not prove who he is.
        Unauthenticated = "unauthenticated",
        /// Plaintext where mutual TLS is asked for.
        Plaintext = "plaintext",
        /// A certificate was refused, has expired, is revoked or could not be renewed.
        Certificate = "certificate",
        /// Resources were applied, deleted, rolled back or restored.
        PolicyChanged = "policy_changed",
        /// The authority changed a key or what is trusted.
        KeyRotated = "key_rotated",
        /// A certificate or an identity was revoked, or the revocation undone.
        Quarantine = "quarantine",
        /// An admin call was refused.
        AdminRefused = "admin_refused",
        /// A proxy reported what it cannot honestly report.
        Dishonest = "dishonest_report",
    }
);
label!(
    /// How much a security event asks for a person. In the order of weight.
    Severity {
        /// Worth knowing.
        Info = "info",
        /// Somebody was kept out; many of it are worth a look.
        Notice = "notice",
        /// Somebody should look.
        Warning = "warning",
        /// Somebody should look now.
        Critical = "critical",
    }
);

impl EventKind {
    /// How much an event of this kind weighs when nothing more is known.
    pub fn severity(self) -> Severity {
        match self {
            Self::PolicyChanged | Self::KeyRotated => Severity::Info,
            Self::Refused | Self::Limited => Severity::Notice,
            Self::Unauthenticated | Self::Plaintext | Self::Certificate | Self::AdminRefused => {
                Severity::Warning
            }
            Self::Quarantine | Self::Dishonest => Severity::Critical,
        }
    }

    /// The kind that a word names.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }
}

impl Severity {
    /// The severity that a word names.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|severity| severity.as_str() == word)
    }
}

impl ResponseClass {
    /// The class of an HTTP status.
    pub fn of_status(status: u16) -> Self {
        match status {
            100..=199 => Self::Informational,
            200..=299 => Self::Success,
            300..=399 => Self::Redirection,
            400..=499 => Self::ClientError,
            500..=599 => Self::ServerError,
            _ => Self::None,
        }
    }
}

/// Names of the proxy's metrics.
pub mod proxy {
    /// Counter: requests, by `direction`, `protocol`, `outcome`, `class`.
    pub const REQUESTS: &str = "mesh_requests";
    /// Counter: refused requests and connections, by `direction`, `reason`.
    pub const REFUSALS: &str = "mesh_refusals";
    /// Histogram: seconds from request head to response end, by `direction`, `protocol`.
    pub const REQUEST_SECONDS: &str = "mesh_request_duration_seconds";
    /// Counter: connections, by `direction`, `tls`.
    pub const CONNECTIONS: &str = "mesh_connections";
    /// Counter: TLS sessions accepted that carry many streams; each stream is a connection by itself.
    pub const SESSIONS: &str = "mesh_sessions";
    /// Gauge: open connections, by `direction`.
    pub const CONNECTIONS_OPEN: &str = "mesh_connections_open";
    /// Counter: payload bytes, by `direction`; inbound is what the workload received.
    pub const BYTES: &str = "mesh_bytes";
    /// Counter: TLS handshakes that failed, by `direction`, `reason`.
    pub const HANDSHAKE_FAILURES: &str = "mesh_tls_handshake_failures";
    /// Counter: requests that an audit-mode policy or limit would have refused, by `reason`.
    pub const AUDITED: &str = "mesh_audit_would_deny";
    /// Gauge: seconds until the certificate expires.
    pub const CERTIFICATE_EXPIRES_SECONDS: &str = "mesh_certificate_expires_seconds";
    /// Counter: certificate renewals, by `result`.
    pub const CERTIFICATE_RENEWALS: &str = "mesh_certificate_renewals";
    /// Gauge: revision of the snapshot in use.
    pub const REVISION: &str = "mesh_revision";
    /// Counter: snapshot updates, by `result`.
    pub const UPDATES: &str = "mesh_updates";
    /// Gauge: 1 while the control plane is connected.
    pub const CONTROL_CONNECTED: &str = "mesh_control_connected";
    /// Gauge: 1, with what the workload is called: `namespace`, `workload`. To join other metrics of the same instance with.
    pub const WORKLOAD_INFO: &str = "mesh_workload_info";
    /// Counter: reports, decisions, spans and log lines dropped because a queue was full, by `queue`.
    pub const DROPPED: &str = "mesh_dropped";
}

/// Names of the control plane's metrics.
pub mod control {
    /// Gauge: connected proxies.
    pub const PROXIES: &str = "mesh_control_proxies";
    /// Gauge: last accepted revision.
    pub const REVISION: &str = "mesh_control_revision";
    /// Counter: updates sent.
    pub const UPDATES_SENT: &str = "mesh_control_updates_sent";
    /// Counter: acknowledgements, by `result`.
    pub const ACKNOWLEDGEMENTS: &str = "mesh_control_acknowledgements";
    /// Histogram: seconds from commit to a proxy's acknowledgement.
    pub const PROPAGATION_SECONDS: &str = "mesh_control_propagation_seconds";
    /// Counter: certificates issued, by `result`.
    pub const CERTIFICATES: &str = "mesh_control_certificates";
    /// Gauge: seconds until the issuing intermediate expires.
    pub const INTERMEDIATE_EXPIRES_SECONDS: &str = "mesh_control_intermediate_expires_seconds";
    /// Counter: store commits, by `result`.
    pub const COMMITS: &str = "mesh_control_store_commits";
    /// Histogram: seconds from write to durable.
    pub const COMMIT_SECONDS: &str = "mesh_control_store_commit_seconds";
    /// Gauge: 1 while the store accepts writes.
    pub const STORE_WRITABLE: &str = "mesh_control_store_writable";
    /// Counter: reports received from proxies.
    pub const REPORTS: &str = "mesh_control_reports";
    /// Counter: entries of reports that were not taken, by `reason`: one of [`ReportFault`](super::ReportFault).
    pub const REPORT_FAULTS: &str = "mesh_control_report_faults";
    /// Counter: admin calls that were refused because the caller may not make them.
    pub const DENIED: &str = "mesh_control_admin_denied";
    /// Counter: resyncs because digests differed.
    pub const RESYNCS: &str = "mesh_control_resyncs";
    /// Counter: updates that a proxy did not answer in time and got again.
    pub const ANSWERS_MISSED: &str = "mesh_control_answers_missed";
    /// Counter: TLS handshakes that failed, by `reason`.
    pub const HANDSHAKE_FAILURES: &str = "mesh_control_tls_handshake_failures";
    /// Counter: security events, by `kind`: one of [`EventKind`](super::EventKind).
    pub const SECURITY_EVENTS: &str = "mesh_control_security_events";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_words() {
        let words: Vec<_> = Outcome::ALL.iter().map(|outcome| outcome.as_str()).collect();
        let mut unique = words.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(words.len(), unique.len());
        assert_eq!(ResponseClass::of_status(204), ResponseClass::Success);
        assert_eq!(ResponseClass::of_status(0), ResponseClass::None);
    }
}
