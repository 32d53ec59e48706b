//! Messages on a pipe: each behind its length as a varint, as protobuf has it for streams.

use std::io::{self, ErrorKind, Read, Write};

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Most bytes of one message: the longest texts and vectors of a call, with room.
pub(crate) const MOST_BYTES: usize = 64 << 20;

/// A length in the making.
#[derive(Default)]
struct Length {
    value: u64,
    bytes: u32,
}

impl Length {
    /// Takes a byte; the length when it was the last of it.
    fn push(&mut self, byte: u8) -> io::Result<Option<usize>> {
        self.value |= u64::from(byte & 0x7f) << (7 * self.bytes);
        self.bytes += 1;
        let too_long = || io::Error::new(ErrorKind::InvalidData, "a message on the pipe is too long");
        match byte & 0x80 == 0 {
            false if self.bytes == 5 => Err(too_long()),
            false => Ok(None),
            true if self.value > MOST_BYTES as u64 => Err(too_long()),
            true => Ok(Some(self.value as usize)),
        }
    }
}

/// Writes a message and flushes it.
pub(crate) fn write(out: &mut impl Write, message: &impl Message) -> io::Result<()> {
    out.write_all(&message.encode_length_delimited_to_vec())?;
    out.flush()
}

/// Reads a message; `None` at the end.
///
/// # Errors
/// What reading says; `InvalidData` for what is no message, `UnexpectedEof` for a part of one.
pub(crate) fn read<M: Message + Default>(input: &mut impl Read) -> io::Result<Option<M>> {
    let mut length = Length::default();
    let size = loop {
        let mut byte = [0];
        match input.read_exact(&mut byte) {
            Ok(()) => {}
            Err(why) if why.kind() == ErrorKind::UnexpectedEof && length.bytes == 0 => return Ok(None),
            Err(why) => return Err(why),
        }
        if let Some(size) = length.push(byte[0])? {
            break size;
        }
    };
    let mut bytes = vec![0; size];
    input.read_exact(&mut bytes)?;
    decode(&bytes).map(Some)
}

/// The same without blocking.
///
/// # Errors
/// As [`read`].
pub(crate) async fn read_async<M: Message + Default>(
    input: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<M>> {
    let mut length = Length::default();
    let size = loop {
        let byte = match input.read_u8().await {
            Ok(byte) => byte,
            Err(why) if why.kind() == ErrorKind::UnexpectedEof && length.bytes == 0 => return Ok(None),
            Err(why) => return Err(why),
        };
        if let Some(size) = length.push(byte)? {
            break size;
        }
    };
    let mut bytes = vec![0; size];
    input.read_exact(&mut bytes).await?;
    decode(&bytes).map(Some)
}

fn decode<M: Message + Default>(bytes: &[u8]) -> io::Result<M> {
    M::decode(bytes).map_err(|why| io::Error::new(ErrorKind::InvalidData, why))
}

#[cfg(test)]
mod tests {
    use holmes_proto::inference::v1::{CancelWork, EmbedWork, StartWork, ToWorker, Work, to_worker, work};

    use super::*;

    fn messages() -> Vec<ToWorker> {
        let texts = vec!["x".repeat(300), String::new()];
        let work = Work { model: "m".into(), work: Some(work::Work::Embed(EmbedWork { texts })) };
        vec![
            ToWorker { message: Some(to_worker::Message::Cancel(CancelWork { call: 7 })) },
            ToWorker::default(), // no bytes at all behind its length
            ToWorker { message: Some(to_worker::Message::Start(StartWork { call: 8, work: Some(work) })) },
        ]
    }

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        messages().iter().for_each(|message| write(&mut bytes, message).unwrap());
        bytes
    }

    #[test]
    fn what_is_written_reads_back_in_order_and_then_ends() {
        let bytes = written();
        let mut input = bytes.as_slice();
        for message in messages() {
            assert_eq!(read::<ToWorker>(&mut input).unwrap(), Some(message));
        }
        assert_eq!(read::<ToWorker>(&mut input).unwrap(), None);
    }

    #[tokio::test]
    async fn both_readers_read_the_same() {
        let bytes = written();
        let mut input = bytes.as_slice();
        for message in messages() {
            assert_eq!(read_async::<ToWorker>(&mut input).await.unwrap(), Some(message));
        }
        assert_eq!(read_async::<ToWorker>(&mut input).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_part_of_a_message_and_one_that_is_too_long_are_errors() {
        let bytes = written();
        let huge = [0xff, 0xff, 0xff, 0x7f];
        let endless = [0x80; 9];
        let parts: [(&[u8], ErrorKind); 4] = [
            (&bytes[..1], ErrorKind::UnexpectedEof),
            (&[0x80], ErrorKind::UnexpectedEof),
            (&huge, ErrorKind::InvalidData),
            (&endless, ErrorKind::InvalidData),
        ];
        for (mut part, kind) in parts {
            let mut same = part;
            assert_eq!(read::<ToWorker>(&mut part).unwrap_err().kind(), kind);
            assert_eq!(read_async::<ToWorker>(&mut same).await.unwrap_err().kind(), kind);
        }
    }
}
