//! The columns of `TransfersRecorded` as rows: one writer, one reader, and the content's digest (E-2.3).

use holmes_kernel::{Id, ServiceId, Time, canon};
use holmes_proto::ledger::v1::{TransferCode, TransferKind, TransfersRecorded};

use crate::command::{Coordinator, Kind, Move, Transfer};

/// What became of one transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: Id,
    /// Account debited; zeros where it is not known.
    pub debit: Id,
    /// Account credited; zeros where it is not known.
    pub credit: Id,
    /// Base units moved, reserved or given back.
    pub amount: u64,
    /// Base units of it that were burnt.
    pub burned: u64,
    /// How it moved money.
    pub kind: TransferKind,
    /// The result.
    pub code: TransferCode,
    /// Of its content.
    pub digest: u64,
    /// What the caller attached.
    pub tag: u32,
    /// Post, void: which hold.
    pub hold: Id,
    /// Hold: when it expires.
    pub expires: Option<Time>,
    /// Hold: who alone may end it.
    pub coordinator: Option<Coordinator>,
}

const ID: usize = 16;
const DIGEST: usize = 8;
const COORDINATOR: usize = 18;

impl Row {
    /// A transfer that nothing has become of yet.
    pub fn of(transfer: &Transfer) -> Row {
        let mut row = Row {
            id: transfer.id,
            debit: Id::default(),
            credit: Id::default(),
            amount: 0,
            burned: 0,
            kind: TransferKind::Single,
            code: TransferCode::Ok,
            digest: digest(transfer),
            tag: transfer.tag,
            hold: Id::default(),
            expires: None,
            coordinator: None,
        };
        match transfer.kind {
            Kind::Single(Move { debit, credit, .. }) => (row.debit, row.credit) = (debit, credit),
            Kind::Hold { of: Move { debit, credit, .. }, coordinator, .. } => {
                row.kind = TransferKind::Hold;
                (row.debit, row.credit) = (debit, credit);
                row.coordinator = coordinator;
            }
            Kind::Post { hold, .. } => (row.kind, row.hold) = (TransferKind::Post, hold),
            Kind::Void { hold } => (row.kind, row.hold) = (TransferKind::Void, hold),
        }
        row
    }

    /// The same, failed.
    pub fn failed(self, code: TransferCode) -> Row {
        Row { code, amount: 0, burned: 0, expires: None, ..self }
    }
}

/// E-2.3: 8 bytes of BLAKE3 over everything that makes two transfers with one id the same. All but a hold with a debit
/// owner fit one block.
pub fn digest(transfer: &Transfer) -> u64 {
    let mut bytes = [0u8; 72];
    let mut len = 0;
    let mut put = |field: &[u8]| {
        bytes[len..len + field.len()].copy_from_slice(field);
        len += field.len();
    };
    put(&transfer.tag.to_le_bytes());
    put(&[u8::from(transfer.linked)]);
    match &transfer.kind {
        Kind::Single(of) => put_move(&mut put, 1, of),
        Kind::Hold { of, timeout_ms, coordinator } => {
            put_move(&mut put, 2, of);
            put(&timeout_ms.unwrap_or(0).to_le_bytes());
            // What does not fit the block any more goes in by its own hash.
            let by = coordinator.map_or([0; ID], |by| canon::hash(&canon_bytes(&by)));
            put(&by[..8]);
        }
        Kind::Post { hold, amount } => {
            put(&[3]);
            put(&hold.to_bytes());
            put(&amount.map_or(0, |amount| amount.units()).to_le_bytes());
        }
        Kind::Void { hold } => {
            put(&[4]);
            put(&hold.to_bytes());
        }
    }
    let hash = canon::hash(&bytes[..len]);
    u64::from_le_bytes(std::array::from_fn(|at| hash[at]))
}

fn put_move(put: &mut impl FnMut(&[u8]), kind: u8, of: &Move) {
    put(&[kind | u8::from(of.balancing) << 7 | u8::from(of.debit_owner.is_some()) << 6]);
    put(&of.debit.to_bytes());
    put(&of.credit.to_bytes());
    put(&of.amount.units().to_le_bytes());
    if let Some(owner) = of.debit_owner {
        put(&canon::hash(&owner.to_bytes())[..8]);
    }
}

