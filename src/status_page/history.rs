//! Samples of the last day for the plot. They are in memory only and start empty.

use std::collections::VecDeque;
use std::time::Duration;

use crate::api::Status;
use crate::tor_state::TorState;

/// Interval between two samples.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_mins(5);

/// Maximum number of samples: one day at [`SAMPLE_INTERVAL`].
const MAX_SAMPLES: usize = 24 * 60 / 5;

/// Samples of the last day, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(VecDeque<Sample>);

/// State of the node at one point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Number of verified peers.
    pub verified: usize,
    /// Number of onion services among them.
    pub onion: usize,
    /// Whether Tor was ready.
    pub is_tor_ready: bool,
}

impl History {
    /// Adds a sample of a status.
    pub(crate) fn record(&mut self, status: &Status) {
        let counts = &status.peers;
        self.push(Sample {
            verified: counts.verified,
            onion: counts.verified_onion,
            is_tor_ready: status.tor == TorState::Ready,
        });
    }

    /// Adds a sample; a full history drops its oldest one.
    pub(crate) fn push(&mut self, sample: Sample) {
        if self.0.len() == MAX_SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// Returns the samples, oldest first.
    pub(crate) fn samples(&self) -> impl ExactSizeIterator<Item = &Sample> {
        self.0.iter()
    }
}
