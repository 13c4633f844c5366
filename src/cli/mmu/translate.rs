//! `fencepost mmu translate`: one address on its way through the page tables.

use std::fmt::Write;
use std::path::PathBuf;

use fencepost::mmu::fault::{Cause, Fault, Signature};
use fencepost::mmu::geometry::{Flat, Geometry, Pae, X86L2, X86L4, X86L5};

use super::address::{Doing, access_name, counted, mode_name, number, size};
use super::picture;
use super::story::{End, Page, Scene, Step, Story, reason, table_frames, tell};
use crate::failure::Failure;
use crate::man::print;

/// Show the translation of an address step by step
///
/// A model of the machine maps one page and accesses it twice: the address is cut into indices,
/// each names an entry of a table, the last entry names the frame. The second time the TLB knows
/// the answer. Where the page does not allow the access, the fault and its signal are shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The virtual address, such as 0x7f1ecc031234
    #[arg(value_parser = number)]
    address: u64,

    /// How addresses are cut
    #[arg(short, long, value_enum, default_value_t = Shape::X86_4)]
    geometry: Shape,

    /// What lies at the address: read-write by default, the kernel's in its part of all addresses
    #[arg(short, long, value_enum)]
    page: Option<Page>,

    /// Map a huge page: the smallest, or of this size (4M, 2M, 1G)
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true,
          default_missing_value = "smallest")]
    huge: Option<String>,

    /// The number of the frame that the page lies in
    #[arg(long, default_value = "0x2a42", value_parser = frame)]
    frame: u32,

    #[command(flatten)]
    doing: Doing,

    /// Draw the tables as an SVG picture, too
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    svg: Option<PathBuf>,
}

/// The geometries by the names of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shape {
    /// The 80386: two levels, 10 + 10 + 12 bits
    #[value(name = "x86-2")]
    X86_2,
    /// Physical address extension: 2 + 9 + 9 + 12 bits
    #[value(name = "pae")]
    Pae,
    /// x86-64: four levels, 9 + 9 + 9 + 9 + 12 bits
    #[value(name = "x86-4")]
    X86_4,
    /// x86-64 with five levels, 57 bits
    #[value(name = "x86-5")]
    X86_5,
    /// One table for everything: 20 + 12 bits
    #[value(name = "flat")]
    Flat,
}

fn frame(text: &str) -> Result<u32, String> {
    let number = number(text)?;
    match u32::try_from(number) {
        // Even the next multiple of 1 GiB is below the 4 GiB that every geometry has room for.
        Ok(number) if number < 0x8_0000 => Ok(number),
        _ => Err("the frame needs a number below 0x80000".into()),
    }
}

/// Prints the translation, and draws it if asked to.
pub fn run(args: &Args) -> Result<(), Failure> {
    let story = match args.geometry {
        Shape::X86_2 => play::<X86L2>(args),
        Shape::Pae => play::<Pae>(args),
        Shape::X86_4 => play::<X86L4>(args),
        Shape::X86_5 => play::<X86L5>(args),
        Shape::Flat => play::<Flat>(args),
    }?;
    if let Some(file) = &args.svg {
        super::save(file, &picture::draw(&story))?;
    }
    print(text(&story).as_bytes())
}

fn play<G: Geometry>(args: &Args) -> Result<Story, Failure> {
    if !G::SIGN_EXTEND && args.address >> G::VA_BITS != 0 {
        return Err(Failure::own(format_args!(
            "{:#x} has more than the {} bits of an address of {}",
            args.address,
            G::VA_BITS,
            G::NAME
        )));
    }
    let level = match args.huge.as_deref() {
        None => 0,
        Some(wanted) => huge_level::<G>(wanted)?,
    };
    let page = match args.page {
        Some(page) => page,
        None if args.address >= G::USER_END => Page::Kernel,
        None => Page::ReadWrite,
    };
    if level > 0 && matches!(page, Page::Guard | Page::NoAccess | Page::None) {
        return Err(Failure::own("--huge needs a page that may be accessed"));
    }
    let tables = table_frames::<G>();
    if level == 0 && tables.contains(&args.frame) {
        return Err(Failure::own(format_args!(
            "frame {:#x} is needed for page tables, as all from {:#x} to {:#x} are",
            args.frame,
            tables.start,
            tables.end - 1
        )));
    }
    Ok(tell::<G>(Scene {
        va: args.address,
        page,
        level,
        frame: args.frame,
        access: args.doing.access(),
        mode: args.doing.mode(),
    }))
}

