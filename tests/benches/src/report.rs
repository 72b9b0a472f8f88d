//! The results: a table on the terminal, `results.md` and `results.json` in `target/bench`.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::checkout;
use crate::machine::Machine;
use crate::statistics::Spread;

/// The parts in the order of the table.
const PARTS: [&str; 5] = ["admission", "instructions", "pods", "footprint", "nodes"];

/// What a figure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Unit {
    /// How many times another figure of the same round.
    Ratio,
    /// A number of things.
    Count,
    /// A part of one, in percent.
    Percent,
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
    /// Mebibytes.
    Mebibytes,
    /// Things in a second.
    PerSecond,
}

/// What is promised of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Bound {
    /// It is no higher.
    AtMost(f64),
    /// It is no lower.
    AtLeast(f64),
}

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The promise that it belongs to.
    pub(crate) promise: String,
    /// What was measured.
    pub(crate) what: String,
    /// In what it is counted.
    pub(crate) unit: Unit,
    /// What came out.
    pub(crate) figure: Spread,
    /// What is promised, if anything.
    pub(crate) bound: Option<Bound>,
}

/// The figures of one part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Section {
    /// The part, as the command line names it.
    pub(crate) part: String,
    /// The heading.
    pub(crate) title: String,
    /// How it was measured.
    pub(crate) method: String,
    /// When.
    pub(crate) measured_at: Timestamp,
    /// On what.
    pub(crate) machine: Machine,
    /// The figures.
    pub(crate) rows: Vec<Row>,
}

impl Section {
    /// Without figures yet.
    pub(crate) fn new(part: &str, title: &str, method: &str) -> Self {
        Self {
            part: part.to_owned(),
            title: title.to_owned(),
            method: method.to_owned(),
            measured_at: Timestamp::now(),
            machine: Machine::this(),
            rows: Vec::new(),
        }
    }

    /// Adds a figure.
    pub(crate) fn push(
        &mut self,
        promise: &str,
        what: impl Into<String>,
        unit: Unit,
        figure: Spread,
        bound: Option<Bound>,
    ) {
        self.rows.push(Row {
            promise: promise.to_owned(),
            what: what.into(),
            unit,
            figure,
            bound,
        });
    }

    /// Keeps the part's figures until it is measured again.
    pub(crate) fn keep(&self) -> Result<()> {
        let path = kept(&self.part)?;
        fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Unit {
    fn show(self, value: f64) -> String {
        let digits = match value.abs() {
            size if size >= 100.0 => 0,
            size if size >= 10.0 => 1,
            _ => 2,
        };
        let number = format!("{value:.digits$}");
        match self {
            Self::Ratio => format!("{value:.2}×"),
            Self::Count => number,
            Self::Percent => format!("{number} %"),
            Self::Micros => format!("{number} µs"),
            Self::Millis => format!("{number} ms"),
            Self::Mebibytes => format!("{number} MiB"),
            Self::PerSecond => format!("{number} /s"),
        }
    }
}

impl Row {
    /// Whether the median is within what is promised.
    fn is_kept(&self) -> Option<bool> {
        self.bound.map(|bound| match bound {
            Bound::AtMost(most) => self.figure.median <= most,
            Bound::AtLeast(least) => self.figure.median >= least,
        })
    }

    fn cells(&self) -> [String; 6] {
        let show = |value| self.unit.show(value);
        let Spread {
            median,
            lowest,
            highest,
            rounds,
        } = self.figure;
        let spread = if rounds > 1 {
            format!("{} – {} in {rounds}", show(lowest), show(highest))
        } else {
            String::new()
        };
        let promised = match self.bound {
            None => String::new(),
            Some(Bound::AtMost(most)) => format!("≤ {}", show(most)),
            Some(Bound::AtLeast(least)) => format!("≥ {}", show(least)),
        };
        let is_kept = match self.is_kept() {
            None => "",
            Some(true) => "kept",
            Some(false) => "missed",
        };
        [
            self.promise.clone(),
            self.what.clone(),
            show(median),
            spread,
            promised,
            is_kept.to_owned(),
        ]
    }
}

fn kept(part: &str) -> Result<PathBuf> {
    Ok(checkout::output()?.join(format!("{part}.json")))
}

/// Puts together what was measured, prints it and writes it down.
pub(crate) fn publish() -> Result<()> {
    let mut sections: Vec<Section> = Vec::new();
    for part in PARTS {
        let path = kept(part)?;
        if path.is_file() {
            let section = serde_json::from_slice(&fs::read(&path)?)
                .with_context(|| format!("{} is not of this program", path.display()))?;
            sections.push(section);
        }
    }
    let directory = checkout::output()?;
    let text = render(&sections)?;
    fs::write(directory.join("results.md"), &text)?;
    fs::write(
        directory.join("results.json"),
        serde_json::to_vec_pretty(&sections)?,
    )?;
    say(&text);
    Ok(())
}

fn render(sections: &[Section]) -> Result<String> {
    let mut text = String::from("# Speed\n");
    for section in sections {
        let Machine {
            processor,
            processors,
            memory_gib,
            kernel,
        } = &section.machine;
        write!(
            text,
            "\n## {}\n\n{}\n\nMeasured {:.0} on {processors} × {processor}, {memory_gib} GiB, Linux {kernel}.\n\n",
            section.title, section.method, section.measured_at
        )?;
        let mut rows =
            vec![["", "figure", "median", "lowest – highest", "promised", ""].map(str::to_owned)];
        rows.extend(section.rows.iter().map(Row::cells));
        text.push_str(&table(&rows));
    }
    Ok(text)
}

/// A Markdown table with aligned columns, the first row being its header.
fn table(rows: &[[String; 6]]) -> String {
    let mut widths = [3; 6];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; 6]| {
        let cells: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = widths.map(|width| "-".repeat(width));
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text.push_str(&line(row));
        if index == 0 {
            text.push_str(&line(&rule));
        }
    }
    text
}

/// Tells whoever watches.
pub(crate) fn say(text: &str) {
    // nobody to tell that nobody listens
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn row(median: f64, bound: Option<Bound>) -> Row {
        Row {
            promise: "P1".into(),
            what: "small".into(),
            unit: Unit::Ratio,
            figure: Spread {
                median,
                lowest: 1.0,
                highest: 2.0,
                rounds: 9,
            },
            bound,
        }
    }

    #[rstest]
    #[case(1.3, Some(Bound::AtMost(1.35)), "kept")]
    #[case(1.4, Some(Bound::AtMost(1.35)), "missed")]
    #[case(0.96, Some(Bound::AtLeast(0.95)), "kept")]
    #[case(0.9, Some(Bound::AtLeast(0.95)), "missed")]
    #[case(0.9, None, "")]
    fn a_promise_is_kept_or_missed(
        #[case] median: f64,
        #[case] bound: Option<Bound>,
        #[case] expected: &str,
    ) {
        assert_eq!(row(median, bound).cells()[5], expected);
    }

    #[test]
    fn the_table_is_aligned() {
        let rows = [
            row(1.25, None).cells(),
            row(10.0, Some(Bound::AtMost(2.0))).cells(),
        ];
        let text = table(&rows);
        let lines: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|length| *length == lines[0]));
        assert!(
            text.starts_with("| P1  | small | 1.25×  | 1.00× – 2.00× in 9 |"),
            "{text}"
        );
    }
}
