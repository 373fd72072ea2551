//! What may be chosen at an installation: `--values FILE` and `--set KEY=VALUE`.
//!
//! Every mistake is reported at once, with the key, the value and what is allowed; nothing is installed then. What was
//! chosen stays with the mesh, in a ConfigMap, and holds until something else is chosen: an upgrade that is told nothing
//! changes nothing but the version.
//!
//! # Why
//! Only what differs from the defaults is kept. All values would pin the images' tag, and with it the version, for ever.

use mesh_proto::identity::TrustDomain;
use serde_json::Value;
use std::collections::BTreeMap;

/// What was chosen at earlier installations, by key.
pub(crate) type Kept = BTreeMap<String, String>;

/// What is installed, beyond what is always the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Values {
    /// `registry/path` before the images' names; empty: the names alone.
    pub(crate) image_registry: String,
    /// The images' tag.
    pub(crate) image_tag: String,
    /// When nodes fetch an image: a word of Kubernetes.
    pub(crate) image_pull_policy: String,
    /// Every identity is named after it.
    pub(crate) trust_domain: String,
    /// How many control planes run.
    pub(crate) replicas: u32,
    /// What the scheduler sets aside for each: a quantity of CPU.
    pub(crate) cpu: String,
    /// The same of memory.
    pub(crate) memory: String,
    /// The most memory one may take.
    pub(crate) memory_limit: String,
    /// Which log lines.
    pub(crate) log_level: String,
    /// `json` or `text`.
    pub(crate) log_format: String,
    /// How long a workload's certificate lives, in seconds; `None`: the control plane's default.
    pub(crate) svid_lifetime: Option<u32>,
    /// The same of an issuing intermediate.
    pub(crate) intermediate_lifetime: Option<u32>,
    /// The same of a root.
    pub(crate) root_lifetime: Option<u32>,
}

/// Where a value comes from that was chosen before.
const KEPT: &str = "the mesh's own values (--reset-values forgets them)";

/// What may be set: its key, its default, and what is allowed.
pub(crate) const KEYS: [(&str, &str, &str); 13] = [
    ("image.registry", "", "host[:port][/path], for instance registry.example/mesh"),
    ("image.tag", env!("CARGO_PKG_VERSION"), "1 to 128 of a-z A-Z 0-9 _ . -"),
    ("image.pullPolicy", "IfNotPresent", "Always, IfNotPresent or Never"),
    ("trustDomain", "cluster.local", "a name of a-z 0-9 . - _, for instance mesh.example"),
    ("control.replicas", "2", "a number from 1 to 9"),
    ("control.cpu", "100m", "a quantity of CPU, for instance 100m or 1"),
    ("control.memory", "128Mi", "a quantity of memory, for instance 128Mi"),
    ("control.memoryLimit", "1Gi", "a quantity of memory, for instance 1Gi"),
    (
        "log.level",
        "info",
        "a level (error, warn, info, debug, trace), or target=level pairs joined by commas",
    ),
    ("log.format", "json", "json or text"),
    ("certificates.svidLifetime", "", "seconds from 6 to 2592000"),
    ("certificates.intermediateLifetime", "", "seconds from 30 to 31536000"),
    ("certificates.rootLifetime", "", "seconds from 120 to 946080000"),
];

impl Default for Values {
    fn default() -> Self {
        let mut values = Self {
            image_registry: String::new(),
            image_tag: String::new(),
            image_pull_policy: String::new(),
            trust_domain: String::new(),
            replicas: 1,
            cpu: String::new(),
            memory: String::new(),
            memory_limit: String::new(),
            log_level: String::new(),
            log_format: String::new(),
            svid_lifetime: None,
            intermediate_lifetime: None,
            root_lifetime: None,
        };
        for (key, default, _) in KEYS {
            values.set(key, default);
        }
        values
    }
}

