//! What went over the wire: tcpdump on loopback, for one port.

use crate::process::Process;
use crate::{programs, wait};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A running capture.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Captures every packet from and to this port on loopback.
    #[track_caller]
    pub fn start(folder: &Path, port: u16) -> Self {
        let file = folder.join(format!("port-{port}.pcap"));
        let mut command = Command::new(programs::system("tcpdump"));
        command.args(["-i", "lo", "-U", "-s", "0", "-w"]).arg(&file).arg(format!("tcp port {port}"));
        // As root tcpdump gives up its rights and could then not write into the test's folder.
        command.args(["-Z", "root"]);
        let process = Process::start(&format!("tcpdump-{port}"), folder, &mut command);
        wait::until("tcpdump to listen", || process.output().contains("listening on").then_some(()));
        Self { process, file }
    }

    /// Ends the capture and gives the bytes of all packets, headers included.
    #[track_caller]
    pub fn finish(mut self) -> Vec<u8> {
        // Written with -U, packet by packet: wait until the file no longer grows.
        let mut size = 0;
        let mut same = 0;
        wait::until("the capture to settle", || {
            let now = std::fs::metadata(&self.file).map_or(0, |data| data.len());
            same = if now == size && now > 24 { same + 1 } else { 0 };
            size = now;
            (same > 15).then_some(())
        });
        self.process.signal("INT");
        wait::until("tcpdump to end", || self.process.ended());
        std::fs::read(&self.file).unwrap_or_else(|error| panic!("{}: {error}", self.file.display()))
    }
}

/// Whether a text stands anywhere in the bytes.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
