"""The problems of a changed configuration."""

from configs.base import get_config
from mova_jax.config import ConfigError, from_config_dict


def problems_of(**changes) -> list[str]:
    """Problems of the base configuration after changes (`model__dtype="float16"`)."""
    config = get_config()
    with config.unlocked(), config.ignore_type():
        for name, value in changes.items():
            config.update_from_flattened_dict({name.replace("__", "."): value})
    try:
        from_config_dict(config)
    except ConfigError as error:
        return error.problems
    return []
