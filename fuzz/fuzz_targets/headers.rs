//! Headers of a peer never panic, and a branch is only followed if each header has work and a link.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use waypost::block_header::{BlockHeader, HEADER_BYTES};
use waypost::header_chain::{CatchUp, ChainReference, ChainStanding, HeaderChain, HeaderSync, SyncStep};
use waypost::chain::Chain;

const NOW: u32 = 1_800_000_000;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(chain)) = HeaderChain::from_record(&Chain::REGTEST, bytes) {
        assert_eq!(chain.to_record(), bytes);
    }
    let Some((head, rest)) = bytes.split_first_chunk::<6>() else { return };
    let [blocks, flags, height @ ..] = *head;
    let mut chain = HeaderChain::new(&Chain::REGTEST).expect("regtest is followed");
    let (records, _) = rest.as_chunks::<HEADER_BYTES>();
    // The fuzzer cannot invent a double SHA-256, so the link to the block before is set for it.
    let mut previous = chain.tip_hash();
    let headers: Vec<BlockHeader> = records
        .iter()
        .map(|record| {
            let mut record = *record;
            if record[0] & 1 == 0 {
                record[4..36].copy_from_slice(&previous);
                record[72..76].copy_from_slice(&0x207f_ffff_u32.to_le_bytes());
            }
            let header = BlockHeader::from_bytes(&record).expect("80 bytes");
            previous = header.hash();
            header
        })
        .collect();
    for header in headers.iter().take(blocks.into()) {
        let before = chain.clone();
        if chain.append(*header, NOW).is_err() {
            assert!(chain == before);
        }
    }
    let Some(tip) = headers.last() else { return };
    let catch_up = if flags & 1 == 0 { CatchUp::Required } else { CatchUp::Deferred };
    let known = Arc::new(chain);
    let reference = ChainReference { chain: Arc::clone(&known), catch_up, now: NOW };
    let tip_height = if flags & 2 == 0 { headers.len() as u32 } else { u32::from_le_bytes(height) };
    let Ok((mut sync, mut step)) = HeaderSync::start(reference, tip_height, tip) else { return };
    loop {
        step = match step {
            SyncStep::Request { start, .. } => {
                let rest = headers.get(start as usize - 1..).unwrap_or(&[]);
                let Ok(step) = sync.on_headers(rest) else { return };
                step
            }
            SyncStep::Done(ChainStanding::MoreWork(branch)) => {
                assert!(branch.has_more_work_than(&known));
                return;
            }
            SyncStep::Done(_) => return,
        };
    }
});
