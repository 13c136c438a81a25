//! The table: what was measured, where, and whether it is what was promised.

use std::borrow::Cow;
use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};

use crate::Outcome;
use crate::pairs::Medians;

/// Everything that one run of the bench found.
#[derive(Debug)]
pub(crate) struct Report {
    date: String,
    machine: Machine,
    figures: Vec<Figure>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    processor: String,
    kernel: String,
    rustc: String,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Figure {
    name: Cow<'static, str>,
    unit: Unit,
    ours: f64,
    /// What it is measured against, and how much that is.
    floor: Option<(&'static str, f64)>,
    target: Option<Target>,
    /// Why it was not measured.
    missing: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Unit {
    Nanoseconds,
    Bytes,
    Count,
}

/// What was promised.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// At most so many times the floor.
    Ratio(f64),
    /// At most so many microseconds.
    Micros(f64),
    /// At most so many microseconds more than the floor.
    MicrosAbove(f64),
    /// At most twice the floor, or so many microseconds more than it where that is more.
    TwiceOrMicrosAbove(f64),
    /// Not once.
    Never,
}

impl Figure {
    fn new(name: impl Into<Cow<'static, str>>, unit: Unit, ours: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            ours,
            floor: None,
            target: None,
            missing: None,
        }
    }

    /// A time beside its floor.
    pub(crate) fn time(name: impl Into<Cow<'static, str>>, floor: &'static str, medians: Medians) -> Self {
        Self {
            floor: Some((floor, medians.raw)),
            ..Self::new(name, Unit::Nanoseconds, medians.ours)
        }
    }

    /// A size beside its floor.
    pub(crate) fn size(name: impl Into<Cow<'static, str>>, floor: &'static str, medians: Medians) -> Self {
        Self {
            unit: Unit::Bytes,
            ..Self::time(name, floor, medians)
        }
    }

    /// A size that has no floor.
    pub(crate) fn bare_size(name: impl Into<Cow<'static, str>>, bytes: f64) -> Self {
        Self::new(name, Unit::Bytes, bytes)
    }

    /// How often something happened.
    pub(crate) fn count(name: impl Into<Cow<'static, str>>, times: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        Self::new(name, Unit::Count, times as f64)
    }

    /// One that cannot be measured here, and why.
    pub(crate) fn missing(name: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        Self {
            missing: Some(why.into()),
            ..Self::new(name, Unit::Count, 0.0)
        }
    }

    /// The same figure with a promise to keep.
    #[must_use]
    pub(crate) fn at_most(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// The better of two measurements of one figure: what else runs on the machine can only make it worse.
    #[must_use]
    pub(crate) fn better(self, other: Self) -> Self {
        if other.used() < self.used() { other } else { self }
    }

    fn ratio(&self) -> Option<f64> {
        self.floor.map(|(_, floor)| self.ours / floor)
    }

    /// What was measured, as a part of what was promised; a figure without a promise cannot miss it.
    fn used(&self) -> f64 {
        match self.target {
            None => 0.0,
            Some(Target::Ratio(most)) => self.ratio().map_or(f64::INFINITY, |ratio| ratio / most),
            Some(Target::Micros(most)) => self.ours / (most * 1e3),
            Some(Target::MicrosAbove(most)) => (self.ours - self.floor()) / (most * 1e3),
            Some(Target::TwiceOrMicrosAbove(most)) => self.ours / (2.0 * self.floor()).max(self.floor() + most * 1e3),
            Some(Target::Never) if self.ours == 0.0 => 0.0,
            Some(Target::Never) => f64::INFINITY,
        }
    }

    fn floor(&self) -> f64 {
        self.floor.map_or(0.0, |(_, floor)| floor)
    }

    /// Whether a promise was not kept.
    pub(crate) fn missed(&self) -> bool {
        self.used() > 1.0
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "waypost": self.ours,
            "floor": self.floor.map(|(_, floor)| floor),
            "which": self.floor.map(|(which, _)| which),
            "ratio": self.ratio(),
            "atMost": self.target,
            "met": self.target.map(|_| !self.missed()),
            "missing": self.missing,
        })
    }

    fn row(&self) -> String {
        if let Some(why) = &self.missing {
            return format!("| {} | - | - | - | - | - | not measured: {why} |", self.name);
        }
        let (beside, floor) = match self.floor {
            Some((beside, floor)) => (beside, self.unit.show(floor)),
            None => ("-", "-".to_owned()),
        };
        let ratio = self
            .ratio()
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let target = match self.target {
            None => "-".to_owned(),
            Some(Target::Ratio(most)) => format!("ratio {most}"),
            Some(Target::Micros(most)) => format!("{most} µs"),
            Some(Target::MicrosAbove(most)) => format!("{most} µs above"),
            Some(Target::TwiceOrMicrosAbove(most)) => format!("ratio 2 or {most} µs above"),
            Some(Target::Never) => "0".to_owned(),
        };
        let verdict = match (self.target, self.missed()) {
            (None, _) => "shown",
            (_, false) => "met",
            (_, true) => "**missed**",
        };
        let (name, ours) = (&self.name, self.unit.show(self.ours));
        format!("| {name} | {ours} | {floor} | {beside} | {ratio} | {target} | {verdict} |")
    }
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Nanoseconds if value < 1e3 => format!("{value:.0} ns"),
            Self::Nanoseconds if value < 1e6 => format!("{:.2} µs", value / 1e3),
            Self::Nanoseconds => format!("{:.1} ms", value / 1e6),
            Self::Bytes if value < f64::from(1 << 20) => format!("{:.1} KiB", value / f64::from(1 << 10)),
            Self::Bytes => format!("{:.1} MiB", value / f64::from(1 << 20)),
            Self::Count => format!("{value:.0}"),
        }
    }
}

impl Report {
    pub(crate) fn new(figures: Vec<Figure>) -> Self {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let date = now.split('T').next().unwrap_or_default().to_owned();
        Self {
            date,
            machine: Machine::this(),
            figures,
        }
    }

    /// Whether any promise was not kept.
    pub(crate) fn missed(&self) -> bool {
        self.figures.iter().any(Figure::missed)
    }

    pub(crate) fn json(&self) -> Outcome<String> {
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        let report = json!({ "date": self.date, "machine": self.machine, "figures": figures });
        Ok(serde_json::to_string_pretty(&report)?)
    }

    pub(crate) fn markdown(&self) -> String {
        let Machine {
            cores,
            processor,
            kernel,
            rustc,
        } = &self.machine;
        let mut text = format!(
            "{}, {cores} cores of {processor}, Linux {kernel}, {rustc}\n\n",
            self.date
        );
        text.push_str("| figure | Waypost | floor | which is | ratio | at most | verdict |\n");
        text.push_str("|---|---:|---:|---|---:|---:|---|\n");
        for figure in &self.figures {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", figure.row());
        }
        text
    }
}

impl Machine {
    fn this() -> Self {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processors.lines().find_map(|line| line.strip_prefix("model name"));
        let rustc = Command::new("rustc").arg("--version").output();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: model
                .map_or("an unknown processor", |model| {
                    model.trim_start_matches(['\t', ' ', ':'])
                })
                .to_owned(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            rustc: rustc
                .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
                .unwrap_or_default(),
        }
    }
}
