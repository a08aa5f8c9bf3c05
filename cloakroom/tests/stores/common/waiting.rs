//! Waiting for what will be so before long, however busy the machine is.

use std::{
    thread,
    time::{Duration, Instant},
};

/// When waiting is given up: a machine this busy has other worries.
const PATIENCE: Duration = Duration::from_mins(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until something is so.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "it never came to be");
        thread::sleep(PAUSE);
    }
}

/// Tries again and again until it works.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(mut attempt: impl FnMut() -> F) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "it never worked");
        tokio::time::sleep(PAUSE).await;
    }
}
