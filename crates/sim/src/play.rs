//! Plays a day: one deed after the other, and after each everything that must hold.

use std::collections::BTreeSet;
use std::time::Duration;

use holmes_accounts::command::{NewAccount, NewApiKey};
use holmes_accounts::{By, Change, Roles};
use holmes_kernel::{Amount, Id, Principal, ServiceId, Way};
use holmes_ledger::command::{Command as Pay, Coordinator, Kind, Move, Movement, Transfer, Via};
use holmes_market::Command as Trade;
use holmes_market::command::OpenSession;
use holmes_proto::scheduling::v1 as wire;
use holmes_scheduling::Command as Ask;
use holmes_staking::command::Command as Stake;

use crate::client::{Clients, Said};
use crate::deed::Deed;
use crate::watch::Watch;
use crate::world::{
    BANK, COIN, EPOCH_S, GATEWAY, HOL, OWNERS, USD, World, account, gateway, node, party, public, register,
    staff,
};

/// Who sends dense numbers.
const BULK: u8 = 3;

/// A day under way.
pub struct Day {
    /// The network.
    pub world: World,
    /// Those who ask.
    pub clients: Clients,
    /// What the logs say.
    pub watch: Watch,
    /// What went against the rules, the first such deed alone.
    pub wrong: Vec<String>,
    holds: Vec<(u8, Id)>,
    /// Transfers that parties have asked for by calls, each by itself.
    transfers: Vec<(Principal, Transfer)>,
    submitted: u64,
    /// Accounts that staff has given.
    given: Vec<Id>,
    /// Nodes that say nothing.
    silent: BTreeSet<u8>,
}

impl Day {
    /// The morning: a network with renters, owners and bonded nodes, and nothing amiss.
    pub fn begin() -> Day {
        let mut world = World::peopled();
        let bulk = Pay::RegisterSubmitter { submitter: party(BULK), registered: true };
        let asked = world.ask(&world.ledger.clone(), staff(), bulk);
        let (clients, mut watch) = (Clients::default(), Watch::default());
        // Each frame of the morning is a microsecond behind the last.
        watch.audit.books.dawn = Some(world.rig.now().after_millis(1));
        let wrong = asked.err().map(|refusal| refusal.to_string()).into_iter().collect();
        Day {
            world,
            clients,
            watch,
            wrong,
            holds: Vec::new(),
            transfers: Vec::new(),
            submitted: 0,
            given: Vec::new(),
            silent: BTreeSet::new(),
        }
    }

    /// Plays one deed and holds everything to what must be; whether it was.
    pub fn live(&mut self, deed: &Deed) -> bool {
        self.play(deed);
        self.look();
        self.wrong.is_empty()
    }

