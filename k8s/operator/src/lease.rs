//! Which of the replicas leads: whoever holds the Lease, as client-go does it. Only the leader acts.
//!
//! A follower takes the Lease over when it has not changed for its duration, by the follower's own clock: clocks need not agree. The
//! leader trusts itself for two thirds of that time after it *asked* for its last renewal that succeeded, and no request of it takes longer than a
//! fifth: its last action is over before another one can lead. Were it not, the other's claim would still meet the version
//! of the policy's status, and one of the two would be refused ([`crate::history`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::sync::Notify;

/// Who leads, and for how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the Lease.
    pub name: String,
    /// This process.
    pub identity: String,
    /// After which others take over.
    pub duration: Duration,
}

impl Settings {
    /// The longest that a request may take.
    pub fn patience(&self) -> Duration {
        self.duration / 5
    }

    fn trust(&self) -> Duration {
        self.duration * 2 / 3
    }

    fn pause(&self) -> Duration {
        self.duration / 7
    }
}

/// Whether this process leads.
#[derive(Clone, Default)]
pub struct Leadership {
    until: Arc<Mutex<Option<Instant>>>,
}

impl Leadership {
    /// Asked before everything that is done.
    pub fn holds(&self) -> bool {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    fn set(&self, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Takes part in the election, for ever.
pub struct Election {
    api: Api<Lease>,
    settings: Settings,
    leadership: Leadership,
    /// What the Lease looked like, and when that was first seen.
    seen: Option<(String, Instant)>,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the API server did not answer in time")]
    Late,
}

impl Election {
    /// Does not lead yet.
    pub fn new(api: Api<Lease>, settings: Settings, leadership: Leadership) -> Self {
        Self { api, settings, leadership, seen: None }
    }

    /// Leads whenever it can. `changed` is told when that begins or ends.
    pub async fn run(&mut self, changed: &Notify) {
        let mut led = false;
        let mut quiet = true;
        loop {
            match self.round().await {
                Ok(()) => quiet = true,
                Err(error) => {
                    if std::mem::take(&mut quiet) {
                        tracing::warn!(%error, lease = self.settings.name, "the Lease cannot be read or renewed; it is tried again");
                    }
                }
            }
            let leads = self.leadership.holds();
            if leads != led {
                led = leads;
                if leads {
                    tracing::info!(identity = self.settings.identity, "leads");
                } else {
                    tracing::warn!(identity = self.settings.identity, "leads no more");
                }
                changed.notify_one();
            }
            tokio::time::sleep(self.settings.pause()).await;
        }
    }

    /// Lets another one lead at once.
    pub async fn release(&mut self) {
        let led = self.leadership.holds();
        self.leadership.set(None);
        if !led {
            return;
        }
        let released = async {
            let Some(lease) = self.get().await? else { return Ok(()) };
            if holder(&lease) == Some(&self.settings.identity) {
                let mut freed = self.renewed(lease, Timestamp::now());
                if let Some(spec) = &mut freed.spec {
                    (spec.holder_identity, spec.lease_duration_seconds) = (Some(String::new()), Some(1));
                }
                self.put(&freed).await?;
            }
            Ok::<(), Fault>(())
        };
        match released.await {
            Ok(()) => tracing::info!("the Lease is released"),
            Err(error) => tracing::warn!(%error, "the Lease could not be released; another one leads when it is over"),
        }
    }

    async fn round(&mut self) -> Result<(), Fault> {
        let asked = Instant::now();
        let Some(lease) = self.get().await? else {
            let spec = self.spec(None, Timestamp::now());
            let metadata = ObjectMeta { name: Some(self.settings.name.clone()), ..ObjectMeta::default() };
            let created = Lease { metadata, spec: Some(spec) };
            self.timely(self.api.create(&PostParams::default(), &created)).await?;
            self.leadership.set(Some(asked + self.settings.trust()));
            return Ok(());
        };
        let mine = holder(&lease) == Some(&self.settings.identity);
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            // Now, and not when it was asked: what was read may have been written in between.
            self.seen = Some((version, Instant::now()));
        }
        let free = holder(&lease).is_none_or(String::is_empty);
        let duration = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds).map(i32::unsigned_abs);
        let over = self.seen.as_ref().is_some_and(|(_, at)| {
            let duration = duration.map_or(self.settings.duration, |s| Duration::from_secs(u64::from(s)));
            at.elapsed() >= duration.max(self.settings.duration)
        });
        if !mine && !free && !over {
            self.leadership.set(None);
            return Ok(());
        }
        match self.put(&self.renewed(lease, Timestamp::now())).await {
            Ok(()) => self.leadership.set(Some(asked + self.settings.trust())),
            Err(Fault::Api(kube::Error::Api(status))) if status.is_conflict() => self.leadership.set(None),
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    fn spec(&self, before: Option<LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let before = before.unwrap_or_default();
        let mine = before.holder_identity.as_ref() == Some(&self.settings.identity);
        let transitions = before.lease_transitions.unwrap_or(0) + i32::from(before.holder_identity.is_some() && !mine);
        let seconds = i32::try_from(self.settings.duration.as_secs()).unwrap_or(i32::MAX);
        LeaseSpec {
            acquire_time: if mine { before.acquire_time } else { Some(MicroTime(now)) },
            holder_identity: Some(self.settings.identity.clone()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(transitions),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }
    }

    fn renewed(&self, lease: Lease, now: Timestamp) -> Lease {
        let spec = self.spec(lease.spec, now);
        Lease { metadata: lease.metadata, spec: Some(spec) }
    }

    async fn get(&self) -> Result<Option<Lease>, Fault> {
        self.timely(self.api.get_opt(&self.settings.name)).await
    }

    async fn put(&self, lease: &Lease) -> Result<(), Fault> {
        let params = PostParams::default();
        self.timely(self.api.replace(&self.settings.name, &params, lease)).await.map(drop)
    }

    async fn timely<T>(&self, asked: impl Future<Output = kube::Result<T>>) -> Result<T, Fault> {
        let answer = tokio::time::timeout(self.settings.patience(), asked).await;
        Ok(answer.map_err(|_| Fault::Late)??)
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref()
}
