//! The plot: CPU time against peak RSS, and the CPU time of each group.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::allocators::Role;
use crate::report::{Metric, Report, Subset};

/// A column as it is drawn.
struct Series {
    name: String,
    role: Option<Role>,
    column: Option<usize>,
    colour: RGBColor,
}

const COLOURS: [RGBColor; 9] = [
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(23, 190, 207),
    RGBColor(188, 189, 34),
    RGBColor(90, 90, 160),
    RGBColor(160, 120, 60),
];
const CANDIDATE: RGBColor = RGBColor(214, 39, 40);
const GREY: RGBColor = RGBColor(110, 110, 110);

fn series(report: &Report) -> Vec<Series> {
    let mut peers = COLOURS.iter().cycle();
    let mut all: Vec<Series> = report
        .allocators
        .iter()
        .enumerate()
        .filter(|(_, allocator)| allocator.role != Role::Again)
        .map(|(column, allocator)| Series {
            name: allocator.name.clone(),
            role: Some(allocator.role),
            column: Some(column),
            colour: match allocator.role {
                Role::Baseline | Role::Again => GREY,
                Role::Candidate => CANDIDATE,
                Role::Peer => *peers.next().unwrap_or(&GREY),
            },
        })
        .collect();
    if report.allocators.iter().any(|one| one.role == Role::Peer) {
        all.push(Series {
            name: "best peer on each".to_owned(),
            role: None,
            column: None,
            colour: BLACK,
        });
    }
    all
}

fn value(report: &Report, series: &Series, subset: Subset, metric: Metric) -> Option<f64> {
    match series.column {
        Some(column) => report
            .mean(subset, column, metric)
            .map(|(mean, _)| mean.median),
        None => report.best_mean(subset, metric),
    }
}

/// Draws the plot into an SVG file.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let root = SVGBackend::new(path, (1000, 900)).into_drawing_area();
    let drawn = root
        .fill(&WHITE)
        .map_err(|error| anyhow!("{error}"))
        .and_then(|()| {
            let (upper, lower) = root.split_vertically(480);
            scatter(report, &upper)?;
            bars(report, &lower)
        });
    drawn?;
    root.present().map_err(|error| anyhow!("{error}"))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// All workloads: one point for each allocator, the lower left corner is best.
fn scatter(report: &Report, area: &Area<'_>) -> Result<()> {
    let all = series(report);
    let points: Vec<(&Series, f64, f64)> = all
        .iter()
        .filter_map(|one| {
            let cpu = value(report, one, Subset::All, Metric::Cpu)?;
            let rss = value(report, one, Subset::All, Metric::Rss)?;
            Some((one, cpu, rss))
        })
        .collect();
    let limits = |pick: fn(&(&Series, f64, f64)) -> f64| {
        let low = points.iter().map(pick).fold(1.0, f64::min);
        let high = points.iter().map(pick).fold(1.0, f64::max);
        let margin = ((high - low) * 0.15).max(0.05);
        (low - margin, high + margin)
    };
    let (left, right) = limits(|point| point.1);
    let (bottom, top) = limits(|point| point.2);
    let mut chart = ChartBuilder::on(area)
        .caption(
            "All workloads, ratios to glibc: lower left is better",
            ("sans-serif", 20),
        )
        .margin(12)
        .margin_right(120)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d(left..right, bottom..top)?;
    chart
        .configure_mesh()
        .x_desc("CPU time, geometric mean")
        .y_desc("peak RSS, geometric mean")
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|value| format!("{value:.2}"))
        .y_label_formatter(&|value| format!("{value:.2}"))
        .draw()?;
    chart.draw_series([
        PathElement::new(vec![(1.0, bottom), (1.0, top)], GREY.mix(0.6)),
        PathElement::new(vec![(left, 1.0), (right, 1.0)], GREY.mix(0.6)),
    ])?;
    for (one, cpu, rss) in points {
        let size = if one.role == Some(Role::Candidate) {
            8
        } else {
            5
        };
        let style = if one.role.is_none() {
            one.colour.stroke_width(2)
        } else {
            one.colour.filled()
        };
        chart.draw_series([EmptyElement::at((cpu, rss))
            + Circle::new((0, 0), size, style)
            + Text::new(
                one.name.clone(),
                (10, -6),
                ("sans-serif", 14).into_font().color(&one.colour),
            )])?;
    }
    Ok(())
}

/// CPU time by group: a bar for each allocator.
fn bars(report: &Report, area: &Area<'_>) -> Result<()> {
    let all = series(report);
    let subsets: Vec<Subset> = Subset::ALL
        .into_iter()
        .filter(|subset| report.rows.iter().any(|row| subset.holds(row)))
        .collect();
    let top = all
        .iter()
        .flat_map(|one| {
            subsets
                .iter()
                .filter_map(|&subset| value(report, one, subset, Metric::Cpu))
        })
        .fold(1.0, f64::max)
        * 1.1;
    let groups = subsets.len();
    let mut chart = ChartBuilder::on(area)
        .caption(
            "CPU time by group, geometric means, ratios to glibc",
            ("sans-serif", 20),
        )
        .margin(12)
        .margin_right(160)
        .x_label_area_size(30)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..groups as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .y_label_formatter(&|value| format!("{value:.1}"))
        .draw()?;
    chart.draw_series([PathElement::new(
        vec![(0.0, 1.0), (groups as f64, 1.0)],
        GREY,
    )])?;
    let width = 0.86 / all.len().max(1) as f64;
    for (place, one) in all.iter().enumerate() {
        let rectangles = subsets.iter().enumerate().filter_map(|(group, &subset)| {
            let height = value(report, one, subset, Metric::Cpu)?;
            let start = group as f64 + 0.07 + place as f64 * width;
            let style = if one.role.is_none() {
                one.colour.stroke_width(1)
            } else {
                one.colour.filled()
            };
            Some(Rectangle::new(
                [(start, 0.0), (start + width * 0.9, height)],
                style,
            ))
        });
        chart.draw_series(rectangles)?;
    }
    // The names below the groups and the key at the side are drawn by place:
    // the chart's own key would lie over the bars.
    let (wide, high) = area.dim_in_pixel();
    let plot = f64::from(wide) - 12.0 - 160.0 - 56.0;
    for (group, subset) in subsets.iter().enumerate() {
        let x = 56.0 + 12.0 + plot * (group as f64 + 0.25) / groups as f64;
        let text = Text::new(
            subset.name(),
            (x as i32, high as i32 - 30),
            ("sans-serif", 14),
        );
        area.draw(&text)?;
    }
    for (place, one) in all.iter().enumerate() {
        let (x, y) = (wide as i32 - 150, 50 + 22 * place as i32);
        let style = if one.role.is_none() {
            one.colour.stroke_width(1)
        } else {
            one.colour.filled()
        };
        area.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], style))?;
        area.draw(&Text::new(
            one.name.clone(),
            (x + 18, y),
            ("sans-serif", 14),
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn the_plot_names_every_allocator_but_the_second_glibc() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("plot.svg");
        draw(&example(), &path).expect("it is drawn");
        let text = std::fs::read_to_string(path).expect("it is there");
        assert!(text.starts_with("<svg"));
        for name in [
            "glibc",
            "fencepost",
            "one",
            "two",
            "best peer on each",
            "real programs",
        ] {
            assert!(text.contains(&format!("\n{name}\n")), "{name} is missing");
        }
        assert!(!text.contains("glibc again"));
    }
}
