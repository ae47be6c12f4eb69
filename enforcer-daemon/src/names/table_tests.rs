//! The table: what holds, until when, and when a name is asked for again.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::manifest::HostName;

impl Key for HostName {}

fn name(text: &str) -> HostName {
    text.parse().expect("a name")
}

fn address(n: u32) -> IpAddr {
    IpAddr::from(n.to_be_bytes())
}

fn answer(n: u32, ttl: u64) -> Answer {
    Answer { address: address(n), ttl: Duration::from_secs(ttl), source: Source::Dns }
}

fn outcome(answers: &[Answer]) -> Outcome {
    Outcome { answers: answers.to_vec(), error: None }
}

fn failure(text: &str) -> Outcome {
    Outcome { error: Some(text.into()), ..Outcome::default() }
}

const NONE: [IpAddr; 0] = [];
const SECOND: Duration = Duration::from_secs(1);

/// A table with these names, and the moment at which they were wanted.
fn table(limits: Limits, names: &[&str]) -> (Table<HostName>, Instant) {
    let now = Instant::now();
    let mut table = Table::new(limits);
    table.want(&names.iter().map(|text| (name(text), ())).collect(), now);
    table.advance(now);
    for _ in names {
        assert!(table.take_ready(|_| true).is_some());
    }
    assert_eq!(table.take_ready(|_| true), None);
    (table, now)
}

fn open(table: &Table<HostName>, text: &str) -> Vec<IpAddr> {
    let known: BTreeMap<_, _> = table.known().collect();
    known.get(&name(text)).map(|addresses| addresses.keys().copied().collect()).unwrap_or_default()
}

/// How long after `now` the name is asked for again.
fn next(table: &Table<HostName>, text: &str, now: Instant) -> Duration {
    let (_, line) = table.lines().find(|(known, _)| known.as_str() == text).expect("a line");
    line.next.expect("a time").duration_since(now)
}

#[test]
fn an_address_holds_for_its_ttl_and_the_grace() {
    let (mut table, t0) = table(Limits::default(), &["a.example"]);
    assert_eq!(open(&table, "a.example"), NONE);
    table.answer(&name("a.example"), outcome(&[answer(1, 100)]), t0, 0.5);
    assert_eq!(open(&table, "a.example"), [address(1)]);
    table.advance(t0 + 159 * SECOND);
    assert_eq!(open(&table, "a.example"), [address(1)]);
    assert_eq!(table.take_ready(|_| true), Some(name("a.example")), "it was to be asked for before the answer ended");
    let version = table.version();
    table.advance(t0 + 160 * SECOND);
    assert_eq!(open(&table, "a.example"), NONE);
    assert_ne!(table.version(), version);
}

#[test]
fn it_is_asked_for_again_before_the_answer_ends_and_not_all_at_once() {
    for (jitter, expected) in [(0.0, 70.0), (1.0, 90.0), (7.0, 90.0)] {
        let (mut table, t0) = table(Limits::default(), &["a.example"]);
        table.answer(&name("a.example"), outcome(&[answer(1, 100), answer(2, 5000)]), t0, jitter);
        assert!((next(&table, "a.example", t0).as_secs_f64() - expected).abs() < 0.01);
    }
}

#[test]
fn a_ttl_counts_within_its_bounds() {
    for (ttl, least, most) in [(0, 5, 65), (1, 5, 65), (u64::from(u32::MAX), 86_400, 86_460)] {
        let (mut table, t0) = table(Limits::default(), &["a.example"]);
        table.answer(&name("a.example"), outcome(&[answer(1, ttl)]), t0, 1.0);
        assert!(next(&table, "a.example", t0) <= Duration::from_secs(least));
        table.advance(t0 + Duration::from_secs(most - 1));
        assert_eq!(open(&table, "a.example"), [address(1)], "{ttl}");
        table.advance(t0 + Duration::from_secs(most));
        assert_eq!(open(&table, "a.example"), NONE, "{ttl}");
    }
}

