//! The one place in the node that asks the system for randomness.

/// Fills an array: keys, secrets, ids.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    random_bytes(&mut bytes);
    bytes
}

/// Fills a slice.
pub fn random_bytes(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("a Linux of the last decade has randomness after boot");
}
