//! A cluster's shards: how many there are, which one a key is of, and which one a replica is of.
//!
//! A cluster of S shards is S Raft groups over the same nodes, each with its own log, state, sessions and leader; none knows of
//! another. `shard = hash of the key x S >> 64`. S is fixed when the cluster is formed.

use trimaran_net::SHARDS_MAX;
use trimaran_raft::ShardId;

/// The hash of a shard key: what [`ShardMap::shard_of`] takes. Of a key with a part in braces, such as `{user1}.cart`, only what
/// the first pair of braces holds counts, unless that is nothing: keys that share it lie together.
pub fn shard_key(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(tag(key))
}

/// The part of a key that decides on its shard.
fn tag(key: &[u8]) -> &[u8] {
    let inside = key.iter().position(|byte| *byte == b'{').map(|open| &key[open + 1..]);
    let tag = inside.and_then(|inside| Some(&inside[..inside.iter().position(|byte| *byte == b'}')?]));
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// How many shards a cluster has, and so where its keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardMap {
    shards: u16,
}

impl ShardMap {
    /// All keys in one shard: what a client believes that has asked nobody.
    pub const ONE: ShardMap = ShardMap { shards: 1 };

    /// `None` for no shard, or more than 64.
    pub fn new(shards: u16) -> Option<ShardMap> {
        (1..=SHARDS_MAX).contains(&shards).then_some(ShardMap { shards })
    }

    /// How many there are, 1 to 64.
    pub fn shards(self) -> u16 {
        self.shards
    }

    /// What request blocks say of it: 0 for a single shard. Maps differ where their versions do.
    pub fn version(self) -> u32 {
        if self.shards == 1 { 0 } else { u32::from(self.shards) }
    }

    /// The shard of a key, by the hash of [`shard_key`].
    pub fn shard_of(self, hash: u64) -> u16 {
        ((u128::from(hash) * u128::from(self.shards)) >> 64) as u16
    }

    /// All shards.
    pub fn all(self) -> impl Iterator<Item = u16> {
        0..self.shards
    }
}

impl Default for ShardMap {
    fn default() -> Self {
        ShardMap::ONE
    }
}

/// Which of its cluster's shards a replica is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardPlace {
    shard: u16,
    map: ShardMap,
}

impl ShardPlace {
    /// The only one.
    pub const ALONE: ShardPlace = ShardPlace { shard: 0, map: ShardMap::ONE };

    /// `None` where the map has no such shard.
    pub fn new(shard: u16, map: ShardMap) -> Option<ShardPlace> {
        (shard < map.shards).then_some(ShardPlace { shard, map })
    }

    /// Its number, from 0 on.
    pub fn shard(self) -> u16 {
        self.shard
    }

    /// All the shards that there are.
    pub fn map(self) -> ShardMap {
        self.map
    }

    /// Whether a key is of this shard.
    pub fn owns(self, key: &[u8]) -> bool {
        // A single shard has them all: nothing needs to be hashed.
        self.map == ShardMap::ONE || self.map.shard_of(shard_key(key)) == self.shard
    }

    /// What its Raft messages and its disk say. It holds the number of shards, too: a node of four shards and one of two are not
    /// of the same group, whatever their shards' numbers.
    pub fn group(self) -> ShardId {
        ShardId((self.map.shards - 1) << 8 | self.shard)
    }

    /// The place that a group's number stands for, if any.
    pub fn of_group(group: ShardId) -> Option<ShardPlace> {
        ShardPlace::new(group.0 & 0xff, ShardMap::new((group.0 >> 8) + 1)?)
    }
}

impl std::fmt::Display for ShardPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.map.shards {
            1 => f.write_str("the only shard"),
            shards => write!(f, "shard {} of {shards}", self.shard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_spread_evenly_and_the_ends_are_at_the_ends() {
        for shards in 1..=64 {
            let map = ShardMap::new(shards).expect("a map");
            assert_eq!((map.shard_of(0), map.shard_of(u64::MAX)), (0, shards - 1));
            let mut counts = vec![0; usize::from(shards)];
            (0..6400u32).for_each(|key| counts[usize::from(map.shard_of(shard_key(&key.to_le_bytes())))] += 1);
            let fair = 6400 / u32::from(shards);
            assert!(counts.iter().all(|count| *count > fair / 2 && *count < fair * 2), "{shards}: {counts:?}");
        }
        assert_eq!((ShardMap::new(0), ShardMap::new(65)), (None, None));
    }

    /// Clients and servers of two builds must agree: these may never change.
    #[test]
    fn keys_stay_where_they_are() {
        let map = ShardMap::new(4).expect("a map");
        let shards: Vec<u16> =
            ["a", "b", "user:1", "user:2", ""].iter().map(|key| map.shard_of(shard_key(key.as_bytes()))).collect();
        assert_eq!(shards, [3, 1, 0, 1, 0]);
    }

    #[test]
    fn what_braces_hold_decides() {
        for (key, part) in [
            ("plain", "plain"),
            ("{user1}.cart", "user1"),
            ("cart.{user1}", "user1"),
            ("a{b}{c}", "b"),
            ("a{{b}}", "{b"),
            ("{}.x", "{}.x"),
            ("a{b", "a{b"),
            ("a}b{c", "a}b{c"),
            ("", ""),
        ] {
            assert_eq!(tag(key.as_bytes()), part.as_bytes(), "{key}");
        }
        assert_eq!(shard_key(b"{user1}.cart"), shard_key(b"user1"));
    }

    #[test]
    fn one_shard_is_what_there_was_before_there_were_shards() {
        assert_eq!((ShardMap::ONE.version(), ShardPlace::ALONE.group()), (0, ShardId(0)));
        assert!(ShardPlace::ALONE.owns(b"anything"));
    }

    #[test]
    fn groups_differ_in_shard_and_count() {
        let mut seen = Vec::new();
        for map in (1..=64).filter_map(ShardMap::new) {
            for shard in map.all() {
                let place = ShardPlace::new(shard, map).expect("a place");
                assert_eq!(ShardPlace::of_group(place.group()), Some(place));
                seen.push(place.group().0);
            }
            assert_eq!(ShardPlace::new(map.shards(), map), None);
        }
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all);
        assert_eq!((ShardPlace::of_group(ShardId(1)), ShardPlace::of_group(ShardId(64 << 8))), (None, None));
    }
}