    fn play(&mut self, deed: &Deed) {
        match deed {
            Deed::Pay { from, to, token, units, balancing } => {
                let kind = self.payment(*from, *to, *token, *units, *balancing);
                self.transfers(party(*from), vec![kind], false);
            }
            Deed::Chain { from, token, units } => {
                let to = |at: usize| 1 + (usize::from(*from) + at) as u8 % 5;
                let kinds = units.iter().enumerate();
                let kinds = kinds.map(|(at, units)| self.payment(*from, to(at), *token, *units, false));
                self.transfers(party(*from), kinds.collect(), true);
            }
            Deed::Hold { from, to, token, units, timeout_ms } => {
                let Kind::Single(of) = self.payment(*from, *to, *token, *units, false) else { return };
                let kind = Kind::Hold { of, timeout_ms: Some(*timeout_ms), coordinator: None };
                let id = self.transfers(party(*from), vec![kind], false);
                self.holds.push((*from, id));
            }
            Deed::EndHold { at, post, twice } => self.end_hold(*at, *post, *twice),
            Deed::Submit { to, units, ahead } => self.submit(*to, *units, *ahead),
            Deed::Border { n, out, units, reference } => {
                let reference = format!("wire {reference}");
                let movement = Movement { account: account(*n, USD), amount: Amount::new(*units), reference };
                let command =
                    if *out { Pay::RecordWithdrawal(movement) } else { Pay::RecordDeposit(movement) };
                self.ask(BANK, Said::Ledger(command));
            }
            Deed::Open { n, token, budget } => self.open(*n, *token, *budget),
            Deed::Close { at } => self.close(*at),
            Deed::Place { at, n } => {
                let place = self.world.placement(*at, *n);
                self.ask_as_gateway(place);
            }
            Deed::Report { at, calls } => self.report(*at, calls),
            Deed::Checkpoint { at, calls } => self.checkpoint(*at, calls),
            Deed::Renew { at } => {
                let lease = self.lease(*at);
                let renew =
                    lease.map(|lease| Ask::RenewLease { lease, allowance: 40_000_000_000, duration_ms: 0 });
                self.ask_as_gateway(renew);
            }
            Deed::End { at } => {
                let reason = wire::LeaseEnd::Released.into();
                let end = self.lease(*at).map(|lease| Ask::EndLease { lease, reason });
                self.ask_as_gateway(end);
            }
            Deed::Lose { n } => {
                let detach = self.world.detachment(*n);
                self.ask_as_gateway(detach);
            }
            Deed::Attach { n } => {
                let attach = self.world.attachment(*n);
                self.ask_as_gateway(Some(attach));
            }
            Deed::Silence { n, silent: true } => drop(self.silent.insert(*n)),
            Deed::Silence { n, silent: false } => drop(self.silent.remove(n)),
            Deed::Account { kind, at } => self.account(*kind, *at),
            Deed::Gateway => self.ask_as_gateway(Some(Ask::StartGateway { public_key: public(GATEWAY) })),
            Deed::Bond { n, units } => self.bond(*n, *units),
            Deed::Unbond { n, units } => {
                let amount = Some(Amount::new(*units));
                self.ask(party(*n), Said::Staking(Stake::Unbond { node: node(*n), amount, account: None }));
            }
            Deed::Jail { n, jailed } => {
                let (node, cause) = (node(*n), "it answers nonsense".to_owned());
                let command = if *jailed { Stake::Jail { node, cause } } else { Stake::Unjail { node } };
                self.ask(staff(), Said::Staking(command));
            }
            Deed::Freeze { n, token, frozen } => self.freeze(account(*n, asset(*token)), *frozen),
            Deed::Exit { n, back } => {
                let exit = self.exit(*n, *back);
                self.ask(party(*n), Said::Emission(exit));
            }
            Deed::Nonsense { kind } => self.nonsense(*kind),
            Deed::Meddle { kind, at } => self.meddle(*kind, *at),
            Deed::Borrow { back } => self.pay_under_anothers_id(*back),
            Deed::Retransfer { back, change } => self.retransfer(*back, *change),
            Deed::Again { back } => {
                if let Some(at) = self.clients.back(*back) {
                    self.clients.send(&self.world, &self.watch, at);
                }
            }
            Deed::Reuse { back } => self.reuse(*back),
            Deed::Wait { ms } => self.wait(*ms),
            Deed::Leap { ms } => self.world.rig.leap(Duration::from_millis(*ms)),
            Deed::Hear => {
                self.world.rig.settle();
            }
            fault => self.suffer(fault),
        }
    }

    fn ask(&mut self, who: Principal, said: Said) {
        let id = self.world.fresh();
        let at = self.clients.note(who, Way::Request(id), said);
        self.clients.send(&self.world, &self.watch, at);
    }

    pub(crate) fn freeze(&mut self, account: Id, frozen_out: bool) {
        self.ask(staff(), Said::Ledger(Pay::SetFrozen { account, frozen_out }));
    }

    fn ask_as_gateway(&mut self, said: Option<Ask>) {
        if let Some(said) = said {
            self.ask(gateway(), Said::Scheduling(said));
        }
    }

    fn payment(&self, from: u8, to: u8, token: bool, units: u64, balancing: bool) -> Kind {
        let asset = asset(token);
        let (debit, credit, amount) = (account(from, asset), account(to, asset), Amount::new(units));
        Kind::Single(Move { debit, credit, amount, balancing, debit_owner: None })
    }