fn canon_bytes(by: &Coordinator) -> [u8; COORDINATOR] {
    let mut bytes = [0; COORDINATOR];
    bytes[..2].copy_from_slice(&by.service.0.to_be_bytes());
    bytes[2..].copy_from_slice(&by.id.to_bytes());
    bytes
}

/// Which results a repetition gets again although the state has changed (E-2.3): those that depended on the state. What
/// the request alone was at fault for, what another transfer of the chain failed for, and what the caller had no right
/// to, leaves the id free.
pub fn is_remembered(code: TransferCode) -> bool {
    use TransferCode::*;
    match code {
        Ok | DebitNotFound | CreditNotFound | AccountClosed | AccountFrozen | InsufficientFunds => true,
        RateLimited | BalanceOverflow | NetZero | HoldNotFound | HoldEnded | ExceedsHold => true,
        TooManyHolds => true,
        Unspecified | Exists | ExistsDifferent | IdInvalid | IdExpired | WindowFull | AmountZero => false,
        SameAccount | LinkedFailed | AssetMismatch | Forbidden | ReservedAccount | TimeoutInvalid => false,
        SystemDebit | SystemCredit => false,
    }
}

/// Writes rows into columns.
#[derive(Debug, Default)]
pub struct Columns {
    ids: Vec<u8>,
    debits: Vec<u8>,
    credits: Vec<u8>,
    amounts: Vec<u64>,
    kinds: Vec<u8>,
    codes: Vec<u8>,
    digests: Vec<u8>,
    burned: Sparse<u64>,
    tags: Sparse<u32>,
    holds: Vec<u8>,
    expiries: Vec<u64>,
    coordinators: Vec<u8>,
    any_coordinator: bool,
}

/// A column that is left empty when it holds only zeros.
#[derive(Debug, Default)]
struct Sparse<T> {
    values: Vec<T>,
    any: bool,
}

impl<T: Default + PartialEq> Sparse<T> {
    fn push(&mut self, value: T) {
        self.any |= value != T::default();
        self.values.push(value);
    }

    fn into_values(self) -> Vec<T> {
        if self.any { self.values } else { Vec::new() }
    }
}

impl Columns {
    /// Columns with room for so many rows.
    pub fn with_capacity(rows: usize) -> Columns {
        let ids = || Vec::with_capacity(rows * ID);
        Columns {
            ids: ids(),
            debits: ids(),
            credits: ids(),
            amounts: Vec::with_capacity(rows),
            kinds: Vec::with_capacity(rows),
            codes: Vec::with_capacity(rows),
            digests: Vec::with_capacity(rows * DIGEST),
            burned: Sparse { values: Vec::with_capacity(rows), any: false },
            tags: Sparse { values: Vec::with_capacity(rows), any: false },
            ..Columns::default()
        }
    }

    /// Adds a row.
    pub fn push(&mut self, row: &Row) {
        self.ids.extend_from_slice(&row.id.to_bytes());
        self.debits.extend_from_slice(&row.debit.to_bytes());
        self.credits.extend_from_slice(&row.credit.to_bytes());
        self.amounts.push(row.amount);
        self.kinds.push(row.kind as u8);
        self.codes.push(row.code as u8);
        self.digests.extend_from_slice(&row.digest.to_le_bytes());
        self.burned.push(row.burned);
        self.tags.push(row.tag);
        match row.kind {
            TransferKind::Hold => {
                self.expiries.push(row.expires.map_or(0, Time::micros));
                self.any_coordinator |= row.coordinator.is_some();
                let by = row.coordinator.map_or([0; COORDINATOR], |by| canon_bytes(&by));
                self.coordinators.extend_from_slice(&by);
            }
            TransferKind::Post | TransferKind::Void => self.holds.extend_from_slice(&row.hold.to_bytes()),
            TransferKind::Single | TransferKind::Unspecified => {}
        }
    }

    /// The event.
    pub fn finish(self, by_number: bool) -> TransfersRecorded {
        TransfersRecorded {
            ids: self.ids.into(),
            debits: self.debits.into(),
            credits: self.credits.into(),
            amounts_units: self.amounts,
            kinds: self.kinds.into(),
            codes: self.codes.into(),
            digests: self.digests.into(),
            burned_units: self.burned.into_values(),
            tags: self.tags.into_values(),
            holds: self.holds.into(),
            expiries_us: self.expiries,
            coordinators: if self.any_coordinator { self.coordinators.into() } else { Default::default() },
            by_number,
        }
    }
}

