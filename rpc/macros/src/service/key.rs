//! Names and method keys: what is sent instead of a method's name.

/// The key of `service.method/rev`: the first four bytes of the text's blake3 hash, as a little endian number. A client
/// and a server built from the same text agree, whatever else either of them contains.
pub(crate) fn method_key(service: &str, method: &str, rev: u16) -> u32 {
    let hash = blake3::hash(format!("{service}.{method}/{rev}").as_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// `KvStore` becomes `kv_store`, `HTTPProxy` becomes `http_proxy`.
pub(crate) fn snake_case(name: &str) -> String {
    let characters: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, &character) in characters.iter().enumerate() {
        let follows_small = i > 0 && !characters[i - 1].is_uppercase() && characters[i - 1] != '_';
        let ends_capitals =
            i > 0 && characters[i - 1].is_uppercase() && characters.get(i + 1).is_some_and(|next| next.is_lowercase());
        if character.is_uppercase() && (follows_small || ends_capitals) {
            out.push('_');
        }
        out.extend(character.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys are on the wire and in logs. These were computed by another implementation of blake3 and must never change.
    #[test]
    fn keys_are_stable() {
        for (method, rev, key) in [("put", 1, 0xa493_ec39), ("put", 2, 0xa9d0_b7cb), ("get", 1, 0x9516_7eb0)] {
            assert_eq!(method_key("kv", method, rev), key, "kv.{method}/{rev}");
        }
    }

    #[test]
    fn names_of_types_become_names_of_services() {
        for (name, snake) in
            [("Kv", "kv"), ("KvStore", "kv_store"), ("HTTPProxy", "http_proxy"), ("Raft2", "raft2"), ("A_B", "a_b")]
        {
            assert_eq!(snake_case(name), snake);
        }
    }
}
