"""Montage plans: counts, times, which items are named and where they may appear."""

import numpy as np
import pytest

from mova_jax.data.annotations import InputError
from mova_jax.data.montage.plan import PlanSettings, draw_plans


def test_a_named_item_of_a_test_split_is_in_one_video_only():
    settings = PlanSettings(items=(6, 9), named=(2, 3), seconds=(2.0, 4.0), every=0.5)
    plans = draw_plans(3, "test", 40, 8, settings)
    assert len({len(plan) for plan in plans}) > 1
    shown = [{one.item for one in plan} for plan in plans]
    for index, plan in enumerate(plans):
        assert 6 <= len(plan) <= 9 and len(shown[index]) == len(plan)
        assert all(4 <= one.frames <= 8 for one in plan)
        named = {one.item for one in plan if one.named}
        assert 2 <= len(named) <= 3
        others = set().union(*shown[:index], *shown[index + 1 :])
        assert not named & others


def test_train_draws_anew_and_the_seed_alone_decides():
    settings = PlanSettings(items=(5, 5), named=(5, 5))
    plans = draw_plans(0, "train", 6, 4, settings)  # 20 named of 6 items
    assert all(
        sorted({one.item for one in plan}) == sorted(one.item for one in plan) for plan in plans
    )
    assert plans == draw_plans(0, "train", 6, 4, settings) != draw_plans(1, "train", 6, 4, settings)
    assert plans[:2] == draw_plans(0, "train", 6, 2, settings)  # of any number of videos


def test_named_items_come_at_any_time():
    plans = draw_plans(0, "train", 50, 300, PlanSettings(items=(10, 10), named=(2, 2)))
    at = np.bincount([i for plan in plans for i, one in enumerate(plan) if one.named], minlength=10)
    assert at.sum() == 600 and at.min() > 35 and at.max() < 90  # 60 expected


def test_a_duration_is_met():
    settings = PlanSettings(duration=(60.0, 90.0), seconds=(5.0, 15.0), every=2.5)
    for plan in draw_plans(0, "train", 50, 30, settings):
        assert 60 <= 2.5 * sum(one.frames for one in plan) <= 90
        assert all(2 <= one.frames <= 7 for one in plan)


def test_too_few_items_are_an_error_that_says_how_many_are_needed():
    settings = PlanSettings(items=(10, 10), named=(4, 4))
    with pytest.raises(InputError, match=r"test has 45 .* which need 46 \(outside of train"):
        draw_plans(0, "test", 45, 10, settings)
    assert len(draw_plans(0, "test", 46, 10, settings)) == 10
    with pytest.raises(InputError, match=r"train has 9 .* need 10:"):
        draw_plans(0, "train", 9, 2, settings)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"items": (0, 3)}, "items must be 1"),
        ({"named": (3, 2)}, "named must be"),
        ({"seconds": (1.2, 1.8)}, "seconds must be above 0, with a multiple of every = 1.0"),
        ({"every": 0.0}, "seconds must be"),
        ({"duration": (3.0, 60.0)}, "duration must be"),
    ],
)
def test_settings_are_checked(wrong, named):
    with pytest.raises(InputError, match=named):
        PlanSettings(**wrong).check()
