//! What happened otherwise than the rules say is told: one number of a day's logs is another, and every frame is chained
//! anew behind it.

use holmes_kernel::frame::{Frame, Open};
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Event, Tail};
use holmes_proto::emission::v1::event::Event as Emitted;
use holmes_proto::ledger::v1::command::Command as Asked;
use holmes_proto::ledger::v1::event::Event as Booked;
use holmes_proto::ledger::v1::{self as ledger, TransferCode, TransferKind};
use holmes_proto::market::v1::event::Event as Sold;
use holmes_proto::scheduling::v1::event::Event as Placed;
use holmes_proto::staking::v1::event::Event as Staked;
use holmes_proto::{accounts, emission, market, scheduling, staking, treasury};
use holmes_sim::deed::{Deed, SERVICES};
use holmes_sim::play::Day;
use holmes_sim::watch::Watch;
use holmes_sim::world::{HOL, USD, account, log, node, party};
use holmes_testing::now;
use prost::Message as _;
use prost::bytes::Bytes;

type Logs = [Vec<Frame>; SERVICES.len()];

/// A day on which something of everything happens, and nothing goes wrong.
fn day() -> Logs {
    let wait = Deed::Wait { ms: 46_000 };
    let report = |at, call| Deed::Report { at, calls: vec![(call, 300_000), (call + 1, 4_321)] };
    let pay = |units| Deed::Pay { from: 4, to: 5, token: true, units, balancing: false };
    let hold = |units| Deed::Hold { from: 4, to: 5, token: false, units, timeout_ms: 2_000 };
    let deeds = [
        pay(7),
        Deed::Retransfer { back: 0, change: 0 },
        pay(u64::MAX),
        hold(900),
        Deed::EndHold { at: 0, post: Some(5), twice: false },
        hold(901),
        Deed::Border { n: 4, out: false, units: 5, reference: 1 },
        Deed::Border { n: 5, out: true, units: 6, reference: 2 },
        Deed::Freeze { n: 3, token: true, frozen: true },
        Deed::Freeze { n: 3, token: true, frozen: false },
        Deed::Pay { from: 3, to: 5, token: true, units: 8, balancing: false },
        Deed::Open { n: 5, token: true, budget: 1_000_000 },
        Deed::Hear,
        Deed::Close { at: 0 },
        Deed::Hear,
        Deed::Open { n: 4, token: false, budget: 2_000_000 },
        Deed::Hear,
        Deed::Place { at: 1, n: Some(1) },
        Deed::Hear,
        Deed::Place { at: 1, n: None },
        Deed::Hear,
        Deed::Checkpoint { at: 0, calls: vec![(40, 1_000)] },
        report(0, 1),
        wait.clone(),
        wait.clone(),
        report(0, 3),
        report(1, 5),
        wait.clone(),
        wait.clone(),
        report(0, 7),
        wait.clone(),
        wait.clone(),
        Deed::Exit { n: 1, back: 0 },
        Deed::End { at: 0 },
        Deed::End { at: 1 },
        wait.clone(),
        Deed::Unbond { n: 2, units: 5_000_000_000_000 },
        Deed::Wait { ms: 700_000 },
    ];
    let mut day = Day::begin();
    assert!(deeds.iter().all(|deed| day.live(deed)), "{:#?}", day.wrong);
    day.end();
    assert_eq!(day.wrong, Vec::<String>::new());
    let kept = day.world.journal.kept();
    SERVICES.map(|service| now(kept.read(log(service), 0, usize::MAX)).expect("it is there"))
}

/// The logs with the first event changed that can be; none if none can be.
fn changed<E: Event>(logs: &Logs, change: impl Fn(&mut E) -> Option<()>) -> Option<Logs> {
    let (mut logs, mut done) = (logs.clone(), false);
    let of = SERVICES.iter().position(|service| *service == E::SERVICE.0)?;
    let mut tail = Tail::default();
    for frame in &mut logs[of] {
        let header = *frame.header();
        let mut open = Open::new(header.log, header.term, header.ts, header.schema, &tail);
        for (_, entry) in frame.entries().expect("it can be read") {
            let mut events: Vec<E> =
                entry.events.iter().map(|bytes| E::decode(bytes.clone()).expect("an event")).collect();
            for event in &mut events {
                done = done || change(event).is_some();
            }
            let head = holmes_kernel::Entry { events: Vec::new(), ..entry };
            open.push(&head, &events);
        }
        *frame = open.freeze();
        tail = frame.tail();
    }
    done.then_some(logs)
}

