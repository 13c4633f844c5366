//! The text of `/proc/PID/maps` and `smaps`: read, written again, and refused where it is wrong.

use fencepost::mmu::addr::Rights;
use fencepost::mmu::listing::{Field, Line, Malformed, Name, Sizes, maps, smaps};

fn print(line: &Line<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    line.print(|part| bytes.extend_from_slice(part));
    bytes
}

fn parse(text: &str) -> Line<'_> {
    Line::parse(text.as_bytes()).unwrap_or_else(|wrong| panic!("{text}: {wrong}"))
}

/// The listing of the notes, without the lines that they leave out; the blank at the end of
/// anonymous areas is as the kernel writes it.
const BASH: &str = "\
00400000-004f4000 r-xp 00000000 fd:00 4849671                            /bin/bash
006f3000-006f4000 r--p 000f3000 fd:00 4849671                            /bin/bash
006f4000-006fd000 rw-p 000f4000 fd:00 4849671                            /bin/bash
006fd000-00703000 rw-p 00000000 00:00 0 \n\
016d3000-018b7000 rw-p 00000000 00:00 0                                  [heap]
7f1ecc02a000-7f1ecc02b000 rw-p 0000b000 fd:00 11407931                   /lib/x86_64-linux-gnu/libnss_files-2.23.so
7f1ecc02b000-7f1ecc031000 rw-p 00000000 00:00 0 \n\
7f1ecc031000-7f1ecc03c000 r-xp 00000000 fd:00 11407941                   /lib/x86_64-linux-gnu/libnss_nis-2.23.so
7f1ecda3b000-7f1ecda3c000 rw-p 00026000 fd:00 11407804                   /lib/x86_64-linux-gnu/ld-2.23.so
7f1ecda3c000-7f1ecda3d000 rw-p 00000000 00:00 0 \n\
7ffe0ded1000-7ffe0def2000 rw-p 00000000 00:00 0                          [stack]
7ffe0dff7000-7ffe0dff9000 r--p 00000000 00:00 0                          [vvar]
7ffe0dff9000-7ffe0dffb000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 r-xp 00000000 00:00 0                  [vsyscall]
";

#[test]
fn row_066_maps_listing_of_a_bash() {
    let lines: Vec<Line<'_>> = maps(BASH.as_bytes()).map(Result::unwrap).collect();
    assert_eq!(lines.len(), 14);
    let at = |start: u64| lines.iter().find(|line| line.start == start).unwrap();
    // KiB and pages.
    for (start, kib) in [
        (0x40_0000, 976),
        (0x6f_4000, 36),
        (0x6f_d000, 24),
        (0x16d_3000, 1936),
        (0x7ffe_0ded_1000, 132),
        (0x7ffe_0dff_7000, 8),
    ] {
        assert_eq!(at(start).len(), kib << 10, "{start:#x}");
    }
    assert_eq!(at(0x40_0000).len() / 4096, 244);
    assert_eq!(at(0x7ffe_0ded_1000).len() / 4096, 33);

    let text = at(0x40_0000);
    assert_eq!(text.rights, Rights::READ.or(Rights::EXEC));
    assert!(!text.shared);
    assert_eq!((text.device, text.inode), ((0xfd, 0), 4_849_671));
    let bash = Name::File {
        path: b"/bin/bash",
        deleted: false,
    };
    assert_eq!(text.kind(), bash);
    assert_eq!(at(0x6f_3000).offset, 0xf_3000);
    assert_eq!(at(0x6f_d000).kind(), Name::Anonymous);
    assert_eq!(at(0x16d_3000).kind(), Name::Heap);
    assert_eq!(at(0x7ffe_0ded_1000).kind(), Name::Stack);
    assert_eq!(at(0x7ffe_0dff_7000).kind(), Name::Kernel(b"vvar"));
    assert_eq!(at(0xffff_ffff_ff60_0000).kind(), Name::Kernel(b"vsyscall"));

    let mut again = Vec::new();
    for line in &lines {
        again.extend(print(line));
        again.push(b'\n');
    }
    assert_eq!(String::from_utf8(again).unwrap(), BASH);
}

