//! Callers that mean harm, at the level of frames: each is ended with ENHANCE_YOUR_CALM and costs nobody else.

use mesh_proxy::http::Limits;
use mesh_proxy::http::bodies::Bodies;
use mesh_proxy::http::h2pump::Connection;
use mesh_proxy::refusal::Refusal;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ENHANCE_YOUR_CALM: u32 = 0xb;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// `:method GET`, `:scheme http`, `:path /`, `:authority a` by HPACK (RFC 7541).
const HEAD: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

/// Serves one connection: accepted streams are dropped. Returns how it ended and how many streams there were.
async fn serve(io: DuplexStream) -> (Option<Refusal>, usize) {
    let limits = Limits::default();
    let mut connection = match Connection::open(io, Vec::new(), &limits, &Bodies::new(1 << 20)).await {
        Ok(connection) => connection,
        Err(refusal) => return (Some(refusal), 0),
    };
    let mut streams = 0;
    loop {
        match connection.accept().await {
            Ok(Some(_)) => streams += 1,
            Ok(None) => return (None, streams),
            Err(refusal) => return (Some(refusal), streams),
        }
    }
}

/// Sends a preface, empty settings and `attack`, reads to the end; gives the code of the last GOAWAY.
async fn attack(bytes: Vec<u8>) -> (Option<u32>, Option<Refusal>, usize) {
    let (near, far) = duplex(1 << 16);
    let (mut reader, mut writer) = tokio::io::split(near);
    let sending = async move {
        let mut all = PREFACE.to_vec();
        all.extend(frame(SETTINGS, 0, 0, &[]));
        all.extend(bytes);
        let _ = writer.write_all(&all).await;
        writer
    };
    let reading = async move {
        let mut seen = Vec::new();
        let _ = reader.read_to_end(&mut seen).await;
        seen
    };
    let (_writer, seen, (refusal, streams)) = tokio::join!(sending, reading, serve(far));
    (goaway(&seen), refusal, streams)
}

fn goaway(mut seen: &[u8]) -> Option<u32> {
    let mut code = None;
    while seen.len() >= 9 {
        let length = u32::from_be_bytes([0, seen[0], seen[1], seen[2]]) as usize;
        if seen[3] == GOAWAY && seen.len() >= 17 {
            code = Some(u32::from_be_bytes([seen[13], seen[14], seen[15], seen[16]]));
        }
        seen = seen.get(9 + length..).unwrap_or_default();
    }
    code
}

#[tokio::test(start_paused = true)]
async fn floods_of_free_frames_are_ended() {
    let open = frame(HEADERS, 0x4, 1, HEAD);
    let attacks: [(&str, Vec<u8>, Vec<u8>); 6] = [
        ("ping", vec![], frame(PING, 0, 0, &[0; 8])),
        ("settings", vec![], frame(SETTINGS, 0, 0, &[])),
        ("priority", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ("window update", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("unknown", vec![], frame(0x77, 0, 0, &[])),
        ("empty data", open, frame(DATA, 0, 1, &[])),
    ];
    for (name, mut bytes, one) in attacks {
        bytes.extend(one.repeat(20_000));
        let (code, refusal, _) = attack(bytes).await;
        assert_eq!((code, refusal), (Some(ENHANCE_YOUR_CALM), Some(Refusal::Overloaded)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn rapid_resets_are_ended_after_few_streams() {
    let mut bytes = Vec::new();
    for stream in (1..40_000).step_by(2) {
        bytes.extend(frame(HEADERS, 0x5, stream, HEAD));
        bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    let (code, refusal, streams) = attack(bytes).await;
    assert_eq!((code, refusal), (Some(ENHANCE_YOUR_CALM), Some(Refusal::Overloaded)));
    assert!(streams < 1000, "{streams}");
}

#[tokio::test(start_paused = true)]
async fn resets_that_the_peer_provokes_are_ended_too() {
    // A declared length without a body is malformed, which we must answer with a reset (RFC 9113, section 8.1.1).
    let head = [HEAD, &[0x0f, 0x0d, 1, b'1']].concat();
    let mut bytes = Vec::new();
    for stream in (1..40_000).step_by(2) {
        bytes.extend(frame(HEADERS, 0x5, stream, &head));
    }
    let (code, refusal, streams) = attack(bytes).await;
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    assert_eq!(refusal, Some(Refusal::Overloaded));
    assert!(streams < 2000, "{streams}");
}

#[tokio::test(start_paused = true)]
async fn a_header_block_that_never_ends_is_ended() {
    let mut endless = frame(HEADERS, 0x1, 1, HEAD);
    endless.extend(frame(CONTINUATION, 0, 1, &[]).repeat(20_000));
    let (_, refusal, streams) = attack(endless).await;
    assert_eq!((refusal, streams), (Some(Refusal::Overloaded), 0));
    // Silence after its first frame: the header deadline.
    let before = tokio::time::Instant::now();
    let (code, refusal, streams) = attack(frame(HEADERS, 0x1, 1, HEAD)).await;
    assert_eq!((code, refusal, streams), (Some(ENHANCE_YOUR_CALM), Some(Refusal::Overloaded), 0));
    assert!(before.elapsed() < Limits::default().header_timeout * 2);
}

#[tokio::test(start_paused = true)]
async fn a_header_list_beyond_its_limit_reaches_nobody() {
    // One field of 4 KiB, put into the dynamic table once, then named by one byte: amplification.
    let mut block = HEAD.to_vec();
    let value = vec![b'x'; 3900];
    block.extend([0x40, 1, b'a', 0x7f]);
    let mut rest = value.len() - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
    block.extend(value);
    block.extend(vec![0xbe; 2000]);
    let mut bytes = Vec::new();
    for stream in (1..201).step_by(2) {
        bytes.extend(frame(HEADERS, 0x5, stream, if stream == 1 { &block } else { &block[..6] }));
    }
    bytes.extend(frame(GOAWAY, 0, 0, &[0; 8]));
    let (_, _, streams) = attack(bytes).await;
    assert!(streams <= 99, "the bloated request was accepted: {streams}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_streams_ends_after_its_idle_time() {
    let before = tokio::time::Instant::now();
    let (code, refusal, _) = attack(Vec::new()).await;
    assert_eq!((code, refusal), (Some(0), None));
    assert!(before.elapsed() < Limits::default().idle_timeout * 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http2_is_refused() {
    for bytes in
        [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".as_slice(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx", b"PRI * HT"]
    {
        let (near, far) = duplex(1 << 16);
        let (_reader, mut writer) = tokio::io::split(near);
        writer.write_all(bytes).await.unwrap();
        let (refusal, _) = serve(far).await;
        assert!(matches!(refusal, Some(Refusal::WrongProtocol | Refusal::RequestTimeout)), "{refusal:?}");
    }
}
