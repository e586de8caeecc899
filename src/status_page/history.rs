//! How things were over the last day, a sample every few minutes. It begins again with each start.

use std::collections::VecDeque;

use crate::control::Status;
use crate::tor_state::TorState;

/// A day's worth.
const SAMPLES: usize = 288;

#[derive(Debug, Clone, Default)]
pub struct History(VecDeque<Sample>);

/// What was found at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub verified: usize,
    /// Onion services among them.
    pub onion: usize,
    pub tor_ready: bool,
}

impl History {
    pub fn take(&mut self, status: &Status) {
        let counts = &status.peers;
        self.push(Sample {
            verified: counts.verified,
            onion: counts.verified_onion,
            tor_ready: status.tor == TorState::Ready,
        });
    }

    pub fn push(&mut self, sample: Sample) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// Oldest first.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = &Sample> {
        self.0.iter()
    }
}