/// What is told of logs.
fn told(logs: Logs) -> Vec<String> {
    let mut watch = Watch::default();
    let wrong = watch.read(logs);
    wrong.into_iter().chain(watch.audit.at_rest(holmes_kernel::Time::default())).collect()
}

/// A day whose logs are read over and over.
struct Read(Logs);

impl Read {
    /// With this change, this is told.
    fn says<E: Event>(&self, rule: &str, change: impl Fn(&mut E) -> Option<()>) {
        let told = told(changed(&self.0, change).unwrap_or_else(|| panic!("nothing to change: {rule}")));
        assert!(told.iter().any(|wrong| wrong.contains(rule)), "{rule} is not told: {told:#?}");
    }

    fn staked(&self, rule: &str, change: impl Fn(&mut Staked) -> Option<()>) {
        self.says(rule, |event: &mut staking::v1::Event| change(event.event.as_mut()?));
    }

    fn placed(&self, rule: &str, change: impl Fn(&mut Placed) -> Option<()>) {
        self.says(rule, |event: &mut scheduling::v1::Event| change(event.event.as_mut()?));
    }

    fn sold(&self, rule: &str, change: impl Fn(&mut Sold) -> Option<()>) {
        self.says(rule, |event: &mut market::v1::Event| change(event.event.as_mut()?));
    }

    fn emitted(&self, rule: &str, change: impl Fn(&mut Emitted) -> Option<()>) {
        self.says(rule, |event: &mut emission::v1::Event| change(event.event.as_mut()?));
    }

    fn recorded(&self, rule: &str, change: impl Fn(&mut ledger::TransfersRecorded) -> Option<()>) {
        self.says(rule, |event: &mut ledger::Event| match event.event.as_mut()? {
            Booked::TransfersRecorded(recorded) => change(recorded),
            _ => None,
        });
    }
}

/// A change of one kind of event, and of no other: a function cannot take a variant.
macro_rules! only {
    ($kind:path, $event:ident => $change:expr) => {
        |event| match event {
            $kind($event) => $change,
            _ => None,
        }
    };
}

// Behind the macro, which they use.
mod presence;
mod seams;

/// One more of the first number that is not 0.
fn more(column: &mut [u64]) -> Option<()> {
    column.iter_mut().find(|number| **number > 0).map(|number| *number += 1)
}

/// A number is another.
fn now_is(number: &mut u64, other: u64) -> Option<()> {
    *number = other;
    Some(())
}

/// An id is another.
fn id_is(column: &mut Bytes, other: [u8; 16]) -> Option<()> {
    *column = other.to_vec().into();
    Some(())
}

/// One bit of a column is another.
fn turned(column: &mut Bytes) -> Option<()> {
    let mut bytes = column.to_vec();
    *bytes.last_mut()? ^= 1;
    *column = bytes.into();
    Some(())
}

/// The first transfer of a send that can be is another.
fn in_send(send: &mut Bytes, change: impl Fn(&mut ledger::Transfer) -> Option<()>) -> Option<()> {
    let mut command = ledger::Command::decode(send.clone()).ok()?;
    let Some(Asked::CreateTransfers(asked)) = &mut command.command else { return None };
    asked.transfers.iter_mut().find_map(change)?;
    *send = command.encode_to_vec().into();
    Some(())
}

/// The first transfer of a send that is one of these goes elsewhere.
fn astray(send: &mut Bytes, is: impl Fn(&ledger::Transfer) -> bool) -> Option<()> {
    in_send(send, |transfer| is(transfer).then(|| transfer.credit_account_id = account(5, USD).to_string()))
}

#[test]
fn the_day_itself_is_as_the_rules_say_and_every_log_is_read() {
    let logs = day();
    assert!(logs.iter().all(|log| !log.is_empty()));
    assert_eq!(told(logs.clone()), Vec::<String>::new());
    let same = changed(&logs, |_: &mut treasury::v1::Event| Some(())).expect("events");
    assert_eq!(told(same), Vec::<String>::new(), "written anew, unchanged");
    assert!(changed(&logs, |_: &mut accounts::v1::Event| None).is_none());
}