fn huge_level<G: Geometry>(wanted: &str) -> Result<usize, Failure> {
    let mut levels = (1..G::LEVELS).filter(|level| G::is_huge_level(*level));
    let short = |level| size(G::span(level)).replace(" ", "").replace("iB", "");
    let found = match wanted {
        "smallest" => levels.clone().next(),
        _ => levels.clone().find(|level| {
            let name = short(*level);
            wanted.eq_ignore_ascii_case(&name) || wanted.eq_ignore_ascii_case(&format!("{name}iB"))
        }),
    };
    found.ok_or_else(|| {
        let names: Vec<String> = levels.by_ref().map(short).collect();
        let names = if names.is_empty() {
            "none".into()
        } else {
            names.join(" and ")
        };
        Failure::own(format_args!("huge pages of {}: {names}", G::NAME))
    })
}

/// The whole translation as text.
fn text(story: &Story) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = tell_all(&mut out, story);
    out
}

fn tell_all(out: &mut String, story: &Story) -> std::fmt::Result {
    let scene = &story.scene;
    writeln!(out, "{:#x} in {}\n", scene.va, story.geometry)?;
    boxes(out, story)?;
    writeln!(out, "\nMapped: {}.\n", story.mapped)?;
    let what = format!(
        "{} in {} mode",
        access_name(scene.access),
        mode_name(scene.mode)
    );
    if let End::Refused(fault) = &story.end
        && fault.cause == Cause::NonCanonical
    {
        writeln!(out, "The {what} asks no table.\n")?;
        return tell_fault(out, fault);
    }
    writeln!(
        out,
        "First {what}: the TLB is empty, the tables are walked.\n"
    )?;
    if let Some(steps) = &story.fresh {
        walk(out, story, steps)?;
        writeln!(
            out,
            "\n  Page fault. The area allows the access, so the kernel makes the tables that are\n  \
             missing, takes a frame, fills it with zeros and stores the entry. The same\n  \
             instruction begins again:\n"
        )?;
    }
    walk(out, story, &story.steps)?;
    match &story.end {
        End::Reached { page, at } => {
            writeln!(
                out,
                "\n  physical address {page:#x} + {:#x} = {at:#x}",
                at - page
            )?;
            writeln!(
                out,
                "  {}: {} and the byte\n",
                counted(story.references[0], "memory access"),
                counted(story.references[0] - 1, "entry"),
            )?;
            let how = if story.hit { "TLB hit" } else { "TLB miss" };
            writeln!(out, "Second {what}: {how}.\n")?;
            writeln!(out, "  physical address {at:#x}")?;
            writeln!(
                out,
                "  {}: the byte",
                counted(story.references[1], "memory access")
            )?;
        }
        End::Refused(fault) => {
            writeln!(out)?;
            tell_fault(out, fault)?;
            writeln!(
                out,
                "\nThe TLB keeps nothing of a fault: the same access would walk again."
            )?;
        }
    }
    writeln!(
        out,
        "\nFlags: P present, W writable, U user, A accessed, D dirty, H huge, G global, C copy\n\
         on write, L lazily freed, X may be executed."
    )
}

