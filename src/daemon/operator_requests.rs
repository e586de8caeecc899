//! Answers of the book's task to operators.

use super::book_task::{BookTask, StatusInputs};
use super::side_book::SideBook;
use super::{event_log, status_report};
use crate::api::{AdminRequest, ClearnetStatus, Status};
use crate::book::{Ingress, ListingCount, Side};
use crate::clock::{self, Time};
use crate::peer::{Host, RealName};
use crate::trends::{NameListing, TrendSample};

impl BookTask {
    /// Answers an operator's request. A receiver that is gone is no error.
    pub(super) fn answer(&mut self, request: AdminRequest) {
        let now = clock::now();
        match request {
            AdminRequest::Status(reply) => drop(reply.send(self.status(now))),
            AdminRequest::Peers(reply) => {
                let peers = self.sides().flat_map(|side| status_report::peers(&side.book, now));
                drop(reply.send(peers.collect()));
            }
            AdminRequest::Summaries(reply) => {
                // With room for all at once, as the page keeps the list.
                let mut peers = Vec::with_capacity(self.sides().map(|side| side.book.entries().count()).sum());
                peers.extend(self.sides().flat_map(|side| status_report::summaries(&side.book, now)));
                drop(reply.send(peers));
            }
            AdminRequest::PeersNamed { names, reply } => {
                let peer = |(side, host): &(Side, Host)| {
                    let book = &self.sides().find(|known| known.side() == *side)?.book;
                    Some(status_report::peer_info(book, book.entry(host)?, now))
                };
                drop(reply.send(names.iter().filter_map(peer).collect()));
            }
            AdminRequest::Peer { host, reply } => {
                let known = self.sides().filter_map(|side| status_report::peer_details(&side.book, &host, now));
                drop(reply.send(known.collect()));
            }
            AdminRequest::Trends(reply) => drop(reply.send(self.trends.clone())),
            AdminRequest::Add { name, reply } => drop(reply.send(self.add(&name, now))),
            AdminRequest::Forget { host, reply } => drop(reply.send(self.forget(&host))),
        }
    }

    fn add(&mut self, name: &str, now: Time) -> Result<(), String> {
        let SideBook { book, rng, .. } = &mut self.main;
        let parsed = RealName::parse(name, book.config().chain.default_ports);
        let parsed = parsed.map_err(|error| event_log::no_real_name(name, error))?;
        let added = book.add(parsed.clone(), now, rng);
        let actions = added.map_err(|refusal| format!("{refusal}{}", event_log::advice(&refusal)))?;
        self.execute(Side::Clearnet, actions);
        if let Some(SideBook { book, rng, .. }) = &mut self.onion {
            // A name that the onion side rejects, for example for lack of a TLS port, is used on the clearnet side only.
            let actions = book.add(parsed, now, rng).unwrap_or_default();
            self.execute(Side::Onion, actions);
        }
        Ok(())
    }

    fn forget(&mut self, host: &str) -> Result<(), String> {
        let host: Host =
            host.parse().map_err(|error| format!("{host:?} is no host: {error}; `waypost peers` shows hosts"))?;
        let main = self.main.book.forget(&host);
        let onion = self.onion.as_mut().and_then(|side| side.book.forget(&host));
        if main.is_none() && onion.is_none() {
            return Err(format!("no peer {host} is known; `waypost peers` shows those that are"));
        }
        self.execute(Side::Clearnet, main.unwrap_or_default());
        self.execute(Side::Onion, onion.unwrap_or_default());
        Ok(())
    }

    fn status(&self, now: Time) -> Status {
        let StatusInputs { started, listeners, counters, store, onion, backend, local_identity, irc, .. } =
            &self.inputs;
        let book = &self.main.book;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            network: book.config().chain.name.clone(),
            uptime_secs: now.since(*started).as_secs(),
            tor: book.tor().clone(),
            tor_since: book.tor_since(),
            tor_source: self.inputs.tor.borrow().source.clone(),
            clearnet_blocked: book.clearnet_blocked().map(str::to_owned),
            network_down: book.network_is_down(),
            onion: onion
                .borrow()
                .as_ref()
                .map(|state| status_report::onion(state, self.listing_count(&state.host, now))),
            onion_error: self.inputs.tor.borrow().onion_error.clone(),
            clearnet: self.clearnet_names(now).next(),
            other_names: self.clearnet_names(now).skip(1).collect(),
            listeners: listeners.clone(),
            page: self.inputs.page.map(|address| format!("http://{address}")),
            backend: backend
                .clearnet
                .as_ref()
                .map(|backend| status_report::backend(backend, &local_identity.borrow().identity, book.header_chain())),
            irc: irc.as_ref().map(|visits| visits.borrow().clone()),
            ban_lists: self.inputs.ban_lists.borrow().clone(),
            chain: book.chain_summary(now).map(|summary| status_report::chain(&summary)),
            peers: book.counts(now),
            onion_side: self.onion.as_ref().map(|side| side.book.counts(now)),
            next_probe: self.sides().map(|side| side.book.next_wakeup()).min().unwrap_or(now).max(now),
            store: status_report::store(store, &self.inputs.store_path),
            clients: counters.stats(),
        }
    }

    /// Returns the states of the clearnet names, `identity.host` first.
    fn clearnet_names(&self, now: Time) -> impl Iterator<Item = ClearnetStatus> {
        self.inputs.own_names.iter().map(move |((host, ports), state)| {
            let (reached, listings) = (self.main.book.last_reached(host), self.listing_count(host, now));
            status_report::clearnet(host, *ports, &state.borrow(), reached, listings)
        })
    }

    /// Returns a sample of the node's state.
    pub(super) fn trend_sample(&self, now: Time) -> TrendSample {
        let counts = self.main.book.counts(now);
        let clearnet_name = self.own_name(Ingress::Clearnet);
        let onion_name = self.own_name(Ingress::Onion);
        TrendSample {
            at: now,
            verified_clearnet: count(counts.verified.saturating_sub(counts.verified_onion)),
            verified_onion: count(counts.verified_onion),
            clearnet_name: clearnet_name.map(|name| listing(self.listing_count(&name, now))),
            onion_name: onion_name.map(|name| listing(self.listing_count(&name, now))),
        }
    }

    /// Returns the own name of an ingress; `None` without one.
    fn own_name(&self, ingress: Ingress) -> Option<Host> {
        match ingress {
            Ingress::Clearnet => self.inputs.own_names.first().map(|((host, _), _)| host.clone()),
            Ingress::Onion => self.inputs.onion.borrow().as_ref().map(|state| state.host.clone()),
        }
    }

    /// Counts the peers that list an own name. With two books, each side knows the peers of its own name.
    fn listing_count(&self, own: &Host, now: Time) -> ListingCount {
        let side = self.onion.as_ref().filter(|_| own.is_onion()).unwrap_or(&self.main);
        side.book.listing_count(own, now)
    }
}

fn listing(ListingCount { listed_by, peers }: ListingCount) -> NameListing {
    NameListing { listed_by: count(listed_by), peers_of_its_kind: count(peers) }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
