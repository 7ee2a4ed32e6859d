"""From YAML and command line to one checked `Config`; every error names its file, key, value and fix."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jitlab.config import published, schema
from jitlab.config.axes import read_axes
from jitlab.config.published import Published
from jitlab.config.schema import Config
from jitlab.errors import UserError, nearest

COMMAND_LINE = "command line"
ALL = "all"


@dataclass(frozen=True)
class Setting:
    """A value, the file (or `command line`) that it was read from, and what to do where it has no effect."""

    value: Any
    origin: str
    fix: str = "remove it"


NO_SETTINGS: Mapping[str, Setting] = MappingProxyType({})


@dataclass(frozen=True)
class Question:
    """What is asked: the arms, and what makes them differ.

    `at` holds by scale what a question sets there alone: under `all` for every arm, under an arm's name for that arm.
    """

    name: str
    file: str
    question: str
    source: str
    scale: str
    arms: dict[str, dict[str, Any]]
    published: dict[str, Published]
    at: dict[str, dict[str, dict[str, Any]]]
    axes: dict[str, str]

    def origin(self, arm: str) -> str:
        """Return how messages name the place of an arm's settings under `arms`."""
        return f"{self.file} (arm {arm})"

    def arms_at(self, scale: str) -> dict[str, dict[str, Any]]:
        """Return what sets each arm apart at a scale, by dotted name: what all arms share there is not in it."""
        return {arm: fields | self.at.get(scale, {}).get(arm, {}) for arm, fields in self.arms.items()}

    def settings_at(self, scale: str, arm: str) -> dict[str, Setting]:
        """Return all of an arm's settings at a scale; `at.SCALE.all` gives way to the arm, `at.SCALE.ARM` does not."""
        here = self.at.get(scale, {})
        fix = Setting.fix if scale == self.scale else f"use --scale {self.scale}"
        return {
            **{key: Setting(value, f"{self.file}: at.{scale}.{ALL}") for key, value in here.get(ALL, {}).items()},
            **{key: Setting(value, self.origin(arm), fix) for key, value in self.arms[arm].items()},
            **{key: Setting(value, f"{self.file}: at.{scale}.{arm}") for key, value in here.get(arm, {}).items()},
        }


def repository() -> Path:
    """Return the folder that holds `experiments/scales`: the working directory or one above it.

    Raises UserError outside a repository.
    """
    start = Path(os.environ.get("JITLAB_ROOT", ".")).resolve()
    for folder in (start, *start.parents):
        if (folder / "experiments" / "scales").is_dir():
            return folder
    raise UserError(
        f"{start}: expected a jitlab repository here or above it (a folder with experiments/scales/); "
        "cd into your clone, or set JITLAB_ROOT to it"
    )


def question_names(root: Path) -> list[str]:
    """Return the names of all questions, sorted."""
    return sorted(path.stem for path in (root / "experiments").glob("*.yaml"))


def scale_names(root: Path) -> list[str]:
    """Return the names of all scales, sorted."""
    return sorted(path.stem for path in (root / "experiments" / "scales").glob("*.yaml"))


def check_scale(root: Path, scale: str) -> None:
    """Raise UserError where there is no such scale."""
    if scale not in scale_names(root):
        raise UserError(f"experiments/scales/{scale}.yaml: no such scale; {nearest(scale, scale_names(root))}")


