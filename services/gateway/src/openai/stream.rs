//! An answer as server-sent events: chunks, then `[DONE]`; a comment now and then keeps a silent stream open.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Wrong;
use super::answer::{Adds, Shape, finish, own};
use crate::api::cut_off;
use crate::calls::{Broken, Part, Parts};

/// Events between the call and the connection: what is not taken holds the call back.
const BUFFER: usize = 8;

type Events = mpsc::Sender<Result<Bytes, Infallible>>;

/// The response whose body brings the events.
pub(crate) fn response(shape: Shape, first: Part, parts: Parts, keep_alive: Duration) -> Response {
    let (events, body) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        let writer = Writer { shape, events, node: String::new(), offset: 0 };
        writer.write(first, parts, keep_alive).await;
    });
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(body)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

struct Writer {
    shape: Shape,
    events: Events,
    node: String,
    /// Characters that were written.
    offset: usize,
}

impl Writer {
    /// Writes events until the answer has ended or the client has gone; then the parts are dropped, which cancels.
    async fn write(mut self, first: Part, mut parts: Parts, keep_alive: Duration) {
        let mut next = Some(Ok(first));
        loop {
            let part = match next.take() {
                Some(part) => part,
                None => {
                    let part = tokio::select! {
                        part = tokio::time::timeout(keep_alive, parts.recv()) => part,
                        () = self.events.closed() => return,
                    };
                    match part {
                        Ok(part) => part.unwrap_or_else(|| Err(cut_off().into())),
                        Err(_) if self.send(Bytes::from_static(b": the call goes on\n\n")).await => continue,
                        Err(_) => return,
                    }
                }
            };
            if !self.part(part).await {
                return;
            }
        }
    }

    /// Writes a part; `false` when there is nothing more to write, or nobody to read it.
    async fn part(&mut self, part: Result<Part, Broken>) -> bool {
        match part {
            Ok(Part::Started(started)) => {
                self.node = started.node_id;
                self.event(&self.shape.chunk(Adds { first: true, ..Adds::default() }, None)).await
            }
            Ok(Part::Moved(moved)) => {
                self.node = moved.node_id;
                true
            }
            Ok(Part::Tokens(tokens)) => {
                let (text, logprobs) = (Some(tokens.text.as_str()), Some(tokens.logprobs.as_slice()));
                let adds = Adds { first: false, text, logprobs, offset: self.offset };
                let written = self.event(&self.shape.chunk(adds, None)).await;
                self.offset += tokens.text.chars().count();
                written
            }
            Ok(Part::Vectors(_)) => true,
            Ok(Part::Ended(ended)) => {
                let usage = self.shape.says_usage();
                let mut last = self.shape.chunk(Adds::default(), Some(finish(&ended)));
                let own = own(&ended, &self.node);
                if !usage {
                    last["holmes"] = own.clone();
                }
                let mut written = self.event(&last).await;
                if usage {
                    let mut used = self.shape.used(&ended);
                    used["holmes"] = own;
                    written = written && self.event(&used).await;
                }
                if written {
                    self.send(Bytes::from_static(b"data: [DONE]\n\n")).await;
                }
                false
            }
            // The status is gone already: OpenAI's clients raise on an event with an error.
            Err(broken) => {
                self.event(&Wrong::from(broken).body()).await;
                false
            }
        }
    }

    async fn event(&self, chunk: &Value) -> bool {
        self.send(Bytes::from(format!("data: {chunk}\n\n"))).await
    }

    async fn send(&self, bytes: Bytes) -> bool {
        self.events.send(Ok(bytes)).await.is_ok()
    }
}
