//! A way to a CQL server on which answers are lost: what was asked has happened, or not, and nobody learns which.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

/// What went wrong on the way so far.
#[derive(Debug, Default)]
pub(super) struct Faults {
    asked: AtomicU64,
    /// Appends that applied, and whose answer was lost.
    pub(super) applied: AtomicU64,
    /// Appends that never reached the server.
    pub(super) lost: AtomicU64,
    /// Connections cut behind an append that applied.
    pub(super) cut: AtomicU64,
}

/// Listens in front of a server; its address.
pub(super) async fn in_front_of(server: String) -> (String, Arc<Faults>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let faults = Arc::new(Faults::default());
    let counted = faults.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(&server).await else { continue };
            tokio::spawn(connection(client, server, counted.clone()));
        }
    });
    (address, faults)
}

/// What becomes of a request, and of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    /// The server never hears of it.
    Lost,
    /// It is done, and its answer becomes a time-out.
    AnswerLost,
    /// It is done, and its connection ends.
    Cut,
}

/// A frame of the protocol, version 4: nine bytes of head, then its body.
struct Message(Vec<u8>);

impl Message {
    async fn read(from: &mut OwnedReadHalf) -> Option<Message> {
        let mut bytes = vec![0; 9];
        from.read_exact(&mut bytes).await.ok()?;
        let length = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]) as usize;
        bytes.resize(9 + length, 0);
        from.read_exact(&mut bytes[9..]).await.ok()?;
        Some(Message(bytes))
    }

    fn stream(&self) -> [u8; 2] {
        [self.0[2], self.0[3]]
    }

    /// Whether it carries a frame: no other prepared statement's values are so long.
    fn is_append(&self) -> bool {
        const EXECUTE: u8 = 0x0a;
        self.0[4] == EXECUTE && self.0.len() > 1_000
    }

    /// The one column `[applied]`, and that it is so.
    fn applied(&self) -> bool {
        const RESULT: u8 = 0x08;
        self.0[4] == RESULT && self.0.ends_with(&[0, 0, 0, 1, 1])
    }

    /// What a server says that has not heard from enough of its peers: WRITE_TIMEOUT of a conditional write.
    fn time_out(stream: [u8; 2]) -> Message {
        let mut body = 0x1100u32.to_be_bytes().to_vec();
        for (text, then) in [("told to", &[0, 8, 0, 0, 0, 0, 0, 0, 0, 1][..]), ("CAS", &[])] {
            body.extend((text.len() as u16).to_be_bytes());
            body.extend(text.as_bytes());
            body.extend(then);
        }
        let mut bytes = vec![0x84, 0, stream[0], stream[1], 0];
        bytes.extend((body.len() as u32).to_be_bytes());
        bytes.extend(body);
        Message(bytes)
    }
}

impl Faults {
    fn next(&self) -> Fate {
        match self.asked.fetch_add(1, Ordering::SeqCst) {
            n if n % 60 == 59 => Fate::Cut,
            n if n % 4 == 1 => Fate::AnswerLost,
            n if n % 4 == 2 => Fate::Lost,
            _ => Fate::Passes,
        }
    }
}

type Fates = Arc<Mutex<Vec<([u8; 2], Fate)>>>;

async fn connection(client: TcpStream, server: TcpStream, faults: Arc<Faults>) {
    let ((mut asking, answering), (replying, mut asked)) = (client.into_split(), server.into_split());
    let (fates, (answers, queue)) = (Fates::default(), mpsc::unbounded_channel());
    let write = tokio::spawn(deliver(answering, queue));
    let read = tokio::spawn(answer(replying, answers.clone(), fates.clone(), faults.clone()));
    let forward = async {
        while let Some(message) = Message::read(&mut asking).await {
            let fate = if message.is_append() { faults.next() } else { Fate::Passes };
            if fate == Fate::Lost {
                faults.lost.fetch_add(1, Ordering::SeqCst);
                let _ = answers.send(Message::time_out(message.stream())); // or it is cut
                continue;
            }
            if fate != Fate::Passes {
                fates.lock().await.push((message.stream(), fate));
            }
            if asked.write_all(&message.0).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = forward => {}
        _ = read => {}
        _ = write => {}
    }
}

async fn deliver(mut to: OwnedWriteHalf, mut answers: mpsc::UnboundedReceiver<Message>) {
    while let Some(message) = answers.recv().await {
        if to.write_all(&message.0).await.is_err() {
            return;
        }
    }
}

/// Hands the server's answers on, until one is cut.
async fn answer(
    mut from: OwnedReadHalf,
    to: mpsc::UnboundedSender<Message>,
    fates: Fates,
    faults: Arc<Faults>,
) {
    while let Some(message) = Message::read(&mut from).await {
        let mut fates = fates.lock().await;
        let at = fates.iter().position(|(stream, _)| *stream == message.stream());
        let fate = at.map_or(Fate::Passes, |at| fates.swap_remove(at).1);
        if fate != Fate::Passes && message.applied() {
            let counted = if fate == Fate::Cut { &faults.cut } else { &faults.applied };
            counted.fetch_add(1, Ordering::SeqCst);
        }
        let said = match fate {
            Fate::Cut => return,
            Fate::AnswerLost => Message::time_out(message.stream()),
            Fate::Passes | Fate::Lost => message,
        };
        if to.send(said).is_err() {
            return;
        }
    }
}