#[test]
fn a_failure_takes_nothing_away_and_waits_longer_each_time() {
    let (mut table, t0) = table(Limits::default(), &["a.example"]);
    table.answer(&name("a.example"), outcome(&[answer(1, 10)]), t0, 0.0);
    let mut waits = vec![];
    for _ in 0..8 {
        table.answer(&name("a.example"), failure("SERVFAIL"), t0, 1.0);
        waits.push(next(&table, "a.example", t0).as_secs_f64());
    }
    assert!(waits.is_sorted() && waits[0] < 1.0 && waits[7] > 20.0 && waits[7] <= 30.0, "{waits:?}");
    assert_eq!(open(&table, "a.example"), [address(1)]);
    let (_, line) = table.lines().next().expect("a line");
    assert_eq!((line.state, line.error.as_deref()), (State::Failed, Some("SERVFAIL")));
    table.advance(t0 + 70 * SECOND);
    assert_eq!(open(&table, "a.example"), NONE);
    table.answer(&name("a.example"), outcome(&[answer(2, 10)]), t0 + 71 * SECOND, 0.0);
    assert_eq!(open(&table, "a.example"), [address(2)]);
    let (_, line) = table.lines().next().expect("a line");
    assert_eq!((line.state, &line.error), (State::Resolved, &None));
}

#[test]
fn of_ten_thousand_addresses_as_many_as_fit_are_kept() {
    let (mut table, t0) = table(Limits::default(), &["a.example"]);
    let many: Vec<Answer> = (0..10_000).map(|n| answer(n, 60)).collect();
    table.answer(&name("a.example"), outcome(&many), t0, 0.5);
    assert_eq!(open(&table, "a.example"), (0..256).map(address).collect::<Vec<_>>());
    let (_, line) = table.lines().next().expect("a line");
    assert_eq!(line.left_out, 10_000 - 256);
    // Answers that rotate push out what would end first, and never the newest.
    table.answer(&name("a.example"), outcome(&[answer(1_000_000, 60), answer(3, 60)]), t0 + SECOND, 0.5);
    let kept = open(&table, "a.example");
    assert_eq!(kept.len(), 256);
    assert!(kept.contains(&address(1_000_000)) && kept.contains(&address(3)));
}

#[test]
fn all_names_together_are_bounded() {
    let limits = Limits { total: 10, ..Limits::default() };
    let (mut table, t0) = table(limits, &["a.example", "b.example"]);
    let of = |from: u32| outcome(&(from..from + 8).map(|n| answer(n, 60)).collect::<Vec<_>>());
    table.answer(&name("a.example"), of(0), t0, 0.5);
    table.answer(&name("b.example"), of(100), t0, 0.5);
    assert_eq!((open(&table, "a.example").len(), open(&table, "b.example").len()), (8, 2));
    // What goes makes room.
    table.want(&[(name("b.example"), ())].into(), t0);
    table.answer(&name("b.example"), of(100), t0, 0.5);
    assert_eq!((open(&table, "a.example").len(), open(&table, "b.example").len()), (0, 8));
}

#[test]
fn the_hosts_files_word_goes_when_it_is_taken_back() {
    let (mut table, t0) = table(Limits::default(), &["a.example"]);
    let host = Answer { source: Source::Host, ..answer(0x7f00_0001, 86_400) };
    table.answer(&name("a.example"), outcome(&[host]), t0, 0.5);
    assert_eq!(open(&table, "a.example"), [address(0x7f00_0001)]);
    table.ask_again(t0);
    table.answer(&name("a.example"), failure("no such name"), t0, 0.5);
    assert_eq!(open(&table, "a.example"), NONE);
}

