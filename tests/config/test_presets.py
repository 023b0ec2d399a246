"""Presets: every one is a valid configuration, and changes what its name says."""

import importlib

import pytest

from configs.base import get_config
from mova_jax.config import difference, flatten, from_config_dict, presets, schema
from mova_jax.config.keys import weight
from mova_jax.config.presets import MODELS, OBJECTIVES

ROWS = """full global_only clip4clip frame_weighting cmn_only token_mask no_dfsm no_sfdm no_tv
soft_masks paper parts part_concepts part_masks parts_ordered part_concepts_ordered
part_masks_ordered"""
BASE = from_config_dict(get_config())


def changed(objective):
    """What an objective changes of the base, apart from its name."""
    made = from_config_dict(get_config(f"objective={objective}"))
    return {name: new for name, (_, new) in difference(made, BASE).items() if name != "objective"}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("model", MODELS)
def test_every_pair_of_presets_is_valid_and_sets_all_it_says(model, objective):
    config = from_config_dict(get_config(f"model={model},objective={objective}"))
    flat = flatten(config)
    assert config.objective == objective
    for name, value in (MODELS[model] | OBJECTIVES[objective]).items():
        assert flat[name] == value, name


def test_all_rows_are_there_and_models_set_the_same_keys():
    assert sorted(OBJECTIVES) == sorted(ROWS.split())
    assert not MODELS["tiny"] and not OBJECTIVES["parts_ordered"]  # the schema's defaults
    assert len({frozenset(table) for table in MODELS.values() if table}) == 1


def test_presets_zero_the_weights_of_other_terms(monkeypatch):
    """A term that is added to the schema needs no line in the presets."""
    field = weight(3.0, "a new term").metadata["key"]
    monkeypatch.setitem(schema.KEYS, "losses.new", field)
    made = importlib.reload(presets).OBJECTIVES
    monkeypatch.undo()
    importlib.reload(presets)
    assert made["global_only"]["losses.new"] == made["clip4clip"]["losses.new"] == 0.0
    assert "losses.new" not in made["no_tv"]


def test_rows_change_what_their_names_say():
    def beyond_full(objective):
        made, full = (from_config_dict(get_config(f"objective={o}")) for o in (objective, "full"))
        changes = difference(made, full)
        return {name: new for name, (_, new) in changes.items() if name != "objective"}

    assert beyond_full("no_dfsm") == {"losses.dfsm": 0.0}
    assert beyond_full("no_sfdm") == {"losses.sfdm": 0.0}
    assert beyond_full("no_tv") == {"losses.frame": 0.0}
    assert beyond_full("soft_masks") == {"model.masks.kind": "soft"}
    assert beyond_full("token_mask") == {"model.tmn.layout": "tokens"}
    assert beyond_full("cmn_only") == {"model.tmn.layout": "none", "losses.frame": 0.0}
    no_masks = {"model.tmn.layout": "none", "model.cmn.kind": "none"}
    no_masks |= {"losses.frame": 0.0, "losses.sparsity": 0.0}
    pools = {"losses.pool": "softmax", "eval.pool": "training"}
    tenth = {"losses.sfdm": 0.1, "losses.dfsm": 0.1}
    assert beyond_full("frame_weighting") == no_masks | pools | tenth
    alone = {"losses.sfdm": 0.0, "losses.dfsm": 0.0, "model.modular_scale": 0.0}
    assert beyond_full("global_only") == no_masks | alone
    assert changed("parts") == {"losses.order": 0.0}
    concepts = {"model.cmn.kind": "pool", "losses.sparsity": 0.02}
    assert changed("part_concepts_ordered") == concepts
    assert changed("part_concepts") == concepts | {"losses.order": 0.0}
    assert [factor for _, factor in changed("paper")["optim.groups"]] == [1e-3, 1.0]
