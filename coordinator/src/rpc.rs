//! The gRPC service: translation only. Every call becomes a message to the driver, and its answer a reply.

use gristmill_job::Nonce;
use gristmill_proto::v1::coordinator_server::Coordinator;
use gristmill_proto::v1::{self, claim_reply::Answer, finish_request::Outcome};
use gristmill_proto::{
    BadMessage, PROTOCOL, child_from_wire, dead_from_wire, failure_from_wire, segments_from_wire, segments_to_wire,
};
use gristmill_store::documents::DeadCounts;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use crate::messages::Message;
use crate::scheduler::{Caution, Claim, Finish, Held, WorkerId};

/// How soon a worker without work asks again.
const WAIT_MS: u32 = 200;

pub(crate) struct Service {
    pub(crate) driver: mpsc::Sender<Message>,
    pub(crate) coordinator: Nonce,
    /// The answer to every worker that joins, but for its number.
    pub(crate) welcome: v1::JoinReply,
}

impl Service {
    /// The driver's answer; none once the run has ended. What workers still report then stands in the store.
    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.driver.send(message(reply)).await.ok()?;
        answer.await.ok()
    }
}

fn bad(error: BadMessage) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl Coordinator for Service {
    async fn who(&self, _: Request<v1::WhoRequest>) -> Result<Response<v1::WhoReply>, Status> {
        Ok(Response::new(v1::WhoReply { coordinator: self.coordinator.to_string() }))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        let request = request.into_inner();
        if request.protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "the worker speaks protocol {}, this coordinator speaks {PROTOCOL}; use binaries of one version",
                request.protocol
            )));
        }
        let WorkerId(worker) = self
            .ask(|reply| Message::Join { pid: request.pid, reply })
            .await
            .ok_or_else(|| Status::unavailable("the coordinator is ending"))?;
        Ok(Response::new(v1::JoinReply { worker, ..self.welcome.clone() }))
    }

    async fn claim(&self, request: Request<v1::ClaimRequest>) -> Result<Response<v1::ClaimReply>, Status> {
        let v1::ClaimRequest { worker, self_tested } = request.into_inner();
        let claim = self.ask(|reply| Message::Claim { worker: WorkerId(worker), self_tested, reply }).await;
        let answer = match claim.unwrap_or(Claim::Finished) {
            Claim::Grant(grant) => Answer::Grant(v1::Grant {
                slot: grant.slot.to_string(),
                attempt: grant.attempt,
                segments: segments_to_wire(&grant.segments),
                caution: match grant.caution {
                    Caution::None => v1::Caution::None,
                    Caution::Announce => v1::Caution::Announce,
                    Caution::RowByRow => v1::Caution::RowByRow,
                    Caution::Solo => v1::Caution::Solo,
                }
                .into(),
            }),
            Claim::Wait => Answer::WaitMs(WAIT_MS),
            Claim::Finished | Claim::Quarantined | Claim::Unknown => Answer::Finished(true),
        };
        Ok(Response::new(v1::ClaimReply { answer: Some(answer) }))
    }

    async fn heartbeat(&self, request: Request<v1::HeartbeatRequest>) -> Result<Response<v1::HeartbeatReply>, Status> {
        let v1::HeartbeatRequest { worker, held, progress } = request.into_inner();
        let held = held.into_iter().map(held_from_wire).collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let progress = progress.unwrap_or_default();
        let beat = |reply| Message::Heartbeat { worker: WorkerId(worker), held, progress, reply };
        let reply = match self.ask(beat).await.unwrap_or(Some(Vec::new())) {
            Some(dropped_attempts) => v1::HeartbeatReply { dropped_attempts, unknown_worker: false },
            None => v1::HeartbeatReply { dropped_attempts: Vec::new(), unknown_worker: true },
        };
        Ok(Response::new(reply))
    }

    async fn finish(&self, request: Request<v1::FinishRequest>) -> Result<Response<v1::FinishReply>, Status> {
        let v1::FinishRequest { worker, slot, attempt, outcome, progress } = request.into_inner();
        let slot = slot.parse().map_err(|e| bad(BadMessage::Id(e)))?;
        let (finish, dead) = match outcome {
            Some(Outcome::Committed(committed)) => {
                let children = committed.children.into_iter().map(child_from_wire).collect::<Result<_, _>>();
                let dead = dead_from_wire(committed.dead_rows).map_err(bad)?;
                (Finish::Committed { children: children.map_err(bad)?, ours: committed.ours }, dead)
            }
            Some(Outcome::Failed(failed)) => {
                (Finish::Failed(failure_from_wire(&failed.failure).map_err(bad)?), DeadCounts::new())
            }
            Some(Outcome::Returned(_)) => (Finish::Returned, DeadCounts::new()),
            None => return Err(bad(BadMessage::Missing("outcome"))),
        };
        let progress = progress.unwrap_or_default();
        let worker = WorkerId(worker);
        self.ask(|reply| Message::Finish { worker, slot, attempt, finish, dead, progress, reply }).await;
        Ok(Response::new(v1::FinishReply {}))
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveReply>, Status> {
        let v1::LeaveRequest { worker, progress, failure } = request.into_inner();
        let failure = if failure.is_empty() { None } else { Some(failure_from_wire(&failure).map_err(bad)?) };
        let progress = progress.unwrap_or_default();
        self.ask(|reply| Message::Leave { worker: WorkerId(worker), progress, failure, reply }).await;
        Ok(Response::new(v1::LeaveReply {}))
    }
}

fn held_from_wire(held: v1::Held) -> Result<Held, BadMessage> {
    Ok(Held {
        slot: held.slot.parse()?,
        attempt: held.attempt,
        in_hand: segments_from_wire(held.in_hand),
        rows_done: held.rows_done,
    })
}
