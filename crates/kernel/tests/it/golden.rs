//! Golden bytes: a log of a fixed script, its frames, its state and its snapshot. Never edit the files: bytes that
//! were released stay readable for ever, and the same log gives the same state on every build that claims to read it.

use holmes_kernel::canon;

use crate::harness::{Op, Run, replay};
use crate::till::{self, ABROAD, Command, Manner};

/// Every way in, every kind of event that a good till has, refusals of both kinds, and a job that due drives.
fn script() -> Run {
    let ask = |who, command| Op::Ask { who, command, skew_ms: 0 };
    let submit = |step, command| Op::Submit { who: 0, step, command };
    let deposit = |n, units| Command::Deposit { to: till::account(n), units };
    let pay = |to, units| Command::Pay { from: till::account(1), to, units };
    let alarm = Command::SetAlarm { id: till::account(9), after_ms: 5_000, rings: 3, manner: Manner::Well };
    let mut run = Run::start();
    for op in [
        ask(1, deposit(1, 900)),
        ask(1, pay(till::account(2), 300)),
        ask(1, pay(till::account(2), 3_000)),
        Op::Again { which: 3 },
        Op::Idle,
        ask(2, pay(ABROAD, 50)),
        ask(2, Command::Note { events: 3, bytes: 5 }),
        ask(2, Command::Note { events: 0, bytes: 0 }),
        Op::Land,
        submit(0, deposit(2, 7)),
        submit(0, pay(till::account(2), 1 << 40)),
        submit(1, deposit(2, 8)),
        ask(1, alarm),
        ask(1, Command::Order { what: b"ten rolls of paper".to_vec() }),
        Op::Idle,
        Op::Land,
        Op::Wait { ms: 6_000 },
        Op::Tick,
        Op::Deliver { source: 0, to: 1, begin: 0 },
        Op::Deliver { source: 0, to: 0, begin: 0 },
        Op::Deliver { source: 0, to: 0, begin: 0 },
        Op::Deliver { source: 0, to: 0, begin: 0 },
        Op::Deliver { source: 0, to: -1, begin: 0 },
        Op::Deliver { source: 1, to: 0, begin: 0 },
        Op::Idle,
        Op::Land,
        Op::ClockBack { ms: 60_000 },
        ask(1, deposit(3, 1)),
    ] {
        run.op(&op);
    }
    run.finish();
    run
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_log_of_a_fixed_script_has_the_released_bytes_and_digests() {
    let run = script();
    let mut lines: Vec<String> =
        run.disk.iter().map(|frame| format!("frame {}", hex(frame.bytes()))).collect();
    let replica = replay(&run.disk);
    lines.push(format!("chain {}", hex(&replica.tail().chain)));
    lines.push(format!("state {}", hex(&canon::digest(replica.state()))));
    lines.push(format!("replica {}", hex(&replica.digest())));
    lines.push(format!("snapshot {}", hex(&replica.encode())));
    let golden: Vec<&str> = include_str!("../golden/till-v1.txt").lines().collect();
    assert_eq!(
        lines, golden,
        "released bytes never change; a new layout gets a new FORMAT and a file of its own"
    );
}

#[test]
fn the_released_log_replays_to_the_released_digest() {
    let golden = include_str!("../golden/till-v1.txt");
    let of = |kind: &str| -> Vec<Vec<u8>> {
        let lines = golden.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        lines.map(unhex).collect()
    };
    let read = |bytes: Vec<u8>| holmes_kernel::Frame::decode(bytes.into()).unwrap();
    let frames: Vec<_> = of("frame").into_iter().map(read).collect();
    assert!(frames.len() >= 6, "the golden file has lost frames");
    assert_eq!(of("replica"), [replay(&frames).digest().to_vec()]);
    assert_eq!(of("snapshot"), [replay(&frames).encode()]);
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}