#[test]
fn a_name_that_is_not_wanted_any_more_is_forgotten() {
    let (mut table, t0) = table(Limits::default(), &["a.example", "b.example"]);
    table.answer(&name("a.example"), outcome(&[answer(1, 60)]), t0, 0.5);
    table.want(&[(name("b.example"), ())].into(), t0);
    table.answer(&name("a.example"), outcome(&[answer(1, 60)]), t0, 0.5);
    assert_eq!(table.known().count(), 0);
    assert!(!table.all_asked());
    table.answer(&name("b.example"), failure("no such name"), t0, 0.5);
    assert!(table.all_asked());
}

/// What happens to a table.
#[derive(Clone, Debug)]
enum Step {
    Answer(u8, Vec<(u8, u32)>),
    Failure(u8),
    Pass(u64),
    Want(Vec<u8>),
    AskAgain,
}

fn step() -> impl Strategy<Value = Step> {
    let answers = vec((0_u8..12, prop_oneof![0_u32..10, 0_u32..300, any::<u32>()]), 0..6);
    prop_oneof![
        4 => (0_u8..3, answers).prop_map(|(name, answers)| Step::Answer(name, answers)),
        1 => (0_u8..3).prop_map(Step::Failure),
        4 => prop_oneof![0_u64..20, 0_u64..400].prop_map(Step::Pass),
        1 => vec(0_u8..3, 0..3).prop_map(Step::Want),
        1 => Just(Step::AskAgain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

    /// An address is open exactly as long as an answer that named it holds, and a name is always asked for again.
    #[test]
    fn what_is_open_is_what_a_live_answer_gave(steps in vec(step(), 1..40)) {
        let limits = Limits::default();
        let start = Instant::now();
        let mut now = start;
        let names: Vec<HostName> = ["a.example", "b.example", "c.example"].map(name).into();
        let mut wanted: BTreeSet<u8> = [0, 1, 2].into();
        let mut table = Table::new(limits);
        table.want(&names.iter().map(|name| (name.clone(), ())).collect(), now);
        // By name: which address holds until when.
        let mut live: BTreeMap<u8, Vec<(IpAddr, Instant)>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Answer(of, answers) => {
                    let answers: Vec<Answer> = answers.iter().map(|(n, ttl)| answer(u32::from(*n), u64::from(*ttl))).collect();
                    if wanted.contains(&of) {
                        for answer in &answers {
                            let ttl = answer.ttl.clamp(limits.min_ttl, limits.max_ttl);
                            live.entry(of).or_default().push((answer.address, now + ttl + limits.grace));
                        }
                    }
                    let outcome = if answers.is_empty() { failure("nothing") } else { outcome(&answers) };
                    table.answer(&names[usize::from(of)], outcome, now, 0.3);
                }
                Step::Failure(of) => table.answer(&names[usize::from(of)], failure("late"), now, 0.3),
                Step::Pass(seconds) => now += Duration::from_secs(seconds),
                Step::AskAgain => table.ask_again(now),
                Step::Want(list) => {
                    wanted = list.into_iter().collect();
                    live.retain(|of, _| wanted.contains(of));
                    table.want(&wanted.iter().map(|of| (names[usize::from(*of)].clone(), ())).collect(), now);
                }
            }
            table.advance(now);
            while table.take_ready(|_| true).is_some() {}
            let known: BTreeMap<_, _> = table.known().collect();
            for (of, name) in (0_u8..).zip(&names) {
                let open: BTreeSet<IpAddr> = known.get(name).into_iter().flat_map(BTreeMap::keys).copied().collect();
                let expected: BTreeSet<IpAddr> =
                    live.get(&of).into_iter().flatten().filter(|(_, end)| *end > now).map(|(address, _)| *address).collect();
                prop_assert_eq!(open, expected, "{} after {:?}", name, now - start);
            }
            for (name, line) in table.lines() {
                // Being asked for, or to be asked for within a day.
                prop_assert!(line.next.is_none_or(|next| next <= now + limits.max_ttl), "{}", name);
            }
            prop_assert!(table.wake().is_none_or(|wake| wake > now));
        }
    }
}
