//! Launches of `attention`.

use half::f16;
use kernels::cuda::COUNTER_BYTES;

use super::kv::int8_page;
use super::{ARCHITECTURES, Case, Simulated, expect_close, floats, noise};

/// Tokens of a page.
pub const PAGE: usize = 16;

/// A shape and what attention is set to.
#[derive(Clone, Debug)]
pub struct Setting {
    pub variant: &'static str,
    pub group: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub value_dim: usize,
    pub window: usize,
    pub softcap: f32,
    pub sinks: bool,
    /// Queries are that many times as large, and the scale as small.
    pub magnitude: f32,
}

/// Tokens of a step: a sequence and a position each.
pub type Tokens = Vec<(usize, usize)>;

/// `count` tokens of a sequence from `position` on.
pub fn run(sequence: usize, position: usize, count: usize) -> Tokens {
    (position..position + count).map(|p| (sequence, p)).collect()
}

pub fn plain(variant: &'static str, group: usize, kv_heads: usize, dim: usize) -> Setting {
    Setting { variant, group, kv_heads, dim, value_dim: 0, window: 0, softcap: 0.0, sinks: false, magnitude: 1.0 }
}

impl Setting {
    pub fn heads(&self) -> usize {
        self.group * self.kv_heads
    }

    pub fn columns(&self) -> usize {
        if self.value_dim > 0 { self.value_dim } else { self.dim }
    }

    /// Rows of integers have scales that differ from neighbour to neighbour, so that one that is not its row's shows.
    fn row_magnitude(&self, position: usize) -> f32 {
        if self.variant == "int8" { [1.0, 0.3, 2.0, 0.6, 1.4][position % 5] } else { 1.0 }
    }

    /// Largest relative RMS against the native kernel: f16 rounds queries and weights to 11 bits, and integers with their scales.
    pub fn limit(&self) -> f64 {
        if self.variant == "f32" { 2e-6 } else { 3e-3 }
    }

    /// A step over a cache of `lens` positions a sequence. What nobody may look at is NaN: free slots behind a sequence's end, and
    /// page 0, which stands for pages that no token of the step sees any more.
    pub fn case(&self, lens: &[usize], tokens: &Tokens) -> Case {
        let pages = lens.iter().map(|len| len.div_ceil(PAGE)).max().unwrap();
        let (width, planes) = (self.kv_heads * self.dim, if self.value_dim > 0 { 1 } else { 2 });
        let page_elements = planes * width * PAGE;
        let mut kv = vec![f32::NAN; (1 + pages * lens.len()) * page_elements];
        let mut table = vec![0i32; pages * lens.len()];
        for (s, len) in lens.iter().enumerate() {
            let (k, v) = (noise(10 + s as u64, len * width), noise(50 + s as u64, len * width));
            let first = tokens.iter().find(|t| t.0 == s).map_or(*len, |t| t.1 + 1);
            let first = if self.window > 0 { first.saturating_sub(self.window) } else { 0 };
            for position in 0..*len {
                // Pages of a sequence lie in descending order.
                let page = 1 + s * pages + pages - 1 - position / PAGE;
                if position / PAGE >= first / PAGE {
                    table[s * pages + position / PAGE] = page as i32;
                }
                let magnitude = self.row_magnitude(position);
                for i in 0..width {
                    let (head, d, slot) = (i / self.dim, i % self.dim, position % PAGE);
                    kv[page * page_elements + i * PAGE + slot] = k[position * width + i] * magnitude;
                    if planes == 2 {
                        let at = ((self.kv_heads + head) * PAGE + slot) * self.dim + d;
                        kv[page * page_elements + at] = v[position * width + i] * magnitude;
                    }
                }
            }
        }
        let (q_width, count) = (self.heads() * self.dim, tokens.len());
        let q: Vec<f32> = tokens
            .iter()
            .flat_map(|(s, p)| noise((1000 * s + p) as u64 + 7, q_width))
            .map(|x| x * self.magnitude)
            .collect();
        let case = Case::new("attention", self.variant);
        let case = match self.variant {
            "f16" => case.input("kv", &kv.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>()),
            "int8" => {
                let page = |page: &[f32]| int8_page(page, planes, self.kv_heads, self.dim);
                case.input("kv", &kv.chunks_exact(page_elements).flat_map(page).collect::<Vec<u8>>())
            }
            _ => case.input("kv", &kv),
        };
        let case = if self.sinks { case.input("sinks", &noise(3, self.heads())) } else { case };
        case.input("q", &q)
            .input("positions", &tokens.iter().map(|t| t.1 as i32).collect::<Vec<_>>())
            .input("sequences", &tokens.iter().map(|t| t.0 as i32).collect::<Vec<_>>())
            .input("page_table", &table)
            .output::<f32>("out", count * self.heads() * self.columns())
            .count("tokens", count)
            .count("heads", self.heads())
            .count("kv_heads", self.kv_heads)
            .count("head_dim", self.dim)
            .count("page_table_stride", pages)
            .count("window", self.window)
            .count("value_dim", self.value_dim)
            .number("scale", 1.5 / (self.dim as f32).sqrt() / self.magnitude)
            .number("softcap", self.softcap)
    }

    /// A step on one architecture: agrees with the native kernel, and leaves its counters zero.
    pub fn check_on(&self, architecture: &str, lens: &[usize], tokens: &Tokens) -> Simulated {
        let case = self.case(lens, tokens);
        let simulated = case.run_simulated(architecture);
        assert_eq!(simulated.launches.len(), 1);
        expect_close(&case.run_native(), &simulated, "out", self.limit());
        let counters = simulated.workspace.len().min(COUNTER_BYTES as usize);
        assert!(simulated.workspace[..counters].iter().all(|b| *b == 0), "a counter is left");
        simulated
    }

    /// A step on each architecture, by the launch `entry`.
    pub fn check(&self, lens: &[usize], tokens: &Tokens, entry: &str) {
        for architecture in ARCHITECTURES {
            let simulated = self.check_on(architecture, lens, tokens);
            assert_eq!(simulated.launches[0].0.entry, entry, "{self:?}");
        }
    }

    /// Bits of each token's outputs.
    fn bits(&self, simulated: &Simulated) -> Vec<Vec<u32>> {
        let out = floats(&simulated.outputs["out"]);
        out.chunks_exact(self.heads() * self.columns()).map(|t| t.iter().map(|x| x.to_bits()).collect()).collect()
    }

    /// A step gives the bits that the tokens `alone` give, each in a step of its own. Returns the step's entry.
    pub fn expect_same_bits(&self, lens: &[usize], tokens: &Tokens, alone: &[usize]) -> &'static str {
        let simulated = self.check_on("sm_80", lens, tokens);
        let together = self.bits(&simulated);
        for &i in alone {
            let single = self.bits(&self.check_on("sm_80", lens, &vec![tokens[i]]));
            assert!(single[0] == together[i], "{self:?}, token {i} of {}: {:?}", tokens.len(), tokens[i]);
        }
        simulated.launches[0].0.entry
    }
}