    /// Asks the ledger for transfers in one batch; the last one's id.
    fn transfers(&mut self, who: Principal, kinds: Vec<Kind>, linked: bool) -> Id {
        let last = kinds.len().saturating_sub(1);
        let transfer =
            |(at, kind)| Transfer { id: self.world.fresh(), linked: linked && at < last, tag: 0, kind };
        let transfers: Vec<Transfer> = kinds.into_iter().enumerate().map(transfer).collect();
        self.watch.audit.books.ask(&transfers);
        if let [alone] = &transfers[..] {
            self.transfers.push((who, *alone)); // one of a chain that failed may happen by itself
        }
        let id = transfers.last().map_or(Id::default(), |transfer| transfer.id);
        self.ask(who, Said::Ledger(Pay::CreateTransfers { via: Via::Call, transfers }));
        id
    }

    fn end_hold(&mut self, at: usize, post: Option<u64>, twice: bool) {
        let Some((n, hold)) = self.holds.get(at % self.holds.len().max(1)).copied() else { return };
        let kind = match post {
            None => Kind::Void { hold },
            Some(0) => Kind::Post { hold, amount: None },
            Some(units) => Kind::Post { hold, amount: Some(Amount::new(units)) },
        };
        self.transfers(party(n), if twice { vec![kind, kind] } else { vec![kind] }, false);
    }

    fn submit(&mut self, to: u8, units: u64, ahead: bool) {
        let order = |day: &mut Day| {
            day.submitted += 1;
            let kind = day.payment(BULK, to, false, units, false);
            let transfers = vec![Transfer { id: day.world.fresh(), linked: false, tag: 0, kind }];
            day.watch.audit.books.ask(&transfers);
            let said = Said::Ledger(Pay::CreateTransfers { via: Via::Number, transfers });
            day.clients.note(party(BULK), Way::Submission(day.submitted), said)
        };
        let first = order(self);
        if ahead {
            let second = order(self);
            self.clients.send(&self.world, &self.watch, second);
        }
        self.clients.send(&self.world, &self.watch, first);
    }

    fn open(&mut self, n: u8, token: bool, budget: u64) {
        let session = self.world.fresh();
        let asset = Some(asset(token));
        let open = OpenSession { session, renter: None, asset, budget: Some(budget) };
        let said = Said::Market(Trade::OpenSession(open));
        let at = self.clients.note(party(n), Way::Request(session), said);
        self.clients.send(&self.world, &self.watch, at);
        self.world.sessions.push((n, session));
    }

    /// A client closes one of its sessions.
    pub fn close(&mut self, at: usize) {
        let sessions = &self.world.sessions;
        let Some((n, session)) = sessions.get(at % sessions.len().max(1)).copied() else { return };
        self.ask(party(n), Said::Market(Trade::CloseSession { session }));
    }

    fn lease(&self, at: usize) -> Option<holmes_scheduling::state::LeaseId> {
        let leases = &self.world.leases;
        leases.get(at % leases.len().max(1)).copied()
    }

    fn report(&mut self, at: usize, calls: &[(u8, u64)]) {
        let Some(lease) = self.lease(at) else { return };
        let lines =
            calls.iter().map(|(call, tokens)| self.world.line(lease, *call, *tokens, wire::Finish::Stop));
        let report = Ask::ReportCalls { lease, lines: lines.collect() };
        self.ask_as_gateway(Some(report));
    }

    fn checkpoint(&mut self, at: usize, calls: &[(u8, u64)]) {
        let Some(lease) = self.lease(at) else { return };
        let lost = wire::Finish::NodeLost;
        let lines = calls.iter().map(|(call, tokens)| (lease, self.world.line(lease, *call, *tokens, lost)));
        let checkpoint = Ask::Checkpoint(lines.collect());
        self.ask_as_gateway(Some(checkpoint));
    }

    fn bond(&mut self, n: u8, units: u64) {
        let credit = holmes_ledger::system_account("bonds/HOL");
        let of = Move {
            debit: account(n, HOL),
            credit,
            amount: Amount::new(units),
            balancing: false,
            debit_owner: None,
        };
        let coordinator = Some(Coordinator { service: ServiceId(3), id: node(n) });
        let hold =
            self.transfers(party(n), vec![Kind::Hold { of, timeout_ms: Some(60_000), coordinator }], false);
        self.world.rig.settle();
        self.ask(party(n), Said::Staking(Stake::Bond { node: node(n), hold }));
    }

