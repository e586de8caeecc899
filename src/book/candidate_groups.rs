//! Candidates by the party that pays for them, and the group that is largest.

use std::collections::{BTreeMap, HashMap};

use indexmap::IndexSet;

use super::source_group::SourceGroup;
use crate::peer::Host;

/// Candidates that may be evicted, by kind and source.
///
/// An index, so that the cost of an eviction grows with the number of parties, and not with the number of free names. A
/// candidate stays in the group of the party as it was when the name arrived.
#[derive(Debug, Default)]
pub(super) struct CandidateGroups {
    /// Groups with at least one member.
    members: BTreeMap<CandidateGroup, IndexSet<Host>>,
    groups: HashMap<Host, CandidateGroup>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct CandidateGroup {
    is_onion: bool,
    source: SourceGroup,
}

impl CandidateGroups {
    /// Sets the source of a candidate; `None` if it is no candidate, or may not be evicted.
    pub(super) fn set(&mut self, host: &Host, source: Option<SourceGroup>) {
        if let Some(group) = self.groups.remove(host)
            && let Some(members) = self.members.get_mut(&group)
        {
            members.swap_remove(host);
            if members.is_empty() {
                self.members.remove(&group);
            }
        }
        if let Some(source) = source {
            let group = CandidateGroup { is_onion: host.is_onion(), source };
            self.members.entry(group.clone()).or_default().insert(host.clone());
            self.groups.insert(host.clone(), group);
        }
    }

    /// Returns the members of the largest group: onion or clearnet, then by provenance, allocation and subnet.
    ///
    /// `None` if there are no candidates.
    pub(super) fn largest(&self) -> Option<&IndexSet<Host>> {
        let mut groups: Vec<(&CandidateGroup, &IndexSet<Host>)> = self.members.iter().collect();
        keep_largest(&mut groups, |group| group.is_onion);
        keep_largest(&mut groups, |group| group.source.provenance);
        keep_largest(&mut groups, |group| group.source.payer.allocation());
        keep_largest(&mut groups, |group| &group.source.payer);
        groups.first().map(|(_, members)| *members)
    }

    /// Returns all candidates.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Host> {
        self.members.values().flatten()
    }
}

/// Keeps the groups of the key that has most members.
fn keep_largest<'a, K: Ord>(
    groups: &mut Vec<(&'a CandidateGroup, &IndexSet<Host>)>,
    key: impl Fn(&'a CandidateGroup) -> K,
) {
    let mut counts: BTreeMap<K, usize> = BTreeMap::new();
    for (group, members) in groups.iter() {
        *counts.entry(key(group)).or_default() += members.len();
    }
    if let Some((largest, _)) = counts.into_iter().max_by_key(|(_, count)| *count) {
        groups.retain(|(group, _)| key(group) == largest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Source;
    use super::super::tests::onion_entry;
    use super::*;

    fn host(name: &str) -> Host {
        name.parse().unwrap()
    }

    fn announced(from: Option<&str>) -> Option<SourceGroup> {
        SourceGroup::of(&Source::AddPeer(from.map(|ip| ip.parse().unwrap())), |_| None)
    }

    #[test]
    fn largest_group_is_found_level_by_level() {
        let mut groups = CandidateGroups::default();
        assert!(groups.largest().is_none());
        groups.set(&onion_entry(1).host, announced(None));
        groups.set(&onion_entry(2).host, announced(None));
        // The /16 with the most names loses one of its /24 with the most names, though another /24 has as many.
        for (name, ip) in [("a", "5.9.1.1"), ("b", "5.9.1.2"), ("c", "5.9.2.1"), ("d", "88.99.0.1"), ("e", "88.99.0.2")]
        {
            groups.set(&host(&format!("{name}.example")), announced(Some(ip)));
        }
        assert!(groups.largest().unwrap().iter().eq([&host("a.example"), &host("b.example")]));
        groups.set(&host("a.example"), None);
        assert!(groups.largest().unwrap().iter().eq([&host("d.example"), &host("e.example")]));
        for name in ["b", "c", "d", "e"] {
            groups.set(&host(&format!("{name}.example")), None);
        }
        assert_eq!((groups.largest().unwrap().len(), groups.iter().count()), (2, 2), "only onion names are left");
    }
}
