//! Whether floor points span the floor.

use super::super::vector::{eigen_symmetric, norm2, sub2};
use super::CalibrationError;
use super::evidence::FloorPoint;

/// Four points of which no three lie on a line must exist, on the floor and in the picture.
pub(super) fn check_spread(points: &[FloorPoint]) -> Result<(), CalibrationError> {
    for (what, coordinates) in [
        ("on the floor", points.iter().map(|p| p.ground_m).collect::<Vec<_>>()),
        ("in the picture", points.iter().map(|p| p.pixel).collect::<Vec<_>>()),
    ] {
        let n = coordinates.len() as f64;
        let mean = coordinates.iter().fold([0.0, 0.0], |m, p| [m[0] + p[0] / n, m[1] + p[1] / n]);
        let mut c = [0.0; 3];
        for p in &coordinates {
            let d = sub2(*p, mean);
            c = [c[0] + d[0] * d[0], c[1] + d[0] * d[1], c[2] + d[1] * d[1]];
        }
        let (values, _) = eigen_symmetric(&[vec![c[0], c[1]], vec![c[1], c[2]]]);
        if values[1] <= 0.0 {
            return Err(CalibrationError::Degenerate(format!("all points are in one spot {what}")));
        }
        if values[0] < values[1] * 1e-4 {
            return Err(CalibrationError::Degenerate(format!("all points are on a line {what}")));
        }
        if !has_four_in_general_position(&coordinates, values[1].sqrt()) {
            return Err(CalibrationError::Degenerate(format!("all points but one are on a line {what}")));
        }
    }
    Ok(())
}

fn has_four_in_general_position(points: &[[f64; 2]], size: f64) -> bool {
    let n = points.len();
    // Twice the triangle's area over its longest side is its height: at least 1 % of the set's size.
    let flat = |a: [f64; 2], b: [f64; 2], c: [f64; 2]| {
        let (u, v) = (sub2(b, a), sub2(c, a));
        let longest = norm2(u).max(norm2(v)).max(norm2(sub2(c, b)));
        longest == 0.0 || (u[0] * v[1] - u[1] * v[0]).abs() / longest < 0.01 * size
    };
    for i in 0..n {
        for j in i + 1..n {
            for k in j + 1..n {
                if flat(points[i], points[j], points[k]) {
                    continue;
                }
                let general = |l: usize| {
                    !flat(points[i], points[j], points[l])
                        && !flat(points[i], points[k], points[l])
                        && !flat(points[j], points[k], points[l])
                };
                if (0..n).any(|l| l != i && l != j && l != k && general(l)) {
                    return true;
                }
            }
        }
    }
    false
}
