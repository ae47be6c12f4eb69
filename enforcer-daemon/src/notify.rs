//! What the service manager is told (`sd_notify(3)`). Without one nobody listens, and nothing is said.

use sd_notify::NotifyState;
use tokio::time::{interval, timeout};

use crate::engine::Engine;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told: {e}");
    }
}

/// Enforcement is in force: whoever waits for it may start.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The daemon ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Shows a sign of life twice in the time that the service manager's watchdog gives, as long as the engine answers.
pub async fn watchdog(engine: Engine) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval(limit / 2);
    loop {
        ticks.tick().await;
        // An engine that is at work on a large policy answers late, one that hangs never does.
        if let Ok(Some(_)) = timeout(limit, engine.dropped()).await {
            tell(&[NotifyState::Watchdog]);
        }
    }
}
