use super::*;
use mesh_proto::resource::{self, SourceDocument};

const START: u64 = 1_700_000_000_000;

fn catalog(documents: &[&str]) -> Catalog {
    let parse = |yaml: &&str| {
        let document = SourceDocument { file: "x.yaml".into(), line: 1, yaml: (*yaml).to_owned() };
        resource::parse(&document).unwrap_or_else(|problems| panic!("{problems:?}"))
    };
    Catalog::from_resources(documents.iter().map(parse).collect::<Vec<_>>())
}

const SINK: &str = "apiVersion: meshctl.io/v1alpha1\nkind: AlertSink\nmetadata: {name: ops}\n\
    spec: {webhook: {url: http://127.0.0.1:1/}}\n";
const RULE: &str = "apiVersion: meshctl.io/v1alpha1\nkind: AlertRule\nmetadata: {name: all}\n\
    spec: {sinks: [ops], repeatEvery: 1h}\n";

fn signal(detector: Detector, source: &str, severity: Severity) -> Signal {
    Signal {
        subject: Subject {
            detector,
            source: source.into(),
            destination: "spiffe://mesh.local/ns/shop/sa/pay".into(),
            service: "shop/pay".into(),
        },
        severity,
        since_ms: START,
        value: 30.0,
        threshold: 20.0,
        sentence: "something".to_owned(),
        command: "meshctl edges".to_owned(),
    }
}

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";

/// Alarms in a directory of their own, and what reaches the sink `ops`.
struct Desk {
    dir: tempfile::TempDir,
    alarms: Alarms,
    catalog: Catalog,
}

impl Desk {
    fn new(documents: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let alarms = Alarms::open(dir.path().to_owned(), START).unwrap();
        Self { dir, alarms, catalog: catalog(documents) }
    }

    fn restart(&mut self, now_ms: u64) {
        self.alarms = Alarms::open(self.dir.path().to_owned(), now_ms).unwrap();
    }

    /// Says something at a time; gives what is sent to `ops` because of it, message by message.
    fn say(&self, seconds: u64, signals: &[Signal]) -> Vec<Vec<String>> {
        self.alarms.take(signals.to_vec(), &self.catalog, START + seconds * 1_000).unwrap();
        let queue = self.alarms.queue(&"ops".parse().unwrap()).unwrap();
        let mut sent = Vec::new();
        while let Some((message, size)) = queue.next().unwrap() {
            let words = message.notices.iter().map(|notice| {
                let alarm = notice.alarm.clone().unwrap_or_default();
                format!("{} {} {}", notice.change, alarm.severity, alarm.detector)
            });
            sent.push(words.collect());
            queue.done(size, message.notices.len(), queue::Fate::Taken).unwrap();
        }
        sent
    }
}

#[test]
fn an_alarm_is_told_once_repeated_and_resolved() {
    let desk = Desk::new(&[SINK, RULE]);
    let burst = [signal(Detector::DenialBurst, WEB, Severity::Warning)];
    assert_eq!(desk.say(0, &burst), [["raised warning denialBurst"]]);
    for seconds in (2..3_600).step_by(30) {
        assert_eq!(desk.say(seconds, &burst), [[""; 0]; 0], "nothing new after {seconds} s");
    }
    assert_eq!(desk.say(3_600, &burst), [["repeated warning denialBurst"]]);
    let worse = [signal(Detector::DenialBurst, WEB, Severity::Critical)];
    assert_eq!(desk.say(3_602, &worse), [["heavier critical denialBurst"]]);
    assert_eq!(desk.say(3_604, &burst), [[""; 0]; 0], "it does not get lighter");
    assert_eq!(desk.say(3_700, &[]), [["resolved critical denialBurst"]]);
    assert_eq!(desk.say(3_702, &[]), [[""; 0]; 0]);
    let all = desk.alarms.all();
    assert_eq!((all.alarms.len(), all.alarms[0].state.as_str()), (1, "resolved"));
    assert_eq!(desk.say(3_800, &burst), [["raised warning denialBurst"]], "a new alarm");
}

#[test]
fn nothing_told_is_told_again_after_a_restart_and_nothing_is_forgotten() {
    let mut desk = Desk::new(&[SINK, RULE]);
    let burst = [signal(Detector::DenialBurst, WEB, Severity::Warning)];
    desk.say(0, &burst);
    let id = desk.alarms.all().alarms[0].id.clone();
    desk.alarms.ack(&id[..4], "uid 7", "mine", START).unwrap();
    desk.restart(START + 5_000);
    assert_eq!(desk.alarms.all().alarms[0].acked_by, "uid 7");
    assert_eq!(desk.say(6, &burst), [[""; 0]; 0]);
    assert_eq!(desk.say(7_300, &burst), [[""; 0]; 0], "acknowledged alarms are not repeated");
    assert_eq!(desk.say(8_000, &[]), [["resolved warning denialBurst"]]);
}

