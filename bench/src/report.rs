//! What was measured, beside what it should be.

use std::fmt::Write;

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// It only explains others.
    None,
}

/// The figures of one benchmark, in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<(String, f64, Goal)>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a figure, and shows it at once.
    pub fn add(&mut self, name: &str, value: f64, goal: Goal) {
        eprintln!("{}", line(name, value, goal));
        self.figures.push((name.to_owned(), value, goal));
    }

    /// Adds a sentence about the run.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        eprintln!("{note}");
        self.notes.push(note);
    }

    /// Prints the table, or one JSON object on the last line.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            let mut object: serde_json::Map<String, serde_json::Value> =
                self.figures.iter().map(|(name, value, _)| (name.clone(), rounded(*value).into())).collect();
            object.insert("notes".into(), self.notes.clone().into());
            println!("{}", serde_json::to_string(&object)?);
            return Ok(());
        }
        for (name, value, goal) in &self.figures {
            println!("{}", line(name, *value, *goal));
        }
        for note in &self.notes {
            println!("{note}");
        }
        Ok(())
    }
}

fn line(name: &str, value: f64, goal: Goal) -> String {
    let mut line = format!("{name:<32}{:>12}", rounded(value));
    let (goal, met) = match goal {
        Goal::AtLeast(goal) => (format!(">= {goal}"), value >= goal),
        Goal::AtMost(goal) => (format!("<= {goal}"), value <= goal),
        Goal::None => return line,
    };
    let _ = write!(line, "   goal {goal:<10} {}", if met { "reached" } else { "NOT REACHED" });
    line
}

/// Three digits behind the point for ratios and small times, none for rates.
fn rounded(value: f64) -> f64 {
    if value.abs() >= 1000.0 { value.round() } else { (value * 1000.0).round() / 1000.0 }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value below which the given share of all lie.
pub fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = (values.len() as f64 * share) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
