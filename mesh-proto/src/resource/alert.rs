//! What `AlertRule` and `AlertSink` share: the names of detectors and how much an alarm weighs.

use std::fmt;

macro_rules! detectors {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)+) => {
        /// What the control plane watches for. Each is explained where it is made: `mesh_control::detect`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Detector { $($(#[$doc])* $name,)+ }

        impl Detector {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word in resources, on the wire and on the screen.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }
        }
    };
}

detectors! {
    /// Somebody calls a service that it never called before.
    NewEdge = "newEdge",
    /// A call to a path that nobody used on this edge before.
    NewPath = "newPath",
    /// Many refusals of one caller at one place.
    DenialBurst = "denialBurst",
    /// One caller tries many ports, services or paths.
    Scan = "scan",
    /// More calls than usual fail.
    ErrorRate = "errorRate",
    /// Calls take longer than usual.
    Latency = "latency",
    /// Far more bytes than usual flow on an edge.
    Exfiltration = "exfiltration",
    /// An edge that always had traffic has none.
    Silence = "silence",
    /// One identity is used from two places at once.
    TwoPlaces = "twoPlaces",
    /// A limit refuses a large share of somebody's calls.
    RateLimitPressure = "rateLimitPressure",
    /// Plaintext, or a peer without an identity.
    Plaintext = "plaintext",
    /// Certificates are refused, or not renewed in time.
    CertificateTrouble = "certificateTrouble",
    /// A proxy's clock is not ours.
    ClockSkew = "clockSkew",
    /// Alarms cannot be delivered.
    SinkDown = "sinkDown",
}

impl fmt::Display for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much an alarm asks for a person. In the order of weight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody should look now.
    Critical,
}

impl Severity {
    /// All of them, lightest first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// The word in resources, on the wire and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