#[test]
fn a_silenced_alarm_is_raised_and_told_to_nobody() {
    let desk = Desk::new(&[SINK, RULE]);
    let silence =
        v1::Silence { source: "sa/web".to_owned(), until_ms: START + 60_000, ..v1::Silence::default() };
    let silence = desk.alarms.silence(silence, START).unwrap();
    let burst = [signal(Detector::DenialBurst, WEB, Severity::Warning)];
    assert_eq!(desk.say(1, &burst), [[""; 0]; 0]);
    assert!(desk.alarms.all().alarms[0].silenced);
    let other = [signal(Detector::DenialBurst, "spiffe://mesh.local/ns/shop/sa/cart", Severity::Warning)];
    assert_eq!(desk.say(2, &other), [["raised warning denialBurst"]]);
    desk.alarms.unsilence(&silence.id).unwrap();
    assert_eq!(desk.say(3, &burst), [["raised warning denialBurst"]]);
    assert!(desk.alarms.unsilence(&silence.id).unwrap_err().contains("there is no silence"));
}

#[test]
fn a_scan_swallows_what_it_sets_off() {
    let desk = Desk::new(&[SINK, RULE]);
    let both = [
        signal(Detector::NewEdge, WEB, Severity::Warning),
        signal(Detector::Scan, WEB, Severity::Critical),
        signal(Detector::NewEdge, "spiffe://mesh.local/ns/shop/sa/cart", Severity::Warning),
    ];
    let mut sent = desk.say(0, &both).concat();
    sent.sort();
    assert_eq!(sent, ["raised critical scan", "raised warning newEdge"]);
}

#[test]
fn rules_choose_weigh_and_group() {
    let chosen = "apiVersion: meshctl.io/v1alpha1\nkind: AlertRule\nmetadata: {name: chosen}\n\
        spec: {sinks: [ops], detectors: [denialBurst, errorRate], namespaces: [shop], minSeverity: warning, atLeast: 25, \
        severity: critical, groupBy: [source]}\n";
    let desk = Desk::new(&[SINK, chosen]);
    let all = [
        signal(Detector::DenialBurst, WEB, Severity::Warning),
        signal(Detector::ErrorRate, WEB, Severity::Warning),
        signal(Detector::Latency, WEB, Severity::Critical),
        signal(Detector::DenialBurst, "spiffe://mesh.local/ns/shop/sa/a", Severity::Info),
        Signal {
            value: 24.0,
            ..signal(Detector::DenialBurst, "spiffe://mesh.local/ns/shop/sa/b", Severity::Critical)
        },
    ];
    assert_eq!(
        desk.say(0, &all),
        [["raised critical denialBurst", "raised critical errorRate"]],
        "one message"
    );
    let elsewhere = Desk::new(&[SINK, &chosen.replace("[shop]", "[bank]")]);
    assert_eq!(elsewhere.say(0, &all), [[""; 0]; 0]);
}

#[test]
fn a_sink_that_is_down_is_itself_reported() {
    let desk = Desk::new(&[SINK, RULE]);
    let ops: ObjectName = "ops".parse().unwrap();
    desk.alarms.known(&ops, "webhook", "127.0.0.1:1".to_owned());
    desk.alarms.attempted(&ops, 0, Err("connection refused".to_owned()), START);
    assert_eq!(desk.say(10, &[]), [[""; 0]; 0]);
    assert_eq!(desk.say(40, &[]), [["raised warning sinkDown"]]);
    let all = desk.alarms.all();
    assert!(
        all.alarms[0].sentence.contains("127.0.0.1:1")
            && all.alarms[0].sentence.contains("connection refused")
    );
    assert_eq!(all.sinks[0].failing_since_ms, START);
    desk.alarms.attempted(&ops, 1, Ok(()), START + 50_000);
    assert_eq!(desk.say(120, &[]), [["resolved warning sinkDown"]]);
}

#[test]
fn alarms_are_bounded() {
    let desk = Desk::new(&[]);
    let many: Vec<_> = (0..5_000)
        .map(|n| {
            signal(Detector::DenialBurst, &format!("spiffe://mesh.local/ns/shop/sa/x{n}"), Severity::Info)
        })
        .collect();
    desk.say(0, &many);
    assert!(desk.alarms.all().alarms.len() <= 1_001);
    assert!(desk.alarms.all().alarms.iter().any(|alarm| alarm.source == "others"));
}
