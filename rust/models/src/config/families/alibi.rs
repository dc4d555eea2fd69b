/// ALiBi's slope of each head (arXiv:2108.12409): powers of `2^(-max_bias / n)` for `n` heads, where `n` is a power of two;
/// else those of the next smaller power of two, and then every second one of the next greater.
pub(super) fn slopes(num_heads: usize, max_bias: f64) -> Vec<f32> {
    let slope = |index: usize, count: usize| (-max_bias * index as f64 / count as f64).exp2() as f32;
    let whole = 1 << num_heads.ilog2();
    let first = (1..=whole).map(|index| slope(index, whole));
    first.chain((1..).step_by(2).map(|index| slope(index, 2 * whole))).take(num_heads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_the_paper() {
        assert_eq!(slopes(8, 8.0), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
        assert_eq!(slopes(3, 8.0), [1.0 / 16.0, 1.0 / 256.0, 0.25]);
        assert_eq!(slopes(4, 16.0), [1.0 / 16.0, 1.0 / 256.0, 1.0 / 4096.0, 1.0 / 65536.0]);
        assert_eq!(slopes(1, 8.0), [1.0 / 256.0]);
    }
}
