//! What befalls the network: its journal, its lines, its processes, its logs.

use holmes_kernel::frame::{Frame, Open};
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Id, LogId, Machine, Origin, Replica, Tail};
use holmes_ledger::rows::{Columns, Row};
use holmes_proto::ledger::v1::event::Event as Booked;
use holmes_proto::ledger::v1::{Event as LedgerEvent, TransferCode, TransferKind};
use holmes_runtime::recover::RecoverError;
use holmes_runtime::rig::Seat;
use holmes_testing::now;
use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};

use crate::deed::{Deed, SERVICES, name};
use crate::journal::Journal;
use crate::play::Day;
use crate::world::{HOL, account, log};

/// A service of the network, whatever its type.
macro_rules! seat {
    ($world:expr, $service:expr, $seat:ident => $then:expr) => {
        match $service {
            1 => Some({
                let $seat = &$world.ledger;
                $then
            }),
            2 => Some({
                let $seat = &$world.accounts;
                $then
            }),
            3 => Some({
                let $seat = &$world.staking;
                $then
            }),
            4 => Some({
                let $seat = &$world.scheduling;
                $then
            }),
            5 => Some({
                let $seat = &$world.market;
                $then
            }),
            6 => Some({
                let $seat = &$world.emission;
                $then
            }),
            7 => Some({
                let $seat = &$world.treasury;
                $then
            }),
            _ => None,
        }
    };
}

impl Day {
    /// Lets a fault happen.
    pub(crate) fn suffer(&mut self, fault: &Deed) {
        let journal = self.world.journal.clone();
        match fault {
            Deed::Append { service, append, times } => journal.will(log(*service), *append, *times),
            Deed::Arrive => drop(journal.arrive()),
            // The new owner does nothing more: it lost a race, or died.
            Deed::Claim { service } => drop(now(journal.kept().claim(log(*service)))),
            Deed::Unreadable { service, times } => journal.will_not_read(log(*service), *times),
            Deed::Snapshot { service, rots } => {
                // Of a log that cannot be read none is kept: the service goes on without.
                let _none = seat!(self.world, service, seat => seat.snapshot().is_ok());
                if *rots {
                    journal.will_rot(log(*service), 1);
                }
            }
            Deed::Restart { service, snapshots } => self.restart(*service, *snapshots),
            Deed::RestartAll { snapshots } => {
                SERVICES.iter().for_each(|service| self.restart(*service, *snapshots));
            }
            Deed::Line { reader, source, trouble } => {
                self.world.lines.trouble(log(*reader).svc, log(*source).svc, *trouble);
            }
            Deed::Tamper { service, at, snapshots } => {
                let unread = if *snapshots { self.unread(*service) } else { 0 };
                if let Some(changed) = tampered(&journal, log(*service), unread, *at) {
                    self.start_from(*service, changed, *snapshots);
                }
            }
            Deed::Forge { snapshots } => {
                if let Some(changed) = forged(&journal) {
                    self.start_from(1, changed, *snapshots);
                }
            }
            _ => {}
        }
    }

    /// Starts a service again: it is what it was, or its journal did not answer.
    pub(crate) fn restart(&mut self, service: u16, snapshots: bool) {
        match seat!(self.world, service, seat => seat.restart(snapshots)) {
            Some(Ok(false)) => {
                self.wrong.push(format!("{}, rebuilt from its log, is another than it was", name(service)));
            }
            Some(Err(RecoverError::Journal(_))) | Some(Ok(true)) | None => {}
            Some(Err(why)) => self.wrong.push(format!("{} cannot be rebuilt: {why}", name(service))),
        }
    }

    /// Starts a service from a log that somebody has changed, which it must notice; then from its own again.
    fn start_from(&mut self, service: u16, changed: Vec<Frame>, snapshots: bool) {
        let log = log(service);
        // So that what is rebuilt can be compared with what was.
        self.restart(service, snapshots);
        if self.halted(service).is_some() {
            return; // its journal does not answer: nobody starts from it now
        }
        self.world.journal.show(log, Some(changed));
        if let Some(Ok(_)) = seat!(self.world, service, seat => seat.restart(snapshots)) {
            let broken = self.world.rig.check();
            self.wrong.push(format!("{} was started from a log that was changed: {broken:?}", name(service)));
        }
        self.world.journal.show(log, None);
        self.restart(service, snapshots);
    }

