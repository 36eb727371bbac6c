//! The channel's frames as Node, Bun and Deno send them, as we send them, and as nobody should.

use super::*;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use proptest::prelude::*;
use serde_json::json;
use std::{assert_eq, panic, vec};

/// What comes out of some bytes: each frame as text, and the error if there is one.
type Outcome = (Vec<String>, Option<WireError>);

fn drain(decoder: &mut Decoder, out: &mut Outcome) {
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => out.0.push(format!("{frame:?}")),
            Ok(None) => return,
            Err(error) => {
                assert!(out.1.is_none() || out.1.as_ref() == Some(&error), "broken stays broken");
                out.1 = Some(error);
                return;
            }
        }
    }
}

/// Feeds the pieces one after the other.
fn outcome<'a>(max_line: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::new(max_line);
    let mut out = (Vec::new(), None);
    for piece in pieces {
        decoder.feed(piece);
        drain(&mut decoder, &mut out);
    }
    out
}

fn try_one(line: &str) -> Result<Frame, WireError> {
    let mut decoder = Decoder::new(DEFAULT_MAX_LINE);
    decoder.feed(line.as_bytes());
    decoder.feed(b"\n");
    let frame = decoder.next_frame()?.expect("a whole line is a frame");
    assert!(matches!(decoder.next_frame(), Ok(None)), "one line is one frame");
    Ok(frame)
}

