use super::export::Exporter;
use super::*;
use crate::store::memory::MemoryStore;
use crate::store::write::{ResourceChange, Verb, Write};
use mesh_proto::resource::{Kind, ResourceKey};
use proptest::prelude::*;

struct Log {
    store: MemoryStore,
    key: Arc<AuditKey>,
}

impl Log {
    fn new() -> Self {
        let store = MemoryStore::new();
        let key = AuditKey::open(&store, &SealKey::from_bytes(&[7; 32])).unwrap();
        Self { store, key: Arc::new(key) }
    }

    async fn write(&self, number: u64) {
        let policy = ResourceKey {
            kind: Kind::AccessPolicy,
            namespace: Some("shop".parse().unwrap()),
            name: format!("p{}", number % 3).parse().unwrap(),
        };
        let change = ResourceChange {
            key: policy,
            file: "a.yaml".to_owned(),
            line: 1,
            yaml: (number % 4 != 3).then(|| format!("kind: AccessPolicy # {number}\n")),
        };
        let write = Write {
            actor: "uid 1000 (alice)".to_owned(),
            verb: if number.is_multiple_of(2) { Verb::Apply } else { Verb::Denied },
            time_ms: 1_000 + number,
            changes: if number.is_multiple_of(2) { vec![change] } else { Vec::new() },
            detail: format!("number {number} \"quoted\" ä"),
        };
        self.store.commit(write).await.unwrap();
    }

    fn sign(&self, at: u64) {
        sign(&self.key, &self.store, SystemTime::UNIX_EPOCH + Duration::from_secs(at)).unwrap();
    }

    fn export(&self, from: u64) -> String {
        let exporter = Exporter::new(&self.store, &self.key, "mesh.test".to_owned(), SystemTime::UNIX_EPOCH);
        exporter.lines(from).map(|line| format!("{line}\n")).collect()
    }

    fn check(&self, export: &[u8]) -> Report {
        verify(export, &hex(self.key.public())).unwrap()
    }
}

async fn history() -> Log {
    let log = Log::new();
    for number in 0..9 {
        log.write(number).await;
        if number % 3 == 2 {
            log.sign(number);
        }
    }
    log
}

#[tokio::test]
async fn an_export_proves_itself() {
    let log = history().await;
    let report = log.check(log.export(1).as_bytes());
    assert_eq!((report.records, report.checkpoints, report.signed, &report.broken), (9, 4, 9, &None));
    assert_eq!(report.trust_domain, "mesh.test");
    // A part of it, for who has the rest already.
    let report = log.check(log.export(5).as_bytes());
    assert_eq!((report.from, report.records, report.broken), (5, 5, None));
    assert_eq!(log.check(log.export(10).as_bytes()).broken, None, "an empty part");
    assert_eq!(unsigned_by(&log.key, &log.store), (3, None));
    let empty = Log::new();
    assert_eq!(empty.check(empty.export(1).as_bytes()).broken, None);
}

#[tokio::test]
async fn the_key_is_kept_and_no_other_verifies() {
    let log = history().await;
    let seal = SealKey::from_bytes(&[7; 32]);
    assert_eq!(AuditKey::open(&log.store, &seal).unwrap().public(), log.key.public());
    assert!(AuditKey::open(&log.store, &SealKey::from_bytes(&[8; 32])).is_err());
    let other = Log::new();
    let export = log.export(1);
    let report = verify(export.as_bytes(), &hex(other.key.public())).unwrap();
    assert_eq!(report.broken.unwrap().line, 1);
    assert!(verify(export.as_bytes(), "rubbish").is_err());
}

/// Every single byte, changed, is found: in its own line, or where the line before ends.
#[tokio::test]
async fn one_changed_byte_is_found_and_located() {
    let log = history().await;
    let export = log.export(1).into_bytes();
    let mut line = 1;
    for at in 0..export.len() {
        let mut doctored = export.clone();
        doctored[at] ^= 1;
        let broken = log.check(&doctored).broken;
        let broken = broken.unwrap_or_else(|| panic!("byte {at} of line {line} can be changed"));
        let is_near = broken.line == line || (export[at] == b'\n' && broken.line == line + 1);
        assert!(is_near, "byte {at} of line {line} is found in line {}: {}", broken.line, broken.problem);
        if export[at] == b'\n' {
            line += 1;
        }
    }
}

#[tokio::test]
async fn lines_taken_out_put_in_or_turned_around_are_found() {
    let log = history().await;
    let export = log.export(1);
    let lines: Vec<&str> = export.lines().collect();
    let joined = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    for at in 0..lines.len() {
        let mut without = lines.clone();
        let removed = without.remove(at);
        // A checkpoint in the middle says nothing that the later ones do not.
        let is_checkpoint = removed.starts_with("{\"signed\":\"checkpoint\"");
        assert_eq!(
            log.check(joined(&without).as_bytes()).broken.is_some(),
            !is_checkpoint,
            "without {removed}"
        );
        let mut twice = lines.clone();
        twice.insert(at, removed);
        assert_eq!(log.check(joined(&twice).as_bytes()).broken.is_some(), !is_checkpoint, "twice {removed}");
        assert!(log.check(joined(&lines[..at]).as_bytes()).broken.is_some(), "cut off after {at}");
    }
    for at in 1..lines.len() {
        let mut turned = lines.clone();
        turned.swap(at - 1, at);
        assert!(log.check(joined(&turned).as_bytes()).broken.is_some(), "turned around at {at}");
    }
}

/// Whoever can make a new chain with good hashes still cannot sign it.
#[tokio::test]
async fn a_chain_made_anew_is_found_by_its_signatures() {
    let (log, forged) = (history().await, Log::new());
    for number in 0..9 {
        forged.write(if number == 4 { 40 } else { number }).await;
    }
    let real = log.export(1);
    let forged = forged.export(1);
    // The forged records below the real head and signatures.
    let mut forged = forged.lines().filter(|line| line.starts_with("{\"sequence\""));
    let mixed = real.lines().map(|line| match line.starts_with("{\"sequence\"") {
        true => forged.next().unwrap(),
        false => line,
    });
    let mixed: String = mixed.map(|line| format!("{line}\n")).collect();
    let report = log.check(mixed.as_bytes());
    // Records 1 to 3 are signed; the next signature stands after record 6, in line 9.
    assert_eq!((report.signed, report.broken.unwrap().line), (3, 9));
}

#[tokio::test]
async fn checkpoints_are_bounded_and_the_newest_stays() {
    let log = Log::new();
    for number in 0..(CHECKPOINTS_MAX as u64 + 50) {
        log.write(number * 2 + 1).await;
        log.sign(number);
    }
    let all = checkpoints(&log.store);
    assert!(all.len() <= CHECKPOINTS_MAX);
    assert_eq!(all.last().unwrap().sequence, CHECKPOINTS_MAX as u64 + 50);
    let before = all.len();
    log.sign(0);
    assert_eq!(checkpoints(&log.store).len(), before, "nothing new is not signed again");
}

proptest! {
    #[test]
    fn no_bytes_break_the_verification(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(verify(&bytes[..], &"0".repeat(64)).unwrap().broken.is_some());
    }
}
