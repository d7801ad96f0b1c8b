//! Dense matrices for what is fitted here: products by `matrixmultiply`, a Cholesky solver, Adam. Pure.

/// A row-major matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// `rows * cols` values.
    pub data: Vec<f32>,
}

impl Matrix {
    /// All zero.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// One row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }
}

/// How an operand of a product is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// As it lies.
    Is,
    /// Rows and columns exchanged.
    Transposed,
}

fn shape(m: &Matrix, how: As) -> (usize, usize, isize, isize) {
    let (rows, cols) = (m.rows, m.cols);
    match how {
        As::Is => (rows, cols, cols as isize, 1),
        As::Transposed => (cols, rows, 1, cols as isize),
    }
}

/// `out = keep * out + a * b`. Shapes that do not fit leave `out` untouched and return false.
pub fn multiply(a: &Matrix, how_a: As, b: &Matrix, how_b: As, keep: f32, out: &mut Matrix) -> bool {
    let (m, k, a_row, a_col) = shape(a, how_a);
    let (k_b, n, b_row, b_col) = shape(b, how_b);
    let whole = |m: &Matrix| m.data.len() == m.rows * m.cols;
    if k != k_b || (out.rows, out.cols) != (m, n) || !whole(a) || !whole(b) || !whole(out) {
        return false;
    }
    // SAFETY: the three matrices were just checked to hold as many values as their strides reach, and `out` is
    // borrowed mutably, so it overlaps neither.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.data.as_ptr(),
            a_row,
            a_col,
            b.data.as_ptr(),
            b_row,
            b_col,
            keep,
            out.data.as_mut_ptr(),
            n as isize,
            1,
        );
    }
    true
}

/// Solves `a x = b` for a symmetric positive `a` (`n * n`) and several right sides (`n * m`), in double precision, in
/// place. Returns false when `a` is not positive definite.
pub fn solve_spd(a: &mut [f64], n: usize, b: &mut [f64], m: usize) -> bool {
    for i in 0..n {
        let (above, rest) = a.split_at_mut(i * n);
        let row = &mut rest[..n];
        for j in 0..i {
            let other = &above[j * n..j * n + j + 1];
            let sum: f64 = row[..j].iter().zip(other).map(|(x, y)| x * y).sum();
            row[j] = (row[j] - sum) / other[j];
        }
        let d = row[i] - row[..i].iter().map(|x| x * x).sum::<f64>();
        if d.is_nan() || d <= 0.0 {
            return false;
        }
        row[i] = d.sqrt();
    }
    for c in 0..m {
        for i in 0..n {
            let sum: f64 = (0..i).map(|k| a[i * n + k] * b[k * m + c]).sum();
            b[i * m + c] = (b[i * m + c] - sum) / a[i * n + i];
        }
        for i in (0..n).rev() {
            let sum: f64 = (i + 1..n).map(|k| a[k * n + i] * b[k * m + c]).sum();
            b[i * m + c] = (b[i * m + c] - sum) / a[i * n + i];
        }
    }
    true
}

/// Adam (Kingma and Ba 2015) for one block of parameters, beta 0.9 and 0.99.
#[derive(Debug, Clone)]
pub struct Adam {
    mean: Vec<f32>,
    square: Vec<f32>,
    steps: i32,
}

impl Adam {
    /// For so many parameters.
    pub fn new(parameters: usize) -> Self {
        Self { mean: vec![0.0; parameters], square: vec![0.0; parameters], steps: 0 }
    }

    /// One step against the gradient; `decay` shrinks the parameters by `rate * decay` (decoupled).
    pub fn step(&mut self, parameters: &mut [f32], gradient: &[f32], rate: f32, decay: f32) {
        const BETA_1: f32 = 0.9;
        const BETA_2: f32 = 0.99;
        self.steps += 1;
        let (c1, c2) = (1.0 - BETA_1.powi(self.steps), 1.0 - BETA_2.powi(self.steps));
        for (((p, g), m), v) in parameters.iter_mut().zip(gradient).zip(&mut self.mean).zip(&mut self.square)
        {
            *m = BETA_1 * *m + (1.0 - BETA_1) * g;
            *v = BETA_2 * *v + (1.0 - BETA_2) * g * g;
            *p -= rate * ((*m / c1) / ((*v / c2).sqrt() + 1e-8) + decay * *p);
        }
    }
}

/// A small generator (SplitMix64, Steele et al. 2014), so that a training is the same every time.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform from 0 to 1, below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n.max(1) as u64) as usize
    }

    /// Shuffles (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next_u64() % (i as u64 + 1)) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_their_transposes() {
        let a = Matrix { rows: 2, cols: 3, data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
        let b = Matrix { rows: 3, cols: 1, data: vec![1.0, 0.0, -1.0] };
        let mut out = Matrix { rows: 2, cols: 1, data: vec![10.0, 10.0] };
        assert!(multiply(&a, As::Is, &b, As::Is, 0.0, &mut out));
        assert_eq!(out.data, vec![-2.0, -2.0]);
        let mut square = Matrix::zeros(3, 3);
        assert!(multiply(&a, As::Transposed, &a, As::Is, 0.0, &mut square));
        assert_eq!(square.data, vec![17.0, 22.0, 27.0, 22.0, 29.0, 36.0, 27.0, 36.0, 45.0]);
        assert!(!multiply(&a, As::Is, &a, As::Is, 0.0, &mut square));
    }

    #[test]
    fn cholesky_solves_and_refuses() {
        let mut a = [4.0, 2.0, 2.0, 3.0];
        let mut b = [10.0, 4.0, 9.0, 3.0];
        assert!(solve_spd(&mut a, 2, &mut b, 2));
        for (got, want) in b.iter().zip([1.5, 0.75, 2.0, 0.5]) {
            assert!((got - want).abs() < 1e-12);
        }
        assert!(!solve_spd(&mut [1.0, 2.0, 2.0, 1.0], 2, &mut [1.0, 1.0], 1));
    }

    #[test]
    fn adam_finds_the_minimum_of_a_parabola() {
        let mut x = [5.0f32];
        let mut adam = Adam::new(1);
        for _ in 0..500 {
            let g = [2.0 * (x[0] - 2.0)];
            adam.step(&mut x, &g, 0.05, 0.0);
        }
        assert!((x[0] - 2.0).abs() < 0.02, "{x:?}");
    }
}