#[test]
fn transfers_that_are_not_as_the_rules_say_are_told() {
    let read = Read(day());
    let code = |of: TransferCode, to: TransferCode| {
        move |recorded: &mut ledger::TransfersRecorded| {
            let mut codes = recorded.codes.to_vec();
            *codes.iter_mut().find(|code| **code == of as u8)? = to as u8;
            recorded.codes = codes.into();
            more(&mut recorded.amounts_units).or(Some(()))
        }
    };
    read.recorded("E-2.3", code(TransferCode::Exists, TransferCode::Exists));
    read.recorded("E-2.3", code(TransferCode::InsufficientFunds, TransferCode::Exists));
    read.recorded("happened twice", code(TransferCode::Exists, TransferCode::Ok));
    let kind = |of: TransferKind| {
        move |recorded: &ledger::TransfersRecorded| recorded.kinds.contains(&(of as u8)).then_some(())
    };
    read.recorded("were posted", move |recorded| {
        kind(TransferKind::Post)(recorded)?;
        recorded.amounts_units[0] += 10_000_000_000;
        Some(())
    });
    read.recorded("E-2.2", move |recorded| {
        kind(TransferKind::Post)(recorded)?;
        turned(&mut recorded.credits)
    });
    read.recorded("E-2.1", move |recorded| {
        kind(TransferKind::Single)(recorded)?;
        recorded.amounts_units[0] += 1 << 60;
        Some(())
    });
    read.recorded("when its time was over", |recorded| match recorded.amounts_units[..] {
        [900] => now_is(recorded.expiries_us.first_mut()?, 7),
        _ => None,
    });
    let mut watch = Watch::default();
    watch.audit.books.dawn = Some(holmes_kernel::Time::default());
    let wrong = watch.read(read.0.clone());
    assert!(
        wrong.iter().any(|wrong| wrong.contains("nobody has asked")),
        "who reads logs alone has heard nobody ask"
    );
    read.says("which is frozen", |event: &mut ledger::Event| match event.event.as_mut()? {
        Booked::AccountFrozen(e) if !e.frozen_out => {
            e.frozen_out = true;
            Some(())
        }
        _ => None,
    });
    read.says("moved money twice", |event: &mut ledger::Event| match event.event.as_mut()? {
        Booked::WithdrawalRecorded(e) => {
            e.reference = "wire 1".into();
            Some(())
        }
        _ => None,
    });
    read.says("is overdrawn", |event: &mut ledger::Event| match event.event.as_mut()? {
        Booked::WithdrawalRecorded(e) => now_is(&mut e.amount_units, 1 << 60),
        _ => None,
    });
    read.says("before its time", |event: &mut ledger::Event| match event.event.as_mut()? {
        Booked::TransfersRecorded(recorded) if recorded.amounts_units == [901] => {
            now_is(recorded.expiries_us.first_mut()?, 1 << 60)
        }
        _ => None,
    });
}

#[test]
fn leases_calls_and_bonds_that_are_not_as_the_rules_say_are_told() {
    let read = Read(day());
    read.staked("E-6.5: what unbonds", only!(Staked::UnbondingStarted, e => now_is(&mut e.ready_at_us, 7)));
    read.staked(
        "E-6.5: what unbonds",
        only!(Staked::UnbondingStarted, e => { e.ready_at_us += 1; Some(()) }),
    );
    read.staked(
        "which is not its own",
        only!(Staked::UnbondingStarted, e => id_is(&mut e.node, node(1).to_bytes())),
    );
    read.staked("are paid", only!(Staked::UnbondingStarted, e => now_is(&mut e.amount_units, 1)));
    read.staked("does not go to its owner", only!(Staked::PayoutSent, e => astray(&mut e.send, |_| true)));
    read.staked(
        "paid before its time",
        only!(Staked::UnbondingStarted, e => now_is(&mut e.ready_at_us, 1 << 60)),
    );
    read.sold("E-10.2", |event| match event {
        Sold::SessionFunded(e) if e.renter == party(4).to_bytes().as_slice() => {
            id_is(&mut e.session, [7; 16])
        }
        _ => None,
    });
    read.sold("E-0.5: a lease", only!(Sold::ModelPriced, e => now_is(&mut e.output_pico_usd, 7)));
    read.placed(
        "names another owner",
        only!(Placed::LeaseGranted, e => id_is(&mut e.node, node(2).to_bytes())),
    );
    read.placed("E-6.1", only!(Placed::LeaseGranted, e => id_is(&mut e.node, [7; 16])));
    read.placed("E-10.2", only!(Placed::LeaseGranted, e => id_is(&mut e.session, [7; 16])));
    read.placed(
        "E-3.2: work for",
        only!(Placed::LeaseGranted, e => {
            e.renter = e.owner.clone();
            Some(())
        }),
    );
    read.placed("E-9.2: calls", only!(Placed::CallsMetered, e => turned(&mut e.lease)));
    read.placed(
        "never metered",
        only!(Placed::CallsCheckpointed, e => turned(&mut e.lines.first_mut()?.call)),
    );
    read.placed(
        "metered twice",
        only!(Placed::CallsMetered, e => e.lines.first().cloned().map(|line| e.lines.push(line))),
    );
}

