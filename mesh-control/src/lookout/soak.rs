//! Two weeks of a small shop in simulated time, irregular as traffic is: days and nights, weekends, releases, nightly jobs,
//! a client that is always refused, failures that come in twos and threes. And intrusions, one after the other.

use crate::alarm::book::Book;
use crate::clock;
use crate::detect::Detectors;
use crate::detect::staged::{Stage, flow};
use crate::events::Event;
use crate::ledger::Slice;
use crate::ledger::flow::{Counts, UNMESHED};
use mesh_proto::ops::histogram;
use mesh_proto::ops::metrics::EventKind;
use mesh_proto::resource::alert::Detector;
use std::collections::BTreeMap;

/// Deterministic noise (SplitMix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        // Near enough, and bounded at three deviations; what is beyond comes by mishaps.
        2.0 * (self.uniform() + self.uniform() + self.uniform()) - 3.0
    }

    /// A count with a mean, overdispersed as bursts are.
    fn count(&mut self, mean: f64) -> u64 {
        if mean < 6.0 {
            let (limit, mut product, mut count) = ((-mean).exp(), self.uniform(), 0);
            while product > limit {
                product *= self.uniform();
                count += 1;
            }
            count
        } else {
            (mean + mean.sqrt() * self.normal()).max(0.0) as u64
        }
    }
}

/// An edge of the shop.
struct Edge {
    source: &'static str,
    service: &'static str,
    /// Calls a second in the busiest hour.
    rate: f64,
    /// How long a call takes, in microseconds, and how many bytes its answer has.
    us: f64,
    bytes: f64,
    /// Slowly varying load, around 1.
    mood: f64,
}

const EDGES: [(&str, &str, f64, f64, f64); 9] = [
    ("web", "shop/cart", 20.0, 4_000.0, 2_000.0),
    ("web", "shop/catalog", 30.0, 2_500.0, 20_000.0),
    ("web", "shop/pay", 4.0, 30_000.0, 900.0),
    ("cart", "shop/db", 40.0, 900.0, 1_500.0),
    ("catalog", "shop/db", 25.0, 1_200.0, 30_000.0),
    ("pay", "shop/db", 8.0, 1_500.0, 800.0),
    ("pay", "shop/bank", 3.0, 120_000.0, 600.0),
    ("ads", "shop/catalog", 6.0, 3_000.0, 9_000.0),
    ("ads", "shop/track", 12.0, 1_000.0, 200.0),
];

fn id(name: &str) -> String {
    format!("spiffe://mesh.local/ns/shop/sa/{name}")
}

