//! The ledger's gRPC service over a [`Handle`]: parses, submits or reads, answers.

use std::collections::BTreeSet;
use std::ops::Range;

use holmes_kernel::Place;
use holmes_kernel::{Answer, At, Call, Code, Handle, Id, Principal, PrincipalKind, Refusal, Way};
use holmes_proto::edge::{self, Needs};
use holmes_proto::ledger::v1 as wire;
use holmes_proto::ledger::v1::ledger_server::{Ledger as Service, LedgerServer};
use tonic::{Request, Response, Status};

use crate::Ledger;
use crate::command::{Command, Rejection, Reply, Transfer, TransferResult, Via};
use crate::decide;
use crate::params::{MOST_TRANSFERS_PER_COMMAND, MOST_TRANSFERS_PER_REQUEST};
use crate::state::{Account, State};
use crate::wire as parse;
use crate::wire::Malformed;

/// The service.
#[derive(Clone, Debug)]
pub struct Api<H> {
    handle: H,
}

/// The service as a gRPC server takes it.
pub fn server<H: Handle<Ledger>>(handle: H) -> LedgerServer<Api<H>> {
    LedgerServer::new(Api::new(handle))
}

impl<H: Handle<Ledger>> Api<H> {
    /// The service over a ledger.
    pub fn new(handle: H) -> Api<H> {
        Api { handle }
    }

    /// Deposit and withdrawal.
    async fn record<T, R>(
        &self,
        request: &Request<T>,
        (request_id, validate_only): (&str, bool),
        command: Result<Command, Malformed>,
        made: impl FnOnce(bool) -> R,
    ) -> Result<Response<R>, Status> {
        let answer = edge::submit_or_say(&self.handle, request, request_id, validate_only, command).await?;
        Ok(edge::answered(answer, |reply| made(reply == Reply::Recorded { already: true })))
    }

    /// E-2.2: a batch as a row of commands, split only between chains, the first under the request's own id and the
    /// others under ids that follow from it: sent again, each gets its own answer again.
    async fn in_parts(
        &self,
        call: &Call,
        request_id: Id,
        transfers: Vec<Transfer>,
    ) -> Result<Answer<Vec<TransferResult>>, Status> {
        let mut joined = Answer { value: Vec::with_capacity(transfers.len()), seq: 0 };
        for (n, part) in parts(&transfers).into_iter().enumerate() {
            let call = Call { way: Way::Request(part_id(request_id, n as u32)), ..call.clone() };
            let command = Command::CreateTransfers { via: Via::Call, transfers: transfers[part].to_vec() };
            let answer = self.handle.submit(call, command).await.map_err(edge::status)?;
            joined.value.extend(results(answer.value));
            joined.seq = answer.seq;
        }
        Ok(joined)
    }

    /// The accounts that a batch names, in their first order, behind its last transfer or later.
    async fn balances(
        &self,
        seq: u64,
        principal: Principal,
        transfers: Vec<wire::Transfer>,
    ) -> Result<Vec<wire::Account>, Status> {
        let look = move |state: &State| {
            let mut named: Vec<Id> = Vec::new();
            let mut seen: BTreeSet<Id> = BTreeSet::new();
            for transfer in &transfers {
                let texts = [&transfer.debit_account_id, &transfer.credit_account_id];
                named.extend(
                    texts.into_iter().filter_map(|text| text.parse().ok()).filter(|id| seen.insert(*id)),
                );
            }
            let visible = |id: Id| {
                let account = state.account(&id).filter(|account| may_see(&principal, account))?;
                Some(parse::account(state, id, account))
            };
            named.into_iter().filter_map(visible).collect()
        };
        Ok(self.handle.read(At::Seq(seq), look).await.map_err(edge::status)?.value)
    }
}

/// The parts of a batch: as few as hold it, none longer than a command, each a row of whole chains.
pub fn parts(transfers: &[Transfer]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for chain in decide::chains(transfers) {
        let end = at + chain.len();
        match parts.last_mut() {
            Some(part) if end - part.start <= MOST_TRANSFERS_PER_COMMAND => part.end = end,
            _ => parts.push(at..end),
        }
        at = end;
    }
    parts
}

