//! `standoff::preprocess` against a plain float64 reference that knows no tables, and against Pillow.

use standoff::preprocess::{MEAN, Preprocessor, STD, color, letterbox, reference};
use standoff::types::{ChromaSiting, ColorMatrix, ColorRange, Frame, PixelFormat, Pixels, Plane};

use super::reference::{frame, random_frame};

/// Normalised units, f32 against float64.
const TOLERANCE: f64 = 1e-5;

/// Largest difference over a sample of the output's pixels (all of them for a small output).
fn worst(preprocessor: &mut Preprocessor, frame: &Frame, step: usize) -> f64 {
    let mut out = vec![f32::NAN; preprocessor.values()];
    let transform = preprocessor.run(frame, &mut out).unwrap();
    reference::worst(frame, &transform, &out, step)
}

#[test]
fn agrees_with_float64() {
    let input = [56, 42];
    let mut preprocessor = Preprocessor::new(input[0], input[1]);
    let mut seed = 0;
    let mut overall = 0.0f64;
    for (width, height) in [(97, 61), (64, 48), (31, 77), (20, 15), (1, 1), (3, 200), (201, 2)] {
        for format in [PixelFormat::I420, PixelFormat::Nv12] {
            for matrix in [ColorMatrix::Bt601, ColorMatrix::Bt709, ColorMatrix::Bt2020] {
                for range in [ColorRange::Limited, ColorRange::Full] {
                    for siting in [
                        ChromaSiting::MPEG2,
                        ChromaSiting::JPEG,
                        ChromaSiting { horizontal_cosited: true, vertical_cosited: true },
                    ] {
                        seed += 1;
                        let mut frame = random_frame(width, height, format, seed);
                        (frame.matrix, frame.range, frame.siting) = (matrix, range, siting);
                        let difference = worst(&mut preprocessor, &frame, 7);
                        assert!(
                            difference <= TOLERANCE,
                            "{difference} at {width}x{height} {format:?} {siting:?}"
                        );
                        overall = overall.max(difference);
                    }
                }
            }
        }
    }
    println!("preprocess, small sizes: largest difference {overall:.2e}");
}

#[test]
fn agrees_with_float64_at_full_size() {
    let mut preprocessor = Preprocessor::new(392, 224);
    for (width, height) in [(1920, 1080), (640, 360), (1279, 963)] {
        let mut frame = random_frame(width, height, PixelFormat::Nv12, u64::from(width));
        (frame.matrix, frame.range) = (ColorMatrix::Bt709, ColorRange::Limited);
        frame.siting = ChromaSiting::MPEG2;
        let difference = worst(&mut preprocessor, &frame, 61);
        println!("preprocess {width}x{height}: largest difference {difference:.2e}");
        assert!(difference <= TOLERANCE, "{difference} at {width}x{height}");
    }
}

#[test]
fn agrees_with_pillow() {
    let (width, height) = (40u32, 20u32);
    let luma =
        (0..height).flat_map(|y| (0..width).map(move |x| ((x * 37 + y * 91 + x * y * 13) % 256) as u8));
    let data: Vec<u8> = luma.chain(std::iter::repeat_n(128, 400)).collect();
    let planes = vec![
        Plane { offset: 0, stride: 40 },
        Plane { offset: 800, stride: 20 },
        Plane { offset: 1000, stride: 20 },
    ];
    let frame = frame(width, height, PixelFormat::I420, data, planes);
    let mut preprocessor = Preprocessor::new(28, 14);
    let mut out = vec![0.0; preprocessor.values()];
    preprocessor.run(&frame, &mut out).unwrap();
    for (got, pillow) in out.iter().zip(PILLOW) {
        let expected = (pillow.clamp(0.0, 255.0) / 255.0 - MEAN[0]) / STD[0];
        assert!((got - expected).abs() <= 1e-5, "{got} and {expected}");
    }
}

#[test]
fn every_plane_of_a_frame_must_lie_in_its_data() {
    let mut preprocessor = Preprocessor::new(28, 14);
    let mut out = vec![0.0; preprocessor.values()];
    let short = frame(
        4,
        4,
        PixelFormat::Nv12,
        vec![0; 23],
        vec![Plane { offset: 0, stride: 4 }, Plane { offset: 16, stride: 4 }],
    );
    assert_eq!(
        preprocessor.run(&short, &mut out).unwrap_err().to_string(),
        "plane 1 needs 2 rows of 4 bytes, but its stride is 4 and 7 bytes are there"
    );
    let two_planes = frame(4, 4, PixelFormat::I420, vec![0; 99], vec![Plane { offset: 0, stride: 4 }; 2]);
    assert_eq!(
        preprocessor.run(&two_planes, &mut out).unwrap_err().to_string(),
        "I420 needs 3 planes, the frame has 2"
    );
    let huge = frame(
        4,
        4,
        PixelFormat::I420,
        vec![0; 99],
        vec![Plane { offset: usize::MAX, stride: usize::MAX }; 3],
    );
    assert!(preprocessor.run(&huge, &mut out).is_err());
    let empty = frame(0, 4, PixelFormat::I420, vec![], vec![]);
    assert!(preprocessor.run(&empty, &mut out).is_err());
    assert!(preprocessor.run(&short, &mut out[1..]).is_err());
}

