//! The Replay API as analysts and internal services use it: from any place, as it happens, and nothing of others.

use holmes_kernel::PrincipalKind;
use holmes_proto::ledger::v1::{Event, event};
use holmes_proto::log::v1 as wire;
use holmes_runtime::{PublicFrame, fresh_id};
use prost_reflect::prost::Message;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::Place;
use crate::nats::Payer;
use crate::raw::{self, Fields, Signing, bearer, genesis, now_ms, of_key, reason, secret};

const READ: &str = "holmes.log.v1.Replay/ReadEvents";
const SUBSCRIBE: &str = "holmes.log.v1.Replay/Subscribe";
const FRAMES: &str = "holmes.log.v1.Replay/ReadFrames";
const STATE: &str = "holmes.log.v1.Replay/GetState";
const LIST: &str = "holmes.log.v1.Replay/ListLogs";

/// Somebody who asks.
enum Who<'a> {
    Staff(&'a Place),
    Key(&'a str),
}

impl Who<'_> {
    fn proof(&self, method: &str, message: &[u8]) -> Fields {
        match self {
            Who::Key(key) => bearer(key),
            Who::Staff(place) => {
                let key = secret(place, "holmes-data/staff.key");
                let genesis = genesis(include_bytes!("../../../../deploy/profiles/demo.toml"));
                let signing = Signing { key: &key, principal: of_key(&key, PrincipalKind::Staff), genesis };
                signing.fields(method, message, fresh_id(), now_ms() + 60_000)
            }
        }
    }

    async fn ask<T: Message + Default>(
        &self,
        channel: &Channel,
        method: &str,
        message: impl Message,
    ) -> Result<Vec<T>, Status> {
        let message = message.encode_to_vec();
        let proof = self.proof(method, &message);
        let said = raw::answer(channel, method, message, &proof).await?;
        Ok(said.iter().map(|bytes| T::decode(bytes.as_slice()).expect("an answer")).collect())
    }

    async fn read(&self, channel: &Channel, asked: wire::ReadEventsRequest) -> Vec<wire::EventRecord> {
        let asked = wire::ReadEventsRequest { service: "ledger".into(), ..asked };
        let said: Vec<wire::ReadEventsResponse> = self.ask(channel, READ, asked).await.expect("answered");
        said.into_iter().flat_map(|answer| answer.events).collect()
    }
}

