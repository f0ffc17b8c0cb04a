//! The log of a training run as an SVG plot: one panel for each column, over tokens.

use std::path::Path;

use super::svg::Canvas;
use crate::error::{Error, Result};

/// Panels from top to bottom: a title, and the columns that it shows.
const PANELS: [(&str, &[&str]); 6] = [
    (
        "bits per byte: training (smoothed), held out, held out with c",
        &["train_bpb", "held_out_bpb", "held_out_with_c_bpb"],
    ),
    ("bits of a sequence: with its c, with c empty", &["residual_bits", "empty_bits"]),
    ("bits saved by c, less what it costs (the reward)", &["reward"]),
    ("bits of c, symbols of c", &["c_bits", "c_len"]),
    ("root of the critic's mean squared error", &["value_error"]),
    ("entropy of the actor, cross-entropy in the stages before, nats", &["entropy"]),
];
const COLOURS: [&str; 3] = ["#bbbbbb", "#5b7fa6", "#c0392b"];
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 70.0;

/// Draws `log` beside itself, as `.svg`.
pub(crate) fn draw(log: &Path) -> Result<()> {
    let text = std::fs::read_to_string(log).map_err(|e| Error::io(log, e))?;
    let path = log.with_extension("svg");
    std::fs::write(&path, plot(&text)).map_err(|e| Error::io(path, e))
}

fn plot(csv: &str) -> String {
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().unwrap_or("").split(',').collect();
    let rows: Vec<Vec<f64>> =
        lines.map(|line| line.split(',').map(|v| v.parse().unwrap_or(f64::NAN)).collect()).collect();
    let column = |name: &str| -> Option<Vec<f64>> {
        let at = names.iter().position(|n| *n == name)?;
        Some(rows.iter().map(|row| row.get(at).copied().unwrap_or(f64::NAN)).collect())
    };
    let tokens = column("tokens").unwrap_or_default();
    let panels: Vec<_> = PANELS
        .iter()
        .map(|(title, columns)| (title, columns.iter().filter_map(|name| column(name)).collect::<Vec<_>>()))
        .filter(|(_, columns)| !columns.is_empty())
        .collect();
    let height = 40.0 + panels.len() as f64 * (HEIGHT + 40.0);
    let mut canvas = Canvas::new(WIDTH, height, "Training, over millions of tokens");
    for (number, (title, columns)) in panels.iter().enumerate() {
        panel(&mut canvas, 60.0 + number as f64 * (HEIGHT + 40.0), title, &tokens, columns);
    }
    canvas.finish()
}

fn panel(canvas: &mut Canvas, top: f64, title: &str, tokens: &[f64], columns: &[Vec<f64>]) {
    let known = || columns.iter().flatten().copied().filter(|v| v.is_finite());
    let (low, high) = known().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    canvas.styled(LEFT, top - 6.0, title, "");
    if low > high {
        return;
    }
    let span = (high - low).max(1e-9);
    let most = tokens.iter().copied().fold(1.0, f64::max);
    let x = |tokens: f64| LEFT + tokens / most * (WIDTH - LEFT - 20.0);
    let y = |value: f64| top + HEIGHT - (value - low) / span * HEIGHT;
    for step in 0..=2 {
        let value = low + span * f64::from(step) / 2.0;
        canvas.line((LEFT, y(value)), (WIDTH - 20.0, y(value)), "#eeeeee");
        canvas.styled(LEFT - 8.0, y(value) + 4.0, &format!("{value:.3}"), "text-anchor=\"end\"");
    }
    canvas.styled(WIDTH - 20.0, top + HEIGHT + 16.0, &format!("{:.1}", most / 1e6), "text-anchor=\"end\"");
    for (values, color) in columns.iter().zip(COLOURS.iter().skip(3 - columns.len().min(3))) {
        let points: Vec<(f64, f64)> =
            tokens.iter().zip(values).filter(|(_, v)| v.is_finite()).map(|(&t, &v)| (x(t), y(v))).collect();
        canvas.path(&points, color);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_becomes_a_panel_for_each_group_of_columns_it_has() {
        let plain = plot("step,tokens,seconds,train_bpb,held_out_bpb\n1,100,1,2.0,2.1\n2,200,2,1.9,2.0\n");
        assert_eq!(plain.matches("<polyline").count(), 2);
        let pair = plot(
            "step,tokens,seconds,train_bpb,held_out_bpb,held_out_with_c_bpb,c_bits,c_len,reward\n\
             1,100,1,2.0,2.1,2.1,0,0,0\n2,200,2,1.9,2.0,1.9,1,1,5\n",
        );
        assert_eq!(pair.matches("<polyline").count(), 6);
        assert!(plot("").starts_with("<svg"));
    }
}
