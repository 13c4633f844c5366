//! `fencepost mmu segments`: memory of whole segments, and a logical address.

use std::fmt::Write;

use fencepost::mmu::addr::{Access, FrameNumber, PhysAddr, Rights};
use fencepost::mmu::entry::Entry;
use fencepost::mmu::geometry::{Geometry, X86L2};
use fencepost::mmu::segment::memory::{Place, Resident, SegMemory};
use fencepost::mmu::segment::{Kind, Located, PageTables, Physical, Seg, Segment, Selector, Stage};

use super::address::{Doing, access_name, counted, mode_name, number, size};
use super::story::reason;
use crate::failure::Failure;
use crate::man::print;

/// Show segmentation: fragmentation, compaction, a logical address
///
/// A game, a browser and a music player share 1 GiB in whole segments. When the browser ends,
/// enough is free for another program, but not in one piece; swapping the music player out and
/// in beside the game makes it one. Then a logical address is translated, SEGMENT:OFFSET, by a
/// segment table alone and by segmented paging.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The logical address: number of a segment (0 to 4) and offset
    #[arg(value_name = "SEGMENT:OFFSET", default_value = "3:0x500", value_parser = logical)]
    address: (u16, u64),

    #[command(flatten)]
    doing: Doing,
}

const MIB: u64 = 1 << 20;
/// Memory in the drawing: a character for 16 MiB.
const PER_CHARACTER: u64 = 16 * MIB;

fn logical(text: &str) -> Result<(u16, u64), String> {
    let (segment, offset) = text
        .split_once(':')
        .ok_or("a logical address is SEGMENT:OFFSET, such as 3:0x500")?;
    let segment = number(segment)?;
    let segment = u16::try_from(segment).ok().filter(|n| *n < 1 << 13);
    let segment = segment.ok_or("a segment has a number below 8192")?;
    Ok((segment, number(offset)?))
}

/// Prints the example to standard output.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = fragmentation(&mut out).and_then(|()| translation(&mut out, args));
    print(out.as_bytes())
}

const NAMES: [&str; 4] = ["game", "browser", "music", "editor"];

fn fragmentation(out: &mut String) -> std::fmt::Result {
    let mut storage = [Resident::EMPTY; 4];
    let mut memory = SegMemory::new(1024 * MIB, &mut storage);
    writeln!(
        out,
        "Segments of whole programs in {}, first fit\n",
        size(memory.bytes())
    )?;
    for (id, mib) in [(0, 512), (1, 128), (2, 256)] {
        let name = NAMES[id as usize];
        match memory.place(id, mib * MIB) {
            Ok(_) => writeln!(out, "  {name} wants {mib} MiB")?,
            Err(_) => writeln!(out, "  {name} wants {mib} MiB: refused")?,
        }
    }
    writeln!(out)?;
    bar(out, &memory)?;
    writeln!(out, "The browser ends.\n")?;
    let _ = memory.release(1);
    bar(out, &memory)?;
    let editor = 200 * MIB;
    let refused = memory.place(3, editor).is_err();
    writeln!(
        out,
        "An editor wants {}: {}. {} are free, but the largest hole has {}.",
        size(editor),
        if refused { "refused" } else { "placed" },
        size(memory.free()),
        size(memory.largest()),
    )?;
    writeln!(
        out,
        "External fragmentation: 1 - {} / {} = {}\n",
        memory.largest() / MIB,
        memory.free() / MIB,
        memory.external_fragmentation()
    )?;
    let paging = memory.paging_would_write(editor);
    let mut moves = Vec::new();
    let traffic = memory.compact(|id, from, to| moves.push((id, from, to)));
    for (id, from, to) in moves {
        writeln!(
            out,
            "The {} player is swapped out at {} MiB and in at {} MiB: {} to the disk and {} back.\n",
            NAMES[id as usize],
            from / MIB,
            to / MIB,
            size(traffic.out),
            size(traffic.back),
        )?;
    }
    bar(out, &memory)?;
    if let Ok(start) = memory.place(3, editor) {
        writeln!(out, "Now the editor fits, at {} MiB.\n", start / MIB)?;
    }
    bar(out, &memory)?;
    let paging = match paging {
        0 => "nothing".to_owned(),
        bytes => size(bytes),
    };
    writeln!(
        out,
        "Paging would have written {paging} to the disk: any free frames will do.\n"
    )
}

/// Memory from left to right.
fn bar(out: &mut String, memory: &SegMemory<'_>) -> std::fmt::Result {
    let mut pieces: Vec<(u64, u64, &str)> = memory
        .segments()
        .iter()
        .filter_map(|s| match s.place {
            Place::Memory(start) => Some((start, s.len, NAMES[s.id as usize])),
            Place::Disk => None,
        })
        .chain(memory.holes().map(|hole| (hole.start, hole.len, "")))
        .collect();
    pieces.sort_unstable();
    let mut scale = String::from("  ");
    let mut line = String::from("  ");
    for (start, len, name) in pieces {
        let columns = usize::try_from((start + len) / PER_CHARACTER - start / PER_CHARACTER)
            .unwrap_or(usize::MAX);
        let fill = if name.is_empty() { '.' } else { ' ' };
        let _ = write!(scale, "{:<columns$}", start / MIB);
        let inner = columns.saturating_sub(1);
        let shown: String = name.chars().take(inner).collect();
        let _ = write!(line, "|{shown}");
        line.extend(std::iter::repeat_n(fill, inner - shown.len()));
    }
    let _ = write!(scale, "{} MiB", memory.bytes() / MIB);
    writeln!(out, "{scale}\n{line}|\n")
}

