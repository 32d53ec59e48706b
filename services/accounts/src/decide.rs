//! What a command would do. Pure; at most three events each, of bounded size.

mod accounts;
mod caller;
mod keys;
#[cfg(test)]
mod tests;

use holmes_kernel::{Ctx, Id, Principal, PrincipalKind};
use holmes_proto::accounts::v1::event::Event as Kind;
use holmes_proto::accounts::v1::{Event, KeyChanged};

pub use caller::{Lost, can_be_administered};

use crate::command::{By, Change, Command, Rejection};
use crate::possession::{self, NotProven, OfferedKey};
use crate::state::{Account, State};

use caller::Caller;

/// What would happen; no event means that it is so already.
///
/// # Errors
/// With a stable reason.
pub fn decide(state: &State, command: &Command, ctx: &Ctx, out: &mut Vec<Event>) -> Result<(), Rejection> {
    let events = match (&command.change, command.by) {
        (Change::CreateAccount(new), By::OfferedKey) => accounts::create_own(state, new, ctx),
        (change, by) => changed(state, change, &caller::caller(state, by, ctx)?, ctx),
    }?;
    out.extend(events.into_iter().map(|event| Event { event: Some(event) }));
    Ok(())
}

type Decided = Result<Vec<Kind>, Rejection>;

fn changed(state: &State, change: &Change, caller: &Caller, ctx: &Ctx) -> Decided {
    match change {
        Change::CreateAccount(new) => accounts::create(state, new, caller),
        Change::SetRoles { account, roles } => accounts::set_roles(state, *account, *roles, caller),
        Change::Suspend { account, cause } => accounts::suspend(state, *account, cause, caller),
        Change::Reinstate { account } => accounts::reinstate(state, *account, caller),
        Change::CreateApiKey(new) => keys::create_api_key(state, new, caller, ctx),
        Change::RevokeApiKey { key } => keys::revoke_api_key(state, *key, caller, ctx),
        Change::AddPublicKey { account, key } => keys::add(state, *account, key, caller),
        Change::RotateKey { account, old, key } => keys::rotate(state, *account, old, key, caller),
        Change::RevokePublicKey { public_key } => keys::revoke(state, public_key, caller, ctx),
        Change::RegisterKey { holder, key } => keys::register(state, *holder, key, caller),
    }
}

/// The event of an offered key that its possessor has proven, new to all. That a key was registered before is told to
/// its possessor alone.
fn offered(state: &State, holder: Principal, owner: Option<Id>, key: &OfferedKey) -> Result<Kind, Rejection> {
    refuse_if(!is_text(&key.label, 0, crate::params::MOST_LABEL_BYTES), || Rejection::LabelInvalid)?;
    possession::check(&state.network, holder, owner, key).map_err(|why| match why {
        NotProven::Key => Rejection::PublicKeyInvalid,
        NotProven::Signature => Rejection::PossessionWrong,
    })?;
    refuse_if(state.public_keys.contains(&key.public_key), || Rejection::PublicKeyUsed)?;
    Ok(key_changed(holder, owner, &key.public_key, Some(&key.label)))
}

/// A key was added under a label, or revoked.
fn key_changed(holder: Principal, owner: Option<Id>, public_key: &[u8; 32], label: Option<&str>) -> Kind {
    Kind::KeyChanged(KeyChanged {
        holder: holder.to_bytes().to_vec().into(),
        owner: owner.map_or_else(Vec::new, |id| id.to_bytes().to_vec()).into(),
        public_key: public_key.to_vec().into(),
        label: label.unwrap_or_default().to_owned(),
        revoked: label.is_none(),
    })
}

fn account_of(id: Id) -> Principal {
    Principal::new(PrincipalKind::Account, id)
}

fn found(state: &State, id: Id) -> Result<&Account, Rejection> {
    state.account(&id).ok_or(Rejection::AccountNotFound(id))
}

fn refuse_if(wrong: bool, why: impl FnOnce() -> Rejection) -> Result<(), Rejection> {
    if wrong { Err(why()) } else { Ok(()) }
}

/// Whether a text is so long and shows as it is.
fn is_text(text: &str, least: usize, most: usize) -> bool {
    (least..=most).contains(&text.len()) && !text.chars().any(hides)
}

/// Whether a character shows nothing, or turns around how others show: a name must not look like another one.
fn hides(c: char) -> bool {
    let invisible = ['\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{206f}'];
    c.is_control() || c == '\u{feff}' || c == '\u{61c}' || invisible.iter().any(|range| range.contains(&c))
}
