//! What would break the fence, looked at before a claim: where rows are kept, and how each server writes them (design:
//! Journal). What is found is judged apart from the asking, so that each rule is tried without a server that breaks it.

use std::collections::HashMap;
use std::time::Duration;

use holmes_kernel::ports::JournalError;
use scylla::client::session::Session;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::Statement;
use scylla::value::Row;

use super::schema::Replication;
use super::session::failed;

/// How long a server may take to tell of itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// The releases that conditional updates were tried on or are documented for.
const OLDEST_CASSANDRA: [u32; 2] = [4, 1];
const OLDEST_SCYLLA: [u32; 2] = [2025, 4];

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub what: String,
    /// What was found.
    pub found: String,
    /// Why nothing may be claimed while it is so, with what mends it; `None` when it is as it should be.
    pub fault: Option<String>,
}

impl Check {
    /// Its fault in a sentence.
    pub(super) fn told(self) -> Option<String> {
        let Check { what, found, fault } = self;
        fault.map(|fault| format!("{what} is {found}: {fault}"))
    }
}

/// What the servers say of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The keyspace's own words.
    pub(super) replication: HashMap<String, String>,
    /// As it was when the cell was provisioned.
    pub(super) provisioned: Option<Replication>,
    pub(super) servers: Vec<Server>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) address: String,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Scylla {
        release: String,
    },
    Cassandra {
        release: String,
        paxos_variant: String,
        commitlog_sync: String,
    },
    /// It does not answer: that may not keep a log from its next owner.
    Away,
}

/// Every check, in a fixed order. With `dev` one copy is enough.
pub(super) fn judge(facts: &Facts, dev: bool) -> Vec<Check> {
    let mut checks = vec![placement(facts), copies(facts, dev), unchanged(facts)];
    for server in &facts.servers {
        let at = &server.address;
        match &server.kind {
            Kind::Scylla { release: found } => checks.push(release(at, "ScyllaDB", found, OLDEST_SCYLLA)),
            Kind::Cassandra { release: found, paxos_variant, commitlog_sync } => checks.extend([
                release(at, "Cassandra", found, OLDEST_CASSANDRA),
                setting(at, "paxos_variant", paxos_variant, &["v2"]),
                setting(at, "commitlog_sync", commitlog_sync, &["batch", "group"]),
            ]),
            Kind::Away => {
                checks.push(Check { what: at.clone(), found: "away: not looked at".into(), fault: None });
            }
        }
    }
    checks.extend(majority(facts));
    checks
}

/// Most of the servers must have told of themselves: without them nothing can be written either.
fn majority(facts: &Facts) -> Option<Check> {
    let all = facts.servers.len();
    let told = facts.servers.iter().filter(|server| server.kind != Kind::Away).count();
    let fault = "fewer than a majority told of themselves; look whether they are up".to_owned();
    (2 * told <= all).then(|| Check {
        what: "servers".into(),
        found: format!("{told} of {all}"),
        fault: Some(fault),
    })
}

/// Each data centre and its copies, the class aside.
fn centres(facts: &Facts) -> Vec<(&String, &String)> {
    let mut centres: Vec<_> = facts.replication.iter().filter(|(key, _)| *key != "class").collect();
    centres.sort();
    centres
}

/// Conditional updates of two data centres do not see each other.
fn placement(facts: &Facts) -> Check {
    let class = facts.replication.get("class").map_or("", String::as_str);
    let centres = centres(facts);
    let names: Vec<&str> = centres.iter().map(|(name, _)| name.as_str()).collect();
    let fault = if !class.ends_with("NetworkTopologyStrategy") {
        Some("the keyspace must use NetworkTopologyStrategy: make it anew with `holmes migrate`".to_owned())
    } else if centres.len() != 1 {
        Some("a cell is of one data centre: two are two groups of conditional updates; drop the others from the keyspace".into())
    } else {
        None
    };
    Check { what: "replication".into(), found: format!("{class} in {}", names.join(", ")), fault }
}

