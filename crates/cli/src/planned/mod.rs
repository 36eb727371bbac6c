//! Reloads that come by themselves: when files change, and at certain times. Each is a rolling reload like any other; one
//! that fails leaves the code from before.

pub(crate) mod cron;
mod quiet;
mod rules;
mod tree;
mod watching;

use phalanx::{Error, Primary};
pub(crate) use rules::Without;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
pub(crate) use tree::Wish;

/// How often it is looked whether somebody else's reload is over.
const AGAIN: Duration = Duration::from_millis(100);

/// What is planned for an application.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) watch: Option<Wish>,
    pub(crate) cron: Vec<croner::Cron>,
}

impl Plan {
    /// Keeps to it until the cluster has stopped.
    pub(crate) async fn keep(self, primary: Primary) {
        let reloads = Reloads { primary: primary.clone(), one: Arc::default() };
        let watching = async {
            match self.watch {
                Some(wish) => watching::watch(wish, reloads.clone()).await,
                None => std::future::pending().await,
            }
            std::future::pending::<()>().await;
        };
        let times = async {
            match self.cron.is_empty() {
                true => std::future::pending().await,
                false => cron::keep(self.cron, reloads.clone()).await,
            }
        };
        tokio::select! {
            () = primary.stopped() => {}
            () = watching => {}
            () = times => {}
        }
    }
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Done,
    Failed,
    Stopping,
}

/// Reloads that come by themselves: one at a time, and never in place of one that somebody asked for.
#[derive(Clone)]
struct Reloads {
    primary: Primary,
    one: Arc<Mutex<()>>,
}

impl Reloads {
    /// Reloads, when others are over.
    fn after_others(&self, why: String) -> JoinHandle<Ended> {
        let this = self.clone();
        tokio::spawn(async move {
            let _one = this.one.lock().await;
            while this.is_reloading().await {
                tokio::time::sleep(AGAIN).await;
            }
            this.reload(&why).await
        })
    }

    /// Reloads, unless that is just being done.
    fn unless_busy(&self, why: &'static str) {
        let this = self.clone();
        tokio::spawn(async move {
            let one = this.one.try_lock();
            if one.is_err() || this.is_reloading().await {
                tracing::warn!("{why}: the reload is left out, because another one is going on");
                return;
            }
            this.reload(why).await;
        });
    }

    async fn is_reloading(&self) -> bool {
        self.primary.status().await.is_ok_and(|status| status.reload.is_some())
    }

    async fn reload(&self, why: &str) -> Ended {
        tracing::info!("{why}: rolling reload");
        match self.primary.reload().await {
            Ok(_) => Ended::Done,
            Err(Error::Stopping) => Ended::Stopping,
            Err(_) => {
                tracing::warn!("{why}: the reload failed, and the code from before goes on");
                Ended::Failed
            }
        }
    }
}
