//! The memory that an account takes: the ledger's machine alone, as a snapshot brings it back.

use anyhow::{Result, ensure};
use holmes_kernel::{Ctx, Id, LogId, Machine, Meta, Opened, Principal, PrincipalKind, ServiceId, Time};
use holmes_ledger::command::{OpenAccount, Via};
use holmes_ledger::{Command, Ledger, params};
use holmes_proto::ledger::v1::Asset;
use prost::Message as _;

use super::{Found, own_bytes};
use crate::ids::Ids;

/// Opens so many, each with an owner of its own.
pub(super) fn measure(accounts: usize) -> Result<Found> {
    let hol = Asset { id: 1, name: "HOL".into(), decimals: 9, cap_units: 1_000_000_000_000_000_000 };
    let opened = Opened { params: params::defaults(vec![hol]).encode_to_vec(), ..Opened::default() };
    let mut state = Ledger::init(&opened)?;
    let asker = Principal::service(ServiceId(5));
    let mut ids = Ids::new(0);
    let before = own_bytes();
    for (seq, account) in (1..).zip((0..accounts).map(|_| ids.take(1)[0])) {
        let at = account.moment().unwrap_or(Time::from_millis(0));
        let owner = Principal::new(PrincipalKind::Account, Id::derive(at, b"owner", seq));
        let (name, via) = (String::new(), Via::Call);
        let open = OpenAccount { account, asset: 1, owner, name, history: false, via };
        let seq = u64::from(seq);
        let ctx = Ctx { now: at, principal: asker, log: LogId::new(1, ServiceId(1)), term: 1, seq };
        let mut events = Vec::new();
        let decided = Ledger::decide(&state, &Command::OpenAccount(open), &ctx, &mut events);
        ensure!(decided.is_ok() && events.len() == 1, "an account was not opened");
        let meta = Meta { ts: at, principal: asker, term: 1, seq };
        Ledger::evolve(&mut state, &events[0], &meta);
    }
    let grown = own_bytes().saturating_sub(before);
    std::hint::black_box(&state);
    Ok(Found::from([("memory of an account", grown as f64 / accounts as f64)]))
}
