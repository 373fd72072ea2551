use super::*;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;

fn key(fill: u8) -> SealKey {
    SealKey::from_bytes(&[fill; KEY_BYTES])
}

#[test]
fn a_sealed_value_opens_only_for_its_context_and_key() {
    let sealed = key(1).seal("authority", b"secret").unwrap();
    assert_eq!(&key(1).open("authority", &sealed).unwrap()[..], b"secret");
    assert!(matches!(key(1).open("policy", &sealed), Err(SealError::DoesNotOpen { .. })));
    assert!(matches!(key(2).open("authority", &sealed), Err(SealError::DoesNotOpen { .. })));
    assert!(!sealed.windows(6).any(|w| w == b"secret"));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let sealed = key(1).seal("c", b"0123456789").unwrap();
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            assert!(key(1).open("c", &changed).is_err(), "byte {at} bit {bit}");
        }
        assert!(key(1).open("c", &sealed[..at]).is_err(), "cut to {at}");
    }
    let mut longer = sealed;
    longer.push(0);
    assert!(key(1).open("c", &longer).is_err());
}

#[test]
fn a_key_file_is_made_once_private_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seal.key");
    assert!(matches!(SealKey::from_file(&path, Missing::Refuse), Err(SealError::KeyMissing { .. })));
    let sealed = SealKey::from_file(&path, Missing::Create).unwrap().seal("c", b"x").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for missing in [Missing::Create, Missing::Refuse] {
        assert_eq!(&SealKey::from_file(&path, missing).unwrap().open("c", &sealed).unwrap()[..], b"x");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn an_exposed_or_malformed_key_file_is_refused_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seal.key");
    SealKey::from_file(&path, Missing::Create).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let refused = SealKey::from_file(&path, Missing::Create).err().unwrap();
    assert!(matches!(refused, SealError::KeyExposed { mode: 0o640, .. }), "{refused}");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    for text in ["", "00", &"g".repeat(64), &"0".repeat(63), &"0".repeat(66)] {
        std::fs::write(&path, text).unwrap();
        let refused = SealKey::from_file(&path, Missing::Create).err().unwrap();
        assert!(matches!(refused, SealError::KeyMalformed { .. }), "{text:?}: {refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn digests_are_those_of_fips_180() {
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(digest_text("abc"), expected);
}

#[test]
fn a_mounted_secret_is_private_and_nothing_else_that_others_read() {
    for (mode, owner, group, exposed) in [
        (0o600, 1000, 1000, false),
        (0o400, 0, 0, false),
        (0o440, 0, 65_532, false),
        (0o440, 0, 0, true),
        (0o440, 1000, 65_532, true),
        (0o640, 0, 65_532, true),
        (0o444, 0, 65_532, true),
    ] {
        assert_eq!(is_exposed(mode, owner, group), exposed, "{mode:o} {owner}:{group}");
    }
}

proptest! {
    #[test]
    fn opening_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(key(1).open("c", &bytes).is_err());
    }

    #[test]
    fn any_value_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..400), context in ".{0,20}") {
        let sealed = key(3).seal(&context, &bytes).unwrap();
        prop_assert_eq!(sealed.len(), bytes.len() + OVERHEAD_BYTES);
        prop_assert_eq!(&key(3).open(&context, &sealed).unwrap()[..], &bytes[..]);
    }
}