fn copies(facts: &Facts, dev: bool) -> Check {
    let copies: Vec<&str> = centres(facts).into_iter().map(|(_, copies)| copies.as_str()).collect();
    let enough = |copies: &&str| {
        copies.parse::<u8>().is_ok_and(|copies| copies % 2 == 1 && (copies >= 3 || (dev && copies == 1)))
    };
    let fault = (copies.is_empty() || !copies.iter().all(enough)).then(|| {
        "a log needs an odd number of copies, at least 3: a new cell with 3, or --dev where losing it is no loss".to_owned()
    });
    Check { what: "copies".into(), found: copies.join(", "), fault }
}

/// What has changed since then has moved quorums under logs that were written by others.
fn unchanged(facts: &Facts) -> Check {
    let what = "since provisioning".to_owned();
    let Some(then) = &facts.provisioned else {
        let fault = Some("the keyspace was never provisioned: run `holmes migrate`".to_owned());
        return Check { what, found: "not provisioned".into(), fault };
    };
    let now = centres(facts);
    let same = now.len() == 1 && *now[0].0 == then.datacenter && *now[0].1 == then.copies.to_string();
    let found = format!("{} copies in {} then", then.copies, then.datacenter);
    let fault = (!same).then(|| {
        "replication was changed under the logs: set it back, repair, and move the logs by `holmes restore`".to_owned()
    });
    Check { what, found, fault }
}

fn release(at: &str, product: &str, found: &str, oldest: [u32; 2]) -> Check {
    let mut numbers = found.split(['.', '-', '~']).map(|part| part.parse::<u32>().unwrap_or(0));
    let is = [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)];
    let [major, minor] = oldest;
    let fault = (is < oldest).then(|| format!("{product} {major}.{minor} or newer is needed: upgrade {at}"));
    Check { what: format!("{at} release"), found: format!("{product} {found}"), fault }
}

fn setting(at: &str, name: &str, found: &str, allowed: &[&str]) -> Check {
    let fault = (!allowed.contains(&found))
        .then(|| format!("set {name}: {} in cassandra.yaml of {at}, and restart it", allowed.join(" or ")));
    Check { what: format!("{at} {name}"), found: found.to_owned(), fault }
}

