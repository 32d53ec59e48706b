//! What other services' sends mean here. A send is a `holmes.ledger.v1.Command` inside some service's event; the ledger
//! carries it out in that service's name and knows nothing else of it.

use holmes_kernel::{Amount, Principal, ServiceId, Unknown};
use holmes_proto::ledger::v1 as wire;
use holmes_proto::ledger::v1::command::Command as Sent;
use prost::Message;

use crate::command::{Command, Via};
use crate::wire as parse;
use crate::wire::Malformed;

/// The command that a send's bytes are. Fields that cannot be read become [`Command::Malformed`], which is refused on
/// the record, so that the sender hears of it.
///
/// # Errors
/// [`Unknown`] when this build does not know the command: the source is parked, never refused.
pub fn command(sender: ServiceId, bytes: &[u8]) -> Result<Command, Unknown> {
    let unknown = |what: String| Unknown { service: sender, what };
    let sent = wire::Command::decode(bytes).map_err(|why| unknown(format!("a send to the ledger: {why}")))?;
    let sent = sent.command.ok_or_else(|| unknown("a command to the ledger".into()))?;
    Ok(parsed(&sent, Principal::service(sender))
        .unwrap_or_else(|why| Command::Malformed { what: why.to_string() }))
}

fn parsed(sent: &Sent, sender: Principal) -> Result<Command, Malformed> {
    match sent {
        Sent::OpenAccount(request) => parse::open_account(request, sender, Via::Send),
        Sent::CloseAccount(request) => parse::close_account(request),
        Sent::CreateTransfers(request) => {
            let transfers = parse::transfers(&request.transfers)?;
            Ok(Command::CreateTransfers { via: Via::Send, transfers })
        }
        Sent::SetFrozen(request) => parse::set_frozen(request),
        Sent::SetLimits(request) => parse::set_limits(request),
        Sent::RecordDeposit(r) => {
            parse::movement(&r.account_id, r.amount_units, &r.reference).map(Command::RecordDeposit)
        }
        Sent::RecordWithdrawal(r) => {
            parse::movement(&r.account_id, r.amount_units, &r.reference).map(Command::RecordWithdrawal)
        }
        Sent::DestroyTokens(r) => {
            Ok(Command::Destroy { asset: r.asset, amount: Amount::new(r.amount_units) })
        }
    }
}
