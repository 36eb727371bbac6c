//! What the servers answer.

/// Who answers, as JSON.
#[must_use]
pub fn answer() -> String {
    let slot = std::env::var("NODE_APP_INSTANCE").unwrap_or_else(|_| "0".to_owned());
    format!("{{\"pid\":{},\"slot\":{slot}}}", std::process::id())
}
