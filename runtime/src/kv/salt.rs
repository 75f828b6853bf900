//! Whose cached prefixes a request may use.

/// Separates the prefix caches of tenants: the keys of pages are chained from it, so that one tenant's pages cannot be
/// found, or their presence be timed, by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheSalt([u8; 32]);

impl CacheSalt {
    /// That of everybody: prompts baked into an artifact, and requests of a server without keys.
    pub const PUBLIC: CacheSalt = CacheSalt([0; 32]);

    /// The salt of a tenant's key and of the salt in a request, where there are any.
    pub fn new(api_key: Option<&str>, cache_salt: Option<&str>) -> CacheSalt {
        if api_key.is_none() && cache_salt.is_none() {
            return CacheSalt::PUBLIC;
        }
        let mut hasher = blake3::Hasher::new_derive_key("moesaic prefix cache tenant");
        for part in [api_key, cache_salt] {
            // Lengths keep ("ab", "c") apart from ("a", "bc"), and an absent part from an empty one.
            hasher.update(&part.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
            hasher.update(part.unwrap_or_default().as_bytes());
        }
        CacheSalt(hasher.finalize().into())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_of_key_and_salt_is_a_tenant_of_its_own() {
        let pairs =
            [(None, None), (Some(""), None), (None, Some("")), (Some("ab"), Some("c")), (Some("a"), Some("bc"))];
        let salts: std::collections::HashSet<_> = pairs.iter().map(|(k, s)| CacheSalt::new(*k, *s)).collect();
        assert_eq!(salts.len(), pairs.len());
        assert!(salts.contains(&CacheSalt::PUBLIC));
    }
}
