//! PostgreSQL 15 on the same disk, over a Unix socket, every commit durable (`fsync` and `synchronous_commit` on), in five
//! ways: transfers by a procedure that works on sets and locks the rows first, by the same with one lock for all, by one
//! that goes row by row, an append-only table, and its COPY.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use holmes_kernel::Id;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls, Statement};
use uuid::Uuid;

use super::server::{POSTGRES, Server, command, hand_over, need, version};
use super::{Doing, Kept, Start, Subject, event_bytes, pair, settings};
use crate::scenario::Work;

/// How it does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Balances, checks and the transfers' rows in one call of a procedure that works on sets, and locks its rows first.
    Procedure,
    /// The same, but one transaction at a time: no row is locked before it is changed.
    Serial,
    /// The same, transfer by transfer: each could fail alone, as in our ledger.
    Loop,
    /// Rows behind rows in one insert; nothing is checked and no balance kept.
    Events,
    /// The same rows by its way of loading in bulk.
    Copy,
}

/// What is set beside the defaults: memory as a machine of this size gives it, no checkpoint and no second copy of the
/// log while it is measured, which is in its favour.
const SETTINGS: [(&str, &str); 11] = [
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "1GB"),
    ("wal_buffers", "16MB"),
    ("max_wal_size", "16GB"),
    ("checkpoint_timeout", "1h"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("jit", "off"),
    ("listen_addresses", ""),
];

const TABLES: &str = "
create table accounts (id uuid primary key, balance bigint not null check (balance >= 0)) with (fillfactor = 50);
create table transfers (id uuid primary key, debit uuid not null, credit uuid not null, amount bigint not null);
create table events (seq bigint generated always as identity primary key, id uuid not null, body bytea);

create function post_loop(ids uuid[], debits uuid[], credits uuid[], amounts bigint[]) returns bigint as $$
declare
    done bigint := 0;
begin
    perform 1 from accounts
        where id in (select unnest(debits) union select unnest(credits)) order by id for update;
    for n in 1 .. cardinality(ids) loop
        update accounts set balance = balance - amounts[n] where id = debits[n] and balance >= amounts[n];
        if found then
            update accounts set balance = balance + amounts[n] where id = credits[n];
            insert into transfers values (ids[n], debits[n], credits[n], amounts[n]);
            done := done + 1;
        end if;
    end loop;
    return done;
end $$ language plpgsql;
";

/// Transfers by set, behind a lock.
fn over_sets(name: &str, lock: &str) -> String {
    format!(
        "create function {name}(ids uuid[], debits uuid[], credits uuid[], amounts bigint[]) returns bigint as $$
begin
    perform {lock};
    insert into transfers select * from unnest(ids, debits, credits, amounts);
    update accounts a set balance = a.balance + moved.amount
        from (select id, sum(amount)::bigint as amount
              from (select unnest(debits) as id, -unnest(amounts) as amount
                    union all select unnest(credits), unnest(amounts)) as both_sides
              group by id) as moved
        where a.id = moved.id;
    return cardinality(ids);
end $$ language plpgsql;"
    )
}

/// The rows that a procedure over sets changes, in an order in which nobody waits in a circle.
const ROWS: &str =
    "1 from accounts where id in (select unnest(debits) union select unnest(credits)) order by id for update";
/// Until the transaction ends.
const ALL: &str = "pg_advisory_xact_lock(1)";

/// What a caller asks, prepared.
const SET: &str = "select post_set($1, $2, $3, $4)";
const SERIAL: &str = "select post_serial($1, $2, $3, $4)";
const LOOP: &str = "select post_loop($1, $2, $3, $4)";
const APPEND_TRANSFERS: &str = "with written as (insert into transfers select * from unnest($1::uuid[], $2::uuid[], \
     $3::uuid[], $4::bigint[]) returning 1) select count(*) from written";
const APPEND_EVENTS: &str = "with written as (insert into events (id, body) select * from unnest($1::uuid[], \
     $2::bytea[]) returning 1) select count(*) from written";
const COPY_EVENTS: &str = "copy events (id, body) from stdin binary";

pub(super) struct Postgres {
    server: Server,
    version: String,
    work: Work,
    way: Way,
    accounts: Vec<Uuid>,
    clients: Vec<(Client, Statement)>,
    /// As the server says that it has them.
    set: BTreeMap<String, String>,
    /// The socket lies here: its path must be short, and the data's may be long.
    _socket: tempfile::TempDir,
}

