//! Interleaved pairs and their medians.

use std::time::{Duration, Instant};

use crate::Outcome;

/// How many pairs are taken: odd, so that the median is one of them.
const PAIRS: usize = 21;

/// How long one half of a pair shall take: long beside a tick of the clock and of the epochs, short beside what else the
/// machine does.
const HALF: Duration = Duration::from_millis(30);

/// The medians of both sides: nanoseconds for one turn, or bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Medians {
    /// Of the raw floor.
    pub(crate) raw: f64,
    /// Of Waypost.
    pub(crate) ours: f64,
}

/// Measures both sides in turns: raw, ours, raw, ours...
pub(crate) async fn pairs<Raw, Ours>(mut raw: impl FnMut() -> Raw, mut ours: impl FnMut() -> Ours) -> Outcome<Medians>
where
    Raw: Future<Output = Outcome<()>>,
    Ours: Future<Output = Outcome<()>>,
{
    let turns = (turns(&mut raw).await?, turns(&mut ours).await?);
    let mut samples = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        samples.0.push(nanoseconds(&mut raw, turns.0).await?);
        samples.1.push(nanoseconds(&mut ours, turns.1).await?);
    }
    Ok(Medians {
        raw: median(samples.0),
        ours: median(samples.1),
    })
}

/// The middle one; the smaller of the two middle ones of an even number.
pub(crate) fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples
        .get(samples.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or_default()
}

/// The slowest of a hundred: what all but one in a hundred of these times keep to.
pub(crate) fn p99(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

/// How many turns one half of a pair has. Finding out warms caches, pools and branch predictors.
async fn turns<F: Future<Output = Outcome<()>>>(work: &mut impl FnMut() -> F) -> Outcome<u32> {
    let began = Instant::now();
    let mut turns = 0_u32;
    while began.elapsed() < HALF * 4 {
        work().await?;
        turns += 1;
    }
    Ok((turns / 4).max(1))
}

/// How long one turn takes, of so many.
pub(crate) async fn nanoseconds<F: Future<Output = Outcome<()>>>(
    work: &mut impl FnMut() -> F,
    turns: u32,
) -> Outcome<f64> {
    let began = Instant::now();
    for _ in 0..turns {
        work().await?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(turns))
}
