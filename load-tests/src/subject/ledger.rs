//! Our ledger in process: through the machine's door, over the embedded journal, with accounts that are not poor. A
//! transfer counts when it was answered, that is when it is on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{
    Amount, Call, Frame, Handle as _, Id, LogId, Opened, Principal, PrincipalKind, Replica, ServiceId, Time,
};
use holmes_ledger::command::{Kind, Move, OpenAccount, Transfer, Via};
use holmes_ledger::{Command, Ledger, Reply, params, rows, system_account};
use holmes_proto::ledger::v1::event::Event as Happened;
use holmes_proto::ledger::v1::{Asset, Event, TransferCode};
use holmes_runtime::driver::{Running, Settings, start};
use holmes_runtime::recover::{Extent, recover};
use holmes_runtime::{Clock, MachineHandle, fresh_id};
use holmes_store::Journal;
use holmes_store::journal::embedded;
use prost::Message as _;

use super::events::our_settings;
use super::{Doing, Kept, Start, Subject, pair};

/// The service in whose name accounts get their money, and everything over gRPC is asked.
pub(crate) const MARKET: Principal = Principal::service(ServiceId(5));
/// The ledger's log.
pub(crate) const LOG: LogId = LogId::new(1, ServiceId(1));
/// Services in whose names accounts are opened and transfers are asked, by turns: the window keeps 2 million requests of each.
const NAMES: u64 = 9;
/// What each account has at the beginning.
const GRANT: u64 = 1_000_000_000;

/// A running ledger with its accounts.
pub(crate) struct Bed {
    pub(crate) dir: PathBuf,
    pub(crate) journal: Journal,
    pub(crate) ledger: MachineHandle<Ledger>,
    pub(crate) accounts: Arc<Vec<Id>>,
    task: tokio::task::JoinHandle<()>,
    /// Of the transfers that gave the accounts their money.
    granted: Vec<Id>,
}

impl Bed {
    /// In a new directory.
    pub(crate) async fn new(dir: &Path, accounts: usize) -> Result<Bed> {
        let dir = dir.join("log");
        let journal = opened(&dir)?;
        journal.provision(&first_frame(Clock::System.now())?).await?;
        let mut settings = Settings::new(LOG, Clock::System);
        settings.snapshot_every = 0; // a snapshot's replay would be measured too
        let Running { handle, task, .. } = start::<Ledger, Journal>(journal.clone(), settings).await?;
        let (accounts, granted) = funded(&handle, accounts).await?;
        Ok(Bed { dir, journal, ledger: handle, accounts: Arc::new(accounts), task, granted })
    }

    /// Carries the transfers of these ids out.
    pub(crate) async fn transfer(&self, caller: usize, ids: &[Id]) -> Result<()> {
        let one = |id: &Id| {
            let (debit, credit) = pair(*id, self.accounts.len());
            single(*id, self.accounts[debit], self.accounts[credit], 1)
        };
        pay(&self.ledger, asker(caller as u64), fresh_id(), ids.iter().map(one).collect()).await
    }

    /// Everything durable, everything closed. Back: where the log lies.
    pub(crate) async fn end(self) -> Result<PathBuf> {
        self.ledger.stop().await;
        self.task.await?;
        drop(self.ledger);
        self.journal.close().await;
        Ok(self.dir)
    }

    /// Closes it, opens its log anew, and reads every transfer that succeeded, but those that funded the accounts.
    pub(crate) async fn read_back(mut self) -> Result<Kept> {
        let mut granted = std::mem::take(&mut self.granted);
        granted.sort_unstable();
        let journal = opened(&self.end().await?)?;
        let (mut ids, mut wrong) = (Vec::new(), None);
        recover::<Ledger, Journal>(&journal, LOG, Extent::FROM_FIRST, |frame| {
            if let Err(why) = transfers_of(frame, &mut ids) {
                wrong = Some(why);
            }
        })
        .await?;
        journal.close().await;
        ids.retain(|id| granted.binary_search(id).is_err());
        wrong.map_or(Ok(Kept::all(ids)), Err)
    }
}

/// The journal of a directory.
pub(crate) fn opened(dir: &Path) -> Result<Journal> {
    Ok(embedded::Journal::open(dir, embedded::Options::default())?.into())
}

/// The first frame of a ledger's log.
pub(crate) fn first_frame(now: Time) -> Result<Frame> {
    let hol = Asset { id: 1, name: "HOL".into(), decimals: 9, cap_units: 1_000_000_000_000_000_000 };
    let mut wire = params::defaults(vec![hol]);
    wire.window_entries = params::WINDOW_ENTRIES.max; // ten million accounts are opened and funded within an hour
    wire.window_entries_per_principal = wire.window_entries; // one principal asks for everything here
    let opened = Opened { cell: 1, params: wire.encode_to_vec(), ..Opened::default() };
    Ok(Replica::<Ledger>::provision(LOG, now, opened)?)
}