/// Reads columns as rows. Total: it ends where a column ends.
pub fn rows(event: &TransfersRecorded) -> Rows<'_> {
    Rows { event, at: 0, holds: 0, posts: 0 }
}

/// See [`rows`].
#[derive(Debug)]
pub struct Rows<'a> {
    event: &'a TransfersRecorded,
    at: usize,
    /// Rows of kind hold so far.
    holds: usize,
    /// Rows of kind post or void so far.
    posts: usize,
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        let Rows { event, at, .. } = *self;
        let mut row = Row {
            id: id_at(&event.ids, at)?,
            debit: id_at(&event.debits, at)?,
            credit: id_at(&event.credits, at)?,
            amount: *event.amounts_units.get(at)?,
            burned: event.burned_units.get(at).copied().unwrap_or(0),
            kind: TransferKind::try_from(i32::from(*event.kinds.get(at)?)).ok()?,
            code: TransferCode::try_from(i32::from(*event.codes.get(at)?)).ok()?,
            digest: u64::from_le_bytes(chunk(&event.digests, at)?),
            tag: event.tags.get(at).copied().unwrap_or(0),
            hold: Id::default(),
            expires: None,
            coordinator: None,
        };
        match row.kind {
            TransferKind::Hold => {
                let expires = *event.expiries_us.get(self.holds)?;
                row.expires = (expires > 0).then_some(Time::from_micros(expires));
                row.coordinator = coordinator_at(&event.coordinators, self.holds);
                self.holds += 1;
            }
            TransferKind::Post | TransferKind::Void => {
                row.hold = id_at(&event.holds, self.posts)?;
                self.posts += 1;
            }
            TransferKind::Single | TransferKind::Unspecified => {}
        }
        self.at += 1;
        Some(row)
    }
}

fn chunk<const N: usize>(column: &[u8], at: usize) -> Option<[u8; N]> {
    column.get(at * N..(at + 1) * N)?.try_into().ok()
}

fn id_at(column: &[u8], at: usize) -> Option<Id> {
    chunk(column, at).map(Id::from_bytes)
}

fn coordinator_at(column: &[u8], at: usize) -> Option<Coordinator> {
    let bytes: [u8; COORDINATOR] = chunk(column, at)?;
    let service = ServiceId(u16::from_be_bytes([bytes[0], bytes[1]]));
    (service.0 > 0).then_some(Coordinator { service, id: Id::from_slice(&bytes[2..])? })
}

#[cfg(test)]
mod tests {
    use holmes_kernel::frame::ENTRY_BYTES;
    use holmes_kernel::{Amount, Entry, Origin, Principal};
    use holmes_proto::ledger::v1::{Event, event};
    use proptest::prelude::*;

    use super::*;
    use crate::params::{LONGEST_HOLD, MOST_TRANSFERS_PER_COMMAND};