def load_question(root: Path, name: str) -> Question:
    """Read `experiments/NAME.yaml`; raises UserError where it is unknown or malformed."""
    if name not in question_names(root):
        raise UserError(f"experiments/{name}.yaml: no such experiment; {nearest(name, question_names(root))}")
    file = f"experiments/{name}.yaml"
    content = _read_yaml(root, file)
    expected = ["question", "source", "scale", "arms", "published", "at", "axes"]
    for key in content:
        if key not in expected:
            raise UserError(f"{file}: {key}: unknown key; {nearest(str(key), expected)}")
    for key in expected[:3]:
        if not isinstance(content.get(key), str):
            raise UserError(f"{file}: {key} = {content.get(key)!r}: expected a text")
    arms = _mapping(file, "arms", content.get("arms"))
    if not arms:
        raise UserError(f"{file}: arms: expected at least one arm, such as 'x: {{objective: {{prediction: x}}}}'")
    for arm in arms:
        if not isinstance(arm, str) or not arm.replace("_", "").replace(".", "").isalnum():
            raise UserError(f"{file}: arms.{arm}: an arm's name is letters, digits, '_' and '.'; quote a number")
    if ALL in arms:
        raise UserError(f"{file}: arms.{ALL}: means every arm under 'at'; give the arm another name")
    return Question(
        name=name,
        file=file,
        question=content["question"].strip(),
        source=content["source"].strip(),
        scale=content["scale"],
        arms={arm: dict(_leaves(_mapping(file, f"arms.{arm}", fields))) for arm, fields in arms.items()},
        published=_published(root, file, content.get("published"), list(arms)),
        at=_at_scales(root, file, content.get("at"), list(arms)),
        axes=read_axes(file, content.get("axes")),
    )


def published_costs(root: Path) -> tuple[str, dict[str, tuple[float, float]]]:
    """Return the table, and for each of the paper's sizes its million parameters and Gflops, as it gives them."""
    costs = _read_yaml(root, published.FILE)["network_cost"]
    names = costs["parameters_m"]
    return costs["table"], {name: (costs["parameters_m"][name], costs["gflops"][name]) for name in names}


def resolve(root: Path, question: Question, scale: str, arm: str, overrides: list[str], seed: int = 0) -> Config:
    """Merge scale, `at.SCALE.all`, arm, `at.SCALE.ARM` and `key=value` overrides (later ones win) into one Config.

    Raises UserError for an unknown scale, arm or field, a value of the wrong type or out of range, and
    settings that do not fit each other.
    """
    if arm not in question.arms:
        raise UserError(f"{question.file}: arms.{arm}: no such arm; {nearest(arm, list(question.arms))}")
    found = _scale_settings(root, scale) | question.settings_at(scale, arm)
    _refuse_other_folder(root, question, scale, found.get("data.path"), question.origin(arm))
    found |= from_words(overrides)
    if "seed" in found:
        raise UserError(f"{found['seed'].origin}: seed: is set for each run by the experiment; use --seeds N")
    default_origin = f"experiments/scales/{scale}.yaml"
    return _checked(found | {"seed": Setting(seed, default_origin)}, default_origin)


def resolve_scale(root: Path, scale: str, settings: dict[str, Setting], overrides: Sequence[str]) -> Config:
    """Merge a scale, settings that are known from elsewhere and `key=value` overrides into one Config, later ones win.

    Raises UserError as `resolve` does.
    """
    found = _scale_settings(root, scale) | settings
    file = f"experiments/scales/{scale}.yaml"
    return _checked({"seed": Setting(0, file)} | found | from_words(overrides), file)


def from_words(words: Sequence[str], example: str = "train.steps=2000") -> dict[str, Setting]:
    """Return the settings of `key=value` words of the command line by dotted name; of two words the later counts."""
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"{COMMAND_LINE}: '{word}': expected KEY=VALUE, such as {example}")
        found[key] = from_typed(key, text, COMMAND_LINE)
    return found


def from_typed(key: str, text: str, origin: str) -> Setting:
    """Return the setting of a value that was typed; it is YAML. Raises UserError naming `origin` where it is not."""
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index, call-overload]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{origin}: {key} = {text}: {_first_line(error)}") from error
    return Setting(value, origin)


def flat(config: Config) -> dict[str, Any]:
    """Return every setting's value by its dotted name."""
    return {key: _at(config, key) for key in schema.settings()}


def to_yaml(config: Config) -> str:
    """Return the resolved configuration as YAML that `from_yaml` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(dataclasses.asdict(config))))


def from_yaml(path: Path) -> Config:
    """Read a resolved configuration back; raises UserError where it no longer fits the schema."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: cannot be read: {_first_line(error)}; --fresh starts the run over") from error
    return assemble(dict(_leaves(_mapping(str(path), "", content))), str(path))


