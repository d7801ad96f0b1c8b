//! A small network of full layers with GELUs between them: forward, backward, steps. A fixed seed and fixed order of sums
//! make a training the same every time.

use super::matrix::{Adam, As, Matrix, Random, multiply};

/// One layer: `inputs * outputs` weights.
#[derive(Debug, Clone)]
pub struct Layer {
    /// A row an input, a column an output.
    pub weight: Matrix,
    /// One an output.
    pub bias: Vec<f32>,
}

/// The layers, from the inputs up.
#[derive(Debug, Clone)]
pub struct Network {
    /// Each takes what the one before gives.
    pub layers: Vec<Layer>,
}

/// What a forward pass leaves for the backward pass.
pub struct Pass {
    /// Inputs of each layer.
    inputs: Vec<Matrix>,
    /// By how much the inputs of each layer but the first change with what the layer below gave.
    slopes: Vec<Matrix>,
    /// What the last layer gave.
    pub output: Matrix,
}

/// Noise of training: which values are left out.
pub struct Dropout<'a> {
    /// Share of the values that are left out of the inputs of each layer but the last.
    pub share: f32,
    /// Decides which.
    pub random: &'a mut Random,
}

impl Dropout<'_> {
    /// Sets values to zero and scales the others up, in `x` and alike in `slope`.
    fn apply(&mut self, x: &mut [f32], mut slope: Option<&mut [f32]>) {
        let below = (self.share * 256.0) as u8;
        let keep = 256.0 / (256.0 - f32::from(below));
        for (i, part) in x.chunks_mut(8).enumerate() {
            let bytes = self.random.next_u64().to_le_bytes();
            for (v, byte) in part.iter_mut().zip(bytes) {
                *v *= if byte < below { 0.0 } else { keep };
            }
            if let Some(part) = slope.as_deref_mut().and_then(|s| s.get_mut(8 * i..)) {
                for (v, byte) in part.iter_mut().zip(bytes) {
                    *v *= if byte < below { 0.0 } else { keep };
                }
            }
        }
    }
}

impl Network {
    /// Of these widths, inputs first; weights and biases uniform up to one over the root of the inputs.
    pub fn new(widths: &[usize], random: &mut Random) -> Self {
        let layer = |pair: &[usize]| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let most = 1.0 / (inputs as f64).sqrt();
            let mut draw = || ((2.0 * random.unit() - 1.0) * most) as f32;
            let mut weight = Matrix::zeros(inputs, outputs);
            weight.data.iter_mut().for_each(|w| *w = draw());
            Layer { weight, bias: (0..outputs).map(|_| draw()).collect() }
        };
        Self { layers: widths.windows(2).map(layer).collect() }
    }

    /// A batch, one row an example.
    pub fn forward(&self, mut x: Matrix, mut dropout: Option<Dropout<'_>>) -> Pass {
        let last = self.layers.len() - 1;
        let (mut inputs, mut slopes) = (Vec::new(), Vec::new());
        if let Some(dropout) = dropout.as_mut() {
            dropout.apply(&mut x.data, None);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let mut z = Matrix::zeros(x.rows, layer.bias.len());
            multiply(&x, As::Is, &layer.weight, As::Is, 0.0, &mut z);
            for row in z.data.chunks_exact_mut(layer.bias.len()) {
                row.iter_mut().zip(&layer.bias).for_each(|(z, b)| *z += b);
            }
            inputs.push(x);
            if i < last {
                let mut slope = Matrix::zeros(z.rows, z.cols);
                for (z, slope) in z.data.iter_mut().zip(&mut slope.data) {
                    (*z, *slope) = gelu(*z);
                }
                if let Some(dropout) = dropout.as_mut().filter(|_| i + 1 < last) {
                    dropout.apply(&mut z.data, Some(&mut slope.data));
                }
                slopes.push(slope);
            }
            x = z;
        }
        Pass { inputs, slopes, output: x }
    }

    /// Gradients of each layer, from the gradient of the output.
    pub fn backward(&self, pass: &Pass, gradient: Matrix) -> Vec<Layer> {
        let mut out = Vec::new();
        let mut g = gradient;
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let mut weight = Matrix::zeros(layer.weight.rows, layer.weight.cols);
            multiply(&pass.inputs[i], As::Transposed, &g, As::Is, 0.0, &mut weight);
            let mut bias = vec![0.0f32; layer.bias.len()];
            for row in g.data.chunks_exact(bias.len()) {
                bias.iter_mut().zip(row).for_each(|(b, g)| *b += g);
            }
            out.push(Layer { weight, bias });
            if i > 0 {
                let mut below = Matrix::zeros(g.rows, layer.weight.rows);
                multiply(&g, As::Is, &layer.weight, As::Transposed, 0.0, &mut below);
                below.data.iter_mut().zip(&pass.slopes[i - 1].data).for_each(|(g, s)| *g *= s);
                g = below;
            }
        }
        out.reverse();
        out
    }
}

