//! What a scenario has come to while it is played: the network, who takes part, what was saved, and how each of them asks.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, anyhow, bail};
use holmes_kernel::{Id, Principal};
use prost_reflect::prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use serde_json::{Value as Json, json};

use super::cast::{self, GATEWAY, STAFF};
use super::check::{self, Plan};
use super::cluster::{Caller, Cluster, Refused};
use super::desk::Desk;
use super::engine::Engine;
use super::fields;
use super::file::{By, Kind};
use super::names::{self, Reference};
use super::tell::Teller;
use crate::client::Proof;
use crate::output;

/// Everything.
pub(super) struct World<'a> {
    pub plan: Plan,
    pub cluster: Cluster,
    pub teller: &'a mut Teller,
    pub desk: Desk,
    pub engine: Option<Engine>,
    /// Replies by the names that steps gave them.
    pub saved: BTreeMap<String, Json>,
    /// Ids by the names that steps gave them.
    ids: BTreeMap<String, Id>,
    /// API keys that were made.
    keys: BTreeSet<(String, bool)>,
    /// Requests so far, for their ids.
    asked: u64,
}

/// What a service answers, or why it does not.
pub(super) type Answered<T> = Result<Result<T, Refused>>;

impl<'a> World<'a> {
    pub(super) fn new(
        plan: Plan,
        cluster: Cluster,
        engine: Option<Engine>,
        teller: &'a mut Teller,
    ) -> World<'a> {
        let desk = Desk::default();
        let (saved, ids, keys) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        World { plan, cluster, teller, desk, engine, saved, ids, keys, asked: 0 }
    }

    /// An id that was never used: of now, by the count of all that were asked for.
    pub(super) fn fresh(&mut self) -> Id {
        self.asked += 1;
        cast::id(self.plan.cast.seed(), self.cluster.now(), "request", &self.asked.to_string())
    }

    /// Calls as somebody, with JSON.
    pub(super) async fn call(
        &mut self,
        who: &str,
        by: By,
        method: &MethodDescriptor,
        with: Json,
    ) -> Answered<Json> {
        let request = fields::request(with, &method.input()).map_err(|why| anyhow!(why))?;
        let caller = self.caller(who, by).await?;
        let answer = self.send(who, caller, method, request).await?;
        Ok(answer.map(|message| self.cluster.shown(&message)))
    }

    /// Calls as somebody who signs, with JSON, what must be answered.
    pub(super) async fn must(&mut self, who: &str, method: &str, with: Json) -> Result<Json> {
        let method = self.cluster.method(method)?;
        let answer = self.call(who, By::Signature, &method, with).await?;
        answer.map_err(|refused| {
            anyhow!(
                "{who} was refused {}/{}: {}: {}",
                method.parent_service().name(),
                method.name(),
                refused.reason,
                refused.message
            )
        })
    }

    /// Calls as the gateway.
    pub(super) async fn gateway<Q: Message, A: Message + Default>(
        &mut self,
        method: &str,
        question: &Q,
    ) -> Answered<A> {
        let method = self.cluster.method(method)?;
        let request = DynamicMessage::decode(method.input(), question.encode_to_vec().as_slice())?;
        let caller = Caller::Inside(self.principal(GATEWAY)?);
        Ok(match self.send(GATEWAY, caller, &method, request).await? {
            Ok(message) => Ok(A::decode(message.encode_to_vec().as_slice())?),
            Err(refused) => Err(refused),
        })
    }

    async fn send(
        &mut self,
        who: &str,
        caller: Caller,
        method: &MethodDescriptor,
        request: DynamicMessage,
    ) -> Answered<DynamicMessage> {
        let id = self.fresh();
        self.cluster.call(self.teller, (who, caller), method, request, id).await
    }

    /// As whom somebody is.
    pub(super) fn principal(&self, name: &str) -> Result<Principal> {
        Ok(self.party(name)?.principal())
    }

    pub(super) fn party(&self, name: &str) -> Result<&cast::Party> {
        self.plan.cast.party(name).with_context(|| format!("nobody is called {name}"))
    }

    async fn caller(&mut self, who: &str, by: By) -> Result<Caller> {
        if who == GATEWAY {
            return Ok(Caller::Inside(self.principal(who)?));
        }
        let party = self.party(who)?;
        let (key, principal) = (party.key.clone(), party.principal());
        Ok(Caller::Outside(match by {
            By::Signature => Proof::Of(Box::new(key), principal),
            By::WrongKey => Proof::Of(Box::new(self.plan.cast.wrong_key(who)), principal),
            By::Nothing => Proof::Nobody,
            By::ApiKey => Proof::ApiKey(self.api_key(who, false).await?),
            By::AdminKey => Proof::ApiKey(self.api_key(who, true).await?),
        }))
    }

    /// The text of somebody's API key, which staff lets in when it is used first.
    async fn api_key(&mut self, who: &str, admin: bool) -> Result<String> {
        let text = self.plan.cast.api_key(who, admin);
        if self.keys.insert((who.to_owned(), admin)) {
            let key_id = self.fresh();
            let with = json!({
                "account_id": self.party(who)?.id().to_string(),
                "key_id": key_id.to_string(),
                "hash": output::base64(blake3::hash(text.as_bytes()).as_bytes()),
                "roles": roles(self.kind(who)),
                "admin": admin,
            });
            Box::pin(self.must(STAFF, "Accounts/CreateApiKey", with)).await?;
        }
        Ok(text)
    }

    fn kind(&self, who: &str) -> Option<Kind> {
        self.plan.people.get(who).map(|person| person.is)
    }

    /// JSON with everything in it that it refers to, in this repetition; why not, where a step before has not come to it.
    pub(super) fn expanded(&mut self, json: &Json, turn: u64) -> Result<Json, String> {
        names::expand(json, &mut |reference| self.named(reference, turn))
    }

    fn named(&mut self, reference: &Reference, turn: u64) -> Result<Json, String> {
        Ok(match reference {
            Reference::Turn => turn.into(),
            Reference::Id(name) => {
                let (seed, now) = (self.plan.cast.seed(), self.cluster.now());
                let name = name.replace(names::TURN, &turn.to_string());
                let id = self.ids.entry(name).or_insert_with_key(|name| cast::id(seed, now, "id", name));
                id.to_string().into()
            }
            Reference::Account(name) => holmes_ledger::system_account(name).to_string().into(),
            Reference::Amount(text) => check::amount(&self.plan.assets, text)?.1.to_string().into(),
            Reference::Time(after) => {
                let at = self.plan.start.after_millis(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                at.micros().to_string().into()
            }
            Reference::Named(name, path) => self.named_value(name, path)?,
        })
    }

    fn named_value(&self, name: &str, path: &[String]) -> Result<Json, String> {
        if let Some(party) = self.plan.cast.party(name) {
            return Ok(match path.first().map(String::as_str) {
                None => party.id().to_string().into(),
                Some("principal") => party.principal().to_string().into(),
                Some("key") => output::base64(&party.public()).into(),
                Some(asset) => {
                    let account = party.accounts.get(asset);
                    account.ok_or_else(|| format!("{name} has no account in {asset}"))?.to_string().into()
                }
            });
        }
        let Some(saved) = self.saved.get(name) else {
            return Err(format!("there is no reply {name}: the step that should have saved it was refused"));
        };
        let found = names::at_path(saved, path);
        found.cloned().ok_or_else(|| format!("the reply {name} has no {}", path.join(".")))
    }
}

/// The names of somebody's roles.
pub(super) fn roles(kind: Option<Kind>) -> Json {
    match kind {
        Some(Kind::Renter) => json!(["RENTER"]),
        Some(Kind::Operator) => json!(["OPERATOR"]),
        Some(Kind::Verifier) => json!(["VERIFIER"]),
        Some(Kind::Staff) | None => json!(["STAFF"]),
        Some(Kind::Holder | Kind::Service) => json!([]),
    }
}

/// A member of a reply that is a text.
pub(super) fn text<'j>(json: &'j Json, name: &str) -> Result<&'j str> {
    match json[name].as_str() {
        Some(text) => Ok(text),
        None => bail!("a reply without {name}: {json}"),
    }
}
