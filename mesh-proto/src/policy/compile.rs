//! Arranges policies for evaluation.

use super::evaluate::RuleRef;
use super::model::{Action, Mode, PolicyInputs, PolicyName, Scope};
use crate::name::Port;

/// Everything that decides who may call one workload, arranged for evaluation. Immutable.
#[derive(Debug)]
pub struct PolicySet {
    pub(super) inputs: PolicyInputs,
}

/// Which rule a [`RuleRef`] means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleDescription<'a> {
    /// Its policy.
    pub policy: &'a PolicyName,
    /// Its name, or `rule N`.
    pub rule: &'a str,
    /// Allow or deny.
    pub action: Action,
    /// Whether its policy is enforced.
    pub mode: Mode,
    /// Whether its policy is a guard-rail.
    pub scope: Scope,
    /// The file of its policy; empty when unknown.
    pub file: &'a str,
    /// Its line there, from 1; 0 when unknown.
    pub line: u32,
}

impl PolicySet {
    /// Arranges the policies.
    pub fn compile(inputs: &PolicyInputs) -> Self {
        Self { inputs: inputs.clone() }
    }

    /// Which rule it is; `None` when it is a rule of another set.
    pub fn describe(&self, rule: RuleRef) -> Option<RuleDescription<'_>> {
        let policy = self.inputs.policies.get(rule.policy as usize)?;
        let of = policy.rules.get(rule.rule as usize)?;
        Some(RuleDescription {
            policy: &policy.name,
            rule: &of.name,
            action: of.action,
            mode: policy.mode,
            scope: policy.scope,
            file: &policy.file,
            line: of.line,
        })
    }

    /// Whether a rule that could decide on this port can only be judged on HTTP.
    pub fn needs_http(&self, port: Port) -> bool {
        self.inputs.policies.iter().flat_map(|policy| &policy.rules).flat_map(|rule| &rule.to).any(
            |operation| {
                operation.needs_http()
                    && (operation.ports.is_empty()
                        || operation.ports.iter().any(|range| range.contains(port)))
            },
        )
    }
}