/// The shop in its time.
struct Shop {
    stage: Stage,
    noise: Noise,
    edges: Vec<Edge>,
    /// A release under way: which service, until when, and how many this day.
    release: Option<(&'static str, u64)>,
    detectors: Detectors,
    book: Book,
    /// What was raised: day, detector, sentence.
    raised: Vec<(u64, Detector, String)>,
    seen: BTreeMap<String, ()>,
    start: u64,
}

impl Shop {
    fn open() -> Self {
        let stage = Stage::new();
        let edge = |(source, service, rate, us, bytes)| Edge { source, service, rate, us, bytes, mood: 1.0 };
        Self {
            start: stage.now(),
            stage,
            noise: Noise(42),
            edges: EDGES.into_iter().map(edge).collect(),
            release: None,
            detectors: Detectors::new(),
            book: Book::default(),
            raised: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    fn hour(&self) -> f64 {
        (self.stage.now() % 86_400_000) as f64 / 3_600_000.0
    }

    fn day(&self) -> u64 {
        (self.stage.now() - self.start) / 86_400_000
    }

    fn is_weekend(&self) -> bool {
        self.day() % 7 >= 5
    }

    /// Lets the shop trade for some seconds, then looks.
    fn trade(&mut self, seconds: u64) {
        self.trade_but(seconds, |_| {});
    }

    /// The same, with something done to what was reported.
    fn trade_but(&mut self, seconds: u64, change: impl FnOnce(&mut Stage)) {
        self.customers(seconds);
        self.jobs(seconds);
        self.mishaps(seconds);
        change(&mut self.stage);
        let slice = self.stage.pass(seconds);
        self.look(&slice);
    }

    fn look(&mut self, slice: &Slice) {
        let signals = self.detectors.look(slice);
        self.book.take(signals, slice.to_ms);
        let day = self.day();
        for alarm in self.book.firing() {
            if self.seen.insert(alarm.id.clone(), ()).is_none() {
                let subject = &alarm.signal.subject;
                self.raised.push((day, subject.detector, alarm.signal.sentence.clone()));
            }
        }
    }

    fn customers(&mut self, seconds: u64) {
        let hour = self.hour();
        // A trough at four in the morning, a peak at four in the afternoon.
        let daily = 0.55 - 0.45 * ((hour - 4.0) / 24.0 * std::f64::consts::TAU).cos();
        let weekly = if self.is_weekend() { 0.4 } else { 1.0 };
        let is_weekday = !self.is_weekend();
        if is_weekday
            && self.release.is_none()
            && (9.0..18.0).contains(&hour)
            && self.noise.uniform() < seconds as f64 / 14_000.0
        {
            let service = self.edges[self.noise.next() as usize % self.edges.len()].service;
            self.release = Some((service, self.stage.now() + 120_000));
        }
        if self.release.is_some_and(|(_, until)| until <= self.stage.now()) {
            self.release = None;
        }
        for at in 0..self.edges.len() {
            self.edge(at, daily * weekly * seconds as f64);
        }
    }

    fn edge(&mut self, at: usize, load: f64) {
        let noise = &mut self.noise;
        let edge = &mut self.edges[at];
        edge.mood = (edge.mood + 0.02 * noise.normal()).clamp(0.6, 1.6) * 0.999 + 0.001;
        let burst = (0.25 * noise.normal()).exp();
        let calls = noise.count(edge.rate * load * edge.mood * burst);
        let (source, service) = (id(edge.source), edge.service);
        let is_released = self.release.is_some_and(|(released, _)| released == service);
        let begun = self.release.is_some_and(|(_, until)| until > self.stage.now() + 100_000);
        let errors = if is_released && begun { 0.04 } else { 0.002 };
        let slow = if is_released { 1.35 } else { 1.0 } * (0.05 * noise.normal()).exp();
        let mut counts = Counts {
            allowed: calls,
            errors: noise.count(calls as f64 * errors).min(calls),
            bytes_in: calls * 300,
            bytes_out: (calls as f64 * edge.bytes * (0.2 * noise.normal()).exp()) as u64,
            ..Counts::default()
        };
        // A log-normal body with a long tail, in a dozen steps.
        for (step, share) in
            [0.02, 0.08, 0.2, 0.25, 0.2, 0.13, 0.07, 0.03, 0.012, 0.005, 0.003].iter().enumerate()
        {
            let us = edge.us * slow * 1.35_f64.powi(step as i32 - 3);
            let count = calls as f64 * share + noise.uniform();
            counts.latency.add(histogram::index(us as u64), count as u64);
        }
        let recorded = noise.count(calls as f64 * 0.01);
        for _ in 0..recorded {
            let path = match noise.next() % 1_000 {
                0..700 => "/v1/items/{id}",
                700..990 => "/v1/items",
                _ => "/v1/health",
            };
            self.stage.sight(&source, service, path);
        }
        if calls > 0 {
            self.stage.count(&source, service, &counts);
        }
    }

    /// What runs by the clock.
    fn jobs(&mut self, seconds: u64) {
        let hour = self.hour();
        if (2.0..2.6).contains(&hour) {
            let bytes = (40_000_000.0 * seconds as f64 / 10.0 * (0.3 * self.noise.normal()).exp()) as u64;
            self.stage.call(&id("backup"), "shop/db", 2 * seconds, (50_000, bytes / (2 * seconds)));
        }
        if !self.is_weekend() && (6.0..6.2).contains(&hour) {
            self.stage.call(&id("report"), "shop/db", 5 * seconds, (80_000, 300_000));
        }
        if self.stage.now() / 30_000 != (self.stage.now() + seconds * 1_000) / 30_000 {
            for service in ["shop/cart", "shop/catalog", "shop/pay", "shop/db", "shop/bank"] {
                self.stage.call(&id("monitor"), service, 1, (1_000, 500));
            }
        }
    }

    /// What goes wrong every day.
    fn mishaps(&mut self, seconds: u64) {
        let chance = |noise: &mut Noise, a_day: f64| noise.uniform() < a_day * seconds as f64 / 86_400.0;
        let refused = self.noise.count(seconds as f64 * 0.3);
        if refused > 0 {
            self.stage.refuse(&id("legacy"), "shop/pay", refused);
            self.stage.sight_refused(&id("legacy"), "shop/pay", "/v0/pay");
        }
        // Somebody mistypes something, a handshake fails in a rotation, a caller touches its limit.
        if chance(&mut self.noise, 6.0) {
            self.stage.refuse(&id("web"), "shop/pay", 3);
        }
        if chance(&mut self.noise, 10.0) {
            let mut event =
                Event::new(EventKind::Certificate, clock::of_unix_ms(self.stage.now()), "expired");
            event.destination = id("cart");
            event.count = 2;
            self.stage.slice.events.push(event);
        }
        if chance(&mut self.noise, 8.0) {
            let counts = Counts { limited: 12, ..Counts::default() };
            self.stage.count(&id("ads"), "shop/track", &counts);
        }
        // A burst of failures of one caller: a broken connection.
        if chance(&mut self.noise, 5.0) {
            let counts = Counts { allowed: 8, errors: 8, ..Counts::default() };
            self.stage.count(&id("web"), "shop/cart", &counts);
        }
    }

    /// Plants something for twenty seconds; gives what was raised because of it, with how soon.
    fn plant(&mut self, mut intrusion: impl FnMut(&mut Stage, u64)) -> Vec<(Detector, u64)> {
        // A quiet quarter of an hour, in which what was before ends; then slices of the length that the lookout makes.
        (0..90).for_each(|_| self.trade(10));
        (0..10).for_each(|_| self.trade(2));
        let mut found = Vec::new();
        for look in 1..=10 {
            let before = self.raised.len();
            self.trade_but(2, |stage| intrusion(stage, look));
            found.extend(self.raised[before..].iter().map(|(_, detector, _)| (*detector, look * 2)));
        }
        found
    }
}

#[test]
fn two_weeks_of_noise_rouse_nobody_more_than_once_a_day() {
    let mut shop = Shop::open();
    while shop.day() < 14 {
        shop.trade(10);
    }
    let mut by_day: BTreeMap<u64, u32> = BTreeMap::new();
    for (day, ..) in &shop.raised {
        *by_day.entry(*day).or_default() += 1;
    }
    assert!(by_day.values().all(|count| *count <= 1), "{:#?}", shop.raised);
}

#[test]
fn each_intrusion_raises_its_own_alarm_within_ten_seconds() {
    let mut shop = Shop::open();
    // Two days, and into the afternoon of the third.
    while shop.day() < 2 || shop.hour() < 13.0 {
        shop.trade(10);
    }
    let before = shop.raised.len();
    let check = |shop: &mut Shop, detector: Detector, intrusion: &mut dyn FnMut(&mut Stage, u64)| {
        let found = shop.plant(|stage, look| intrusion(stage, look));
        let told: Vec<Detector> = found.iter().map(|(detector, _)| *detector).collect();
        assert_eq!(told, [detector], "{:#?}", &shop.raised[before..]);
        assert!(found[0].1 <= 10, "{detector} after {} s", found[0].1);
    };
    check(&mut shop, Detector::NewEdge, &mut |stage, _| {
        stage.call(&id("web"), "shop/vault", 4, (1_000, 900))
    });
    check(&mut shop, Detector::DenialBurst, &mut |stage, _| {
        stage.refuse(&id("web"), "shop/cart", 200);
        (0..20).for_each(|_| stage.sight_refused(&id("web"), "shop/cart", "/v1/items"));
    });
    check(&mut shop, Detector::Scan, &mut |stage, look| {
        for n in 0..4 {
            let service = format!("shop/inner{look}x{n}");
            stage.refuse(&id("ads"), &service, 2);
            stage.sight_refused(&id("ads"), &service, "/");
        }
    });
    check(&mut shop, Detector::Exfiltration, &mut |stage, _| {
        stage.call(&id("cart"), "shop/db", 5, (900, 20_000_000));
    });
    check(&mut shop, Detector::Latency, &mut |stage, _| slow(stage, "shop/catalog"));
    check(&mut shop, Detector::ErrorRate, &mut |stage, _| {
        let edge = flow(&id("web"), "shop/cart");
        stage.slice.rows.entry(edge).and_modify(|counts| counts.errors = counts.allowed * 6 / 10);
    });
    check(&mut shop, Detector::Silence, &mut |stage, _| {
        stage.slice.rows.remove(&flow(&id("cart"), "shop/db"));
    });
    check(&mut shop, Detector::TwoPlaces, &mut |stage, look| {
        stage.sight(&id("pay"), "shop/db", "/v1/items");
        let address = ["10.0.0.1", "172.16.9.9"][usize::from(look % 2 == 1)];
        stage.slice.sightings.last_mut().expect("just added").address = address.into();
    });
    check(&mut shop, Detector::RateLimitPressure, &mut |stage, _| {
        stage.count(&id("web"), "shop/catalog", &Counts { limited: 60, ..Counts::default() });
    });
    check(&mut shop, Detector::Plaintext, &mut |stage, _| stage.call(UNMESHED, "shop/cart", 2, (1_000, 100)));
    check(&mut shop, Detector::CertificateTrouble, &mut |stage, _| {
        let mut event = Event::new(EventKind::Certificate, clock::of_unix_ms(stage.now()), "revoked");
        (event.source, event.destination) = (id("pay"), id("bank"));
        stage.slice.events.push(event);
    });
    check(&mut shop, Detector::ClockSkew, &mut |stage, _| {
        stage.sight(&id("pay"), "shop/bank", "/v1/items");
        let sighting = stage.slice.sightings.last_mut().expect("just added");
        sighting.reporter = "bank-1".into();
        sighting.time_ms += 9_000;
    });
}

/// Makes all calls to a service take eight times as long.
fn slow(stage: &mut Stage, service: &str) {
    for (_, counts) in stage.slice.rows.iter_mut().filter(|(flow, _)| &*flow.service == service) {
        let mut slow = mesh_proto::ops::histogram::Sketch::default();
        counts.latency.buckets().for_each(|(bucket, count)| slow.add(bucket + 24, count));
        counts.latency = slow;
    }
}
