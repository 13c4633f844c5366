//! Strings of references: written out, or made by a pattern and a seed.

/// A shape of references.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Pattern {
    /// All pages in order, again and again
    Loop,
    /// Any page, each as likely as the others
    Random,
    /// Few pages often, many rarely: page n with a weight of 1 / n
    Zipf,
    /// An eighth of the pages at random, and every fourth reference the next of a scan over all
    Scan,
}

/// Marsaglia's xorshift64.
struct Xorshift(u64);

impl Xorshift {
    fn new(seed: u64) -> Xorshift {
        // It never leaves 0.
        Xorshift(if seed == 0 {
            0x9e37_79b9_7f4a_7c15
        } else {
            seed
        })
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next() % u64::from(end)).unwrap_or(0)
    }
}

impl Pattern {
    /// `count` references to `pages` pages, which must not be 0.
    pub fn references(self, pages: u32, count: usize, seed: u64) -> Vec<u32> {
        let mut random = Xorshift::new(seed);
        match self {
            Pattern::Loop => (0..pages).cycle().take(count).collect(),
            Pattern::Random => (0..count).map(|_| random.below(pages)).collect(),
            Pattern::Zipf => {
                let mut total = 0.0;
                let sums: Vec<f64> = (1..=pages)
                    .map(|n| {
                        total += 1.0 / f64::from(n);
                        total
                    })
                    .collect();
                let mut pick = || {
                    // The upper 53 bits as a fraction.
                    let fraction = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
                    let place = sums.partition_point(|sum| *sum <= fraction * total);
                    u32::try_from(place).unwrap_or(pages).min(pages - 1)
                };
                (0..count).map(|_| pick()).collect()
            }
            Pattern::Scan => {
                let hot = (pages / 8).max(1);
                let mut scan = (0..pages).cycle();
                let mut pick = |at: usize| match at % 4 {
                    3 => scan.next().unwrap_or(0),
                    _ => random.below(hot),
                };
                (0..count).map(&mut pick).collect()
            }
        }
    }
}

/// Reads `7,0,1,2`, with blanks where one likes.
pub fn parse(text: &str) -> Result<Vec<u32>, String> {
    text.split(',')
        .map(|word| {
            let page: u32 = word
                .trim()
                .parse()
                .map_err(|_| format!("{:?} is no page number", word.trim()))?;
            if page < MOST_PAGES {
                Ok(page)
            } else {
                Err(format!("page numbers are below {MOST_PAGES}"))
            }
        })
        .collect()
}

/// One more than the largest page number.
pub const MOST_PAGES: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read() {
        assert_eq!(parse("7,0, 1,2 "), Ok(vec![7, 0, 1, 2]));
        for text in ["", "1,,2", "1 2", "-1", "65536", "0x1"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn patterns_are_what_they_are_called() {
        let string = |pattern: Pattern, pages| pattern.references(pages, 8000, 12345);
        assert_eq!(Pattern::Loop.references(3, 7, 0), [0, 1, 2, 0, 1, 2, 0]);
        for pattern in [Pattern::Random, Pattern::Zipf, Pattern::Scan] {
            let references = string(pattern, 64);
            assert_eq!(references, string(pattern, 64), "the seed decides");
            assert_ne!(references, pattern.references(64, 8000, 1));
            assert!(references.iter().all(|page| *page < 64));
            assert!(string(pattern, 1).iter().all(|page| *page == 0));
        }
        let of = |references: &[u32], page| references.iter().filter(|p| **p == page).count();
        // Page 0 has a share of 1 / H(64) = 0.21, page 9 a tenth of it.
        let zipf = string(Pattern::Zipf, 64);
        assert!((1500..1870).contains(&of(&zipf, 0)), "{}", of(&zipf, 0));
        assert!((120..220).contains(&of(&zipf, 9)), "{}", of(&zipf, 9));
        let random = string(Pattern::Random, 64);
        assert!((0..64).all(|page| (80..180).contains(&of(&random, page))));
        let scan = string(Pattern::Scan, 64);
        let scanned: Vec<u32> = scan.iter().copied().skip(3).step_by(4).take(64).collect();
        assert_eq!(scanned, (0..64).collect::<Vec<u32>>());
    }
}