/// A program of the notes: code, data, heap and stack, and what belongs to the kernel.
fn program() -> [Segment; 5] {
    [
        Segment::code(0x1000, 0x1000),
        Segment::data(0x3000, 0x1000),
        Segment::data(0x5000, 0x1000),
        Segment::data(0x7000, 0x1000),
        Segment::data(0x9000, 0x1000).at_level(0),
    ]
}

fn translation(out: &mut String, args: &Args) -> std::fmt::Result {
    let (number, offset) = args.address;
    let what = format!(
        "{number}:{offset:#x} ({} in {} mode)",
        access_name(args.doing.access()),
        mode_name(args.doing.mode()),
    );
    writeln!(out, "{what} by a segment table\n")?;
    let mut table = program();
    list(out, &table, "base")?;
    let mut unit = Seg::new(&mut table, Physical);
    match attempt(&mut unit, args) {
        Ok(found) => writeln!(
            out,
            "\n  {offset:#x} < limit; base + {offset:#x} = physical address {}\n  {}: the \
             segment table and the byte\n",
            found.physical,
            counted(found.references.into(), "memory access"),
        )?,
        Err(why) => writeln!(out, "\n  Fault: {why}.\n")?,
    }

    writeln!(out, "{what} by segmented paging\n")?;
    let (mut table, mut entries) = paged_program();
    list(out, &table, "page table")?;
    let (page, within) = (offset >> 12, offset & 0xfff);
    writeln!(
        out,
        "\n  {number}:{offset:#x} is segment {number}, page {page}, offset {within:#x}"
    )?;
    let tables = PageTables::<X86L2>::new(PhysAddr::new(TABLES), &mut entries);
    let mut unit = Seg::new(&mut table, tables);
    match attempt(&mut unit, args) {
        Ok(found) => writeln!(
            out,
            "  entry {page} of its page table names the frame at {:#x}: physical address {}\n  \
             {}: the segment table, the page table and the byte",
            found.physical.raw() - within,
            found.physical,
            counted(found.references.into(), "memory access"),
        ),
        Err(why) => writeln!(out, "  Fault: {why}."),
    }
}

fn attempt<S: Stage>(unit: &mut Seg<'_, S>, args: &Args) -> Result<Located, &'static str> {
    let (number, offset) = args.address;
    let user = Selector::user(number).ok_or("there is no such segment")?;
    // The kernel asks with a selector of its own level.
    let selector = match args.doing.mode().level() {
        0 => Selector::from_bits(user.bits() & !3),
        _ => user,
    };
    unit.translate(selector, offset, args.doing.access(), args.doing.mode())
        .map_err(|fault| reason(fault.cause))
}

/// Where the page tables of the segments lie.
const TABLES: u64 = 0x1_0000;

/// The program again, four pages to a segment, every page somewhere else.
fn paged_program() -> ([Segment; 5], [Entry<X86L2>; 20]) {
    let table_bytes = 4 * X86L2::ENTRY_BYTES as u64;
    let mut table = program();
    let mut entries = [Entry::EMPTY; 20];
    for (number, segment) in table.iter_mut().enumerate() {
        segment.base = TABLES + number as u64 * table_bytes;
        segment.limit = 0x4000;
        let rights = if segment.kind.allows(Access::Write) {
            Rights::READ_WRITE
        } else {
            Rights::READ.or(Rights::EXEC)
        };
        let mut flags = Entry::<X86L2>::user_flags(rights);
        if segment.level == 0 {
            flags &= !Entry::<X86L2>::USER;
        }
        for page in 0..4 {
            let entry = number * 4 + page;
            // Scattered: multiples of 7 modulo 32 are all different.
            let frame = u32::try_from(entry * 7 % 32).unwrap_or(0) + 0x40;
            entries[entry] = Entry::present(FrameNumber::new(frame), flags);
        }
    }
    (table, entries)
}

fn list(out: &mut String, table: &[Segment], base: &str) -> std::fmt::Result {
    writeln!(out, "  segment  {base:<10}  limit   level  kind")?;
    for (number, segment) in table.iter().enumerate() {
        let kind = match segment.kind {
            Kind::Code { readable: true } => "code, may be read",
            Kind::Code { readable: false } => "code",
            Kind::Data { writable: true } => "data, may be written",
            Kind::Data { writable: false } => "data",
        };
        writeln!(
            out,
            "  {number:<7}  {:<10}  {:<6}  {:<5}  {kind}",
            format!("{:#x}", segment.base),
            format!("{:#x}", segment.limit),
            segment.level
        )?;
    }
    Ok(())
}
