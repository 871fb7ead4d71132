//! Who may execute a request.

/// The low nibble of the header's third byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Policy {
    /// Any server may execute it, unreplicated.
    LbRoute = 0,
    /// The server addressed executes it, unreplicated. Every reply carries this policy.
    FixedRoute = 1,
    /// Replicated: goes through the log, every replica executes it.
    ReplicatedRoute = 2,
    /// Replicated state, read only: one replica executes it at a linearizable point.
    ReplicatedRouteNoSideEffects = 3,
}

impl Policy {
    /// The policy of a wire value, `None` where it is none of the four.
    pub const fn from_wire(value: u8) -> Option<Policy> {
        match value {
            0 => Some(Policy::LbRoute),
            1 => Some(Policy::FixedRoute),
            2 => Some(Policy::ReplicatedRoute),
            3 => Some(Policy::ReplicatedRouteNoSideEffects),
            _ => None,
        }
    }

    /// The wire value, 0 to 3.
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// Whether the request concerns replicated state, to write or to read it.
    pub const fn is_replicated(self) -> bool {
        matches!(self, Policy::ReplicatedRoute | Policy::ReplicatedRouteNoSideEffects)
    }
}

#[cfg(test)]
mod tests {
    use super::Policy;

    #[test]
    fn only_four_values_are_policies() {
        for value in 0..=u8::MAX {
            assert_eq!(Policy::from_wire(value).map(Policy::to_wire), (value < 4).then_some(value));
        }
        assert!(Policy::ReplicatedRoute.is_replicated() && Policy::ReplicatedRouteNoSideEffects.is_replicated());
        assert!(!Policy::LbRoute.is_replicated() && !Policy::FixedRoute.is_replicated());
    }
}
