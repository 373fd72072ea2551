//! Where alarms arrive: a webhook of our own, a real rsyslog, a real Alertmanager; each in plaintext or with TLS.

mod certificates;
mod webhook;
pub use certificates::Certificates;
pub use webhook::{Posted, Webhook};

use crate::process::Process;
use crate::world::{free_port, loopback};
use crate::{programs, wait};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A running rsyslogd that writes what it gets, one message a line.
pub struct Rsyslog {
    _process: Process,
    /// Where it listens on loopback.
    pub port: u16,
    file: PathBuf,
}

impl Rsyslog {
    /// Starts one; with certificates it speaks TLS only, and lets in only who shows one of the same authority.
    #[track_caller]
    pub fn start(folder: &Path, certificates: Option<&Certificates>) -> Self {
        let (port, file) = (free_port(), folder.join("rsyslog.messages"));
        let own = folder.join("rsyslog");
        written(std::fs::create_dir_all(&own));
        let module = match certificates {
            None => "module(load=\"imtcp\")".to_owned(),
            Some(certificates) => format!(
                "global(defaultNetstreamDriver=\"ossl\" defaultNetstreamDriverCAFile=\"{}\"\n\
                 defaultNetstreamDriverCertFile=\"{}\" defaultNetstreamDriverKeyFile=\"{}\")\n\
                 module(load=\"imtcp\" StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\" \
                 StreamDriver.AuthMode=\"x509/certvalid\")",
                certificates.ca.display(),
                certificates.server.display(),
                certificates.server_key.display()
            ),
        };
        let config = format!(
            "global(workDirectory=\"{}\")\n{module}\ninput(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\")\n\
             template(name=\"raw\" type=\"string\" string=\"%rawmsg%\\n\")\n\
             *.* action(type=\"omfile\" file=\"{}\" template=\"raw\")\n",
            own.display(),
            file.display()
        );
        let path = folder.join("rsyslog.conf");
        written(std::fs::write(&path, config));
        let mut command = Command::new(programs::system("rsyslogd"));
        command.args(["-n", "-f"]).arg(path).arg("-i").arg(own.join("pid"));
        let process = Process::start("rsyslogd", folder, &mut command);
        wait::for_listener("rsyslogd", loopback(port));
        Self { _process: process, port, file }
    }

    /// What it has written.
    pub fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// A running Alertmanager that tells nobody.
pub struct Alertmanager {
    _process: Process,
    /// Where it listens on loopback.
    pub port: u16,
    certificates: Option<Certificates>,
}

impl Alertmanager {
    /// Starts one; with certificates it speaks TLS only, and lets in only who shows one of the same authority.
    #[track_caller]
    pub fn start(folder: &Path, certificates: Option<&Certificates>) -> Self {
        let port = free_port();
        let config = folder.join("alertmanager.yml");
        written(std::fs::write(
            &config,
            "route: {receiver: nobody, group_by: [alarm]}\nreceivers: [{name: nobody}]\n",
        ));
        let mut command = Command::new(programs::system("prometheus-alertmanager"));
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", folder.join("alertmanager").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=");
        if let Some(certificates) = certificates {
            let web = folder.join("alertmanager-web.yml");
            let text = format!(
                "tls_server_config: {{cert_file: {}, key_file: {}, client_ca_file: {}, client_auth_type: \
                 RequireAndVerifyClientCert}}\n",
                certificates.server.display(),
                certificates.server_key.display(),
                certificates.ca.display()
            );
            written(std::fs::write(&web, text));
            command.arg(format!("--web.config.file={}", web.display()));
        }
        let process = Process::start("alertmanager", folder, &mut command);
        wait::for_listener("alertmanager", loopback(port));
        Self { _process: process, port, certificates: certificates.cloned() }
    }

    /// The alerts that it has, as its API gives them; none while it starts.
    pub fn alerts(&self) -> Vec<Value> {
        let mut command = Command::new(programs::system("curl"));
        command.args(["-sS", "--max-time", "20"]);
        let scheme = match &self.certificates {
            None => "http",
            Some(certificates) => {
                command.arg("--cacert").arg(&certificates.ca).arg("--cert").arg(&certificates.client);
                "https"
            }
        };
        let answer = command.arg(format!("{scheme}://127.0.0.1:{}/api/v2/alerts", self.port)).output();
        let answer = answer.map(|output| output.stdout).unwrap_or_default();
        serde_json::from_slice(&answer).unwrap_or_default()
    }
}

#[track_caller]
fn written(result: std::io::Result<()>) {
    result.unwrap_or_else(|error| panic!("a file of the test: {error}"));
}