impl Values {
    /// The defaults, changed by what was chosen before, then by a file's text and then by `KEY=VALUE`s.
    ///
    /// # Errors
    /// Everything that is wrong, one sentence for each mistake.
    pub(crate) fn read(kept: &Kept, file: Option<(&str, &str)>, set: &[String]) -> Result<Self, Vec<String>> {
        let mut wrong = Vec::new();
        let before = |(key, value): (&String, &String)| (KEPT.to_owned(), key.clone(), value.clone());
        let mut typed: Vec<(String, String, String)> = kept.iter().map(before).collect();
        if let Some((name, text)) = file {
            let source = format!("--values {name}");
            match serde_saphyr::from_str::<Value>(text) {
                Ok(Value::Null) => {}
                Ok(Value::Object(map)) => {
                    flatten("", &Value::Object(map), &mut |key, value| match value {
                        Some(value) => typed.push((source.clone(), key, value)),
                        None => wrong.push(format!("{source}: {key} is a list, and no value is one")),
                    });
                }
                Ok(_) => wrong.push(format!("{source}: is not a map of values; {}", keys_text())),
                Err(error) => wrong.push(format!("{source}: is not YAML: {error}")),
            }
        }
        for pair in set {
            match pair.split_once('=') {
                Some((key, value)) => {
                    typed.push(("--set".to_owned(), key.trim().to_owned(), value.to_owned()))
                }
                None => wrong.push(format!("--set {pair}: write KEY=VALUE; {}", keys_text())),
            }
        }
        let mut values = Self::default();
        for (source, key, value) in typed {
            match KEYS.iter().find(|(known, ..)| *known == key) {
                None => wrong.push(format!("{source}: there is no value {key:?}; {}", keys_text())),
                Some((_, _, allowed)) if !values.set(&key, &value) => {
                    wrong.push(format!("{source}: {key}: {value:?} is not allowed; write {allowed}"));
                }
                Some(_) => {}
            }
        }
        values.refuse_lifetimes(&mut wrong);
        if wrong.is_empty() { Ok(values) } else { Err(wrong) }
    }

    /// The full name of one of the images.
    pub(crate) fn image(&self, name: &str) -> String {
        let tag = &self.image_tag;
        match self.image_registry.as_str() {
            "" => format!("{name}:{tag}"),
            registry => format!("{registry}/{name}:{tag}"),
        }
    }

    /// What was chosen: all values that are not the defaults, as they are written.
    pub(crate) fn chosen(&self) -> Kept {
        let differs = |(key, default, _): &(&str, &str, &str)| self.text(key) != *default;
        KEYS.iter().filter(|row| differs(row)).map(|(key, ..)| ((*key).to_owned(), self.text(key))).collect()
    }

    /// What differs from what was chosen before: `control.replicas: 2 -> 3`.
    pub(crate) fn against(&self, before: &Kept) -> Vec<String> {
        let change = |(key, default, _): &(&str, &str, &str)| {
            let was = before.get(*key).map_or(*default, String::as_str);
            let is = self.text(key);
            let shown = |text: &str| if text.is_empty() { "the default".to_owned() } else { text.to_owned() };
            (was != is).then(|| format!("{key}: {} -> {}", shown(was), shown(&is)))
        };
        KEYS.iter().filter_map(change).collect()
    }

    /// One value as it is written; empty for what is left to the control plane.
    pub(crate) fn text(&self, key: &str) -> String {
        let seconds = |value: Option<u32>| value.map(|seconds| seconds.to_string()).unwrap_or_default();
        match key {
            "image.registry" => self.image_registry.clone(),
            "image.tag" => self.image_tag.clone(),
            "image.pullPolicy" => self.image_pull_policy.clone(),
            "trustDomain" => self.trust_domain.clone(),
            "control.replicas" => self.replicas.to_string(),
            "control.cpu" => self.cpu.clone(),
            "control.memory" => self.memory.clone(),
            "control.memoryLimit" => self.memory_limit.clone(),
            "log.level" => self.log_level.clone(),
            "log.format" => self.log_format.clone(),
            "certificates.svidLifetime" => seconds(self.svid_lifetime),
            "certificates.intermediateLifetime" => seconds(self.intermediate_lifetime),
            "certificates.rootLifetime" => seconds(self.root_lifetime),
            _ => String::new(),
        }
    }

