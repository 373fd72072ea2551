//! Serves the dashboard on loopback: judges, asks the control plane, answers.
//!
//! Every answer has the headers of [`GUARDS`], so that a page can load nothing from elsewhere, be framed by nobody and tell
//! nobody where it is. A connection to the control plane that was lost, or whose session is over, is made again.

use super::door::{Door, Verdict};
use crate::admin_client::AdminClient;
use crate::failure::Failure;
use crate::output;
use crate::session::Session;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_proto::wire::v1;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// Connections at once: a browser opens six.
const CONNECTIONS_MAX: usize = 32;
/// Who has not sent its request by then is not a browser.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// An idle connection is closed; browsers open another.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);
/// The control plane answers within milliseconds, through a port-forward within tenths of a second.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What every answer says.
pub(crate) const GUARDS: [(&str, &str); 8] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];

/// What is served.
pub(crate) struct Relay {
    door: Door,
    session: Session,
    /// The connection in use; taken anew when it is lost.
    client: Mutex<AdminClient>,
}

impl Relay {
    /// Serves what `client` shows behind `door`.
    pub(crate) fn new(door: Door, session: Session, client: AdminClient) -> Self {
        Self { door, session, client: Mutex::new(client) }
    }

    /// Serves for ever; dropping it ends all connections.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
                continue;
            }
            let Ok((stream, _)) = listener.accept().await else {
                // No file left to open: not a matter of this connection.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let relay = self.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let relay = relay.clone();
                    async move { Ok::<_, Infallible>(relay.answer(request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_DEADLINE)
                    .max_buf_size(HEAD_BYTES_MAX)
                    .serve_connection(TokioIo::new(stream), service);
                // A browser that goes away is no event.
                let _ = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let base = self.door.base();
        let mut response = match self.door.judge(request.method(), request.uri(), request.headers()) {
            Verdict::Enter { cookie } => {
                self.print_next();
                self.entered(&cookie)
            }
            Verdict::Moved => {
                let mut moved = text(StatusCode::PERMANENT_REDIRECT, "The dashboard is one slash further.");
                set(&mut moved, "location", &format!("/{base}/"));
                moved
            }
            Verdict::Refused(refusal) => {
                let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::FORBIDDEN);
                text(status, refusal.text())
            }
            Verdict::Relay { path, query } => {
                let tag = request.headers().get("if-none-match").and_then(|value| value.to_str().ok());
                let tag = tag.unwrap_or_default().trim_matches('"').to_owned();
                match self.page(v1::PageRequest { path, query, tag }).await {
                    Ok(page) => shown(page),
                    Err(trouble) => failed(&trouble),
                }
            }
        };
        for (name, value) in GUARDS {
            response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        response
    }

    /// Sets the cookie and leads on. Not by a redirect: a browser that came from a file or another page would not send a
    /// strict cookie along with it.
    fn entered(&self, cookie: &str) -> Response<Full<Bytes>> {
        let place = format!("/{}/", self.door.base());
        let body = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>meshctl dashboard</title>\
             <link rel=\"icon\" href=\"{place}icon.svg\">\
             <p><a href=\"{place}\">To the dashboard</a></p></html>"
        );
        let mut response = Response::new(Full::new(Bytes::from(body)));
        set(&mut response, "content-type", "text/html; charset=utf-8");
        set(&mut response, "set-cookie", cookie);
        set(&mut response, "refresh", &format!("0; url={place}"));
        response
    }

    /// Another browser needs another secret.
    fn print_next(&self) {
        if let Some(address) = self.door.address() {
            output::note(&format!("opened by a browser; for another one: {address}"));
        }
    }

    /// Asks the control plane; once more over a new connection when the old one is good for nothing.
    async fn page(&self, request: v1::PageRequest) -> Result<v1::PageResponse, Trouble> {
        let client = self.client.lock().await.clone();
        match ask(&client, request.clone()).await {
            Err(status) if is_stale(&status) => {
                let client = self.renewed().await.map_err(|failure| Trouble {
                    status: Status::unavailable(failure.message),
                    next: failure.next.into_iter().next().unwrap_or_default(),
                })?;
                ask(&client, request).await.map_err(Trouble::from)
            }
            answer => answer.map_err(Trouble::from),
        }
    }

    async fn renewed(&self) -> Result<AdminClient, Failure> {
        // Others wait here and then renew once more: that is rare, and never wrong.
        let mut client = self.client.lock().await;
        let connecting = tokio::time::timeout(ANSWER_DEADLINE, self.session.connect()).await;
        let late = || Failure::failed("no control plane was reached in time").next("meshctl status");
        (*client, _) = connecting.unwrap_or_else(|_| Err(late()))?;
        Ok(client.clone())
    }
}

async fn ask(client: &AdminClient, request: v1::PageRequest) -> Result<v1::PageResponse, Status> {
    let mut api = client.api();
    let answer = tokio::time::timeout(ANSWER_DEADLINE, api.page(request)).await;
    let late = |_| Err(Status::deadline_exceeded("the control plane does not answer in time"));
    answer.unwrap_or_else(late).map(tonic::Response::into_inner)
}

/// Whether a new connection, or a new session, may help.
fn is_stale(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated | Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded
    )
}

fn shown(page: v1::PageResponse) -> Response<Full<Bytes>> {
    let v1::PageResponse { content_type, tag, unchanged, body, now_ms } = page;
    let mut response = Response::new(Full::new(Bytes::from(body)));
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        set(&mut response, "content-type", &content_type);
    }
    set(&mut response, "etag", &format!("\"{tag}\""));
    set(&mut response, "x-mesh-now", &now_ms.to_string());
    response
}

/// Why there is nothing to show, and what to type.
struct Trouble {
    status: Status,
    next: String,
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        let next = match status.code() {
            Code::NotFound | Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated => "",
            Code::Unimplemented => "meshctl version",
            _ => "meshctl status",
        };
        Self { status, next: next.to_owned() }
    }
}

/// A refusal of the control plane, or that there is none, as the page reads it.
fn failed(Trouble { status, next }: &Trouble) -> Response<Full<Bytes>> {
    let code = match status.code() {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::PermissionDenied | Code::Unauthenticated => StatusCode::FORBIDDEN,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::BAD_GATEWAY,
    };
    let message = match status.code() {
        Code::Unimplemented => "the control plane is of another release and has no dashboard",
        Code::Unknown | Code::Cancelled => "the control plane went away",
        _ => status.message(),
    };
    let body = serde_json::json!({ "error": message, "next": next }).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    set(&mut response, "content-type", "application/json");
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    set(&mut response, "content-type", "text/plain; charset=utf-8");
    if status == StatusCode::METHOD_NOT_ALLOWED {
        set(&mut response, "allow", "GET");
    }
    response
}

/// Sets a header; a value that cannot be one (only a control plane of another mind sends such) is left out.
fn set(response: &mut Response<Full<Bytes>>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}
