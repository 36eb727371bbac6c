//! One sender, many receivers, nothing lost and nothing unbounded.
//!
//! What the cluster itself tells (few things per worker) is never held up. What workers send waits
//! for room at each receiver, and with it the worker that sends.

use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes that may wait for one slow receiver before the sender has to.
const ROOM: usize = 4 << 20;
/// What the smallest item counts.
const MIN_SIZE: usize = 64;

type Filter<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;

pub(crate) struct Fan<T> {
    /// `None`: there will be nothing more.
    members: Arc<Mutex<Option<Vec<Member<T>>>>>,
}

struct Member<T> {
    queue: mpsc::UnboundedSender<(T, Option<OwnedSemaphorePermit>)>,
    room: Arc<Semaphore>,
    wants: Filter<T>,
}

pub(crate) struct FanReceiver<T> {
    queue: mpsc::UnboundedReceiver<(T, Option<OwnedSemaphorePermit>)>,
}

impl<T> FanReceiver<T> {
    /// The next item; `None` when the sender is gone.
    pub(crate) async fn next(&mut self) -> Option<T> {
        self.queue.recv().await.map(|(item, _)| item)
    }
}

impl<T: Clone> Fan<T> {
    /// A receiver of what `wants` says yes to, from now on.
    pub(crate) fn join(
        &self,
        wants: impl Fn(&T) -> bool + Send + Sync + 'static,
    ) -> FanReceiver<T> {
        let (queue, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(ROOM));
        if let Some(members) = self.lock().as_mut() {
            members.push(Member { queue, room, wants: Arc::new(wants) });
        }
        FanReceiver { queue: receiver }
    }

    /// Tells everybody; never waits.
    pub(crate) fn tell(&self, item: &T) {
        if let Some(members) = self.lock().as_mut() {
            members.retain(|member| {
                if (member.wants)(item) {
                    member.queue.send((item.clone(), None)).is_ok()
                } else {
                    !member.queue.is_closed()
                }
            });
        }
    }

    /// Tells everybody, each when it has room for so many bytes. Whether anybody wanted it.
    pub(crate) async fn tell_sized(&self, item: T, size: usize) -> bool {
        match self.tell_now(item, size) {
            Ok(wanted) => wanted,
            Err(later) => later.tell().await,
        }
    }

    /// As [`Fan::tell_sized`], without waiting: what is left to do where somebody has no room.
    pub(crate) fn tell_now(&self, item: T, size: usize) -> Result<bool, Later<T>> {
        let size = u32::try_from(size.clamp(MIN_SIZE, ROOM)).unwrap_or(u32::MAX);
        let mut wanted = false;
        let members = self.lock();
        let members = members.as_deref().unwrap_or_default();
        for (at, member) in members.iter().enumerate() {
            if !(member.wants)(&item) || member.queue.is_closed() {
                continue;
            }
            let Ok(permit) = Arc::clone(&member.room).try_acquire_many_owned(size) else {
                let rest = members.get(at..).unwrap_or_default().to_vec();
                return Err(Later { item, size, rest, wanted });
            };
            wanted |= member.queue.send((item.clone(), Some(permit))).is_ok();
        }
        Ok(wanted)
    }

    /// No more items: every receiver comes to its end.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Member<T>>>> {
        self.members.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An item that some have yet to be told.
pub(crate) struct Later<T> {
    item: T,
    size: u32,
    rest: Vec<Member<T>>,
    wanted: bool,
}

impl<T: Clone> Later<T> {
    /// Tells them, each when it has room. Whether anybody wanted it.
    pub(crate) async fn tell(self) -> bool {
        let Self { item, size, rest, mut wanted } = self;
        for member in rest.iter().filter(|member| (member.wants)(&item)) {
            let permit = tokio::select! {
                permit = Arc::clone(&member.room).acquire_many_owned(size) => permit.ok(),
                () = member.queue.closed() => continue,
            };
            wanted |= member.queue.send((item.clone(), permit)).is_ok();
        }
        wanted
    }
}

impl<T> Default for Fan<T> {
    fn default() -> Self {
        Self { members: Arc::new(Mutex::new(Some(Vec::new()))) }
    }
}

impl<T> Clone for Fan<T> {
    fn clone(&self) -> Self {
        Self { members: Arc::clone(&self.members) }
    }
}

impl<T> Clone for Member<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            room: Arc::clone(&self.room),
            wants: Arc::clone(&self.wants),
        }
    }
}
