//! Work that one task does while others wait for it, or go on with what there is.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

/// Whether the work is under way.
#[derive(Debug, Default)]
pub(super) struct Single(Arc<watch::Sender<bool>>);

impl Single {
    /// Has the work done, unless it is under way already, and waits for its end. `false` if that takes longer: then it goes
    /// on.
    pub(super) async fn run(&self, work: impl Future<Output = ()> + Send + 'static, within: Duration) -> bool {
        if self.0.send_if_modified(|under_way| !std::mem::replace(under_way, true)) {
            let done = Done(Arc::clone(&self.0));
            tokio::spawn(async move {
                work.await;
                drop(done);
            });
        }
        let mut state = self.0.subscribe();
        tokio::time::timeout(within, state.wait_for(|under_way| !under_way)).await.is_ok()
    }
}

/// However the work ends.
struct Done(Arc<watch::Sender<bool>>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
