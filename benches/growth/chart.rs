//! The curves: instructions, time and cache misses of a pair of calls along each axis.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Axis, Cost, Point, names};

const GREY: RGBColor = RGBColor(110, 110, 110);
const FENCEPOST: RGBColor = RGBColor(214, 39, 40);
const OTHERS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(23, 190, 207),
    RGBColor(188, 189, 34),
];

/// The phases that are drawn.
const ONE_BY_ONE: usize = 0;
const BATCHES: usize = 1;

/// A row of charts: what is drawn.
type Metric = (&'static str, fn(&Cost) -> Option<f64>);
const METRICS: [Metric; 3] = [
    ("instructions", |cost| cost.instructions),
    ("ns of CPU time", |cost| cost.ns),
    ("misses of a 2 MiB cache", |cost| cost.last),
];

/// The colour of each allocator.
fn colours<'a>(names: &[&'a str]) -> Vec<(&'a str, RGBColor)> {
    let mut others = OTHERS.iter().cycle();
    let colour = |name| match name {
        "glibc" => GREY,
        "fencepost" => FENCEPOST,
        _ => *others.next().unwrap_or(&GREY),
    };
    names
        .iter()
        .copied()
        .zip(names.iter().copied().map(colour))
        .collect()
}

/// Draws the charts into an SVG file.
pub fn draw(points: &[Point], path: &Path) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (1200, 900)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(36);
    let colours = colours(&names(points));
    let title = "A free and a malloc at each size of the heap (dashed: 512 at a time)";
    head.draw(&Text::new(title, (16, 12), ("sans-serif", 18)))?;
    for (place, (name, colour)) in colours.iter().enumerate() {
        let x = 600 + 130 * place as i32;
        head.draw(&Rectangle::new([(x, 14), (x + 14, 26)], colour.filled()))?;
        head.draw(&Text::new(
            (*name).to_string(),
            (x + 20, 12),
            ("sans-serif", 16),
        ))?;
    }
    let areas = body.split_evenly((METRICS.len(), Axis::ALL.len()));
    let cells = METRICS.iter().flat_map(|m| Axis::ALL.map(|axis| (m, axis)));
    for ((metric, axis), area) in cells.zip(&areas) {
        chart(points, &colours, metric, axis, area)?;
    }
    root.present()?;
    Ok(())
}

/// Where an amount lies on its axis: powers of two, of objects powers of ten.
fn place(axis: Axis, amount: u64) -> f64 {
    match axis {
        Axis::Objects => (amount as f64).log10(),
        _ => (amount as f64).log2(),
    }
}

/// The amount at a place.
fn amount(axis: Axis, place: f64) -> u64 {
    let base: f64 = if axis == Axis::Objects { 10.0 } else { 2.0 };
    base.powf(place).round() as u64
}

fn chart(
    points: &[Point],
    colours: &[(&str, RGBColor)],
    metric: &Metric,
    axis: Axis,
    area: &DrawingArea<SVGBackend<'_>, Shift>,
) -> Result<(), Box<dyn Error>> {
    let line = |name: &str, phase: usize| -> Vec<(f64, f64)> {
        points
            .iter()
            .filter(|p| p.axis == axis && p.allocator == name)
            .filter_map(|p| Some((place(axis, p.amount), metric.1(&p.costs[phase])?)))
            .collect()
    };
    let all: Vec<(f64, f64)> = colours
        .iter()
        .flat_map(|(name, _)| [line(name, ONE_BY_ONE), line(name, BATCHES)].concat())
        .collect();
    let Some(right) = all.iter().map(|p| p.0).reduce(f64::max) else {
        return Ok(());
    };
    let left = all.iter().map(|p| p.0).fold(right, f64::min);
    let top = all.iter().map(|p| p.1).fold(0.0, f64::max) * 1.08;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(58)
        .build_cartesian_2d(left..right, 0.0..top.max(0.1))?;
    chart
        .configure_mesh()
        .x_desc(axis.title())
        .y_desc(metric.0)
        .x_labels(9)
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|at| axis.label(amount(axis, *at)))
        .y_label_formatter(&|value| format!("{}", (value * 100.0).round() / 100.0))
        .draw()?;
    for (name, colour) in colours {
        let one = line(name, ONE_BY_ONE);
        chart.draw_series([PathElement::new(one.clone(), colour.stroke_width(2))])?;
        let dots = one
            .into_iter()
            .map(|at| Circle::new(at, 3, colour.filled()));
        chart.draw_series(dots)?;
        let batches = line(name, BATCHES);
        chart.draw_series(DashedLineSeries::new(batches, 5, 4, colour.stroke_width(1)))?;
    }
    Ok(())
}
