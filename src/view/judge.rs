//! What is wrong with one picture, if anything.

use super::measure::{Measured, NEAR_BLACK};
use super::normal::Difference;
use crate::types::Reason;

/// Dark: 95 % of the picture is below this brightness (40 of the codes 16 to 235).
const DARK: f32 = 24.0 / 219.0;
/// Washed out, whatever the view normally is: 95 % of the picture is above this brightness (code 200).
const WHITE: f32 = 184.0 / 219.0;
/// Nothing is seen, whatever the view normally is: dark and bright are not further apart than this (12 codes),
/// nor than this share of the brightness, so that half the light does not make it so.
const BLANK: (f32, f32) = (12.0 / 219.0, 0.12);
/// A view that has lost its detail in this share of the tiles that had some is no evidence. Above what passes
/// or parks in front (0.2 at most in the clips that we have), below a lens that is covered by 85 %.
const LOST: f32 = 0.65;
/// Where detail is in few places, what stays visible can hold more than a third of it. Then half of the detail is
/// enough, if this share of everything with a texture is bare too: more than what parks in front takes.
const MOSTLY_BARE: (f32, f32) = (0.5, 0.6);
/// Light and dark are still where they were above this correlation.
const ALIKE: f32 = 0.75;
/// The same, where detail and spread say the rest: a veil.
const SOMEWHAT_ALIKE: f32 = 0.5;
/// A veil takes half of the distance between dark and bright; a blur leaves more.
const VEILED: f32 = 0.53;
/// A blur leaves at least so much of the contrast within tiles.
const BLUR_LEAVES: f32 = 0.35;

/// What this picture shows to be wrong, alone and beside what the view normally is.
pub(super) fn fault(measured: &Measured, difference: Option<&Difference>) -> Option<Reason> {
    if measured.p95 < DARK {
        return Some(Reason::Dark);
    }
    if measured.p5 > WHITE {
        return Some(Reason::WashedOut);
    }
    if measured.spread() < BLANK.0.min(BLANK.1 * (measured.p50 + NEAR_BLACK)) {
        return Some(Reason::Covered);
    }
    let (lost, bare) = MOSTLY_BARE;
    difference
        .filter(|left| left.lost >= LOST || (left.lost >= lost && left.bare >= bare))
        .map(|left| kind(measured, left))
}

/// By what is left, what took the rest. The word helps a person to look for the cause; nothing depends on it.
fn kind(measured: &Measured, left: &Difference) -> Reason {
    let saturated = measured.p50 > 0.97;
    if saturated || (left.likeness > SOMEWHAT_ALIKE && left.spread < VEILED) {
        Reason::WashedOut
    } else if left.likeness > ALIKE || left.contrast > BLUR_LEAVES {
        Reason::Blurred
    } else {
        Reason::Covered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(p5: f32, p50: f32, p95: f32) -> Measured {
        Measured { tiles: vec![], p5, p50, p95, alive: None }
    }

    #[test]
    fn bounds_that_need_no_normal() {
        assert_eq!(fault(&measured(0.0, 0.02, 0.05), None), Some(Reason::Dark));
        assert_eq!(fault(&measured(0.9, 0.95, 1.0), None), Some(Reason::WashedOut));
        assert_eq!(fault(&measured(0.4, 0.42, 0.44), None), Some(Reason::Covered));
        assert_eq!(fault(&measured(0.1, 0.4, 0.9), None), None);
    }

    #[test]
    fn the_word_follows_what_is_left() {
        let picture = measured(0.2, 0.5, 0.8);
        let left = Difference { lost: 0.9, bare: 0.5, likeness: 0.95, contrast: 0.5, spread: 0.8 };
        assert_eq!(fault(&picture, Some(&left)), Some(Reason::Blurred));
        let veil = Difference { spread: 0.3, contrast: 0.2, ..left };
        assert_eq!(fault(&picture, Some(&veil)), Some(Reason::WashedOut));
        let hand = Difference { likeness: 0.1, contrast: 0.1, ..left };
        assert_eq!(fault(&picture, Some(&hand)), Some(Reason::Covered));
        assert_eq!(fault(&picture, Some(&Difference { lost: 0.5, ..hand })), None);
        let all_but_a_corner = Difference { lost: 0.55, bare: 0.85, ..hand };
        assert_eq!(fault(&picture, Some(&all_but_a_corner)), Some(Reason::Covered));
        assert_eq!(fault(&picture, Some(&Difference { lost: 0.4, ..all_but_a_corner })), None);
    }
}
