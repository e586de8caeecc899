//! Tor, as far as it is ours to look after.

mod external;

pub use external::watch;
