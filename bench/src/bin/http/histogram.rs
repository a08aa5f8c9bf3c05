//! Latencies, to two digits.

use std::time::Duration;

const PER_DOUBLING: u32 = 64;

#[derive(Clone)]
pub(crate) struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; 64 * PER_DOUBLING as usize])
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0[place(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1))] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(count, more)| *count += more);
    }

    /// The time within which so many of a thousand were answered.
    pub(crate) fn within(&self, thousandths: u64) -> Duration {
        let wanted = (self.0.iter().sum::<u64>() * thousandths).div_ceil(1000);
        let mut seen = 0;
        let place = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        Duration::from_nanos(time(place.unwrap_or_default()))
    }
}

fn place(nanos: u64) -> usize {
    let doublings = nanos.ilog2();
    let within = if doublings >= 6 { (nanos >> (doublings - 6)) & 63 } else { (nanos << (6 - doublings)) & 63 };
    (doublings * PER_DOUBLING) as usize + usize::try_from(within).expect("it is below 64")
}

fn time(place: usize) -> u64 {
    let (doublings, within) = (place / PER_DOUBLING as usize, place as u64 % u64::from(PER_DOUBLING));
    let nanos = u128::from(64 + within) << doublings >> 6;
    u64::try_from(nanos).unwrap_or(u64::MAX)
}