    fn row() -> impl Strategy<Value = Row> {
        let ids = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 16]>());
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
        (ids, numbers, 1..=4i32, 1..=25i32, any::<Option<u16>>(), 0..=u64::MAX).prop_map(
            |(ids, numbers, kind, code, service, expires)| {
                let kind = TransferKind::try_from(kind).unwrap();
                let hold = kind == TransferKind::Hold;
                let ends = matches!(kind, TransferKind::Post | TransferKind::Void);
                let service = service.filter(|s| hold && *s > 0);
                Row {
                    id: Id::from_bytes(ids.0),
                    debit: Id::from_bytes(ids.1),
                    credit: Id::from_bytes(ids.2),
                    amount: numbers.0,
                    burned: numbers.1,
                    kind,
                    code: TransferCode::try_from(code).unwrap(),
                    digest: numbers.2,
                    tag: numbers.3,
                    hold: if ends { Id::from_bytes(ids.3) } else { Id::default() },
                    expires: (hold && expires > 0).then_some(Time::from_micros(expires)),
                    coordinator: service
                        .map(|s| Coordinator { service: ServiceId(s), id: Id::from_bytes(ids.3) }),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn rows_written_are_rows_read(written in proptest::collection::vec(row(), 0..40)) {
            let mut columns = Columns::default();
            written.iter().for_each(|row| columns.push(row));
            let event = columns.finish(false);
            let bytes = prost::Message::encode_to_vec(&event);
            let event: TransfersRecorded = prost::Message::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(rows(&event).collect::<Vec<_>>(), written);
        }
    }

    /// The largest head that an entry of transfers can have, with a W3C trace context.
    fn head() -> Entry {
        let chain = vec![255; 32].into();
        let source = holmes_kernel::entry::SourceOrigin {
            cell: 65_535,
            svc: 65_535,
            term: u64::MAX,
            seq: u64::MAX,
            chain,
        };
        Entry {
            origin: Some(Origin::Source(source)),
            principal: vec![255; 17].into(),
            traceparent: "0".repeat(55),
            ..Entry::default()
        }
    }

    fn largest(kind: TransferKind) -> Row {
        let id = Id::from_bytes([255; 16]);
        let latest = Time::from_micros(1 << 52).after_millis(LONGEST_HOLD.max); // the year 2112
        let hold = kind == TransferKind::Hold;
        Row {
            id,
            debit: id,
            credit: id,
            amount: u64::MAX,
            burned: if hold || kind == TransferKind::Void { 0 } else { u64::MAX },
            kind,
            code: TransferCode::Ok,
            digest: u64::MAX,
            tag: u32::MAX,
            hold: id,
            expires: hold.then_some(latest),
            coordinator: hold.then_some(Coordinator { service: ServiceId(u16::MAX), id }),
        }
    }

    #[test]
    fn a_full_command_fits_one_entry_however_large_its_transfers_are() {
        // All of one kind, and mixes: a single post among holds makes the column of burns one byte longer for each.
        let (hold, post) = (largest(TransferKind::Hold), largest(TransferKind::Post));
        for posts in [0, 1, MOST_TRANSFERS_PER_COMMAND / 2, MOST_TRANSFERS_PER_COMMAND] {
            let mut columns = Columns::with_capacity(MOST_TRANSFERS_PER_COMMAND);
            for at in 0..MOST_TRANSFERS_PER_COMMAND {
                columns.push(if at < posts { &post } else { &hold });
            }
            let event = Event { event: Some(event::Event::TransfersRecorded(columns.finish(true))) };
            let bytes = holmes_kernel::frame::entry_len(&head(), &[event]);
            assert!(bytes <= ENTRY_BYTES, "{posts} posts: {bytes} bytes");
        }
    }

    #[test]
    fn every_part_of_a_transfer_changes_its_digest() {
        let (a, b) = (Id::from_bytes([1; 16]), Id::from_bytes([2; 16]));
        let of = Move { debit: a, credit: b, amount: Amount::new(7), balancing: false, debit_owner: None };
        let by = Coordinator { service: ServiceId(2), id: a };
        let hold = |timeout_ms, coordinator| Kind::Hold { of, timeout_ms, coordinator };
        let kinds = [
            Kind::Single(of),
            Kind::Single(Move { debit: b, ..of }),
            Kind::Single(Move { credit: a, ..of }),
            Kind::Single(Move { amount: Amount::new(8), ..of }),
            Kind::Single(Move { balancing: true, ..of }),
            Kind::Single(Move { debit_owner: Some(Principal::SYSTEM), ..of }),
            Kind::Single(Move { debit_owner: Some(Principal::service(ServiceId(2))), ..of }),
            Kind::Hold {
                of: Move { debit_owner: Some(Principal::SYSTEM), ..of },
                timeout_ms: Some(1),
                coordinator: Some(by),
            },
            hold(None, None),
            hold(Some(1), None),
            hold(None, Some(by)),
            hold(None, Some(Coordinator { service: ServiceId(3), ..by })),
            Kind::Post { hold: a, amount: None },
            Kind::Post { hold: a, amount: Some(Amount::new(1)) },
            Kind::Void { hold: a },
            Kind::Void { hold: b },
        ];
        let mut seen = std::collections::BTreeSet::new();
        for kind in kinds {
            for (linked, tag) in [(false, 0), (true, 0), (false, 1)] {
                assert!(
                    seen.insert(digest(&Transfer { id: a, linked, tag, kind })),
                    "{kind:?} {linked} {tag}"
                );
            }
        }
    }
}
