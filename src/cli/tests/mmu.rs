//! `fencepost mmu`: what is drawn as text, to the letter, and the pictures.

mod support;

use std::process::Command;

use roxmltree::{Document, Node};
use support::{FENCEPOST, OWN, refused, text};

#[track_caller]
fn print(line: &str) -> String {
    let mut command = Command::new(FENCEPOST);
    let output = command
        .arg("mmu")
        .args(line.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The picture that a command draws.
#[track_caller]
fn picture(line: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("picture.svg");
    let with_file = print(&format!("{line} --svg {}", file.display()));
    assert_eq!(with_file, print(line), "a picture changes no text");
    std::fs::read_to_string(file).unwrap()
}

/// All texts of a picture, in their order.
fn texts(svg: &str) -> Vec<String> {
    let document = Document::parse(svg).unwrap_or_else(|error| panic!("{error}: {svg}"));
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "svg");
    assert_eq!(
        root.tag_name().namespace(),
        Some("http://www.w3.org/2000/svg")
    );
    let is_text = |node: &Node<'_, '_>| node.has_tag_name(("http://www.w3.org/2000/svg", "text"));
    let content = |node: Node<'_, '_>| node.text().unwrap_or_default().trim().to_owned();
    root.descendants().filter(is_text).map(content).collect()
}

/// Elements of a class.
fn classes(svg: &str, class: &str) -> usize {
    let document = Document::parse(svg).unwrap();
    let nodes = document.descendants();
    nodes
        .filter(|node| node.attribute("class") == Some(class))
        .count()
}

const TRANSLATION: &str = "\
0x7f1ecc031234 in x86-64, 4 levels

    47     39   38     30   29     21   20     12   11         0
  +-----------+-----------+-----------+-----------+--------------+
  | 011111110 | 001111011 | 001100000 | 000110001 | 001000110100 |
  +-----------+-----------+-----------+-----------+--------------+
    PGD index   PUD index   PMD index   PTE index   offset
    254         123         96          49          0x234

  Bits 63 to 48 must repeat bit 47: all 0, as it is.

Mapped: a page of 4 KiB, rw-, from 0x7f1ecc031000 on, in frame 0x2a42.

First write in user mode: the TLB is empty, the tables are walked.

  CR3 = 0x10000
  level 3 (PGD)  table 0x10000  entry 254 at 0x107f0  0000000000011027  PWUA-----X  -> table 0x11000
  level 2 (PUD)  table 0x11000  entry 123 at 0x113d8  0000000000012027  PWUA-----X  -> table 0x12000
  level 1 (PMD)  table 0x12000  entry  96 at 0x12300  0000000000013027  PWUA-----X  -> table 0x13000
  level 0 (PTE)  table 0x13000  entry  49 at 0x13188  8000000002a42067  PWUAD-----  -> frame 0x2a42

  physical address 0x2a42000 + 0x234 = 0x2a42234
  5 memory accesses: 4 entries and the byte

Second write in user mode: TLB hit.

  physical address 0x2a42234
  1 memory access: the byte

Flags: P present, W writable, U user, A accessed, D dirty, H huge, G global, C copy
on write, L lazily freed, X may be executed.
";

#[test]
fn a_translation_step_by_step() {
    assert_eq!(print("translate 0x7f1ecc031234 --write"), TRANSLATION);
}

#[test]
fn the_notes_page_in_the_geometries_of_32_bits() {
    for (geometry, indices, accesses) in [
        (
            "x86-2",
            "732          1            0x8",
            "3 memory accesses: 2 entries",
        ),
        (
            "pae",
            "2           440         1           0x8",
            "4 memory accesses: 3 entries",
        ),
        (
            "flat",
            "749569                 0x8",
            "2 memory accesses: 1 entry and",
        ),
    ] {
        let told = print(&format!("translate 0xb7001008 -g {geometry} --frame 2"));
        for part in [indices, accesses, "0x2000 + 0x8 = 0x2008", "TLB hit"] {
            assert!(told.contains(part), "no {part:?} in: {told}");
        }
    }
}

#[test]
fn huge_pages_end_the_walk_early() {
    for (options, part) in [
        ("-g x86-4 --huge", "2 MiB, rw-, from 0x7f1ecc000000 on"),
        ("-g x86-5 --huge=1G", "1 GiB, rw-, from 0x7f1ec0000000 on"),
    ] {
        let told = print(&format!("translate 0x7f1ecc031234 {options}"));
        assert!(told.contains(part), "{told}");
        assert!(told.contains("AH") || told.contains("A-H"), "{told}");
        assert!(!told.contains("level 0"), "{told}");
    }
    let told = print("translate 0xb7001008 -g x86-2 --huge=4M");
    assert!(told.contains("2 memory accesses: 1 entry and the byte"));
}

#[test]
fn a_fresh_page_is_mapped_by_its_first_access() {
    let told = print("translate 0xb7001008 -g x86-2 --frame 2 --page fresh --write");
    let walks = "\
  CR3 = 0x10000
  level 1 (PGD)  table 0x10000  entry 732 at 0x10b70  00000000  ----------  -> nothing

  Page fault. The area allows the access, so the kernel makes the tables that are
  missing, takes a frame, fills it with zeros and stores the entry. The same
  instruction begins again:

  CR3 = 0x10000
  level 1 (PGD)  table 0x10000  entry 732 at 0x10b70  00011027  PWUA-----X  -> table 0x11000
  level 0 (PTE)  table 0x11000  entry   1 at 0x11004  00002067  PWUAD----X  -> frame 0x2

  physical address 0x2000 + 0x8 = 0x2008
";
    assert!(told.contains(walks), "{told}");
    assert!(told.contains("3 memory accesses: 2 entries and the byte"));
    assert!(told.contains("Second write in user mode: TLB hit."));
    let svg = picture("translate 0xb7001008 -g x86-2 --page fresh");
    let shown = texts(&svg);
    assert!(
        shown
            .iter()
            .any(|text| text.contains("the kernel maps the page, begun again: 3 memory")),
        "{shown:?}"
    );
}

/// Everything that can be wrong, with what processor and Linux make of it.
#[test]
fn every_fault_has_its_signature() {
    let mapped = "translate 0x7f1ecc031234";
    for (line, why, error, code) in [
        (
            "--page none",
            "nothing is mapped there.",
            "0x4",
            "1 SEGV_MAPERR",
        ),
        (
            "--page none --write",
            "nothing is mapped there.",
            "0x6",
            "1 SEGV_MAPERR",
        ),
        (
            "--page none --exec",
            "nothing is mapped there.",
            "0x14",
            "1 SEGV_MAPERR",
        ),
        (
            "--page read-only --write",
            "may not be written",
            "0x7",
            "2 SEGV_ACCERR",
        ),
        (
            "--page read-write --exec",
            "may not be executed",
            "0x15",
            "2 SEGV_ACCERR",
        ),
        (
            "--page no-access",
            "may not be accessed",
            "0x4",
            "2 SEGV_ACCERR",
        ),
        ("--page guard", "is a guard", "0x4", "1 SEGV_MAPERR"),
        ("--page guard --write", "is a guard", "0x6", "1 SEGV_MAPERR"),
        (
            "--page guard --exec",
            "not be executed",
            "0x14",
            "2 SEGV_ACCERR",
        ),
        ("--page kernel", "the kernel's", "0x5", "1 SEGV_MAPERR"),
    ] {
        let told = print(&format!("{mapped} {line}"));
        for part in [
            why,
            "\nPage fault (14): ",
            &format!("\n  error code {error}: "),
            &format!("\n  si_code    {code}\n"),
            "\n  si_addr    0x7f1ecc031234\n",
            "\n  CR2        0x7f1ecc031234\n",
            "11 SIGSEGV",
        ] {
            assert!(told.contains(part), "{line}: no {part:?} in: {told}");
        }
        assert!(!told.contains("physical address"), "{told}");
    }
    for (line, part) in [
        ("translate 0x10 --page none", "it is a null pointer"),
        (
            "translate 0xc0000000 -g x86-2",
            "the address is the kernel's",
        ),
        ("translate 0x800000000000", "General protection fault (13)"),
        ("translate 0x800000000000", "128 SI_KERNEL"),
        ("translate 0x800000000000", "si_addr    0x0"),
        ("translate 0x800000000000", "bit 47: which they do not"),
    ] {
        let told = print(line);
        assert!(told.contains(part), "{line}: no {part:?} in: {told}");
    }
    // Who may do it, does it.
    for line in [
        "--page kernel --kernel --write",
        "--page code --exec",
        "--page read-only",
        "--exec -g x86-2",
    ] {
        let told = print(&format!("translate 0xb7001008 {line}"));
        assert!(told.contains("TLB hit"), "{line}: {told}");
    }
}

#[test]
fn what_cannot_be_shown_is_one_line() {
    let refused = |line: &str, parts: &[&str]| {
        let mut command = Command::new(FENCEPOST);
        command.arg("mmu").args(line.split_whitespace());
        refused(&mut command, OWN, parts);
    };
    refused(
        "translate 0x100000000 -g x86-2",
        &["0x100000000", "32 bits"],
    );
    refused("translate 0 --huge=4M", &["2M and 1G"]);
    refused("translate 0 -g flat --huge", &["none"]);
    refused("translate 0 --huge --page guard", &["--huge"]);
    refused("translate 0 --frame 0x11", &["0x11", "page tables"]);
    refused(
        "translate 0 --svg /no/such/dir/x.svg",
        &["/no/such/dir/x.svg"],
    );
    refused("paging --svg /no/such/dir/x.svg", &["/no/such/dir/x.svg"]);
    refused("paging --refs 1,x", &["--refs", "\"x\" is no page number"]);
    refused("paging --refs 65536", &["below 65536"]);
    refused(
        "paging -p opt --pattern random --pages 60000 --count 1000000",
        &["OPT", "too many"],
    );
}

const SEGMENTS: &str = "\
Segments of whole programs in 1 GiB, first fit

  game wants 512 MiB
  browser wants 128 MiB
  music wants 256 MiB

  0                               512     640             896     1024 MiB
  |game                           |browser|music          |.......|

The browser ends.

  0                               512     640             896     1024 MiB
  |game                           |.......|music          |.......|

An editor wants 200 MiB: refused. 256 MiB are free, but the largest hole has 128 MiB.
External fragmentation: 1 - 128 / 256 = 0.5

The music player is swapped out at 640 MiB and in at 512 MiB: 256 MiB to the disk and 256 MiB back.

  0                               512             768             1024 MiB
  |game                           |music          |...............|

Now the editor fits, at 768 MiB.

  0                               512             768         968 1024 MiB
  |game                           |music          |editor     |...|

Paging would have written nothing to the disk: any free frames will do.

3:0x500 (read in user mode) by a segment table

  segment  base        limit   level  kind
  0        0x1000      0x1000  3      code, may be read
  1        0x3000      0x1000  3      data, may be written
  2        0x5000      0x1000  3      data, may be written
  3        0x7000      0x1000  3      data, may be written
  4        0x9000      0x1000  0      data, may be written

  0x500 < limit; base + 0x500 = physical address 0x7500
  2 memory accesses: the segment table and the byte

3:0x500 (read in user mode) by segmented paging

  segment  page table  limit   level  kind
  0        0x10000     0x4000  3      code, may be read
  1        0x10010     0x4000  3      data, may be written
  2        0x10020     0x4000  3      data, may be written
  3        0x10030     0x4000  3      data, may be written
  4        0x10040     0x4000  0      data, may be written

  3:0x500 is segment 3, page 0, offset 0x500
  entry 0 of its page table names the frame at 0x54000: physical address 0x54500
  3 memory accesses: the segment table, the page table and the byte
";

#[test]
fn segments_fragment_and_are_compacted() {
    assert_eq!(print("segments"), SEGMENTS);
}

#[test]
fn logical_addresses_that_are_refused() {
    for (line, parts) in [
        (
            "segments 3:0x1000",
            &["not below the segment's limit", "page 1, offset 0x0"][..],
        ),
        ("segments 3:0x4000", &["not below the segment's limit"]),
        ("segments 4:0", &["another privilege level"]),
        (
            "segments 0:0 --write",
            &["not made for this kind of access"],
        ),
        ("segments 9:0", &["there is no such segment"]),
        ("segments 4:8 --kernel", &["physical address 0x9008"]),
        ("segments 0:8 --exec", &["physical address 0x1008"]),
        ("segments 3:0x2010", &["segment 3, page 2, offset 0x10"]),
    ] {
        let told = print(line);
        for part in parts {
            assert!(told.contains(part), "{line}: no {part:?} in: {told}");
        }
    }
}

const BELADY: &str = "\
FIFO with 3 frames: 12 references to 5 pages, 9 faults

reference    1  2  3  4  1  2  5  1  2  3  4  5
fault        *  *  *  *  *  *  *        *  *
frame 0      1  1  1  4  4  4  5  5  5  5  5  5
frame 1      .  2  2  2  1  1  1  1  1  3  3  3
frame 2      .  .  3  3  3  2  2  2  2  2  4  4

 frames     FIFO      LRU    CLOCK      OPT   RANDOM  FIFO
      1       12       12       12       12       12  ##############################
      2       12       12       12        9       12  ##############################
>     3        9       10        9        7        9  #######################
      4       10        8       10        6        7  #########################
      5        5        5        5        5        5  #############

FIFO has 10 faults with 4 frames, and 9 with fewer: Belady's anomaly.
";

#[test]
fn a_paging_run_with_beladys_anomaly() {
    assert_eq!(print("paging"), BELADY);
    assert!(!print("paging --policy lru").contains("anomaly"));
}

#[test]
fn runs_of_the_known_string_and_of_patterns() {
    let string = "7,0,1,2,0,3,0,4,2,3,0,3,2,1,2,0,1,7,0,1";
    for (policy, faults) in [("fifo", 15), ("lru", 12), ("clock", 14), ("opt", 9)] {
        let told = print(&format!("paging --refs {string} --policy {policy}"));
        let title = format!("{faults} faults\n");
        assert!(told.contains(&title), "{told}");
        // A star for each fault.
        let stars = told.lines().find(|line| line.starts_with("fault "));
        assert_eq!(stars.unwrap().matches('*').count(), faults);
    }
    let told =
        print("paging -p lru -f 128 --pattern random --pages 256 --count 20000 --seed 12345");
    assert!(
        told.contains("20000 references to 256 pages, 9949 faults\n"),
        "{told}"
    );
    assert!(!told.contains("reference  "), "too long to show");
    assert!(
        told.contains("\n>   128     9965     9949     9996 "),
        "{told}"
    );
    for pattern in ["loop", "zipf", "scan"] {
        let told = print(&format!(
            "paging --pattern {pattern} --pages 5 --count 100 -f 4"
        ));
        assert!(told.contains("100 references to 5 pages"), "{told}");
    }
    // Round and round over one frame too few.
    let told = print("paging --pattern loop --pages 5 --count 100 -f 4");
    assert!(
        told.contains("\n>     4      100      100      100       28 "),
        "{told}"
    );
}

#[test]
fn a_picture_of_a_translation() {
    let svg = picture("translate 0x7f1ecc031234");
    let texts = texts(&svg);
    for part in [
        "Read of 0x7f1ecc031234 in user mode, x86-64, 4 levels",
        "011111110",
        "PGD index 254",
        "PUD index 123",
        "PMD index 96",
        "PTE index 49",
        "offset 0x234",
        "PGD at 0x10000",
        "49: frame 0x2a42",
        "frame at 0x2a42000",
        "= 0x2a42234",
        "First access: TLB miss, 5 memory accesses (4 entries and the byte)",
        "Second access: TLB hit, 1 memory access",
    ] {
        assert!(
            texts.iter().any(|text| text == part),
            "no {part:?} in {texts:?}"
        );
    }
    let counts = ["part", "table", "used", "reached", "refused"].map(|c| classes(&svg, c));
    assert_eq!(counts, [5, 4, 4, 1, 0]);
}

#[test]
fn a_picture_of_a_fault() {
    let svg = picture("translate 0xb7001008 -g pae --page read-only --write");
    let shown = texts(&svg);
    let fault = "Page fault (14): the page may not be written.";
    assert!(shown.iter().any(|text| text == fault), "{shown:?}");
    assert!(
        shown
            .iter()
            .any(|text| text.starts_with("error code 0x7: "))
    );
    let counts = ["part", "table", "used", "reached", "refused"].map(|c| classes(&svg, c));
    assert_eq!(counts, [4, 3, 2, 0, 1]);
    let svg = picture("translate 0x800000000000");
    assert_eq!(classes(&svg, "table"), 0);
    assert!(
        texts(&svg)
            .iter()
            .any(|text| text.contains("not canonical"))
    );
}

#[test]
fn a_picture_of_the_fault_curve() {
    let svg = picture("paging");
    let shown = texts(&svg);
    for part in [
        "Page faults by size of memory",
        "frames",
        "faults",
        "FIFO",
        "LRU",
        "CLOCK",
        "OPT",
        "RANDOM",
    ] {
        assert!(
            shown.iter().any(|text| text == part),
            "no {part:?} in {shown:?}"
        );
    }
    // A line for each policy, with a point for each size, and one mark. In a picture y grows
    // downwards: FIFO falls to 3 frames, rises to 4 and falls again.
    let document = Document::parse(&svg).unwrap();
    let lines: Vec<Vec<f64>> = document
        .descendants()
        .filter(|node| node.tag_name().name() == "polyline")
        .filter_map(|node| node.attribute("points"))
        .map(|points| {
            let y = |point: &str| point.split(',').nth(1).unwrap().parse().unwrap();
            points.split_whitespace().map(y).collect()
        })
        .filter(|points: &Vec<f64>| points.len() == 5)
        .collect();
    assert_eq!(lines.len(), 5, "{svg}");
    let fifo = lines.last().unwrap();
    assert!(fifo[0] == fifo[1] && fifo[1] < fifo[2], "{fifo:?}");
    assert!(fifo[3] < fifo[2] && fifo[3] < fifo[4], "{fifo:?}");
    let dots = document
        .descendants()
        .filter(|node| node.tag_name().name() == "circle");
    assert_eq!(dots.count(), 1);
}
