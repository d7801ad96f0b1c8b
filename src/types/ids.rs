//! Names given in the configuration. They become MQTT topic levels and Home Assistant ids, so their
//! alphabet is narrow: `a-z`, `0-9`, `_` and `-`, 1 to 40 characters, starting with a letter or digit.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name that breaks the rule above. It is not repeated: it may be a URL with a password that slipped into the
/// wrong place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid name: use 1 to 40 of a-z, 0-9, '_' and '-', starting with a letter or a digit")]
pub struct InvalidName;

fn is_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=40).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl $name {
            /// Checks the name. Errors when it breaks the alphabet of this module.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                if is_valid(name) { Ok(Self(name.into())) } else { Err(InvalidName) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// One running daemon.
    NodeId
);
id!(
    /// One camera.
    CameraId
);
id!(
    /// A taught state: `dock-door`.
    StateName
);
id!(
    /// A value of a taught state: `open`.
    StateValue
);
id!(
    /// One rule of a camera.
    RuleId
);
id!(
    /// Two things (or a thing and an edge) whose distance is measured.
    PairId
);
id!(
    /// A line on the floor that things may come too close to.
    EdgeId
);
id!(
    /// What a thing is: `forklift`, `person`, ...
    ClassName
);

/// The camera of the proof test, in whose name no other may speak.
pub const PROOF_CAMERA: &str = "proof_test";

impl CameraId {
    /// Whether this is the proof test's camera: what is said of it means nothing to anyone but the proof test.
    pub fn is_proof_test(&self) -> bool {
        self.as_str() == PROOF_CAMERA
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_enforced() {
        for good in ["dock", "dock-2", "0", "a_b", &"x".repeat(40)] {
            assert!(CameraId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Dock", "a b", "-a", "_a", "a/b", "a#", "ä", &"x".repeat(41)] {
            assert!(CameraId::new(bad).is_err(), "{bad}");
        }
    }
}
