//! The dense arithmetic of calibration: second moments, their factor, products; the same bits whatever the number of threads.
//!
//! Work is cut into strips of a fixed size that threads take one after the other, and each strip is computed by sequential code.
//! A strip's result does not depend on who computed it, which a parallel library call would not promise.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use faer::linalg::cholesky::llt::factor;
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_inverse::invert_upper_triangular;
use faer::prelude::default;
use faer::{Accum, Mat, MatMut, MatRef, Par};

/// Calls `work` for each item on up to `threads` threads; which thread takes which item is open.
pub fn for_each<T: Send>(items: impl IntoIterator<Item = T>, threads: usize, work: impl Fn(T) + Sync) {
    let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Each index is taken once, so no lock is ever waited for or poisoned twice.
            let item = item.lock().unwrap_or_else(|e| e.into_inner()).take();
            item.into_iter().for_each(&work);
        }
    };
    let helpers = threads.min(items.len()).saturating_sub(1);
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(run);
        }
        run();
    });
}

/// Rows of a strip of second moments.
const MOMENT_STRIP: usize = 128;

/// Sums of `x xᵀ` over samples of `x`, and how many there were.
#[derive(Clone, Debug)]
pub struct Moments {
    /// `[size, size]`, row-major; only columns from the row's strip on are kept up to date, see [`Moments::full`].
    sums: Vec<f32>,
    size: usize,
    samples: u64,
}

impl Moments {
    /// No samples yet of vectors of `size`.
    pub fn new(size: usize) -> Moments {
        Moments { sums: vec![0.0; size * size], size, samples: 0 }
    }

    /// Length of a sample.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Samples added.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Adds the rows of `x[n, size]`.
    pub fn add(&mut self, x: &[f32], threads: usize) {
        let (size, count) = (self.size, x.len() / self.size.max(1));
        if count == 0 {
            return;
        }
        let samples = MatRef::from_row_major_slice(x, count, size);
        let strips = self.sums.chunks_mut(MOMENT_STRIP * size).enumerate();
        for_each(strips, threads, |(i, strip)| {
            let (first, rows) = (i * MOMENT_STRIP, strip.len() / size);
            let out = MatMut::from_row_major_slice_mut(strip, rows, size);
            let left = samples.subcols(first, rows).transpose();
            let right = samples.subcols(first, size - first);
            matmul(out.subcols_mut(first, size - first), Accum::Add, left, right, 1.0, Par::Seq);
        });
        self.samples += count as u64;
    }

    /// Adds another's samples.
    pub fn merge(&mut self, other: &Moments) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
        self.samples += other.samples;
    }

    /// Entry `(i, j)` of the Hessian `2/n Σ x xᵀ`.
    pub fn hessian(&self, i: usize, j: usize) -> f64 {
        let (i, j) = (i.min(j), i.max(j));
        2.0 * f64::from(self.sums[i * self.size + j]) / self.samples.max(1) as f64
    }

    /// The Hessian's diagonal.
    pub fn diagonal(&self) -> Vec<f32> {
        (0..self.size).map(|i| self.hessian(i, i) as f32).collect()
    }

    /// The block of the Hessian from `first`, `[len, len]` row-major.
    pub fn block(&self, first: usize, len: usize) -> Vec<f32> {
        (first..first + len).flat_map(|i| (first..first + len).map(move |j| self.hessian(i, j) as f32)).collect()
    }
}

