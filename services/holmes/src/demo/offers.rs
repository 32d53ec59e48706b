//! What a visitor can do now, each with the words to type.

use anyhow::Result;

use super::requests::{LONG, long_prompt};
use super::tell::Teller;
use super::world::{Home, OWN, Operator, World};
use crate::output;

/// Reads a ledger's state: what accounts have together. An account that is overdrawn stands for what came from outside.
const SUPPLY: &str = "import json, sys; s = json.load(sys.stdin); \
    has = lambda b: max(b['credits_posted'] - b['debits_posted'], 0); \
    print({a['params']['name']: sum(has(x['balance']) for _, x in s['accounts'] if x['asset'] == at) for at, a in enumerate(s['assets'])})";

/// The nodes as rows of SQL: the log knows them by their ids alone.
fn names(world: &World) -> String {
    let row = |of: &Operator| format!("('{}', '{} {}')", of.node_id(), of.name, of.hardware);
    world.operators.iter().map(row).collect::<Vec<_>>().join(", ")
}

/// Prints the offers; some need the processes, which `--keep` leaves up.
pub(super) fn tell(tell: &Teller, world: &World, up: bool) -> Result<()> {
    let (dir, holmes) = (world.dir.display(), std::env::current_exe()?.display().to_string());
    tell.title("What you can do now")?;
    output::text(&format!("The log, the keys and what each process said lie in {dir}"))?;
    output::text(&format!(
        "  export PATH=\"{}:$PATH\"",
        holmes.rsplit_once('/').map_or(".", |(path, _)| path)
    ))?;
    if up {
        live(world)?;
    } else {
        output::text(
            "\nTo ask questions, kill processes and watch them, keep everything up: holmes demo --keep",
        )?;
    }
    let alone = up && matches!(world.home, Home::Directory);
    let stop = if alone { " (stop the demo with Ctrl-C first: one process has the log)" } else { "" };
    if let Home::Directory = world.home {
        output::text(&format!(
            "
tamper   flip bytes in a copy of the log: verify names the service and the frame{stop}
  cp -r {dir}/data {dir}/copy
  printf oops | dd of={dir}/copy/journal/db/0.jnl bs=1 seek=40000 conv=notrunc status=none
  holmes verify --dir {dir}/copy"
        ))?;
    }
    output::text(&format!(
        "
query    revenue by node, in SQL over the log as JSON lines; supply; state a minute ago{stop}
  pip install duckdb
  holmes replay {logs} --role market > {dir}/market.jsonl
  python3 -c \"import duckdb; print(duckdb.sql('''
    SELECT coalesce(name, node::VARCHAR) AS node, asset, sum(price::BIGINT) AS micro_usd, sum(paid::BIGINT) AS paid_units
    FROM (SELECT s.asset, UNNEST(s.nodes) AS node, UNNEST(s.priceMicroUsd) AS price, UNNEST(s.paidUnits) AS paid
          FROM (SELECT UNNEST(events).settled AS s FROM read_json('{dir}/market.jsonl')) WHERE s IS NOT NULL)
    LEFT JOIN (VALUES {names}) AS nodes(node, name) USING (node)
    GROUP BY ALL ORDER BY ALL'''))\"
  what exists of each asset, in base units, a minute ago and now:
  for ago in 1m 0s; do holmes state {logs} ledger --at -$ago | python3 -c \"{supply}\"; done
  the ledger's state as it was a minute ago, and behind event 30:
  holmes state {logs} ledger --at -1m
  holmes state {logs} ledger --at 30

audit    the same again by a program that shares nothing with this one{stop}
  holmes replay {logs} --frames {dir}/frames
  python3 tests/audit.py {dir}/frames     # in the clone, with pip install -r tests/requirements.txt",
        names = names(world),
        logs = world.logs().join(" "),
        supply = SUPPLY,
    ))?;
    if up { output::text("\nEverything stays up until Ctrl-C.") } else { Ok(()) }
}

fn live(world: &World) -> Result<()> {
    let renter = &world.renters[0];
    let model = &world.models.speaker.name;
    let question =
        if *model == OWN { "Sort these numbers: 42 7 19" } else { "What is the capital of Norway?" };
    let pids: Vec<String> = world
        .operators
        .iter()
        .map(|of| {
            let pid = world.processes.pid(&of.process()).unwrap_or_default();
            format!("{} ({})", pid, world.node_name(&of.node_id().to_string()))
        })
        .collect();
    let shown = &world.shown;
    output::text(&format!(
        "
  staff() {{ holmes call \"$@\" --server {url} --sign-with {staff} --as staff --profile {dir}/demo.toml; }}
  export HOLMES_API_KEY={key}

ask      your own question: words, lease, receipt, price and balance
  holmes ask --server {url} --model {model} \"{question}\"
  as an OpenAI client does:
  curl -s {http}/chat/completions -H \"authorization: Bearer $HOLMES_API_KEY\" -H 'content-type: application/json' \\
    -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"{question}\"}}], \"temperature\": 0, \"max_tokens\": 64}}'

kill     a node in the middle of an answer, as in the story; what happens is told here:
  kill -USR1 {demo}
  any process yourself: answers go on elsewhere, the server comes back from its log
  executors: {pids}; the server: {server}
  {killing}
  the answers are {dir}/answer-1.txt and so on, what was said of each asked-1.txt and so on:
  grep -h 'was lost' {dir}/asked-*.txt; cat {dir}/asked-*.txt | grep -c ^price
  when it was the server:   holmes {restart}

why      did lease {lease} go to {winner}, and not to {other}?
  staff Scheduling/Explain '{{\"lease_id\": \"{lease}\", \"node_id\": \"{other_id}\"}}'
  its bond, its rewards, its grants, and the receipt of a call:
  staff Staking/GetNode '{{\"node_id\": \"{other_id}\"}}'
  staff Emission/GetNodeRewards '{{\"node_id\": \"{other_id}\"}}'
  staff Emission/ListGrants '{{\"node_id\": \"{other_id}\"}}'
  holmes call --server {url} Inference/GetReceipt '{{\"name\": \"{receipt}\"}}'

operate  figures, and a drain under load: calls in progress end first, no accepted call fails
  curl -s {admin}/metrics | grep holmes_
  kill -TERM {server}",
        http = world.http,
        key = renter.api_key,
        demo = std::process::id(),
        killing = killing(world),
        pids = pids.join(", "),
        server = world.processes.pid("server").unwrap_or_default(),
        restart = world.server_args()?.join(" "),
        staff = world.staff_key().display(),
        url = world.url,
        dir = world.dir.display(),
        admin = world.admin,
        lease = shown.lease,
        winner = world.node_name(&shown.node),
        other = world.node_name(&world.other_node(&shown.node)),
        other_id = world.other_node(&shown.node),
        receipt = shown.receipt,
    ))
}

/// Questions that keep the nodes answering for some seconds, and meanwhile the death of the one with the most slots; every answer
/// is whole, those that it was giving go on elsewhere. No more at once than one renter may ask of the nodes that are left.
fn killing(world: &World) -> String {
    let model = &world.models.speaker.name;
    let (answers, most, seconds) = if *model == OWN { (60, LONG, 1) } else { (5, 2 * LONG, 2) };
    let largest = world.operators.iter().max_by_key(|of| of.slots);
    let pid = largest.and_then(|of| world.processes.pid(&of.process())).unwrap_or_default();
    let question = long_prompt(model);
    let ask = format!("holmes ask --server {} --model {model} --most {most} \"{question}\"", world.url);
    let asking = five_at_once(answers, &ask, &world.dir.display().to_string());
    format!("{asking} & sleep {seconds}; kill -9 {pid}; wait")
}

/// A command so many times, five at once: what each says goes to files of its own, or they would write over one another.
fn five_at_once(times: u32, command: &str, dir: &str) -> String {
    format!("seq {times} | xargs -P 5 -I% sh -c '{command} > {dir}/answer-%.txt 2> {dir}/asked-%.txt'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_come_at_once_go_to_a_file_each() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().display().to_string();
        let line = five_at_once(7, "echo \"word %\"", &place);
        assert!(std::process::Command::new("sh").args(["-c", &line]).status().expect("sh runs").success());
        for at in 1..=7 {
            let said = std::fs::read_to_string(dir.path().join(format!("answer-{at}.txt"))).expect("a file");
            assert_eq!(said, format!("word {at}\n"));
            assert!(dir.path().join(format!("asked-{at}.txt")).exists());
        }
    }
}
