//! The special functions that the evidence needs, in logarithms.

/// ln B(a, b) for positive `a` and `b`.
pub(super) fn ln_beta(a: f64, b: f64) -> f64 {
    libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
}

/// ln of the regularised incomplete beta function at one half, by its continued fraction (Numerical Recipes, 3rd edition,
/// section 6.4), which converges where `a` is the greater; elsewhere the other side is taken from one.
pub(super) fn ln_beta_below_half(a: f64, b: f64) -> f64 {
    if 0.5 < (a + 1.0) / (a + b + 2.0) {
        ln_front(a, b) + continued_fraction(a, b).ln() - a.ln()
    } else {
        let above = ln_front(b, a) + continued_fraction(b, a).ln() - b.ln();
        (-above.exp()).ln_1p()
    }
}

/// ln (x^a (1-x)^b / B(a, b)) at x = 1/2.
fn ln_front(a: f64, b: f64) -> f64 {
    -(a + b) * std::f64::consts::LN_2 - ln_beta(a, b)
}

/// The continued fraction at one half, by Lentz's method.
fn continued_fraction(a: f64, b: f64) -> f64 {
    /// In the place of zero, so that nothing is divided by it.
    const TINY: f64 = 1e-300;
    /// It takes about the square root of the greater parameter.
    const MOST: u32 = 20_000;
    let x = 0.5;
    let nonzero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0));
    let mut h = d;
    for m in 1..MOST {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / nonzero(even.mul_add(d, 1.0));
        c = nonzero(1.0 + even / c);
        h *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / nonzero(odd.mul_add(d, 1.0));
        c = nonzero(1.0 + odd / c);
        h *= d * c;
        if (d * c - 1.0).abs() < f64::EPSILON {
            break;
        }
    }
    h
}

/// ln of the sum of exponentials.
pub(super) fn ln_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if most.is_infinite() {
        return most;
    }
    most + values.map(|value| (value - most).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At one half both sides of equal parameters are equal, and both sides add up to one.
    #[test]
    fn both_sides_are_one() {
        for (a, b) in [(0.5, 0.5), (7.5, 7.5), (1e5, 1e5)] {
            let below = ln_beta_below_half(a, b);
            assert!((below - 0.5_f64.ln()).abs() < 1e-9, "{a} {b}: {below}");
        }
        for (a, b) in [(3.5, 0.5), (40.5, 22.5), (0.5, 900.5), (1e4, 1.01e4)] {
            let both = ln_beta_below_half(a, b).exp() + ln_beta_below_half(b, a).exp();
            assert!((both - 1.0).abs() < 1e-9, "{a} {b}: {both}");
        }
    }
}