#[test]
fn our_own_listing_is_written_again_byte_for_byte() {
    let text = std::fs::read("/proc/self/maps").unwrap();
    let mut again = Vec::new();
    for line in maps(&text) {
        let line = line.unwrap();
        again.extend(print(&line));
        again.push(b'\n');
    }
    if cfg!(target_pointer_width = "64") {
        assert_eq!(
            String::from_utf8_lossy(&again),
            String::from_utf8_lossy(&text)
        );
    }
    let heap_or_stack = maps(&text).filter(|line| line.unwrap().kind() == Name::Stack);
    assert_eq!(heap_or_stack.count(), 1);
}

#[test]
fn names_of_every_kind_survive() {
    let deleted = |path| Name::File {
        path,
        deleted: true,
    };
    let file = |path| Name::File {
        path,
        deleted: false,
    };
    let cases: [(&[u8], Name<'_>); 14] = [
        (b"/usr/lib/x.so", file(b"/usr/lib/x.so")),
        (b"/tmp/old (deleted)", deleted(b"/tmp/old")),
        (b"/memfd:pool (deleted)", deleted(b"/memfd:pool")),
        (b"/SYSV0000002a (deleted)", deleted(b"/SYSV0000002a")),
        (b"/two  blanks and one ", file(b"/two  blanks and one ")),
        (b"/a\\012line break", file(b"/a\\012line break")),
        (b"/not\xffutf-8", file(b"/not\xffutf-8")),
        (b"[anon:a label]", Name::Labelled(b"a label")),
        (b"[anon_shmem:x]", Name::Labelled(b"x")),
        (b"[vvar_vclock]", Name::Kernel(b"vvar_vclock")),
        (b"[stack:123]", Name::Kernel(b"stack:123")),
        (
            b"anon_inode:[perf_event]",
            Name::Other(b"anon_inode:[perf_event]"),
        ),
        (b"(unreachable)/x", Name::Other(b"(unreachable)/x")),
        (b"[", Name::Other(b"[")),
    ];
    for (name, kind) in cases {
        let mut text = b"7f0000000000-7f0000001000 rwxs ffff000000001000 103:10000 \
            18446744073709551615  "
            .to_vec();
        text.extend_from_slice(name);
        let line = Line::parse(&text).unwrap();
        assert_eq!((line.name, line.kind()), (name, kind));
        assert_eq!(line.device, (0x103, 0x10000));
        assert!(line.shared);
        // The numbers leave no room for the column of the name: two blanks, as here.
        assert_eq!(print(&line), text);
        assert_eq!(Line::parse(&print(&line)), Ok(line));
    }
}

#[test]
fn blanks_before_the_name_are_free_and_a_lost_one_at_the_end_is_forgiven() {
    let narrow = parse("08048000-08056000 r-xp 00000000 03:0c 64593      /usr/sbin/gpm");
    assert_eq!(narrow.name, b"/usr/sbin/gpm");
    assert_eq!(
        String::from_utf8(print(&narrow)).unwrap(),
        "08048000-08056000 r-xp 00000000 03:0c 64593                              /usr/sbin/gpm"
    );
    let lost = parse("006fd000-00703000 rw-p 00000000 00:00 0");
    assert_eq!(lost.kind(), Name::Anonymous);
    assert_eq!(print(&lost), b"006fd000-00703000 rw-p 00000000 00:00 0 ");
}

#[test]
fn text_for_people_replaces_what_is_not_utf_8() {
    let line = Line::parse(b"00001000-00002000 ---p 00000000 00:00 0  /\xff\xfe/b").unwrap();
    assert!(line.to_string().ends_with(" /\u{fffd}\u{fffd}/b"), "{line}");
}

#[test]
fn every_malformed_line_says_what_is_wrong_with_it() {
    let wrong = |text: &str, field, column| {
        let found = Line::parse(text.as_bytes());
        assert_eq!(found, Err(Malformed { field, column }), "{text:?}");
    };
    wrong("", Field::Start, 0);
    wrong("[heap]", Field::Start, 0);
    wrong("1000-2000 rw-p 00000000 00:00 0 ", Field::Start, 0);
    wrong("0000F000-00010000 rw-p 00000000 00:00 0 ", Field::Start, 0);
    wrong("000001000-00002000 rw-p 00000000 00:00 0 ", Field::Start, 0);
    wrong("00001001-00002000 rw-p 00000000 00:00 0 ", Field::Start, 0);
    wrong(
        "10000000000000000-10000000000001000 rw-p 00000000 00:00 0 ",
        Field::Start,
        0,
    );
    wrong("00001000 00002000 rw-p 00000000 00:00 0 ", Field::End, 8);
    wrong("00001000-00001000 rw-p 00000000 00:00 0 ", Field::End, 9);
    wrong("00002000-00001000 rw-p 00000000 00:00 0 ", Field::End, 9);
    wrong("00001000-00002fff rw-p 00000000 00:00 0 ", Field::End, 9);
    wrong("00001000-00002000", Field::Rights, 17);
    wrong("00001000-00002000 rw", Field::Rights, 20);
    wrong(
        "00001000-00002000 wr-p 00000000 00:00 0 ",
        Field::Rights,
        18,
    );
    wrong(
        "00001000-00002000 rw-- 00000000 00:00 0 ",
        Field::Rights,
        21,
    );
    wrong(
        "00001000-00002000 rw-p  00000000 00:00 0 ",
        Field::Offset,
        23,
    );
    wrong("00001000-00002000 rw-p 0 00:00 0 ", Field::Offset, 23);
    wrong("00001000-00002000 rw-p 00000000 0:0 0 ", Field::Device, 32);
    wrong(
        "00001000-00002000 rw-p 00000000 00-00 0 ",
        Field::Device,
        34,
    );
    wrong(
        "00001000-00002000 rw-p 00000000 00:100000000 0 ",
        Field::Device,
        35,
    );
    wrong("00001000-00002000 rw-p 00000000 00:00", Field::Inode, 37);
    wrong("00001000-00002000 rw-p 00000000 00:00 ", Field::Inode, 38);
    wrong("00001000-00002000 rw-p 00000000 00:00 00", Field::Inode, 38);
    wrong("00001000-00002000 rw-p 00000000 00:00 a0", Field::Inode, 38);
    wrong(
        "00001000-00002000 rw-p 00000000 00:00 18446744073709551616 ",
        Field::Inode,
        38,
    );
    wrong("00001000-00002000 rw-p 00000000 00:00 0x", Field::Name, 39);
    wrong("00001000-00002000 rw-p 00000000 00:00 0 x", Field::Name, 40);
    wrong("00001000-00002000 rw-p 00000000 00:00 0  ", Field::Name, 41);
    wrong(
        "00001000-00002000 rw-p 00000000 00:00 0  /a\n",
        Field::Name,
        41,
    );
    let message = Line::parse(b"00001000-00002000").unwrap_err().to_string();
    assert_eq!(message, "no rights as Linux writes it at column 17");
}

#[test]
fn a_damaged_byte_is_an_error_or_another_line_never_a_panic() {
    // Every byte of a line replaced by every byte; what is still accepted is lossless.
    let text =
        b"7f1ecc02a000-7f1ecc02b000 rw-p 0000b000 fd:00 11407931                   /x (deleted)";
    let (mut accepted, mut refused) = (0, 0);
    for at in 0..text.len() {
        for byte in 0..=255 {
            let mut damaged = text.to_vec();
            damaged[at] = byte;
            match Line::parse(&damaged) {
                Ok(line) => {
                    accepted += 1;
                    let again = print(&line);
                    assert_eq!(Line::parse(&again), Ok(line));
                    if at < 46 {
                        assert_eq!(again, damaged);
                    }
                }
                Err(_) => refused += 1,
            }
        }
        // Cut off there, the line lacks a part, or it is anonymous memory.
        let whole = matches!(at, 47..=55 | 74..);
        assert_eq!(Line::parse(&text[..at]).is_ok(), whole, "{at}");
    }
    assert!(accepted > 2_000 && refused > 10_000, "{accepted} {refused}");
}

const SMAPS: &str = "\
55d5352c8000-55d5352ca000 r--p 00000000 fe:00 247030                     /usr/bin/cat
Size:                  8 kB
KernelPageSize:        4 kB
Rss:                   7 kB
Pss:                   6 kB
Pss_Dirty:             0 kB
Shared_Clean:          1 kB
Shared_Dirty:          2 kB
Private_Clean:         3 kB
Private_Dirty:         4 kB
Anonymous:             5 kB
LazyFree:              9 kB
AnonHugePages:        10 kB
Swap:                 11 kB
Locked:               12 kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd mr mw me \n\
55d5352ca000-55d5352cf000 rw-p 00000000 00:00 0 \n\
Size:                 20 kB
Rss:            18446744073709551615 kB
";

#[test]
fn sizes_of_an_area_are_read() {
    let areas: Vec<_> = smaps(SMAPS.as_bytes()).map(Result::unwrap).collect();
    assert_eq!(areas.len(), 2);
    let (line, sizes) = areas[0];
    assert_eq!(line.name, b"/usr/bin/cat");
    let want = Sizes {
        size: 8,
        rss: 7,
        pss: 6,
        shared_clean: 1,
        shared_dirty: 2,
        private_clean: 3,
        private_dirty: 4,
        anonymous: 5,
        lazy_free: 9,
        anon_huge: 10,
        swap: 11,
        locked: 12,
    };
    assert_eq!(sizes, want);
    assert_eq!(sizes.dirty(), 6);
    assert_eq!((areas[1].1.size, areas[1].1.rss), (20, u64::MAX));
    assert_eq!(smaps(b"").count(), 0);
}

#[test]
fn malformed_sizes_are_errors_and_the_next_area_is_read() {
    let wrong = |from: &str, to: &str, field, column| {
        let text = SMAPS.replacen(from, to, 1);
        assert_ne!(text, SMAPS);
        let areas: Vec<_> = smaps(text.as_bytes()).collect();
        assert_eq!(areas[0], Err(Malformed { field, column }), "{to:?}");
        assert_eq!(areas.last().unwrap().unwrap().1.size, 20);
    };
    wrong("Rss:                   7 kB", "Rss:   kB", Field::Value, 7);
    wrong("Rss:                   7 kB", "Rss: 7 MB", Field::Value, 6);
    wrong("Rss:                   7 kB", "Rss: 07 kB", Field::Value, 5);
    wrong("Rss:                   7 kB", "Rss: -7 kB", Field::Value, 5);
    wrong(
        "Rss:                   7 kB",
        "Rss: 18446744073709551616 kB",
        Field::Value,
        5,
    );
    wrong("Rss:                   7 kB", "Rss 7 kB", Field::Key, 0);
    wrong("Rss:                   7 kB", "", Field::Key, 0);
    wrong("Rss:                   7 kB", " Rss: 7 kB", Field::Key, 0);
    wrong("r--p", "r-?p", Field::Rights, 28);
}

#[test]
fn our_own_sizes_add_up() {
    let text = std::fs::read("/proc/self/smaps").unwrap();
    let mut resident = 0;
    for area in smaps(&text) {
        let (line, sizes) = area.unwrap();
        assert_eq!(sizes.size << 10, line.len(), "{line}");
        let parts = sizes.shared_clean + sizes.private_clean + sizes.dirty();
        assert_eq!(parts, sizes.rss, "{line}");
        resident += sizes.rss;
    }
    assert!(resident > 0);
}