#[test]
fn a_still_picture_survives_the_way_through_i420() {
    let picture = image::RgbImage::from_fn(35, 21, |x, y| {
        // Four pixels share one colour, so that halving the chroma loses nothing but rounding.
        let (x, y) = (x / 2, y / 2);
        image::Rgb([(x * 14) as u8, (y * 22) as u8, (250 - x * 7 - y * 8) as u8])
    });
    let (data, planes) = color::i420_from_rgb(&picture);
    let mut frame = frame(35, 21, PixelFormat::I420, vec![], vec![]);
    frame.pixels = Pixels::Host { format: PixelFormat::I420, data, planes };
    let back = color::rgb_from_frame(&frame);
    for (x, y, pixel) in picture.enumerate_pixels() {
        for channel in 0..3 {
            let difference = i32::from(pixel[channel]) - i32::from(back.get_pixel(x, y)[channel]);
            assert!(difference.abs() <= 3, "{difference} at {x},{y}");
        }
    }
}

#[test]
fn padding_is_zero_and_the_rest_is_not() {
    let transform = letterbox([100, 400], [392, 224]);
    let frame = random_frame(100, 400, PixelFormat::I420, 5);
    let mut preprocessor = Preprocessor::new(392, 224);
    let mut out = vec![f32::NAN; preprocessor.values()];
    assert_eq!(preprocessor.run(&frame, &mut out).unwrap(), transform);
    for (at, value) in out.iter().enumerate() {
        let inside = (168..224).contains(&(at % 392));
        assert!(inside || *value == 0.0, "{at}: {value}");
    }
}