/// The address in binary, in boxes.
fn boxes(out: &mut String, story: &Story) -> std::fmt::Result {
    let columns: Vec<[String; 4]> = story
        .parts
        .iter()
        .map(|part| {
            let label = story.label(part);
            let ends = format!("{} {}", part.high, part.low);
            let bits = part.bits();
            let number = part.number();
            let widths = [&label, &ends, &bits, &number].map(String::len);
            let width = widths.into_iter().max().unwrap_or(0);
            let gap = width - ends.len() + 1;
            [
                format!("{}{:gap$}{}", part.high, "", part.low),
                format!("{bits:width$}"),
                format!("{label:width$}"),
                format!("{number:width$}"),
            ]
        })
        .collect();
    let row = |index: usize, separator: &str| {
        let cells: Vec<&str> = columns
            .iter()
            .map(|column| column[index].as_str())
            .collect();
        cells.join(separator)
    };
    let rule: Vec<String> = columns.iter().map(|c| "-".repeat(c[0].len() + 2)).collect();
    let rule = rule.join("+");
    writeln!(out, "    {}", row(0, "   ").trim_end())?;
    writeln!(out, "  +{rule}+")?;
    writeln!(out, "  | {} |", row(1, " | "))?;
    writeln!(out, "  +{rule}+")?;
    writeln!(out, "    {}", row(2, "   ").trim_end())?;
    writeln!(out, "    {}", row(3, "   ").trim_end())?;
    if story.sign {
        let top = story.bits - 1;
        let above = story.scene.va >> story.bits;
        let all = (1u64 << (64 - story.bits)) - 1;
        let is = match (above, story.scene.va >> top & 1) {
            (0, 0) => "all 0, as it is",
            (above, 1) if above == all => "all 1, as it is",
            _ => "which they do not",
        };
        writeln!(
            out,
            "\n  Bits 63 to {} must repeat bit {top}: {is}.",
            story.bits
        )?;
    }
    Ok(())
}

/// CR3, and the entries that were read.
fn walk(out: &mut String, story: &Story, steps: &[Step]) -> std::fmt::Result {
    writeln!(out, "  CR3 = {:#x}", story.root)?;
    let widest = |text: fn(&Step) -> String| steps.iter().map(|s| text(s).len()).max().unwrap_or(0);
    let index_width = widest(|step| step.index.to_string());
    let slot_width = widest(|step| format!("{:#x}", step.slot));
    let table_width = widest(|step| format!("{:#x}", step.table));
    for step in steps {
        writeln!(
            out,
            "  level {} ({})  table {:<table_width$}  entry {:>index_width$} at {:<slot_width$}  \
             {}  {}  -> {}",
            step.level,
            story.name(step.level),
            format!("{:#x}", step.table),
            step.index,
            format!("{:#x}", step.slot),
            step.bits,
            step.flags,
            step.says
        )?;
    }
    Ok(())
}

/// The fault, as the processor and Linux report it.
fn tell_fault(out: &mut String, fault: &Fault) -> std::fmt::Result {
    let (title, lines) = fault_lines(fault);
    writeln!(out, "{title}")?;
    for (name, value) in lines {
        writeln!(out, "  {name:<10} {value}")?;
    }
    Ok(())
}

/// A title, and pairs of name and value.
pub fn fault_lines(fault: &Fault) -> (String, Vec<(&'static str, String)>) {
    let why = reason(fault.cause);
    let Some(signature) = fault.signature() else {
        return (format!("Fault: {why}."), Vec::new());
    };
    let title = match signature.trap {
        13 => format!("General protection fault (13): {why}."),
        _ => format!("Page fault (14): {why}."),
    };
    let signal = match signature.signal {
        Signature::BUS => "SIGBUS",
        _ => "SIGSEGV",
    };
    let code = match (signature.signal, signature.code) {
        (Signature::BUS, _) => "BUS_ADRERR",
        (_, Signature::KERNEL) => "SI_KERNEL",
        (_, Signature::MAPERR) => "SEGV_MAPERR",
        _ => "SEGV_ACCERR",
    };
    let mut bits = vec![if signature.error & 1 != 0 {
        "page present"
    } else {
        "page not present"
    }];
    for (bit, name) in [(2, "write"), (4, "user"), (16, "instruction fetch")] {
        if signature.error & bit != 0 {
            bits.push(name);
        }
    }
    let error = if signature.trap == 14 {
        format!("{:#x}: {}", signature.error, bits.join(", "))
    } else {
        format!("{:#x}", signature.error)
    };
    let mut lines = vec![("error code", error)];
    if signature.trap == 14 {
        lines.push(("CR2", fault.addr.to_string()));
    }
    lines.push(("signal", format!("{} {signal}", signature.signal)));
    lines.push(("si_code", format!("{} {code}", signature.code)));
    lines.push(("si_addr", format!("{:#x}", signature.addr)));
    (title, lines)
}
