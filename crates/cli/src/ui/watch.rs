//! What is shown again and again: in place on a terminal, one after the other elsewhere.

use super::screen::{Screen, rows};
use super::text::cut;
use crate::failure::Failure;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use std::io::{self, IsTerminal, Read, Write};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// Shows what there is until somebody has seen enough: `q`, Ctrl-C, or a reader that goes away.
pub(crate) fn watch(
    mut picture: impl FnMut(Screen) -> Result<String, Failure>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::os("begin to watch"))?;
    runtime.block_on(async {
        let mut end = End::new().map_err(Failure::os("hear signals"))?;
        let resized = signal(SignalKind::window_change());
        let mut resized = resized.map_err(Failure::os("hear signals"))?;
        let terminal = Terminal::take();
        let mut drawn = false;
        loop {
            let screen = Screen::stdout();
            let text = picture(screen)?;
            let text = match &terminal {
                Some(_) => frame(&text, screen.width.unwrap_or(0), rows()),
                None if drawn => format!("\n{text}"),
                None => text,
            };
            drawn = true;
            let mut out = io::stdout();
            if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
                return Ok(());
            }
            tokio::select! {
                () = end.comes() => return Ok(()),
                _ = resized.recv() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    })
}

/// A whole screen: what does not fit is left out, and said.
fn frame(text: &str, columns: usize, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    // The last row is for what can be done.
    let room = rows.saturating_sub(1).max(1);
    let left = lines.len().saturating_sub(room);
    let foot = match left {
        0 => "q ends".to_owned(),
        n => format!("{n} more lines · q ends"),
    };
    let mut frame = String::from("\x1b[H");
    for line in lines.iter().take(room) {
        frame.push_str(line);
        frame.push_str("\x1b[K\r\n");
    }
    frame.push_str("\x1b[2m");
    frame.push_str(&cut(&foot, columns.saturating_sub(1)));
    frame.push_str("\x1b[0m\x1b[K\x1b[J");
    frame
}

/// What ends it.
struct End {
    signals: Vec<Signal>,
    keys: mpsc::Receiver<()>,
}

impl End {
    fn new() -> io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let signals = kinds.into_iter().map(signal).collect::<io::Result<_>>()?;
        let (key, keys) = mpsc::channel(1);
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            std::thread::spawn(move || {
                let mut byte = [0];
                // Nothing more: the terminal is gone.
                while matches!(io::stdin().read(&mut byte), Ok(1)) {
                    if matches!(byte[0], b'q' | b'Q' | 3 | 4) {
                        break;
                    }
                }
                let _ = key.blocking_send(());
            });
        } else {
            // Nobody types: it never says anything.
            std::mem::forget(key);
        }
        Ok(Self { signals, keys })
    }

    async fn comes(&mut self) {
        let Self { signals, keys } = self;
        let [interrupt, terminate, hangup] = signals.as_mut_slice() else { return };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = keys.recv() => {}
        }
    }
}

/// A terminal that shows something else meanwhile, and is as it was afterwards.
struct Terminal {
    before: Option<Termios>,
}

impl Terminal {
    /// None if the output is no terminal.
    fn take() -> Option<Self> {
        if !io::stdout().is_terminal() {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok();
        if let Some(mut modes) = before.clone() {
            modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            // Stopped by Ctrl-Z, it would leave its screen to the shell.
            modes.special_codes[SpecialCodeIndex::VSUSP] = 0;
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
        }
        let _ = io::stdout().write_all(b"\x1b[?1049h\x1b[?25l");
        Some(Self { before })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = io::stdout().write_all(b"\x1b[?25h\x1b[?1049l");
        let _ = io::stdout().flush();
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_never_scrolls() {
        let text = "one\ntwo\nthree\nfour\n";
        assert_eq!(frame(text, 80, 10).matches("\r\n").count(), 4);
        let small = frame(text, 80, 3);
        assert_eq!(small.matches("\r\n").count(), 2, "{small:?}");
        assert!(small.contains("2 more lines"), "{small:?}");
        assert!(frame(text, 0, 0).ends_with("\x1b[J"));
    }
}