/// The upper factor `U` of the inverse of `h + damping`, `h⁻¹ = Uᵀ U`, row-major, for columns in the order `order`.
///
/// `Uᵀ` is the inverse of the factor `L` of the matrix read backwards: one Cholesky factorisation and one triangular inverse, where
/// inverting first and factorising then takes three passes. `None` if the matrix is not positive definite.
pub fn inverse_factor(moments: &Moments, order: &[usize], damping: f64) -> Option<Vec<f32>> {
    let n = order.len();
    if n == 0 {
        return Some(Vec::new());
    }
    // Backwards: row and column i are those of order[n - 1 - i].
    let mut a = Mat::<f64>::from_fn(n, n, |i, j| {
        let (c, d) = (order[n - 1 - i], order[n - 1 - j]);
        let value = moments.hessian(c, d);
        let dead = c == d && value == 0.0;
        if dead { 1.0 } else { value + if c == d { damping } else { 0.0 } }
    });
    let scratch = factor::cholesky_in_place_scratch::<f64>(n, Par::Seq, default());
    let mut memory = faer::dyn_stack::MemBuffer::new(scratch);
    let stack = faer::dyn_stack::MemStack::new(&mut memory);
    factor::cholesky_in_place(a.as_mut(), default(), Par::Seq, stack, default()).ok()?;
    // P A P = L Lᵀ, so A = (P L P)(P L P)ᵀ with P L P upper triangular, and U is its inverse.
    let upper = Mat::<f64>::from_fn(n, n, |i, j| if i <= j { a[(n - 1 - i, n - 1 - j)] } else { 0.0 });
    let mut inverse = Mat::<f64>::zeros(n, n);
    invert_upper_triangular(inverse.as_mut(), upper.as_ref(), Par::Seq);
    let values: Vec<f32> = (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|ij| inverse[ij] as f32).collect();
    values.iter().all(|v| v.is_finite()).then_some(values)
}

/// `out[rows, n] -= a[rows, k] · b[k, n]`, all row-major with the given strides.
pub fn subtract_product(out: MatMut<'_, f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    matmul(out, Accum::Add, a, b, -1.0, Par::Seq);
}

/// Squared Frobenius norm of `d[rows, cols] · x[samples, cols]ᵀ`: the output error that a difference of weights makes.
pub fn output_error(d: &[f32], x: &[f32], cols: usize) -> f64 {
    let (rows, samples) = (d.len() / cols, x.len() / cols);
    let mut product = Mat::<f32>::zeros(samples, rows);
    let x = MatRef::from_row_major_slice(x, samples, cols);
    let d = MatRef::from_row_major_slice(d, rows, cols);
    matmul(product.as_mut(), Accum::Replace, x, d.transpose(), 1.0, Par::Seq);
    (0..rows).map(|j| product.col(j).iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(n: usize, size: usize) -> Vec<f32> {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n * size).map(|_| next()).collect()
    }

    #[test]
    fn moments_are_sums_of_outer_products_on_any_number_of_threads() {
        let (n, size) = (50, 150);
        let x = samples(n, size);
        let mut one = Moments::new(size);
        one.add(&x[..20 * size], 1);
        one.add(&x[20 * size..], 1);
        let mut three = Moments::new(size);
        three.add(&x[..20 * size], 3);
        three.add(&x[20 * size..], 3);
        assert_eq!(one.sums, three.sums);
        for (i, j) in [(0, 0), (3, 140), (140, 3), (149, 149), (127, 128)] {
            let expected: f64 = (0..n).map(|t| f64::from(x[t * size + i]) * f64::from(x[t * size + j])).sum();
            assert!((one.hessian(i, j) - 2.0 * expected / n as f64).abs() < 1e-5, "{i} {j}");
        }
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        let size = 40;
        let mut moments = Moments::new(size);
        moments.add(&samples(100, size), 1);
        let order: Vec<usize> = (0..size).rev().collect();
        let u = inverse_factor(&moments, &order, 0.01).unwrap();
        // Uᵀ U times the matrix is the identity.
        for i in 0..size {
            for j in 0..size {
                let inverse = |k: usize| -> f64 {
                    (0..size).map(|r| f64::from(u[r * size + i]) * f64::from(u[r * size + k])).sum()
                };
                let entry = |k: usize| moments.hessian(order[k], order[j]) + if k == j { 0.01 } else { 0.0 };
                let product: f64 = (0..size).map(|k| inverse(k) * entry(k)).sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-3, "{i} {j} {product}");
                assert!(i <= j || u[i * size + j] == 0.0);
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        let mut moments = Moments::new(2);
        moments.add(&[1.0, 1.0], 1);
        moments.sums[1] = 5.0;
        assert!(inverse_factor(&moments, &[0, 1], 0.0).is_none());
    }

    #[test]
    fn every_item_is_taken_once() {
        let sum = AtomicUsize::new(0);
        for_each(1..=100, 4, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 5050);
    }
}