/// `Image.fromarray(a, mode="F").resize((28, 14), Image.BICUBIC)` of Pillow 13.0.0 for the picture of the test above.
#[rustfmt::skip]
#[allow(clippy::excessive_precision)]
const PILLOW: [f32; 392] = [
    32.9843, 98.3478, 143.3330, 125.5376, 174.1780, 81.4732, 69.2641,
    110.6852, 177.5770, 179.0261, 22.2133, 87.0551, 156.2163, 158.1091,
    126.8450, 64.2079, 116.3519, 95.6399, 175.1921, 162.4237, 33.5508,
    83.5569, 143.0729, 218.8466, 138.6097, 46.1878, 125.8683, 188.6776,
    169.9156, 154.9574, 147.3475, 146.6421, 107.1269, 169.7917, 165.9227,
    69.1759, 157.9360, 185.8438, 53.8263, 151.6607, 173.6328, 72.5230,
    136.5361, 134.1976, 125.7517, 125.2056, 84.0023, 142.2662, 145.2308,
    51.1130, 133.2600, 189.7712, 87.0113, 124.7593, 147.6665, 124.7997,
    81.8524, 131.8927, 167.9718, 123.8680, 160.7656, 83.6867, 160.7283,
    70.2302, 134.3078, 193.3424, 92.1927, 192.1126, 76.7551, 119.9590,
    70.6476, 116.0777, 152.2991, 108.1953, 145.0930, 66.8226, 159.3169,
    172.2844, 112.2231, 174.6568, 70.0531, 177.0663, 58.8769, 147.0773,
    146.4020, 98.5667, 167.6113, 133.0049, 100.0908, 172.2489, 133.0867,
    158.7696, 104.6126, 200.7238, 128.2914, 147.6262, 157.7983, 103.3820,
    125.5013, 88.8947, 157.6113, 123.0049, 90.0908, 162.2761, 122.7607,
    146.0783, 94.7670, 190.7238, 118.2914, 137.6262, 142.5787, 184.1479,
    100.7317, 86.0592, 163.5063, 174.9347, 150.1774, 149.9694, 127.5459,
    116.4207, 99.5588, 214.1561, 169.8604, 124.9963, 156.8082, 142.2543,
    102.6725, 81.0958, 159.1790, 170.6073, 145.8501, 145.6420, 123.2186,
    112.0933, 95.2315, 209.8287, 165.5330, 120.6689, 152.4174, 134.3487,
    173.7285, 185.8024, 168.5829, 144.4821, 140.9946, 168.3411, 179.5920,
    168.1061, 176.8194, 137.5240, 147.0222, 151.3958, 164.3124, 171.8746,
    176.5929, 187.3615, 170.1089, 146.0080, 142.5205, 169.8671, 181.1179,
    169.6321, 178.3453, 139.0499, 148.5209, 154.1132, 165.8823, 174.8302,
    120.4152, 159.9746, 66.6555, 90.7885, 139.0469, 75.3993, 112.0539,
    116.6108, 153.7930, 37.4986, 95.7622, 157.0497, 76.8608, 112.8822,
    130.7241, 167.2004, 73.6888, 97.8218, 146.0802, 82.3656, 119.8887,
    130.2599, 160.4468, 44.5319, 103.1215, 149.8218, 83.6976, 122.1003,
    143.6017, 135.7902, 90.2127, 138.9533, 110.4414, 123.2894, 119.5387,
    116.8200, 130.0098, 53.2319, 138.1651, 171.2744, 146.2261, 153.3175,
    161.9068, 148.4980, 103.1794, 151.9200, 123.4081, 136.8492, 125.4059,
    71.1801, 146.3376, 66.1986, 153.8231, 66.5142, 155.8757, 162.7819,
    109.7054, 108.7396, 100.6029, 82.9714, 120.2697, 144.8166, 56.0681,
    199.9930, 103.4961, 60.2041, 176.3088, 69.0754, 137.6358, 146.5713,
    129.5159, 127.0205, 119.0770, 101.3276, 139.8745, 168.4113, 65.0790,
    143.2541, 126.0835, 80.4534, 198.4387, 93.9323, 156.6696, 157.5895,
    152.9216, 109.1072, 88.9177, 142.5550, 108.5653, 83.9253, 149.4835,
    162.0463, 81.5949, 70.8874, 219.4173, 130.5818, 58.9137, 147.9440,
    140.6276, 135.1057, 116.5182, 174.9524, 122.1827, 69.5038, 177.9095,
    194.4353, 107.2351, 78.7886, 216.9743, 161.4555, 90.0444, 50.8944,
    164.1640, 116.6897, 99.2775, 164.6271, 130.8837, 207.6827, 161.7192,
    111.1456, 65.5280, 42.6246, 181.5857, 209.0419, 152.0541, 98.9905,
    98.3251, 156.0266, 95.4820, 124.3337, 146.3820, 154.6904, 198.4201,
    141.1456, 99.3382, 45.8542, 66.4469, 212.7198, 189.1919, 141.6050,
    123.9899, 105.9845, 102.3564, 138.5327, 117.6976, 88.2123, 71.2107,
    57.3838, 50.2517, 25.8195, 29.7777, 70.6404, 208.7687, 191.5739,
    169.1243, 142.6189, 122.2832, 140.1926, 158.1517, 136.7579, 119.4641,
    101.6215, 85.0114, 68.0383, 41.5998, 70.2796, 67.3319, 49.3265,
    47.3410, 57.1546, 74.8773, 80.3545, 90.6163, 101.1324, 115.4118,
    87.9887, 19.7755, 40.0098, 45.7327, 52.6785, 68.3344, 77.8190,
    91.7063, 108.8567, 119.3060, 125.5758, 137.1889, 97.8532, 34.8028,
    59.9682, 70.3287, 80.7798, 91.2009, 95.4493, 104.1308, 121.0685,
    176.0409, 210.3627, 88.0548, 100.5656, 138.4946, 174.6221, 212.2029,
    226.9168, 76.2788, 37.5915, 81.0177, 116.0020, 151.9307, 192.8262,
    170.2679, 71.3890, 115.4508, 150.4632, 189.8483, 186.1230, 151.5059,
    30.2062, 55.6651, 92.9828, 127.9952, 163.0076, 206.2656, 110.1283,
];

/// Milliseconds a frame on one core: `cargo test --release --test conformance -- --ignored --nocapture time`.
#[test]
#[ignore = "prints times; asserts nothing"]
fn time() {
    let mut preprocessor = Preprocessor::new(392, 224);
    let mut out = vec![0.0; preprocessor.values()];
    for (width, height) in [(640, 360), (1280, 720), (1920, 1080)] {
        for format in [PixelFormat::I420, PixelFormat::Nv12] {
            let frame = random_frame(width, height, format, 1);
            let best = (0..50)
                .map(|_| {
                    let start = standoff::clock::monotonic();
                    preprocessor.run(&frame, &mut out).unwrap();
                    standoff::clock::monotonic().since(start)
                })
                .min();
            println!("{width}x{height} {format:?} to 392x224: {best:?}");
        }
    }
}
