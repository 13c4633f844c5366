//! A translation as an SVG picture: the address on top, the tables below it from left to right,
//! an arrow from each index to its entry and from each entry to the next table.

use std::fmt::Display;

use fencepost::mmu::addr::Access;
use svg::node::element::{Definitions, Group, Line, Marker, Path, Rectangle, Style, Text, Title};
use svg::{Document, Node};

use super::address::{counted, mode_name};
use super::story::{End, Story};
use super::translate::fault_lines;

const STYLE: &str = "\
text { font-family: monospace; font-size: 13px; fill: #1b1b1b } \
.title { font-size: 16px; font-weight: bold } \
.small { font-size: 11px; fill: #555 } \
.middle { text-anchor: middle } \
rect { fill: #fff; stroke: #444 } \
.used { fill: #d6e6fb } \
.reached { fill: #d8f0d6 } \
.refused { fill: #fbd9d6 } \
.fault { fill: #a01b12 } \
path, line { stroke: #2a5ca8; fill: none; stroke-width: 1.5 } \
marker path { fill: #2a5ca8; stroke: none }";

const MARGIN: f64 = 24.0;
/// Width of one table.
const TABLE: f64 = 190.0;
/// Where the first table begins.
const LEFT: f64 = MARGIN + 62.0;
/// Space between tables.
const GAP: f64 = 46.0;
const TOP: f64 = 190.0;
const ENTRY: f64 = 44.0;

/// The picture.
pub fn draw(story: &Story) -> String {
    // Everything that was walked, and what it led to.
    let columns = story.steps.len() + 1;
    let width = (LEFT + columns as f64 * (TABLE + GAP)).max(760.0);
    let height = match story.steps.is_empty() {
        true => TOP + 60.0,
        false => TOP + 6.0 * ENTRY + 90.0,
    };
    let mut document = Document::new()
        .set("viewBox", (0.0, 0.0, width, height))
        .set("width", width)
        .set("height", height)
        .set("role", "img")
        .add(Title::new(heading(story)))
        .add(Style::new(STYLE))
        .add(Definitions::new().add(arrow_head()))
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("style", "stroke: none"),
        )
        .add(text(MARGIN, 30.0, "title", heading(story)));
    let centres = address(&mut document, story, width);
    tables(&mut document, story, &centres);
    end(&mut document, story, height);
    document.to_string()
}

fn heading(story: &Story) -> String {
    let scene = &story.scene;
    let what = match scene.access {
        Access::Read => "Read of",
        Access::Write => "Write to",
        Access::Exec => "Instruction fetch from",
    };
    format!(
        "{what} {:#x} in {} mode, {}",
        scene.va,
        mode_name(scene.mode),
        story.geometry
    )
}

fn arrow_head() -> Marker {
    Marker::new()
        .set("id", "arrow")
        .set("viewBox", (0, 0, 10, 10))
        .set("refX", 9)
        .set("refY", 5)
        .set("markerWidth", 7)
        .set("markerHeight", 7)
        .set("orient", "auto")
        .add(Path::new().set("d", "M0,0 L10,5 L0,10 z"))
}

fn text(x: f64, y: f64, class: &str, content: impl Display) -> Text {
    Text::new(content.to_string())
        .set("x", x)
        .set("y", y)
        .set("class", class)
}

fn add(document: &mut Document, node: impl Node) {
    document.append(node);
}

/// The address in boxes as wide as they have bits; where the boxes of the indices end below.
fn address(document: &mut Document, story: &Story, width: f64) -> Vec<f64> {
    const LEAST: f64 = 96.0;
    let bits: u32 = story.parts.iter().map(|p| p.high - p.low + 1).sum();
    let free = width - MARGIN * 2.0 - LEAST * story.parts.len() as f64;
    let mut x = MARGIN;
    let mut centres = Vec::new();
    for part in &story.parts {
        let wide = LEAST + free * f64::from(part.high - part.low + 1) / f64::from(bits);
        let centre = x + wide / 2.0;
        let group = Group::new()
            .set("class", "part")
            .add(
                Rectangle::new()
                    .set("x", x)
                    .set("y", 68.0)
                    .set("width", wide)
                    .set("height", 30.0),
            )
            .add(text(x + 2.0, 62.0, "small", part.high))
            .add(text(x + wide - 2.0, 62.0, "small", part.low).set("text-anchor", "end"))
            .add(text(centre, 88.0, "middle", part.bits()))
            .add(text(
                centre,
                116.0,
                "middle",
                format!("{} {}", story.label(part), part.number()),
            ));
        add(document, group);
        if part.level.is_some() {
            centres.push(centre);
        }
        x += wide;
    }
    centres
}

