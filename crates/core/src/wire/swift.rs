//! The lines that come with every connection, written and read without a JSON parser.
//!
//! Reading is strict: a line that is not exactly as Node and this crate write it is none of these, and is left to the
//! parser, which says the same of these as is said here.

use super::{Act, Answer, Cluster, Dialect, Frame, Handle, HandleKind};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

const ACK: &str = r#"{"cmd":"NODE_HANDLE_ACK"}"#;
const NACK: &str = r#"{"cmd":"NODE_HANDLE_NACK"}"#;
/// What is around a connection's own words, up to its key.
const HANDLE: &str = concat!(
    r#"{"cmd":"NODE_HANDLE","nativeKind":"tcp","socketType":0,"type":"net.Native","#,
    r#""msg":{"act":"newconn","cmd":"NODE_CLUSTER","key":"#,
);
const BUN: &str = "\u{2}{\"$hasHandle\":true,\"act\":\"newconn\",\"cmd\":\"NODE_CLUSTER\",\"key\":";

/// The line with which a connection is handed over: [`Act::NewConn`] in a [`Frame::Handle`], as the peer writes it.
///
/// ```
/// use phalanx_core::wire::{Dialect, hand_over_line};
/// assert_eq!(
///     hand_over_line("k", 7, Dialect::Bun),
///     b"\x02{\"$hasHandle\":true,\"act\":\"newconn\",\"cmd\":\"NODE_CLUSTER\",\"key\":\"k\",\"seq\":7}\n"
/// );
/// ```
#[must_use]
pub fn hand_over_line(key: &str, seq: u64, dialect: Dialect) -> Vec<u8> {
    let key = match is_plain(key) {
        true => format!("\"{key}\""),
        false => serde_json::Value::from(key).to_string(),
    };
    let line = match dialect {
        Dialect::Node => format!("{HANDLE}{key},\"seq\":{seq}}}}}\n"),
        Dialect::Bun => format!("{BUN}{key},\"seq\":{seq}}}\n"),
    };
    line.into_bytes()
}

/// The line with which a worker answers a connection: whether it took it, and how many it has.
#[must_use]
pub fn taken_line(seq: u64, ack: u64, accepted: bool, open: u32) -> Vec<u8> {
    format!(
        "{{\"accepted\":{accepted},\"ack\":{ack},\"cmd\":\"NODE_CLUSTER\",\"open\":{open},\"seq\":{seq}}}\n"
    )
    .into_bytes()
}

/// The frame that a line is, if it is one of these.
pub(super) fn read(line: &str) -> Option<Frame> {
    match line {
        ACK => Some(Frame::HandleAck),
        NACK => Some(Frame::HandleNack),
        _ => match line.strip_prefix(HANDLE) {
            Some(rest) => hand_over(rest),
            None => taken(line),
        },
    }
}

/// Whether a text is itself in JSON.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')
}

/// A hand-over, from its key on.
fn hand_over(rest: &str) -> Option<Frame> {
    let (key, rest) = rest.strip_prefix('"')?.split_once('"')?;
    let (seq, rest) = number(rest.strip_prefix(",\"seq\":")?)?;
    if rest != "}}" || !is_plain(key) {
        return None;
    }
    let act = Act::NewConn { key: key.to_owned() };
    let message = Box::new(Frame::Cluster(Cluster { seq: Some(seq), ack: None, act }));
    Some(Frame::Handle(Handle { kind: HandleKind::Native, key: None, message }))
}

/// An answer to a hand-over: these members, in any order, each at most once.
fn taken(line: &str) -> Option<Frame> {
    let mut rest = line.strip_prefix('{')?;
    let (mut is_ours, mut seq, mut ack, mut accepted, mut open) = (false, None, None, None, None);
    loop {
        let (name, value) = rest.strip_prefix('"')?.split_once("\":")?;
        rest = match name {
            "cmd" if !is_ours => {
                is_ours = true;
                value.strip_prefix("\"NODE_CLUSTER\"")?
            }
            "seq" if seq.is_none() => once(&mut seq, number(value)?),
            "ack" if ack.is_none() => once(&mut ack, number(value)?),
            "open" if open.is_none() => {
                let (count, rest) = number(value)?;
                once(&mut open, (u32::try_from(count).ok()?, rest))
            }
            "accepted" if accepted.is_none() => match value.strip_prefix("true") {
                Some(rest) => once(&mut accepted, (true, rest)),
                None => once(&mut accepted, (false, value.strip_prefix("false")?)),
            },
            _ => return None,
        };
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => break,
        }
    }
    if rest != "}" || !is_ours || ack.is_none() {
        return None;
    }
    let act = Act::Answer(Answer { accepted, open, ..Answer::default() });
    Some(Frame::Cluster(Cluster { seq, ack, act }))
}

