"""Configs into objects."""

import pytest
from omegaconf import OmegaConf
from torch import nn

from ldm.util import (
    UserError,
    count_params,
    default,
    exists,
    get_obj_from_str,
    instantiate_from_config,
    shown,
)


class Base:
    def __init__(self, width, depth=1):
        self.size = (width, depth)


class Derived(Base):
    def __init__(self, name, **kwargs):
        super().__init__(**kwargs)
        self.name = name


HERE = __name__


def test_target_and_params_make_an_object():
    linear = instantiate_from_config(
        {"target": "torch.nn.Linear", "params": {"in_features": 2, "out_features": 3}}
    )
    assert isinstance(linear, nn.Linear) and linear.weight.shape == (3, 2)
    assert isinstance(instantiate_from_config({"target": "torch.nn.Identity"}), nn.Identity)
    assert isinstance(
        instantiate_from_config({"target": "torch.nn.Identity", "params": {"any": 1}}), nn.Identity
    )
    derived = instantiate_from_config(
        {"target": f"{HERE}.Derived", "params": {"name": "n", "width": 4}}, depth=2
    )
    assert (derived.name, derived.size) == ("n", (4, 2))


def test_yaml_values_arrive_as_plain_python():
    config = OmegaConf.create(
        {"w": 7, "o": {"target": f"{HERE}.Base", "params": {"width": ["${w}", {"a": 1}]}}}
    )
    (width, _) = instantiate_from_config(config.o).size
    assert width == [7, {"a": 1}] and type(width) is list and type(width[1]) is dict


@pytest.mark.parametrize(
    "target, params, message",
    [
        (None, {}, "needs a 'target'"),
        ("Linear", {}, "'Linear' is not of the form"),
        ("torch.nn.Lineal", {}, "module 'torch.nn' has no 'Lineal'"),
        ("ldm.nowhere.Thing", {}, "no module 'ldm.nowhere'"),
        ("nowhere_at_all.Thing", {}, "no module 'nowhere_at_all'"),
        (f"{HERE}.Base", {"width": 1, "height": 2}, "Base has no parameter 'height'; it takes width, depth"),
        (
            f"{HERE}.Derived",
            {"name": "", "hight": 2},
            "Derived has no parameter 'hight'; it takes name, width",
        ),
        (f"{HERE}.Derived", {"width": 1}, "Derived needs the parameter 'name'"),
        (3, {}, "target 3 is not of the form"),
        (f"{HERE}.Base", [1], r"Base: params must be a mapping of names to values, not \[1\]"),
        (f"{HERE}.Base", None, "Base needs the parameter 'width'"),
        ("os.system", {"command": "true"}, "target 'os.system' is no class"),
        ("ldm.checkpoint.INERT_GLOBALS", {}, "'ldm.checkpoint.INERT_GLOBALS' is no class"),
    ],
)
def test_mistakes_in_a_config_are_named(target, params, message):
    with pytest.raises(UserError, match=message) as error:
        instantiate_from_config({"target": target, "params": params} if target else {"params": params})
    assert "\n" not in str(error.value)


def test_an_error_inside_an_imported_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import a_package_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_missing"):
        get_obj_from_str("broken_module.Thing")


def test_small_helpers(capsys):
    assert exists(0) and not exists(None)
    assert default(0, 1) == 0 and default(None, 1) == 1 and default(None, lambda: 2) == 2
    assert count_params(nn.Linear(2, 3), verbose=True) == 9
    assert "Linear" in capsys.readouterr().out


def test_messages_shorten_what_they_quote():
    assert shown("ab") == "'ab'" and shown([1, {"a": None}]) == "[1, {'a': None}]"
    assert shown("x" * 5000) == "'" + "x" * 99 + "... (5,002 characters)"
    assert shown(10**5000) == "a int too long to show" and len(shown(10**4000)) < 130
    assert str(UserError(f"a.yaml: {'y' * 5000} is no number")) == (
        f"a.yaml: {'y' * 100}... (5,000 characters) is no number"
    )
    place = "/" + "/".join(["folder"] * 40) + "/a.yaml"
    assert str(UserError(f"{place} is not there")) == f"{place} is not there"
