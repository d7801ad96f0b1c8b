//! The few operations on 2- and 3-vectors and 3 x 3 matrices that the geometry needs.

/// A 3-vector.
pub type V3 = [f64; 3];
/// A 3 x 3 matrix, row by row.
pub type M3 = [[f64; 3]; 3];

/// `a - b`.
pub fn sub2(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0] - b[0], a[1] - b[1]]
}

/// Scalar product.
pub fn dot2(a: [f64; 2], b: [f64; 2]) -> f64 {
    a[0] * b[0] + a[1] * b[1]
}

/// Length.
pub fn norm2(a: [f64; 2]) -> f64 {
    a[0].hypot(a[1])
}

/// Scalar product.
pub fn dot3(a: V3, b: V3) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Vector product.
pub fn cross3(a: V3, b: V3) -> V3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

/// Length.
pub fn norm3(a: V3) -> f64 {
    dot3(a, a).sqrt()
}

/// `a * factor`.
pub fn scale3(a: V3, factor: f64) -> V3 {
    a.map(|x| x * factor)
}

/// Matrix times vector.
pub fn mul(m: &M3, v: V3) -> V3 {
    [dot3(m[0], v), dot3(m[1], v), dot3(m[2], v)]
}

/// Transposed matrix times vector: the inverse of a rotation.
pub fn mul_t(m: &M3, v: V3) -> V3 {
    [0, 1, 2].map(|i| m[0][i] * v[0] + m[1][i] * v[1] + m[2][i] * v[2])
}

/// Product of two matrices.
pub fn matmul(a: &M3, b: &M3) -> M3 {
    [0, 1, 2].map(|i| [0, 1, 2].map(|j| a[i][0] * b[0][j] + a[i][1] * b[1][j] + a[i][2] * b[2][j]))
}

/// The rotation by the vector's length (radians) about its direction (Rodrigues' formula).
pub fn rotation(w: V3) -> M3 {
    let angle = norm3(w);
    if angle < 1e-12 {
        return [[1.0, -w[2], w[1]], [w[2], 1.0, -w[0]], [-w[1], w[0], 1.0]];
    }
    let [x, y, z] = scale3(w, 1.0 / angle);
    let (s, c) = angle.sin_cos();
    let t = 1.0 - c;
    [
        [t * x * x + c, t * x * y - s * z, t * x * z + s * y],
        [t * x * y + s * z, t * y * y + c, t * y * z - s * x],
        [t * x * z - s * y, t * y * z + s * x, t * z * z + c],
    ]
}

/// Solves the symmetric positive system `a x = b` in place by Cholesky; `None` when `a` is not positive definite.
pub fn solve_spd(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| a[i][k] * a[j][k]).sum();
            if i == j {
                let d = a[i][i] - sum;
                if d.is_nan() || d <= 0.0 {
                    return None;
                }
                a[i][i] = d.sqrt();
            } else {
                a[i][j] = (a[i][j] - sum) / a[j][j];
            }
        }
    }
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| a[i][k] * b[k]).sum();
        b[i] = (b[i] - sum) / a[i][i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| a[k][i] * b[k]).sum();
        b[i] = (b[i] - sum) / a[i][i];
    }
    Some(b)
}

/// Inverse of a symmetric positive matrix; `None` when it is not positive definite.
pub fn invert_spd(a: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
    let n = a.len();
    let mut columns = Vec::with_capacity(n);
    for i in 0..n {
        let mut unit = vec![0.0; n];
        unit[i] = 1.0;
        columns.push(solve_spd(a.to_vec(), unit)?);
    }
    Some(columns)
}

/// Eigenvalues (ascending) and eigenvectors (`vectors[k]` belongs to `values[k]`) of a symmetric matrix by
/// Jacobi rotations.
pub fn eigen_symmetric(a: &[Vec<f64>]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = a.len();
    let mut a = a.to_vec();
    let mut v: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..60 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j] * a[i][j]).sum();
        let diagonal: f64 = (0..n).map(|i| a[i][i] * a[i][i]).sum();
        if off <= 1e-30 * diagonal {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let t = if theta == 0.0 { 1.0 } else { t };
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in &mut a {
                    let (x, y) = (row[p], row[q]);
                    row[p] = c * x - s * y;
                    row[q] = s * x + c * y;
                }
                let (above, below) = a.split_at_mut(q);
                for (up, down) in above[p].iter_mut().zip(&mut below[0]) {
                    let (x, y) = (*up, *down);
                    *up = c * x - s * y;
                    *down = s * x + c * y;
                }
                for row in &mut v {
                    let (x, y) = (row[p], row[q]);
                    row[p] = c * x - s * y;
                    row[q] = s * x + c * y;
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[i][i].total_cmp(&a[j][j]));
    let values = order.iter().map(|&i| a[i][i]).collect();
    let vectors = order.iter().map(|&i| v.iter().map(|row| row[i]).collect()).collect();
    (values, vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_turns_by_its_angle() {
        let r = rotation([0.0, 0.0, std::f64::consts::FRAC_PI_2]);
        let v = mul(&r, [1.0, 0.0, 0.0]);
        assert!((v[0]).abs() < 1e-12 && (v[1] - 1.0).abs() < 1e-12);
        let back = mul_t(&r, v);
        assert!((back[0] - 1.0).abs() < 1e-12 && back[1].abs() < 1e-12);
    }

    #[test]
    fn eigenvectors_of_a_known_matrix() {
        // [[2,1],[1,2]] has 1 along (1,-1) and 3 along (1,1).
        let (values, vectors) = eigen_symmetric(&[vec![2.0, 1.0], vec![1.0, 2.0]]);
        assert!((values[0] - 1.0).abs() < 1e-12 && (values[1] - 3.0).abs() < 1e-12);
        assert!((vectors[0][0] + vectors[0][1]).abs() < 1e-9 && (vectors[1][0] - vectors[1][1]).abs() < 1e-9);
    }

    #[test]
    fn spd_solve_and_refusal() {
        let x = solve_spd(vec![vec![4.0, 2.0], vec![2.0, 3.0]], vec![10.0, 9.0]).unwrap();
        assert!((x[0] - 1.5).abs() < 1e-12 && (x[1] - 2.0).abs() < 1e-12);
        assert!(solve_spd(vec![vec![1.0, 2.0], vec![2.0, 1.0]], vec![1.0, 1.0]).is_none());
    }
}
