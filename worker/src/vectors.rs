//! What makes a vector usable.

/// How far from 1 the norm of a normalised vector may be: float32 rounding over the widest model is a thousand times
/// smaller.
const NORM_TOLERANCE: f32 = 1e-3;

/// Whether every component is finite and the norm is 1 (or, where vectors are not normalised, above zero).
pub(crate) fn is_usable(vector: &[f32], normalised: bool) -> bool {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    norm.is_finite() && norm > 0.0 && (!normalised || (norm - 1.0).abs() <= NORM_TOLERANCE)
}

#[cfg(test)]
mod tests {
    use super::is_usable;

    #[test]
    fn nothing_but_finite_unit_vectors_passes() {
        assert!(is_usable(&[0.6, 0.8], true));
        assert!(is_usable(&[3.0, 4.0], false));
        for bad in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 0.0], [3.0, 4.0]] {
            assert!(!is_usable(&bad, true), "{bad:?}");
        }
    }
}