/// Notes a value; what is behind it.
fn once<'a, T>(place: &mut Option<T>, (value, rest): (T, &'a str)) -> &'a str {
    *place = Some(value);
    rest
}

/// A whole number as JSON has it, and what is behind it.
fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits)?;
    let zeros_ahead = digits > 1 && number.starts_with('0');
    // A fraction or an exponent would follow.
    let whole = rest.starts_with([',', '}']);
    (whole && !zeros_ahead).then_some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::super::decode::parse_any;
    use super::*;
    use alloc::string::String;
    use proptest::prelude::*;

    fn text(line: &[u8]) -> &str {
        core::str::from_utf8(line).expect("text").trim_end_matches('\n')
    }

    fn newconn(key: &str, seq: u64) -> Frame {
        let act = Act::NewConn { key: key.to_owned() };
        let message = Box::new(Frame::Cluster(Cluster { seq: Some(seq), ack: None, act }));
        Frame::Handle(Handle { kind: HandleKind::Native, key: None, message })
    }

    /// What is written by hand is what the encoder writes, and what Node writes is read.
    #[test]
    fn it_is_the_same_protocol() {
        for key in ["127.0.0.1:80:4:0", "", "a\"b\\c\n", "ü\u{7f}"] {
            for dialect in [Dialect::Node, Dialect::Bun] {
                let line = hand_over_line(key, 9, dialect);
                assert_eq!(text(&line), text(&newconn(key, 9).encode_for(dialect)));
            }
            let read = read(text(&hand_over_line(key, 9, Dialect::Node)));
            assert_eq!(read.is_some(), is_plain(key), "{key}");
        }
        for accepted in [true, false] {
            let answer = Answer { accepted: Some(accepted), open: Some(3), ..Answer::default() };
            let frame = Cluster { seq: Some(1), ack: Some(2), act: Act::Answer(answer) };
            let line = taken_line(1, 2, accepted, 3);
            assert_eq!(text(&line), text(&Frame::Cluster(frame).encode()));
            assert!(read(text(&line)).is_some());
        }
        for frame in [Frame::HandleAck, Frame::HandleNack] {
            assert!(read(text(&frame.encode())).is_some());
        }
        assert!(read(r#"{"cmd":"NODE_CLUSTER","ack":12,"accepted":true,"seq":34}"#).is_some());
    }

    /// Lines that are nearly these.
    fn nearly() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            Just("\"NODE_CLUSTER\"".to_string()),
            Just("\"NODE_\\u0043LUSTER\"".to_string()),
            any::<u64>().prop_map(|n| n.to_string()),
            (0u64..20).prop_map(|n| n.to_string()),
            Just("18446744073709551616".to_string()),
            "(true|false|null|00|-1|1.0|1e3|01|\"1\"|\\{\\}|tru)",
        ];
        let name = "(cmd|ack|seq|open|accepted|act|key|acc\\\\u0065pted)";
        let member = (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"));
        let cmd = Just("\"cmd\":\"NODE_CLUSTER\"".to_string());
        let ack = Just("\"ack\":5".to_string());
        let member = prop_oneof![2 => member, 1 => cmd, 1 => ack];
        let object = (prop::collection::vec(member, 0..6), "(,|, | ,)", "(|\\}|\\} |\\}\\})")
            .prop_map(|(members, comma, end)| format!("{{{}{end}", members.join(&comma)));
        let handed = ("(k|\\\\n|\"|\t|ü|)", 0u64..100, "(\\}\\}|\\}|,\\}\\}|)")
            .prop_map(|(key, seq, end)| format!("{HANDLE}\"{key}\",\"seq\":{seq}{end}"));
        prop_oneof![4 => object, 1 => handed]
    }

    proptest! {
        /// Whatever is read here, the parser would have read the same.
        #[test]
        fn it_never_differs_from_the_parser(line in nearly()) {
            if let Some(frame) = read(&line) {
                let parsed = parse_any(&line).map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert_eq!(format!("{frame:?}"), format!("{parsed:?}"));
            }
        }
    }
}