def from_text(text: str, origin: str) -> Config:
    """Read `to_yaml`'s text back; raises UserError naming `origin` where it no longer fits the schema."""
    try:
        content = OmegaConf.to_container(OmegaConf.create(text))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{origin}: cannot be read: {_first_line(error)}") from error
    return assemble(dict(_leaves(_mapping(origin, "", content))), origin)


def assemble(values: Mapping[str, Any], origin: str, overrides: Mapping[str, Setting] = NO_SETTINGS) -> Config:
    """Return the checked Config of values by dotted name, all read from `origin`, and of what overrides them."""
    found = {"seed": Setting(0, origin)} | {key: Setting(plain(value), origin) for key, value in values.items()}
    return _checked(found | dict(overrides), origin)


def differing(configs: Mapping[str, Config]) -> list[str]:
    """Return the settings in which the configurations of an experiment's arms differ (the seed aside)."""
    values = [flat(config) for config in configs.values()]
    return [key for key in schema.settings() if key != "seed" and any(v[key] != values[0][key] for v in values)]


def _scale_settings(root: Path, scale: str) -> dict[str, Setting]:
    check_scale(root, scale)
    file = f"experiments/scales/{scale}.yaml"
    return {key: Setting(value, file) for key, value in _leaves(_read_yaml(root, file))}


def _refuse_other_folder(root: Path, question: Question, scale: str, path: Setting | None, arm_origin: str) -> None:
    """Raise UserError where an arm's own folder, of the source at its question's scale, meets another source."""
    if path is None or path.origin != arm_origin:
        return
    written_for, here = (_scale_settings(root, name).get("data.source") for name in (question.scale, scale))
    if written_for and here and written_for.value != here.value:
        scales = " or ".join(dict.fromkeys([question.scale, *question.at]))
        raise UserError(
            f"{arm_origin}: data.path = {path.value}: is for data.source = {written_for.value}, and scale {scale} has "
            f"{here.value}; use --scale {scales}"
        )


def _checked(found: dict[str, Setting], default_origin: str) -> Config:
    fields = schema.settings()
    typed = OmegaConf.structured(Config)
    _make_writable(typed)
    for key, given in found.items():
        if key not in fields:
            raise UserError(f"{given.origin}: {key}: no such setting; {nearest(key, list(fields))}")
        given = _with_empty_word(fields[key], given)
        if given.value is None:
            raise UserError(f"{given.origin}: {key} = (empty): expected {_expected(fields[key])}")
        if fault := _spelling_fault(fields[key], given.value):
            raise UserError(f"{given.origin}: {key} = {given.value!r}: {fault}")
        try:
            OmegaConf.update(typed, key, given.value)
        except OmegaConfBaseException as error:
            raise UserError(f"{given.origin}: {key} = {given.value!r}: {_type_fault(fields[key], error)}") from error
    for key in schema.DECIDING:
        _check_value(found, key, typed, default_origin)
    idle = _refuse_idle(found, typed, default_origin)
    for key in fields:
        if key not in idle:
            _check_value(found, key, typed, default_origin)
    config: Config = OmegaConf.to_object(typed)  # type: ignore[assignment]
    for key, fault in schema.conflicts(config):
        origin = found[key].origin if key in found else default_origin
        raise UserError(f"{origin}: {key} = {plain(_at(config, key))}: {fault}")
    return config


def _with_empty_word(field: dataclasses.Field[Any], given: Setting) -> Setting:
    # KEY= on the command line, where nothing is a word that the setting knows.
    return dataclasses.replace(given, value="") if given.value is None and field.default == "" else given


def _check_value(found: dict[str, Setting], key: str, typed: DictConfig, default_origin: str) -> None:
    field = schema.settings()[key]
    origin = found[key].origin if key in found else default_origin
    value = OmegaConf.select(typed, key)
    if value is None:
        raise UserError(f"{origin}: {key}: is missing; add it ({field.metadata['doc']})")
    if fault := schema.range_fault(field, OmegaConf.to_object(value) if OmegaConf.is_config(value) else value):
        raise UserError(f"{origin}: {key} = {value}: {fault}")


