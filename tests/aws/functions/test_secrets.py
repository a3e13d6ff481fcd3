"""Keys in Secrets Manager reach functions, and what cannot be read is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from tests.aws.conftest import Deployment


def secret(deployment: Deployment, name: str, text: str) -> str:
    """Create a secret, and return its ARN."""
    client = deployment.client("secretsmanager")
    return str(client.create_secret(Name=name, SecretString=text)["ARN"])


@pytest.mark.parametrize("form", ["{}", '{{"OPENAI_API_KEY": "{}"}}'])
def test_key_in_a_secret_reaches_the_provider(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    settings = deployment.package / "flowbed.toml"
    settings.write_text(settings.read_text().replace("api_key = ", "organization = "))
    monkeypatch.setenv("OPENAI_API_KEY", secret(deployment, "openai", form.format("sk-from-a-secret")))
    deployment.call("data_fetcher")
    assert (
        deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})["status"]
        == "success"
    )
    assert not any("sk-from-a-secret" in str(line) for line in deployment.lines)


def test_secret_that_cannot_be_read_is_named(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    region = deployment.account["region_name"]
    arn = f"arn:aws:secretsmanager:{region}:123456789012:secret:nowhere-AbCdEf"
    monkeypatch.setenv("OPENAI_API_KEY", arn)
    with pytest.raises(Misconfigured, match=f"secret {arn} cannot be read: ResourceNotFoundException; give"):
        deployment.call("list_pending")
    monkeypatch.setenv("OPENAI_API_KEY", secret(deployment, "two", '{"a": "1", "b": "2"}'))
    with pytest.raises(Misconfigured, match="holds 2 values; it has to hold one key"):
        deployment.call("list_pending")
