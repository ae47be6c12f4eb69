//! Runs a property: prints its seed, keeps what fails, and sees to it that the cases are not all of one sort.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    io::Write as _,
    sync::Mutex,
};

use proptest::{
    strategy::Strategy,
    test_runner::{Config, FileFailurePersistence, RngSeed, TestCaseError, TestRunner},
};

/// How many cases all properties of this crate have together, unless `PROPTEST_CASES` says otherwise.
const TOTAL: u32 = 1_000_000;

/// How many cases of a property are needed before a missing sort of outcome is more than bad luck.
const TELLING: u32 = 20_000;

/// How often each outcome came up. A property that never sees a refusal proves nothing about refusals.
#[derive(Default)]
pub(crate) struct Tally(Mutex<HashMap<&'static str, u32>>);

impl Tally {
    /// Counts one outcome.
    pub(crate) fn count(&self, outcome: &'static str) {
        if let Ok(mut counts) = self.0.lock() {
            *counts.entry(outcome).or_default() += 1;
        }
    }
}

/// What became of one case.
pub(crate) type Outcome = Result<(), TestCaseError>;

/// Checks a property with its percentage of all cases, and that each of `expected` was counted by the way.
pub(crate) fn check<S: Strategy>(
    name: &'static str,
    percent: u32,
    expected: &[&'static str],
    strategy: &S,
    test: impl Fn(S::Value, &Tally) -> Outcome,
) {
    let mut config = Config::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = TOTAL / 100 * percent;
    }
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().hash_one(name),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    config.max_shrink_iters = 50_000;
    // Tests run in the package's folder. A seed means something to its own property only, so each has a file.
    let kept = format!("proptest-regressions/{}.txt", name.replace(' ', "_")).leak();
    config.failure_persistence = Some(Box::new(FileFailurePersistence::Direct(kept)));
    config.source_file = Some(file!());
    let cases = config.cases;
    // Not by `eprintln!`, which the test harness swallows: the log of a run that passed has its seeds, too.
    let _ = writeln!(std::io::stderr(), "{name}: {cases} cases, PROPTEST_RNG_SEED={seed}");
    let tally = Tally::default();
    let result = TestRunner::new(config).run(strategy, |case| test(case, &tally));
    if let Err(failure) = result {
        panic!("{name}, PROPTEST_RNG_SEED={seed}: {failure}");
    }
    let counts = tally.0.into_inner().unwrap_or_default();
    let missing: Vec<_> = expected.iter().filter(|outcome| !counts.contains_key(*outcome)).collect();
    assert!(cases < TELLING || missing.is_empty(), "{name} never came to {missing:?}, only to {counts:?}");
}
