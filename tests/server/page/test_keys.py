"""The page of a server with keys, in a browser."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect
from tests.server.page.conftest import PATIENCE, Slowed, write_indexed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

TIERS = "[serve.tiers.slow]\ntokens_per_day = 1000\n"


class Keyed(Slowed):
    """A server with the keys of an operator, a reader and one who leaves."""

    secrets: dict[str, str]

    async def create(self) -> None:
        """Create the keys."""
        keys, secret = self.service.keys, self.service.bed.secret
        self.secrets = {
            name: (await keys.create(name, secret=secret, admin=name != "reader", tier="slow"))[1]
            for name in ("operator", "reader", "leaver")
        }


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """Run a server with keys."""
    folder = tmp_path_factory.mktemp("keyed") / "project"
    running = Keyed(write_indexed(folder, [{"id": "a", "text": "one"}], TIERS))
    running.wait(running.create())
    yield running
    running.close()


@pytest.fixture
def asked(browser: Browser, keyed: Keyed) -> Iterator[Page]:
    """Open the page, which asks for a key."""
    context = browser.new_context(base_url=keyed.url)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto("/")
    page.get_by_role("dialog").get_by_text("An API key is needed").wait_for()
    yield page
    context.close()


def enter(page: Page, secret: str) -> None:
    """Give the page a key."""
    page.get_by_label("Key", exact=True).fill(secret)
    page.keyboard.press("Enter")


def test_key_is_asked_for_and_kept_in_memory_only(asked: Page, keyed: Keyed) -> None:
    enter(asked, "fb-wrong")
    asked.get_by_text("That key was refused.").wait_for()
    enter(asked, keyed.secrets["operator"])
    expect(asked.locator("nav")).to_contain_text("Key “operator”, admin")
    kept = asked.evaluate("[{...localStorage}, {...sessionStorage}, document.cookie, location.href]")
    assert keyed.secrets["operator"] not in json.dumps(kept)
    asked.reload()
    asked.get_by_role("dialog").get_by_text("An API key is needed").wait_for()


def test_key_without_the_admin_scope_searches_and_operates_nothing(asked: Page, keyed: Keyed) -> None:
    enter(asked, keyed.secrets["reader"])
    expect(asked.locator("nav li")).to_have_count(3)
    asked.get_by_role("searchbox", name="Query").fill("one")
    asked.keyboard.press("Enter")
    expect(asked.locator(".hit")).to_have_count(1)
    asked.get_by_text("As code").click()
    expect(asked.get_by_label("The search as code")).to_contain_text("Bearer $FLOWBED_KEY")
    asked.goto("/#/doctor")
    asked.get_by_text("This view needs a key with the admin scope.").wait_for()
    asked.goto("/#/collections/docs")
    asked.get_by_role("region", name="Versions").wait_for()
    expect(asked.get_by_role("button", name="Roll back…")).to_have_count(0)


def test_key_is_revoked_in_two_steps(asked: Page, keyed: Keyed) -> None:
    enter(asked, keyed.secrets["operator"])
    asked.get_by_role("link", name="Keys and quotas").click()
    row = asked.get_by_role("row", name=re.compile("leaver"))
    expect(row).to_contain_text("0 of 1,000")
    row.get_by_role("button", name="Revoke").click()
    asked.get_by_role("dialog").get_by_role("button", name="Leave it").click()
    row.get_by_role("button", name="Revoke").click()
    asked.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked")
    expect(asked.get_by_role("row", name=re.compile("reader"))).not_to_contain_text("revoked")


def test_key_is_created_with_a_second_step_and_its_secret_shown_once(asked: Page, keyed: Keyed) -> None:
    """The admin scope needs the second step; the new key works, and the page does not keep its secret."""
    enter(asked, keyed.secrets["operator"])
    asked.get_by_role("link", name="Keys and quotas").click()
    asked.get_by_role("button", name="New key").click()
    asked.get_by_label("What it is for").fill("<b>importer</b>")
    asked.get_by_label("Tier").select_option("slow")
    asked.get_by_label("Admin scope").check()
    asked.get_by_role("button", name="Create").click()
    dialog = asked.get_by_role("dialog")
    expect(dialog).to_contain_text("can roll back collections")
    dialog.get_by_role("button", name="Leave it").click()
    expect(dialog).to_be_hidden()
    expect(asked.get_by_role("row", name=re.compile("importer"))).to_have_count(0)
    asked.get_by_role("button", name="New key").click()
    asked.get_by_label("What it is for").fill("<b>importer</b>")
    asked.get_by_label("Tier").select_option("slow")
    asked.get_by_role("button", name="Create").click()
    secret = asked.get_by_label("Secret").inner_text()
    asked.get_by_role("button", name="I have kept it").click()
    row = asked.get_by_role("row", name=re.compile("importer"))
    expect(row).to_contain_text("<b>importer</b>")
    expect(row).to_contain_text("search and embed")
    expect(row).to_contain_text("0 of 1,000")
    assert secret not in asked.content()
    headers = {"authorization": f"Bearer {secret}"}
    assert keyed.call("GET", "/v1/session", headers=headers).json["name"] == "<b>importer</b>"
    assert keyed.call("POST", "/v1/admin/keys", {"name": "x"}, headers).status == 403
    headers = {"authorization": f"Bearer {keyed.secrets['operator']}"}
    refused = keyed.call("POST", "/v1/admin/keys", {"name": "x", "tier": "none"}, headers)
    assert refused.status == 400
    assert "there is no tier 'none'" in refused.json["error"]["message"]


def test_first_key_closes_the_server_and_the_page_goes_on_with_it(browser: Browser, tmp_path: Path) -> None:
    running = Slowed(write_indexed(tmp_path / "project", [{"id": "a", "text": "one"}]))
    context = browser.new_context(base_url=running.url)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto("/#/keys")
    page.get_by_role("button", name="New key").click()
    expect(page.get_by_role("dialog")).to_contain_text("asks everybody for a key")
    page.get_by_label("What it is for").fill("me")
    page.get_by_label("Admin scope").check()
    page.get_by_role("button", name="Create").click()
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    page.get_by_role("button", name="I have kept it").click()
    expect(page.locator("nav")).to_contain_text("Key “me”, admin")
    assert running.call("GET", "/v1/session").status == 401
    context.close()
    running.close()