/// The request id of a batch's n-th part.
pub fn part_id(request_id: Id, n: u32) -> Id {
    match request_id.moment() {
        Some(at) if n > 0 => Id::derive(at, &request_id.to_bytes(), n),
        _ => request_id,
    }
}

fn results(reply: Reply) -> Vec<TransferResult> {
    match reply {
        Reply::Transfers(results) => results,
        Reply::Done | Reply::Recorded { .. } => Vec::new(),
    }
}

/// No tenant sees another's: owners see their own accounts, services and staff all.
fn may_see(principal: &Principal, account: &Account) -> bool {
    sees_all(principal) || *principal == account.owner
}

fn sees_all(principal: &Principal) -> bool {
    matches!(principal.kind, PrincipalKind::Service | PrincipalKind::Staff)
}

fn not_found(reason: &'static str, message: String) -> Status {
    edge::status(Refusal::new(Code::NotFound, reason, message))
}

/// Of a transfer or hold: whoever owns one of its sides.
fn may_see_sides(state: &State, principal: &Principal, sides: [Place; 2]) -> bool {
    let side = |place| state.accounts.at(place).is_some_and(|(_, account)| may_see(principal, account));
    sees_all(principal) || sides.into_iter().any(side)
}

/// A page of accounts: what follows the places of an owner's, or of all, from a place on.
fn page(
    state: &State,
    owner: Option<Principal>,
    from: usize,
    size: usize,
) -> (Vec<wire::Account>, Option<usize>) {
    let (places, total): (Vec<Place>, usize) = match owner {
        None => {
            let total = state.accounts.len();
            let from = from.min(total); // a token that was made up leads to an empty page
            let end = from.saturating_add(size).min(total);
            ((from as Place..end as Place).collect(), total)
        }
        Some(owner) => {
            let all = state.owners.get(&owner).map(Vec::as_slice).unwrap_or_default();
            (all.iter().skip(from).take(size).copied().collect(), all.len())
        }
    };
    let rows = places.iter().filter_map(|place| state.accounts.at(*place));
    let accounts = rows.map(|(id, account)| parse::account(state, *id, account)).collect();
    let next = from.saturating_add(places.len());
    (accounts, (next < total).then_some(next))
}

#[tonic::async_trait]
impl<H: Handle<Ledger>> Service for Api<H> {
    async fn open_account(
        &self,
        request: Request<wire::OpenAccountRequest>,
    ) -> Result<Response<wire::OpenAccountResponse>, Status> {
        edge::needs(&request, Needs::Party)?;
        let caller = edge::principal(&request)?;
        let wanted = request.get_ref();
        let command = parse::open_account(wanted, caller, Via::Call)?;
        let account_id = match &command {
            Command::OpenAccount(open) => open.account.to_string(),
            _ => String::new(),
        };
        let answer = edge::submit(&self.handle, &request, &wanted.request_id, Ok(command)).await?;
        Ok(edge::answered(answer, |_| wire::OpenAccountResponse { account_id }))
    }

    async fn close_account(
        &self,
        request: Request<wire::CloseAccountRequest>,
    ) -> Result<Response<wire::CloseAccountResponse>, Status> {
        let wanted = request.get_ref();
        edge::needs(&request, Needs::Admin)?;
        edge::done(&self.handle, &request, &wanted.request_id, parse::close_account(wanted)).await
    }

