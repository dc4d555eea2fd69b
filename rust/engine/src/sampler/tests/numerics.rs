//! The generator, the exponential and the sums.

use super::super::{rng, softmax};
use super::Lcg;

#[test]
fn philox_gives_the_published_known_answers() {
    // The three philox4x32 10 lines of the Random123 library's kat_vectors.
    let all = u32::MAX;
    let known = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([all; 4], [all; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, words) in known {
        assert_eq!(rng::philox4x32_10(counter, key), words);
    }
}

#[test]
fn uniform_numbers_depend_on_every_bit_of_seed_and_position() {
    let base = rng::uniform(0, 0);
    assert_eq!(base, (0xe169_c58d_6627_e8d5_u64 >> 11) as f64 / (1_u64 << 53) as f64);
    for bit in 0..64 {
        assert_ne!(rng::uniform(1 << bit, 0), base);
        assert_ne!(rng::uniform(0, 1 << bit), base);
        assert_ne!(rng::uniform(1 << bit, 0), rng::uniform(0, 1 << bit));
    }
    let mean = (0..10_000).map(|position| rng::uniform(5, position)).sum::<f64>() / 10_000.0;
    // Ten standard deviations of the mean would be 0.029.
    assert!((mean - 0.5).abs() < 0.01, "{mean}");
}

#[test]
fn exp_is_accurate_to_two_ulp() {
    assert_eq!(softmax::exp(0.0), 1.0);
    assert_eq!(softmax::exp(-0.0), 1.0);
    let mut worst = 0.0_f64;
    for step in 0..200_000 {
        let x = -86.0 * step as f32 / 200_000.0;
        let exact = f64::from(x).exp();
        let ulp = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
        worst = worst.max((f64::from(softmax::exp(x)) - exact).abs() / ulp);
    }
    assert!(worst <= 2.0, "{worst} ulp");
}

#[test]
fn exp_of_less_than_the_bound_is_zero_and_of_more_is_positive() {
    assert!(softmax::exp(softmax::SMALLEST_EXPONENT).is_normal());
    for x in [softmax::SMALLEST_EXPONENT.next_down(), -87.5, -1e4, f32::MIN, f32::NEG_INFINITY] {
        assert_eq!(softmax::exp(x), 0.0);
    }
}

#[test]
fn exp_bits_are_pinned() {
    let bits = [-0.001_f32, -0.5, -1.0, -7.3, -42.0, -85.9].map(|x| softmax::exp(x).to_bits());
    assert_eq!(bits, [1065336447, 1058751896, 1052531378, 976295586, 556380714, 25598112]);
}

#[test]
fn sums_are_those_of_float64() {
    let values: Vec<f32> = Lcg(2).row(10_007, 1.0).iter().map(|x| x.abs()).collect();
    for len in [0, 1, 7, 8, 9, 511, 512, 513, 10_007] {
        let expected: f64 = values[..len].iter().map(|value| f64::from(*value)).sum();
        assert!((softmax::sum(&values[..len]) - expected).abs() <= 1e-11 * expected);
        let exponentials: f64 = values[..len].iter().map(|value| f64::from(value - 1.0).exp()).sum();
        assert!((softmax::sum_of_exponentials(&values[..len], 1.0) - exponentials).abs() <= 1e-7 * exponentials);
    }
}