    /// Takes one value; false when it is not allowed (or there is no such key).
    fn set(&mut self, key: &str, value: &str) -> bool {
        let target = match key {
            "image.registry" => return put(&mut self.image_registry, value, is_registry),
            "image.tag" => return put(&mut self.image_tag, value, is_tag),
            "image.pullPolicy" => {
                let words = |word: &str| ["Always", "IfNotPresent", "Never"].contains(&word);
                return put(&mut self.image_pull_policy, value, words);
            }
            "trustDomain" => {
                return put(&mut self.trust_domain, value, |text| text.parse::<TrustDomain>().is_ok());
            }
            "control.replicas" => {
                let count = value.parse().ok().filter(|count| (1..=9).contains(count));
                self.replicas = count.unwrap_or(self.replicas);
                return count.is_some();
            }
            "control.cpu" => return put(&mut self.cpu, value, |text| is_quantity(text, &["", "m"])),
            "control.memory" => return put(&mut self.memory, value, is_memory),
            "control.memoryLimit" => return put(&mut self.memory_limit, value, is_memory),
            "log.level" => return put(&mut self.log_level, value, is_log_filter),
            "log.format" => return put(&mut self.log_format, value, |word| ["json", "text"].contains(&word)),
            "certificates.svidLifetime" => (&mut self.svid_lifetime, 6..=2_592_000),
            "certificates.intermediateLifetime" => (&mut self.intermediate_lifetime, 30..=31_536_000),
            "certificates.rootLifetime" => (&mut self.root_lifetime, 120..=946_080_000),
            _ => return false,
        };
        let (lifetime, bounds) = target;
        if value.is_empty() {
            *lifetime = None;
            return true;
        }
        let seconds = value.parse().ok().filter(|seconds| bounds.contains(seconds));
        *lifetime = seconds.or(*lifetime);
        seconds.is_some()
    }

    /// A certificate cannot outlive its issuer. The defaults are the control plane's: a day, a week, a year.
    fn refuse_lifetimes(&self, wrong: &mut Vec<String>) {
        let svid = self.svid_lifetime.unwrap_or(86_400);
        let intermediate = self.intermediate_lifetime.unwrap_or(604_800);
        let root = self.root_lifetime.unwrap_or(31_536_000);
        if svid >= intermediate {
            wrong.push(format!(
                "certificates.svidLifetime ({svid} s) must be shorter than certificates.intermediateLifetime ({intermediate} s)"
            ));
        }
        if intermediate >= root {
            wrong.push(format!(
                "certificates.intermediateLifetime ({intermediate} s) must be shorter than certificates.rootLifetime ({root} s)"
            ));
        }
    }
}

fn put(target: &mut String, value: &str, is_allowed: impl Fn(&str) -> bool) -> bool {
    let good = is_allowed(value);
    if good {
        value.clone_into(target);
    }
    good
}

fn keys_text() -> String {
    let keys: Vec<&str> = KEYS.iter().map(|(key, ..)| *key).collect();
    format!("there are {}", keys.join(", "))
}

/// Walks a nested map; the leaves' keys are joined by dots. `None` for what is not a scalar.
fn flatten(prefix: &str, value: &Value, leaf: &mut impl FnMut(String, Option<String>)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, leaf);
            }
        }
        Value::String(text) => leaf(prefix.to_owned(), Some(text.clone())),
        Value::Null => leaf(prefix.to_owned(), Some(String::new())),
        Value::Number(number) => leaf(prefix.to_owned(), Some(number.to_string())),
        Value::Bool(is) => leaf(prefix.to_owned(), Some(is.to_string())),
        Value::Array(_) => leaf(prefix.to_owned(), None),
    }
}

fn is_registry(text: &str) -> bool {
    text.is_empty()
        || text.len() <= 200
            && !text.ends_with('/')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:".contains(&b))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && !text.starts_with(['.', '-'])
}

fn is_quantity(text: &str, units: &[&str]) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text.split_at_checked(digits);
    number.is_some_and(|(number, unit)| {
        (1..=12).contains(&number.len()) && number.bytes().any(|b| b != b'0') && units.contains(&unit)
    })
}

fn is_memory(text: &str) -> bool {
    is_quantity(text, &["", "k", "M", "G", "Ki", "Mi", "Gi"])
}

