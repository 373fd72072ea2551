//! The built programs against real applications and faults; one file for each subject.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking with what it saw")]

mod alarms;
mod conformance;
mod control_plane;
mod dashboard;
mod databases;
mod figures;
mod floods;
mod http;
mod identity;
mod load;
mod monitoring;
mod peers;
mod policy;
mod redirect;
mod rotation;
mod strangers;
mod traces;
mod transparent;