#[test]
fn leases_that_hold_otherwise_than_the_rules_say_are_told() {
    let read = Read(day());
    read.placed("has a lease until", only!(Placed::LeaseGranted, e => now_is(&mut e.expires_at_us, 1 << 60)));
    read.placed("one of attachment", only!(Placed::LeaseGranted, e => now_is(&mut e.generation, 7)));
    read.placed(
        "more is metered than is allowed",
        only!(Placed::LeaseGranted, e => now_is(&mut e.allowance_pico_usd, 1)),
    );
    read.placed(
        "a lease ends",
        only!(Placed::LeaseEnded, e => {
            e.reason = scheduling::v1::LeaseEnd::NodeLost.into();
            Some(())
        }),
    );
    read.placed("never end", only!(Placed::LeaseEnded, e => turned(&mut e.lease)));
    read.sold("with a hold that covers", only!(Sold::SessionFunded, e => turned(&mut e.cap_pico_usd)));
}

#[test]
fn windows_that_are_not_as_the_rules_say_are_told() {
    let read = Read(day());
    read.sold("the price", only!(Sold::WindowEnded, e => more(&mut e.price_micro_usd)));
    read.sold("the buyer's fee", only!(Sold::WindowEnded, e => more(&mut e.buyer_fee_micro_usd)));
    read.sold("the seller's fee", only!(Sold::WindowEnded, e => more(&mut e.seller_fee_micro_usd)));
    read.sold("the owners' part", only!(Sold::WindowEnded, e => more(&mut e.paid_units)));
    read.sold("the work", only!(Sold::WindowEnded, e => more(&mut e.units)));
    read.sold(
        "the surcharge is",
        only!(Sold::WindowEnded, e => more(std::slice::from_mut(&mut e.surcharge_micro_usd))),
    );
    read.sold("the charge", only!(Sold::WindowEnded, e => more(std::slice::from_mut(&mut e.charged_units))));
    read.sold("the fees' units", only!(Sold::WindowEnded, e => more(std::slice::from_mut(&mut e.fee_units))));
    read.sold(
        "the surcharge's units",
        only!(Sold::WindowEnded, e => more(std::slice::from_mut(&mut e.surcharge_units))),
    );
    read.sold(
        "due is",
        only!(Sold::SettlementSent, e => astray(&mut e.send, |transfer| transfer.kind() == TransferKind::Single)),
    );
    read.sold(
        "is settled by",
        only!(Sold::SettlementSent, e => astray(&mut e.send, |transfer| transfer.kind() == TransferKind::Hold)),
    );
    read.sold("what is settled", only!(Sold::Settled, e => more(&mut e.paid_units)));
    read.sold("other rates", only!(Sold::SessionOpened, e => now_is(&mut e.seller_fee_ppb, 0)));
    read.sold("other rates", only!(Sold::SessionOpened, e => now_is(&mut e.hold_units, 7)));
    read.sold("to nobody", |event| match event {
        Sold::SessionFunded(e) if e.renter == party(4).to_bytes().as_slice() => {
            e.cap_pico_usd = 1u128.to_be_bytes().to_vec().into();
            Some(())
        }
        _ => None,
    });
    read.sold(
        "to nobody",
        only!(Sold::CallsNoted, e => {
            e.unbilled_pico_usd = 1u128.to_be_bytes().to_vec().into();
            Some(())
        }),
    );
    for kind in [TransferKind::Hold, TransferKind::Post] {
        read.sold("is settled by", |event| match event {
            Sold::SettlementSent(e) => in_send(&mut e.send, |transfer| {
                (transfer.kind() == kind).then(|| transfer.amount_units += 1 << 40)
            }),
            _ => None,
        });
    }
    read.sold(
        "is settled by",
        only!(Sold::SettlementSent, e => in_send(&mut e.send, |transfer| {
            let single = transfer.kind() == TransferKind::Single;
            single.then(|| transfer.debit_account_id = account(5, USD).to_string())
        })),
    );
    read.sold("reserves another's money", only!(Sold::SessionOpened, e => turned(&mut e.renter)));
    read.sold("says where", |event| match event {
        Sold::AccountSet(e) if e.asset == HOL => turned(&mut e.principal),
        _ => None,
    });
}

