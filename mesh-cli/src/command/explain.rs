//! `meshctl explain`: why a call was, or would be, allowed or refused.

use crate::failure::{Exit, Failure};
use crate::output::{self, Tone};
use crate::replicas;
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  meshctl explain 7f3k9q2m8v1c0000            # a decision, by the id in x-mesh-decision
  meshctl explain web payments                # may web call payments at all?
  meshctl explain web payments POST /charge   # this request?
  meshctl explain shop/web shop/catalog POST /shop.v1.Catalog/List --protocol grpc
  meshctl explain web store --protocol tcp --port 7000
  meshctl explain web payments POST /charge --header 'x-tenant: blue'
  meshctl explain --denied                    # the latest refusals, with their ids

Exit code 3 when the call is refused.";

/// What `explain` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExplainArgs {
    /// A decision id; or who calls: a workload, NAMESPACE/NAME or a SPIFFE ID
    #[arg(value_name = "DECISION | FROM", required_unless_present = "denied")]
    from: Option<String>,
    /// Who is called: a workload or service
    to: Option<String>,
    /// The HTTP method
    method: Option<String>,
    /// The path, as the caller sends it
    path: Option<String>,
    /// The Host that the caller sends [default: the service's name]
    #[arg(long, requires = "to")]
    host: Option<String>,
    /// The port that is called [default: the service's first]
    #[arg(long, requires = "to", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// What is spoken: http1, http2, grpc, tls, tcp
    #[arg(long, requires = "to", value_parser = ["http1", "http2", "grpc", "tls", "tcp"])]
    protocol: Option<String>,
    /// A header that the caller sends. May be given several times
    #[arg(long = "header", value_name = "NAME: VALUE", requires = "to")]
    headers: Vec<String>,
    /// List the latest refusals instead
    #[arg(long, conflicts_with_all = ["from", "to"])]
    denied: bool,
    /// With --denied: how many at most
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
}

#[derive(Serialize)]
struct ExplanationOut {
    allowed: bool,
    reason: String,
    rules: Vec<RuleOut>,
    nearest_miss: String,
    patch: String,
    decision: Option<DecisionOut>,
    text: String,
}

#[derive(Serialize)]
struct RuleOut {
    policy: String,
    rule: String,
    file: String,
    line: u32,
    action: String,
    matched: bool,
    decided: bool,
    audit: bool,
    failed_condition: String,
}

#[derive(Serialize)]
struct Decisions {
    decisions: Vec<DecisionOut>,
}

/// One decision, as scripts see it.
#[derive(Serialize)]
pub(crate) struct DecisionOut {
    id: String,
    time: String,
    source: String,
    source_instance: String,
    source_ip: String,
    destination: String,
    destination_instance: String,
    port: u32,
    protocol: String,
    sni: String,
    host: String,
    method: String,
    path: String,
    allowed: bool,
    reason: String,
    rule: String,
    revision: u64,
    header_names: Vec<String>,
}

/// Explains one call, or lists refusals.
///
/// # Errors
/// An unknown decision, workload or service.
pub(crate) async fn run(args: ExplainArgs, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    if args.denied {
        let request = v1::DecisionsRequest { limit: args.limit, denied_only: true };
        let found = replicas::decisions(&client, request).await?;
        let decisions = Decisions { decisions: found.into_iter().map(DecisionOut::from).collect() };
        output::print_value(session.format, &decisions, || decisions_table(&decisions.decisions))?;
        return Ok(Exit::Done);
    }
    let response = replicas::explain(&client, to_request(args)?).await?;
    let explanation = ExplanationOut::from(response);
    output::print_value(session.format, &explanation, || text(&explanation))?;
    Ok(if explanation.allowed { Exit::Done } else { Exit::Bad })
}

fn to_request(args: ExplainArgs) -> Result<v1::ExplainRequest, Failure> {
    let from = args.from.unwrap_or_default();
    let Some(to) = args.to else {
        return Ok(v1::ExplainRequest { decision_id: from, ..Default::default() });
    };
    // `explain web payments /charge` is a likely slip.
    if let Some(method) = args.method.as_deref().filter(|method| method.starts_with('/')) {
        return Err(Failure::usage(format!("the method is missing before the path {method}"))
            .next(format!("meshctl explain {from} {to} GET {method}")));
    }
    if let Some(header) = args.headers.iter().find(|header| !header.contains(':')) {
        return Err(Failure::usage(format!("--header {header:?} is not \"NAME: VALUE\"")));
    }
    Ok(v1::ExplainRequest {
        decision_id: String::new(),
        from,
        to,
        method: args.method.unwrap_or_default(),
        path: args.path.unwrap_or_default(),
        host: args.host.unwrap_or_default(),
        port: args.port.map(u32::from).unwrap_or_default(),
        protocol: args.protocol.unwrap_or_default(),
        headers: args.headers,
    })
}

impl From<v1::ExplainResponse> for ExplanationOut {
    fn from(response: v1::ExplainResponse) -> Self {
        let v1::ExplainResponse { allowed, reason, text, rules, nearest_miss, patch, decision } = response;
        let rules = rules.into_iter().map(RuleOut::from).collect();
        Self { allowed, reason, rules, nearest_miss, patch, decision: decision.map(DecisionOut::from), text }
    }
}

impl From<v1::ExplainedRule> for RuleOut {
    fn from(rule: v1::ExplainedRule) -> Self {
        let v1::ExplainedRule { policy, rule, file, line, action, matched, decided, audit, failed_condition } =
            rule;
        Self { policy, rule, file, line, action, matched, decided, audit, failed_condition }
    }
}

impl From<v1::Decision> for DecisionOut {
    fn from(decision: v1::Decision) -> Self {
        let v1::Decision {
            id,
            time_ms,
            source,
            source_instance,
            source_ip,
            destination,
            destination_instance,
            port,
            protocol,
            sni,
            host,
            method,
            path,
            allowed,
            reason,
            rule,
            revision,
            header_names,
        } = decision;
        Self {
            id,
            time: output::time(time_ms),
            source,
            source_instance,
            source_ip,
            destination,
            destination_instance,
            port,
            protocol,
            sni,
            host,
            method,
            path,
            allowed,
            reason,
            rule,
            revision,
            header_names,
        }
    }
}

/// The control plane's own text, with its first line in colour.
fn text(explanation: &ExplanationOut) -> String {
    let text = output::clean_lines(&explanation.text);
    let tone = if explanation.allowed { Tone::Good } else { Tone::Bad };
    match text.split_once('\n') {
        Some((first, rest)) => format!("{}\n{rest}", output::paint(tone, first)),
        None => output::paint(tone, &text),
    }
}

fn decisions_table(decisions: &[DecisionOut]) -> String {
    if decisions.is_empty() {
        return "nothing was refused lately\n".to_owned();
    }
    let mut grid = output::Grid::new(&["DECISION", "TIME", "FROM", "TO", "WHAT", "REASON", "RULE"]);
    for decision in decisions {
        let what = match decision.method.as_str() {
            "" => format!("{} :{}", decision.protocol, decision.port),
            method => format!("{method} {}", decision.path),
        };
        grid.row([
            (Tone::Plain, decision.id.clone()),
            (Tone::Dim, decision.time.clone()),
            (Tone::Plain, super::edges::short(&decision.source)),
            (Tone::Plain, super::edges::short(&decision.destination)),
            (Tone::Plain, what),
            (Tone::Bad, decision.reason.clone()),
            (Tone::Plain, decision.rule.clone()),
        ]);
    }
    grid.to_text()
}