    async fn get_account(
        &self,
        request: Request<wire::GetAccountRequest>,
    ) -> Result<Response<wire::GetAccountResponse>, Status> {
        let principal = edge::principal(&request)?;
        let id = edge::id("account_id", &request.get_ref().account_id)?;
        let look = move |state: &State| {
            let account = state.account(&id).filter(|account| may_see(&principal, account));
            let account = account.ok_or(Rejection::AccountNotFound(id))?;
            Ok(parse::account(state, id, account))
        };
        let answer = edge::read(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |account| wire::GetAccountResponse { account: Some(account) }))
    }

    async fn list_accounts(
        &self,
        request: Request<wire::ListAccountsRequest>,
    ) -> Result<Response<wire::ListAccountsResponse>, Status> {
        let principal = edge::principal(&request)?;
        let wanted = request.get_ref();
        let owner = match wanted.owner.as_str() {
            "" => Some(principal),
            "*" => None,
            text => Some(parse::principal("owner", text)?),
        };
        if owner != Some(principal) && !sees_all(&principal) {
            let needs = "only services and staff list accounts of others";
            return Err(edge::refused(&Rejection::Forbidden { who: principal, needs }));
        }
        let from = edge::page_from(&wanted.page_token, 0)?;
        let size = edge::page_size(wanted.page_size);
        let look = move |state: &State| page(state, owner, from, size);
        let answer = edge::look(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |(accounts, next)| wire::ListAccountsResponse {
            accounts,
            next_page_token: edge::next_page(next),
        }))
    }

    async fn create_transfers(
        &self,
        request: Request<wire::CreateTransfersRequest>,
    ) -> Result<Response<wire::CreateTransfersResponse>, Status> {
        edge::needs(&request, Needs::Admin)?;
        let (call, id) = way(&request)?;
        let wanted = request.get_ref();
        let numbered = wanted.submission_number > 0;
        let most = if numbered { MOST_TRANSFERS_PER_COMMAND } else { MOST_TRANSFERS_PER_REQUEST };
        let transfers = parse::transfers(&wanted.transfers)?;
        decide::well_formed(&transfers, most).map_err(|why| edge::refused(&why))?;
        let principal = call.principal;
        let answer = if wanted.validate_only {
            // Parts of a batch would build on each other, so a preview is one command.
            decide::well_formed(&transfers, MOST_TRANSFERS_PER_COMMAND).map_err(|why| edge::refused(&why))?;
            let command = Command::CreateTransfers { via: Via::Call, transfers };
            let (handle, id) = (&self.handle, &wanted.request_id);
            let Answer { value, seq } = edge::submit_or_say(handle, &request, id, true, Ok(command)).await?;
            Answer { value: results(value), seq }
        } else if numbered {
            let command = Command::CreateTransfers { via: Via::Number, transfers };
            let Answer { value, seq } = self.handle.submit(call, command).await.map_err(edge::status)?;
            Answer { value: results(value), seq }
        } else {
            self.in_parts(&call, id, transfers).await?
        };
        let wanted = request.into_inner();
        let balances = if wanted.return_balances {
            self.balances(answer.seq, principal, wanted.transfers).await?
        } else {
            Vec::new()
        };
        Ok(edge::answered(answer, |results| wire::CreateTransfersResponse {
            results: results.into_iter().map(parse::result).collect(),
            balances,
        }))
    }

    async fn get_transfer(
        &self,
        request: Request<wire::GetTransferRequest>,
    ) -> Result<Response<wire::GetTransferResponse>, Status> {
        let principal = edge::principal(&request)?;
        let id = edge::id("transfer_id", &request.get_ref().transfer_id)?;
        let look = move |state: &State| {
            let known = state.transfer(id)?;
            let visible = may_see_sides(state, &principal, [known.debit, known.credit]);
            visible.then(|| parse::known(state, id, known))
        };
        let Answer { value, seq } = edge::look(&self.handle, &request, look).await?;
        let missing = || {
            let message = format!(
                "no transfer {id} was recorded in the last hour: older ones stand in the log and in the explorer"
            );
            not_found("TRANSFER_NOT_FOUND", message)
        };
        Ok(edge::answered(Answer { value: value.ok_or_else(missing)?, seq }, |known| known))
    }

    async fn get_hold(
        &self,
        request: Request<wire::GetHoldRequest>,
    ) -> Result<Response<wire::GetHoldResponse>, Status> {
        let principal = edge::principal(&request)?;
        let id = edge::id("hold_id", &request.get_ref().hold_id)?;
        let look = move |state: &State| {
            let hold = state.holds.get(&id)?;
            let visible = may_see_sides(state, &principal, [hold.debit, hold.credit]);
            visible.then(|| parse::hold(state, id, hold))
        };
        let Answer { value, seq } = edge::look(&self.handle, &request, look).await?;
        let missing = || {
            not_found("HOLD_NOT_FOUND", format!("no hold {id} is open: GetTransfer tells what became of it"))
        };
        Ok(edge::answered(Answer { value: value.ok_or_else(missing)?, seq }, |hold| hold))
    }

    async fn set_frozen(
        &self,
        request: Request<wire::SetFrozenRequest>,
    ) -> Result<Response<wire::SetFrozenResponse>, Status> {
        let wanted = request.get_ref();
        edge::needs(&request, Needs::Admin)?;
        edge::done(&self.handle, &request, &wanted.request_id, parse::set_frozen(wanted)).await
    }

    async fn set_limits(
        &self,
        request: Request<wire::SetLimitsRequest>,
    ) -> Result<Response<wire::SetLimitsResponse>, Status> {
        let wanted = request.get_ref();
        edge::needs(&request, Needs::Admin)?;
        edge::done(&self.handle, &request, &wanted.request_id, parse::set_limits(wanted)).await
    }

    async fn register_submitter(
        &self,
        request: Request<wire::RegisterSubmitterRequest>,
    ) -> Result<Response<wire::RegisterSubmitterResponse>, Status> {
        let wanted = request.get_ref();
        edge::needs(&request, Needs::Admin)?;
        edge::done(&self.handle, &request, &wanted.request_id, parse::register_submitter(wanted)).await
    }

    async fn record_deposit(
        &self,
        request: Request<wire::RecordDepositRequest>,
    ) -> Result<Response<wire::RecordDepositResponse>, Status> {
        edge::needs(&request, Needs::Admin)?;
        let r = request.get_ref();
        let command =
            parse::movement(&r.account_id, r.amount_units, &r.reference).map(Command::RecordDeposit);
        let asked = (r.request_id.as_str(), r.validate_only);
        let made = |already_recorded| wire::RecordDepositResponse { already_recorded };
        self.record(&request, asked, command, made).await
    }

    async fn record_withdrawal(
        &self,
        request: Request<wire::RecordWithdrawalRequest>,
    ) -> Result<Response<wire::RecordWithdrawalResponse>, Status> {
        edge::needs(&request, Needs::Admin)?;
        let r = request.get_ref();
        let command =
            parse::movement(&r.account_id, r.amount_units, &r.reference).map(Command::RecordWithdrawal);
        let asked = (r.request_id.as_str(), r.validate_only);
        let made = |already_recorded| wire::RecordWithdrawalResponse { already_recorded };
        self.record(&request, asked, command, made).await
    }

    async fn get_supply(
        &self,
        request: Request<wire::GetSupplyRequest>,
    ) -> Result<Response<wire::GetSupplyResponse>, Status> {
        let answer = edge::look(&self.handle, &request, parse::supplies).await?;
        Ok(edge::answered(answer, |supplies| wire::GetSupplyResponse { supplies }))
    }
}

/// How a batch comes in: by a request id, which names its parts, or by a submitter's number.
fn way(request: &Request<wire::CreateTransfersRequest>) -> Result<(Call, Id), Status> {
    let wanted = request.get_ref();
    if wanted.submission_number == 0 {
        let call = edge::call(request, &wanted.request_id)?;
        return Ok((call, edge::id("request_id", &wanted.request_id)?));
    }
    if !wanted.request_id.is_empty() {
        return Err(edge::invalid("request_id", "nothing beside a submission_number"));
    }
    if wanted.validate_only {
        return Err(edge::invalid("validate_only", "a request_id instead of a submission_number"));
    }
    // The edge knows only requests: the id is replaced by the number.
    let call = edge::call(request, &Id::default().to_string())?;
    Ok((Call { way: Way::Submission(wanted.submission_number), ..call }, Id::default()))
}