    fn account(&mut self, kind: u8, at: usize) {
        let (id, last) = (self.world.fresh(), self.given.get(at % self.given.len().max(1)).copied());
        let change = match (kind % 4, last) {
            (1, Some(account)) => Change::Suspend { account, cause: "asked for by a court".into() },
            (2, Some(account)) => Change::Reinstate { account },
            (3, Some(account)) => {
                let (label, roles) = (String::new(), Roles::RENTER);
                Change::CreateApiKey(NewApiKey {
                    account,
                    key: id,
                    hash: [kind; 32],
                    label,
                    roles,
                    admin: false,
                    expires: None,
                })
            }
            _ => {
                self.given.push(id);
                Change::CreateAccount(NewAccount {
                    account: id,
                    name: "one".into(),
                    roles: Roles::RENTER,
                    key: None,
                })
            }
        };
        self.ask(staff(), Said::Accounts(holmes_accounts::Command { by: By::Signature, change }));
    }

    fn nonsense(&mut self, kind: u8) {
        let (who, unknown) = (party(4), Id::v7(self.world.rig.now().millis(), [9; 10]));
        let of_another = |from: u8, token: bool| self.payment(from, 4, token, 1, false);
        let said = match kind % 12 {
            0 => Said::Ledger(Pay::CreateTransfers { via: Via::Call, transfers: Vec::new() }),
            1 => Said::Ledger(Pay::ExpireHolds),
            2 => Said::Ledger(Pay::Destroy { asset: HOL, amount: Amount::new(COIN) }),
            3 => Said::Market(Trade::CloseSession { session: unknown }),
            4 => Said::Market(Trade::Answered { seq: 7, refused: None }),
            5 => Said::Staking(Stake::Bond { node: node(1), hold: unknown }),
            6 => Said::Treasury(holmes_treasury::Command::RetryGenesis),
            7 | 8 => {
                let kind = if kind.is_multiple_of(2) { of_another(5, false) } else { of_another(1, true) };
                let transfers = vec![Transfer { id: self.world.fresh(), linked: false, tag: 0, kind }];
                Said::Ledger(Pay::CreateTransfers { via: Via::Call, transfers })
            }
            9 => Said::Ledger(Pay::SetFrozen { account: account(5, USD), frozen_out: true }),
            10 => Said::Emission(holmes_emission::Command::ExitGrant { node: node(1), epoch: 0 }),
            _ => Said::Staking(register(1)),
        };
        let id = self.world.fresh();
        let at = self.clients.note(who, Way::Request(id), said);
        if !matches!(kind % 12, 7 | 8) {
            self.clients.forbid(at); // a transfer's refusal stands in its result: there the books are the judge
        }
        self.clients.send(&self.world, &self.watch, at);
    }

    /// Ends another's hold, takes another's grant or bond, closes another's session, pays from another's account.
    fn meddle(&mut self, kind: u8, at: usize) {
        let other = |n: u8| party(1 + n % 5);
        let n = 1 + at as u8 % 3;
        let taken = match kind % 7 {
            0 | 1 => {
                let Some((n, hold)) = self.holds.get(at % self.holds.len().max(1)).copied() else { return };
                let kind = if kind.is_multiple_of(2) {
                    Kind::Post { hold, amount: None }
                } else {
                    Kind::Void { hold }
                };
                self.transfers(other(n), vec![kind], false); // who is paid may do without it: the books are the judge
                return;
            }
            2 => Said::Emission(self.exit(n, at as u64)),
            3 => {
                let amount = Some(Amount::new(1 + at as u64));
                Said::Staking(Stake::Unbond { node: node(n), amount, account: Some(account(1 + n % 5, HOL)) })
            }
            4 => {
                let sessions = &self.world.sessions;
                let Some((n, session)) = sessions.get(at % sessions.len().max(1)).copied() else { return };
                let close = self.clients.note(
                    other(n),
                    Way::Request(self.world.fresh()),
                    Said::Market(Trade::CloseSession { session }),
                );
                self.clients.forbid(close);
                return self.clients.send(&self.world, &self.watch, close);
            }
            whose => {
                // Nobody can know whose account that is but the ledger: then it does not pay from it.
                let (n, asset) = (4 + at as u8 % 2, asset(at.is_multiple_of(4)));
                let account = account(if whose == 5 { 9 - n } else { n }, asset);
                return self.ask(party(n), Said::Market(Trade::SetAccount { asset, account }));
            }
        };
        let id = self.world.fresh();
        let at = self.clients.note(other(n), Way::Request(id), taken);
        self.clients.forbid(at);
        self.clients.send(&self.world, &self.watch, at);
    }

