"""The versions that pyproject.toml allows: each dependency has a tested lower bound, and the pinned one is allowed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from tests.support.lowest_versions import lowest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "pyproject.toml").read_text("utf-8")
PROJECT = tomllib.loads(TEXT)["project"]
# These are in environments of their own, which `make clients` and `make tools` make.
ELSEWHERE = {"aws-cdk-lib", "cdk-nag", "constructs", "haystack-ai", "langchain-core", "llama-index-core"}
PINNED = dict(
    line.lower().replace("_", "-").split("==")
    for page in ("tests/aws/stack/requirements.txt", "tests/integrations/requirements.txt", "constraints.txt")
    for line in (ROOT / page).read_text("utf-8").split()
    if "==" in line
)
# What a user installs; `testing` and `dev` are for those who work on Flowbed or on a part of it.
INSTALLED = [
    Requirement(each)
    for extra, group in {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items()
    if extra not in ("testing", "dev")
    for each in group
]


@pytest.mark.parametrize("requirement", INSTALLED, ids=lambda each: each.name)
def test_dependency_has_a_lower_bound_and_allows_the_pinned_version(requirement: Requirement) -> None:
    """Without a lower bound pip is content with a release that every command fails on."""
    assert any(each.operator == ">=" for each in requirement.specifier)
    pinned = PINNED.get(requirement.name.lower())
    if requirement.name != "sentence-transformers":  # it would bring torch, and is not pinned
        assert pinned is not None
        assert requirement.specifier.contains(Version(pinned))


def test_lowest_versions_dependency_without_a_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="'numpy' has no lower bound"):
        lowest('[project]\ndependencies = ["numpy"]\n[project.optional-dependencies]\n')


def test_lowest_versions_of_the_project_names_each_dependency_once() -> None:
    found = [each.split("==")[0].split("[")[0].lower() for each in lowest(TEXT)]
    assert len(found) == len(set(found))
    assert {each.name.lower() for each in INSTALLED} - set(found) <= {"sentence-transformers", *ELSEWHERE}