    /// Up to where a service that starts from its newest snapshot does not read its log.
    fn unread(&self, service: u16) -> u64 {
        let version = seat!(self.world, service, seat => state_version(seat)).unwrap_or_default();
        let newest = now(self.world.journal.kept().snapshot(log(service), version, u64::MAX));
        newest.ok().flatten().map_or(0, |snapshot| snapshot.at.seq)
    }

    /// Why a service has stopped, if it has.
    pub(crate) fn halted(&self, service: u16) -> Option<String> {
        seat!(self.world, service, seat => seat.halted()).flatten()
    }

    /// Whether everything that a service has decided is durable.
    pub(crate) fn rests(&self, service: u16) -> bool {
        seat!(self.world, service, seat => seat.rests()).unwrap_or(true)
    }
}

fn state_version<M: Machine>(_: &Seat<M, Journal>) -> u32 {
    Replica::<M>::VERSION
}

/// A log with another request id in the middle, behind what is not read: its bytes are whole, only the chain shows it.
fn tampered(journal: &Journal, log: LogId, unread: u64, at: usize) -> Option<Vec<Frame>> {
    let mut frames = now(journal.kept().read(log, 0, usize::MAX)).ok()?;
    // The last frame has no next one that names its chain; its end is known by the journal itself.
    let middle = (1..frames.len().saturating_sub(1)).rev().take(40);
    let candidates: Vec<usize> = middle.filter(|place| frames[*place].header().first > unread).collect();
    let from = at % candidates.len().max(1);
    let order = candidates.iter().cycle().skip(from).take(candidates.len());
    let (place, changed) = order.filter_map(|place| Some((*place, other_id(&frames, *place)?))).next()?;
    frames[place] = changed;
    Some(frames)
}

fn other_id(frames: &[Frame], place: usize) -> Option<Frame> {
    let mut entries: Vec<_> = frames[place].entries().ok()?.into_iter().map(|(_, entry)| entry).collect();
    let id = entries.iter_mut().find_map(|entry| match &mut entry.origin {
        Some(Origin::Request(request)) => Some(&mut request.request_id),
        _ => None,
    })?;
    let mut bytes = id.to_vec();
    *bytes.last_mut()? ^= 1;
    *id = Bytes::from(bytes);
    let header = frames[place].header();
    let mut open = Open::new(header.log, header.term, header.ts, header.schema, &frames[place - 1].tail());
    for mut entry in entries {
        let events: Vec<Raw> = std::mem::take(&mut entry.events).into_iter().map(Raw).collect();
        open.push(&entry, &events);
    }
    Some(open.freeze())
}

/// An event's bytes as they were.
#[derive(Clone, Debug, Default, PartialEq)]
struct Raw(Bytes);

impl Message for Raw {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: WireType,
        _: &mut impl Buf,
        _: DecodeContext,
    ) -> Result<(), DecodeError> {
        Ok(()) // never read
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// The ledger's log with one more payment at its end, which credits more than it debits.
fn forged(journal: &Journal) -> Option<Vec<Frame>> {
    let mut frames = now(journal.kept().read(log(1), 0, usize::MAX)).ok()?;
    let last = frames.last()?;
    let (header, tail): (_, Tail) = (*last.header(), last.tail());
    let mut entry = last.entries().ok()?.pop()?.1;
    let row = Row {
        id: Id::v7(header.ts.millis(), [0xfa; 10]),
        debit: account(1, HOL),
        credit: account(2, HOL),
        amount: 1,
        burned: 1_000,
        kind: TransferKind::Single,
        code: TransferCode::Ok,
        digest: 0,
        tag: 0,
        hold: Id::default(),
        expires: None,
        coordinator: None,
    };
    let mut columns = Columns::with_capacity(1);
    columns.push(&row);
    (entry.events, entry.refused, entry.origin) = (Vec::new(), None, Some(Origin::Due(Default::default())));
    let mut open = Open::new(header.log, header.term, header.ts.next(), header.schema, &tail);
    open.push(&entry, &[LedgerEvent { event: Some(Booked::TransfersRecorded(columns.finish(false))) }]);
    frames.push(open.freeze());
    Some(frames)
}
