//! A coordinator as its process sees it: begun by `serve`, watched and ended through a `Handle`.

use std::net::SocketAddr;
use std::time::Duration;

use gristmill_job::Exit;
use gristmill_proto::v1;
use gristmill_proto::v1::coordinator_server::CoordinatorServer;
use gristmill_store::{StoreError, fresh_nonce};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

use crate::driver::Run;
use crate::epoch;
use crate::messages::{Ended, JobProgress, Message, Settings};
use crate::prepare::Prepared;
use crate::recovery::recover;
use crate::rpc::Service;

/// A coordinator that serves.
pub struct Handle {
    /// Where it answers.
    pub address: String,
    /// Slots that were open when it began: without any there is no work for a worker.
    pub open: usize,
    /// How far it is.
    pub progress: watch::Receiver<JobProgress>,
    driver: mpsc::Sender<Message>,
    ended: JoinHandle<Ended>,
    server: JoinHandle<()>,
}

impl Handle {
    /// A process that a worker ran in has ended without a word.
    pub async fn process_died(&self, pid: u32, how: String) {
        let _ = self.driver.send(Message::ProcessDied { pid, how }).await;
    }

    /// Ends the run: workers are told that nothing is left.
    pub async fn stop(&self, exit: Exit, message: String) {
        let _ = self.driver.send(Message::Stop { exit, message }).await;
    }

    /// Waits for the end of the run, which does not depend on any worker's life.
    pub async fn ended(&mut self) -> Ended {
        (&mut self.ended).await.unwrap_or_else(|error| Ended::Stopped {
            exit: Exit::Internal,
            message: format!("the coordinator failed: {error}"),
        })
    }

    /// Stops serving.
    pub fn close(self) {
        self.server.abort();
    }
}

/// A run that cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The port.
    #[error("no port to listen on: {0}")]
    Listen(#[from] std::io::Error),
    /// Somebody else coordinates this job.
    #[error("{output} is being embedded by the coordinator at {address}; wait for it, or stop it")]
    Busy {
        /// URL of the output.
        output: String,
        /// Where the other answers.
        address: String,
    },
}

/// Recovers the job and begins to serve it at `address`.
pub async fn serve(prepared: &Prepared, address: SocketAddr, settings: Settings) -> Result<Handle, ServeError> {
    let out = &prepared.out;
    let listener = TcpListener::bind(address).await?;
    let address = format!("http://{}", listener.local_addr()?);
    let coordinator = fresh_nonce();
    let (driver, messages) = mpsc::channel(1024);
    let welcome = v1::JoinReply {
        worker: 0,
        output: out.url().to_owned(),
        job: prepared.document.job.to_string(),
        model: prepared.document.model.clone(),
        heartbeat_ms: settings.heartbeat.as_millis() as u32,
        compression: settings.compression.to_string(),
        part_bytes: settings.part_bytes,
    };
    let service = Service { driver: driver.clone(), coordinator, welcome };
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(CoordinatorServer::new(service))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the coordinator no longer listens");
        }
    });
    let epoch = epoch::begin(out, &address, coordinator).await?;
    if let Some(address) = epoch::living_before(out, epoch).await? {
        server.abort();
        return Err(ServeError::Busy { output: out.url().to_owned(), address });
    }
    let recovered = recover(out, &prepared.document, &prepared.plan).await?;
    let open = recovered.open.len();
    tracing::info!(address, epoch, open, parts = recovered.parts, "coordinating");
    let (progress, watched) = watch::channel(JobProgress::default());
    let run = Run::new(prepared, recovered, settings, driver.clone(), progress);
    let ended = tokio::spawn(run.finish_job(messages));
    Ok(Handle { address, open, progress: watched, driver, ended, server })
}