#[test]
fn rewards_that_are_not_as_the_rules_say_are_told() {
    let read = Read(day());
    read.emitted("E-4.6", only!(Emitted::NodesWeighed, e => turned(&mut e.trr_weights)));
    read.emitted("E-4.6", only!(Emitted::NodesWeighed, e => turned(&mut e.br_weights)));
    read.emitted("E-4.6", only!(Emitted::NodesWeighed, e => turned(&mut e.units)));
    read.emitted("E-0.4", only!(Emitted::SharesFloored, e => more(&mut e.br_units)));
    read.emitted("E-3.2", only!(Emitted::OwnerCut, e => more(&mut e.cut_units)));
    for at in 0..3 {
        let pool = move |change: fn(&mut emission::v1::PoolClose) -> Option<()>| {
            move |event: &mut Emitted| match event {
                Emitted::EpochClosed(e) => change(&mut e.pools[at]),
                _ => None,
            }
        };
        read.emitted("E-4.1", pool(|pool| now_is(&mut pool.target_units, 7)));
        read.emitted("E-4.1", pool(|pool| now_is(&mut pool.paid_units, 7)));
        read.emitted("E-4.1", pool(|pool| now_is(&mut pool.remaining_units, 1)));
    }
    read.emitted("E-4.7", only!(Emitted::EpochClosed, e => now_is(&mut e.scheduled_units, 7)));
    read.emitted("E-4.7", only!(Emitted::EpochClosed, e => now_is(&mut e.ceiling_units, 7)));
    read.emitted("E-0.6", only!(Emitted::EpochClosed, e => now_is(&mut e.active_nodes, 7)));
    read.emitted("E-5.1", only!(Emitted::RewardsGranted, e => more(&mut e.liquid_units)));
    read.emitted("E-5.1", only!(Emitted::RewardsGranted, e => more(&mut e.locked_units)));
    read.emitted("E-5.1", only!(Emitted::GrantsUnlocked, e => more(&mut e.units)));
    read.emitted("E-5.2", only!(Emitted::GrantExited, e => now_is(&mut e.burned_units, 7)));
    read.emitted("are paid to", only!(Emitted::PaymentsSent, e => astray(&mut e.send, |_| true)));
    read.emitted("and paid", only!(Emitted::PaymentsSent, e => now_is(e.units.first_mut()?, 1 << 60)));
    read.emitted("which is not its own", |event| match event {
        Emitted::NodeNoted(e) if e.node == node(1).to_bytes().as_slice() => turned(&mut e.owner),
        _ => None,
    });
    read.emitted("E-5.2: node", only!(Emitted::NodeNoted, e => { e.barred = true; Some(()) }));
    read.emitted(
        "E-3.2: the price",
        only!(Emitted::PriceNoted, e => now_is(&mut e.token_price_micro_usd, 7)),
    );
    read.emitted("E-0.5: epoch", only!(Emitted::CloseBegun, e => now_is(&mut e.epoch, 7)));
    read.emitted("E-0.5: what is of epoch", only!(Emitted::WorkNoted, e => now_is(&mut e.epoch, 7)));
    read.emitted(
        "and was paid",
        only!(Emitted::PaymentsAnswered, e => {
            e.reasons.first_mut()?.push_str("NO");
            Some(())
        }),
    );
}