/// Asks the keyspace's tables and every server.
pub(super) async fn gather(session: &Session, keyspace: &str) -> Result<Facts, JournalError> {
    let replication = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let answer = session.query_unpaged(replication, (keyspace,)).await.map_err(failed)?;
    let row = answer.into_rows_result().map_err(failed)?;
    let row = row.maybe_first_row::<(HashMap<String, String>,)>().map_err(failed)?;
    let replication = row.map(|(words,)| words).unwrap_or_default();
    let provisioned = format!("SELECT datacenter, copies FROM {keyspace}.provisioned WHERE one = 1");
    let answer = session.query_unpaged(provisioned, ()).await.map_err(failed)?;
    let row = answer.into_rows_result().map_err(failed)?;
    let row = row.maybe_first_row::<(String, i8)>().map_err(failed)?;
    let provisioned =
        row.map(|(datacenter, copies)| Replication { datacenter, copies: copies.unsigned_abs() });
    let mut servers = Vec::new();
    for node in session.get_cluster_state().get_nodes_info() {
        let address = node.address.to_string();
        let only = SingleTargetLoadBalancingPolicy::new(NodeIdentifier::Node(node.clone()), None);
        let ask = async |text: &str| {
            let mut statement = Statement::new(text);
            statement.set_request_timeout(Some(PATIENCE));
            statement.set_load_balancing_policy(Some(only.clone()));
            let answer = session.query_unpaged(statement, ()).await.ok()?;
            let row = answer.into_rows_result().ok()?.maybe_first_row::<Row>().ok()??;
            row.columns.into_iter().next()??.into_string()
        };
        let release = ask("SELECT release_version FROM system.local").await;
        let kind = if release.is_none() {
            Kind::Away
        } else if let Some(release) = ask("SELECT version FROM system.versions WHERE key = 'local'").await {
            Kind::Scylla { release }
        } else {
            let setting = async |name: &str| {
                let text = format!("SELECT value FROM system_views.settings WHERE name = '{name}'");
                ask(&text).await.unwrap_or_else(|| "not told".to_owned())
            };
            Kind::Cassandra {
                release: release.unwrap_or_default(),
                paxos_variant: setting("paxos_variant").await,
                commitlog_sync: setting("commitlog_sync").await,
            }
        };
        servers.push(Server { address, kind });
    }
    Ok(Facts { replication, provisioned, servers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Facts {
        let words = [("class", "org.apache.cassandra.locator.NetworkTopologyStrategy"), ("dc1", "3")];
        let kind = Kind::Cassandra {
            release: "5.0.5".into(),
            paxos_variant: "v2".into(),
            commitlog_sync: "batch".into(),
        };
        Facts {
            replication: words.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            provisioned: Some(Replication { datacenter: "dc1".into(), copies: 3 }),
            servers: vec![Server { address: "10.0.0.1:9042".into(), kind }],
        }
    }

    fn faults(facts: &Facts, dev: bool) -> Vec<String> {
        judge(facts, dev).into_iter().filter(|check| check.fault.is_some()).map(|check| check.what).collect()
    }

    #[test]
    fn a_sound_cluster_passes_and_each_unsafe_one_is_refused_for_its_reason() {
        assert_eq!(faults(&sound(), false), [""; 0]);
        let with = |key: &str, value: &str| {
            let mut facts = sound();
            facts.replication.insert(key.into(), value.into());
            facts
        };
        assert_eq!(faults(&with("class", "SimpleStrategy"), false), ["replication"]);
        assert_eq!(faults(&with("dc2", "3"), false), ["replication", "since provisioning"]);
        for few in ["1", "2", "4", "many"] {
            assert_eq!(faults(&with("dc1", few), false), ["copies", "since provisioning"], "{few} copies");
        }
        assert_eq!(faults(&with("dc1", "5"), false), ["since provisioning"]);
        assert_eq!(faults(&Facts { provisioned: None, ..sound() }, false), ["since provisioning"]);
        assert_eq!(faults(&Facts { servers: Vec::new(), ..sound() }, false), ["servers"]);
        assert_eq!(
            faults(&Facts { replication: HashMap::new(), ..sound() }, true),
            ["replication", "copies", "since provisioning"]
        );
    }

    #[test]
    fn one_copy_is_for_development_alone() {
        let mut facts = sound();
        facts.replication.insert("dc1".into(), "1".into());
        facts.provisioned = Some(Replication { datacenter: "dc1".into(), copies: 1 });
        assert_eq!(faults(&facts, true), [""; 0]);
        assert_eq!(faults(&facts, false), ["copies"]);
    }

    #[test]
    fn a_minority_that_is_away_keeps_no_log_from_its_owner() {
        let away = |number: usize, all: usize| {
            let mut facts = sound();
            let sound = facts.servers[0].clone();
            facts.servers =
                (0..all)
                    .map(|at| {
                        if at < number { Server { kind: Kind::Away, ..sound.clone() } } else { sound.clone() }
                    })
                    .collect();
            faults(&facts, false)
        };
        assert_eq!([away(0, 3), away(1, 3), away(2, 5)], [[""; 0]; 3]);
        assert_eq!([away(2, 3), away(1, 1), away(1, 2), away(3, 5)], [["servers"]; 4]);
    }

    #[test]
    fn every_server_is_held_to_its_release_and_its_settings() {
        let of = |kind| Facts { servers: vec![Server { address: "a".into(), kind }], ..sound() };
        let cassandra = |release: &str, paxos: &str, sync: &str| {
            of(Kind::Cassandra {
                release: release.into(),
                paxos_variant: paxos.into(),
                commitlog_sync: sync.into(),
            })
        };
        assert_eq!(faults(&cassandra("4.1.0", "v2", "group"), false), [""; 0]);
        assert_eq!(faults(&cassandra("4.0.11", "v2", "batch"), false), ["a release"]);
        assert_eq!(faults(&cassandra("5.0-beta1", "v1", "batch"), false), ["a paxos_variant"]);
        assert_eq!(faults(&cassandra("5.0.5", "v2", "periodic"), false), ["a commitlog_sync"]);
        assert_eq!(
            faults(&cassandra("not told", "not told", "not told"), false),
            ["a release", "a paxos_variant", "a commitlog_sync"]
        );
        for (release, sound) in
            [("2025.4.0", true), ("2026.1.0~rc1", true), ("2025.3.9", false), ("5.4.0", false)]
        {
            assert_eq!(
                faults(&of(Kind::Scylla { release: release.into() }), false).is_empty(),
                sound,
                "{release}"
            );
        }
    }
}