/// The tables that were walked, with the entry that was read and its neighbours.
fn tables(document: &mut Document, story: &Story, centres: &[f64]) {
    for (place, step) in story.steps.iter().enumerate() {
        let last = place + 1 == story.steps.len();
        let x = LEFT + place as f64 * (TABLE + GAP);
        let y = TOP + 2.0 * ENTRY;
        let class = match (&story.end, last) {
            (End::Refused(_), true) => "refused",
            _ => "used",
        };
        let mut group = Group::new()
            .set("class", "table")
            .add(
                Rectangle::new()
                    .set("x", x)
                    .set("y", TOP)
                    .set("width", TABLE)
                    .set("height", 5.0 * ENTRY),
            )
            .add(text(
                x + TABLE / 2.0,
                TOP - 10.0,
                "middle",
                format!("{} at {:#x}", story.name(step.level), step.table),
            ))
            .add(
                Rectangle::new()
                    .set("x", x)
                    .set("y", y)
                    .set("width", TABLE)
                    .set("height", ENTRY)
                    .set("class", class),
            )
            .add(text(
                x + TABLE / 2.0,
                y + 18.0,
                "middle",
                format!("{}: {}", step.index, step.says),
            ))
            .add(text(x + TABLE / 2.0, y + 36.0, "middle", &step.flags))
            .add(text(
                x + TABLE / 2.0,
                TOP + 5.0 * ENTRY + 16.0,
                "small middle",
                format!("{} at {:#x}", step.bits, step.slot),
            ));
        if let Some(centre) = centres.get(place) {
            // From the index in the address down to the entry.
            let path = format!(
                "M{centre:.0},122 C{centre:.0},160 {:.0},130 {:.0},{:.0} L{:.0},{:.0}",
                x + 14.0,
                x + 14.0,
                TOP - 2.0,
                x + 14.0,
                y - 1.0
            );
            group = group.add(arrow(&path));
        }
        let onward = !last || matches!(story.end, End::Reached { .. });
        if onward {
            let from = x + TABLE;
            let path = format!(
                "M{from:.0},{:.0} C{:.0},{:.0} {:.0},{:.0} {:.0},{:.0}",
                y + ENTRY / 2.0,
                from + GAP * 0.8,
                y + ENTRY / 2.0,
                from + GAP * 0.2,
                TOP + 8.0,
                from + GAP - 1.0,
                TOP + 8.0
            );
            group = group.add(arrow(&path));
        }
        add(document, group);
    }
    if let Some(step) = story.steps.first() {
        let cr3 = Group::new()
            .add(text(MARGIN, TOP - 42.0, "small", "CR3"))
            .add(text(
                MARGIN,
                TOP - 28.0,
                "small",
                format!("{:#x}", step.table),
            ))
            .add(
                Line::new()
                    .set("x1", MARGIN + 4.0)
                    .set("y1", TOP - 24.0)
                    .set("x2", LEFT - 1.0)
                    .set("y2", TOP + 8.0)
                    .set("marker-end", "url(#arrow)"),
            );
        add(document, cr3);
    }
}

fn arrow(path: &str) -> Path {
    Path::new().set("d", path).set("marker-end", "url(#arrow)")
}

/// The frame, or the fault.
fn end(document: &mut Document, story: &Story, height: f64) {
    let x = LEFT + story.steps.len() as f64 * (TABLE + GAP);
    let below = height - 78.0;
    match &story.end {
        End::Reached { page, at } => {
            let group = Group::new()
                .set("class", "frame")
                .add(
                    Rectangle::new()
                        .set("x", x)
                        .set("y", TOP)
                        .set("width", TABLE)
                        .set("height", 5.0 * ENTRY)
                        .set("class", "reached"),
                )
                .add(text(
                    x + TABLE / 2.0,
                    TOP - 10.0,
                    "middle",
                    format!("frame at {page:#x}"),
                ))
                .add(text(
                    x + TABLE / 2.0,
                    TOP + 2.0 * ENTRY + 18.0,
                    "middle",
                    format!("+ {:#x}", at - page),
                ))
                .add(text(
                    x + TABLE / 2.0,
                    TOP + 2.0 * ENTRY + 36.0,
                    "middle",
                    format!("= {at:#x}"),
                ));
            add(document, group);
            let [first, second] = story.references;
            let lines = [
                format!("Physical address {at:#x}"),
                format!(
                    "First access: TLB miss, {}{} ({} and the byte)",
                    if story.fresh.is_some() {
                        "page fault, the kernel maps the page, begun again: "
                    } else {
                        ""
                    },
                    counted(first, "memory access"),
                    counted(first - 1, "entry"),
                ),
                format!(
                    "Second access: TLB hit, {}",
                    counted(second, "memory access")
                ),
            ];
            for (row, line) in lines.iter().enumerate() {
                add(document, text(MARGIN, below + 20.0 * row as f64, "", line));
            }
        }
        End::Refused(fault) => {
            let (title, lines) = fault_lines(fault);
            let place = if story.steps.is_empty() { TOP } else { below };
            add(document, text(MARGIN, place, "fault", title));
            let pairs: Vec<String> = lines
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            for (row, line) in pairs.chunks(3).enumerate() {
                let y = place + 20.0 * (row + 1) as f64;
                add(document, text(MARGIN, y, "", line.join("; ")));
            }
        }
    }
}