/// The accounts, and the ids of the transfers that funded them.
async fn funded(ledger: &MachineHandle<Ledger>, accounts: usize) -> Result<(Vec<Id>, Vec<Id>)> {
    let accounts: Vec<Id> = (0..accounts).map(|_| fresh_id()).collect();
    let mut granted = Vec::new();
    let at_once = accounts.len().div_ceil(512).clamp(1, 1_000);
    for many in accounts.chunks(at_once * 512) {
        let mut opening = tokio::task::JoinSet::new();
        for some in many.chunks(at_once).map(<[Id]>::to_vec) {
            opening.spawn(open_and_fund(ledger.clone(), some));
        }
        while let Some(done) = opening.join_next().await {
            granted.extend(done??);
        }
    }
    Ok((accounts, granted))
}

async fn open_and_fund(ledger: MachineHandle<Ledger>, accounts: Vec<Id>) -> Result<Vec<Id>> {
    for account in &accounts {
        open(&ledger, *account, fresh_id()).await?;
    }
    let genesis = system_account("genesis/HOL");
    let grants: Vec<Transfer> = accounts.iter().map(|to| single(fresh_id(), genesis, *to, GRANT)).collect();
    let ids = grants.iter().map(|grant| grant.id).collect();
    pay(&ledger, MARKET, fresh_id(), grants).await?;
    Ok(ids)
}

/// A transfer at once.
pub(crate) fn single(id: Id, debit: Id, credit: Id, units: u64) -> Transfer {
    let amount = Amount::new(units);
    let kind = Kind::Single(Move { debit, credit, amount, balancing: false, debit_owner: None });
    Transfer { id, linked: false, tag: 0, kind }
}

/// The service that a caller asks as.
pub(crate) fn asker(caller: u64) -> Principal {
    Principal::service(ServiceId(2 + (caller % NAMES) as u16))
}

/// Opens an account of a party's own: any service may pay out of it and into it. Services ask by turns, as for transfers.
pub(crate) async fn open(ledger: &MachineHandle<Ledger>, account: Id, request: Id) -> Result<()> {
    let owner = Principal::new(PrincipalKind::Account, account);
    let (name, via) = (String::new(), Via::Call);
    let open = OpenAccount { account, asset: 1, owner, name, history: false, via };
    let by = asker(u64::from(account.to_bytes()[15]));
    ledger.submit(Call::request(by, request), Command::OpenAccount(open)).await?;
    Ok(())
}

/// Carries transfers out; every one must succeed.
pub(crate) async fn pay(
    ledger: &MachineHandle<Ledger>,
    by: Principal,
    request: Id,
    transfers: Vec<Transfer>,
) -> Result<()> {
    let command = Command::CreateTransfers { via: Via::Call, transfers };
    let answer = ledger.submit(Call::request(by, request), command).await?.value;
    let Reply::Transfers(results) = answer else { bail!("a batch has results") };
    let failed = results.iter().find(|result| result.code != TransferCode::Ok);
    ensure!(failed.is_none(), "a transfer failed: {failed:?}");
    Ok(())
}

fn transfers_of(frame: &Frame, ids: &mut Vec<Id>) -> Result<()> {
    for (_, entry) in frame.entries()? {
        for bytes in &entry.events {
            let event = Event::decode(bytes.clone()).context("an event of the ledger")?;
            if let Some(Happened::TransfersRecorded(recorded)) = &event.event {
                ids.extend(rows::rows(recorded).filter(|row| row.code == TransferCode::Ok).map(|row| row.id));
            }
        }
    }
    Ok(())
}

/// The subject.
pub(super) struct InProcess(Bed);

impl InProcess {
    pub(super) async fn start(start: &Start<'_>) -> Result<InProcess> {
        Ok(InProcess(Bed::new(start.dir, start.accounts).await?))
    }
}

impl Subject for InProcess {
    fn settings(&self) -> BTreeMap<String, String> {
        let mut all = our_settings();
        let room = format!("{} million, of one principal, too", params::WINDOW_ENTRIES.max / 1_000_000);
        all.insert("window of transfer ids".into(), room);
        all
    }

    fn batch<'a>(&'a self, caller: usize, ids: &'a [Id]) -> Doing<'a, ()> {
        Box::pin(self.0.transfer(caller, ids))
    }

    fn read_back(self: Arc<Self>) -> Doing<'static, Kept> {
        Box::pin(async move {
            let bed = Arc::into_inner(self).context("a caller still holds the ledger")?;
            bed.0.read_back().await
        })
    }
}