def _refuse_idle(found: dict[str, Setting], typed: DictConfig, default_origin: str) -> set[str]:
    """Fill in the settings that have no effect and return them; raises UserError where one was given a value."""
    choices = {key: OmegaConf.select(typed, key) for key in schema.DECIDING}
    if fault := schema.misfit(choices):
        key = "model.architecture"
        origin = found[key].origin if key in found else default_origin
        raise UserError(f"{origin}: {key} = {choices[key]}: {fault}")
    idle = set()
    for key, field in schema.settings().items():
        if reason := schema.idle(key, choices):
            nothing = schema.idle_value(field)
            if key in found and OmegaConf.select(typed, key) != OmegaConf.create({"value": nothing}).value:
                raise UserError(
                    f"{found[key].origin}: {key} = {found[key].value}: has no effect with {reason}; {found[key].fix}"
                )
            OmegaConf.update(typed, key, nothing)
            idle.add(key)
    return idle


def _make_writable(config: DictConfig) -> None:
    # Frozen dataclasses make read-only nodes; what is built here is frozen again by to_object.
    OmegaConf.set_readonly(config, False)
    for key in config:
        if OmegaConf.is_config(OmegaConf.select(config, str(key), throw_on_missing=False)):
            OmegaConf.set_readonly(config[key], False)


def _type_fault(field: dataclasses.Field[Any], error: Exception) -> str:
    return f"expected {_expected(field)} ({_first_line(error)})"


def _expected(field: dataclasses.Field[Any]) -> str:
    if field.metadata["choices"]:
        return f"one of {', '.join(field.metadata['choices'])}"
    name = getattr(field.type, "__name__", str(field.type))
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}
    expected = words.get(name, "a list of numbers, such as [0.1, 1.0]") if name != "tuple" else "a list of numbers"
    return f"{expected}, {field.metadata['doc']}"


def _spelling_fault(field: dataclasses.Field[Any], value: Any) -> str | None:
    if "${" in str(value):
        return "expected a value, not a reference to another setting"
    if field.type is str and not isinstance(value, str):
        return "expected a word; put it in quotes"
    return None


def _published(root: Path, file: str, content: Any, arms: list[str]) -> dict[str, Published]:
    references = _mapping(file, "published", content or {})
    tables = _read_yaml(root, published.FILE) if references else {}
    return {
        str(scale): published.select(file, f"published.{scale}", path, tables, arms)
        for scale, path in references.items()
    }


def _at_scales(root: Path, file: str, content: Any, arms: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for scale, of_scale in _mapping(file, "at", content or {}).items():
        if scale not in scale_names(root):
            raise UserError(f"{file}: at.{scale}: no such scale; {nearest(str(scale), scale_names(root))}")
        found[scale] = {}
        for arm, fields in _mapping(file, f"at.{scale}", of_scale).items():
            if arm not in (*arms, ALL):
                raise UserError(f"{file}: at.{scale}.{arm}: no such arm; {nearest(str(arm), [*arms, ALL])}")
            found[scale][arm] = dict(_leaves(_mapping(file, f"at.{scale}.{arm}", fields)))
    return found


def _read_yaml(root: Path, file: str) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(root / file))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{file}{where}: cannot be read as YAML: {_first_line(error)}; mend the file") from error
    return _mapping(file, "", content)


def _mapping(file: str, key: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{file}: {key or 'the file'} = {content!r}: expected 'key: value' pairs")
    return content


def _leaves(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _at(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def plain(value: Any) -> Any:
    """Return a value with lists for its tuples, as YAML has it."""
    if isinstance(value, dict):
        return {key: plain(element) for key, element in value.items()}
    return [plain(element) for element in value] if isinstance(value, tuple | list) else value


def _first_line(error: Exception) -> str:
    return getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