fn seqs(records: &[wire::EventRecord]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

fn transfers(record: &wire::EventRecord) -> usize {
    match Event::decode(record.event.clone()).expect("an event").event {
        Some(event::Event::TransfersRecorded(recorded)) => recorded.codes.len(),
        _ => 0,
    }
}

fn everything() -> wire::ReadEventsRequest {
    wire::ReadEventsRequest::default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_is_the_log_from_any_place_to_any_other() {
    use wire::read_events_request::{From, Upto};
    let place = Place::new();
    let server = place.serve(&[]);
    let payer = Payer::of(&server);
    payer.pay(&server, 20);
    let (channel, staff) = (raw::connect(&server).await, Who::Staff(&place));
    let all = staff.read(&channel, everything()).await;
    assert!(all.windows(2).all(|pair| pair[0].seq < pair[1].seq && pair[0].ts_us <= pair[1].ts_us));
    assert!(all.iter().all(|record| record.r#type.is_empty() == record.refused.is_some()));
    let of_type = |name: &str| wire::ReadEventsRequest { types: vec![name.into()], ..everything() };
    let paid = staff.read(&channel, of_type("TransfersRecorded")).await;
    assert!(paid.iter().map(transfers).sum::<usize>() >= 20, "{paid:?}");
    assert!(paid.iter().all(|record| record.request_id.len() == 16 || record.request_id.is_empty()));

    // By number, by moment and by token: the same.
    let (middle, end) = (&all[all.len() / 2], &all[all.len() - 2]);
    let (behind, upto) = (Some(From::After(middle.seq)), Some(Upto::UptoSeq(end.seq)));
    let part = staff.read(&channel, wire::ReadEventsRequest { from: behind, upto, ..everything() }).await;
    let expected: Vec<u64> =
        seqs(&all).into_iter().filter(|seq| (middle.seq + 1..=end.seq).contains(seq)).collect();
    assert_eq!(seqs(&part), expected);
    let (behind, upto) = (Some(From::AfterTsUs(middle.ts_us)), Some(Upto::UptoTsUs(end.ts_us)));
    let part = staff.read(&channel, wire::ReadEventsRequest { from: behind, upto, ..everything() }).await;
    let within = |record: &&wire::EventRecord| (middle.ts_us + 1..=end.ts_us).contains(&record.ts_us);
    assert_eq!(part, all.iter().filter(within).cloned().collect::<Vec<_>>());
    let asked = wire::ReadEventsRequest {
        service: "ledger".into(),
        upto: Some(Upto::UptoSeq(middle.seq)),
        ..everything()
    };
    let first: Vec<wire::ReadEventsResponse> = staff.ask(&channel, READ, asked).await.expect("answered");
    let token = first.last().expect("an answer").resume_token.clone();
    let rest = staff
        .read(&channel, wire::ReadEventsRequest { from: Some(From::ResumeToken(token)), ..everything() })
        .await;
    assert_eq!(seqs(&rest), seqs(&all).into_iter().filter(|seq| *seq > middle.seq).collect::<Vec<_>>());

    // Frames: one chain, as streams carry them.
    let asked = wire::ReadFramesRequest { service: "ledger".into(), after: 0, upto: 0 };
    let frames: Vec<wire::ReadFramesResponse> = staff.ask(&channel, FRAMES, asked).await.expect("answered");
    let frames: Vec<PublicFrame> =
        frames.iter().map(|said| PublicFrame::from_bytes(&said.frame).expect("whole")).collect();
    assert!(frames.windows(2).all(|p| (p[1].first, p[1].prev_chain) == (p[0].last + 1, p[0].chain)));
    let listed: Vec<wire::ListLogsResponse> =
        staff.ask(&channel, LIST, wire::ListLogsRequest {}).await.expect("answered");
    let head = listed[0].logs.iter().find(|log| log.service == "ledger").expect("listed").head;
    assert_eq!((frames[0].first, frames.last().expect("a frame").last), (1, head));
    let in_frames = frames.iter().flat_map(|frame| &frame.entries).flat_map(|entry| entry.events());
    let events = all.iter().filter(|record| record.refused.is_none());
    assert_eq!(in_frames.map(|(seq, _)| seq).collect::<Vec<_>>(), events.map(|e| e.seq).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_hears_what_there_is_then_the_marker_then_what_comes() {
    use wire::replay_client::ReplayClient;
    let place = Place::new();
    let server = place.serve(&[]);
    let payer = Payer::of(&server);
    payer.pay(&server, 5);
    let channel = raw::connect(&server).await;
    let mut client = ReplayClient::new(channel.clone());
    let mut heard: Vec<wire::EventRecord> = Vec::new();
    let mut from = None;
    for _ in 0..2 {
        let asked = wire::SubscribeRequest {
            service: "ledger".into(),
            from: from.take(),
            types: vec!["TransfersRecorded".into()],
        };
        let mut request = tonic::Request::new(asked.clone());
        for (name, value) in Who::Staff(&place).proof(SUBSCRIBE, &asked.encode_to_vec()) {
            request.metadata_mut().insert(name, value.parse().expect("printable"));
        }
        let mut answers = client.subscribe(request).await.expect("subscribed").into_inner();
        let (mut markers, mut came) = (0, 0);
        let mut token = String::new();
        while came < 3 {
            let answer = answers.message().await.expect("an answer").expect("it does not end");
            token = answer.resume_token;
            if answer.caught_up {
                markers += 1;
                payer.pay(&server, 3);
            } else if markers == 1 {
                came += answer.events.iter().map(transfers).sum::<usize>();
            }
            heard.extend(answer.events);
        }
        assert_eq!(markers, 1, "said once");
        payer.pay(&server, 2); // while nobody listens
        from = Some(wire::subscribe_request::From::ResumeToken(token));
    }
    let types = vec!["TransfersRecorded".into()];
    let all = Who::Staff(&place).read(&channel, wire::ReadEventsRequest { types, ..everything() }).await;
    let head = seqs(&heard);
    assert_eq!(head, seqs(&all)[..head.len()], "each once, in order");
    let left = all[head.len()..].iter().map(transfers).sum::<usize>();
    assert_eq!(left, 2, "what came when nobody listened any more");
    // A process that ends says so.
    let asked = wire::SubscribeRequest { service: "ledger".into(), ..Default::default() };
    let mut request = tonic::Request::new(asked.clone());
    for (name, value) in Who::Staff(&place).proof(SUBSCRIBE, &asked.encode_to_vec()) {
        request.metadata_mut().insert(name, value.parse().expect("printable"));
    }
    let mut answers = client.subscribe(request).await.expect("subscribed").into_inner();
    let began = std::time::Instant::now();
    let (status, lines) = tokio::task::block_in_place(|| server.terminate());
    assert!(status.success(), "{lines:#?}");
    assert!(began.elapsed().as_secs() < 10, "a subscriber keeps no process from ending");
    let last = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(last, Err(_) | Ok(None)), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_reads_what_it_has_asked_for_and_nothing_of_others() {
    let place = Place::new();
    let server = place.serve(&[]);
    let (alice, bob) = (Payer::of(&server), Payer::of(&server));
    alice.pay(&server, 7);
    bob.pay(&server, 4);
    let channel = raw::connect(&server).await;
    let all = Who::Staff(&place).read(&channel, everything()).await;
    let mut of_both = Vec::new();
    for payer in [&alice, &bob] {
        let own = Who::Key(&payer.key).read(&channel, everything()).await;
        assert!(own.iter().all(|record| record.principal == own[0].principal), "one principal's alone");
        assert!(own.iter().map(transfers).sum::<usize>() >= 4 && own.len() < all.len());
        assert!(own.iter().all(|record| all.contains(record)));
        of_both.push(own[0].principal.clone());
        for method in [FRAMES, STATE] {
            let asked = wire::GetStateRequest { service: "ledger".into(), at: None };
            let refused = Who::Key(&payer.key).ask::<wire::GetStateResponse>(&channel, method, asked).await;
            let refused = refused.expect_err("it is everybody's");
            assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "FORBIDDEN"));
        }
    }
    assert_ne!(of_both[0], of_both[1]);
    let of_alice = all.iter().filter(|record| record.principal == of_both[0]).count();
    assert_eq!(Who::Key(&alice.key).read(&channel, everything()).await.len(), of_alice, "and all of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_is_that_of_the_place() {
    use wire::get_state_request::At;
    let place = Place::new();
    let server = place.serve(&[]);
    let payer = Payer::of(&server);
    payer.pay(&server, 5);
    let seq = server.heads()["ledger"];
    payer.pay(&server, 5);
    let (channel, staff) = (raw::connect(&server).await, Who::Staff(&place));
    let state = async |at| -> (u64, String, Value) {
        let asked = wire::GetStateRequest { service: "ledger".into(), at };
        let parts: Vec<wire::GetStateResponse> = until_answered(&channel, &staff, asked).await;
        let json: Vec<u8> = parts.iter().flat_map(|part| part.part.to_vec()).collect();
        let digest = parts[0].digest.iter().map(|byte| format!("{byte:02x}")).collect();
        (parts[0].seq, digest, serde_json::from_slice(&json).expect("JSON"))
    };
    let (then, now) = (state(Some(At::Seq(seq))).await, state(None).await);
    assert_eq!((then.0, now.0), (seq, server.heads()["ledger"]));
    assert_ne!(then.2, now.2);
    for at in [At::Seq(0), At::Seq(now.0 + 1), At::TsUs(1)] {
        let asked = wire::GetStateRequest { service: "ledger".into(), at: Some(at) };
        let refused = staff.ask::<wire::GetStateResponse>(&channel, STATE, asked).await.expect_err("nowhere");
        assert_eq!(reason(&refused), "FIELD_INVALID");
    }
    tokio::task::block_in_place(|| server.terminate());
    for (at, (_, digest, json)) in [(seq, &then), (now.0, &now)] {
        let told = tokio::task::block_in_place(|| place.run(&["state", "ledger", "--at", &at.to_string()]));
        assert!(told.err.contains(digest.as_str()), "{} has not {digest}", told.err);
        assert_eq!(&told.json(), json);
    }
}

/// States are made one at a time.
async fn until_answered(
    channel: &Channel,
    who: &Who<'_>,
    asked: wire::GetStateRequest,
) -> Vec<wire::GetStateResponse> {
    loop {
        match who.ask(channel, STATE, asked.clone()).await {
            Err(busy) if reason(&busy) == "STATE_BUSY" => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await
            }
            told => return told.expect("answered"),
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason_and_the_command_line_reads_events_too() {
    let place = Place::new();
    let server = place.serve(&[]);
    let payer = Payer::of(&server);
    for (request, reason) in [
        (json!({ "service": "nobody" }), "LOG_NOT_HERE"),
        (json!({ "service": "" }), "LOG_NOT_HERE"),
        (json!({ "service": "ledger", "types": ["Transfer"] }), "FIELD_INVALID"),
        (json!({ "service": "ledger", "resume_token": "accounts@3" }), "FIELD_INVALID"),
        (json!({ "service": "ledger", "resume_token": "ledger@" }), "FIELD_INVALID"),
    ] {
        let call = ["Replay/ReadEvents", &request.to_string(), "--key", &payer.key];
        server.call(&call).fails(1, &[reason]);
    }
    payer.pay(&server, 1);
    let all = json!({ "service": "ledger", "types": ["TransfersRecorded"] });
    let told = server.call(&["Replay/ReadEvents", &all.to_string(), "--key", &payer.key]);
    assert!(told.code == 0 && told.out.contains("TransfersRecorded"), "{}{}", told.out, told.err);
    let listed = server.staff("Replay/ListLogs", &json!({}));
    assert_eq!(listed["logs"].as_array().map(Vec::len), Some(2), "{listed}");
}
