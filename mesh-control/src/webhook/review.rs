//! The API server's question and our answer (`AdmissionReview`, admission.k8s.io/v1). Pure.

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The one version that is spoken.
const VERSION: &str = "admission.k8s.io/v1";
/// Longer warnings are cut by the API server, and more than 4096 characters of them not shown at all.
const WARNING_CHARS_MAX: usize = 256;
/// A refusal is shown to a person; a thousand problems are not read.
const PROBLEMS_SHOWN_MAX: usize = 30;

/// What is asked.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

/// What shall happen to which object.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    /// Names the question.
    pub(super) uid: String,
    /// What the object is.
    pub(super) kind: GroupVersionKind,
    /// Where it lives.
    #[serde(default)]
    pub(super) namespace: Option<String>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(default)]
    pub(super) operation: String,
    /// The object as it shall be; none when it is deleted.
    #[serde(default)]
    pub(super) object: Value,
    /// The object as it is; none when it is made.
    #[serde(default)]
    pub(super) old_object: Value,
}

/// A kind of objects.
#[derive(Deserialize, Debug, PartialEq, Eq)]
pub(super) struct GroupVersionKind {
    #[serde(default)]
    pub(super) group: String,
    #[serde(default)]
    pub(super) version: String,
    #[serde(default)]
    pub(super) kind: String,
}

impl GroupVersionKind {
    /// `apps/v1/Deployment`, for people.
    pub(super) fn text(&self) -> String {
        format!("{}/{}/{}", self.group, self.version, self.kind).trim_start_matches('/').to_owned()
    }
}

impl Request {
    /// Reads the body of a call.
    ///
    /// # Errors
    /// Says what it should be.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let review: Review = serde_json::from_slice(body).map_err(|error| {
            format!("the body is no AdmissionReview ({error}); only the API server asks here")
        })?;
        if review.api_version != VERSION || review.kind != "AdmissionReview" {
            let said: String = format!("{} {}", review.api_version, review.kind).chars().take(80).collect();
            return Err(format!("the body is {said:?}, and must be {VERSION} AdmissionReview"));
        }
        review.request.ok_or_else(|| "the AdmissionReview has no request".to_owned())
    }
}

/// What we say.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// As it is, or with these changes.
    Allowed {
        /// JSON Patch.
        operations: Vec<Value>,
        /// For the user.
        warnings: Vec<String>,
    },
    /// No.
    Denied {
        /// What is wrong, one each.
        problems: Vec<String>,
        /// For the user.
        warnings: Vec<String>,
    },
}

impl Answer {
    /// As it is.
    pub(super) fn unchanged() -> Self {
        Self::Allowed { operations: Vec::new(), warnings: Vec::new() }
    }

    /// No, for one reason.
    pub(super) fn denied(problem: impl Into<String>) -> Self {
        Self::Denied { problems: vec![problem.into()], warnings: Vec::new() }
    }

    /// The body of the answer to the question `uid`.
    pub(super) fn to_json(&self, uid: &str) -> String {
        let mut response = json!({"uid": uid});
        let warnings = match self {
            Self::Allowed { operations, warnings } => {
                put(&mut response, "allowed", true);
                if !operations.is_empty() {
                    put(&mut response, "patchType", "JSONPatch");
                    put(
                        &mut response,
                        "patch",
                        ByteString(Value::from(operations.clone()).to_string().into_bytes()),
                    );
                }
                warnings
            }
            Self::Denied { problems, warnings } => {
                put(&mut response, "allowed", false);
                let status = json!({"code": 422, "reason": "Invalid", "message": message(problems)});
                put(&mut response, "status", status);
                warnings
            }
        };
        if !warnings.is_empty() {
            put(&mut response, "warnings", warnings.iter().map(|text| cut(text)).collect::<Vec<_>>());
        }
        json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response}).to_string()
    }
}

fn put(object: &mut Value, field: &str, value: impl Serialize) {
    if let (Some(map), Ok(value)) = (object.as_object_mut(), serde_json::to_value(value)) {
        map.insert(field.to_owned(), value);
    }
}

fn message(problems: &[String]) -> String {
    let shown = problems.get(..PROBLEMS_SHOWN_MAX).unwrap_or(problems);
    let left = problems.len().saturating_sub(shown.len());
    let more = if left > 0 { format!("\n… and {left} more") } else { String::new() };
    format!("{}{more}", shown.join("\n"))
}

fn cut(text: &str) -> String {
    if text.chars().count() <= WARNING_CHARS_MAX {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(WARNING_CHARS_MAX.saturating_sub(1)).collect();
    short.push('…');
    short
}
