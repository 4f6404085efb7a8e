"""Borrowed variances: Smyth's formula, who borrows and lends, and sweeps of few seeds against a known truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmarks import few_seeds
from sweep.results.borrow import MAX_BORROWED, SeedVariance, Spread, moderate
from sweep.results.planning import MAX_SEEDS, planned, smallest_gap, what_decides
from sweep.results.stats import Comparison


def test_few_equal_seeds_have_the_pooled_variance() -> None:
    found = moderate(np.array([1.0, 2.0, 4.0, 3.0]), [2, 2, 2, 2])
    np.testing.assert_allclose(found.moderated, 2.5)
    np.testing.assert_allclose(found.df, 4)
    assert found.borrows.tolist() == found.lends.tolist() == [1, 1, 1, 1]


def test_a_single_other_one_counts_for_three_quarters() -> None:
    found = moderate(np.array([1.0, 2.0]), [3, 3])
    np.testing.assert_allclose(found.df, 2 + 0.75 * 2)
    np.testing.assert_allclose(found.moderated, [(1.5 * 2 + 2 * 1) / 3.5, (1.5 * 1 + 2 * 2) / 3.5])


def test_no_more_than_six_degrees_of_freedom_are_borrowed() -> None:
    own = np.array([1.0, 2.0, 4.0, 3.0, 2.0])
    found = moderate(own, [4] * 5)
    others = (own.sum() - own) / 4
    np.testing.assert_allclose(found.moderated, (MAX_BORROWED * others + 3 * own) / (MAX_BORROWED + 3))
    np.testing.assert_allclose(found.df, MAX_BORROWED + 3)


def test_other_numbers_of_seeds_weigh_by_their_degrees_of_freedom() -> None:
    found = moderate(np.array([1.0, 4.0, 7.0]), [3, 2, 4])
    assert found.moderated[0] == pytest.approx((4 * (1 * 4 + 3 * 7) / 4 + 2 * 1) / 6)
    assert found.df.tolist() == [6, 6, 6]


def test_much_larger_luck_is_kept_and_not_lent() -> None:
    found = moderate(np.array([1.0, 2.0, 1.5, 2500.0]), [4, 4, 4, 4])
    assert found.borrows.tolist() == found.lends.tolist() == [1, 1, 1, 0]
    assert (found.moderated[3], found.df[3]) == (2500.0, 3)
    np.testing.assert_allclose(found.moderated[:3], moderate(np.array([1.0, 2.0, 1.5]), [4, 4, 4]).moderated)
    # p = 0.009: it borrows a fifth, and lends.
    between = moderate(np.array([1.0, 2.0, 1.5, 10.8]), [4, 4, 4, 4])
    assert 0.15 < between.borrows[3] < 0.25 and between.lends.all() and between.moderated[0] > 2.0


def test_one_image_more_changes_no_interval_by_much() -> None:
    """A threshold between borrowing and not would change the degrees of freedom from 3 to 9 at one point."""
    loud = np.geomspace(1.0, 2500.0, 20_000)
    sweeps = np.stack([np.full_like(loud, 1.0), np.full_like(loud, 2.0), np.full_like(loud, 1.5), loud], axis=1)
    found = moderate(sweeps, [4, 4, 4, 4])
    for moderated, df in ((found.moderated[:, i], found.df[:, i]) for i in (0, 3)):
        half = scipy_stats.t.isf(0.025, df) * np.sqrt(moderated)
        assert np.abs(np.diff(np.log(half))).max() < 0.01
        assert df.min() >= 3


def test_others_whose_seeds_happened_to_agree_accuse_nobody() -> None:
    assert moderate(np.array([4.0, 1e-4]), [2, 2]).borrows.tolist() == [0, 1]
    known = moderate(np.array([4.0, 1e-4]), [2, 2], least=[1.0, 1.0])
    assert known.borrows.tolist() == [1, 1] and known.moderated[0] == pytest.approx(4.0 / 1.75, abs=1e-4)


def test_one_seed_and_a_constant_answer_lend_nothing() -> None:
    found = moderate(np.array([1.0, np.nan, 0.0]), [2, 1, 2])
    assert found.lends.tolist() == [1, 0, 0]
    assert (found.moderated[0], found.df[0]) == (1.0, 1)
    assert np.isnan(found.own[1]) and (found.moderated[1], found.df[1]) == (1.0, 0.75)
    assert np.isnan(moderate(np.array([np.nan, np.nan]), [1, 1]).moderated).all()


def test_many_sweeps_at_once_are_each_of_them() -> None:
    own = np.random.default_rng(0).chisquare(1, (50, 4))
    together = moderate(own, [2, 3, 2, 5])
    for i in range(50):
        alone = moderate(own[i], [2, 3, 2, 5])
        for field in dataclasses.fields(SeedVariance):
            np.testing.assert_allclose(getattr(together, field.name)[i], getattr(alone, field.name))


def spread(moderated: float, own: float, df: float, private: float = 0.0) -> Spread:
    return Spread(
        np.array(0.5), np.array([private]), np.array([own]), np.array([moderated]), np.array([df]), np.array([2])
    )


def test_the_half_width_knows_images_for_sure_and_seeds_by_their_degrees_of_freedom() -> None:
    z2, t2 = scipy_stats.norm.isf(0.025) ** 2, scipy_stats.t.isf(0.025, 4) ** 2
    total = 0.5 + 2.0 / 2
    expected = np.sqrt(z2 * total + (1.0 / total) ** 0.125 * (t2 - z2) * 1.0)
    assert spread(2.0, 1.0, 4).half_width(0.05) == pytest.approx(expected)
    with_private = np.sqrt(z2 * total + ((1.0 - 0.6 / 4) / total) ** 0.125 * (t2 - z2) * 1.0)
    assert spread(2.0, 1.0, 4, private=0.6).half_width(0.05) == pytest.approx(with_private)
    of_score = np.sqrt(z2 * total + (1.0 / total) ** 0.75 * (t2 - z2) * 1.0)
    assert spread(2.0, 1.0, 4).of_score().half_width(0.05) == pytest.approx(of_score)
    # Of one seed, which shows nothing of luck, images are all there is.
    assert spread(np.nan, np.nan, 0, private=0.0).half_width(0.05) == pytest.approx(np.sqrt(z2 * 0.5))


def test_no_half_width_is_below_what_its_own_seeds_or_their_private_errors_make_it() -> None:
    z = scipy_stats.norm.isf(0.025)
    assert spread(2.0, 9.0, 4).half_width(0.05) == pytest.approx(z * np.sqrt(0.5 + 9.0 / 2))
    assert spread(0.1, 0.1, 4, private=3.0).half_width(0.05) == pytest.approx(z * np.sqrt(0.5 + 3.0 / 2))


def test_where_seeds_are_all_there_is_the_half_width_is_students() -> None:
    alone = dataclasses.replace(spread(2.0, 2.0, 4), images=np.array(0.0))
    for alpha in (0.05, 0.001):
        expected = scipy_stats.t.isf(alpha / 2, 4) * np.sqrt(2.0 / 2)
        assert alone.half_width(alpha) == pytest.approx(expected) == alone.of_score().half_width(alpha)


def test_the_p_value_is_the_level_whose_interval_just_reaches() -> None:
    one = spread(2.0, 1.0, 4)
    for alpha in (0.9, 0.05, 1e-6):
        assert one.p_value(one.half_width(alpha)) == pytest.approx(alpha, rel=1e-6)
    assert (one.p_value(0.0), one.p_value(1e9)) == (1.0, 0.0)
    np.testing.assert_allclose(one.p_value(np.array([1.0, 2.0])), [one.p_value(1.0), one.p_value(2.0)])


def comparison(difference: float, num_seeds: int = 2) -> Comparison:
    two = np.array([6.4e-5, 6.4e-5])
    found = Spread(np.array(2.5e-5), np.full(2, 9e-6), two, two, np.full(2, 4.0), np.full(2, num_seeds))
    return Comparison(
        "a", "b", difference, -1, 1, 0.5, 0.5, 0.5, 0.01, 1.0, 0.005, 0.008, (num_seeds,) * 2, 2000, found
    )


def test_more_seeds_and_more_images_see_smaller_gaps() -> None:
    pair = comparison(0.02)
    gaps = [smallest_gap(planned(pair.spread, num_seeds=n), 6) for n in (2, 3, 5, 10)]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] == pytest.approx(smallest_gap(pair.spread, 6))
    assert smallest_gap(planned(pair.spread, images_factor=5), 6) < gaps[0]
    assert smallest_gap(pair.spread, 1) < gaps[0]


def test_what_decides_is_the_least_that_does() -> None:
    pair = comparison(0.03)
    found = what_decides(pair, 6)
    assert found.seeds is not None and 2 < found.seeds < MAX_SEEDS
    for n, shows in ((found.seeds, True), (found.seeds - 1, False)):
        assert (smallest_gap(planned(pair.spread, num_seeds=n), 6) <= 0.03) is shows
    assert found.images is None, "luck alone hides this gap from two seeds"
    wide = what_decides(comparison(0.047), 6)
    assert wide.images is not None and wide.images > 2000
    for factor, shows in ((wide.images / 2000, True), (wide.images / 2000 * 0.98, False)):
        assert (smallest_gap(planned(pair.spread, images_factor=factor), 6) <= 0.047) is shows
    assert what_decides(comparison(1e-4), 6).seeds is None


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case, bar in few_seeds.power() if bar])
def test_two_and_three_seeds_tell_backbones_apart(case: few_seeds.Case) -> None:
    """The bars are 0.30, 0.70 and 0.65; 1,000 sweeps know a power to 0.01."""
    bar = next(bar for other, bar in few_seeds.power() if other == case)
    assert bar is not None
    found = few_seeds.simulate(case, sweeps=1000, seed=1)
    assert found.power >= bar - 0.02
    assert found.different <= 0.05 and 0.93 <= found.scores <= 0.98


def test_copies_of_unequal_luck_are_called_different_in_at_most_one_sweep_of_twenty() -> None:
    cases = [case for case in few_seeds.copies() if "threefold" in case.name and case.seeds in ((2,) * 4, (3,) * 4)]
    assert len(cases) == 6
    for case in cases:
        found = few_seeds.simulate(case, sweeps=1000, seed=1)
        assert found.different <= 0.05 + 0.007, case.name
        assert 0.93 <= found.differences <= 0.97, case.name