impl Postgres {
    pub(super) async fn start(start: &Start<'_>, way: Way) -> Result<Postgres> {
        let postgres = need(POSTGRES)?;
        let socket = tempfile::tempdir()?;
        hand_over(start.dir)?;
        hand_over(socket.path())?;
        let data = start.dir.join("data");
        set_up(&need("initdb")?, &data)?;
        let mut serve = command(&postgres, true);
        serve.arg("-D").arg(&data).arg("-k").arg(socket.path());
        serve.args(["-c".into(), format!("max_connections={}", start.callers + 8)]);
        for (key, value) in SETTINGS {
            serve.args(["-c".into(), format!("{key}={value}")]);
        }
        let mut server = Server::start(serve, start.dir)?;
        let admin = server.answers(|| connect(socket.path())).await?;
        admin.batch_execute(TABLES).await?;
        admin.batch_execute(&over_sets("post_set", ROWS)).await?;
        admin.batch_execute(&over_sets("post_serial", ALL)).await?;
        let accounts: Vec<Uuid> =
            (0..start.accounts).map(|n| Uuid::from_u128((n as u128 + 1) << 64)).collect();
        let grant = "insert into accounts select unnest($1::uuid[]), 1000000000";
        admin.execute(grant, &[&accounts]).await?;
        admin.batch_execute("vacuum analyze").await?;
        let names = SETTINGS.map(|(key, _)| key);
        let ask = "select name, current_setting(name) from pg_settings where name = any($1)";
        let mut set = BTreeMap::new();
        for row in admin.query(ask, &[&&names[..]]).await? {
            set.insert(row.try_get(0)?, row.try_get(1)?);
        }
        let statement = match (way, start.work) {
            (Way::Procedure, _) => SET,
            (Way::Serial, _) => SERIAL,
            (Way::Loop, _) => LOOP,
            (Way::Events, Work::Events) => APPEND_EVENTS,
            (Way::Events, _) => APPEND_TRANSFERS,
            (Way::Copy, _) => COPY_EVENTS,
        };
        let mut clients = Vec::new();
        for _ in 0..start.callers {
            let client = connect(socket.path()).await?;
            let prepared = client.prepare(statement).await?;
            clients.push((client, prepared));
        }
        let version = version(&postgres)?;
        Ok(Postgres { server, version, work: start.work, way, accounts, clients, set, _socket: socket })
    }

    async fn write(&self, caller: usize, ids: &[Id]) -> Result<()> {
        let (client, statement) = &self.clients[caller % self.clients.len()];
        if self.way == Way::Copy {
            return copy(client, statement, ids).await;
        }
        let keys: Vec<Uuid> = ids.iter().map(|id| uuid(*id)).collect();
        let row = if self.work == Work::Events {
            let bodies: Vec<Vec<u8>> = ids.iter().map(|id| event_bytes(*id)).collect();
            client.query_one(statement, &[&keys, &bodies]).await?
        } else {
            let (debits, credits): (Vec<Uuid>, Vec<Uuid>) = ids
                .iter()
                .map(|id| pair(*id, self.accounts.len()))
                .map(|(debit, credit)| (self.accounts[debit], self.accounts[credit]))
                .unzip();
            let amounts = vec![1i64; ids.len()];
            client.query_one(statement, &[&keys, &debits, &credits, &amounts]).await?
        };
        let done: i64 = row.try_get(0)?;
        ensure!(done == ids.len() as i64, "{done} of {} were carried out", ids.len());
        Ok(())
    }
}

/// One transaction, as every statement outside of one.
async fn copy(client: &Client, statement: &Statement, ids: &[Id]) -> Result<()> {
    let sink = client.copy_in(statement).await?;
    let mut writer = std::pin::pin!(BinaryCopyInWriter::new(sink, &[Type::UUID, Type::BYTEA]));
    for id in ids {
        writer.as_mut().write(&[&uuid(*id), &event_bytes(*id)]).await?;
    }
    let done = writer.finish().await?;
    ensure!(done == ids.len() as u64, "{done} of {} were carried out", ids.len());
    Ok(())
}

fn uuid(id: Id) -> Uuid {
    Uuid::from_bytes(id.to_bytes())
}

/// A database cluster in a new directory.
fn set_up(initdb: &Path, data: &Path) -> Result<()> {
    let mut make = command(initdb, true);
    make.args(["--auth=trust", "--username=bench", "--no-sync", "--encoding=UTF8", "--locale=C"]).arg(data);
    let made = make.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    let why = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "initdb failed in {}: {}", data.display(), why.trim());
    Ok(())
}

async fn connect(socket: &Path) -> Result<Client> {
    let mut config = Config::new();
    config.host_path(socket).user("bench").dbname("postgres");
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move { drop(connection.await) }); // whoever waits for an answer hears that it was lost
    Ok(client)
}

impl Subject for Postgres {
    fn processes(&self) -> Vec<u32> {
        self.server.family()
    }

    fn settings(&self) -> BTreeMap<String, String> {
        let mut all = settings([
            ("version", self.version.clone()),
            ("connections", format!("{}, a Unix socket each", self.clients.len())),
        ]);
        all.extend(self.set.clone());
        all
    }

    fn batch<'a>(&'a self, caller: usize, ids: &'a [Id]) -> Doing<'a, ()> {
        Box::pin(self.write(caller, ids))
    }

    fn read_back(self: Arc<Self>) -> Doing<'static, Kept> {
        Box::pin(async move {
            let (client, _) = self.clients.first().context("at least one caller")?;
            let table = if self.work == Work::Events { "events" } else { "transfers" };
            let rows = client.query(&format!("select id from {table}"), &[]).await?;
            let id = |row: &tokio_postgres::Row| Ok(Id::from_bytes(*row.try_get::<_, Uuid>(0)?.as_bytes()));
            Ok(Kept::all(rows.iter().map(id).collect::<Result<_>>()?))
        })
    }
}