    /// E-2.3: the same transfer again does nothing, another one under its id fails.
    fn retransfer(&mut self, back: usize, change: u8) {
        let Some(at) = self.transfers.len().checked_sub(1 + back) else { return };
        let (who, mut transfer) = self.transfers[at];
        match (&mut transfer.kind, change % 4) {
            (Kind::Single(of) | Kind::Hold { of, .. }, 1) => {
                of.amount = Amount::new(of.amount.units() / 2 + 1)
            }
            (Kind::Single(of) | Kind::Hold { of, .. }, 2) => of.credit = account(1 + change / 4 % 5, USD),
            (Kind::Post { amount, .. }, 1) => *amount = Some(Amount::new(1)),
            (_, 3) => transfer.tag = 1,
            _ => {}
        }
        let transfers = vec![transfer];
        self.watch.audit.books.ask(&transfers);
        self.ask(who, Said::Ledger(Pay::CreateTransfers { via: Via::Call, transfers }));
    }

    /// To take a grant early: one that is there, or one that may have been.
    fn exit(&self, n: u8, back: u64) -> holmes_emission::Command {
        let grant = |state: &holmes_emission::State| {
            let grants = state.nodes.get(&node(n)).map(|node| &node.grants);
            let there = grants.filter(|grants| !grants.is_empty());
            let nth = there.and_then(|grants| grants.keys().nth_back(back as usize % grants.len()).copied());
            nth.unwrap_or(state.next.saturating_sub(back))
        };
        holmes_emission::Command::ExitGrant { node: node(n), epoch: self.world.emission.look(grant) }
    }

    fn reuse(&mut self, back: usize) {
        let Some(at) = self.clients.back(back) else { return };
        let (who, way) = (self.clients.order(at).who, self.clients.order(at).way);
        let kind = self.payment(4, 5, false, 1, false);
        let via = if matches!(way, Way::Request(_)) { Via::Call } else { Via::Number };
        let transfers = vec![Transfer { id: self.world.fresh(), linked: false, tag: 1, kind }];
        self.watch.audit.books.ask(&transfers); // under an id that is forgotten it is done
        // A submitter's number that was never sent would be this one's for ever, and the day's own would wait behind it.
        let open = self.clients.open().contains(&at) && via == Via::Number;
        if !open {
            let at = self.clients.note(who, way, Said::Ledger(Pay::CreateTransfers { via, transfers }));
            self.clients.send(&self.world, &self.watch, at);
        }
    }

    /// Ids are each caller's own: under another's one is served as under any, and hears nothing of his.
    fn pay_under_anothers_id(&mut self, back: usize) {
        let Some(order) = self.clients.back(back).map(|at| self.clients.order(at)) else { return };
        let (Way::Request(_), Said::Ledger(_)) = (order.way, &order.said) else { return };
        let (way, n) = (order.way, if order.who == party(4) { 5 } else { 4 });
        let kind = self.payment(n, 9 - n, false, 2, false);
        let transfers = vec![Transfer { id: self.world.fresh(), linked: false, tag: 2, kind }];
        self.watch.audit.books.ask(&transfers);
        let said = Said::Ledger(Pay::CreateTransfers { via: Via::Call, transfers });
        let at = self.clients.note(party(n), way, said);
        self.clients.send(&self.world, &self.watch, at);
    }

    /// Time passes while the gateway reports every five seconds who is there.
    pub fn wait(&mut self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let part = left.min(5_000);
            left -= part;
            self.world.rig.advance(Duration::from_millis(part));
            let there: Vec<u8> = OWNERS.filter(|n| !self.silent.contains(n)).collect();
            let seen = self.world.presence_of(there.into_iter());
            self.ask_as_gateway(Some(seen));
        }
    }

    /// An epoch passes.
    pub fn epoch(&mut self) {
        self.wait(EPOCH_S * 1_000);
    }
}

fn asset(token: bool) -> u32 {
    if token { HOL } else { USD }
}