fn is_log_filter(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_:=,-[]".contains(&b);
    !text.is_empty() && text.len() <= 400 && text.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[&str]) -> Result<Values, Vec<String>> {
        Values::read(&Kept::new(), None, &pairs.iter().map(|pair| (*pair).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_default_is_allowed() {
        for (key, default, allowed) in KEYS {
            assert!(Values::default().set(key, default), "{key}: {default:?} against {allowed}");
        }
    }

    #[test]
    fn what_was_chosen_before_holds_until_something_else_is_chosen() {
        let first = set(&["control.replicas=3", "certificates.svidLifetime=60", "log.format=json"]).unwrap();
        let kept = first.chosen();
        let pairs: Vec<String> = kept.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(pairs, ["certificates.svidLifetime=60", "control.replicas=3"], "defaults are not kept");
        assert_eq!(Values::read(&kept, None, &[]).unwrap(), first);
        let file = "control: {replicas: 4}";
        let second =
            Values::read(&kept, Some(("v", file)), &["certificates.svidLifetime=".to_owned()]).unwrap();
        assert_eq!((second.replicas, second.svid_lifetime), (4, None));
        assert_eq!(
            second.against(&kept),
            ["control.replicas: 3 -> 4", "certificates.svidLifetime: 60 -> the default"]
        );
        let strange = Kept::from([("control.colour".to_owned(), "red".to_owned())]);
        let wrong = Values::read(&strange, None, &[]).unwrap_err().join("\n");
        assert!(wrong.contains("--reset-values") && wrong.contains("control.colour"), "{wrong}");
    }

    #[test]
    fn every_value_is_written_as_it_is_read() {
        for (key, value) in [
            ("image.registry", "r.example:5000/mesh"),
            ("image.tag", "v9"),
            ("image.pullPolicy", "Never"),
            ("trustDomain", "mesh.example"),
            ("control.replicas", "5"),
            ("control.cpu", "2"),
            ("control.memory", "1Gi"),
            ("control.memoryLimit", "2Gi"),
            ("log.level", "debug"),
            ("log.format", "text"),
            ("certificates.svidLifetime", "60"),
            ("certificates.intermediateLifetime", "600000"),
            ("certificates.rootLifetime", "700000"),
        ] {
            assert_eq!(set(&[&format!("{key}={value}")]).unwrap().text(key), value, "{key}");
        }
    }

    #[test]
    fn typed_values_win_over_the_files() {
        let file = "image: {tag: v1, registry: r.example:5000/mesh}\ncontrol:\n  replicas: 3\n";
        let values =
            Values::read(&Kept::new(), Some(("v.yaml", file)), &["image.tag=v2".to_owned()]).unwrap();
        assert_eq!(values.image("mesh-proxy"), "r.example:5000/mesh/mesh-proxy:v2");
        assert_eq!(values.replicas, 3);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        for (pair, expected) in [
            ("image.tga=1", "there is no value \"image.tga\"; there are image.registry, image.tag"),
            (
                "control.replicas=many",
                "control.replicas: \"many\" is not allowed; write a number from 1 to 9",
            ),
            ("control.replicas=0", "from 1 to 9"),
            ("image.pullPolicy=never", "Always, IfNotPresent or Never"),
            ("trustDomain=Mesh_", "mesh.example"),
            ("image.tag=", "1 to 128"),
            ("control.cpu=1G", "quantity of CPU"),
            ("control.memory=0Mi", "quantity of memory"),
            ("log.level=info\nx", "level"),
            ("certificates.svidLifetime=700000", "must be shorter than certificates.intermediateLifetime"),
            ("nothing", "write KEY=VALUE"),
        ] {
            let wrong = set(&[pair]).unwrap_err().join("\n");
            assert!(wrong.contains(expected), "{pair}: {wrong}");
        }
        let several = set(&["image.tga=1", "control.replicas=0"]).unwrap_err();
        assert_eq!(several.len(), 2, "{several:?}");
        for (file, expected) in [
            ("- a", "is not a map"),
            ("image: [a]", "image is a list"),
            ("image: {tag: v1, tga: v2}", "no value \"image.tga\""),
            ("a: {", "is not YAML"),
        ] {
            let wrong = Values::read(&Kept::new(), Some(("v.yaml", file)), &[]).unwrap_err().join("\n");
            assert!(wrong.contains(expected) && wrong.contains("--values v.yaml"), "{file}: {wrong}");
        }
    }
}
