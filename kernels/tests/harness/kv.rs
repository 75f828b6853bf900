//! Pages of the cache that hold integers, beside pages of f32.

use half::f16;
use ir::quant::int8_rows;

use super::attention::PAGE;

/// Where dimension `d` of a head's row lies in a page of `planes` planes: of its key or value of one slot.
fn place([plane, head, slot, d]: [usize; 4], kv_heads: usize, dim: usize) -> usize {
    match plane {
        0 => (head * dim + d) * PAGE + slot,
        _ => ((kv_heads + head) * PAGE + slot) * dim + d,
    }
}

/// Every row of a page: plane, head and slot.
fn rows(planes: usize, kv_heads: usize) -> impl Iterator<Item = [usize; 3]> {
    (0..planes * kv_heads * PAGE).map(move |row| [row / PAGE / kv_heads, row / PAGE % kv_heads, row % PAGE])
}

/// A page of f32 as one of integers, whose scales follow in the order of [`rows`]. Rows that are no numbers have scales that are none.
pub fn int8_page(page: &[f32], planes: usize, kv_heads: usize, dim: usize) -> Vec<u8> {
    let mut integers = vec![0; page.len()];
    let mut scales = Vec::new();
    for [plane, head, slot] in rows(planes, kv_heads) {
        let at = |d| place([plane, head, slot, d], kv_heads, dim);
        let values: Vec<f32> = (0..dim).map(|d| page[at(d)]).collect();
        let mut row = vec![0; dim + 2];
        int8_rows::quantize_row(&values, &mut row).unwrap();
        (0..dim).for_each(|d| integers[at(d)] = row[d]);
        scales.extend_from_slice(&row[dim..]);
    }
    [integers, scales].concat()
}

/// The inverse of [`int8_page`].
pub fn f32_page(page: &[u8], planes: usize, kv_heads: usize, dim: usize) -> Vec<f32> {
    let (integers, scales) = page.split_at(planes * kv_heads * PAGE * dim);
    let mut values = vec![0f32; integers.len()];
    for ([plane, head, slot], scale) in rows(planes, kv_heads).zip(scales.as_chunks::<2>().0) {
        for at in (0..dim).map(|d| place([plane, head, slot, d], kv_heads, dim)) {
            values[at] = f32::from(integers[at] as i8) * f16::from_le_bytes(*scale).to_f32();
        }
    }
    values
}