/// Steps of AdamW for a whole network.
pub struct Steps {
    layers: Vec<(Adam, Adam)>,
    decay: f32,
}

impl Steps {
    /// `decay` shrinks the weights, not the biases.
    pub fn new(network: &Network, decay: f32) -> Self {
        let of = |l: &Layer| (Adam::new(l.weight.data.len()), Adam::new(l.bias.len()));
        Self { layers: network.layers.iter().map(of).collect(), decay }
    }

    /// One step against the gradient.
    pub fn step(&mut self, network: &mut Network, gradient: &[Layer], rate: f32) {
        for ((layer, (weight, bias)), g) in network.layers.iter_mut().zip(&mut self.layers).zip(gradient) {
            weight.step(&mut layer.weight.data, &g.weight.data, rate, self.decay);
            bias.step(&mut layer.bias, &g.bias, rate, 0.0);
        }
    }
}

/// The exact GELU and its slope. The error function is that of Abramowitz and Stegun, 7.1.26: right to 1.5e-7.
pub fn gelu(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let bell = (-z * z).exp();
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let poly =
        t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    let erf = (1.0 - poly * bell).copysign(x);
    let share = 0.5 * (1.0 + erf);
    // Density of the normal distribution: 1 / sqrt(2 pi).
    (x * share, share + x * bell * 0.398_942_3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_has_known_values_and_its_own_slope() {
        for (x, want) in [(0.0, 0.0), (1.0, 0.841_344_8), (-1.0, -0.158_655_25), (3.0, 2.995_950_3)] {
            assert!((gelu(x).0 - want).abs() < 1e-6, "{x}: {:?}", gelu(x));
        }
        for x in [-2.3f32, -0.4, 0.0, 0.7, 1.9] {
            let slope = (gelu(x + 1e-2).0 - gelu(x - 1e-2).0) / 2e-2;
            assert!((gelu(x).1 - slope).abs() < 1e-4, "{x}");
        }
    }

    /// Half of the sum of the squares.
    fn loss(network: &Network, x: &Matrix) -> f64 {
        let out = network.forward(x.clone(), None).output;
        out.data.iter().map(|v| 0.5 * f64::from(*v).powi(2)).sum()
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let mut random = Random(3);
        let network = Network::new(&[5, 7, 6, 3], &mut random);
        let x =
            Matrix { rows: 4, cols: 5, data: (0..20).map(|_| random.unit() as f32 * 2.0 - 1.0).collect() };
        let pass = network.forward(x.clone(), None);
        let gradient = network.backward(&pass, pass.output.clone());
        for (l, g) in gradient.iter().enumerate() {
            for at in 0..g.weight.data.len() {
                let change = |by: f32| {
                    let mut other = network.clone();
                    other.layers[l].weight.data[at] += by;
                    loss(&other, &x)
                };
                let want = (change(1e-2) - change(-1e-2)) / 2e-2;
                assert!((f64::from(g.weight.data[at]) - want).abs() < 1e-3, "layer {l} weight {at}");
            }
            for at in 0..g.bias.len() {
                let change = |by: f32| {
                    let mut other = network.clone();
                    other.layers[l].bias[at] += by;
                    loss(&other, &x)
                };
                let want = (change(1e-2) - change(-1e-2)) / 2e-2;
                assert!((f64::from(g.bias[at]) - want).abs() < 1e-3, "layer {l} bias {at}");
            }
        }
    }

    #[test]
    fn dropout_leaves_out_a_share_and_keeps_the_mean() {
        let mut random = Random(1);
        let (mut x, mut slope) = (vec![1.0f32; 80_003], vec![2.0f32; 80_003]);
        Dropout { share: 0.25, random: &mut random }.apply(&mut x, Some(&mut slope));
        let out = x.iter().filter(|v| **v == 0.0).count() as f32 / x.len() as f32;
        assert!((out - 0.25).abs() < 0.01, "{out}");
        assert!((x.iter().sum::<f32>() / x.len() as f32 - 1.0).abs() < 0.01);
        assert!(x.iter().zip(&slope).all(|(x, s)| 2.0 * x == *s));
    }

    #[test]
    fn a_small_problem_is_learned() {
        // Exclusive or, which no linear map gives.
        let mut random = Random(2);
        let mut network = Network::new(&[2, 8, 8, 1], &mut random);
        let mut steps = Steps::new(&network, 0.0);
        let x = Matrix { rows: 4, cols: 2, data: vec![0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0] };
        let truth = [0.0f32, 1.0, 1.0, 0.0];
        for _ in 0..600 {
            let pass = network.forward(x.clone(), None);
            let mut g = pass.output.clone();
            g.data.iter_mut().zip(truth).for_each(|(o, t)| *o -= t);
            let gradient = network.backward(&pass, g);
            steps.step(&mut network, &gradient, 0.01);
        }
        let out = network.forward(x, None).output;
        for (got, want) in out.data.iter().zip(truth) {
            assert!((got - want).abs() < 0.05, "{:?}", out.data);
        }
    }
}
