//! Certificates for the peers, made by `openssl` as SPIFFE demands: the same key types and chain length as the mesh's.

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Paths of a root and of one leaf for each side.
pub(super) struct Pki {
    /// The root certificate.
    pub(super) root: PathBuf,
    folder: PathBuf,
}

impl Pki {
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let pki = Self { root: folder.join("root.crt"), folder: folder.to_path_buf() };
        let config = "[root]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
            subjectAltName=URI:spiffe://mesh.local\n";
        std::fs::write(folder.join("root.cnf"), format!("[req]\ndistinguished_name=dn\n[dn]\n{config}"))?;
        openssl(
            folder,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /O=bench -config root.cnf \
             -extensions root -keyout root.key -out root.crt",
        )?;
        for side in ["client", "server"] {
            let extensions = format!(
                "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
                 extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=URI:spiffe://mesh.local/ns/default/sa/{side},DNS:{side}\n"
            );
            std::fs::write(folder.join(format!("{side}.ext")), extensions)?;
            openssl(
                folder,
                &format!(
                    "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=bench -keyout {side}.key -out {side}.csr"
                ),
            )?;
            openssl(
                folder,
                &format!(
                    "x509 -req -in {side}.csr -CA root.crt -CAkey root.key -CAcreateserial -days 1 -extfile {side}.ext \
                     -out {side}.crt"
                ),
            )?;
            // HAProxy wants both in one file.
            let both = [std::fs::read(pki.certificate(side))?, std::fs::read(pki.key(side))?].concat();
            std::fs::write(pki.both(side), both)?;
        }
        Ok(pki)
    }

    pub(super) fn certificate(&self, side: &str) -> PathBuf {
        self.folder.join(format!("{side}.crt"))
    }

    pub(super) fn key(&self, side: &str) -> PathBuf {
        self.folder.join(format!("{side}.key"))
    }

    pub(super) fn both(&self, side: &str) -> PathBuf {
        self.folder.join(format!("{side}.pem"))
    }
}

fn openssl(folder: &Path, line: &str) -> Result<()> {
    let output = Command::new("openssl").args(line.split_whitespace()).current_dir(folder).output()?;
    ensure!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
