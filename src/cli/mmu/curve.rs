//! Faults over the size of memory, as an SVG picture.

use std::error::Error;

use plotters::prelude::*;

use super::grid::Choice;

/// Faults at each size for one policy.
pub struct Line {
    /// Which.
    pub choice: Choice,
    /// Pairs of frames and faults.
    pub points: Vec<(u64, u64)>,
}

/// The picture. The policy that was asked for has a thicker line, the number of frames that was
/// asked for a mark on it.
pub fn draw(lines: &[Line], chosen: Choice, frames: u64) -> Result<String, Box<dyn Error>> {
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, (860, 520)).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || lines.iter().flat_map(|line| &line.points);
        let right = points().map(|point| point.0).max().unwrap_or(1).max(2);
        let top = points().map(|point| point.1).max().unwrap_or(1);
        let mut chart = ChartBuilder::on(&area)
            .caption("Page faults by size of memory", ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(72)
            .build_cartesian_2d(1..right, 0..top + top / 20 + 1)?;
        chart
            .configure_mesh()
            .x_desc("frames")
            .y_desc("faults")
            .x_labels(16)
            .light_line_style(WHITE)
            .draw()?;
        // The one that was asked for lies on top.
        let order = lines.iter().filter(|line| line.choice != chosen);
        for line in order.chain(lines.iter().filter(|line| line.choice == chosen)) {
            let width = if line.choice == chosen { 3 } else { 1 };
            let style = colour(line.choice).stroke_width(width);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))?
                .label(line.choice.name())
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style));
            if line.choice == chosen {
                let marked = line.points.iter().filter(|point| point.0 == frames);
                let dot = |point: &(u64, u64)| Circle::new(*point, 5, style.filled());
                chart.draw_series(marked.map(dot))?;
            }
        }
        chart
            .configure_series_labels()
            // Curves fall to the right.
            .position(SeriesLabelPosition::UpperRight)
            .border_style(BLACK)
            .background_style(WHITE)
            .draw()?;
        area.present()?;
    }
    Ok(out)
}

fn colour(choice: Choice) -> RGBColor {
    match choice {
        Choice::Fifo => RGBColor(0xc0, 0x39, 0x2b),
        Choice::Lru => RGBColor(0x2a, 0x5c, 0xa8),
        Choice::Clock => RGBColor(0xd6, 0x8f, 0x10),
        Choice::Opt => RGBColor(0x2e, 0x8b, 0x57),
        Choice::Random => RGBColor(0x77, 0x77, 0x77),
    }
}
