//! Where a stream has gaps: the service itself.

use std::future::Future;
use std::time::Duration;

use holmes_kernel::LogId;
use holmes_proto::log::v1::ReadFramesRequest;
use holmes_proto::log::v1::replay_client::ReplayClient;
use holmes_proto::public::{PublicFrame, WireError};
use prost::bytes::Bytes;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, StdError};

/// Where the frames are read that a stream does not have.
pub trait Gaps: Send + 'static {
    /// The frames of a log behind `after`, in order, at most up to the one that holds `upto`: at least the next one where
    /// there is one, and no more than fit into memory easily.
    fn frames(
        &mut self,
        log: LogId,
        after: u64,
        upto: u64,
    ) -> impl Future<Output = Result<Vec<PublicFrame>, NotRead>> + Send;
}

/// Why frames were not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRead {
    /// The service does not answer now.
    Away(String),
    /// It will never answer this.
    Refused(String),
    /// What came cannot be read.
    Damaged(WireError),
}

/// How long the service may take to say something.
const PATIENCE: Duration = Duration::from_secs(15);
/// Frames of a page.
const PAGE: usize = 256;

/// The Replay API of the service. The client brings address, certificates and proof: staff, services and gateways may
/// read frames.
#[derive(Clone, Debug)]
pub struct Replay<T>(pub ReplayClient<T>);

impl<T> Gaps for Replay<T>
where
    T: GrpcService<Body, Future: Send> + Clone + Send + Sync + 'static,
    T::Error: Into<StdError>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    async fn frames(&mut self, log: LogId, after: u64, upto: u64) -> Result<Vec<PublicFrame>, NotRead> {
        let service = holmes_proto::service_name(log.svc)
            .ok_or_else(|| NotRead::Refused(format!("this build knows no service of {log}")))?;
        let upto = if upto == u64::MAX { 0 } else { upto };
        let asked = ReadFramesRequest { service: service.to_owned(), after, upto };
        let mut answers = within(self.0.read_frames(asked)).await?.into_inner();
        let mut frames = Vec::new();
        while frames.len() < PAGE {
            let Some(answer) = within(answers.message()).await? else { break };
            frames.push(PublicFrame::from_bytes(&answer.frame).map_err(NotRead::Damaged)?);
        }
        Ok(frames)
    }
}

async fn within<T>(asked: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, NotRead> {
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    answer.map_err(|_| NotRead::Away("no answer in time".to_owned()))?.map_err(not_read)
}

fn not_read(status: tonic::Status) -> NotRead {
    use tonic::Code;
    let words = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        // Not NotFound: the log may be another process's by now. Nor Unauthenticated: clocks are set, and keys registered.
        Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented => NotRead::Refused(words),
        _ => NotRead::Away(words),
    }
}
