//! Reading what others wrote: any bytes are refused without a panic, and only what was really written is taken.

use super::*;
use crate::store::ledger::Ledger;
use proptest::prelude::*;

fn sample() -> (Vec<u8>, SealKey) {
    let key = SealKey::from_bytes(&[7; 32]);
    let mut out = Vec::new();
    write(&Ledger::empty().view(), DatabaseId([1; 16]), &key, &mut out).unwrap();
    (out, key)
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused(tail in proptest::collection::vec(any::<u8>(), 0..300), keep in 0..60_usize) {
        let (good, key) = sample();
        let bytes = [good.get(..keep).unwrap_or_default(), &tail].concat();
        prop_assume!(bytes != good);
        prop_assert!(read(&mut bytes.as_slice(), &key, &mut Found::default()).is_err());
        prop_assert!(heading(&mut bytes.as_slice(), &key).is_err());
    }
}

#[test]
fn each_fault_has_its_own_name() {
    let (good, key) = sample();
    let problem = |bytes: &[u8], key: &SealKey| {
        let mut input = bytes;
        read(&mut input, key, &mut Found::default()).unwrap_err().to_string()
    };
    let mut newer = good.clone();
    newer[15] = 2;
    let head = head_checksum(2, DatabaseId(newer[16..32].try_into().unwrap()));
    newer[32..40].copy_from_slice(&head);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let cases = [
        (problem(b"PK\x03\x04", &key), "no backup of a mesh"),
        (problem(&good, &SealKey::from_bytes(&[8; 32])), "sealed under another key"),
        (problem(&newer, &key), "the format 2"),
        (problem(&good[..good.len() - 1], &key), "cut off after 1 of its parts"),
        (problem(&flipped, &key), "part 1 is damaged: its checksum differs"),
        (problem(&[good.clone(), vec![0]].concat(), &key), "something follows its end"),
    ];
    for (text, expected) in cases {
        assert!(text.contains(expected), "expected {expected:?}: {text}");
    }
    let mut found = Found::default();
    assert_eq!(read(&mut good.as_slice(), &key, &mut found).unwrap().database, DatabaseId([1; 16]));
}