fn one(line: &str) -> Frame {
    try_one(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn cluster(line: &str) -> Cluster {
    match one(line) {
        Frame::Cluster(cluster) => cluster,
        other => panic!("{line} is {other:?}"),
    }
}

fn handle(line: &str) -> Handle {
    match one(line) {
        Frame::Handle(handle) => handle,
        other => panic!("{line} is {other:?}"),
    }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.into()).expect("JSON")
}

fn query(fields: &str) -> Query {
    let line = format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","seq":1,{fields}}}"#);
    match cluster(&line) {
        Cluster { seq: Some(1), ack: None, act: Act::QueryServer(query) } => query,
        other => panic!("{line} is {other:?}"),
    }
}

#[test]
fn the_queries_that_node_sends() {
    let any = Query { port: Some(18000), backlog: Some(0), ..Query::default() };
    let local = Query { address: Some("127.0.0.1".into()), ..any.clone() };
    let cases = [
        (
            r#""index":0,"data":null,"address":null,"port":18000,"addressType":4,"backlog":0"#,
            any.clone(),
        ),
        (
            r#""index":0,"data":null,"address":null,"port":18000,"addressType":4,"flags":0,"backlog":0"#,
            any.clone(),
        ),
        (
            r#""index":0,"data":null,"address":"127.0.0.1","port":18000,"addressType":4,"flags":null,"backlog":false"#,
            Query { backlog: None, ..local },
        ),
        (
            r#""index":2,"data":null,"address":"::1","port":0,"addressType":6,"flags":1,"backlog":33"#,
            Query {
                index: 2,
                address: Some("::1".into()),
                port: Some(0),
                address_type: AddressType::Tcp6,
                flags: 1,
                backlog: Some(33),
                ..Query::default()
            },
        ),
        (
            r#""index":0,"data":null,"address":"/a.sock","port":-1,"addressType":-1,"backlog":0,"readableAll":true,"writableAll":true"#,
            Query {
                address: Some("/a.sock".into()),
                port: Some(-1),
                address_type: AddressType::Unix,
                backlog: Some(0),
                readable_all: true,
                writable_all: true,
                ..Query::default()
            },
        ),
        (
            r#""index":0,"data":null,"address":null,"port":null,"addressType":null,"fd":27,"backlog":0"#,
            Query {
                address_type: AddressType::Descriptor,
                fd: Some(27),
                backlog: Some(0),
                ..Query::default()
            },
        ),
        (
            r#""index":0,"data":null,"address":"127.0.0.1","port":18013,"addressType":"udp4","fd":-1,"flags":4"#,
            Query {
                address: Some("127.0.0.1".into()),
                port: Some(18013),
                address_type: AddressType::Udp4,
                flags: 4,
                ..Query::default()
            },
        ),
        (
            r#""index":0,"data":null,"address":"::","addressType":"udp6","fd":null,"flags":0"#,
            Query {
                address: Some("::".into()),
                address_type: AddressType::Udp6,
                ..Query::default()
            },
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(query(fields), expected, "{fields}");
    }
    let tls = query(r#""index":0,"data":{"ticketKeys":"00ff"},"port":443,"addressType":4"#);
    assert_eq!(tls.data, json!({ "ticketKeys": "00ff" }));
}

#[test]
fn our_own_workers_ask_for_more() {
    let query = query(
        r#""addressType":4,"port":1,"phalanx":{"policy":"direct","mode":384,"slot_only":true,"later":[]}"#,
    );
    let extras = Extras { policy: Some("direct".into()), mode: Some(0o600), slot_only: true };
    assert_eq!(query.extras, extras);
}

#[test]
fn the_other_acts() {
    let node = |rest: &str| cluster(&format!(r#"{{"cmd":"NODE_CLUSTER",{rest}}}"#));
    let act = |act| Cluster { seq: Some(3), ack: None, act };
    assert_eq!(node(r#""act":"online","seq":3"#), act(Act::Online));
    assert_eq!(node(r#""act":"close","key":"k","seq":3"#), act(Act::Close { key: "k".into() }));
    assert_eq!(node(r#""act":"exitedAfterDisconnect","seq":3"#), act(Act::ExitedAfterDisconnect));
    assert_eq!(node(r#""act":"disconnect","seq":3"#), act(Act::Disconnect));
    assert_eq!(node(r#""act":"newconn","key":"k","seq":3"#), act(Act::NewConn { key: "k".into() }));
    assert_eq!(node(r#""act":"dance","steps":[1],"seq":3"#), act(Act::Other));
    assert_eq!(node(r#""nothing":0,"seq":3"#), act(Act::Other));
    // What is not known is not looked at.
    assert_eq!(node(r#""act":"online","seq":3,"x":{"y":[1e999]}"#), act(Act::Online));
    let Act::Listening(query) = node(r#""act":"listening","port":8000,"addressType":4"#).act else {
        panic!("a listener")
    };
    assert_eq!((query.port, query.address_type), (Some(8000), AddressType::Tcp4));
}

#[test]
fn the_answers() {
    let node = |rest: &str| {
        let frame = cluster(&format!(r#"{{"cmd":"NODE_CLUSTER","ack":7,"seq":1,{rest}}}"#));
        assert_eq!((frame.seq, frame.ack), (Some(1), Some(7)));
        match frame.act {
            Act::Answer(answer) => answer,
            other => panic!("{other:?} is no answer"),
        }
    };
    assert_eq!(
        node(
            r#""errno":null,"key":"k","data":null,"sockname":{"address":"::1","family":"IPv6","port":80}"#
        ),
        Answer {
            key: Some("k".into()),
            sockname: Some(SockName { address: "::1".into(), family: "IPv6".into(), port: 80 }),
            ..Answer::default()
        }
    );
    let shared = node(r#""errno":0,"key":"k","data":{"a":1}"#);
    assert_eq!((shared.errno, shared.data), (Some(0), json!({ "a": 1 })));
    assert_eq!(node(r#""errno":-98,"key":"k","data":null"#).errno, Some(-98));
    assert_eq!(node(r#""accepted":false"#).accepted, Some(false));
    let accepted = node(r#""accepted":true,"open":12"#);
    assert_eq!((accepted.accepted, accepted.open), (Some(true), Some(12)));
    assert_eq!(node(r#""key":null"#), Answer::default());
}

#[test]
fn handles_and_what_comes_with_them() {
    let connection = handle(
        r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","act":"newconn","key":"k","seq":1}}"#,
    );
    assert_eq!((connection.kind, connection.key), (HandleKind::Native, None));
    let Frame::Cluster(Cluster { act: Act::NewConn { key }, .. }) = *connection.message else {
        panic!("a connection")
    };
    assert_eq!(key, "k");

    let kinds = [
        (r#""type":"dgram.Native""#, HandleKind::DgramNative),
        (r#""type":"net.Socket""#, HandleKind::Socket),
        (r#""type":"net.Server""#, HandleKind::Server),
        (r#""type":"dgram.Socket","dgramType":"udp4""#, HandleKind::Dgram4),
        (r#""type":"dgram.Socket","dgramType":"udp6""#, HandleKind::Dgram6),
        (r#""type":"net.BoundSocket""#, HandleKind::Other),
        (r#""type":null"#, HandleKind::Other),
        (r#""more":[]"#, HandleKind::Other),
    ];
    for (fields, kind) in kinds {
        let found = handle(&format!(r#"{{"cmd":"NODE_HANDLE",{fields},"key":"k","msg":[1]}}"#));
        assert_eq!((found.kind, found.key.as_deref()), (kind, Some("k")), "{fields}");
        assert!(matches!(*found.message, Frame::User(raw) if raw.get() == "[1]"));
    }
    for none in [r#"{"cmd":"NODE_HANDLE"}"#, r#"{"cmd":"NODE_HANDLE","msg":null}"#] {
        assert!(matches!(*handle(none).message, Frame::User(raw) if raw.get() == "null"));
    }
}

#[test]
fn a_handle_that_is_sent_again_is_unwrapped() {
    let again = handle(
        r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_HANDLE","type":"net.Socket","key":"k","msg":"hi"}}"#,
    );
    assert_eq!((again.kind, again.key.as_deref()), (HandleKind::Socket, Some("k")));
    assert!(matches!(*again.message, Frame::User(raw) if raw.get() == "\"hi\""));
    // Without end, it ends somewhere, and not in the stack.
    let mut line = String::from("0");
    for _ in 0..10_000 {
        line = format!(r#"{{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{line}}}"#);
        if line.len() > 200_000 {
            break;
        }
    }
    assert!(matches!(try_one(&line), Ok(Frame::Handle(_)) | Err(_)));
}

#[test]
fn the_short_frames() {
    assert!(matches!(one(r#"{"cmd":"NODE_HANDLE_ACK"}"#), Frame::HandleAck));
    assert!(matches!(one(r#"{"cmd":"NODE_HANDLE_NACK"}"#), Frame::HandleNack));
    let note = |name: &str, rest: &str| match one(&format!(r#"{{"cmd":"{name}"{rest}}}"#)) {
        Frame::Socket(note) => note,
        other => panic!("{other:?}"),
    };
    let key = || String::from("4::80");
    let close = note("NODE_SOCKET_NOTIFY_CLOSE", r#","key":"4::80""#);
    assert_eq!(close, SocketNote::NotifyClose(key()));
    assert_eq!(note("NODE_SOCKET_ALL_CLOSED", r#","key":"4::80""#), SocketNote::AllClosed(key()));
    assert_eq!(note("NODE_SOCKET_GET_COUNT", r#","key":"4::80""#), SocketNote::GetCount(key()));
    assert_eq!(
        note("NODE_SOCKET_COUNT", r#","key":"4::80","count":3"#),
        SocketNote::Count(key(), 3)
    );
    assert_eq!(note("NODE_SOCKET_GET_COUNT", ""), SocketNote::GetCount(String::new()));
    assert!(matches!(one(r#"{"cmd":"NODE_X"}"#), Frame::Unknown(cmd) if cmd == "NODE_X"));
    assert!(matches!(one(r#"{"cmd":"NODE_DEBUG_ENABLED","a":[]}"#), Frame::Unknown(_)));
}

#[test]
fn dialects() {
    let bun = cluster("\u{2}{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}");
    assert_eq!(bun, Cluster { seq: Some(0), ack: None, act: Act::Online });
    let bun = cluster(
        "\u{2}{\"cmd\":\"NODE_CLUSTER\",\"act\":\"listening\",\"port\":80,\"data\":null,\"address\":null,\"addressType\":4}",
    );
    assert!(matches!(bun, Cluster { seq: None, act: Act::Listening(_), .. }));
    assert!(matches!(one("{\"cmd\":\"NODE_HANDLE_ACK\"}\r"), Frame::HandleAck));
    assert!(matches!(one(" \t{\"a\": 1 } \r"), Frame::User(raw) if raw.get() == "{\"a\": 1 }"));
}

#[test]
fn every_json_value_is_a_message() {
    let values = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1.5e-3",
        "1e999",
        "-1e999",
        "\"\"",
        "\"a\"",
        "[]",
        "{}",
        "123456789012345678901234567890",
        "[1e999]",
        "{\"n\":1e999}",
        "{\"cmd\":1e999}",
        // Halves of surrogate pairs, as `JSON.stringify` writes them.
        r#""\ud83d""#,
        r#"["\udc00"]"#,
        r#"{"\ud83d":1}"#,
        r#"{"cmd":"\ud83d"}"#,
        // Not internal: too short, the wrong case, the wrong type, not at the top, overruled.
        r#"{"cmd":"NODE_"}"#,
        r#"{"cmd":"node_cluster"}"#,
        r#"{"cmd":" NODE_CLUSTER"}"#,
        r#"{"cmd":["NODE_CLUSTER"]}"#,
        r#"{"cmd":{"cmd":"NODE_CLUSTER"}}"#,
        r#"{"cmd":null}"#,
        r#"{"a":{"cmd":"NODE_CLUSTER"}}"#,
        r#"[{"cmd":"NODE_CLUSTER"}]"#,
        "\"NODE_CLUSTER\"",
        r#"{"cmd":"NODE_CLUSTER","cmd":"mine"}"#,
        r#"{"cmd":"NODE_CLUSTER","cmd":0}"#,
        r#"{"Cmd":"NODE_CLUSTER"}"#,
    ];
    for value in values {
        let frame = one(value);
        assert!(matches!(&frame, Frame::User(raw) if raw.get() == value), "{value} is {frame:?}");
        let sent = encode_user(&raw(value)).expect("no reserved message");
        assert_eq!(sent, format!("{value}\n").into_bytes());
    }
}

#[test]
fn deep_nesting_is_no_danger() {
    let deep =
        |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let values = [deep("[", "]"), deep("{\"a\":", "}").replace(":}", ":0}"), "[".repeat(100_000)];
    for value in &values {
        let frames = [
            value.clone(),
            format!(r#"{{"cmd":{value}}}"#),
            format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","data":{value}}}"#),
            format!(r#"{{"cmd":"NODE_CLUSTER","act":"online","x":{value}}}"#),
            format!(r#"{{"cmd":"NODE_HANDLE","msg":{value}}}"#),
            format!(r#"{{"cmd":"NODE_X","msg":{value}}}"#),
        ];
        for line in frames {
            let _ = try_one(&line);
        }
        if let Ok(value) = RawValue::from_string(value.clone()) {
            assert!(encode_user(&value).is_ok());
        }
    }
    assert!(matches!(one(&values[0]), Frame::User(_)), "Node takes it, and so do we");
}

#[test]
fn what_is_no_frame_breaks_the_channel_for_good() {
    let cases: [&[u8]; 8] = [
        b"\n",
        b"{\n",
        b"{} {}\n",
        b"NaN\n",
        b"\xff\xfe\n",
        b"{\"cmd\":\"NODE_CLUSTER\",\"seq\":\"one\"}\n",
        b"{\"cmd\":\"NODE_CLUSTER\",\"addressType\":5}\n",
        b"{\"cmd\":\"NODE_HANDLE\",\"type\":5}\n",
    ];
    for bytes in cases {
        let mut decoder = Decoder::new(100);
        decoder.feed(b"1\n");
        decoder.feed(bytes);
        assert!(
            matches!(decoder.next_frame(), Ok(Some(Frame::User(_)))),
            "what came before counts"
        );
        let error = decoder.next_frame().expect_err("no frame");
        assert!(!error.to_string().is_empty());
        decoder.feed(b"1\n");
        assert_eq!(decoder.next_frame().expect_err("still broken"), error);
        assert_eq!(decoder.unfinished(), 0, "a broken decoder holds nothing");
    }
}

#[test]
fn a_line_over_the_bound_is_an_error_in_bounded_memory() {
    let mut decoder = Decoder::new(1000);
    for _ in 0..100 {
        decoder.feed(&[b'1'; 100]);
        let _ = decoder.next_frame();
        assert!(decoder.unfinished() <= 1100, "{} bytes are held", decoder.unfinished());
    }
    assert_eq!(decoder.next_frame().expect_err("too long"), WireError::TooLong { limit: 1000 });
    decoder.feed(b"\n1\n");
    assert_eq!(decoder.next_frame().expect_err("for good"), WireError::TooLong { limit: 1000 });

    let exactly = [vec![b'1'; 1000], vec![b'\n']].concat();
    assert_eq!(outcome(1000, [exactly.as_slice()]).1, None, "the bound itself is allowed");
    assert_eq!(outcome(999, [exactly.as_slice()]).1, Some(WireError::TooLong { limit: 999 }));
}

#[test]
fn the_memory_of_a_long_line_is_given_back() {
    let mut decoder = Decoder::new(DEFAULT_MAX_LINE);
    let mut line = b"\"".to_vec();
    line.resize(1 << 20, b'x');
    line.extend(b"\"\n1");
    for piece in line.chunks(1 << 16) {
        assert!(decoder.next_frame().expect("no error").is_none());
        decoder.feed(piece);
    }
    assert!(
        matches!(decoder.next_frame(), Ok(Some(Frame::User(text))) if text.get().len() == (1 << 20) + 1)
    );
    // Something of the next line is there: what is kept with it is bounded by the next piece.
    assert!(decoder.next_frame().expect("no error").is_none());
    decoder.feed(b"\n");
    assert!(matches!(decoder.next_frame(), Ok(Some(Frame::User(text))) if text.get() == "1"));
    assert!(decoder.next_frame().expect("no error").is_none());
    assert!(decoder.held() <= 4 << 10, "{} bytes are held", decoder.held());
}

#[test]
fn a_long_stream_of_lines_is_not_kept() {
    let mut decoder = Decoder::new(DEFAULT_MAX_LINE);
    let line = [b"\"".as_slice(), &[b'x'; 1000], b"\"\n"].concat();
    for _ in 0..3000 {
        decoder.feed(&line);
        // Always a little of the next one, so that the buffer is never empty.
        decoder.feed(b" ");
        while let Ok(Some(_)) = decoder.next_frame() {}
        assert_eq!(decoder.unfinished(), 1);
        assert!(decoder.held() < 4 << 20, "{} bytes are held", decoder.held());
    }
}

#[test]
fn raw_line_ends_in_a_message_become_white_space() {
    let message = raw("{\n  \"a\": [\r\n1,\n2]\n}");
    let sent = encode_user(&message).expect("a plain message");
    assert_eq!(sent, b"{   \"a\": [\r 1, 2] }\n");
    let carried = Frame::Handle(Handle {
        kind: HandleKind::Socket,
        key: None,
        message: Box::new(Frame::User(message)),
    });
    for bytes in [sent, carried.encode()] {
        assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1, "one line");
        let (frames, error) = outcome(1000, [bytes.as_slice()]);
        assert_eq!((frames.len(), error), (1, None));
    }
}

#[test]
fn reserved_messages_are_refused() {
    let reserved = [
        r#"{"cmd":"NODE_CLUSTER"}"#,
        r#"{"cmd":"NODE_X","a":1}"#,
        r#"{"a":{},"cmd":"NODE_HANDLE"}"#,
        r#"{ "cmd" : "NODE_CLUSTER" }"#,
        r#"{"cmd":"NODE_\u0043LUSTER"}"#,
        r#"{"cmd":"\u004eODE_CLUSTER"}"#,
        r#"{"c\u006dd":"NODE_CLUSTER"}"#,
        r#"{"\u0063\u006d\u0064":"\u004e\u004f\u0044\u0045\u005f\u0058"}"#,
        r#"{"cmd":"mine","cmd":"NODE_CLUSTER"}"#,
        // What a strict reader chokes on, JavaScript reads.
        r#"{"\ud800":1,"cmd":"NODE_CLUSTER"}"#,
        r#"{"a":"\udfff","c\u006dd":"NODE_CLUSTER"}"#,
        r#"{"a":1e999,"cmd":"NODE_CLUSTER"}"#,
        r#"{"cmd":"NODE_\ud800"}"#,
    ];
    for text in reserved {
        let message = raw(text);
        let refused = encode_user(&message);
        assert!(matches!(refused, Err(WireError::Reserved { .. })), "{text}: {refused:?}");
        assert!(is_reserved(&message).is_some_and(|cmd| cmd.starts_with("NODE_")));
        // And who receives it all the same does not take it for a message.
        assert!(!matches!(try_one(text), Ok(Frame::User(_))), "{text}");
    }
}

#[test]
fn a_ping_is_a_handle_without_one() {
    let text = String::from_utf8(Frame::ping().encode()).expect("UTF-8");
    assert!(matches!(*handle(text.trim_end()).message, Frame::User(raw) if raw.get() == "{}"));
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9:/._]{0,12}", any::<String>()]
}

/// Any JSON, as the decoder gives `data` back.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((text(), inner), 0..3)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn a_query() -> impl Strategy<Value = Query> {
    let extras = (prop::option::of(text()), prop::option::of(any::<u32>()), any::<bool>())
        .prop_map(|(policy, mode, slot_only)| Extras { policy, mode, slot_only });
    let address_type = prop::sample::select(vec![
        AddressType::Tcp4,
        AddressType::Tcp6,
        AddressType::Unix,
        AddressType::Udp4,
        AddressType::Udp6,
        AddressType::Descriptor,
    ]);
    let numbers = (
        any::<i64>(),
        prop::option::of(any::<i64>()),
        prop::option::of(0..i64::MAX),
        any::<i64>(),
        prop::option::of(any::<i64>()),
    );
    (numbers, value(), prop::option::of(text()), address_type, any::<[bool; 2]>(), extras).prop_map(
        |((index, port, fd, flags, backlog), data, address, address_type, all, extras)| {
            let unix = address_type == AddressType::Unix;
            Query {
                index,
                data,
                address,
                port,
                address_type,
                fd,
                flags,
                backlog,
                readable_all: unix && all[0],
                writable_all: unix && all[1],
                extras,
            }
        },
    )
}

fn an_answer() -> impl Strategy<Value = Answer> {
    let sockname = (text(), text(), any::<u16>()).prop_map(|(address, family, port)| SockName {
        address,
        family,
        port,
    });
    prop_oneof![
        (prop::option::of(any::<i32>()), text(), value(), prop::option::of(sockname)).prop_map(
            |(errno, key, data, sockname)| Answer {
                errno,
                key: Some(key),
                data,
                sockname,
                ..Answer::default()
            }
        ),
        any::<i32>().prop_map(|errno| Answer { errno: Some(errno), ..Answer::default() }),
        (any::<bool>(), prop::option::of(any::<u32>())).prop_map(|(accepted, open)| Answer {
            accepted: Some(accepted),
            open,
            ..Answer::default()
        }),
        Just(Answer::default()),
    ]
}

fn a_cluster() -> impl Strategy<Value = Frame> {
    let act = prop_oneof![
        Just(Act::Online),
        a_query().prop_map(Act::QueryServer),
        a_query().prop_map(Act::Listening),
        text().prop_map(|key| Act::Close { key }),
        Just(Act::ExitedAfterDisconnect),
        text().prop_map(|key| Act::NewConn { key }),
        Just(Act::Disconnect),
    ];
    let numbered = (prop::option::of(any::<u64>()), prop::option::of(any::<u64>()), act)
        .prop_map(|(seq, ack, act)| Cluster { seq, ack, act });
    let answer = (prop::option::of(any::<u64>()), any::<u64>(), an_answer())
        .prop_map(|(seq, ack, answer)| Cluster { seq, ack: Some(ack), act: Act::Answer(answer) });
    prop_oneof![numbered, answer].prop_map(Frame::Cluster)
}

fn a_message() -> impl Strategy<Value = Frame> {
    value().prop_filter_map("reserved", |value| {
        let raw = raw(&value.to_string());
        is_reserved(&raw).is_none().then_some(Frame::User(raw))
    })
}

fn a_frame() -> impl Strategy<Value = Frame> {
    let note = (text(), any::<u64>(), 0..4).prop_map(|(key, count, which)| match which {
        0 => SocketNote::NotifyClose(key),
        1 => SocketNote::AllClosed(key),
        2 => SocketNote::GetCount(key),
        _ => SocketNote::Count(key, count),
    });
    let kind = prop::sample::select(vec![
        HandleKind::Native,
        HandleKind::DgramNative,
        HandleKind::Socket,
        HandleKind::Server,
        HandleKind::Dgram4,
        HandleKind::Dgram6,
    ]);
    let handle = (kind, prop::option::of(text()), prop_oneof![a_cluster(), a_message()]).prop_map(
        |(kind, key, message)| Frame::Handle(Handle { kind, key, message: Box::new(message) }),
    );
    prop_oneof![
        a_cluster(),
        handle,
        note.prop_map(Frame::Socket),
        Just(Frame::HandleAck),
        Just(Frame::HandleNack),
        "NODE_[XYZ]{1,9}".prop_map(Frame::Unknown),
        a_message(),
    ]
}

/// Bytes in which lines, near-lines and noise are likely.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        "\"",
        ":",
        ",",
        "\n",
        "\r\n",
        "\\",
        "\\u00",
        "\\ud800",
        "1",
        "-",
        "1e999",
        "null",
        "\"cmd\"",
        "\"NODE_CLUSTER\"",
        "\"NODE_HANDLE\"",
        "\"NODE_HANDLE_ACK\"",
        "\"msg\"",
        "{\"cmd\":\"NODE_HANDLE_ACK\"}\n",
        "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"",
        "\"seq\":1",
        "\u{2}",
        "queryServer",
        "[]\n",
        "\"é\"\n",
    ]);
    let piece = prop_oneof![
        8 => word.prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// The same bytes, cut at the given places.
fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(frame in a_frame()) {
        let bytes = frame.encode();
        let expected = (vec![format!("{frame:?}")], None);
        prop_assert_eq!(outcome(DEFAULT_MAX_LINE, [bytes.as_slice()]), expected);
    }

    #[test]
    fn any_bytes_in_any_pieces_give_the_same(
        bytes in noise(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        max_line in prop_oneof![0usize..80, Just(DEFAULT_MAX_LINE)],
    ) {
        let at_once = outcome(max_line, [bytes.as_slice()]);
        prop_assert_eq!(&outcome(max_line, cut(&bytes, &cuts)), &at_once);
        prop_assert_eq!(&outcome(max_line, bytes.chunks(1)), &at_once);
    }

    #[test]
    fn any_frames_in_any_pieces_come_out_the_same(
        frames in prop::collection::vec(a_frame(), 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let expected: Vec<String> = frames.iter().map(|frame| format!("{frame:?}")).collect();
        prop_assert_eq!(outcome(DEFAULT_MAX_LINE, cut(&bytes, &cuts)), (expected, None));
    }

    /// Whoever passes a message through never lets one of the channel's own frames out.
    #[test]
    fn what_we_let_out_is_a_message(text in noise()) {
        let Ok(text) = String::from_utf8(text) else { return Ok(()) };
        let Ok(message) = RawValue::from_string(text) else { return Ok(()) };
        if let Ok(line) = encode_user(&message) {
            let mut decoder = Decoder::new(DEFAULT_MAX_LINE);
            decoder.feed(&line);
            prop_assert!(matches!(decoder.next_frame(), Ok(Some(Frame::User(_)))));
        }
    }
}
